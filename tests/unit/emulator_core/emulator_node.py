"""Start emulators as processes and talk to them over their socket."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.trace_reader import leave_nothing

FILES = Path(__file__).parents[3] / "roles" / "spdk_emulator" / "files"
SECONDS = 60.0
"""The longest that anything here may take."""


class Emulator:
    """A running ``python3 -m spdk_emulator``."""

    def __init__(self, path: Path, *arguments: str) -> None:
        self.path = path
        command = [sys.executable, "-m", "spdk_emulator", "-r", str(path), *arguments]
        self._log = path.with_suffix(".log")
        with self._log.open("wb") as log:  # a pipe that nobody reads would block it
            self.process = subprocess.Popen(command, cwd=FILES, stderr=log)

    def connect(self) -> socket.socket:
        """A new connection, as soon as somebody listens."""
        deadline = time.monotonic() + SECONDS
        while True:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(SECONDS)
            try:
                connection.connect(str(self.path))
                return connection
            except OSError:
                connection.close()
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def call(self, method: str, **params: Any) -> Any:
        """The result; raises ``AssertionError`` with SPDK's error."""
        with self.connect() as connection:
            request = {"jsonrpc": "2.0", "id": 1, "method": method, **({"params": params} if params else {})}
            answer = ask(connection, json.dumps(request).encode())
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def until(self, condition: Callable[[], bool]) -> None:
        """Ask again and again."""
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"it did not come about within {SECONDS:g} s"
            time.sleep(0.01)

    def rss(self) -> int:
        """Bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def stop(self, number: int = signal.SIGTERM) -> int:
        """The exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.wait()
        if number == signal.SIGKILL:
            leave_nothing(self.process.pid)
        return status

    def wait(self) -> int:
        """Until it has ended; the exit status."""
        return self.process.wait(SECONDS)

    def log(self) -> str:
        """What it has written to stderr."""
        return self._log.read_text(encoding="utf-8")


def ask(connection: socket.socket, request: bytes) -> Any:
    """Send, and parse one line that comes back."""
    connection.sendall(request)
    return answers(connection, 1)[0]


def answers(connection: socket.socket, number: int) -> list[Any]:
    """The next lines, parsed."""
    received = b""
    while received.count(b"\n") < number:
        part = connection.recv(1 << 20)
        assert part, f"hung up after {received!r}"
        received += part
    return [json.loads(line) for line in received.splitlines()]
