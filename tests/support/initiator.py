"""An NVMe/TCP initiator in the test's own event loop: bdevs whose I/O a test does itself."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator
from typing import Any

from spdk_emulator.app import App
from spdk_emulator.bdev.models import Descriptor, Op
from spdk_emulator.jsonrpc.server import call
from spdk_emulator.options import parse

SECONDS = 60.0
"""The longest that anything here may take."""
NQN = "nqn.2016-06.io.spdk:test"


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
