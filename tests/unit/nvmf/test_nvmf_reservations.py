"""Reservations where time, or what one has in hand, matters. What hosts see else is in tests/conformance."""

from __future__ import annotations

import asyncio
import random
import struct
from pathlib import Path
from uuid import UUID

import pytest
from nvmf_host import World, with_world
from spdk_emulator.bdev.models import Bdev, BdevIo, Op
from spdk_emulator.nvme_tcp import nvme
from spdk_emulator.nvme_tcp.nvme import Admin, Feature, Io, Sc
from spdk_emulator.nvmf import reservation_file, reserving
from spdk_emulator.nvmf.reservations import MOST_REGISTRANTS, Outcome, Reservations, Saved
from spdk_emulator.nvmf.subsystem import NvmfError
from support.host_queue import Queue

EXCLUSIVE_ACCESS = 2
PREEMPT_AND_ABORT = 2


class HeldBdev(Bdev):
    """Holds writes back until it is told so."""

    supported = frozenset({Op.READ, Op.WRITE, Op.RESET})

    def __init__(self, name: str) -> None:
        super().__init__(name, 512, 2048)
        self.writes: list[BdevIo] = []

    def submit(self, io: BdevIo) -> None:
        if io.op == Op.WRITE:
            self.writes.append(io)
        else:
            io.complete()


class Hosts:
    """Two hosts, registered with keys 1 and 2 on namespace 5, the second with a write under way."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.bdev = HeldBdev("held")

    async def begin(self) -> None:
        self.world.bdevs.register(self.bdev)
        self.world.subsystem.add_namespace("held", 5)
        (_unused, self.first), (self.admin, self.second) = await self._host(1), await self._host(2)
        self.write = self.second.submit(Io.WRITE, 5, (0, 0, 0), data=bytes(512))
        await self.second.run(Io.READ, 5, (0, 0, 0), length=512)
        assert len(self.bdev.writes) == 1

    async def _host(self, number: int) -> tuple[Queue, Queue]:
        admin, io = await self.world.queue(), await self.world.queue()
        cntlid = (await admin.connect(host_id=UUID(int=number))).cdw0
        await admin.enable()
        assert (await io.connect(qid=1, cntlid=cntlid, host_id=UUID(int=number))).status == 0
        assert (await io.run(Io.RESERVATION_REGISTER, 5, (0,), data=struct.pack("<QQ", 0, number)))[0].status == 0
        return admin, io

    def preempt(self) -> asyncio.Task[int]:
        """The first host preempts the second."""
        cdw10 = PREEMPT_AND_ABORT | EXCLUSIVE_ACCESS << 8
        cid = self.first.submit(Io.RESERVATION_ACQUIRE, 5, (cdw10,), data=struct.pack("<QQ", 1, 2))
        return asyncio.create_task(self.first.status(cid))

    async def preempted(self) -> None:
        """The second host is registered no longer."""
        reservations = self.world.subsystem.namespaces[5].reservations
        while len(reservations.registrants) > 1:
            await asyncio.sleep(0.001)


def test_a_preemption_that_waits_for_too_long_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reserving, "ABORT_SECONDS", 0.01)

    async def test(world: World) -> None:
        hosts = Hosts(world)
        await hosts.begin()
        assert await hosts.preempt() == Sc.COMMAND_INTERRUPTED
        hosts.bdev.writes.pop().complete()
        assert await hosts.second.status(hosts.write) == 0
        release = struct.pack("<Q", 1)
        assert (await hosts.first.run(Io.RESERVATION_RELEASE, 5, (1,), data=release))[0].status == 0

    with_world(test)


def test_a_preemption_waits_for_commands_of_a_host_that_has_gone() -> None:
    async def test(world: World) -> None:
        hosts = Hosts(world)
        await hosts.begin()
        hosts.second.close()
        hosts.admin.close()
        while len(world.subsystem.controllers) > 1:
            await asyncio.sleep(0.001)
        preempting = hosts.preempt()
        await hosts.preempted()
        await asyncio.sleep(0.05)
        assert not preempting.done()
        hosts.bdev.writes.pop().complete()
        assert await preempting == 0
        assert not world.subsystem.ending

    with_world(test)


def test_a_preemption_does_not_wait_for_a_copy_that_ends_with_its_host() -> None:
    async def test(world: World) -> None:
        hosts = Hosts(world)
        await hosts.begin()
        hosts.bdev.writes.pop().complete()
        assert await hosts.second.status(hosts.write) == 0
        hosts.second.submit(Io.COPY, 5, (8,), data=struct.pack("<8xQH14x", 0, 0))
        while not hosts.bdev.writes:
            await asyncio.sleep(0.001)
        preempting = hosts.preempt()
        await hosts.preempted()
        assert not preempting.done()
        hosts.second.close()
        assert await preempting == 0

    with_world(test)


def test_a_preemption_does_not_wait_for_commands_that_have_no_data_yet() -> None:
    async def test(world: World) -> None:
        hosts = Hosts(world)
        await hosts.begin()
        hosts.bdev.writes.pop().complete()
        assert await hosts.second.status(hosts.write) == 0
        late = hosts.second.submit(Io.WRITE, 5, (0, 0, 0), length=512)
        request = await hosts.second.receive()
        assert await hosts.preempt() == 0
        hosts.second.answer(request, bytes(512))
        while not hosts.bdev.writes:
            await asyncio.sleep(0.001)
        hosts.bdev.writes.pop().complete()
        assert await hosts.second.status(late) == 0

    with_world(test)


def test_commands_that_wait_for_a_preemption_come_in_their_order() -> None:
    """More than the interpreter would nest calls, over as many connections as that takes."""

    async def test(world: World) -> None:
        hosts = Hosts(world)
        await hosts.begin()
        preempting = hosts.preempt()
        await hosts.preempted()
        queues = [hosts.first]
        for qid in range(2, 13):
            queue = await world.queue()
            cntlid = min(world.subsystem.controllers)
            assert (await queue.connect(qid=qid, cntlid=cntlid, size=128, host_id=UUID(int=1))).status == 0
            queues.append(queue)
        replaced = []
        for number in range(1200):
            keys = struct.pack("<QQ", 0, 100 + number)
            queue = queues[number // 100]
            replaced.append((queue, queue.submit(Io.RESERVATION_REGISTER, 5, (2 | 1 << 3,), data=keys)))
        await queues[-1].run(Io.READ, 5, (0, 0, 0), length=512)
        hosts.bdev.writes.pop().complete()
        assert await preempting == 0
        assert {await queue.status(cid) for queue, cid in replaced} == {0}

    with_world(test)


@pytest.mark.parametrize("feature", [Feature.RESERVATION_NOTIFICATION_MASK, Feature.RESERVATION_PERSISTENCE])
def test_features_of_a_namespace_out_of_reach_have_its_status(feature: int) -> None:
    async def test(world: World) -> None:
        nqn = "nqn.2016-06.io.spdk:ana"
        subsystem = await world.add_subsystem(nqn, ana_reporting=True)
        world.bdevs.register(HeldBdev("a"))
        subsystem.add_namespace("a", 2)
        admin = await world.admin(nqn=nqn)
        assert (await admin.run(Admin.GET_FEATURES, 2, (feature,)))[0].status == 0
        subsystem.set_ana_state(world.address(), "inaccessible")
        for opcode in (Admin.GET_FEATURES, Admin.SET_FEATURES):
            assert (await admin.run(opcode, 2, (feature,)))[0].status == Sc.ANA_INACCESSIBLE

    with_world(test)


def test_a_namespace_whose_reservations_cannot_be_had_again_leaves_its_bdev_alone(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.bdevs.register(HeldBdev("a"))
        path = tmp_path / "ptpl.json"
        for content in ("", "{}", "\xff", '{"ptpl":true,"registrants":[{"rkey":1,"host_uuid":"x"}],"bdev_uuid":"y"}'):
            path.write_bytes(content.encode("latin1"))
            with pytest.raises(NvmfError, match=r"ptpl\.json"):
                world.subsystem.add_namespace("a", 6, ptpl_file=str(path))
            with pytest.raises(NvmfError, match=str(tmp_path)):
                world.subsystem.add_namespace("a", 6, ptpl_file=str(tmp_path))
        bdev = world.bdevs.get("a")
        assert (bdev.claimed_by, bdev.descriptors, 6 in world.subsystem.namespaces) == (None, set(), False)
        path.unlink()
        assert world.subsystem.add_namespace("a", 6, ptpl_file=str(path)).reservations.can_persist

    with_world(test)


# The state, and its file


def test_what_is_saved_is_had_again(tmp_path: Path) -> None:
    path, bdev = str(tmp_path / "f"), UUID(int=99)
    assert reservation_file.load(path, bdev) is None
    saved = Saved(3, 17, UUID(int=2), [(16, UUID(int=1)), (17, UUID(int=2))])
    reservation_file.store(path, bdev, saved)
    assert reservation_file.load(path, bdev) == saved
    state = Reservations(can_persist=True)
    state.restore(saved)
    assert state.saved() == saved
    assert (state.persists, state.holder and state.holder.host) == (True, UUID(int=2))
    with pytest.raises(ValueError, match="it is for the bdev"):
        reservation_file.load(path, UUID(int=98))
    with pytest.raises(ValueError, match="the key 0x12"):
        state.restore(saved._replace(key=18))


def random_command(state: Reservations, chance: random.Random) -> Outcome:
    host, key, other = UUID(int=chance.randrange(1, 6)), chance.randrange(3), chance.randrange(3)
    flags = chance.choice((0, 0, 0, 1 << 3)) | chance.randrange(9) << 8
    action = chance.randrange(4)
    which = chance.randrange(3)
    if which == 0:
        return state.register(host, 1, action | flags & 1 << 3 | chance.choice((0, 2, 3)) << 30, key, other)
    if which == 1:
        return state.acquire(host, action | flags, key, other)
    return state.release(host, action | flags, key)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_hosts_do_the_state_holds_together(seed: int) -> None:
    chance = random.Random(seed)
    state = Reservations(can_persist=seed % 2 == 0)
    for _unused in range(2000):
        before = state.report()
        outcome = random_command(state, chance)
        hosts = [registrant.host for registrant in state.registrants]
        assert len(hosts) == len(set(hosts)) <= MOST_REGISTRANTS
        assert state.holder is None or state.holder in state.registrants
        assert not state.type or state.holder is not None
        assert not set(outcome.preempted) & set(hosts)
        assert outcome.changed or state.report() == before
        header = nvme.RESERVATION_STATUS.unpack(state.report())
        assert (header["rtype"], header["regctl"]) == (state.type, len(hosts))
        if state.persists and state.key in [registrant.key for registrant in state.registrants]:
            again = Reservations(can_persist=True)
            again.restore(state.saved())
            for host in map(UUID, [UUID(int=number).hex for number in range(1, 7)]):
                for opcode in Io:
                    assert again.forbids(host, opcode, 0) == state.forbids(host, opcode, 0)
