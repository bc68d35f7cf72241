"""vhost controllers: each shows one bdev as a virtio-blk disk on a unix socket.

A controller outlives its bdev: when the bdev goes, requests fail and the device has no size, as with SPDK.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
import stat
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from ..bdev.models import Bdev, BdevError, BdevEvent, BdevRegistry, Descriptor, Op, Status
from ..framework import cores
from ..framework.threads import APP_THREAD, Poller, Thread, running
from ..vhost_user import blk, virtqueue
from ..vhost_user.blk import BlkRequest, Feature, Type
from .coalescing import Coalescing
from .queue import Queue
from .session import MAX_QUEUES, Session

if TYPE_CHECKING:
    from ..app import App

log = logging.getLogger(__name__)

TRANSPORT = "vhost_user_blk"
MAX_SEGMENTS = 126
"""Data buffers of one request: SPDK has 129 for header, data and status, and keeps one in reserve."""
MAX_RANGE_SECTORS = 32768
"""The most that one DISCARD or WRITE_ZEROES may cover: 16 MiB."""
ACCEL_CACHES = {"small": 128, "large": 16}
"""Buffers that the thread of a started session keeps for accel; for bdevs it keeps what ``bdev_set_options`` says."""
MIN_IOPS_THRESHOLD = 100
"""Less than one request in the 10 ms after which SPDK looks at the rate cannot be told from none."""


class VhostError(OSError):
    """What cannot be done; ``number`` is the errno that SPDK returns for it."""

    def __init__(self, number: int) -> None:
        super().__init__(number, os.strerror(number))
        self.number = number


class BlkController:
    """A listening socket, the sessions on it, and the bdev behind them."""

    thread: Thread
    """Which serves its sessions; it is there while the controller is."""

    def __init__(self, vhost: Vhost, name: str, path: str, readonly: bool) -> None:
        self.name = name
        self.path = path
        self.readonly = readonly
        self.coalescing = Coalescing()
        self.features = 0
        self.sessions: list[Session] = []
        self.draining: set[Queue] = set()
        self._vhost = vhost
        self._descriptor: Descriptor | None = None
        self._socket: socket.socket | None = None
        self._numbers = count()
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.get_running_loop()

    @property
    def bdev(self) -> Bdev | None:
        return self._descriptor.bdev if self._descriptor is not None else None

    def open(self, bdevs: BdevRegistry, bdev_name: str) -> None:
        """Raises :class:`VhostError`: ENODEV, or EPERM for a bdev that somebody has claimed."""
        try:
            self._descriptor = bdevs.open(bdev_name, True, self._on_bdev_event, self._channels)
        except BdevError as error:
            raise VhostError(error.number) from None
        self.features = self._offer(self._descriptor.bdev)

    def _channels(self) -> tuple[int, ...]:
        """A session has a channel from its start on."""
        return (self.thread.number,) if any(session.started for session in self.sessions) else ()

    def _offer(self, bdev: Bdev) -> int:
        """The virtio features of this disk."""
        features = Feature.SEG_MAX | Feature.BLK_SIZE | Feature.TOPOLOGY | Feature.MQ
        if Op.FLUSH in bdev.supported:
            features |= Feature.FLUSH
        if self.readonly:
            features |= Feature.RO
        else:
            if Op.UNMAP in bdev.supported:
                features |= Feature.DISCARD
            if Op.WRITE_ZEROES in bdev.supported:
                features |= Feature.WRITE_ZEROES
        return int(features) | virtqueue.F_VERSION_1 | virtqueue.F_INDIRECT_DESC | virtqueue.F_EVENT_IDX

    def listen(self) -> None:
        """Raises :class:`VhostError`: EIO if the socket cannot be made, for instance because a file is in the way."""
        try:
            if stat.S_ISSOCK(os.lstat(self.path).st_mode):
                os.unlink(self.path)
        except FileNotFoundError:
            pass
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(self.path)
            listener.listen(128)
        except OSError as error:
            listener.close()
            log.error("%s: cannot listen on %s: %s", self.name, self.path, error)
            raise VhostError(errno.EIO) from None
        listener.setblocking(False)
        self._socket = listener
        self._loop.add_reader(listener, self._accept)

    def close(self) -> None:
        """End sessions, socket and the hold on the bdev, at once."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
        for session in list(self.sessions):
            session.close()
        if self._descriptor is not None:
            self._descriptor.close()
            self._descriptor = None

    async def wait_idle(self) -> None:
        """Until no front end is connected and no request of a former one is under way."""
        while self.sessions or self.draining:
            self._idle.clear()
            await self._idle.wait()

    # What sessions and queues need

    def config(self) -> bytes:
        bdev = self.bdev
        if bdev is None:
            return blk.config_space(size=0, block_size=0, queues=MAX_QUEUES, max_segments=0)
        return blk.config_space(
            size=bdev.size,
            block_size=bdev.block_size,
            queues=MAX_QUEUES,
            max_segments=MAX_SEGMENTS,
            max_discard_sectors=MAX_RANGE_SECTORS if self.features & Feature.DISCARD else 0,
            max_write_zeroes_sectors=MAX_RANGE_SECTORS if self.features & Feature.WRITE_ZEROES else 0,
        )

    def submit(self, request: BlkRequest, done: Callable[[int, int], None]) -> None:
        running.thread = self.thread.number
        try:
            self._submit(request, done)
        finally:
            running.thread = APP_THREAD

    def _submit(self, request: BlkRequest, done: Callable[[int, int], None]) -> None:
        descriptor = self._descriptor
        kind = request.type
        if descriptor is None:
            done(0, Status.ABORTED)
        elif kind == Type.IN:
            length = sum(map(len, request.writable))
            if not length or length % blk.SECTOR:
                done(0, Status.INVALID_OPCODE)
            else:
                descriptor.io(Op.READ, request.sector * blk.SECTOR, length, request.writable, partial(done, length))
        elif kind == Type.OUT:
            length = sum(map(len, request.readable))
            if not length or length % blk.SECTOR:
                done(0, Status.INVALID_OPCODE)
            elif self.readonly:
                done(0, Status.WRITE_FAULT)
            else:
                descriptor.io(Op.WRITE, request.sector * blk.SECTOR, length, request.readable, partial(done, 0))
        elif kind == Type.FLUSH:
            if request.sector:
                done(0, Status.INVALID_FIELD)
            else:
                descriptor.io(Op.FLUSH, 0, descriptor.bdev.size, [], partial(done, 0))
        elif kind == Type.GET_ID:
            name = descriptor.bdev.name.encode()[: blk.ID_BYTES].ljust(blk.ID_BYTES)
            written = blk.fill(request.writable, name)
            done(written, Status.SUCCESS if written else Status.INVALID_OPCODE)
        elif kind == Type.DISCARD:
            self._submit_range(descriptor, Op.UNMAP, request, done)
        elif kind == Type.WRITE_ZEROES:
            self._submit_range(descriptor, Op.WRITE_ZEROES, request, done)
        else:
            done(0, Status.INVALID_OPCODE)

    def _submit_range(
        self, descriptor: Descriptor, op: Op, request: BlkRequest, done: Callable[[int, int], None]
    ) -> None:
        span = blk.parse_range(request.readable)
        if span is None or not span.length:
            done(0, Status.INVALID_FIELD)
        elif self.readonly:
            done(0, Status.WRITE_FAULT)
        elif op is Op.UNMAP and span.unmap:
            done(0, Status.INVALID_OPCODE)
        else:
            descriptor.io(op, span.offset, span.length, [], partial(done, 0))

    def drained(self) -> None:
        self._idle.set()
        for session in self.sessions:
            session.run()

    def may_start(self) -> bool:
        """In SPDK, a session that gets no buffers or no channel never starts."""
        if not self._vhost.has_buffers():
            log.error(
                "%s: not started, for too few buffers are left: raise small_pool_count, large_pool_count", self.name
            )
            return False
        if self.bdev is not None and not self.bdev.admits(self.thread.number):
            log.error("%s: not started, for an NVMe controller has no I/O queue left for it", self.name)
            return False
        return True

    def channels_changed(self) -> None:
        if self.bdev is not None:
            self.bdev.channels_changed()
        self._vhost.pollers_changed()

    def session_closed(self, session: Session) -> None:
        self.sessions.remove(session)
        self.channels_changed()
        self._idle.set()

    # What happens to it

    def _accept(self) -> None:
        try:
            connection, _unused = self._socket.accept()
        except OSError as error:
            log.error("%s: a connection could not be accepted: %s", self.name, error)
            return
        self.sessions.append(Session(self, connection, next(self._vhost.session_ids), next(self._numbers)))

    def _on_bdev_event(self, event: BdevEvent, bdev: Bdev) -> None:
        if event is BdevEvent.RESIZE:
            for session in self.sessions:
                session.config_changed()
        elif event is BdevEvent.REMOVE:
            log.warning("%s: bdev %s is gone, all further requests will fail", self.name, bdev.name)
            if self._descriptor is not None:
                self._descriptor.close()
                self._descriptor = None


class Vhost:
    """All controllers of one process, in the order of their names."""

    def __init__(self, app: App) -> None:
        self.session_ids = count()
        self._app = app
        self._directory = app.options.vhost_directory
        self._controllers: dict[str, BlkController] = {}
        app.add_config("vhost_blk", self._config)

    def __iter__(self) -> Iterator[BlkController]:
        return iter([self._controllers[name] for name in sorted(self._controllers)])

    async def start(self) -> None:
        """Each disk needs about eight file descriptors: let there be as many as the system allows."""
        _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def has_buffers(self) -> bool:
        """Whether the pools fill the caches of one more started session. In SPDK a disk without them never starts."""
        sessions = 1 + sum(session.started for controller in self for session in controller.sessions)
        pools, bdevs = self._app.framework.buffers.options, self._app.bdevs.options
        return all(
            sessions * (cache + bdevs[f"iobuf_{size}_cache_size"]) <= pools[f"{size}_pool_count"]
            for size, cache in ACCEL_CACHES.items()
        )

    def get(self, name: str) -> BlkController:
        """Raises :class:`VhostError` (ENODEV)."""
        try:
            return self._controllers[name]
        except KeyError:
            raise VhostError(errno.ENODEV) from None

    def create_blk(
        self,
        name: str,
        bdev_name: str,
        *,
        cpumask: str | None = None,
        transport: str = TRANSPORT,
        readonly: bool = False,
        packed_ring: bool = False,
    ) -> BlkController:
        """Make a controller and listen on ``<directory>/<name>``; the name goes into the path as it is, as with SPDK.

        Raises :class:`VhostError`: EINVAL for another transport, cores that the process has not, or packed rings, which
        are not spoken here; EEXIST for a second one of that name; and what opening the bdev and the socket raise.
        """
        if transport.lower() != TRANSPORT:
            raise VhostError(errno.EINVAL)
        threads = self._app.framework.threads
        controller = BlkController(self, name, os.path.join(self._directory, name), readonly)
        controller.open(self._app.bdevs, bdev_name)
        try:
            cpus = threads.cpus if cpumask is None else self._select_cpus(cpumask)
            if name in self._controllers:
                raise VhostError(errno.EEXIST)
            if packed_ring:
                log.error("%s: packed rings are not supported", name)
                raise VhostError(errno.EINVAL)
            controller.thread = threads.create(name, cpus)
            try:
                controller.listen()
            except VhostError:
                threads.exit(controller.thread)
                raise
        except VhostError:
            controller.close()
            raise
        self._controllers[name] = controller
        return controller

    def _select_cpus(self, cpumask: str) -> frozenset[int]:
        try:
            cpus = cores.parse(cpumask)
        except ValueError:
            raise VhostError(errno.EINVAL) from None
        if not cpus or cpus - self._app.framework.threads.cpus:
            raise VhostError(errno.EINVAL)
        return cpus

    async def delete(self, name: str) -> None:
        """Wait until no front end is connected, as SPDK does, then take it away. Raises :class:`VhostError`."""
        controller = self.get(name)
        if controller.sessions:
            log.error("%s: has still valid connections", name)
        await controller.wait_idle()
        if self._controllers.get(name) is not controller:
            raise VhostError(errno.ENODEV)
        del self._controllers[name]
        controller.close()
        self._app.framework.threads.exit(controller.thread)

    def set_coalescing(self, name: str, delay_base_us: int, iops_threshold: int) -> None:
        """Raises :class:`VhostError`: ENODEV, or EINVAL for a threshold that is too low."""
        controller = self.get(name)
        if iops_threshold < MIN_IOPS_THRESHOLD:
            raise VhostError(errno.EINVAL)
        controller.coalescing = Coalescing(delay_base_us, iops_threshold)

    async def shutdown(self) -> None:
        for controller in self:
            controller.close()
        self._controllers.clear()

    def pollers_changed(self) -> None:
        """A session has one."""
        self._app.framework.threads.look_soon()

    def pollers(self, thread: Thread) -> Iterator[Poller]:
        for controller in self:
            if controller.thread is thread:
                name = "no_bdev_vdev_worker" if controller.bdev is None else "vdev_worker"
                yield from (Poller(session, name) for session in controller.sessions if session.started)

    def _config(self) -> list[dict[str, Any]]:
        calls = []
        for controller in self:
            if controller.bdev is not None:
                calls.append(
                    {
                        "method": "vhost_create_blk_controller",
                        "params": {
                            "ctrlr": controller.name,
                            "dev_name": controller.bdev.name,
                            "cpumask": cores.mask(controller.thread.cpus),
                            "readonly": controller.readonly,
                            "transport": TRANSPORT,
                        },
                    }
                )
            if controller.coalescing.delay_base_us:
                calls.append(
                    {
                        "method": "vhost_controller_set_coalescing",
                        "params": {
                            "ctrlr": controller.name,
                            "delay_base_us": controller.coalescing.delay_base_us,
                            "iops_threshold": controller.coalescing.iops_threshold,
                        },
                    }
                )
        return calls


def setup(app: App) -> Vhost:
    vhost = Vhost(app)
    app.framework.threads.add_pollers(vhost.pollers)
    return vhost
