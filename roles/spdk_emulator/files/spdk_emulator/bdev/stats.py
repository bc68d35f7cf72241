"""Counters of I/O, as ``bdev_get_iostat`` shows them. Times are in nanoseconds, the emulator's ticks."""

from __future__ import annotations

from typing import Any

TICK_RATE = 1_000_000_000

_READ, _WRITE, _UNMAP = 1, 2, 4
_KINDS = {_READ: "read", _WRITE: "write", _UNMAP: "unmap"}


class _Counter:
    """One kind of I/O."""

    __slots__ = ("operations", "bytes", "ticks", "most", "least")

    def __init__(self) -> None:
        self.operations = self.bytes = self.ticks = self.most = self.least = 0


class IoStats:
    """What a bdev has done so far: successes by kind, failures by status."""

    def __init__(self) -> None:
        self.reset()

    def reset(self, mode: str = "all") -> None:
        """``all``; ``maxmin``: only the longest and shortest times; ``none``."""
        if mode == "all":
            self._counters = {kind: _Counter() for kind in (*_KINDS, "copy")}
            self._errors: dict[str, int] = {}
        elif mode == "maxmin":
            for counter in self._counters.values():
                counter.most = counter.least = 0

    def count(self, op: int, length: int, ticks: int, status: int) -> None:
        if status:
            self._errors["nvme"] = self._errors.get("nvme", 0) + 1
            return
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
