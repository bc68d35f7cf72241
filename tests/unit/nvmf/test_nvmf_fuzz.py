"""Hostile bytes on one connection: the target neither dies nor keeps another connection waiting. Seeded and bounded."""

from __future__ import annotations

import asyncio
import random
import struct
import uuid

import pytest
from nvmf_host import World, with_world
from spdk_emulator.nvme_tcp import nvme
from spdk_emulator.nvme_tcp.nvme import Admin, Completion, Fabrics, Io
from spdk_emulator.nvme_tcp.pdu import R2T, C2HData, CapsuleCmd, CapsuleResp, H2CData, IcReq, TermReq
from support.host_queue import HOST_NQN, NQN, Queue, Terminated

ROUNDS = 150


def good_stream(chance: random.Random) -> bytes:
    """What a host might say: connect, enable, some commands."""
    connect = nvme.CONNECT_DATA.pack(
        hostid=uuid.UUID(int=1).bytes, cntlid=0xFFFF, subnqn=NQN.encode(), hostnqn=HOST_NQN.encode()
    )
    pdus = [
        IcReq(),
        CapsuleCmd(nvme.command(nvme.FABRICS_OPCODE, 0, Fabrics.CONNECT, 1024, True, (0, 31)), connect),
        CapsuleCmd(nvme.command(nvme.FABRICS_OPCODE, 1, Fabrics.PROPERTY_SET, 0, cdws=(0, 0x14, 0x00460001))),
    ]
    for cid in range(chance.randint(1, 8)):
        kind = chance.randrange(6)
        cdws = tuple(chance.choice((0, 1, 7, 0xFFFF, 0xFFFFFFFF, chance.getrandbits(32))) for _unused in range(6))
        opcode = chance.choice((*Admin, *Io, nvme.FABRICS_OPCODE, chance.randrange(256)))
        if kind == 0:
            pdus.append(H2CData(cid, chance.randrange(5), 0, bytes(chance.randrange(64))))
        elif kind == 1:
            data = bytes(chance.choice((4, 512, 8192)))
            pdus.append(CapsuleCmd(nvme.command(opcode, cid, 1, len(data), True, cdws), data))
        elif kind == 2:
            pdus.append(TermReq("host", chance.randrange(9), 0, b"x" * 8))
        else:
            length = chance.choice((0, 16, 512, 4096, 131072))
            pdus.append(CapsuleCmd(nvme.command(opcode, cid, chance.choice((0, 1, 9)), length, cdws=cdws)))
    return b"".join(bytes(buffer) for pdu in pdus for buffer in pdu.encode())


def spoil(raw: bytes, chance: random.Random) -> bytes:
    """Flip, cut, repeat."""
    data = bytearray(raw)
    for _unused in range(chance.randint(0, 5)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    if chance.random() < 0.3:
        del data[chance.randrange(len(data)) :]
    if chance.random() < 0.2:
        data += data[chance.randrange(len(data) or 1) :]
    return bytes(data)


async def attack(world: World, raw: bytes, chance: random.Random) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    try:
        position = 0
        while position < len(raw):
            size = chance.randint(1, len(raw))
            writer.write(raw[position : position + size])
            await writer.drain()
            position += size
        writer.write_eof()
        async with asyncio.timeout(60):
            while await reader.read(65536):
                pass
    except ConnectionError:
        pass
    finally:
        writer.close()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_hostile_connections_neither_kill_nor_delay_a_good_one(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(seed)

    async def test(world: World) -> None:
        admin, queue = await world.io()
        slowest = 0.0
        loop = asyncio.get_running_loop()
        for number in range(ROUNDS):
            attacker = asyncio.create_task(attack(world, spoil(good_stream(chance), chance), chance))
            begin = loop.time()
            data = number.to_bytes(4, "little") * 128
            assert (await queue.run(Io.WRITE, 3, (number, 0, 0), payload=data * 8))[0].status == 0
            assert await queue.read(number, 1, nsid=3, block_size=4096) == data * 8
            slowest = max(slowest, loop.time() - begin)
            await attacker
        assert slowest < 2
        assert len(await admin.identify(1)) == 4096
        for _unused in range(50):
            if len(world.target.connections) == 2:
                break
            await asyncio.sleep(0.02)
        assert len(world.target.connections) == 2
        assert len(world.subsystem.controllers) == 1

    with_world(test)
    assert not [record for record in caplog.records if record.exc_info], caplog.text


def test_a_connection_that_stops_in_the_middle_holds_nobody_up() -> None:
    async def test(world: World) -> None:
        stuck = [await asyncio.open_connection("127.0.0.1", world.port) for _unused in range(20)]
        for number, (_unused, writer) in enumerate(stuck):
            writer.write(good_stream(random.Random(number))[: 3 + number * 9])
        _unused, queue = await world.io()
        assert await queue.read(0, 8) == bytes(4096)
        for _unused, writer in stuck:
            writer.close()

    with_world(test)


def test_a_host_that_does_not_read_is_not_buffered_for_without_end() -> None:
    async def test(world: World) -> None:
        _unused, queue = await world.io()
        greedy = await Queue.open(world.port)
        world.queues.append(greedy)
        admin = await world.admin()
        assert (await greedy.connect(qid=1, cntlid=admin.cntlid)).status == 0
        for cid in range(2000):
            sqe = nvme.command(Io.READ, cid, 3, 131072, cdws=(0, 0, 31))
            greedy.writer.write(b"".join(CapsuleCmd(sqe).encode()))
        for _unused in range(20):
            assert await queue.read(0, 8) == bytes(4096)
            await asyncio.sleep(0)
        held = max(
            connection._transport.get_write_buffer_size()
            for connection in world.target.connections
            if connection.qid == 1
        )
        assert held < 64 << 20

    with_world(test)


def test_a_termination_request_from_the_host_ends_the_connection() -> None:
    async def test(world: World) -> None:
        queue = await world.admin()
        queue.send(TermReq("host", 1, 0, b"x" * 24))
        assert await queue.is_closed()

    with_world(test)


def test_nothing_is_answered_after_a_termination_request() -> None:
    async def test(world: World) -> None:
        queue = await world.admin()
        queue.writer.write(bytes(8))
        with pytest.raises(Terminated):
            await queue.receive()
        queue.submit(Admin.KEEP_ALIVE)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.receive(), 0.1)

    with_world(test)


@pytest.mark.parametrize("seed", range(4))
def test_every_command_is_answered_once_whatever_is_fused_or_reserved(seed: int) -> None:
    opcodes = (Io.READ, Io.WRITE, Io.WRITE, Io.COMPARE, Io.COMPARE, Io.FLUSH, Io.RESERVATION_REPORT)
    reserving = (Io.RESERVATION_REGISTER, Io.RESERVATION_ACQUIRE, Io.RESERVATION_RELEASE)

    async def batch(queue: Queue, chance: random.Random) -> None:
        cids, asked = set(), []
        for _unused in range(60):
            opcode = chance.choice(opcodes if chance.random() < 0.8 else reserving)
            data = struct.pack("<QQ", chance.randrange(3), chance.randrange(3)).ljust(512, b"\0")
            given = {"data": data} if opcode & 3 == 1 and chance.random() < 0.6 else {"length": len(data)}
            dword10 = chance.choice((0, 1, 2, 8)) | chance.randrange(7) << 8 if opcode in reserving else 0
            fuse = chance.choice((0, 0, nvme.FUSED_FIRST, nvme.FUSED_SECOND))
            cids.add(queue.submit(opcode, chance.choice((1, 1, 3, 9)), (dword10, 1), fuse=fuse, **given))
        cids.add(queue.submit(Io.RESERVATION_REPORT, 1))
        while cids:
            pdu = await queue.receive()
            if isinstance(pdu, R2T):
                asked.append(pdu)
                chance.shuffle(asked)
            elif isinstance(pdu, CapsuleResp):
                cids.remove(Completion.unpack(pdu.cqe).cid)
            elif isinstance(pdu, C2HData) and pdu.success:
                cids.remove(pdu.cccid)
            while asked and (len(asked) > 5 or not queue.pdus):
                queue.answer(asked.pop(), bytes(512))
                if not asked:
                    # A first half whose second one was refused waits for a command that is let through.
                    cids.add(queue.submit(Io.RESERVATION_REPORT, 1))

    async def test(world: World) -> None:
        _unused, one = await world.io()
        admin = await world.queue()
        cntlid = (await admin.connect(host_id=uuid.UUID(int=2))).cdw0
        await admin.enable()
        other = await world.queue()
        assert (await other.connect(qid=1, cntlid=cntlid, host_id=uuid.UUID(int=2))).status == 0
        for number in range(20):
            await asyncio.gather(
                *(batch(queue, random.Random(f"{seed} {number} {queue is one}")) for queue in (one, other))
            )

    with_world(test)
