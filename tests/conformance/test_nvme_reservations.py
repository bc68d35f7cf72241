"""NVMe reservations of a namespace, as hosts see them: on the emulator and, with ``SPDK_PREFIX``, on a real SPDK.

What is expected here is what SPDK 26.05 answers, also where it is not what the specification says.
"""

from __future__ import annotations

import asyncio
import json
import struct
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nvme_target import BLOCK, MALLOC_NSID, OTHER_NSID, Host, Target, with_target
from spdk_emulator.nvme_tcp import nvme
from spdk_emulator.nvme_tcp.nvme import Admin, Cns, Feature, Io, Lid, Sc
from support.host_queue import NQN
from support.spdk import CallFailed, Spdk

REGISTER, UNREGISTER, REPLACE = 0, 1, 2
ACQUIRE, PREEMPT, PREEMPT_AND_ABORT = 0, 1, 2
RELEASE, CLEAR = 0, 1
IGNORE_EXISTING_KEY = 1 << 3
CPTPL_CLEAR, CPTPL_SET = 2 << 30, 3 << 30
WE, EA, WERO, EARO, WEAR, EAAR = TYPES = (1, 2, 3, 4, 5, 6)
REGISTRATION_PREEMPTED, RESERVATION_RELEASED, RESERVATION_PREEMPTED = 1, 2, 3
BLOCKS = bytes(BLOCK)
CONFLICT = Sc.RESERVATION_CONFLICT
NOT_NAMESPACE_SPECIFIC = 0x00F
"""SPDK gives the code without its type; with it, it would be 0x10F."""


@pytest.fixture(scope="module")
def spdk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spdk]:
    with Spdk(tmp_path_factory.mktemp("spdk")) as node:
        node.call("nvmf_create_transport", trtype="TCP", in_capsule_data_size=8192)
        yield node


async def register(host: Host, new: int, current: int = 0, action: int = REGISTER, flags: int = 0) -> int:
    return await host.run(Io.RESERVATION_REGISTER, (action | flags,), data=struct.pack("<QQ", current, new))


async def acquire(host: Host, key: int, kind: int, action: int = ACQUIRE, preempted: int = 0, flags: int = 0) -> int:
    data = struct.pack("<QQ", key, preempted)
    return await host.run(Io.RESERVATION_ACQUIRE, (action | flags | kind << 8,), data=data)


async def release(host: Host, key: int, kind: int = 0, action: int = RELEASE, flags: int = 0) -> int:
    return await host.run(Io.RESERVATION_RELEASE, (action | flags | kind << 8,), data=struct.pack("<Q", key))


async def report(host: Host, size: int = 4096) -> tuple[dict[str, int], list[tuple[int, int, int, int]]]:
    """The header, and of each registrant: number of its host, key, controller, whether it holds the reservation."""
    done, data = await host.io.run(Io.RESERVATION_REPORT, MALLOC_NSID, (size // 4 - 1, 1), length=size)
    assert done.status == 0
    header = nvme.RESERVATION_STATUS.unpack(data)
    registrants = []
    for number in range(header["regctl"]):
        found = nvme.REGISTRANT.unpack(data[64 * (number + 1) :])
        host_id = uuid.UUID(bytes=found["hostid"])
        registrants.append((host_id.int, found["rkey"], found["cntlid"], found["rcsts"]))
    return header, registrants


async def state(host: Host) -> tuple[int, int, list[tuple[int, int, int]]]:
    """Generation, type, and of each registrant: number of its host, key, whether it holds the reservation."""
    header, registrants = await report(host)
    return header["gen"], header["rtype"], [(number, key, holds) for number, key, _unused, holds in registrants]


async def notifications(host: Host) -> list[tuple[int, int, int, int]]:
    """Everything in the log: count, kind, number of pages left, namespace."""
    found = []
    while True:
        page = nvme.RESERVATION_NOTIFICATION.unpack(await host.admin.log_page(Lid.RESERVATION_NOTIFICATION, 64))
        if not page["kind"]:
            return found
        found.append((page["count"], page["kind"], page["available"], page["nsid"]))


async def registered(target: Target, count: int) -> list[Host]:
    """Hosts 1, 2 … with the keys 0x11, 0x12 …"""
    hosts = await target.hosts(count)
    for number, host in enumerate(hosts, 1):
        assert await register(host, 0x10 + number) == 0
    return hosts


# What is told of it


def test_identify_tells_of_reservations(spdk: Spdk) -> None:
    async def test(target: Target) -> None:
        host = await target.host(1)
        controller = nvme.IDENTIFY_CONTROLLER.unpack(await host.admin.identify(Cns.CONTROLLER))
        assert controller["oncs"] & nvme.ONCS_RESERVATIONS
        namespace = nvme.IDENTIFY_NAMESPACE.unpack(await host.admin.identify(Cns.NAMESPACE, MALLOC_NSID))
        assert (namespace["rescap"], namespace["nmic"]) == (0xFE, 1)
        independent = await host.admin.identify(Cns.NAMESPACE_INDEPENDENT, MALLOC_NSID)
        assert nvme.IDENTIFY_NAMESPACE_INDEPENDENT.unpack(independent)["rescap"] == 0xFE
        effects = struct.unpack("<512I", (await host.admin.log_page(Lid.COMMAND_EFFECTS))[:2048])
        for opcode in (Io.RESERVATION_REGISTER, Io.RESERVATION_REPORT, Io.RESERVATION_ACQUIRE, Io.RESERVATION_RELEASE):
            assert effects[256 + opcode] == 1 | 1 << 20
        features = struct.unpack("<256I", await host.admin.log_page(Lid.FEATURE_EFFECTS, 1024))
        for feature in (Feature.RESERVATION_NOTIFICATION_MASK, Feature.RESERVATION_PERSISTENCE):
            assert features[feature] == 1 | 1 << 20
        supported = struct.unpack("<256I", await host.admin.log_page(Lid.SUPPORTED_LOG_PAGES, 1024))
        assert supported[Lid.RESERVATION_NOTIFICATION] == 1

    with_target(spdk, test)


# Registering


def test_registrants_are_reported_with_their_controllers(spdk: Spdk) -> None:
    async def test(target: Target) -> None:
        first, second = await target.hosts(2)
        header, registrants = await report(first)
        assert (header, registrants) == ({"gen": 0, "rtype": 0, "regctl": 0, "ptpls": 0}, [])
        assert await register(second, 0x2222222222222222) == 0
        assert await register(first, 0x1111111111111111) == 0
        header, registrants = await report(first)
        assert header["gen"] == 2
        assert registrants == [
            (2, 0x2222222222222222, second.cntlid, 0),
            (1, 0x1111111111111111, first.cntlid, 0),
        ]

    with_target(spdk, test)


def test_a_host_is_one_registrant_with_all_its_controllers(spdk: Spdk) -> None:
    async def test(target: Target) -> None:
        one, other, stranger = await target.host(1), await target.host(1), await target.host(2)
        assert await register(one, 0x11) == 0
        assert await register(other, 0x11) == 0
        assert await register(other, 0x12) == CONFLICT
        assert await acquire(other, 0x11, EA) == 0
        assert (await report(one))[1] == [(1, 0x11, one.cntlid, 1)]
        assert await one.write(0, BLOCKS) == 0
        assert await stranger.write(0, BLOCKS) == CONFLICT

    with_target(spdk, test)


def test_keys_are_registered_replaced_and_unregistered(spdk: Spdk) -> None:
    async def test(target: Target) -> None:
        host, other = await target.hosts(2)
        steps = [
            ("a key of zero", register(host, 0), Sc.INVALID_FIELD, []),
            ("replaced before there is one", register(host, 0x12, 0x11, REPLACE), CONFLICT, []),
            ("unregistered before there is one", register(host, 0, 0x11, UNREGISTER), CONFLICT, []),
            ("the same, whatever the key", register(host, 0, 0, UNREGISTER, IGNORE_EXISTING_KEY), CONFLICT, []),
            ("registered", register(host, 0x11), 0, [0x11]),
            ("the same key again", register(host, 0x11), 0, [0x11]),
            ("another key", register(host, 0x12), CONFLICT, [0x11]),
            ("another, ignoring", register(host, 0x12, 0, REGISTER, IGNORE_EXISTING_KEY), CONFLICT, [0x11]),
            ("replaced with a wrong current key", register(host, 0x12, 0x99, REPLACE), CONFLICT, [0x11]),
            ("replaced by zero", register(host, 0, 0x11, REPLACE), Sc.INVALID_FIELD, [0x11]),
            ("replaced", register(host, 0x12, 0x11, REPLACE), 0, [0x12]),
            ("replaced, ignoring", register(host, 0x13, 0x99, REPLACE, IGNORE_EXISTING_KEY), 0, [0x13]),
            ("replaced by itself", register(host, 0x13, 0x13, REPLACE), 0, [0x13]),
            ("a host that has none, ignoring", register(other, 0x21, 0, REPLACE, IGNORE_EXISTING_KEY), 0, [0x13, 0x21]),
            ("unregistered with a wrong key", register(host, 0, 0x99, UNREGISTER), CONFLICT, [0x13, 0x21]),
            ("unregistered", register(host, 0, 0x13, UNREGISTER), 0, [0x21]),
            ("ignoring", register(other, 0, 0x99, UNREGISTER, IGNORE_EXISTING_KEY), 0, []),
            ("no action", register(host, 0x11, 0, 3), Sc.INVALID_FIELD, []),
            ("to be kept, though there is nowhere to", register(host, 0x11, 0, 0, CPTPL_SET), Sc.INVALID_FIELD, []),
            ("not to be kept", register(host, 0x11, 0, REGISTER, CPTPL_CLEAR), 0, [0x11]),
        ]
        for what, step, status, keys in steps:
            assert await step == status, what
            assert [key for _unused, key, _unused2, _unused3 in (await report(host))[1]] == keys, what
        assert (await report(host))[0]["gen"] == 5

    with_target(spdk, test)


def test_there_is_a_limit_to_registrants(spdk: Spdk) -> None:
    async def test(target: Target) -> None:
        hosts = await registered(target, 16)
        one_more = await target.host(17)
        assert await register(one_more, 0x21) == Sc.INTERNAL_ERROR
        assert await register(one_more, 0x21, 0, REPLACE, IGNORE_EXISTING_KEY) == Sc.INTERNAL_ERROR
        assert (await report(hosts[0]))[0]["regctl"] == 16
        assert await register(hosts[3], 0, 0x14, UNREGISTER) == 0
        assert await register(one_more, 0x21) == 0

    with_target(spdk, test)


@pytest.mark.parametrize(
    ("opcode", "least"),
    [(Io.RESERVATION_REGISTER, 16), (Io.RESERVATION_ACQUIRE, 16), (Io.RESERVATION_RELEASE, 8)],
)
def test_a_command_needs_its_keys(spdk: Spdk, opcode: int, least: int) -> None:
    async def test(target: Target) -> None:
        host = await target.host(1)
        assert await host.run(opcode) == Sc.INVALID_FIELD
        assert await host.run(opcode, data=bytes(least - 4)) == Sc.INVALID_FIELD
        await registered(target, 1)
        assert await host.run(opcode, (1,), OTHER_NSID, bytes(least)) == CONFLICT
        assert await host.run(opcode, (), 7, bytes(least)) == Sc.INVALID_NAMESPACE | nvme.DO_NOT_RETRY

    with_target(spdk, test)


def test_a_report_has_the_extended_structure_as_far_as_there_is_room(spdk: Spdk) -> None:
    async def test(target: Target) -> None:
        host, *_unused = await registered(target, 3)

        async def ask(dwords: int, extended: int, length: int) -> tuple[int, bytes]:
            done, data = await host.io.run(Io.RESERVATION_REPORT, MALLOC_NSID, (dwords - 1, extended), length=length)
            return done.status, data

        assert (await ask(16, 0, 64))[0] == Sc.HOST_IDENTIFIER_INCONSISTENT_FORMAT
        assert (await ask(15, 1, 64))[0] == Sc.INTERNAL_ERROR
        assert (await ask(16, 1, 0))[0] == Sc.INVALID_FIELD
        status, data = await ask(32, 1, 128)
        assert status == 0
        assert nvme.RESERVATION_STATUS.unpack(data)["regctl"] == 3
        assert nvme.REGISTRANT.unpack(data[64:])["rkey"] == 0x11
        whole = (await ask(1024, 1, 4096))[1]
        assert (await ask(1024, 1, 100))[1] == whole[:100]

    with_target(spdk, test)


# Who may do what

READS = {"read": (Io.READ, b"", BLOCK), "compare": (Io.COMPARE, BLOCKS, 0)}
WRITES = {
    "write": (Io.WRITE, BLOCKS, 0),
    "write zeroes": (Io.WRITE_ZEROES, b"", 0),
    "deallocate": (Io.DATASET_MANAGEMENT, struct.pack("<IIQ", 0, 1, 0), 0),
    "flush": (Io.FLUSH, b"", 0),
}
FREE = {"copy": (Io.COPY, struct.pack("<8xQH14x", 0, 0), 0)}
"""SPDK lets it through, whatever there is."""


async def conflicts(host: Host) -> list[str]:
    """What is refused."""
    found = []
    for name, (opcode, data, length) in (READS | WRITES | FREE).items():
        cdws = (0, 4) if opcode == Io.DATASET_MANAGEMENT else (0, 0, 0)
        status = await host.run(opcode, cdws, data=data, length=length)
        assert status in (0, CONFLICT), name
        if status:
            found.append(name)
    return found


@pytest.mark.parametrize(
    ("kind", "registrant", "stranger"),
    [
        (WE, [*WRITES], [*WRITES]),
        (EA, [*READS, *WRITES], [*READS, *WRITES]),
        (WERO, [], [*WRITES]),
        (EARO, [], [*READS, *WRITES]),
        (WEAR, [], [*WRITES]),
        (EAAR, [], [*READS, *WRITES]),
    ],
)
def test_commands_conflict_by_the_type_of_the_reservation(
    spdk: Spdk, kind: int, registrant: list[str], stranger: list[str]
) -> None:
    async def test(target: Target) -> None:
        first, second = await registered(target, 2)
        third = await target.host(3)
        assert await acquire(first, 0x11, kind) == 0
        assert await conflicts(first) == []
        assert await conflicts(second) == registrant
        assert await conflicts(third) == stranger
        assert await third.write(0, BLOCKS, OTHER_NSID) == 0
        all_registrants = kind in (WEAR, EAAR)
        assert await acquire(second, 0x12, kind) == (0 if all_registrants else CONFLICT)
        assert await acquire(third, 0x13, kind) == CONFLICT
        assert await release(third, 0x13, kind) == CONFLICT
        assert await acquire(third, 0x13, kind, PREEMPT, 0x11) == CONFLICT
        assert (await state(third))[1] == kind
        assert await release(first, 0x11, kind) == 0
        assert await conflicts(third) == []

    with_target(spdk, test)


# Acquiring and releasing


def test_a_reservation_is_acquired_once_and_released_by_its_holder(spdk: Spdk) -> None:
    async def test(target: Target) -> None:
        first, second = await registered(target, 2)
        third = await target.host(3)
        assert await acquire(third, 0x13, WE) == CONFLICT
        assert await acquire(first, 0x99, WE) == CONFLICT
        assert await acquire(first, 0x11, 7) == Sc.INVALID_FIELD
        assert await acquire(first, 0x11, WE, 3) == Sc.INVALID_FIELD
        assert await acquire(first, 0x11, WE, ACQUIRE, 0, IGNORE_EXISTING_KEY) == Sc.INVALID_FIELD
        assert await state(first) == (2, 0, [(1, 0x11, 0), (2, 0x12, 0)])
        assert await release(first, 0x11, WE) == 0
        assert await acquire(first, 0x11, WERO) == 0
        assert await acquire(first, 0x11, WERO) == 0
        assert await acquire(first, 0x11, EARO) == CONFLICT
        assert await acquire(second, 0x12, WERO) == CONFLICT
        assert await state(first) == (2, WERO, [(1, 0x11, 1), (2, 0x12, 0)])
        assert await release(first, 0x99, WERO) == CONFLICT
        assert await release(first, 0x11, WE) == Sc.INVALID_FIELD
        assert await release(first, 0x11, WERO, RELEASE, IGNORE_EXISTING_KEY) == Sc.INVALID_FIELD
        assert await release(first, 0x11, WERO, 2) == Sc.INVALID_FIELD
        assert await release(second, 0x12, WERO) == 0
        assert await state(first) == (2, WERO, [(1, 0x11, 1), (2, 0x12, 0)])
        assert await release(first, 0x11, WERO) == 0
        assert await state(first) == (2, 0, [(1, 0x11, 0), (2, 0x12, 0)])

    with_target(spdk, test)


def test_the_reservation_follows_the_keys_of_its_holder(spdk: Spdk) -> None:
    async def test(target: Target) -> None:
        first, second = await registered(target, 2)
        assert await acquire(first, 0x11, EARO) == 0
        assert await register(first, 0x31, 0x11, REPLACE) == 0
        assert await state(first) == (2, EARO, [(1, 0x31, 1), (2, 0x12, 0)])
        assert await acquire(second, 0x12, EARO, PREEMPT, 0x31) == 0
        assert await state(first) == (3, EARO, [(2, 0x12, 1)])
        assert await register(second, 0, 0x12, UNREGISTER) == 0
        assert await state(first) == (4, 0, [])

    with_target(spdk, test)


def test_with_all_registrants_the_reservation_goes_with_the_last_of_them(spdk: Spdk) -> None:
    async def test(target: Target) -> None:
        first, second = await registered(target, 2)
        assert await acquire(second, 0x12, EAAR) == 0
        assert await state(first) == (2, EAAR, [(1, 0x11, 0), (2, 0x12, 1)])
        assert await register(second, 0, 0x12, UNREGISTER) == 0
        assert await state(first) == (3, EAAR, [(1, 0x11, 1)])
        assert await register(first, 0, 0x11, UNREGISTER) == 0
        assert await state(first) == (4, 0, [])

    with_target(spdk, test)


def test_clear_removes_all_registrants(spdk: Spdk) -> None:
    async def test(target: Target) -> None:
        first, second, third = await registered(target, 3)
        stranger = await target.host(4)
        assert await acquire(first, 0x11, WE) == 0
        assert await release(stranger, 0x14, 0, CLEAR) == CONFLICT
        assert await release(second, 0x99, 0, CLEAR) == CONFLICT
        assert await release(second, 0x12, 0, CLEAR) == 0
        assert await state(first) == (6, 0, [])
        assert await notifications(first) == [(1, RESERVATION_PREEMPTED, 0, MALLOC_NSID)]
        assert await notifications(second) == []
        assert await notifications(third) == [(1, RESERVATION_PREEMPTED, 0, MALLOC_NSID)]

    with_target(spdk, test)


# Preempting

PREEMPTED = {
    "the holder": (WERO, 0x11, EA, 0, (4, EA, [(2, 0x12, 1), (3, 0x13, 0)])),
    "another registrant": (WERO, 0x13, EA, 0, (4, WERO, [(1, 0x11, 1), (2, 0x12, 0)])),
    "nobody": (WERO, 0x99, EA, 0, (3, WERO, [(1, 0x11, 1), (2, 0x12, 0), (3, 0x13, 0)])),
    "a key of zero": (WERO, 0, EA, CONFLICT, (3, WERO, [(1, 0x11, 1), (2, 0x12, 0), (3, 0x13, 0)])),
    "without a reservation": (0, 0x13, EA, 0, (4, 0, [(1, 0x11, 0), (2, 0x12, 0)])),
    "itself, without a reservation": (0, 0x12, EA, 0, (4, 0, [(1, 0x11, 0), (3, 0x13, 0)])),
    "one of all registrants": (WEAR, 0x13, EA, 0, (4, WEAR, [(1, 0x11, 1), (2, 0x12, 0)])),
    "none of all registrants": (
        WEAR, 0x99, EA, CONFLICT, (3, WEAR, [(1, 0x11, 1), (2, 0x12, 0), (3, 0x13, 0)])
    ),
    "all other registrants": (WEAR, 0, EA, 0, (5, WEAR, [(2, 0x12, 1)])),
}  # fmt: skip


@pytest.mark.parametrize("action", [PREEMPT, PREEMPT_AND_ABORT])
@pytest.mark.parametrize(("kind", "preempted", "wanted", "status", "after"), PREEMPTED.values(), ids=PREEMPTED.keys())
def test_registrants_are_preempted_by_their_key(
    spdk: Spdk, action: int, kind: int, preempted: int, wanted: int, status: int, after: tuple[Any, ...]
) -> None:
    async def test(target: Target) -> None:
        first, second, third = await registered(target, 3)
        if kind:
            assert await acquire(first, 0x11, kind) == 0
        assert await acquire(second, 0x12, wanted, action, preempted) == status
        assert await state(third) == after
        remaining = [number for number, _unused, _unused2 in after[2]]
        released = kind and preempted == 0x11
        for number, host in ((1, first), (3, third)):
            told = REGISTRATION_PREEMPTED if number not in remaining else RESERVATION_RELEASED if released else 0
            assert [notice[1] for notice in await notifications(host)] == ([told] if told else [])
        assert await notifications(second) == []

    with_target(spdk, test)


def test_the_holder_changes_the_type_by_preempting_itself(spdk: Spdk) -> None:
    async def test(target: Target) -> None:
        first, second = await registered(target, 2)
        assert await acquire(first, 0x11, WERO) == 0
        assert await acquire(first, 0x11, EA, PREEMPT, 0x11) == 0
        assert await state(first) == (2, EA, [(1, 0x11, 1), (2, 0x12, 0)])
        assert await conflicts(second) == [*READS, *WRITES]
        assert await notifications(second) == [(1, RESERVATION_RELEASED, 0, MALLOC_NSID)]
        assert await notifications(first) == []

    with_target(spdk, test)


@pytest.fixture
def slow(spdk: Spdk) -> Iterator[str]:
    """A bdev whose writes take two seconds."""
    spdk.call("bdev_malloc_create", name="m5", block_size=BLOCK, num_blocks=2048)
    latencies = dict.fromkeys(("avg_read_latency", "p99_read_latency"), 0)
    latencies |= dict.fromkeys(("avg_write_latency", "p99_write_latency"), 2_000_000)
    spdk.call("bdev_delay_create", base_bdev_name="m5", name="slow", **latencies)
    yield "slow"
    spdk.call("bdev_delay_delete", name="slow")
    spdk.call("bdev_malloc_delete", name="m5")


@pytest.mark.parametrize("action", [PREEMPT, PREEMPT_AND_ABORT])
def test_abort_waits_for_the_commands_of_the_preempted(spdk: Spdk, slow: str, action: int) -> None:
    async def test(target: Target) -> None:
        spdk.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": slow, "nsid": 3})
        first, second, third = await target.hosts(3)
        keys = struct.pack("<QQ", 0x11, 0x12)
        for host, key in ((first, 0x11), (second, 0x12)):
            registered = await host.run(Io.RESERVATION_REGISTER, (REGISTER,), 3, struct.pack("<QQ", 0, key))
            assert registered == 0
        write = second.io.submit(Io.WRITE, 3, (0, 0, 0), data=BLOCKS)
        elsewhere = third.io.submit(Io.WRITE, 3, (8, 0, 0), data=BLOCKS)
        assert len(await second.io.read(0, 1, 3)) == len(await third.io.read(0, 1, 3)) == BLOCK
        preempt = first.io.submit(Io.RESERVATION_ACQUIRE, 3, (action | EA << 8,), data=keys)
        written = asyncio.create_task(second.io.status(write))
        if action == PREEMPT_AND_ABORT:
            registrants = 2
            while registrants == 2:
                done, data = await third.io.run(Io.RESERVATION_REPORT, 3, (1023, 1), length=4096)
                registrants = nvme.RESERVATION_STATUS.unpack(data)["regctl"]
            queued = third.io.submit(Io.RESERVATION_REGISTER, 3, (REGISTER,), data=struct.pack("<QQ", 0, 0x13))
            done, data = await third.io.run(Io.RESERVATION_REPORT, 3, (1023, 1), length=4096)
            assert (done.status, nvme.RESERVATION_STATUS.unpack(data)["regctl"]) == (0, 1)
            assert not written.done()
        assert await first.io.status(preempt) == 0
        # The answer may have come on the other connection in the same moment.
        await asyncio.sleep(0.2)
        assert written.done() == (action == PREEMPT_AND_ABORT)
        assert await written == 0
        if action == PREEMPT_AND_ABORT:
            assert await third.io.status(queued) == 0
        assert await third.io.status(elsewhere) == 0

    with_target(spdk, test)


# Notifications


@pytest.mark.parametrize(("kind", "told"), [(WE, 0), (EA, 0), (WERO, 1), (EARO, 1), (WEAR, 1), (EAAR, 1)])
def test_other_registrants_are_told_of_a_release(spdk: Spdk, kind: int, told: int) -> None:
    async def test(target: Target) -> None:
        first, second = await registered(target, 2)
        stranger = await target.host(3)
        assert await acquire(first, 0x11, kind) == 0
        assert await release(first, 0x11, kind) == 0
        assert len(await notifications(second)) == told
        assert await notifications(first) == await notifications(stranger) == []

    with_target(spdk, test)


@pytest.mark.parametrize(("kind", "told"), [(WE, 0), (EA, 0), (WERO, 1), (EARO, 1), (WEAR, 0), (EAAR, 0)])
def test_other_registrants_are_told_that_the_holder_is_gone(spdk: Spdk, kind: int, told: int) -> None:
    async def test(target: Target) -> None:
        first, second = await registered(target, 2)
        assert await acquire(first, 0x11, kind) == 0
        assert await register(first, 0, 0x11, UNREGISTER) == 0
        assert [notice[1] for notice in await notifications(second)] == [RESERVATION_RELEASED] * told

    with_target(spdk, test)


def test_events_come_again_once_the_log_was_read(spdk: Spdk) -> None:
    async def test(target: Target) -> None:
        first, second = await registered(target, 2)

        async def tell() -> None:
            assert await acquire(first, 0x11, WERO) == 0
            assert await release(first, 0x11, WERO) == 0

        waiting = second.admin.submit(Admin.ASYNC_EVENT_REQUEST)
        await tell()
        assert (await second.admin.wait(waiting))[0].cdw0 == nvme.EVENT_RESERVATION == 0x800006
        waiting = second.admin.submit(Admin.ASYNC_EVENT_REQUEST)
        await tell()
        await tell()
        page = await second.admin.log_page(Lid.RESERVATION_NOTIFICATION, 128)
        assert page == b"".join(
            nvme.RESERVATION_NOTIFICATION.pack(count=number, kind=2, available=number - 1, nsid=1) for number in (1, 2)
        )
        assert await notifications(second) == [(3, RESERVATION_RELEASED, 2, MALLOC_NSID)]
        await tell()
        assert (await second.admin.wait(waiting))[0].cdw0 == nvme.EVENT_RESERVATION
        await tell()
        done, data = await second.admin.run(
            Admin.GET_LOG_PAGE, 0, (Lid.RESERVATION_NOTIFICATION | 1 << 15 | 15 << 16,), length=64
        )
        assert (done.status, nvme.RESERVATION_NOTIFICATION.unpack(data)["count"]) == (0, 4)
        read_further = (Lid.RESERVATION_NOTIFICATION | 15 << 16, 0, 64)
        assert (await second.admin.run(Admin.GET_LOG_PAGE, 0, read_further, length=64))[0].status == Sc.INVALID_FIELD
        assert [notice[0] for notice in await notifications(second)] == [5]
        assert (await second.admin.run(Admin.GET_LOG_PAGE, 0, read_further, length=64))[1] == bytes(64)

    with_target(spdk, test)


def test_every_controller_of_a_host_is_told(spdk: Spdk) -> None:
    async def test(target: Target) -> None:
        first, second = await registered(target, 2)
        other = await target.host(2)
        assert await acquire(first, 0x11, WE, PREEMPT, 0x12) == 0
        wanted = [(1, REGISTRATION_PREEMPTED, 0, MALLOC_NSID)]
        assert await notifications(second) == await notifications(other) == wanted

    with_target(spdk, test)


def test_no_more_than_255_notifications_are_kept(spdk: Spdk) -> None:
    async def test(target: Target) -> None:
        first, second = await registered(target, 2)
        for _unused in range(257):
            assert await acquire(first, 0x11, WERO) == 0
            assert await release(first, 0x11, WERO) == 0
        found = await notifications(second)
        assert [notice[0] for notice in found] == [*range(1, 255), 257]

    with_target(spdk, test)


async def set_feature(host: Host, feature: int, value: int, nsid: int = MALLOC_NSID) -> int:
    return (await host.admin.run(Admin.SET_FEATURES, nsid, (feature, value)))[0].status


async def get_feature(host: Host, feature: int, nsid: int = MALLOC_NSID, value: int = 0, length: int = 0) -> Any:
    done, data = await host.admin.run(Admin.GET_FEATURES, nsid, (feature, value), length=length)
    return (done.status, data) if length else (done.status, done.cdw0)


def test_notifications_are_masked_by_namespace(spdk: Spdk) -> None:
    mask = Feature.RESERVATION_NOTIFICATION_MASK

    async def test(target: Target) -> None:
        first, second = await registered(target, 2)
        assert await get_feature(first, mask) == (0, 0)
        assert await get_feature(first, mask, nvme.BROADCAST_NSID) == (Sc.INVALID_FIELD, 0)
        assert await get_feature(first, mask, 5) == (Sc.INVALID_FIELD, 0)
        assert await set_feature(first, mask, 4, 5) == Sc.INVALID_FIELD
        assert await set_feature(first, mask, 4, 9) == Sc.INVALID_NAMESPACE
        assert await set_feature(first, mask, 1 << 2) == 0
        assert await get_feature(second, mask) == (0, 4)
        assert await get_feature(second, mask, OTHER_NSID) == (0, 0)
        assert await acquire(first, 0x11, WERO) == 0
        assert await release(first, 0x11, WERO) == 0
        assert await notifications(second) == []
        assert await acquire(first, 0x11, WERO, PREEMPT, 0x12) == 0
        assert await notifications(second) == [(1, REGISTRATION_PREEMPTED, 0, MALLOC_NSID)]
        assert await set_feature(first, mask, 1 << 1 | 1 << 3, nvme.BROADCAST_NSID) == 0
        assert await get_feature(second, mask, OTHER_NSID) == (0, 10)
        assert await register(second, 0x12) == 0
        assert await acquire(first, 0x11, WERO, PREEMPT, 0x12) == 0
        assert await register(second, 0x12) == 0
        assert await release(second, 0x12, 0, CLEAR) == 0
        assert await notifications(second) == await notifications(first) == []

    with_target(spdk, test)


# Features


def test_the_host_identifier_is_told_and_not_changed(spdk: Spdk) -> None:
    async def test(target: Target) -> None:
        host = await target.host(0x1234)
        wanted = (0, uuid.UUID(int=0x1234).bytes)
        assert await get_feature(host, Feature.HOST_IDENTIFIER, 0, 1, 16) == wanted
        assert (await get_feature(host, Feature.HOST_IDENTIFIER, 0, 0, 16))[0] == Sc.INVALID_FIELD
        assert (await get_feature(host, Feature.HOST_IDENTIFIER, 0, 1, 8))[0] == Sc.INVALID_FIELD
        assert (await get_feature(host, Feature.HOST_IDENTIFIER, 0, 1))[0] == Sc.INVALID_FIELD
        assert await set_feature(host, Feature.HOST_IDENTIFIER, 1, 0) == Sc.SEQUENCE_ERROR
        assert await set_feature(host, Feature.HOST_IDENTIFIER, 1) == NOT_NAMESPACE_SPECIFIC
        assert await set_feature(host, Feature.HOST_IDENTIFIER | 1 << 31, 1, 0) == Sc.FEATURE_NOT_SAVEABLE

    with_target(spdk, test)


def test_persistence_is_off_where_there_is_no_file(spdk: Spdk) -> None:
    persistence = Feature.RESERVATION_PERSISTENCE

    async def test(target: Target) -> None:
        host = await target.host(1)
        assert await get_feature(host, persistence) == (0, 0)
        assert await get_feature(host, persistence, nvme.BROADCAST_NSID) == (Sc.INVALID_FIELD, 0)
        assert await get_feature(host, persistence, 5) == (Sc.INVALID_FIELD, 0)
        assert await set_feature(host, persistence, 1) == Sc.INVALID_FIELD
        assert await set_feature(host, persistence, 1, 5) == Sc.INVALID_FIELD
        assert await set_feature(host, persistence, 1, nvme.BROADCAST_NSID) == Sc.FEATURE_NOT_SAVEABLE
        assert await get_feature(host, persistence) == (0, 0)

    with_target(spdk, test)


# Through a loss of power

PTPL = "ptpl.json"


def again(spdk: Spdk, path: Path) -> None:
    """Take the namespace away and bring it back: what is not in the file is lost."""
    spdk.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=MALLOC_NSID)
    namespace = {"bdev_name": "m1", "nsid": MALLOC_NSID, "ptpl_file": str(path)}
    spdk.call("nvmf_subsystem_add_ns", nqn=NQN, namespace=namespace)


def test_reservations_that_are_to_be_kept_are_there_again(spdk: Spdk, tmp_path: Path) -> None:
    path = tmp_path / PTPL

    async def test(target: Target) -> None:
        first, second = await target.hosts(2)
        namespace = nvme.IDENTIFY_NAMESPACE.unpack(await first.admin.identify(Cns.NAMESPACE, MALLOC_NSID))
        assert namespace["rescap"] == 0xFF
        assert await register(first, 0x11) == 0
        assert not path.exists() or path.read_text() == ""
        assert await register(second, 0xFFFFFFFFFFFFFFFF, 0, REGISTER, CPTPL_SET) == 0
        assert await acquire(first, 0x11, EARO) == 0
        kept = {
            "ptpl": True,
            "rtype": EARO,
            "crkey": 0x11,
            "bdev_uuid": str(uuid.UUID(int=1)),
            "holder_uuid": str(uuid.UUID(int=1)),
            "registrants": [
                {"rkey": 0x11, "host_uuid": str(uuid.UUID(int=1))},
                {"rkey": 0xFFFFFFFFFFFFFFFF, "host_uuid": str(uuid.UUID(int=2))},
            ],
        }
        # Byte for byte: each engine reads what the other has written.
        assert path.read_text() == json.dumps(kept, separators=(",", ":"))
        again(spdk, path)
        header, registrants = await report(second)
        assert header == {"gen": 0, "rtype": EARO, "regctl": 2, "ptpls": 1}
        assert registrants == [(1, 0x11, 0xFFFF, 1), (2, 0xFFFFFFFFFFFFFFFF, 0xFFFF, 0)]
        assert await get_feature(first, Feature.RESERVATION_PERSISTENCE) == (0, 1)
        stranger = await target.host(3)
        assert await conflicts(stranger) == [*READS, *WRITES]
        assert await conflicts(second) == []
        (config,) = [
            call
            for entry in spdk.call("framework_get_config", name="nvmf")
            for call in (entry if isinstance(entry, list) else [entry])
            if call["method"] == "nvmf_subsystem_add_ns" and call["params"]["namespace"]["nsid"] == MALLOC_NSID
        ]
        assert list(config["params"]["namespace"])[:3] == ["nsid", "bdev_name", "ptpl_file"]
        assert config["params"]["namespace"]["ptpl_file"] == str(path)

    with_target(spdk, test, ptpl_file=str(path))


def test_a_reservation_of_all_registrants_is_kept_without_its_holder(spdk: Spdk, tmp_path: Path) -> None:
    path = tmp_path / PTPL

    async def test(target: Target) -> None:
        first, second = await registered(target, 2)
        assert await register(first, 0x11, 0, REGISTER, CPTPL_SET) == 0
        assert await acquire(second, 0x12, WEAR) == 0
        kept = json.loads(path.read_text())
        assert (kept["rtype"], kept["crkey"], kept["holder_uuid"]) == (WEAR, 0x12, "")
        again(spdk, path)
        assert await state(first) == (0, WEAR, [(1, 0x11, 1), (2, 0x12, 0)])
        assert await release(second, 0x12, 0, CLEAR) == 0
        assert json.loads(path.read_text())["registrants"] == []
        again(spdk, path)
        assert await state(first) == (0, 0, [])

    with_target(spdk, test, ptpl_file=str(path))


def test_a_reservation_of_all_registrants_is_lost_with_the_key_that_it_was_acquired_with(
    spdk: Spdk, tmp_path: Path
) -> None:
    """So is the namespace: SPDK does not take back what it has written."""
    path = tmp_path / PTPL

    async def test(target: Target) -> None:
        first, second = await registered(target, 2)
        assert await register(first, 0x11, 0, REGISTER, CPTPL_SET) == 0
        assert await acquire(second, 0x12, WEAR) == 0
        assert await register(second, 0, 0x12, UNREGISTER) == 0
        assert json.loads(path.read_text())["crkey"] == 0x12
        with pytest.raises(CallFailed, match="Invalid parameters"):
            again(spdk, path)

    with_target(spdk, test, ptpl_file=str(path))


def test_what_is_not_to_be_kept_any_more_leaves_an_empty_file(spdk: Spdk, tmp_path: Path) -> None:
    path = tmp_path / PTPL

    async def test(target: Target) -> None:
        host = await target.host(1)
        assert await register(host, 0x11, 0, REGISTER, CPTPL_SET) == 0
        assert path.read_text() != ""
        assert await register(host, 0x11, 0, REGISTER, CPTPL_CLEAR) == 0
        assert path.read_text() == ""
        assert await get_feature(host, Feature.RESERVATION_PERSISTENCE) == (0, 0)
        assert await state(host) == (1, 0, [(1, 0x11, 0)])

    with_target(spdk, test, ptpl_file=str(path))


def test_the_feature_switches_persistence_though_it_says_it_does_not(spdk: Spdk, tmp_path: Path) -> None:
    path, persistence = tmp_path / PTPL, Feature.RESERVATION_PERSISTENCE

    async def test(target: Target) -> None:
        host = await target.host(1)
        assert await set_feature(host, persistence, 1) == Sc.FEATURE_NOT_SAVEABLE
        assert await get_feature(host, persistence) == (0, 1)
        assert await set_feature(host, persistence, 0, nvme.BROADCAST_NSID) == Sc.FEATURE_NOT_SAVEABLE
        assert await get_feature(host, persistence) == (0, 0)
        assert await set_feature(host, persistence, 1, nvme.BROADCAST_NSID) == Sc.FEATURE_NOT_SAVEABLE
        assert not path.exists()
        assert await register(host, 0x11) == 0
        assert json.loads(path.read_text())["registrants"][0]["rkey"] == 0x11
        (header, _unused) = await report(host)
        assert header["ptpls"] == 1

    with_target(spdk, test, ptpl_file=str(path))


def test_a_file_that_cannot_be_written_is_an_error_of_the_command(spdk: Spdk, tmp_path: Path) -> None:
    path = tmp_path / "none" / PTPL

    async def test(target: Target) -> None:
        host = await target.host(1)
        assert await register(host, 0x11, 0, REGISTER, CPTPL_SET) == Sc.INTERNAL_ERROR
        assert await state(host) == (1, 0, [(1, 0x11, 0)])

    with_target(spdk, test, ptpl_file=str(path))


GOOD: dict[str, Any] = {
    "ptpl": True,
    "rtype": EA,
    "crkey": 17,
    "bdev_uuid": str(uuid.UUID(int=1)),
    "holder_uuid": str(uuid.UUID(int=2)),
    "registrants": [{"rkey": 17, "host_uuid": str(uuid.UUID(int=2))}],
}
FILES = {
    "good": (GOOD, True),
    "of another bdev": (GOOD | {"bdev_uuid": str(uuid.UUID(int=7))}, False),
    "of another bdev, but not kept": (GOOD | {"bdev_uuid": str(uuid.UUID(int=7)), "ptpl": False}, True),
    "a key that nobody has": (GOOD | {"crkey": 18}, False),
    "no bdev": ({name: value for name, value in GOOD.items() if name != "bdev_uuid"}, False),
    "no registrants": ({name: value for name, value in GOOD.items() if name != "registrants"}, False),
    "nothing else": ({"bdev_uuid": GOOD["bdev_uuid"], "registrants": []}, True),
    "something unknown": (GOOD | {"more": 1}, False),
    "no number": (GOOD | {"rtype": "x"}, False),
    "too many registrants": (GOOD | {"registrants": GOOD["registrants"] * 17}, False),
    "a registrant without a host": (GOOD | {"registrants": [{"rkey": 17}]}, False),
    "no object": ([], False),
    "no JSON": ("{", False),
    "empty": ("", False),
}


@pytest.mark.parametrize(("content", "good"), FILES.values(), ids=FILES.keys())
def test_a_file_is_read_when_the_namespace_comes(spdk: Spdk, tmp_path: Path, content: Any, good: bool) -> None:
    path = tmp_path / PTPL
    path.write_text(content if isinstance(content, str) else json.dumps(content))

    async def test(target: Target) -> None:
        host = await target.host(1)
        if good:
            again(spdk, path)
            kept = content.get("ptpl") and content["registrants"]
            assert await state(host) == (0, *((EA, [(2, 17, 1)]) if kept else (0, [])))
        else:
            with pytest.raises(CallFailed, match="Invalid parameters"):
                again(spdk, path)
            assert not spdk.call("bdev_get_bdevs", name="m1")[0]["claimed"]

    with_target(spdk, test)
