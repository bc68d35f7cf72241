"""A target, be it the emulator's or a real SPDK's, and NVMe/TCP hosts of it that differ in their host identifiers."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

from spdk_emulator.nvme_tcp.nvme import Io
from support.host_queue import NQN, Queue
from support.ports import free_port
from support.spdk import Spdk

BLOCK = 512
MALLOC_NSID, OTHER_NSID = 1, 2
FEW_SECONDS = 300


class Host:
    """A host with one controller: its admin queue and one I/O queue."""

    def __init__(self, host_id: uuid.UUID, cntlid: int, admin: Queue, io: Queue) -> None:
        self.host_id = host_id
        self.cntlid = cntlid
        self.admin = admin
        self.io = io

    async def run(
        self, opcode: int, cdws: tuple[int, ...] = (), nsid: int = MALLOC_NSID, data: bytes = b"", length: int = 0
    ) -> int:
        """The status of an I/O command."""
        return (await self.io.run(opcode, nsid, cdws, length=length, data=data))[0].status

    async def write(self, lba: int, data: bytes, nsid: int = MALLOC_NSID) -> int:
        return await self.run(Io.WRITE, (lba, 0, len(data) // BLOCK - 1), nsid, data)

    async def read(self, lba: int, nsid: int = MALLOC_NSID) -> bytes:
        return await self.io.read(lba, 1, nsid)


class Target:
    """A subsystem with two namespaces, one on a malloc bdev and one on an AIO bdev, which cannot compare by itself."""

    def __init__(self, spdk: Spdk, **namespace: Any) -> None:
        self.spdk = spdk
        self.port = free_port()
        self.queues: list[Queue] = []
        self._namespace = namespace

    def __enter__(self) -> Target:
        call = self.spdk.call
        path = self.spdk.directory / "aio.img"
        with open(path, "wb") as image:
            image.truncate(1 << 20)
        call("bdev_malloc_create", name="m1", block_size=BLOCK, num_blocks=2048, uuid=str(uuid.UUID(int=1)))
        call("bdev_aio_create", name="a2", filename=str(path), block_size=BLOCK)
        call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True, max_namespaces=8)
        for name, nsid in (("m1", MALLOC_NSID), ("a2", OTHER_NSID)):
            more = self._namespace if nsid == MALLOC_NSID else {}
            call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": name, "nsid": nsid, **more})
        call("nvmf_subsystem_add_listener", nqn=NQN, listen_address=self.address)
        return self

    @property
    def address(self) -> dict[str, str]:
        return {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(self.port)}

    def __exit__(self, *_unused: object) -> None:
        call = self.spdk.call
        call("nvmf_delete_subsystem", nqn=NQN)
        call("bdev_malloc_delete", name="m1")
        call("bdev_aio_delete", name="a2")

    async def host(self, number: int, nqn: str = NQN) -> Host:
        """Connect the host of that number; the same number again is another controller of the same host."""
        host_id = uuid.UUID(int=number)
        admin, io = await self._queue(), await self._queue()
        cntlid = (await admin.connect(nqn=nqn, host_id=host_id)).cdw0 & 0xFFFF
        await admin.enable()
        assert (await io.connect(qid=1, cntlid=cntlid, nqn=nqn, host_id=host_id)).status == 0
        return Host(host_id, cntlid, admin, io)

    async def hosts(self, count: int) -> list[Host]:
        return [await self.host(number) for number in range(1, count + 1)]

    async def _queue(self) -> Queue:
        self.queues.append(await Queue.open(self.port))
        return self.queues[-1]


def with_target(spdk: Spdk, test: Callable[[Target], Coroutine[Any, Any, None]], **namespace: Any) -> None:
    """Run a coroutine with a :class:`Target`; ``namespace`` are more parameters of its first one."""

    async def run(target: Target) -> None:
        try:
            async with asyncio.timeout(FEW_SECONDS):
                await test(target)
        finally:
            for queue in target.queues:
                queue.close()

    with Target(spdk, **namespace) as target:
        asyncio.run(run(target))
