"""Suites of tests: what they count, and two or more lanes of them at the same time.

A suite is a function that runs commands through its :class:`Results`. Suites of one lane run one after the other; those
that are bound to no lane have a lane too, and are taken over by any other one that has nothing of its own left.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from .commands import Failure, interrupt, stream

CLEANUP_SECONDS = 60
"""How long commands may take to end when they are interrupted; who interrupts once more does not wait for them."""


@dataclass(frozen=True)
class Suite:
    """``lane``: suites that cannot run at the same time have the same one; empty: it may run beside any other.
    ``after``: it waits for that one, of another lane.
    """

    run: Callable[[Results], None]
    lane: str = ""
    after: str = ""


class Console:
    """Where suites say what they do.

    Alone, the output of a command appears as it comes. Where others run beside it, it appears whole when the command
    ends, and lines in between tell how far each suite is.
    """

    def __init__(self, alone: bool) -> None:
        self.alone = alone
        self._unfinished: dict[str, bytearray] = {}
        """What commands have printed that nobody has seen, by suite."""
        self._lock = threading.Lock()
        self._start = time.monotonic()

    def begins(self, suite: str) -> None:
        self._print(f"\n=== {suite}" if self.alone else f"{self._clock()} {suite}: begins")

    def ends(self, suite: str, summary: str) -> None:
        if not self.alone:
            self._print(f"{self._clock()} {suite}: {summary}")

    def run(self, suite: str, command: list[str], cwd: Path, environment: Mapping[str, str] | None) -> tuple[int, str]:
        """Exit status and output of a command."""
        line = f"$ {' '.join(command)}"
        if self.alone:
            self._print(line)
            return stream(command, cwd, environment)
        self._print(f"{self._clock()} {suite}: {line}")
        heading = f"\n=== {suite}: {line}\n"
        self._unfinished[suite] = bytearray(heading.encode())
        try:
            status, output = stream(command, cwd, environment, self._unfinished[suite].extend)
        finally:
            del self._unfinished[suite]
        self._print(f"{heading}{output.rstrip()}\n=== {suite}: exit status {status}\n")
        return status, output

    def interrupted(self) -> None:
        """Show what is there of the commands that have not ended."""
        for output in self._unfinished.copy().values():
            self._print(f"{output.decode(errors='replace').rstrip()}\n=== interrupted\n")

    def _clock(self) -> str:
        minutes, seconds = divmod(round(time.monotonic() - self._start), 60)
        return f"[{minutes:02}:{seconds:02}]"

    def _print(self, text: str) -> None:
        with self._lock:
            print(text, flush=True)


@dataclass
class Results:
    """Results of one suite, which runs its commands here."""

    name: str
    console: Console
    directory: Path
    """Where commands run that say nothing else."""
    environment: Mapping[str, str] | None = None
    """Of every command; None: this process's own."""
    passed: int = 0
    failures: list[Failure] = field(default_factory=list)
    skips: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        return len(self.failures)

    @property
    def skipped(self) -> int:
        return len(self.skips)

    def __str__(self) -> str:
        skipped = f", {self.skipped} skipped" if self.skips else ""
        return f"{self.passed} passed, {self.failed} failed{skipped} in {self.seconds:.0f} s"

    def add(self, name: str, ok: bool, output: str = "") -> None:
        if ok:
            self.passed += 1
        else:
            self.failures.append(Failure(name, output))

    def call(
        self, command: list[str], cwd: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Exit status and output of a command that is no test by itself."""
        return self.console.run(self.name, command, cwd or self.directory, environment or self.environment)

    def test(self, name: str, command: list[str], environment: Mapping[str, str] | None = None) -> None:
        """Run a command that is one test."""
        status, output = self.call(command, environment=environment)
        self.add(name, status == 0, output)

    def add_junit(self, path: Path, status: int, name: str, output: str) -> None:
        """Count the test cases of JUnit files; a run that failed without a failing case counts as one failure."""
        cases = failed = 0
        for file in [path] if path.is_file() else sorted(path.glob("*.xml")):
            for case in ElementTree.parse(file).iter("testcase"):
                title = f"{case.get('classname', '')}::{case.get('name', '')}"
                cases += 1
                broken = [*case.findall("failure"), *case.findall("error")]
                if broken:
                    self.add(title, False, "\n".join(item.text or item.get("message", "") for item in broken))
                    failed += 1
                elif case.find("skipped") is not None:
                    self.skips.append(title)
                else:
                    self.add(title, True)
        if cases == 0 or (status != 0 and failed == 0):
            self.add(f"{name} (exit status {status}, {cases} cases)", False, output)


def run_suites(
    suites: Mapping[str, Suite],
    directory: Path,
    environment: Mapping[str, str] | None,
    report: Callable[[list[Results]], None],
) -> list[Results]:
    """Run suites, lane beside lane; the results in the order of ``suites``.

    ``report`` is called each time that a suite has ended, with the results that there are, in that order.
    """
    lanes = sorted({suite.lane for suite in suites.values()})
    waiting = list(suites)
    console = Console(alone=len(lanes) == 1)
    ended: dict[str, Results] = {}
    over = {name: threading.Event() for name in suites}
    lock = threading.Lock()
    stop = threading.Event()

    def take(lane: str) -> str | None:
        """The next suite of a lane; without one, the next that is bound to none."""
        with lock:
            if stop.is_set():
                return None
            for wanted in (lane, ""):
                for name in waiting:
                    if suites[name].lane == wanted:
                        waiting.remove(name)
                        return name
        return None

    def work(lane: str) -> None:
        while (name := take(lane)) is not None:
            if suites[name].after in over:
                assert suites[suites[name].after].lane != suites[name].lane, f"{name} would wait for ever"
                over[suites[name].after].wait()
                if stop.is_set():
                    return
            results = Results(name, console, directory, environment)
            console.begins(name)
            start = time.monotonic()
            try:
                suites[name].run(results)
            except Exception:  # a thread's own end would be silent
                results.add("the suite was broken off", False, traceback.format_exc())
            results.seconds = round(time.monotonic() - start, 1)
            console.ends(name, str(results))
            with lock:
                ended[name] = results
                report([ended[each] for each in suites if each in ended])
            over[name].set()

    # Threads that are joined when a signal comes may be taken for dead (bpo-45274): each says itself that it has ended.
    idle = {lane: threading.Event() for lane in lanes}

    def start(lane: str) -> None:
        try:
            work(lane)
        finally:
            idle[lane].set()

    try:
        for lane in lanes:
            threading.Thread(target=start, args=(lane,), daemon=True).start()
        for event in idle.values():
            while not event.wait(1):  # not for ever: a signal that comes just before the wait begins does not end it
                pass
    except BaseException as error:
        # No next command begins; those that run may remove what they made.
        stop.set()
        for event in over.values():
            event.set()
        interrupt(told=isinstance(error, KeyboardInterrupt))
        until = time.monotonic() + CLEANUP_SECONDS
        for event in idle.values():
            event.wait(max(0, until - time.monotonic()))
        console.interrupted()
        raise
    return [ended[name] for name in suites]
