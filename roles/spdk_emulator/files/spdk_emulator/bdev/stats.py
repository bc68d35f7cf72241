"""Counters of I/O, as ``bdev_get_iostat`` shows them. Times are in nanoseconds, the emulator's ticks."""

from __future__ import annotations

import base64
import struct
from typing import Any

from ..framework.turns import turns

TICK_RATE = 1_000_000_000
NO_THREAD = 0
"""Where I/O counts that no thread with a channel has done, or has one no more."""

_READ, _WRITE, _UNMAP = 1, 2, 4
_KINDS = {_READ: "read", _WRITE: "write", _UNMAP: "unmap"}


class _Counter:
    """One kind of I/O."""

    __slots__ = ("operations", "bytes", "ticks", "most", "least")

    def __init__(self) -> None:
        self.operations = self.bytes = self.ticks = self.most = self.least = 0


class IoStats:
    """What a bdev has done for a thread so far: successes by kind, failures by status."""

    def __init__(self, thread: int = NO_THREAD) -> None:
        self._thread = thread
        self._forgotten = 0
        self.histogram: Histogram | None = None
        self.used = False
        """Something was done, be it forgotten meanwhile."""
        self.reset()

    def reset(self, mode: str = "all") -> None:
        """``all``; ``maxmin``: only the longest and shortest times; ``none``."""
        if mode == "all":
            if self.used:
                self._forgotten = self.done
            self._counters = {kind: _Counter() for kind in (*_KINDS, "copy")}
            self._errors: dict[str, int] = {}
        elif mode == "maxmin":
            for counter in self._counters.values():
                counter.most = counter.least = 0

    @property
    def done(self) -> int:
        """How many I/Os, those that were reset too."""
        return self._forgotten + sum(each.operations for each in self._counters.values()) + sum(self._errors.values())

    def count(self, op: int, length: int, ticks: int, status: int) -> None:
        self.used = True
        turns.working.add(self._thread)
        if status:
            self._errors["nvme"] = self._errors.get("nvme", 0) + 1
            return
        histogram = self.histogram
        if histogram is not None and histogram.counts and histogram.operation in (None, op):
            histogram.tally(ticks)
        counter = self._counters.get(op)
        if counter is None:
            return
        counter.operations += 1
        counter.bytes += length
        counter.ticks += ticks
        if ticks > counter.most:
            counter.most = ticks
        if ticks < counter.least or counter.operations == 1 or not counter.least:
            counter.least = ticks

    def as_json(self) -> dict[str, Any]:
        """SPDK's fields, in its order."""
        named = {_KINDS.get(kind, kind): counter for kind, counter in self._counters.items()}
        past = {"read": "read", "write": "written", "unmap": "unmapped", "copy": "copied"}
        answer: dict[str, Any] = {}
        for name, counter in named.items():
            answer[f"bytes_{past[name]}"] = counter.bytes
            answer[f"num_{name}_ops"] = counter.operations
        for name, counter in named.items():
            answer[f"{name}_latency_ticks"] = counter.ticks
            answer[f"max_{name}_latency_ticks"] = counter.most
            answer[f"min_{name}_latency_ticks"] = counter.least
        answer["io_error"] = dict(self._errors)
        return answer

    def add(self, other: IoStats) -> None:
        for kind, more in other._counters.items():
            counter = self._counters[kind]
            counter.operations += more.operations
            counter.bytes += more.bytes
            counter.ticks += more.ticks
            counter.most = max(counter.most, more.most)
            counter.least = min(counter.least or more.least, more.least or counter.least)
        for name, count in other._errors.items():
            self._errors[name] = self._errors.get(name, 0) + count


class BdevStats:
    """The counters of a bdev, for each thread that does I/O on it."""

    def __init__(self) -> None:
        self._threads: dict[int, IoStats] = {}
        self._histogram: Histogram | None = None

    def of(self, thread: int) -> IoStats:
        stats = self._threads.get(thread)
        if stats is None:
            stats = self._threads[thread] = IoStats(thread)
            stats.histogram = self._histogram
        return stats

    def keep(self, threads: list[int]) -> None:
        """Only these threads have a channel still; what others have counted is the bdev's."""
        for thread in self._threads.keys() - {*threads, NO_THREAD}:
            self.of(NO_THREAD).add(self._threads.pop(thread))

    @property
    def histogram(self) -> Histogram | None:
        return self._histogram

    @histogram.setter
    def histogram(self, histogram: Histogram | None) -> None:
        self._histogram = histogram
        for stats in self._threads.values():
            stats.histogram = histogram

    def reset(self, mode: str = "all") -> None:
        for stats in self._threads.values():
            stats.reset(mode)

    def as_json(self) -> dict[str, Any]:
        """Of all threads."""
        total = IoStats()
        for stats in self._threads.values():
            total.add(stats)
        return total.as_json()


class Histogram:
    """Counts of latencies: ``2**granularity`` buckets for each power of two between two times, as in SPDK's layout."""

    def __init__(self, granularity: int, least: int, most: int, operation: int | None, counts: bool = True) -> None:
        """From ``least`` up to, and without, ``most`` nanoseconds; ``operation`` None counts all.

        Without ``counts`` it stays empty: what SPDK answers for a histogram that was switched off.
        """
        self.counts = counts
        self.granularity = granularity
        self.operation = operation
        self.min_range = self._range(least)
        self.max_range = self._range(most - 1)
        self.buckets = [0] * ((self.max_range - self.min_range + 1) << granularity)

    def _range(self, value: int) -> int:
        return max(0, value.bit_length() - self.granularity)

    def tally(self, value: int) -> None:
        each, number = 1 << self.granularity, self._range(value)
        if number < self.min_range:
            position = 0
        elif number > self.max_range:
            position = len(self.buckets) - 1
        else:
            position = (number - self.min_range) * each + ((value >> max(0, number - 1)) & (each - 1))
        self.buckets[position] += 1

    def as_json(self) -> dict[str, Any]:
        packed = struct.pack(f"<{len(self.buckets)}Q", *self.buckets)
        return {
            "histogram": base64.b64encode(packed).decode(),
            "granularity": self.granularity,
            "min_range": self.min_range,
            "max_range": self.max_range,
            "tsc_rate": TICK_RATE,
        }
