"""Rate limits of a bdev."""

from __future__ import annotations

LIMITS = ("rw_ios_per_sec", "rw_mbytes_per_sec", "r_mbytes_per_sec", "w_mbytes_per_sec")
"""In SPDK's order. MB means MiB; 0 is no limit."""


class Qos:
    """What is set, in the units of ``bdev_set_qos_limit``."""

    def __init__(self) -> None:
        self._limits = dict.fromkeys(LIMITS, 0)

    def as_json(self) -> dict[str, int]:
        return dict(self._limits)
