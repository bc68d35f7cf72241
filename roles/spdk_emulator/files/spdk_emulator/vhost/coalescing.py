"""Interrupt coalescing: when a queue is busier than a threshold, its interrupts may come later.

As in SPDK, the rate is looked at every 10 ms, and the delay grows with what exceeds the threshold:
``delay_base * (rate - threshold) / threshold``.
"""

from __future__ import annotations

from dataclasses import dataclass

WINDOW = 0.010
"""Seconds."""


@dataclass
class Coalescing:
    """What ``vhost_controller_set_coalescing`` sets. A base of 0 means: interrupt at once."""

    delay_base_us: int = 0
    iops_threshold: int = 60000


class Rate:
    """The requests of one queue, counted in windows."""

    def __init__(self) -> None:
        self._begin = 0.0
        self._count = 0
        self._delay = 0.0

    def delay(self, requests: int, now: float, settings: Coalescing) -> float:
        """Count ``requests`` that were done now; how long to wait with their interrupt, in seconds."""
        if now - self._begin >= WINDOW:
            threshold = settings.iops_threshold * WINDOW
            excess = max(0.0, self._count - threshold) / threshold
            self._delay = settings.delay_base_us / 1e6 * excess
            self._begin, self._count = now, 0
        self._count += requests
        return self._delay
