"""Look for secrets on command lines and in environments of all processes, until a file appears or they are gone.

    watch.py SECRETS STOP RESULT

SECRETS has one a line. What is found goes to RESULT, a line each without the secret, and then how often was looked and
how often the watcher's own command line was seen, which has no secret: who does not see that sees nothing.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

MINUTES = 30


def main() -> None:
    secrets, stop, result = (Path(argument) for argument in sys.argv[1:])
    wanted = [line.lower() for line in secrets.read_bytes().split()]
    found: set[str] = set()
    looks = seen = 0
    # A scenario that fails removes its directory at the cleanup, or leaves it: no watcher is there for ever.
    end = time.monotonic() + MINUTES * 60
    while not stop.exists() and secrets.exists() and time.monotonic() < end:
        for process in Path("/proc").glob("[0-9]*"):
            for what in ("cmdline", "environ"):
                try:
                    text = (process / what).read_bytes().lower()
                    seen += str(result).encode().lower() in text
                    if any(secret in text for secret in wanted):
                        found.add(f"{what} of {(process / 'comm').read_text().strip()}")
                except OSError:
                    continue  # it has ended
        looks += 1
        time.sleep(0.05)
    if not stop.exists():
        return
    result.write_text(
        "".join(f"{line}\n" for line in sorted(found)) + f"looked {looks} times, saw itself {seen} times\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
