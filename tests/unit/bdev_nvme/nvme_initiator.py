"""An initiator in the test's own event loop, and a target as a process of its own that can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

FILES = Path(__file__).parents[3] / "roles" / "spdk_emulator" / "files"
sys.path.insert(0, str(FILES))

from spdk_emulator.app import App  # noqa: E402
from spdk_emulator.bdev.models import Descriptor, Op  # noqa: E402
from spdk_emulator.jsonrpc.server import call  # noqa: E402
from spdk_emulator.options import parse  # noqa: E402

SECONDS = 15.0
"""The longest that anything here may take."""
UUID = "00000000-0000-4000-8000-000000000001"
NQN = "nqn.2016-06.io.spdk:test"


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Initiator:
    """An :class:`App` that is asked by method name."""

    def __init__(self) -> None:
        self.app = App(parse(["--no-rpc-server"]))
        self.app.running = True

    async def call(self, method: str, **params: Any) -> Any:
        answer = call(self.app, method, params or None)
        return await answer if inspect.isawaitable(answer) else answer

    async def attach(self, port: int, name: str = "n", subnqn: str = NQN, **params: Any) -> list[str]:
        place = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)}
        return await self.call("bdev_nvme_attach_controller", name=name, subnqn=subnqn, **place, **params)

    def open(self, bdev: str) -> Descriptor:
        def on_event(event: Any, _bdev: Any) -> None:
            if event.name == "REMOVE":
                descriptor.close()

        descriptor = self.app.bdevs.open(bdev, True, on_event)
        return descriptor

    async def until(self, condition: Any) -> None:
        """Wait until the condition holds; a bounded poll, for states have no event of their own."""
        async with asyncio.timeout(SECONDS):
            while not condition():
                await asyncio.sleep(0.005)


def io(descriptor: Descriptor, op: Op, offset: int, data: bytearray | int) -> asyncio.Future[int]:
    """Start one I/O; ``data`` is its buffer or its length. The result is its status."""
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    iov = [memoryview(data)] if isinstance(data, bytearray) else []
    length = len(data) if isinstance(data, bytearray) else data
    descriptor.io(op, offset, length, iov, done.set_result)
    return done


async def finished(work: asyncio.Future[int]) -> int:
    async with asyncio.timeout(SECONDS):
        return await work


@contextlib.asynccontextmanager
async def initiator() -> AsyncIterator[Initiator]:
    made = Initiator()
    try:
        yield made
    finally:
        async with asyncio.timeout(SECONDS):
            await made.app.nvme.shutdown()


class Target:
    """An emulator as a storage target: subsystem NQN with an aio bdev (its file outlives a kill) as namespace 1."""

    def __init__(self, directory: Path, size: int = 4 << 20, paths: int = 1) -> None:
        self.directory = directory
        self.socket = directory / "target.sock"
        self.file = directory / "disk.img"
        self.file.write_bytes(bytes(size))
        self.ports = [free_port() for _ in range(paths)]
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

    def stop(self, number: int = signal.SIGTERM) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(SECONDS)
