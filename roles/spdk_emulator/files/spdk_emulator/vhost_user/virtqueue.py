"""The split virtqueue: taking requests from a ring in guest memory and giving them back, in any order.

The guest writes the descriptors and the available ring while they are read here; nothing in them is trusted. What
cannot be a request raises :class:`RingError`, after which the ring has to be stopped: there is no way to answer it.
Source: the virtio specification 1.2, section 2.7 (split virtqueues), 2.7.10 (event index).
"""

from __future__ import annotations

import struct
import threading
from typing import NamedTuple

from .inflight import MAX_QUEUE_SIZE, QueueInflight
from .memory import AddressError, GuestMemory

F_INDIRECT_DESC = 1 << 28
F_EVENT_IDX = 1 << 29
F_VERSION_1 = 1 << 32

_DESCRIPTOR = struct.Struct("<QIHH")
_NEXT, _WRITE, _INDIRECT = 1, 2, 4
_AVAIL_NO_INTERRUPT = 1

_barrier_lock = threading.Lock()


def _barrier() -> None:
    """A full memory barrier: taking a lock is an atomic read-modify-write. Orders a store before a later load."""
    _barrier_lock.acquire()
    _barrier_lock.release()


class RingError(Exception):
    """The guest broke the ring: what it points to cannot be a request."""


class RingAddresses(NamedTuple):
    """The parts of a ring, in the front end's virtual addresses."""

    descriptors: int
    available: int
    used: int


class Chain(NamedTuple):
    """The buffers of one request: those to be read come first, those to be written last."""

    readable: list[memoryview]
    writable: list[memoryview]


class SplitQueue:
    """One running ring. ``base`` is the index of the next available entry to take."""

    def __init__(
        self,
        memory: GuestMemory,
        addresses: RingAddresses,
        size: int,
        base: int,
        *,
        event_index: bool,
        inflight: QueueInflight | None = None,
    ) -> None:
        """Raises :class:`RingError` if the ring is not in guest memory, misaligned, or of an impossible size."""
        if not 0 < size <= MAX_QUEUE_SIZE or size & (size - 1):
            raise RingError(f"a ring of {size} descriptors; a power of two up to {MAX_QUEUE_SIZE} is possible")
        if addresses.descriptors % 16 or addresses.available % 2 or addresses.used % 4:
            raise RingError(f"a ring at misaligned addresses {addresses}")
        if inflight is not None and inflight.size < size:
            raise RingError(f"a ring of {size} descriptors with an inflight region for {inflight.size}")
        self.size = size
        self.base = base & 0xFFFF
        self.recovered: list[int] = []
        """Heads that a previous back end left unfinished, to be done before anything that :meth:`take` gives."""
        self._addresses = addresses
        self._mask = size - 1
        self._event_index = event_index
        self._inflight = inflight
        self.remap(memory)
        self._used_index = self._used_head[1]
        if inflight is not None:
            left = inflight.recover(self._used_index)
            if left:
                self.base = (self._used_index + len(left)) & 0xFFFF
                self.recovered = [head for head in left if head < size]

    def remap(self, memory: GuestMemory) -> None:
        """The front end has a new memory table: find the ring in it. Raises :class:`RingError`."""
        size = self.size
        try:
            descriptors = memory.user(self._addresses.descriptors, 16 * size)
            available = memory.user(self._addresses.available, 6 + 2 * size)
            used = memory.user(self._addresses.used, 6 + 8 * size)
        except AddressError as error:
            raise RingError(str(error)) from None
        self._memory = memory
        self._descriptors = descriptors
        self._available = available.cast("H")
        self._used_head = used[:4].cast("H")
        self._used = used[4 : 4 + 8 * size].cast("I")
        self._avail_event = used[4 + 8 * size :].cast("H")

    def take(self, limit: int) -> list[int]:
        """Up to ``limit`` new heads. When it gives none, the guest's next request comes with a kick."""
        available, mask, base = self._available, self._mask, self.base
        end = available[1]
        if base == end and self._event_index:
            self._avail_event[0] = end
            _barrier()
            end = available[1]
        count = (end - base) & 0xFFFF
        if count > self.size:
            raise RingError(f"{count} new requests in a ring of {self.size}")
        heads = [available[2 + ((base + number) & mask)] for number in range(min(count, limit))]
        for head in heads:
            if head >= self.size:
                raise RingError(f"descriptor {head} in a ring of {self.size}")
            if self._inflight is not None:
                self._inflight.begin(head)
        self.base = (base + len(heads)) & 0xFFFF
        return heads

    def chain(self, head: int) -> Chain:
        """The buffers of the request that begins at descriptor ``head``."""
        table, count = self._descriptors, self.size
        readable: list[memoryview] = []
        writable: list[memoryview] = []
        index, left, indirect = head, count, False
        guest = self._memory.guest
        try:
            while True:
                address, length, flags, following = _DESCRIPTOR.unpack_from(table, 16 * index)
                if flags & _INDIRECT:
                    if indirect or not length or length % 16 or length > 16 * MAX_QUEUE_SIZE:
                        raise RingError(
                            f"an indirect table of {length} bytes" + (" within another" if indirect else "")
                        )
                    table, count, index, indirect = guest(address, length), length // 16, 0, True
                    left = count
                    continue
                if flags & _WRITE:
                    pieces = writable
                elif writable:
                    raise RingError(f"request {head} has a buffer to read behind one to write")
                else:
                    pieces = readable
                try:
                    pieces.append(guest(address, length))
                except AddressError:
                    pieces += self._memory.guest_pieces(address, length)
                if not flags & _NEXT:
                    return Chain(readable, writable)
                left -= 1
                if not left:
                    raise RingError(f"request {head} is a loop of descriptors")
                if following >= count:
                    raise RingError(f"request {head} goes on at descriptor {following} of {count}")
                index = following
        except AddressError as error:
            raise RingError(f"request {head}: {error}") from None

    def give_back(self, done: list[tuple[int, int]]) -> bool:
        """Put finished requests, ``(head, bytes written)``, into the used ring. Does the guest want an interrupt?"""
        used, mask, index = self._used, self._mask, self._used_index
        before = index
        for head, written in done:
            slot = 2 * (index & mask)
            used[slot] = head
            used[slot + 1] = written
            index = (index + 1) & 0xFFFF
        if self._inflight is None:
            _barrier()
            self._used_head[1] = self._used_index = index
        else:
            heads = [head for head, _unused in done]
            self._inflight.finish(heads)
            _barrier()
            self._used_head[1] = self._used_index = index
            self._inflight.settle(heads, index)
        _barrier()
        if self._event_index:
            event = self._available[2 + self.size]
            return ((index - event - 1) & 0xFFFF) < ((index - before) & 0xFFFF)
        return not self._available[0] & _AVAIL_NO_INTERRUPT
