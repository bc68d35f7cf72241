"""Each thread with a channel to a bdev has an I/O queue of its own to every controller below it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nvme_initiator import NQN, Initiator, Target, finished, initiator, io
from nvme_scripted import Queue, scripted
from spdk_emulator.bdev.compare import compare_and_write
from spdk_emulator.bdev.models import Descriptor, Op, Status
from spdk_emulator.framework.threads import APP_THREAD, running
from spdk_emulator.jsonrpc.errors import RpcError
from spdk_emulator.nvme_tcp import nvme
from spdk_emulator.nvme_tcp.nvme import Admin, Feature, Io, Sc

FOREVER = {"ctrlr_loss_timeout_sec": -1, "reconnect_delay_sec": 1}


@contextlib.contextmanager
def on(thread: int) -> Iterator[None]:
    running.thread = thread
    try:
        yield
    finally:
        running.thread = APP_THREAD


def hold(node: Initiator, *threads: int) -> Descriptor:
    """The bdev ``nn1``, with channels on these threads."""
    descriptor = node.app.bdevs.open("nn1", False, lambda _event, _bdev: descriptor.close(), lambda: threads)
    return descriptor


def two_threads(node: Initiator) -> tuple[int, int]:
    return node.app.framework.threads.create("a").number, node.app.framework.threads.create("b").number


def qids(place: Target) -> list[int]:
    return sorted(pair["qid"] for pair in place.call("nvmf_subsystem_get_qpairs", nqn=NQN) if pair["qid"])


def test_io_goes_over_the_queue_of_its_thread(target: Callable[..., Target]) -> None:
    async def work() -> None:
        place = target()
        async with initiator() as node:
            await node.attach(place.port)
            a, b = two_threads(node)
            disk = hold(node, a, b)
            # Before the queues are connected, and after.
            for count in (3, 4):
                with on(b):
                    reads = [io(disk, Op.READ, 0, bytearray(4096)) for _unused in range(count)]
                assert [await finished(read) for read in reads] == [0] * count
            assert qids(place) == [1, 2]
            told = (await node.call("bdev_nvme_get_transport_statistics"))["poll_groups"]
            submitted = {group["thread"]: group["transports"][0]["submitted_requests"] - 1 for group in told}
            assert submitted == {"a": 0, "b": 7}  # Connect is one of them

    asyncio.run(work())


def test_queues_come_and_go_with_channels(target: Callable[..., Target]) -> None:
    async def work() -> None:
        place = target()
        async with initiator() as node:
            await node.attach(place.port)
            # That of the look into the new bdev goes.
            await node.until(lambda: qids(place) == [])
            a, b = two_threads(node)
            first, second = hold(node, a), hold(node, b)
            third = hold(node, b)
            await node.until(lambda: qids(place) == [1, 2])
            first.close()
            second.close()
            await node.until(lambda: qids(place) == [2])
            fourth = hold(node, APP_THREAD)
            await node.until(lambda: qids(place) == [1, 2])
            third.close()
            fourth.close()
            await node.until(lambda: qids(place) == [])

    asyncio.run(work())


def test_a_queue_stays_until_its_io_is_done() -> None:
    async def work() -> None:
        async with scripted() as (controller, port), initiator() as node:
            await node.attach(port)
            kept: list[tuple[Queue, nvme.Command]] = []

            def keep(queue: Queue, command: nvme.Command) -> bool:
                kept.append((queue, command))
                return True

            controller.on_io = keep
            a, _b = two_threads(node)
            disk = hold(node, a)
            with on(a):
                reading = io(disk, Op.READ, 0, bytearray(512))
            await node.until(lambda: kept)
            disk.close()
            [queues] = [each.io_queues for _group, each in node.app.nvme.controllers()]
            assert queues.has(a)
            controller.io(*kept[0])
            assert await finished(reading) == 0
            await node.until(lambda: not queues.has(a))

    asyncio.run(work())


def test_io_without_a_channel_has_a_queue_while_it_lasts(target: Callable[..., Target]) -> None:
    async def work() -> None:
        place = target()
        async with initiator() as node:
            await node.attach(place.port)
            disk = hold(node)
            assert await finished(io(disk, Op.READ, 0, bytearray(4096))) == 0
            await node.until(lambda: qids(place) == [])
            # Where no queue is free for it, it goes over another's.
            await node.call("bdev_nvme_detach_controller", name="n")
            await node.attach(place.port, num_io_queues=1)
            a, _b = two_threads(node)
            hold(node, a)
            assert await finished(io(hold(node), Op.READ, 0, bytearray(4096))) == 0
            assert qids(place) == [1]

    asyncio.run(work())


def test_a_connection_that_is_lost_costs_all_queues_and_all_come_back() -> None:
    async def work() -> None:
        async with scripted() as (controller, port), initiator() as node:
            controller.on_admin = grant(2)
            await node.attach(port, **FOREVER)
            a, b = two_threads(node)
            disk = hold(node, a, b)
            met: list[int] = []

            def close_once(queue: Queue, command: nvme.Command) -> bool:
                met.append(queue.qid)
                if len(met) == 1:
                    queue.close()
                return len(met) == 1

            controller.on_io = close_once
            before = controller.connections
            with on(b):
                reading = io(disk, Op.READ, 0, bytearray(512))
            assert await finished(reading) == 0
            assert met == [2, 2]
            assert controller.connections == before + 2 + 3

    asyncio.run(work())


def grant(count: int) -> Callable[[Queue, nvme.Command], bool]:
    def on_admin(queue: Queue, command: nvme.Command) -> bool:
        if command.opcode != Admin.SET_FEATURES or command.cdw10 != Feature.NUMBER_OF_QUEUES:
            return False
        queue.complete(command, value=(count - 1) * 0x10001)
        return True

    return on_admin


def test_both_halves_of_a_compare_and_write_take_the_same_queue() -> None:
    async def work() -> None:
        async with scripted() as (controller, port), initiator() as node:
            controller.on_admin = grant(2)
            await node.attach(port)
            a, b = two_threads(node)
            disk = hold(node, a, b)
            met: list[tuple[int, int]] = []

            def see(queue: Queue, command: nvme.Command) -> bool:
                met.append((queue.qid, command.opcode))
                queue.complete(command)
                return True

            controller.on_io = see
            done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            with on(b):
                data = [memoryview(bytearray(512))]
                compare_and_write(disk, 0, 512, data, data, done.set_result)
            assert await finished(done) == 0
            assert met == [(2, Io.COMPARE), (2, Io.WRITE)]

    asyncio.run(work())


def test_an_abort_names_the_queue() -> None:
    async def work() -> None:
        async with scripted() as (controller, port), initiator() as node:
            await node.call("bdev_nvme_set_options", timeout_us=200_000, action_on_timeout="abort")
            kept: list[tuple[Queue, nvme.Command]] = []
            aborted: list[int] = []

            def keep(queue: Queue, command: nvme.Command) -> bool:
                kept.append((queue, command))
                return True

            def on_admin(queue: Queue, command: nvme.Command) -> bool:
                if command.opcode != Admin.ABORT:
                    return grant(2)(queue, command)
                aborted.append(command.cdw10 & 0xFFFF)
                [(other, late)] = kept
                other.complete(late, Sc.ABORTED_BY_REQUEST)
                return False

            controller.on_admin = on_admin
            await node.attach(port, **FOREVER)
            controller.on_io = keep
            a, b = two_threads(node)
            disk = hold(node, a, b)
            with on(b):
                reading = io(disk, Op.READ, 0, bytearray(512))
            assert await finished(reading) == Sc.ABORTED_BY_REQUEST
            assert aborted == [2]

    asyncio.run(work())


@pytest.mark.parametrize(("asked", "granted", "then"), [(None, 5, 5), (3, 5, 3), (None, 2000, 1024)])
def test_after_a_reset_it_asks_for_what_it_was_granted(asked: int | None, granted: int, then: int) -> None:
    async def work() -> None:
        async with scripted() as (controller, port), initiator() as node:
            wanted: list[int] = []

            def on_admin(queue: Queue, command: nvme.Command) -> bool:
                if command.opcode == Admin.SET_FEATURES and command.cdw10 == Feature.NUMBER_OF_QUEUES:
                    wanted.append(command.cdw11)
                return grant(granted)(queue, command)

            controller.on_admin = on_admin
            await node.attach(port, **({"num_io_queues": asked} if asked else {}))
            await node.call("bdev_nvme_reset_controller", name="n")
            assert wanted == [((asked or 1024) - 1) * 0x10001, (then - 1) * 0x10001]
            calls = await node.call("framework_get_config", name="bdev")
            [attach] = [each["params"] for each in calls if each["method"] == "bdev_nvme_attach_controller"]
            assert attach["num_io_queues"] == then

    asyncio.run(work())


def test_a_controller_that_tells_no_number_of_queues_has_none() -> None:
    async def work() -> None:
        async with scripted() as (controller, port), initiator() as node:

            def on_admin(queue: Queue, command: nvme.Command) -> bool:
                if command.opcode == Admin.SET_FEATURES and command.cdw10 == Feature.NUMBER_OF_QUEUES:
                    queue.complete(command, Sc.INVALID_FIELD)
                    return True
                return False

            controller.on_admin = on_admin
            assert await node.attach(port) == ["nn1"]
            assert await finished(io(node.open("nn1"), Op.READ, 0, bytearray(512))) == Status.INTERNAL_ERROR
            assert not node.app.bdevs.get("nn1").admits(APP_THREAD)
            assert controller.io_commands == 0

    asyncio.run(work())


def secret(byte: int) -> str:
    key = bytes([byte]) * 32
    return f"DHHC-1:00:{base64.b64encode(key + zlib.crc32(key).to_bytes(4, 'little')).decode()}:"


def test_each_queue_proves_who_it_is_also_with_another_key(target: Callable[..., Target], tmp_path: Path) -> None:
    async def work() -> None:
        place, host = target(), "nqn.2016-06.io.spdk:host"
        async with initiator() as node:
            for number in (1, 2):
                file = tmp_path / f"key{number}"
                file.write_text(secret(number))
                file.chmod(0o600)
                place.call("keyring_file_add_key", name=f"key{number}", path=str(file))
                await node.call("keyring_file_add_key", name=f"key{number}", path=str(file))
            place.call("nvmf_subsystem_allow_any_host", nqn=NQN, allow_any_host=False)
            place.call("nvmf_subsystem_add_host", nqn=NQN, host=host, dhchap_key="key1")
            await node.attach(place.port, hostnqn=host, dhchap_key="key1", **FOREVER)
            a, b = two_threads(node)
            disk = hold(node, a, b)

            async def work_of_both() -> None:
                for thread in (a, b):
                    with on(thread):
                        reading = io(disk, Op.READ, 0, bytearray(512))
                    assert await finished(reading) == 0

            await work_of_both()
            place.call("nvmf_subsystem_set_keys", nqn=NQN, host=host, dhchap_key="key2")
            await node.call("bdev_nvme_set_keys", name="n", dhchap_key="key2")
            await work_of_both()
            pairs = place.call("nvmf_subsystem_get_qpairs", nqn=NQN)
            assert {pair["qid"]: pair["auth"]["state"] for pair in pairs} == dict.fromkeys((0, 1, 2), "completed")
            with pytest.raises(RpcError, match="Permission denied"):
                await node.call("bdev_nvme_set_keys", name="n", dhchap_key="key1")

    asyncio.run(work())
