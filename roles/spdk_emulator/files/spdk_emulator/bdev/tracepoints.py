"""What is recorded of bdevs: their I/O, and their I/O channels."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from ..framework.trace import Traces, tracing
from ..framework.tracepoints import Owner

if TYPE_CHECKING:
    from .models import Bdev, BdevIo, BdevRegistry

_START, _DONE, _CHANNEL_CREATE, _CHANNEL_DESTROY = range(4)
_CHANNEL_GET, _CHANNEL_PUT = range(2)
_TYPES = {
    "READ": 1,
    "WRITE": 2,
    "UNMAP": 3,
    "FLUSH": 4,
    "RESET": 5,
    "WRITE_ZEROES": 9,
    "COMPARE": 14,
    "COMPARE_AND_WRITE": 15,
}
"""SPDK's numbers of the kinds of I/O."""


def take_context(io: BdevIo) -> None:
    """For whom it is done: an object of the consumer that is traced, too, else whatever is called at its end."""
    io.context = tracing.context or id(io.done)
    tracing.context = 0


def started(io: BdevIo) -> None:
    """It is its bdev's now."""
    bdev = io.bdev
    assert bdev is not None
    if not hasattr(io, "context"):
        take_context(io)
    if tracing.channels is not None and io.thread:
        tracing.channels.used(bdev, io.thread)
    if tracing.bdev is not None:
        size, offset = io.length // bdev.block_size, io.offset // bdev.block_size
        args = (_TYPES[io.op.name], io.context, offset, bdev.outstanding)
        tracing.bdev(_START, bdev.trace_owner, size, id(io), *args, thread=io.thread)


def done(io: BdevIo) -> None:
    """Its consumer is about to be told."""
    bdev = io.bdev
    assert bdev is not None
    bdev.trace_done(io)
    if tracing.bdev is not None:
        context = getattr(io, "context", 0)  # it may have begun before anything was recorded
        tracing.bdev(_DONE, bdev.trace_owner, 0, id(io), context, bdev.outstanding, thread=io.thread)


class BdevChannels:
    """How many holders of each bdev have its I/O channel on which thread. Nobody counts that: it is found out when
    something may have changed, after whoever changed it is done."""

    def __init__(self, bdevs: BdevRegistry) -> None:
        self._bdevs = bdevs
        self._known: dict[Bdev, Counter[int]] = {}
        self._planned = False

    def switched(self) -> None:
        """From the moment on in which they are to be recorded, only what changes is."""
        on = tracing.bdev is not None or tracing.thread is not None
        if on and tracing.channels is None:
            self._known = {bdev: _channels(bdev) for bdev in self._bdevs}
        tracing.channels = self if on else None

    def changed(self) -> None:
        if not self._planned:
            self._planned = True
            asyncio.get_running_loop().call_soon(self._look)

    def used(self, bdev: Bdev, thread: int) -> None:
        if bdev not in self._known or not self._known[bdev][thread]:
            self._look()

    def _look(self) -> None:
        """What stands below others gets its channels before them, and loses them after them."""
        self._planned = False
        if tracing.channels is not self:
            return
        found = {bdev: _channels(bdev) for bdev in self._bdevs}
        for bdev, channels in found.items():
            for thread, count in (channels - self._known.get(bdev, Counter())).items():
                for number in range(channels[thread] - count, channels[thread]):
                    self._get(bdev, thread, number)
        for bdev, channels in reversed(found.items()):
            self._lose(bdev, channels)
        self._known = found

    def gone(self, bdev: Bdev) -> None:
        """It has no channels any more."""
        if tracing.channels is self:
            self._lose(bdev, Counter())
            self._known.pop(bdev, None)

    def _lose(self, bdev: Bdev, channels: Counter[int]) -> None:
        known = self._known.get(bdev, Counter())
        for thread, count in (known - channels).items():
            for number in range(known[thread], known[thread] - count, -1):
                self._put(bdev, thread, number)

    def _get(self, bdev: Bdev, thread: int, others: int) -> None:
        if not others and tracing.bdev is not None:
            tracing.bdev(_CHANNEL_CREATE, bdev.trace_owner, 0, 0, thread, thread=thread)
        if tracing.thread is not None:
            tracing.thread(_CHANNEL_GET, 0, 0, _channel(bdev, thread), others + 1, thread=thread)

    def _put(self, bdev: Bdev, thread: int, number: int) -> None:
        if tracing.thread is not None:
            tracing.thread(_CHANNEL_PUT, 0, 0, _channel(bdev, thread), number, thread=thread)
        if number == 1 and tracing.bdev is not None:
            tracing.bdev(_CHANNEL_DESTROY, bdev.trace_owner, 0, 0, thread, thread=thread)


def _channels(bdev: Bdev) -> Counter[int]:
    return Counter(thread for descriptor in bdev.descriptors for thread in descriptor.channels())


def _channel(bdev: Bdev, thread: int) -> int:
    """A value for the channel, which is no object here."""
    return id(bdev) << 16 | thread & 0xFFFF


def watch(bdevs: BdevRegistry, traces: Traces) -> None:
    """Have an owner of entries for each bdev."""
    channels = BdevChannels(bdevs)
    traces.switched.append(channels.switched)

    def look(event: str, bdev: Bdev) -> None:
        if event == "bdev_register":
            bdev.trace_owner = tracing.add_owner(Owner.BDEV, f"bdev_{bdev.name}")
        elif event == "bdev_unregister":
            channels.gone(bdev)
            tracing.remove_owner(bdev.trace_owner)

    bdevs.watchers.append(look)
