"""A target in this process and hosts that talk to it over real sockets, PDU by PDU."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from spdk_emulator.bdev.malloc import MallocBdev
from spdk_emulator.bdev.models import BdevRegistry
from spdk_emulator.framework.threads import Threads
from spdk_emulator.nvmf.models import Config, TransportOptions, main_target
from spdk_emulator.nvmf.subsystem import Address, Subsystem, SubsystemOptions
from support.host_queue import NQN, Queue
from support.ports import free_port


class World:
    """A target with one subsystem of two namespaces: 1 with 512-byte blocks, 3 with 4096."""

    def __init__(self, **transport: Any) -> None:
        self.bdevs = BdevRegistry()
        self.target = main_target(self.bdevs, Config(), Threads())
        self.target.create_transport(TransportOptions(**{"in_capsule_data_size": 8192, **transport}))
        self.queues: list[Queue] = []

    async def __aenter__(self) -> World:
        self.port = free_port()
        self.subsystem = await self.add_subsystem(NQN)
        for name, block_size, nsid in (("m1", 512, 1), ("m3", 4096, 3)):
            self.bdevs.register(MallocBdev(name, block_size, 2048))
            self.subsystem.add_namespace(name, nsid)
        return self

    async def __aexit__(self, *_unused: object) -> None:
        for queue in self.queues:
            queue.close()
        await self.target.shutdown()

    def address(self, port: int = 0) -> Address:
        return Address("TCP", "IPv4", "127.0.0.1", str(port or self.port))

    async def add_subsystem(self, nqn: str, **options: Any) -> Subsystem:
        """One more, at the same address."""
        made = self.target.create_subsystem(nqn, SubsystemOptions(**{"max_namespaces": 8, **options}), True)
        await self.target.add_listener(made, self.address())
        return made

    async def queue(self, **options: Any) -> Queue:
        """A connection after its initialization."""
        self.queues.append(await Queue.open(options.pop("port", self.port), **options))
        return self.queues[-1]

    async def admin(self, nqn: str = NQN, kato: int = 0, **options: Any) -> Queue:
        """The admin queue of an enabled controller. ``cntlid`` is set on it."""
        made = await self.queue(**options)
        done = await made.connect(nqn=nqn, kato=kato)
        assert done.status == 0, hex(done.status)
        made.cntlid = done.cdw0 & 0xFFFF  # type: ignore[attr-defined]
        await made.enable()
        return made

    async def io(self, **options: Any) -> tuple[Queue, Queue]:
        """The admin queue and one I/O queue."""
        admin = await self.admin(**options)
        made = await self.queue(**{name: value for name, value in options.items() if name not in ("nqn", "kato")})
        done = await made.connect(qid=1, cntlid=admin.cntlid, nqn=options.get("nqn", NQN))  # type: ignore[attr-defined]
        assert done.status == 0, hex(done.status)
        return admin, made


def with_world(test: Callable[[World], Coroutine[Any, Any, None]], **transport: Any) -> None:
    """Run a coroutine with a :class:`World`."""

    async def run() -> None:
        async with World(**transport) as world:
            await test(world)

    asyncio.run(asyncio.wait_for(run(), 300))
