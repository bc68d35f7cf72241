"""A target as a process of its own that can be killed; :mod:`support.initiator` is what connects to it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from support.emulator import FILES
from support.initiator import NQN, SECONDS, Initiator, finished, initiator, io
from support.ports import free_port
from support.trace_reader import leave_nothing

__all__ = ["NQN", "SECONDS", "Initiator", "Target", "finished", "initiator", "io"]

UUID = "00000000-0000-4000-8000-000000000001"


class Target:
    """An emulator as a storage target: subsystem NQN with an aio bdev (its file outlives a kill) as namespace 1."""

    def __init__(self, directory: Path, size: int = 4 << 20, paths: int = 1) -> None:
        self.directory = directory
        self.socket = directory / "target.sock"
        self.file = directory / "disk.img"
        self.file.write_bytes(bytes(size))
        self.ports = [free_port() for _unused in range(paths)]
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def port(self) -> int:
        return self.ports[0]

    def start(self) -> None:
        command = [sys.executable, "-m", "spdk_emulator", "-r", str(self.socket)]
        self.process = subprocess.Popen(command, cwd=FILES)
        self.call("nvmf_create_transport", trtype="TCP")
        # With a UUID: without, a restarted target would offer another namespace, and rightly not get the old one's I/O.
        self.call("bdev_aio_create", name="aio0", filename=str(self.file), block_size=512, uuid=UUID)
        self.call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True, serial_number="SN", ana_reporting=True)
        self.add_namespace("aio0", 1)
        for port in self.ports:
            self.listen(port)

    def listen(self, port: int, method: str = "nvmf_subsystem_add_listener", **params: Any) -> None:
        place = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)}
        self.call(method, nqn=NQN, listen_address=place, **params)

    def add_namespace(self, bdev: str, nsid: int) -> None:
        self.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": bdev, "nsid": nsid})

    def call(self, method: str, **params: Any) -> Any:
        deadline = time.monotonic() + SECONDS
        while True:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(SECONDS)
                try:
                    connection.connect(str(self.socket))
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)
                    continue
                connection.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode())
                received = b""
                while b"\n" not in received:
                    received += connection.recv(1 << 20)
            answer = json.loads(received)
            assert "error" not in answer, (method, answer["error"])
            return answer["result"]

    def kill(self) -> None:
        """Without warning."""
        self.stop(signal.SIGKILL)
        leave_nothing(self.process.pid)

    def stop(self, number: int = signal.SIGTERM) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(SECONDS)
