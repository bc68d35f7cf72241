"""Watch how the I/O of disks goes on while something is broken; tell for how many seconds it stood still at most.

Runs in the guest, and looks at nothing but the kernel's own counters:

    watch.py stall READY ANSWER DISK...          until I/O has stood still for a while, and all disks go on
    watch.py steady READY ANSWER TOLD DISK...    until the file TOLD is there and all disks have gone on since then

READY is a file that it makes as soon as it watches, ANSWER one that takes the seconds, and is not there before. Ends
with 1 where that has not happened within TIMEOUT seconds, or where I/O stood still that had to be steady.
"""

from __future__ import annotations

import os
import sys
import time

STILL = 0.7
"""Seconds without a completed request that count as standing still: a busy guest without KVM makes shorter pauses."""
ON = 2.0
"""Seconds that I/O which stood still then has to go on."""
REQUESTS = 200
"""Requests that each disk completes after TOLD, to have gone on."""
TIMEOUT = 180.0
PAUSE = 10.0
"""Seconds without a completed request that no busy machine explains: then steady I/O did stand still."""


class Disk:
    """A disk, by the name that the kernel gave it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = self._completed()
        self.last = time.monotonic()
        self.longest = 0.0

    def look(self) -> None:
        count, now = self._completed(), time.monotonic()
        self.longest = max(self.longest, now - self.last)
        if count != self.count:
            self.count, self.last = count, now

    def _completed(self) -> int:
        with open(f"/sys/block/{self.name}/stat", encoding="ascii") as file:
            fields = file.read().split()
        return int(fields[0]) + int(fields[4])


class Stall:
    """Over when some disk stood still, and then all of them went on for a while."""

    def __init__(self) -> None:
        self._longest = STILL
        self._since = 0.0

    def over(self, disks: list[Disk], now: float) -> bool:
        longest = max(disk.longest for disk in disks)
        if longest > self._longest:
            self._longest, self._since = longest, now
        return bool(self._since) and now - self._since > ON and all(disk.last > self._since for disk in disks)


class Steady:
    """Over when all disks have completed requests since somebody said that what was to be broken is broken."""

    def __init__(self, told: str) -> None:
        self._told = told
        self._counts: list[int] = []

    def over(self, disks: list[Disk], _now: float) -> bool:
        if not self._counts and os.path.exists(self._told):
            self._counts = [disk.count for disk in disks]
        return bool(self._counts) and all(disk.count >= before + REQUESTS for disk, before in zip(disks, self._counts))


def main() -> int:
    kind, ready, answer, *names = sys.argv[1:]
    watched: Stall | Steady = Stall() if kind == "stall" else Steady(names.pop(0))
    disks = [Disk(name) for name in names]
    begin = time.monotonic()
    with open(ready, "w", encoding="ascii"):
        pass
    while time.monotonic() < begin + TIMEOUT:
        time.sleep(0.05)
        for disk in disks:
            disk.look()
        if isinstance(watched, Steady) and any(disk.longest > PAUSE for disk in disks):
            break
        if watched.over(disks, time.monotonic()):
            with open(answer + ".new", "w", encoding="ascii") as file:
                print(f"{max(disk.longest for disk in disks):.1f}", file=file)
            os.rename(answer + ".new", answer)
            return 0
    for disk in disks:
        still = time.monotonic() - disk.last
        print(f"{disk.name}: stood still for {disk.longest:.1f} s at most, and last for {still:.1f} s", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
