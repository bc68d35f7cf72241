"""Commands whose output is streamed as it comes and whose failures are explained again at the end of a long log."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

FAILURE_LINES = 60
"""Of one failure, where there are few."""
ALL_LINES = 200
"""Of all failures together, so that the last screens of a log hold every one of them."""
UNMARKED_LINES = 40
"""The end of an output in which nothing says where the failure begins."""
LINE_CHARACTERS = 600
DRAIN_SECONDS = 5
"""How long the rest of an output may take after the command's end: a process that it left behind may hold the pipe."""

# Where a failure begins. A task of Ansible's is shown from its heading on, also where a test's assertion quotes the
# whole play; what else pytest writes about a case, from a few lines before the first line of its error.
TASK = re.compile(r"(E +)?(fatal|failed): \[")
RESULT = re.compile(r"((?:E +)?(?:fatal|failed): \[.*? => )(\{.*\})$")
ERROR = re.compile(r"E   |=+ (FAILURES|ERRORS) =+$|ERROR\b|CRITICAL\b|Traceback \(most recent call last\)")
HEADING = re.compile(r"(E +)?(TASK|RUNNING HANDLER) \[")
CONTEXT_LINES = 8
COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
BORDER = re.compile(r"^\s*│ ?")
"""What Molecule draws before each line of Ansible's where it takes its output for a terminal's."""
REASON_CHARACTERS = 600
REASON_LINES = 12
# Secrets as NVMe and ssh write them. No command prints one; what is printed twice is looked at once more.
SECRET = re.compile(r"(?:DHHC-1:\d\d:|NVMeTLSkey-1:\d\d:)[A-Za-z0-9+/=]+:?|-----BEGIN [A-Z ]*PRIVATE KEY-----.*")


@dataclass
class Failure:
    """What failed, a command or a test case of one, and what it printed."""

    name: str
    output: str = ""


_running: set[subprocess.Popen[bytes]] = set()
"""What :func:`stream` runs now."""
_running_lock = threading.Lock()
_interrupted = False
"""Nothing more is run."""


def show(chunk: bytes) -> None:
    sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


def stream(
    command: list[str], cwd: Path, env: Mapping[str, str] | None = None, sink: Callable[[bytes], None] = show
) -> tuple[int, str]:
    """Run a command in an environment (None: this process's own). Returns its exit status and output, errors too.

    ``sink`` gets what it prints at once, from another thread. After :func:`interrupt` nothing is run: the thread ends.
    """
    with _running_lock:
        if _interrupted:
            raise SystemExit
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        _running.add(process)
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    chunks: list[bytes] = []

    def copy() -> None:
        while chunk := os.read(pipe, 65536):
            chunks.append(chunk)
            sink(chunk)

    sys.stdout.flush()
    reader = threading.Thread(target=copy, daemon=True)
    reader.start()
    status = process.wait()
    _running.discard(process)
    reader.join(DRAIN_SECONDS)
    return status, b"".join(chunks).decode(errors="replace")


def interrupt(told: bool) -> None:
    """Run nothing more, and interrupt what runs with all its processes, as Ctrl-C does, so that it can clean up.

    ``told``: the terminal has done that already.
    """
    global _interrupted
    with _running_lock:
        _interrupted = True
        running = [process.pid for process in _running]
    for pid in [] if told else [each for leader in running for each in family(leader)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has ended meanwhile
            found += [each for child in children.read_text(encoding="ascii").split() for each in family(int(child))]
    return found


def explain(failures: list[Failure]) -> list[str]:
    """What matters of each failure's output, in at most about ``ALL_LINES`` lines for all of them."""
    lines: list[str] = []
    share = min(FAILURE_LINES, max(6, ALL_LINES // max(1, len(failures)) - 2))
    shown = failures[: ALL_LINES // (share + 2)]
    for failure in shown:
        lines += ["", f"--- failed: {clean(failure.name)}", *excerpt(failure.output, share)]
    if len(shown) < len(failures):
        lines += ["", f"--- and {len(failures) - len(shown)} further failures"]
    return lines


def excerpt(output: str, limit: int = FAILURE_LINES) -> list[str]:
    """The lines from where the failure begins on, else the last ones; the middle goes where that is too long."""
    lines = [clean(line) for line in output.rstrip().splitlines()]
    begin = beginning(lines)
    if begin is None:
        return lines[-min(limit, UNMARKED_LINES) :]
    lines = lines[begin:]
    if len(lines) <= limit:
        return lines
    tail = limit // 3
    head = limit - tail - 1
    return [*lines[:head], f"[… {len(lines) - head - tail} lines …]", *lines[-tail:]]


def reason(failure: Failure) -> str:
    """One line: what failed and the first words of why, for the last lines of a log are read first."""
    lines = [clean(line) for line in failure.output.rstrip().splitlines()]
    begin = beginning(lines)
    if begin is None:
        return clean(failure.name)
    told = next(n for n in range(begin, len(lines)) if TASK.match(lines[n]) or ERROR.match(lines[n]))
    why = " ".join(line.strip() for line in lines[told : told + REASON_LINES])
    return f"{clean(failure.name)}: {why[:REASON_CHARACTERS]}"


def beginning(lines: list[str]) -> int | None:
    """The number of the first line that belongs to a failure; None if no line says so. What Ansible ignores is none."""
    heading, error = 0, None
    for number, line in enumerate(lines):
        if error is not None and not line.startswith("E   "):
            return error
        if HEADING.match(line):
            heading = number
        if TASK.match(line):
            if not ignored(lines[number + 1 :]):
                return max(heading, number - CONTEXT_LINES)
        elif ERROR.match(line):
            if not line.startswith("E   "):
                return number
            error = max(0, number - CONTEXT_LINES) if error is None else error
    return error


def ignored(after: list[str]) -> bool:
    """Whether Ansible goes on after a failed task, by the lines behind it: the rest of its result, then this word."""
    end = next((line for line in after if line in ("", "...ignoring") or HEADING.match(line)), "")
    return end == "...ignoring"


def clean(line: str) -> str:
    """A line without colours, border and secrets; of a long result its message; shortened in its middle."""
    line = SECRET.sub("[secret]", BORDER.sub("", COLOUR.sub("", line)))
    if len(line) > LINE_CHARACTERS:
        line = message(line)
    if len(line) <= LINE_CHARACTERS:
        return line
    half = LINE_CHARACTERS // 2
    return f"{line[:half]} [… {len(line) - 2 * half} characters …] {line[-half:]}"


def message(line: str) -> str:
    """What a failed task's line says beside all that the module returns; the line where it holds no such thing."""
    told = RESULT.match(line)
    try:
        return f"{told[1]}{json.loads(told[2])['msg']}" if told else line
    except (ValueError, KeyError):
        return line
