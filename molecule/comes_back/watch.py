"""Wait until a disk's I/O has stood still for a while and then has gone on; tell the seconds that it stood still.

Runs in the guest: watch.py DISK READY SECONDS. READY is a file that it makes as soon as it watches, SECONDS one that
takes the answer, and is not there before. The kernel's own counters are what it looks at. Ends with 1 where nothing of
the kind happened within TIMEOUT seconds.
"""

import os
import sys
import time

STILL = 0.7
"""Seconds without a completed request that count as standing still: a busy guest without KVM makes shorter pauses."""
ON = 2.0
"""Seconds that the I/O then has to go on."""
TIMEOUT = 180.0


def completed(disk: str) -> int:
    with open(f"/sys/block/{disk}/stat", encoding="ascii") as file:
        fields = file.read().split()
    return int(fields[0]) + int(fields[4])


def main() -> int:
    disk, ready, answer = sys.argv[1:]
    begin = last = time.monotonic()
    count = completed(disk)
    longest = resumed = 0.0
    with open(ready, "w", encoding="ascii"):
        pass
    while time.monotonic() < begin + TIMEOUT:
        time.sleep(0.05)
        now, done = time.monotonic(), completed(disk)
        if done != count:
            if now - last > max(longest, STILL):
                longest, resumed = now - last, now
            count, last = done, now
            if longest and now - resumed > ON:
                with open(answer + ".new", "w", encoding="ascii") as file:
                    print(f"{longest:.1f}", file=file)
                os.rename(answer + ".new", answer)
                return 0
    print(f"in {TIMEOUT:g} s the I/O of {disk} never stood still and went on", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
