"""Reads, writes and the other I/O commands over the wire."""

from __future__ import annotations

import asyncio
import random
import struct

import pytest
from nvmf_host import World, with_world
from spdk_emulator.bdev.malloc import MallocBdev
from spdk_emulator.bdev.null import NullBdev
from spdk_emulator.nvme_tcp import digests, nvme
from spdk_emulator.nvme_tcp.nvme import Admin, Io, Sc
from spdk_emulator.nvme_tcp.pdu import CapsuleCmd, Fes, H2CData
from support.host_queue import Queue, Terminated

DATA = random.Random(3).randbytes(131072)


@pytest.mark.parametrize("digests", [False, True])
@pytest.mark.parametrize("alignment", [0, 7])
def test_what_is_written_is_read_in_capsule_and_through_r2t(digests: bool, alignment: int) -> None:
    async def test(world: World) -> None:
        _unused, queue = await world.io(digests=digests, alignment=alignment)
        assert (queue.framing.header_digest, queue.framing.data_digest) == (digests, digests)
        done, _unused = await queue.run(Io.WRITE, 1, (8, 0, 15), data=DATA[:8192])
        assert done.status == 0
        for pieces in (1, 5):
            queue.pieces = pieces
            done, _unused = await queue.run(Io.WRITE, 1, (100, 0, 255), payload=DATA)
            assert done.status == 0
        assert await queue.read(8, 16) == DATA[:8192]
        assert await queue.read(100, 256) == DATA
        assert await queue.read(99, 3) == bytes(512) + DATA[:1024]

    with_world(test)


def test_many_commands_at_once_are_each_answered_once() -> None:
    async def test(world: World) -> None:
        _unused, queue = await world.io()
        cids = [queue.submit(Io.READ, 1, (lba, 0, 0), length=512) for lba in range(100)]
        got = [(await queue.receive()).cccid for _unused in cids]
        assert sorted(got) == sorted(cids)

    with_world(test)


def test_a_transfer_larger_than_one_data_pdu_comes_in_parts() -> None:
    async def test(world: World) -> None:
        _unused, queue = await world.io()
        queue.decoder.max_data = 1 << 20
        big = DATA * 2
        done, _unused = await queue.run(Io.WRITE, 3, (0, 0, 63), payload=big)
        assert done.status == 0
        assert await queue.read(0, 64, nsid=3, block_size=4096) == big

    with_world(test, max_io_size=262144)


def test_completions_are_sent_where_success_flags_are_off() -> None:
    async def test(world: World) -> None:
        _unused, queue = await world.io()
        assert await queue.read(0, 1) == bytes(512)

    with_world(test, c2h_success=False)


def test_zeroes_deallocation_compare_and_flush() -> None:
    async def test(world: World) -> None:
        _unused, queue = await world.io()
        await queue.run(Io.WRITE, 1, (0, 0, 255), payload=DATA)
        assert (await queue.run(Io.COMPARE, 1, (0, 0, 3), data=DATA[:2048]))[0].status == 0
        assert (await queue.run(Io.COMPARE, 1, (0, 0, 3), data=bytes(2048)))[0].status == 0x285
        assert (await queue.run(Io.WRITE_ZEROES, 1, (1, 0, 1)))[0].status == 0
        ranges = struct.pack("<IIQIIQ", 0, 2, 8, 0, 1, 20)
        assert (await queue.run(Io.DATASET_MANAGEMENT, 1, (1, 4), data=ranges))[0].status == 0
        assert (await queue.run(Io.FLUSH, 1))[0].status == 0
        wanted = bytearray(DATA)
        for lba, count in ((1, 2), (8, 2), (20, 1)):
            wanted[lba * 512 : (lba + count) * 512] = bytes(count * 512)
        assert await queue.read(0, 256) == wanted

    with_world(test)


@pytest.mark.parametrize(("source", "target"), [(0, 5000), (5000, 0), (0, 100), (100, 0), (7, 7)])
def test_blocks_are_copied_to_where_they_may_overlap(source: int, target: int) -> None:
    """More than is copied in one step."""
    blocks = 3000

    async def test(world: World) -> None:
        world.bdevs.register(MallocBdev("big", 512, 8192))
        world.subsystem.add_namespace("big", 4)
        _unused, queue = await world.io()
        content = bytearray(random.Random(4).randbytes(8192 * 512))
        for lba in range(0, 8192, 256):
            await queue.run(Io.WRITE, 4, (lba, 0, 255), payload=content[lba * 512 : (lba + 256) * 512])
        assert (await queue.run(Io.COPY, 4, (target,), data=source_range(source, blocks)))[0].status == 0
        content[target * 512 : (target + blocks) * 512] = content[source * 512 : (source + blocks) * 512]
        for lba in range(0, 8192, 256):
            assert await queue.read(lba, 256, nsid=4) == content[lba * 512 : (lba + 256) * 512]

    with_world(test)


def source_range(lba: int, blocks: int) -> bytes:
    return struct.pack("<8xQH14x", lba, blocks - 1)


@pytest.mark.parametrize(
    ("cdws", "ranges", "status"),
    [
        ((0, 0, 1), source_range(0, 1) * 2, Sc.SIZE_LIMIT_EXCEEDED),
        ((0, 0, 0), source_range(0, 1) * 2, Sc.DATA_SGL_LENGTH_INVALID),
        ((0, 0, 0), bytes(16), Sc.DATA_SGL_LENGTH_INVALID),
        ((0, 0, 1 << 8), source_range(0, 1), Sc.INVALID_FIELD),
        ((0, 0, 0), source_range(2048, 1), Sc.LBA_OUT_OF_RANGE),
        ((0, 0, 0), source_range(2047, 2), Sc.LBA_OUT_OF_RANGE),
        ((2047, 0, 0), source_range(0, 2), Sc.LBA_OUT_OF_RANGE),
        ((0xFFFFFFFF, 0xFFFFFFFF, 0), source_range(0, 1), Sc.LBA_OUT_OF_RANGE),
        ((0, 0, 0), source_range(0xFFFFFFFFFFFFFFFF, 65536), Sc.LBA_OUT_OF_RANGE),
    ],
)
def test_what_cannot_be_copied_has_its_status(cdws: tuple[int, ...], ranges: bytes, status: int) -> None:
    async def test(world: World) -> None:
        _unused, queue = await world.io()
        assert (await queue.run(Io.COPY, 1, cdws, data=ranges))[0].status == status
        assert await queue.read(0, 1) == bytes(512)

    with_world(test)


@pytest.mark.parametrize("gone", ["namespace", "host"])
def test_a_copy_ends_when_its_namespace_or_its_host_goes(gone: str) -> None:
    async def test(world: World) -> None:
        world.bdevs.register(MallocBdev("big", 512, 1 << 17))
        world.subsystem.add_namespace("big", 4)
        _unused, queue = await world.io()
        before = len(asyncio.all_tasks())
        cid = queue.submit(Io.COPY, 4, (65536,), data=source_range(0, 65536))
        while len(asyncio.all_tasks()) == before:
            await asyncio.sleep(0)
        if gone == "host":
            queue.close()
        else:
            world.subsystem.remove_namespace(4)
            assert (await queue.wait(cid))[0].status == Sc.INTERNAL_ERROR
        while len(asyncio.all_tasks()) > before:
            await asyncio.sleep(0.01)

    with_world(test)


REFUSED = {
    "beyond the end": (Io.READ, 1, (2048, 0, 0), Sc.LBA_OUT_OF_RANGE),
    "over the end": (Io.READ, 1, (2047, 0, 1), Sc.LBA_OUT_OF_RANGE),
    "far beyond the end": (Io.READ, 1, (0xFFFFFFFF, 0xFFFFFFFF, 0), Sc.LBA_OUT_OF_RANGE),
    "more blocks than the buffer holds": (Io.READ, 1, (0, 0, 7), Sc.DATA_SGL_LENGTH_INVALID),
    "zeroes beyond the end": (Io.WRITE_ZEROES, 1, (2048, 0, 0), Sc.LBA_OUT_OF_RANGE),
    "zeroes that deallocate": (Io.WRITE_ZEROES, 1, (0, 0, 1 << 25), Sc.INVALID_FIELD),
    "a namespace that is not there": (Io.READ, 2, (0, 0, 0), Sc.INVALID_NAMESPACE | nvme.DO_NOT_RETRY),
    "the broadcast namespace": (Io.FLUSH, 0xFFFFFFFF, (), Sc.INVALID_NAMESPACE | nvme.DO_NOT_RETRY),
    "an unknown command": (0x90, 1, (), Sc.INVALID_OPCODE | nvme.DO_NOT_RETRY),
    "both directions": (0x93, 1, (), Sc.INVALID_OPCODE),
    "a fabrics command": (nvme.FABRICS_OPCODE, 4, (0, 0x1C), Sc.INVALID_OPCODE),
}


@pytest.mark.parametrize(("opcode", "nsid", "cdws", "status"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_done_has_its_status(opcode: int, nsid: int, cdws: tuple[int, ...], status: int) -> None:
    async def test(world: World) -> None:
        _unused, queue = await world.io()
        done, _unused = await queue.run(opcode, nsid, cdws, length=512)
        assert done.status == status
        assert await queue.read(0, 1) == bytes(512)

    with_world(test)


def test_a_bdev_without_an_operation_refuses_it() -> None:
    async def test(world: World) -> None:
        world.bdevs.register(NullBdev("n", 512, 2048))
        world.subsystem.add_namespace("n", 5)
        _unused, queue = await world.io()
        deallocate = struct.pack("<IIQ", 0, 1, 0)
        done, _unused = await queue.run(Io.DATASET_MANAGEMENT, 5, (0, 4), data=deallocate)
        assert done.status == Sc.INVALID_OPCODE

    with_world(test)


def test_without_the_library_a_host_gets_no_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_library", lambda: None)

    async def test(world: World) -> None:
        _unused, queue = await world.io(digests=True)
        assert not (queue.framing.header_digest or queue.framing.data_digest)
        done, _unused = await queue.run(Io.WRITE, 1, (8, 0, 15), data=DATA[:8192])
        assert done.status == 0

    with_world(test)


def test_a_wrong_data_digest_fails_the_command_and_not_the_connection() -> None:
    async def test(world: World) -> None:
        _unused, queue = await world.io(digests=True)
        cid = queue.next_cid()
        raw = bytearray(
            b"".join(CapsuleCmd(nvme.command(Io.WRITE, cid, 1, 512, True), DATA[:512]).encode(queue.framing))
        )
        raw[-1] ^= 1
        queue.writer.write(raw)
        assert (await queue.wait(cid))[0].status == Sc.TRANSIENT_TRANSPORT_ERROR
        assert await queue.read(0, 1) == bytes(512)

    with_world(test)


def raw_write(cid: int, **changes: int) -> bytes:
    fields = {"length": 512, "sgl": nvme.SGL_IN_CAPSULE, "address": 0, **changes}
    sqe = bytearray(nvme.command(Io.WRITE, cid, 1, fields["length"]))
    sqe[24:32] = fields["address"].to_bytes(8, "little")
    sqe[39] = fields["sgl"]
    return b"".join(CapsuleCmd(bytes(sqe), bytes(fields.get("data", 512))).encode())


FATAL = {
    "more data than allowed in a capsule": ({"length": 16384, "data": 16384}, Fes.LIMIT_EXCEEDED, 0),
    "data and SGL disagree": ({"length": 1024}, Fes.INVALID_HEADER_FIELD, 4),
    "data at an offset": ({"address": 4}, Fes.UNSUPPORTED_PARAMETER, 32),
    "an SGL that is no NVMe/TCP one": ({"sgl": 0x00}, Fes.UNSUPPORTED_PARAMETER, 40),
    "a longer transfer than allowed": ({"sgl": nvme.SGL_TRANSPORT, "length": 262144}, Fes.LIMIT_EXCEEDED, 0),
}


@pytest.mark.parametrize(("changes", "fes", "fei"), FATAL.values(), ids=FATAL.keys())
def test_wrong_sgls_end_the_connection(changes: dict[str, int], fes: Fes, fei: int) -> None:
    async def test(world: World) -> None:
        admin, queue = await world.io()
        queue.writer.write(raw_write(1, **changes))
        with pytest.raises(Terminated) as caught:
            await queue.receive()
        assert (caught.value.fes, caught.value.fei) == (fes, fei)
        assert len(await admin.identify(1)) == 4096

    with_world(test)


WRONG_DATA = {
    "a tag nobody gave": ({"ttag": 77}, Fes.INVALID_HEADER_FIELD, 10),
    "a tag beyond the queue": ({"ttag": 500}, Fes.SEQUENCE_ERROR, 0),
    "another command": ({"cccid": 99}, Fes.SEQUENCE_ERROR, 0),
    "not where it is wanted": ({"offset": 512}, Fes.DATA_OUT_OF_RANGE, 0),
    "more than was asked for": ({"size": 16896}, Fes.DATA_OUT_OF_RANGE, 0),
}


@pytest.mark.parametrize(("changes", "fes", "fei"), WRONG_DATA.values(), ids=WRONG_DATA.keys())
def test_wrong_data_ends_the_connection(changes: dict[str, int], fes: Fes, fei: int) -> None:
    async def test(world: World) -> None:
        _unused, queue = await world.io()
        cid = queue.submit(Io.WRITE, 1, (0, 0, 31), length=16384)
        request = await queue.receive()
        fields = {"cccid": cid, "ttag": request.ttag, "offset": 0, "size": 512, **changes}
        queue.send(H2CData(fields["cccid"], fields["ttag"], fields["offset"], bytes(fields["size"])))
        with pytest.raises(Terminated) as caught:
            await queue.receive()
        assert (caught.value.fes, caught.value.fei) == (fes, fei)

    with_world(test)


def test_more_commands_than_the_queue_is_deep_end_the_connection() -> None:
    async def test(world: World) -> None:
        _unused, queue = await world.io()
        for _unused in range(129):
            queue.submit(Io.WRITE, 1, (0, 0, 31), length=16384)
        with pytest.raises((EOFError, ConnectionError)):
            for _unused in range(130):
                await queue.receive()

    with_world(test)


def fused(queue: Queue, opcode: int, fuse: int, data: bytes = bytes(512), **given: int) -> int:
    return queue.submit(opcode, 1, (0, 0, 0), data=b"" if given else data, fuse=fuse, **given)


@pytest.mark.parametrize("damaged", ["compare", "write"])
def test_a_half_whose_data_is_damaged_takes_the_other_one_with_it(damaged: str) -> None:
    async def test(world: World) -> None:
        _unused, queue = await world.io(digests=True)
        cids = {}
        for name, opcode, fuse in (("compare", Io.COMPARE, nvme.FUSED_FIRST), ("write", Io.WRITE, nvme.FUSED_SECOND)):
            cid = cids[name] = queue.next_cid()
            sqe = bytearray(nvme.command(opcode, cid, 1, 512, True, (0, 0, 0)))
            sqe[1] |= fuse
            raw = bytearray(b"".join(CapsuleCmd(bytes(sqe), bytes(512)).encode(queue.framing)))
            raw[-1] ^= name == damaged
            queue.writer.write(raw)
        for name, cid in cids.items():
            wanted = Sc.TRANSIENT_TRANSPORT_ERROR if name == damaged else Sc.ABORTED_MISSING_FUSED
            assert await queue.status(cid) == wanted
        assert await queue.read(0, 1) == bytes(512)

    with_world(test)


def test_a_half_that_is_aborted_takes_the_other_one_with_it() -> None:
    async def test(world: World) -> None:
        admin, queue = await world.io()
        compare = fused(queue, Io.COMPARE, nvme.FUSED_FIRST, length=512)
        await queue.receive()
        write = fused(queue, Io.WRITE, nvme.FUSED_SECOND, DATA[:512])
        assert (await admin.run(Admin.ABORT, 0, (1 | compare << 16,)))[0].value == 0
        assert await queue.status(compare) == Sc.ABORTED_BY_REQUEST
        assert await queue.status(write) == Sc.ABORTED_MISSING_FUSED
        assert await queue.read(0, 1) == bytes(512)

    with_world(test)


def test_both_bits_have_no_meaning_and_no_answer() -> None:
    """As with SPDK. The queue works on."""

    async def test(world: World) -> None:
        _unused, queue = await world.io()
        fused(queue, Io.COMPARE, nvme.FUSED_MASK)
        pair = [fused(queue, Io.COMPARE, nvme.FUSED_FIRST), fused(queue, Io.WRITE, nvme.FUSED_SECOND, DATA[:512])]
        assert [await queue.status(cid) for cid in pair] == [0, 0]
        assert await queue.read(0, 1) == DATA[:512]

    with_world(test)


def test_a_host_that_goes_between_the_halves_leaves_nothing_behind() -> None:
    async def test(world: World) -> None:
        admin, queue = await world.io()
        fused(queue, Io.COMPARE, nvme.FUSED_FIRST)
        fused(queue, Io.WRITE, nvme.FUSED_SECOND, length=512)
        await queue.receive()
        queue.close()
        while world.target.groups[0].stats.current_io_qpairs:
            await asyncio.sleep(0.001)
        assert not world.subsystem.ending
        assert len(await admin.identify(1)) == 4096

    with_world(test)
