"""A vhost family with a bdev that completes when told to, in an event loop of its own thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from front_end import FrontEnd, Ring
from spdk_emulator.bdev.malloc import MallocBdev
from spdk_emulator.bdev.models import BdevIo, BdevRegistry
from spdk_emulator.framework.models import Buffers
from spdk_emulator.framework.threads import Threads
from spdk_emulator.options import Options
from spdk_emulator.vhost.models import BlkController, Vhost

T = TypeVar("T")


class HeldBdev(MallocBdev):
    """A malloc bdev that holds each request back while ``held`` is a list, until :meth:`let_go`."""

    def __init__(self, name: str, block_size: int = 512, num_blocks: int = 2048) -> None:
        super().__init__(name, block_size, num_blocks)
        self.held: list[BdevIo] | None = None
        self.arrived = threading.Semaphore(0)

    def submit(self, io: BdevIo) -> None:
        if self.held is None:
            super().submit(io)
        else:
            self.held.append(io)
            self.arrived.release()

    def let_go(self, io: BdevIo) -> None:
        super().submit(io)

    def wait_held(self, count: int) -> None:
        for _unused in range(count):
            assert self.arrived.acquire(timeout=60)


class Node:
    """The vhost family in its thread."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.config: list[Callable[[], list[dict[str, Any]]]] = []
        self.vhost, self.bdevs = self.run(self._make)
        self.closing: list[FrontEnd] = []

    def _make(self) -> tuple[Vhost, BdevRegistry]:
        app = SimpleNamespace(
            options=Options(vhost_directory=str(self.directory)),
            bdevs=BdevRegistry(),
            framework=SimpleNamespace(buffers=Buffers(), threads=Threads()),
            add_config=lambda _subsystem, calls: self.config.append(calls),
        )
        self.buffers = app.framework.buffers
        return Vhost(app), app.bdevs

    def run(self, call: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """Call it in the loop's thread; its result."""

        async def work() -> T:
            return call(*arguments, **named)

        return asyncio.run_coroutine_threadsafe(work(), self.loop).result(60)

    def begin(self, coroutine: Any) -> Any:
        """Start a coroutine there; a future of its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def until(self, condition: Callable[[], bool]) -> None:
        """Let the loop work until the condition holds, there."""
        end = time.monotonic() + 60
        while not self.run(condition):
            assert time.monotonic() < end, "it did not come about within 60 s"

    def disk(self, name: str = "sma-0", bdev: str = "st1n1", **named: Any) -> tuple[HeldBdev, BlkController]:
        """A bdev of 1 MiB and its controller."""
        device = HeldBdev(bdev)
        self.run(self.bdevs.register, device)
        return device, self.run(self.vhost.create_blk, name, bdev, **named)

    def connect(self, name: str = "sma-0", **named: Any) -> FrontEnd:
        front_end = FrontEnd(str(self.directory / name), **named)
        self.closing.append(front_end)
        return front_end

    def ring(self, name: str = "sma-0", size: int = 16, **named: Any) -> tuple[FrontEnd, Ring]:
        """A front end with one running ring."""
        front_end = self.connect(name, **named)
        front_end.negotiate()
        ring = Ring(front_end.memory, size, event_index=bool(front_end.wanted & 1 << 29))
        front_end.start(ring)
        assert ring.interrupted(), "the start of a ring interrupts once"
        return front_end, ring

    def close(self) -> None:
        for front_end in self.closing:
            front_end.close()
        self.begin(self.vhost.shutdown()).result(60)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(60)
        self.loop.close()
