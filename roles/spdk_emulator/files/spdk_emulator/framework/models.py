"""What belongs to the application as a whole: logs, buffers, socket options, notifications, the scheduler."""

from __future__ import annotations

import asyncio
import errno
import fnmatch
import logging
import os
from collections import deque
from typing import TYPE_CHECKING, Any

from . import cores
from .keyring import Keyring
from .threads import APP_THREAD, Poller, Thread, Threads
from .trace import Traces

if TYPE_CHECKING:
    from ..app import App
    from ..bdev.models import Bdev

NOTICE = 25
_FORMAT = "%(name)s: %(levelname)s: %(message)s"
LEVELS = {
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "NOTICE": NOTICE,
    "INFO": logging.INFO,
    "DEBUG": logging.DEBUG,
}
"""SPDK's names of log levels and what they are in Python."""

_FLAG_NAMES = """
    accel accel_ae4dma accel_ioat aio app_config app_rpc bdev bdev_concat bdev_ftl bdev_malloc bdev_null
    bdev_nvme bdev_raid bdev_raid0 bdev_raid1 bdev_raid_sb blob blob_esnap blob_rw fsdev fsdev_aio ftl_core
    ftl_init fuse_dispatcher gpt_parse ioat iscsi json_util keyring log_rpc lvol lvol_rpc nbd notify_rpc nvme
    nvme_auth nvme_vfio nvmf nvmf_auth nvmf_tcp nvmf_vfio opal reactor rpc rpc_client scsi sock sock_posix
    spdk_aio_mgr_io thread trace vbdev_crypto vbdev_delay vbdev_gpt vbdev_lvol vbdev_opal vbdev_passthru
    vbdev_split vbdev_zone_block vfio_pci vfio_user vfio_user_db vfu vfu_virtio vfu_virtio_blk vfu_virtio_fs
    vfu_virtio_fs_data vfu_virtio_io vfu_virtio_scsi vfu_virtio_scsi_data vhost vhost_blk vhost_blk_data
    vhost_ring vhost_rpc vhost_scsi vhost_scsi_data vhost_scsi_queue virtio virtio_blk virtio_dev virtio_pci
    virtio_user virtio_vfio_user vmd
"""
LOG_FLAGS = _FLAG_NAMES.split()
"""All of SPDK's, whether or not there is anything here for them to switch."""
_LOGGERS = {
    "accel": "accel",
    "aio": "bdev.aio",
    "bdev": "bdev",
    "bdev_malloc": "bdev.malloc",
    "bdev_null": "bdev.null",
    "bdev_nvme": "bdev_nvme",
    "nvme": "bdev_nvme",
    "nvmf": "nvmf",
    "nvmf_tcp": "nvme_tcp",
    "rpc": "jsonrpc",
    "vbdev_crypto": "bdev_crypto",
    "vbdev_delay": "vbdev",
    "vbdev_passthru": "vbdev",
    "vhost": "vhost",
    "vhost_blk": "vhost",
    "vhost_ring": "vhost_user",
}
"""What a flag switches to DEBUG here."""

SUBSYSTEMS: dict[str, tuple[str, ...]] = {
    "scheduler": (),
    "sock": (),
    "iobuf": (),
    "keyring": (),
    "accel": ("iobuf",),
    "bdev": ("accel", "keyring", "sock", "iobuf"),
    "nvmf": ("bdev", "keyring", "sock", "accel", "iobuf"),
    "nbd": ("bdev",),
    "vhost_blk": ("bdev",),
}
"""Those of SPDK's subsystems that are here, in the order of their start, and what each depends on."""


def matching_flags(name: str) -> list[str]:
    """Those that a name, a pattern or ``all`` stands for. Raises ``KeyError`` for none."""
    found = [flag for flag in LOG_FLAGS if name == "all" or fnmatch.fnmatchcase(flag, name)]
    if not found:
        raise KeyError(name)
    return found


class Logs:
    """Levels and flags. SPDK's "level" is what goes to syslog, its "print level" what goes to stderr."""

    def __init__(self, quiet: bool) -> None:
        self.level = "NOTICE"
        self.flags = dict.fromkeys(LOG_FLAGS, False)
        self.enable_timestamps(True)
        self.set_print_level("WARNING" if quiet else "INFO")

    def set_print_level(self, level: str) -> None:
        self.print_level = level
        logging.getLogger().setLevel(LEVELS[level])

    def enable_timestamps(self, enabled: bool) -> None:
        for handler in logging.getLogger().handlers:
            handler.setFormatter(logging.Formatter(("[%(asctime)s] " if enabled else "") + _FORMAT))

    def set_flag(self, name: str, enabled: bool) -> None:
        """One flag, a pattern like ``nvm*``, or ``all``. Raises ``KeyError`` where there is none."""
        for flag in matching_flags(name):
            self.flags[flag] = enabled
            if flag in _LOGGERS:
                logger = logging.getLogger(f"spdk_emulator.{_LOGGERS[flag]}")
                logger.setLevel(logging.DEBUG if enabled else logging.NOTSET)


class Buffers:
    """The options of SPDK's pools of I/O buffers. Nothing is allocated for them, for Python has its own memory, but
    no more sessions of vhost start than they would serve."""

    _LEAST = {"small_pool_count": 64, "large_pool_count": 8, "small_bufsize": 4096, "large_bufsize": 8192}

    def __init__(self) -> None:
        self.options: dict[str, Any] = {
            "small_pool_count": 8192,
            "large_pool_count": 1024,
            "small_bufsize": 8192,
            "large_bufsize": 135168,
            "enable_numa": False,
        }

    def set(self, wanted: dict[str, Any]) -> None:
        """Raises ``OSError`` (EINVAL) for less than SPDK's least."""
        for name, least in self._LEAST.items():
            if wanted.get(name, least) < least:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self.options |= wanted


class Sockets:
    """The options of SPDK's socket implementations."""

    def __init__(self) -> None:
        self.default = "posix"
        self.options = {name: self._defaults(size) for name, size in (("ssl", 4096), ("posix", 2 * 1024 * 1024))}

    @staticmethod
    def _defaults(size: int) -> dict[str, Any]:
        return {
            "recv_buf_size": size,
            "send_buf_size": size,
            "enable_recv_pipe": True,
            "enable_quickack": False,
            "enable_placement_id": 0,
            "enable_zerocopy_send_server": True,
            "enable_zerocopy_send_client": False,
            "zerocopy_threshold": 0,
            "tls_version": 0,
            "enable_ktls": False,
        }

    def config(self) -> list[dict[str, Any]]:
        return [
            {"method": "sock_set_default_impl", "params": {"impl_name": self.default}},
            *(
                {"method": "sock_impl_set_options", "params": {"impl_name": name, **options}}
                for name, options in self.options.items()
            ),
        ]


class Notifications:
    """The last events, numbered from 0."""

    TYPES = ("fsdev_register", "fsdev_unregister", "bdev_register", "bdev_unregister", "bdev_resize")
    """What SPDK has names for. There are no fsdevs here, so their events never come."""
    _MOST = 1024

    def __init__(self) -> None:
        self._events: deque[dict[str, Any]] = deque(maxlen=self._MOST)
        self._next = 0

    def send(self, kind: str, bdev: Bdev) -> None:
        self._events.append({"type": kind, "ctx": bdev.name, "id": self._next})
        self._next += 1

    def since(self, number: int, most: int) -> list[dict[str, Any]]:
        return [event for event in self._events if event["id"] >= number][:most]


_SHORT_PERIOD = 1000
"""Microseconds that pass before anybody can ask for a period."""


class Scheduler:
    """SPDK's ``static`` scheduler, the only one here; there is none before the framework starts."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.period = 0
        self.isolated: frozenset[int] = frozenset()
        """Cores that get no other threads."""
        self.core: int | None = None
        """The one that schedules; None: the main core."""
        self._timer: asyncio.TimerHandle | None = None

    def set_period(self, microseconds: int) -> None:
        """After one period, ``static`` has scheduled, which is nothing, and wants no more of it."""
        if self._timer is not None:
            self._timer.cancel()
        passes_at_once = self.name and microseconds < _SHORT_PERIOD
        self.period = 0 if passes_at_once else microseconds
        if self.name and self.period:
            self._timer = asyncio.get_running_loop().call_later(microseconds / 1_000_000, self._scheduled)

    def _scheduled(self) -> None:
        self.period = 0

    def set_static(self) -> None:
        if self.name is None:
            self.name = "static"
            self.period = 0


class Framework:
    """State of the methods that belong to no other family."""

    def __init__(self, app: App) -> None:
        self.spent_before = cores.times()
        """What the machine had done on each core when this process started."""
        self.logs = Logs(app.options.quiet)
        for flag in app.options.log_flags:
            self.logs.set_flag(flag, True)
        self.buffers = Buffers()
        self.sockets = Sockets()
        self.notifications = Notifications()
        self.scheduler = Scheduler()
        self.threads = Threads(app.options.cpumask, app.options.main_core, app.options.interrupt_mode)
        self.traces = Traces(app.options.tpoints, app.options.shm_id, app.options.trace_entries)
        if app.options.rpc_socket:
            self.threads.add_pollers(_rpc_pollers)
        self.keyring = Keyring()

    async def start(self) -> None:
        self.scheduler.set_static()

    async def shutdown(self) -> None:
        self.traces.close()


def _rpc_pollers(thread: Thread) -> list[Poller]:
    return [Poller(None, "rpc_subsystem_poll_servers", 4000)] if thread.number == APP_THREAD else []


def setup(app: App) -> Framework:
    """The family's state; see :class:`~spdk_emulator.app.App`."""
    framework = Framework(app)
    app.add_config("scheduler", lambda: [{"method": "framework_set_scheduler", "params": {"name": "static"}}])
    app.add_config("sock", framework.sockets.config)
    app.add_config("iobuf", lambda: [{"method": "iobuf_set_options", "params": dict(framework.buffers.options)}])
    app.add_config("keyring", framework.keyring.config)
    return framework
