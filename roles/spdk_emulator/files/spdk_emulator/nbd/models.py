"""NBD disks: each shows one bdev to whoever connects to a unix socket.

SPDK gives the other end of a socket pair to a kernel's ``/dev/nbdN``. A simulation has no kernel of its own to give it
to, so here a disk's ``nbd_device`` is the path of a unix socket and the client is whoever speaks NBD, such as a QEMU.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..bdev.models import Bdev, BdevError, BdevEvent, Descriptor, Op, Status
from ..framework.threads import APP_THREAD, Poller, Thread
from .connection import Connection
from .protocol import Export, Flag

if TYPE_CHECKING:
    from ..app import App

log = logging.getLogger(__name__)

MAX_PATH = 107
"""Bytes in the name of a unix socket (unix(7), without the NUL)."""


class NbdDisk:
    """A listening socket, the clients on it, and the bdev behind them."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.bdev_name = ""
        self._clients: set[Connection] = set()
        self._descriptor: Descriptor | None = None
        self._listener: asyncio.Server | None = None

    def open(self, app: App, bdev_name: str) -> None:
        """Raises ``BdevError``: ENODEV, or EPERM for a bdev that somebody has claimed."""
        self._descriptor = app.bdevs.open(
            bdev_name,
            True,
            lambda event, _bdev: self._on_bdev_event(app, event),
            lambda: (APP_THREAD,) if self._clients else (),
        )
        self.bdev_name = self._descriptor.bdev.name

    async def listen(self) -> None:
        """Raises ``OSError`` where the socket cannot be made. One that a dead process left is taken away."""
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(self.path).st_mode):
                os.unlink(self.path)
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_unix_server(lambda: Connection(self), self.path)

    def close(self) -> None:
        """End clients, socket and the hold on the bdev, at once."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
        for client in list(self._clients):
            client.close()
        if self._descriptor is not None:
            self._descriptor.close()
            self._descriptor = None

    # What clients need

    @property
    def size(self) -> int:
        """Bytes."""
        return self._descriptor.bdev.size if self._descriptor is not None else 0

    def export(self) -> Export:
        assert self._descriptor is not None, "a disk that is closed has no clients"
        bdev: Bdev = self._descriptor.bdev
        flags = Flag.HAS_FLAGS
        for op, flag in (
            (Op.FLUSH, Flag.SEND_FLUSH),
            (Op.UNMAP, Flag.SEND_TRIM),
            (Op.WRITE_ZEROES, Flag.SEND_WRITE_ZEROES),
        ):
            if op in bdev.supported:
                flags |= flag
        return Export(bdev.name, bdev.size, bdev.block_size, int(flags))

    def io(self, op: Op, offset: int, length: int, iov: list[memoryview], done: Callable[[int], None]) -> None:
        if self._descriptor is None:
            done(Status.ABORTED)
        else:
            self._descriptor.io(op, offset, length, iov, done)

    def connected(self, client: Connection) -> None:
        if self._descriptor is None:
            client.close()
            return
        self._clients.add(client)
        self._descriptor.bdev.channels_changed()

    def disconnected(self, client: Connection) -> None:
        self._clients.discard(client)
        if self._descriptor is not None:
            self._descriptor.bdev.channels_changed()

    def _on_bdev_event(self, app: App, event: BdevEvent) -> None:
        """NBD has no word for another size: a client learns it when it connects again."""
        if event is BdevEvent.REMOVE:
            log.warning("%s: bdev %s is gone, and the disk with it", self.path, self.bdev_name)
            app.nbd.forget(self)


class Nbd:
    """All NBD disks of one process, in the order in which they were started."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._disks: dict[str, NbdDisk] = {}
        app.add_config("nbd", self._config)

    def __iter__(self) -> Iterator[NbdDisk]:
        return iter(list(self._disks.values()))

    def find(self, path: str) -> NbdDisk | None:
        return self._disks.get(path)

    async def start_disk(self, bdev_name: str, path: str) -> NbdDisk:
        """Raises ``BdevError``: EBUSY for a path that a disk has, ENODEV for what is no path of a socket, and what
        opening the bdev and the socket raise."""
        if path in self._disks:
            raise BdevError(errno.EBUSY)
        if not os.path.isabs(path) or len(os.fsencode(path)) > MAX_PATH:
            raise BdevError(errno.ENODEV)
        disk = NbdDisk(path)
        disk.open(self._app, bdev_name)
        self._disks[path] = disk
        try:
            await disk.listen()
        except OSError as error:
            log.error("cannot listen on %s: %s", path, error)
            self.forget(disk)
            raise BdevError(error.errno or errno.EIO) from None
        return disk

    def forget(self, disk: NbdDisk) -> None:
        """Take a disk away, whoever is connected."""
        if self._disks.get(disk.path) is disk:
            del self._disks[disk.path]
        disk.close()

    async def shutdown(self) -> None:
        for disk in self:
            self.forget(disk)

    def pollers(self, thread: Thread) -> Iterator[Poller]:
        if thread.number == APP_THREAD:
            yield from (Poller(disk, "nbd_poll") for disk in self)

    def _config(self) -> list[dict[str, Any]]:
        return [
            {"method": "nbd_start_disk", "params": {"nbd_device": disk.path, "bdev_name": disk.bdev_name}}
            for disk in self
        ]


def setup(app: App) -> Nbd:
    nbd = Nbd(app)
    app.framework.threads.add_pollers(nbd.pollers)
    return nbd
