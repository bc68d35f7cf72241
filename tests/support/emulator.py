"""An emulator as a process of its own, for tests that kill it or show it to peers."""

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

FILES = Path(__file__).resolve().parents[2] / "roles" / "spdk_emulator" / "files"


class CallFailed(Exception):
    """A method answered with an error."""

    def __init__(self, method: str, code: int, message: str) -> None:
        super().__init__(f"{method}: {message} ({code})")
        self.code = code
        self.message = message


class Emulator:
    """A context manager: starts on entry, ends on exit. Its sockets, vhost's too, and its log are in ``directory``.

    >>> with Emulator(tmp_path) as node:
    ...     node.call("bdev_null_create", name="n0", num_blocks=2048, block_size=512)
    """

    def __init__(self, directory: Path, name: str = "spdk", arguments: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.rpc_socket = directory / f"{name}.sock"
        self.log = directory / f"{name}.log"
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    def __enter__(self) -> Emulator:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "spdk_emulator", "-r", str(self.rpc_socket), "-S", str(self.directory)]
        environment = {**os.environ, "PYTHONPATH": str(FILES)}
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._arguments], cwd=self.directory, env=environment, stdout=log, stderr=log
            )
        self._connection = self._connect()

    def _connect(self) -> socket.socket:
        end = time.monotonic() + 20
        while True:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(30)
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
        self._end(signal.SIGKILL)

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
            return process.wait(20)
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
