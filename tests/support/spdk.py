"""An SPDK as a process of its own, for tests that kill it or show it to peers.

It is the emulator or, with ``SPDK_PREFIX=/path`` in the environment, the ``spdk_tgt`` built there: a test that starts
its SPDK here passes on both.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from .trace_reader import leave_nothing

FILES = Path(__file__).resolve().parents[2] / "roles" / "spdk_emulator" / "files"
START_SECONDS = 60
MEMORY_MIB = 2048
"""Enough for the buffers of 64 started disks."""
STARTUP = {
    "subsystems": [
        {
            "subsystem": "iobuf",
            "config": [
                {"method": "iobuf_set_options", "params": {"small_pool_count": 20480, "large_pool_count": 2560}}
            ],
        }
    ]
}


def prefix() -> str | None:
    """Where the real SPDK was built that is to be used; None: the emulator."""
    return os.environ.get("SPDK_PREFIX") or None


def program(memory_mib: int = 1200, built_at: str | None = None) -> tuple[list[str], dict[str, str]]:
    """The command that starts an SPDK, to be followed by options of both, and the environment it needs."""
    if built_at is None:
        return [sys.executable, "-m", "spdk_emulator"], {**os.environ, "PYTHONPATH": str(FILES)}
    options = ["--no-huge", "-s", str(memory_mib), "-m", "0x1", "--disable-cpumask-locks"]
    return [f"{built_at}/build/bin/spdk_tgt", *options], dict(os.environ)


class CallFailed(Exception):
    """A method answered with an error."""

    def __init__(self, method: str, code: int, message: str) -> None:
        super().__init__(f"{method}: {message} ({code})")
        self.code = code
        self.message = message


class Spdk:
    """A context manager: starts on entry, ends on exit. Its sockets, vhost's too, and its log are in ``directory``.

    >>> with Spdk(tmp_path) as node:
    ...     node.call("bdev_null_create", name="n0", num_blocks=2048, block_size=512)
    """

    def __init__(self, directory: Path, name: str = "spdk", arguments: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.rpc_socket = directory / f"{name}.sock"
        self.log = directory / f"{name}.log"
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    def __enter__(self) -> Spdk:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _program(self) -> tuple[list[str], dict[str, str]]:
        return program(MEMORY_MIB, prefix())

    def start(self) -> None:
        """Start it and wait until it answers."""
        config = self.directory / "startup.json"
        config.write_text(json.dumps(STARTUP), encoding="utf-8")
        command, environment = self._program()
        places = ["-r", str(self.rpc_socket), "-S", str(self.directory), "--json", str(config)]
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [*command, *places, *self._arguments], cwd=self.directory, env=environment, stdout=log, stderr=log
            )
        self._connection = self._connect()
        if "--wait-for-rpc" not in self._arguments:
            self.call("framework_wait_init")

    def _connect(self) -> socket.socket:
        end = time.monotonic() + START_SECONDS
        while True:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(60)
            try:
                connection.connect(str(self.rpc_socket))
                return connection
            except OSError:
                connection.close()
                if self._process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"{self.rpc_socket}: nobody listens:\n{self.log.read_text()}") from None
                time.sleep(0.01)

    def stop(self) -> int | None:
        """SIGTERM, and its exit status."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        pid = self._process.pid if self._process is not None else None
        self._end(signal.SIGKILL)
        if pid is not None:
            leave_nothing(pid)

    def pause(self) -> None:
        """SIGSTOP: it is there and does nothing, until :meth:`resume`."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def _end(self, number: signal.Signals) -> int | None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is None:
            return None
        process, self._process = self._process, None
        process.send_signal(number)
        try:
            return process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def call(self, method: str, **params: Any) -> Any:
        """The result of a method. Raises :class:`CallFailed`."""
        request: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": method}
        if params:
            request["params"] = params
        self._connection.sendall(json.dumps(request).encode())
        received = b""
        while True:
            data = self._connection.recv(1 << 20)
            if not data:
                raise RuntimeError(f"{method}: the connection was closed:\n{self.log.read_text()}")
            received += data
            try:
                answer = json.loads(received)
            except ValueError:
                continue
            if "error" in answer:
                raise CallFailed(method, answer["error"]["code"], answer["error"]["message"])
            return answer["result"]

    def memory_kib(self) -> int:
        """Its resident memory that is its own (not shared with a guest)."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1])
        raise RuntimeError("no RssAnon in the process's status")
