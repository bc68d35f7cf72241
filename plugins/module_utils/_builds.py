# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How far a build is, read from what docker, mmdebstrap and apt print while they work."""

from __future__ import annotations

import re
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

LAST_LINES = 25
"""Of a build's output, for the message where it fails."""

_STEP = re.compile(r"Step (\d+)/(\d+) : (.+)")
_TO_COME = re.compile(r"\d+ (?:packages )?upgraded, (\d+) newly installed")
_PACKAGE = re.compile(r"Setting up (\S+)")
_STAGE = re.compile(r"I: (.+)")


class State(NamedTuple):
    done: int
    total: int
    name: str
    rate: str


class BuildLog:
    """Fed with the lines of a build's output; knows the state after each.

    What counts is packages while apt installs some, and the steps of a Dockerfile otherwise; there may be neither.
    """

    def __init__(self) -> None:
        self._step = (0, 0, "")
        self._packages = 0
        self._to_come = 0
        self._package = ""
        self._start = self._began = time.monotonic()

    def feed(self, line: str) -> State:
        """The state once this line was printed."""
        step, to_come, package, stage = (one.match(line) for one in (_STEP, _TO_COME, _PACKAGE, _STAGE))
        if step:
            self._step = (int(step[1]), int(step[2]), f"{step[3][:60].strip()}")
            self._to_come = 0
        elif stage:
            self._step = (self._step[0], self._step[1], stage[1][:60].strip())
        elif to_come:
            self._packages, self._to_come, self._package, self._began = 0, int(to_come[1]), "", time.monotonic()
        elif package:
            self._packages += 1
            self._package = package[1]
        if self._to_come > self._packages:
            seconds = time.monotonic() - self._began
            rate = f"{self._packages / seconds if seconds else 0:.1f} packages/s"
            return State(self._packages, self._to_come, self._package or self._step[2], rate)
        return State(*self._step, f"{time.monotonic() - self._start:.0f} s so far")


def run(argv: Sequence[str], log: BuildLog, tell: Callable[[State], None]) -> tuple[int, list[str]]:
    """Run a command to its end; its status, and the last lines of all that it printed. ``tell`` hears every new state.

    Raises OSError where there is no such program.
    """
    last: deque[str] = deque(maxlen=LAST_LINES)
    state = None
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        for raw in process.stdout or ():
            last.append(raw.decode("utf-8", "replace").rstrip())
            before, state = state, log.feed(last[-1])
            if before is None or state[:3] != before[:3]:
                tell(state)
    return process.returncode, list(last)
