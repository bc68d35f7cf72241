"""The inflight region: which requests a back end had taken and not finished when it died.

The front end keeps this shared memory over a back end's death and hands it to the next one (SET_INFLIGHT_FD). Requests
are completed out of order, so the rings alone do not say it. Layout and order of updates: the vhost-user protocol
document, "Inflight I/O tracking", split virtqueue.
"""

from __future__ import annotations

import mmap
import os
import struct

from .memory import map_file
from .messages import InflightRegion, ProtocolError

_HEAD = struct.Struct("<QHHHH")
_STATE_SIZE = 16
_NEXT = 6
"""Of the 16 bytes of one descriptor's state, byte 0 is its flag, 6 and 7 the next of its batch, 8 to 15 a counter."""
MAX_QUEUE_SIZE = 1024
VERSION = 1


def region_size(queues: int, queue_size: int) -> int:
    """Bytes, in whole pages."""
    size = queues * _stride(queue_size)
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _stride(queue_size: int) -> int:
    """One queue's part; a cache line's multiple, so that its 64-bit counters are aligned."""
    return -(-(_HEAD.size + queue_size * _STATE_SIZE) // 64) * 64


def create(queues: int, queue_size: int) -> tuple[int, InflightRegion]:
    """A new region and its file descriptor. Raises :class:`ProtocolError` for sizes that no device here has."""
    if not (0 < queues <= 256 and 0 < queue_size <= MAX_QUEUE_SIZE):
        raise ProtocolError(f"an inflight region for {queues} queues of {queue_size} descriptors")
    region = InflightRegion(region_size(queues, queue_size), 0, queues, queue_size)
    fd = os.memfd_create("vhost-inflight", os.MFD_CLOEXEC)
    os.ftruncate(fd, region.size)
    return fd, region


def open_queues(fd: int, region: InflightRegion) -> list[QueueInflight]:
    """One log a queue. The caller keeps ``fd``. Raises :class:`ProtocolError`."""
    stride = _stride(region.queue_size)
    if not 0 < region.queue_size <= MAX_QUEUE_SIZE or region.queues * stride > region.size:
        raise ProtocolError(
            f"an inflight region of {region.size} bytes for {region.queues} queues of {region.queue_size} descriptors"
        )
    view = memoryview(map_file(fd, region.offset + region.size).memory)
    return [
        QueueInflight(view[start : start + stride], region.queue_size)
        for start in range(region.offset, region.offset + region.queues * stride, stride)
    ]


class QueueInflight:
    """The log of one split virtqueue.

    ``begin`` when a request is taken; ``finish`` for a batch *before* and ``settle`` *after* the used index that covers
    it is published; ``recover`` once, before the ring is used.
    """

    def __init__(self, view: memoryview, size: int) -> None:
        self._view = view
        self.size = size
        self._counter = 0
        self._words = view[: _HEAD.size + size * _STATE_SIZE].cast("H")
        self._counters = view[_HEAD.size : _HEAD.size + size * _STATE_SIZE].cast("Q")

    def begin(self, head: int) -> None:
        self._counters[2 * head + 1] = self._counter
        self._counter += 1
        self._view[_HEAD.size + head * _STATE_SIZE] = 1

    def finish(self, heads: list[int]) -> None:
        words = self._words
        for head in heads:
            words[(_HEAD.size + head * _STATE_SIZE + _NEXT) // 2] = words[6]
            words[6] = head

    def settle(self, heads: list[int], used_index: int) -> None:
        for head in heads:
            self._view[_HEAD.size + head * _STATE_SIZE] = 0
        self._words[7] = used_index

    def recover(self, used_index: int) -> list[int]:
        """The heads that were taken and not finished, oldest first. The region is not trusted to make sense."""
        view, words = self._view, self._words
        _features, version, size, last_head, seen = _HEAD.unpack_from(view)
        if version != VERSION or size != self.size:
            view[:] = bytes(len(view))
            _HEAD.pack_into(view, 0, 0, VERSION, self.size, 0, used_index)
            return []
        # The last batch was published and not yet struck from the log.
        for _unused in range(min((used_index - seen) & 0xFFFF, self.size)):
            if last_head >= self.size:
                break
            view[_HEAD.size + last_head * _STATE_SIZE] = 0
            last_head = words[(_HEAD.size + last_head * _STATE_SIZE + _NEXT) // 2]
        words[7] = used_index
        heads = [head for head in range(self.size) if view[_HEAD.size + head * _STATE_SIZE]]
        heads.sort(key=lambda head: self._counters[2 * head + 1])
        self._counter = (self._counters[2 * heads[-1] + 1] + 1) & 0xFFFF_FFFF if heads else 0
        return heads
