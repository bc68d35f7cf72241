"""Rate limits of a bdev: what is set, and how I/O is held back by it."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .models import BdevIo

LIMITS = ("rw_ios_per_sec", "rw_mbytes_per_sec", "r_mbytes_per_sec", "w_mbytes_per_sec")
"""In SPDK's order. MB means MiB; 0 is no limit."""
UNSET = 2**64 - 1
"""As a limit in a request: leave this one as it is."""

_MIB = 1024 * 1024
_IOS_STEP = 1000
_MOST_MBYTES = (2**64 - 1) // _MIB
_SLICE_SECONDS = 0.01
"""How much of a second's tokens may be saved up, and how long I/O that found none waits before it asks again."""
_READ, _WRITE = 1, 2


class Bucket:
    """Tokens that come back with time. It may be overdrawn by one request, so that any size gets through."""

    __slots__ = ("rate", "tokens", "filled")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.tokens = rate * _SLICE_SECONDS
        self.filled = time.monotonic()

    def fill(self, now: float, late: bool) -> None:
        """Put in what has come since the last time.

        What I/O has waited for is not lost where this process is ``late``, as in SPDK, which makes up for every slice
        of time that it missed. Nothing else is saved up.
        """
        waited = late and self.tokens <= 0
        self.tokens += (now - self.filled) * self.rate
        self.filled = now
        if not waited:
            self.tokens = min(self.rate * _SLICE_SECONDS, self.tokens)

    def wait(self) -> float:
        """Seconds until there are tokens again; 0 where there are."""
        return 0.0 if self.tokens > 0 else -self.tokens / self.rate


class Qos:
    """The limits of one bdev, in the units of ``bdev_set_qos_limit``."""

    def __init__(self, submit: Callable[[BdevIo], None]) -> None:
        self._submit = submit
        self._limits = dict.fromkeys(LIMITS, 0)
        self._buckets: dict[str, Bucket] = {}
        self._held: deque[BdevIo] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.enabled = False
        """SPDK keeps its state from the first limit to the removal of the last."""
        self._channel = False
        """SPDK keeps the first I/O channel that there is while it has limits, until nobody has the bdev open."""

    def as_json(self) -> dict[str, int]:
        return dict(self._limits)

    def set(self, wanted: dict[str, int], in_use: bool) -> None:
        """``wanted``: a limit each, :data:`UNSET` to keep one. Raises ``OSError`` (EAGAIN) where SPDK would: it cannot
        change the limits of a bdev that nobody has done I/O on since it has any."""
        self._channel = self._channel or in_use
        if self.enabled and not self._channel:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        for name, value in wanted.items():
            if value == UNSET:
                continue
            ios = name == "rw_ios_per_sec"
            limit = -(-value // _IOS_STEP) * _IOS_STEP if ios else min(value, _MOST_MBYTES)
            self._limits[name] = limit
            self._buckets.pop(name, None)
            if limit:
                self._buckets[name] = Bucket(limit if ios else limit * _MIB)
        self.enabled = any(self._limits.values())
        self._channel = self._channel and self.enabled
        if self._timer is not None:
            self._timer.cancel()
            self._release()

    @property
    def holds(self) -> bool:
        """I/O has to go through :meth:`admit`."""
        return bool(self._buckets or self._held)

    def admit(self, io: BdevIo) -> None:
        """Submit now, or as soon as the limits allow it; in order."""
        self._channel = True
        self._held.append(io)
        if len(self._held) == 1:
            self._release(late=False)

    def _release(self, late: bool = True) -> None:
        """``late``: there has been I/O that waits, all the time since the last look."""
        self._timer = None
        now = time.monotonic()
        for bucket in self._buckets.values():
            bucket.fill(now, late)
        while self._held:
            io = self._held[0]
            charges = self._charges(io)
            wait = max((bucket.wait() for bucket, _unused in charges), default=0.0)
            if wait > 0:
                delay = min(wait, _SLICE_SECONDS)
                self._timer = asyncio.get_running_loop().call_later(delay, self._release)
                return
            for bucket, cost in charges:
                bucket.tokens -= cost
            self._submit(self._held.popleft())
            if self._timer is not None:  # what was submitted is done, and its owner has sent more
                return

    def _charges(self, io: BdevIo) -> list[tuple[Bucket, int]]:
        """What one I/O costs. Only reads and writes count, as in SPDK."""
        if io.op not in (_READ, _WRITE):
            return []
        direction = "r_mbytes_per_sec" if io.op == _READ else "w_mbytes_per_sec"
        costs = {"rw_ios_per_sec": 1, "rw_mbytes_per_sec": io.length, direction: io.length}
        return [(bucket, costs[name]) for name, bucket in self._buckets.items() if name in costs]

    def closed(self) -> None:
        """Nobody has the bdev open any more. It keeps its limits."""
        self._channel = False

    def abort(self, status: int) -> None:
        """Complete what is held back with this status: the bdev goes away."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._held:
            self._held.popleft().complete(status)
