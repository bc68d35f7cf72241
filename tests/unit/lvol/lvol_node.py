"""A bdev in memory whose power can be cut, and what a test needs to use an lvol store on it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from spdk_emulator.bdev.models import Bdev, BdevIo, BdevRegistry, Op, Status
from spdk_emulator.lvol.bdev import Lvol
from spdk_emulator.lvol.models import LvolStores
from spdk_emulator.lvol.store import Store

BLOCK = 512
CLUSTER = 16 * 1024
SIZE = 2 * 1024 * 1024
SECONDS = 60.0
"""The longest that anything here may take."""


class PowerCut(Exception):
    """The base stopped in the middle of something."""


class Disk(Bdev):
    """Ends after ``writes`` of them: of the next, the first block is done, if ``torn``, and nothing answered any more.

    ``later``: answers come from the loop, so that others may ask in between.
    """

    supported = frozenset({Op.READ, Op.WRITE, Op.WRITE_ZEROES, Op.UNMAP, Op.RESET})

    def __init__(self, image: bytes | None = None, unmaps: bool = True, later: bool = False) -> None:
        super().__init__("base", BLOCK, (len(image) if image else SIZE) // BLOCK)
        self.memory = bytearray(image or SIZE)
        self.later = later
        self.writes: float = float("inf")
        self.torn = False
        self.broken = False
        """Writes fail."""
        self.written = 0
        self.log: list[tuple[Op, int, int]] = []
        self.cut = asyncio.Event()
        if not unmaps:
            self.supported = self.supported - {Op.UNMAP}

    def submit(self, io: BdevIo) -> None:
        if self.cut.is_set():
            return
        self.log.append((io.op, io.offset, io.length))
        if io.op == Op.READ:
            position = io.offset
            for view in io.iov:
                view[:] = self.memory[position : position + len(view)]
                position += len(view)
        elif io.op != Op.RESET:
            data = b"".join(io.iov) if io.op == Op.WRITE else bytes(io.length)
            if self.broken:
                io.complete(Status.WRITE_FAULT)
                return
            if self.written == self.writes:
                done = BLOCK if self.torn else 0
                self.memory[io.offset : io.offset + done] = data[:done]
                self.cut.set()
                return
            self.written += 1
            self.memory[io.offset : io.offset + io.length] = data
        if self.later:
            asyncio.get_running_loop().call_soon(io.complete)
        else:
            io.complete()


class Host:
    """One process: bdevs and stores, with one disk. What runs when the power is cut never goes on."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.bdevs = BdevRegistry()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.stores = LvolStores(self.bdevs, self._spawn)
        self.bdevs.register(disk)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def examined(self) -> Host:
        await self.until_cut(self.bdevs.wait_for_examine())
        return self

    async def until_cut(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The result. Raises :class:`PowerCut`."""
        task, cut = asyncio.ensure_future(work), asyncio.ensure_future(self.disk.cut.wait())
        await asyncio.wait({task, cut}, timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED)
        cut.cancel()
        if task.done():
            return task.result()
        assert self.disk.cut.is_set(), "it hangs"
        for each in (task, *self._tasks):
            each.cancel()
        await asyncio.gather(task, *self._tasks, return_exceptions=True)
        raise PowerCut

    async def make_store(self, clear_method: str = "unmap") -> Store:
        return await self.stores.create("base", "lvs", CLUSTER, clear_method, 0, 0)

    def lvol(self, name: str) -> Lvol:
        return self.stores.lvol(f"lvs/{name}")

    async def io(self, name: str, op: Op, offset: int, length: int, data: bytearray | None = None) -> int:
        """The status; opens and closes."""
        descriptor = self.bdevs.open(f"lvs/{name}", op != Op.READ, lambda event, bdev: None)
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        iov = [] if data is None else [memoryview(data)]
        descriptor.io(op, offset, length, iov, lambda status: None if done.done() else done.set_result(status))
        try:
            return await asyncio.wait_for(done, SECONDS)
        finally:
            descriptor.close()

    async def read(self, name: str) -> bytes:
        """All of it."""
        data = bytearray(self.lvol(name).size)
        assert await self.io(name, Op.READ, 0, len(data), data) == Status.SUCCESS
        return bytes(data)

    async def write(self, name: str, offset: int, data: bytes) -> int:
        return await self.io(name, Op.WRITE, offset, len(data), bytearray(data))


def check_space(store: Store) -> None:
    """Each cluster is free or belongs to one lvol, once."""
    used = [place for lvol in store.lvols for place in lvol.clusters.values()]
    assert len(used) == len(set(used))
    assert len(used) + store.free_clusters == store.total_data_clusters
    assert all(store.geometry.metadata_clusters <= place < store.size for place in used)
    for lvol in store.lvols:
        assert all(index < lvol.count for index in lvol.clusters)
