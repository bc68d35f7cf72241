"""Which I/O queues there are to one controller: one for each thread that has a channel to a bdev of it, as in SPDK."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..framework.threads import APP_THREAD
from ..nvme_tcp.host import HostQueue, Request
from ..nvme_tcp.nvme import Feature, Sc
from .admin import AdminQueue
from .connection import Connection, NvmeError

if TYPE_CHECKING:
    from .controller import Controller

log = logging.getLogger(__name__)

IO_DEPTH = 127
MOST_QUEUES = 65535
"""More cannot be asked for (NVMe base specification 2.0, 5.27.1.5)."""
RELEASE_POLL = 0.01
"""Seconds between looks at a queue that nobody needs any more and that is not idle yet."""


class IoQueue:
    """``thread``'s. What comes before it is connected waits in ``held``."""

    def __init__(self, thread: int, qid: int, connection: Connection) -> None:
        self.thread = thread
        self.qid = qid
        self.connection = connection
        self.connected = False
        self.held: list[Request] = []

    @property
    def busy(self) -> bool:
        return bool(self.held) or self.connected and bool(self.connection.queue.outstanding)

    def submit(self, request: Request) -> None:
        if self.connected:
            self.connection.queue.submit(request)
        else:
            self.held.append(request)


class IoQueues:
    """``number``: how many to ask the controller for."""

    def __init__(self, controller: Controller, number: int) -> None:
        self.connected: dict[int, HostQueue] = {}
        """By thread: where its I/O goes. Every I/O looks here; what is not found goes to :meth:`submit`."""
        self.number = number
        """How many there may be, once that was asked. After a reset SPDK asks for no more than it had been granted."""
        self._controller = controller
        self._queues: dict[int, IoQueue] = {}
        self._threads: frozenset[int] = frozenset()
        self._release: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> list[Connection]:
        """Of those that are connected."""
        return [queue.connection for queue in self._queues.values() if queue.connected]

    def owns(self, connection: Connection) -> bool:
        return any(queue.connection is connection for queue in self._queues.values())

    async def negotiate(self, admin: AdminQueue) -> None:
        """Ask how many there may be. A controller that does not say so is one without I/O queues, as in SPDK."""
        wanted = min(max(self.number, 1), MOST_QUEUES)
        try:
            granted = await admin.set_feature(Feature.NUMBER_OF_QUEUES, (wanted - 1) * 0x10001)
        except NvmeError as error:
            log.error("%s; it is used without I/O queues", error)
            self.number = 0
        else:
            self.number = min(wanted, (granted & 0xFFFF) + 1, (granted >> 16 & 0xFFFF) + 1)

    # Who needs one

    def use(self, threads: Iterable[int]) -> None:
        """These threads have a channel now.

        Only one that had none gets a queue now: SPDK tries when it makes the channel, then not before the next reset.
        """
        before, self._threads = self._threads, frozenset(threads)
        if self._controller.live:
            self.close_unused()
            for thread in sorted(self._threads - before):
                self._open(thread)

    def has(self, thread: int) -> bool:
        return thread in self._queues

    def admits(self, thread: int) -> bool:
        """Whether the thread can have a channel: there is a queue for it or, for I/O may wait, will be."""
        if self._controller.waits_for_queues or thread in self._queues:
            return True
        return self._controller.live and bool(self._free_qid())

    def _free_qid(self) -> int:
        """The smallest; 0: none."""
        taken = {queue.qid for queue in self._queues.values()}
        return next((qid for qid in range(1, self.number + 1) if qid not in taken), 0)

    def _make(self, thread: int) -> IoQueue | None:
        qid = self._free_qid()
        if not qid:
            return None
        queue = IoQueue(thread, qid, self._controller.new_connection(f"I/O queue {qid}", IO_DEPTH))
        self._queues[thread] = queue
        return queue

    def _open(self, thread: int) -> IoQueue | None:
        queue = self._queues.get(thread)
        if queue is None:
            queue = self._make(thread)
            if queue is None:
                log.error("%s: no I/O queue is free, the controller grants %d", self._controller.name, self.number)
            else:
                self._controller.run(self._connect(queue))
        return queue

    async def _connect(self, queue: IoQueue) -> None:
        try:
            await self._establish(queue)
        except (NvmeError, OSError) as error:
            self._controller.lost(queue.connection, str(error))

    async def _establish(self, queue: IoQueue) -> None:
        """Raises ``OSError`` or :class:`NvmeError`."""
        await self._controller.open_io_queue(queue.connection, queue.qid, IO_DEPTH)
        queue.connected = True
        self.connected[queue.thread] = queue.connection.queue
        held, queue.held = queue.held, []
        for request in held:
            queue.submit(request)

    async def connect(self) -> None:
        """All that are needed, one after the other, as SPDK does it before it calls a reset successful.

        Raises ``OSError`` or :class:`NvmeError`. One queue that cannot be had is enough for that, as in SPDK.
        """
        while missing := self._threads - self._queues.keys():
            queue = self._make(min(missing))
            if queue is None:
                text = f"{len(self._threads)} threads need an I/O queue each, the controller grants {self.number}"
                raise OSError(errno.EMFILE, f"{self._controller.name}: {text}")
            await self._establish(queue)
        for connection in self.connections:
            connection.check()

    # I/O

    def submit(self, request: Request, thread: int) -> bool:
        """For a thread without a connected queue. False: it has none, and gets none before the next reset."""
        queue = self._queues.get(thread)
        if queue is None and thread not in self._threads:
            queue = self._borrow()
        if queue is None:
            return False
        queue.submit(request)
        return True

    def _borrow(self) -> IoQueue | None:
        """For I/O that is no thread's with a channel: a look into a new bdev, or the rest of what a bdev above does.

        The app thread gets a channel for that, until it is done.
        """
        queue = self._open(APP_THREAD)
        if queue is None:
            return next(iter(self._queues.values()), None)
        self._look_later()
        return queue

    # The end of queues

    def close_unused(self) -> None:
        """Those without a channel, as soon as nothing is on its way."""
        for thread in list(self._queues.keys() - self._threads):
            queue = self._queues[thread]
            if queue.busy:
                self._look_later()
            else:
                del self._queues[thread]
                self.connected.pop(thread, None)
                queue.connection.close()

    def _look_later(self) -> None:
        if self._release is None:
            self._release = asyncio.get_running_loop().call_later(RELEASE_POLL, self._look)

    def _look(self) -> None:
        self._release = None
        self.close_unused()

    def close(self) -> None:
        """All of them, at once; what they have is given back."""
        queues, self._queues = self._queues, {}
        self.connected.clear()
        if self._release is not None:
            self._release.cancel()
            self._release = None
        for queue in queues.values():
            queue.connection.close()
            for request in queue.held:
                request.done(request, Sc.ABORTED_SQ_DELETION, 0)
