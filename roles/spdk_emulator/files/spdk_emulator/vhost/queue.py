"""One virtqueue at work: kicked by the guest, it takes requests, gives them to the disk and interrupts the guest.

Work is done in batches: one kick takes all that is there, what is completed within one turn of the event loop goes back
with one interrupt. That is what lets one process carry many disks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from functools import partial
from typing import Protocol

from ..bdev.models import Status
from ..vhost_user.blk import BlkRequest, MalformedRequest, Result, parse
from ..vhost_user.inflight import QueueInflight
from ..vhost_user.memory import GuestMemory
from ..vhost_user.messages import ProtocolError
from ..vhost_user.virtqueue import F_EVENT_IDX, RingAddresses, RingError, SplitQueue
from .coalescing import Coalescing, Rate

log = logging.getLogger(__name__)

BATCH = 64
"""Requests that are taken before their results are given back."""
LOOK_SECONDS = 0.25
"""So often a ring is looked at without a kick: SPDK polls its rings and needs none, and one can be lost on its way."""
ROUNDS = 4
"""Batches that one queue may take before the others get their turn."""

_EVENT = (1).to_bytes(8, "little")


class Disk(Protocol):
    """What a queue needs of its controller."""

    coalescing: Coalescing
    draining: set[Queue]
    """Queues that were stopped with requests still under way: no ring takes requests before these are done, because
    their late effects could otherwise overtake newer requests."""

    def submit(self, request: BlkRequest, done: Callable[[int, int], None]) -> None:
        """Do the request; then ``done(bytes written to the guest, bdev status)``, maybe before this returns."""

    def drained(self) -> None:
        """``draining`` has become empty."""


class Queue:
    """A virtqueue of one session, running or not."""

    def __init__(self, disk: Disk, name: str) -> None:
        self.name = name
        self.size = 0
        self.base = 0
        self.addresses: RingAddresses | None = None
        self.outstanding = 0
        """Requests given to the disk and not completed."""
        self._disk = disk
        self._loop = asyncio.get_running_loop()
        self._ring: SplitQueue | None = None
        self._enabled = False
        self._paused = False
        self._kick: int | None = None
        self._call: int | None = None
        self._error: int | None = None
        self._done: list[tuple[int, int]] = []
        self._taking = False
        self._flush_due = False
        self._rate = Rate()
        self._late_interrupt: asyncio.TimerHandle | None = None
        self._next_look: asyncio.TimerHandle | None = None
        self._on_idle: Callable[[], None] | None = None

    @property
    def running(self) -> bool:
        return self._ring is not None

    @property
    def has_kick(self) -> bool:
        return self._kick is not None

    # Set up by the front end

    def set_kick(self, fd: int | None) -> None:
        """The eventfd that says: there are requests. The queue owns it from here on, as with the other two."""
        self.stop()
        self._kick = _replace(self._kick, fd)

    def set_call(self, fd: int | None) -> None:
        """The eventfd that interrupts the guest."""
        self._call = _replace(self._call, fd)
        if self._ring is not None:
            self._interrupt()

    def set_error(self, fd: int | None) -> None:
        """The eventfd that tells the front end that this ring is broken."""
        self._error = _replace(self._error, fd)

    def enable(self, enabled: bool) -> None:
        self._enabled = enabled
        if enabled:
            self._loop.call_soon(self.run)

    def start(self, memory: GuestMemory, features: int, inflight: QueueInflight | None) -> None:
        """Begin to serve, from :attr:`base` on. A ring that cannot be is left stopped; its error eventfd says so."""
        if self._kick is None or self.addresses is None:
            return
        try:
            self._ring = SplitQueue(
                memory,
                self.addresses,
                self.size,
                self.base,
                event_index=bool(features & F_EVENT_IDX),
                inflight=inflight,
            )
        except RingError as error:
            self._break(error)
            return
        try:
            self._loop.add_reader(self._kick, self._on_kick)
        except OSError as error:
            self._ring = None
            raise ProtocolError(f"{self.name}: what came as a kick cannot be waited for: {error}") from None
        self._paused = False
        if self._ring.recovered:
            log.info("%s: %d requests that a predecessor left are done again", self.name, len(self._ring.recovered))
        # What a predecessor finished just before it died may not have been announced.
        self._interrupt()
        self._loop.call_soon(self._look)

    def remap(self, memory: GuestMemory) -> None:
        """Go on in a new memory table; requests under way keep the memory that they began with."""
        if self._ring is not None:
            try:
                self._ring.remap(memory)
            except RingError as error:
                self._break(error)

    def pause(self) -> None:
        """Take no more requests; those under way go on and are given back."""
        if self._kick is not None:
            self._loop.remove_reader(self._kick)
        self._paused = True

    def stop(self) -> None:
        """Let go of the ring. Requests still under way will not be given back."""
        if self._ring is None:
            return
        if self._kick is not None:
            self._loop.remove_reader(self._kick)
        if self._done:
            self._flush()
        if self._late_interrupt is not None:
            self._interrupt()
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        self.base = self._ring.base
        self._ring = None
        if self.outstanding:
            self._disk.draining.add(self)

    def when_idle(self, call: Callable[[], None] | None) -> None:
        """Call this once when no request is under way any more; None: do not."""
        self._on_idle = call

    def close(self) -> None:
        self.stop()
        self._on_idle = None
        self._kick = _replace(self._kick, None)
        self._call = _replace(self._call, None)
        self._error = _replace(self._error, None)

    # Serving

    def _on_kick(self) -> None:
        try:
            event = os.read(self._kick, 8)
        except BlockingIOError:
            return
        except OSError:
            event = b""
        if not event:
            self._break("its kick is not an eventfd")
            return
        self.run()

    def _look(self) -> None:
        if self._next_look is not None:
            self._next_look.cancel()
        self._next_look = self._loop.call_later(LOOK_SECONDS, self._look) if self._ring is not None else None
        self.run()

    def run(self) -> None:
        """Take what there is."""
        ring = self._ring
        if ring is None or not self._enabled or self._paused or self._taking or self._disk.draining:
            return
        self._taking = True
        try:
            while ring.recovered:
                self._begin(ring, ring.recovered.pop(0))
            for _unused in range(ROUNDS):
                heads = ring.take(BATCH)
                if not heads:
                    break
                for head in heads:
                    self._begin(ring, head)
                if self._done:
                    self._flush()
            else:
                self._loop.call_soon(self.run)
        except (RingError, MalformedRequest) as error:
            self._break(error)
        finally:
            self._taking = False
        if self._done:
            self._flush()

    def _begin(self, ring: SplitQueue, head: int) -> None:
        request = parse(ring.chain(head))
        self.outstanding += 1
        self._disk.submit(request, partial(self._finish, ring, head, request.status))

    def _finish(self, ring: SplitQueue, head: int, answer: memoryview, written: int, status: int) -> None:
        self.outstanding -= 1
        if ring is self._ring:
            if not status:
                answer[0] = Result.OK
            else:
                answer[0] = Result.UNSUPPORTED if status == Status.INVALID_OPCODE else Result.IOERR
            self._done.append((head, written + 1))
            if not self._taking and not self._flush_due:
                self._flush_due = True
                self._loop.call_soon(self._flush)
        elif not self.outstanding and self in self._disk.draining:
            self._disk.draining.discard(self)
            if not self._disk.draining:
                self._disk.drained()
        if not self.outstanding and self._on_idle is not None:
            call, self._on_idle = self._on_idle, None
            call()

    def _flush(self) -> None:
        self._flush_due = False
        done, self._done = self._done, []
        if self._ring is None or not done:
            return
        wanted = self._ring.give_back(done)
        settings = self._disk.coalescing
        delay = self._rate.delay(len(done), self._loop.time(), settings) if settings.delay_base_us else 0
        if wanted and not delay:
            self._interrupt()
        elif wanted and self._late_interrupt is None:
            self._late_interrupt = self._loop.call_later(delay, self._interrupt)

    def _interrupt(self) -> None:
        if self._late_interrupt is not None:
            self._late_interrupt.cancel()
            self._late_interrupt = None
        _signal(self._call)

    def _break(self, reason: object) -> None:
        """The guest broke this ring: stop it, and it alone."""
        log.warning("%s: ring stopped: %s", self.name, reason)
        self.stop()
        _signal(self._error)


def _replace(old: int | None, new: int | None) -> int | None:
    if new is not None:
        try:
            os.set_blocking(new, False)
        except OSError as error:
            os.close(new)
            raise ProtocolError(f"a file descriptor that cannot be an eventfd: {error}") from None
    if old is not None:
        os.close(old)
    return new


def _signal(fd: int | None) -> None:
    if fd is not None:
        # Full: the peer has an event pending already. Anything else: the peer is gone.
        with contextlib.suppress(OSError):
            os.write(fd, _EVENT)
