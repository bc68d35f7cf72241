"""Compare, and compare and write as a fused operation: on the emulator and, with ``SPDK_PREFIX``, on a real SPDK."""

from __future__ import annotations

import asyncio
import struct
import uuid
from collections.abc import Iterator

import pytest
from nvme_target import BLOCK, MALLOC_NSID, OTHER_NSID, Host, Target, with_target
from spdk_emulator.nvme_tcp import nvme
from spdk_emulator.nvme_tcp.nvme import FUSED_FIRST, FUSED_SECOND, Admin, Cns, Io, Lid, Sc
from support.host_queue import NQN
from support.spdk import Spdk

ZEROES, OLD, NEW = bytes(BLOCK), b"o" * BLOCK, b"n" * BLOCK
MISSING, FAILED = Sc.ABORTED_MISSING_FUSED, Sc.ABORTED_FAILED_FUSED


@pytest.fixture(scope="module")
def spdk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spdk]:
    with Spdk(tmp_path_factory.mktemp("spdk")) as node:
        node.call("nvmf_create_transport", trtype="TCP", in_capsule_data_size=8192)
        yield node


def first(host: Host, data: bytes, lba: int = 0, opcode: int = Io.COMPARE, nsid: int = MALLOC_NSID) -> int:
    blocks = max(1, len(data) // BLOCK)
    return host.io.submit(opcode, nsid, (lba, 0, blocks - 1), data=data, fuse=FUSED_FIRST)


def second(host: Host, data: bytes, lba: int = 0, opcode: int = Io.WRITE, nsid: int = MALLOC_NSID) -> int:
    blocks = max(1, len(data) // BLOCK)
    return host.io.submit(opcode, nsid, (lba, 0, blocks - 1), data=data, fuse=FUSED_SECOND)


async def statuses(host: Host, *cids: int) -> tuple[int, ...]:
    return tuple([await host.io.status(cid) for cid in cids])


async def compare_and_write(
    host: Host, expected: bytes, new: bytes, lba: int = 0, nsid: int = MALLOC_NSID
) -> tuple[int, ...]:
    return await statuses(host, first(host, expected, lba, nsid=nsid), second(host, new, lba, nsid=nsid))


def test_identify_tells_of_it(spdk: Spdk) -> None:
    async def test(target: Target) -> None:
        host = await target.host(1)
        controller = nvme.IDENTIFY_CONTROLLER.unpack(await host.admin.identify(Cns.CONTROLLER))
        assert (controller["fuses"], controller["acwu"]) == (nvme.FUSES_COMPARE_AND_WRITE, 0)
        assert controller["oncs"] & nvme.ONCS_COMPARE
        namespace = nvme.IDENTIFY_NAMESPACE.unpack(await host.admin.identify(Cns.NAMESPACE, MALLOC_NSID))
        assert (namespace["nacwu"], namespace["nsfeat"] & nvme.NSFEAT_ATOMIC_UNITS) == (0, nvme.NSFEAT_ATOMIC_UNITS)
        effects = struct.unpack("<512I", (await host.admin.log_page(Lid.COMMAND_EFFECTS))[:2048])
        assert effects[256 + Io.COMPARE] == 1 | 1 << 20

    with_target(spdk, test)


@pytest.mark.parametrize("nsid", [MALLOC_NSID, OTHER_NSID])
def test_blocks_are_compared(spdk: Spdk, nsid: int) -> None:
    """Also on a bdev that cannot compare by itself."""

    async def test(target: Target) -> None:
        host = await target.host(1)
        assert await host.write(1, OLD + NEW, nsid) == 0
        for lba, data, status in (
            (0, ZEROES + OLD + NEW + ZEROES, 0),
            (0, ZEROES + OLD + NEW + OLD, Sc.COMPARE_FAILURE),
            (1, OLD[:-1] + b"x", Sc.COMPARE_FAILURE),
            (1, OLD, 0),
        ):
            cdws = (lba, 0, len(data) // BLOCK - 1)
            assert await host.run(Io.COMPARE, cdws, nsid, data) == status
        assert await host.run(Io.COMPARE, (1, 0, 1), nsid, OLD) == Sc.DATA_SGL_LENGTH_INVALID
        assert await host.run(Io.COMPARE, (0xFFFFFF, 0, 0), nsid, OLD) == Sc.LBA_OUT_OF_RANGE

    with_target(spdk, test)


@pytest.mark.parametrize("nsid", [MALLOC_NSID, OTHER_NSID])
def test_a_block_is_written_where_it_is_as_expected(spdk: Spdk, nsid: int) -> None:
    async def test(target: Target) -> None:
        host = await target.host(1)
        assert await compare_and_write(host, ZEROES, OLD, 3, nsid) == (0, 0)
        assert await host.read(3, nsid) == OLD
        assert await compare_and_write(host, ZEROES, NEW, 3, nsid) == (Sc.COMPARE_FAILURE, FAILED)
        assert await host.read(3, nsid) == OLD
        assert await compare_and_write(host, OLD, NEW, 3, nsid) == (0, 0)
        assert await host.read(3, nsid) == NEW

    with_target(spdk, test)


@pytest.mark.parametrize("slow", ["compare", "write", "both"])
def test_halves_whose_data_comes_later_wait_for_each_other(spdk: Spdk, slow: str) -> None:
    async def test(target: Target) -> None:
        host = await target.host(1)
        cids, payloads = [], []
        for name, opcode, fuse, data in (
            ("compare", Io.COMPARE, FUSED_FIRST, ZEROES),
            ("write", Io.WRITE, FUSED_SECOND, NEW),
        ):
            late = slow in (name, "both")
            given = {"length": len(data)} if late else {"data": data}
            cids.append(host.io.submit(opcode, MALLOC_NSID, (0, 0, 0), fuse=fuse, **given))
            payloads.append(data if late else b"")
        if slow == "both":
            asked = [await host.io.receive(), await host.io.receive()]
            for pdu, payload in zip(reversed(asked), reversed(payloads), strict=True):
                host.io.answer(pdu, payload)
            assert await statuses(host, *cids) == (0, 0)
        else:
            late = cids[slow == "write"]
            assert await host.io.status(late, payloads[slow == "write"]) == 0
            assert await statuses(host, cids[slow != "write"]) == (0,)
        assert await host.read(0) == NEW

    with_target(spdk, test)


def test_a_half_without_its_other_half_is_aborted(spdk: Spdk) -> None:
    async def test(target: Target) -> None:
        host = await target.host(1)
        assert await statuses(host, second(host, NEW)) == (MISSING,)
        alone = first(host, ZEROES)
        assert await host.read(0) == ZEROES
        assert await statuses(host, alone) == (MISSING,)
        alone = first(host, ZEROES)
        assert await statuses(host, alone, *[first(host, ZEROES), second(host, NEW)]) == (MISSING, 0, 0)
        assert await host.read(0) == NEW
        between = first(host, NEW)
        flush = host.io.submit(Io.FLUSH, MALLOC_NSID)
        late = second(host, OLD)
        assert await statuses(host, between, flush, late) == (MISSING, 0, MISSING)
        assert await host.read(0) == NEW

    with_target(spdk, test)


def test_halves_belong_to_their_queue(spdk: Spdk) -> None:
    async def test(target: Target) -> None:
        one, other = await target.hosts(2)
        waiting = first(one, ZEROES)
        assert await statuses(other, second(other, NEW)) == (MISSING,)
        assert await compare_and_write(other, ZEROES, OLD) == (0, 0)
        assert await statuses(one, waiting, second(one, NEW)) == (Sc.COMPARE_FAILURE, FAILED)
        assert await one.read(0) == OLD

    with_target(spdk, test)


BLOCK_BEYOND = 0xFFFFFF
WRONG = {
    "a first half that does not compare": ((ZEROES, 0, Io.WRITE), (NEW, 0), (Sc.INVALID_OPCODE, MISSING)),
    "a second half that does not write": ((ZEROES, 0), (ZEROES, 0, Io.COMPARE), (MISSING, Sc.INVALID_OPCODE)),
    "another block": ((ZEROES, 0), (NEW, 1), (Sc.INVALID_FIELD, FAILED)),
    "another number of blocks": ((ZEROES * 2, 0), (NEW, 0), (Sc.INVALID_FIELD, FAILED)),
    "more blocks than are atomic": ((ZEROES * 2, 0), (NEW * 2, 0), (Sc.INTERNAL_ERROR, FAILED)),
    "beyond the end": ((ZEROES, BLOCK_BEYOND), (NEW, BLOCK_BEYOND), (Sc.LBA_OUT_OF_RANGE, FAILED)),
    "less data than a block": ((ZEROES, 0), (NEW[:256], 0), (Sc.DATA_SGL_LENGTH_INVALID, FAILED)),
    "a first half for no namespace": (
        (ZEROES, 0, Io.COMPARE, 7), (NEW, 0), (Sc.INVALID_NAMESPACE | nvme.DO_NOT_RETRY, MISSING)
    ),
}  # fmt: skip


@pytest.mark.parametrize(("compare", "write", "ends"), WRONG.values(), ids=WRONG.keys())
def test_halves_that_do_not_fit_have_their_status(
    spdk: Spdk, compare: tuple, write: tuple, ends: tuple[int, int]
) -> None:
    async def test(target: Target) -> None:
        host = await target.host(1)
        assert await statuses(host, first(host, *compare), second(host, *write)) == ends
        assert await host.read(0) == ZEROES
        assert await compare_and_write(host, ZEROES, NEW) == (0, 0)

    with_target(spdk, test)


def test_a_first_half_waits_for_the_next_command_if_the_second_was_not_let_through(spdk: Spdk) -> None:
    async def test(target: Target) -> None:
        host = await target.host(1)
        waiting, refused = first(host, ZEROES), second(host, NEW, nsid=7)
        assert await statuses(host, refused) == (Sc.INVALID_NAMESPACE | nvme.DO_NOT_RETRY,)
        assert await host.read(0) == ZEROES
        assert await statuses(host, waiting) == (MISSING,)

    with_target(spdk, test)


def test_the_admin_queue_has_no_fused_commands(spdk: Spdk) -> None:
    async def test(target: Target) -> None:
        admin = (await target.host(1)).admin
        identify = (Admin.IDENTIFY, 0, (Cns.CONTROLLER,), 4096, b"")
        assert await admin.status(admin.submit(*identify, fuse=FUSED_SECOND)) == MISSING
        pair = [admin.submit(*identify, fuse=fuse) for fuse in (FUSED_FIRST, FUSED_SECOND)]
        assert [await admin.status(cid) for cid in pair] == [Sc.INVALID_FIELD, Sc.INVALID_FIELD]
        assert len(await admin.identify(Cns.CONTROLLER)) == 4096

    with_target(spdk, test)


def test_a_reservation_lets_each_half_through_or_not(spdk: Spdk) -> None:
    async def test(target: Target) -> None:
        holder, other = await target.hosts(2)
        keys = struct.pack("<QQ", 0, 17)
        assert await holder.run(Io.RESERVATION_REGISTER, (0,), data=keys) == 0
        acquire = struct.pack("<QQ", 17, 0)
        assert await holder.run(Io.RESERVATION_ACQUIRE, (2 << 8,), data=acquire) == 0
        assert await compare_and_write(other, ZEROES, NEW) == (Sc.RESERVATION_CONFLICT,) * 2
        assert await compare_and_write(holder, ZEROES, OLD) == (0, 0)
        assert await holder.run(Io.RESERVATION_RELEASE, (2 << 8,), data=acquire[:8]) == 0
        assert await holder.run(Io.RESERVATION_ACQUIRE, (1 << 8,), data=acquire) == 0
        waiting, refused = first(other, OLD), second(other, NEW)
        assert await statuses(other, refused) == (Sc.RESERVATION_CONFLICT,)
        assert await other.read(0) == OLD
        assert await statuses(other, waiting) == (MISSING,)

    with_target(spdk, test)


@pytest.mark.parametrize("nsid", [MALLOC_NSID, OTHER_NSID])
def test_hosts_that_count_in_one_block_lose_nothing(spdk: Spdk, nsid: int) -> None:
    async def count(host: Host, times: int) -> None:
        known = 0
        for _unused in range(times):
            while True:
                new = struct.pack("<Q", known + 1).ljust(BLOCK, b"\0")
                ends = await compare_and_write(host, struct.pack("<Q", known).ljust(BLOCK, b"\0"), new, 5, nsid)
                if ends == (0, 0):
                    break
                assert ends == (Sc.COMPARE_FAILURE, FAILED)
                known = struct.unpack_from("<Q", await host.read(5, nsid))[0]
            known += 1

    async def test(target: Target) -> None:
        hosts = await target.hosts(4)
        await asyncio.gather(*(count(host, 50) for host in hosts))
        assert struct.unpack_from("<Q", await hosts[0].read(5, nsid))[0] == 200

    with_target(spdk, test)


def test_nothing_comes_between_compare_and_write_on_a_slow_bdev(spdk: Spdk) -> None:
    async def test(target: Target) -> None:
        latencies = {f"{which}_{way}_latency": 20_000 for which in ("avg", "p99") for way in ("read", "write")}
        spdk.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=OTHER_NSID)
        spdk.call("bdev_delay_create", base_bdev_name="a2", name="slow", **latencies)
        spdk.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "slow", "nsid": 3})
        try:
            one, other = await target.hosts(2)
            # In flight when the pair comes: the pair sees it.
            early = other.io.submit(Io.WRITE, 3, (0, 0, 0), data=OLD)
            assert len(await other.io.read(8, 1, 3)) == BLOCK
            pair = first(one, OLD, nsid=3), second(one, NEW, nsid=3)
            assert await statuses(one, *pair) == (0, 0)
            assert await other.io.status(early) == 0
            assert await one.read(0, 3) == NEW
            pair = first(one, NEW, nsid=3), second(one, OLD, nsid=3)
            late = one.io.submit(Io.WRITE, 3, (0, 0, 0), data=ZEROES)
            # Commands of a queue have no order: all of the write is before the pair, or after it, and stays.
            assert await statuses(one, *pair, late) in ((0, 0, 0), (Sc.COMPARE_FAILURE, FAILED, 0))
            assert await one.read(0, 3) == ZEROES
        finally:
            spdk.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=3)
            spdk.call("bdev_delay_delete", name="slow")

    with_target(spdk, test)


def test_a_namespace_on_an_nvme_bdev_hands_the_pair_on(spdk: Spdk) -> None:
    async def test(target: Target) -> None:
        attached = spdk.call("bdev_nvme_attach_controller", name="n", subnqn=NQN, **target.address)
        assert attached == ["nn1"]
        types = spdk.call("bdev_get_bdevs", name="nn1")[0]["supported_io_types"]
        assert types["compare"]
        assert types["compare_and_write"]
        nqn = f"{NQN}-further"
        spdk.call("nvmf_create_subsystem", nqn=nqn, allow_any_host=True)
        try:
            spdk.call("nvmf_subsystem_add_ns", nqn=nqn, namespace={"bdev_name": "nn1", "nsid": 1})
            spdk.call("nvmf_subsystem_add_listener", nqn=nqn, listen_address=target.address)
            near = await target.host(1)
            far = await target.host(2, nqn)
            assert await compare_and_write(far, ZEROES, OLD) == (0, 0)
            assert await near.read(0) == OLD
            assert await compare_and_write(far, ZEROES, NEW) == (Sc.COMPARE_FAILURE, FAILED)
            assert await far.run(Io.COMPARE, (0, 0, 0), data=OLD) == 0
            assert await far.run(Io.COMPARE, (0, 0, 0), data=NEW) == Sc.COMPARE_FAILURE
            assert await near.read(0) == OLD
        finally:
            spdk.call("nvmf_delete_subsystem", nqn=nqn)
            spdk.call("bdev_nvme_detach_controller", name="n")

    # A bdev takes the namespace's NGUID for its UUID, and the target's own bdev has the default of that.
    with_target(spdk, test, nguid=uuid.UUID(int=77).hex)


def test_what_bdevs_say_they_can(spdk: Spdk) -> None:
    async def test(target: Target) -> None:
        found = {}
        for name in ("m1", "a2"):
            types = spdk.call("bdev_get_bdevs", name=name)[0]["supported_io_types"]
            found[name] = (types["compare"], types["compare_and_write"])
        assert found == {"m1": (True, False), "a2": (False, False)}

    with_target(spdk, test)
