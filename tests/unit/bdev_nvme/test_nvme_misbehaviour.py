"""A controller that breaks the rules costs a connection at most, never an I/O or wrong data."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import pytest
from nvme_initiator import SECONDS, finished, initiator, io
from nvme_scripted import Queue, scripted
from spdk_emulator.bdev.models import Op, Status
from spdk_emulator.nvme_tcp import nvme
from spdk_emulator.nvme_tcp.nvme import DO_NOT_RETRY, Sc
from spdk_emulator.nvme_tcp.pdu import CONTROLLER, R2T, C2HData, CapsuleResp, Fes, TermReq

FOREVER = {"ctrlr_loss_timeout_sec": -1, "reconnect_delay_sec": 1}


def once(fault: Callable[[Queue, nvme.Command], None]) -> Callable[[Queue, nvme.Command], bool]:
    """The first I/O meets the fault, all others are served well."""
    first = [True]

    def on_io(queue: Queue, command: nvme.Command) -> bool:
        if not first[0]:
            return False
        first[0] = False
        fault(queue, command)
        return True

    return on_io


def _completion(cid: int) -> CapsuleResp:
    return CapsuleResp(nvme.completion(cid, 0))


def _spoil_data(queue: Queue, command: nvme.Command) -> None:
    buffers = C2HData(command.cid, 0, queue.controller.data_of(command), success=True).encode(queue.framing)
    buffers[-1] = bytes(4)
    queue.raw(buffers)


def _spoil_header(queue: Queue, command: nvme.Command) -> None:
    [pdu] = _completion(command.cid).encode(queue.framing)
    queue.raw([bytes(pdu[:-1]) + b"\xaa"])


BROKEN_CONNECTION = {
    "the connection is closed": lambda queue, command: queue.close(),
    "half a PDU, then closed": lambda queue, command: (queue.raw([b"\x07\x0c\x18"]), queue.close()),
    "termination request": lambda queue, command: queue.send(TermReq(CONTROLLER, Fes.LIMIT_EXCEEDED, 0, bytes(24))),
    "completion of a command that was not sent": lambda queue, command: queue.send(_completion(command.cid + 1)),
    "completion of a command beyond the queue": lambda queue, command: queue.send(_completion(60000)),
    "data from the wrong byte": lambda queue, command: queue.send(C2HData(command.cid, 512, bytes(512))),
    "more data than asked for": lambda queue, command: queue.send(C2HData(command.cid, 0, bytes(65536))),
    "data of no command": lambda queue, command: queue.send(C2HData(command.cid + 9, 0, bytes(512))),
    "R2T for a read": lambda queue, command: queue.send(R2T(command.cid, 1, 0, 512)),
    "a PDU that only hosts send": lambda queue, command: queue.raw([b"\x04\0\x48\0\x48\0\0\0" + bytes(64)]),
    "an unknown PDU": lambda queue, command: queue.raw([b"\x3f\0\x18\0\x18\0\0\0" + bytes(16)]),
    "a PDU of 4 GiB": lambda queue, command: queue.raw([b"\x07\0\x18\x18\xff\xff\xff\xff" + bytes(16)]),
    "a PDU shorter than its header": lambda queue, command: queue.raw([b"\x07\0\x18\x18\x08\0\0\0" + bytes(16)]),
}
KEPT_CONNECTION = {
    "success without data": lambda queue, command: queue.send(_completion(command.cid)),
    "success with half of the data": lambda queue, command: queue.send(
        C2HData(command.cid, 0, bytes(512), success=True)
    ),
    "an error that may be retried": lambda queue, command: queue.complete(command, Sc.INTERNAL_ERROR),
}


@pytest.mark.parametrize("name", [*BROKEN_CONNECTION, *KEPT_CONNECTION])
def test_a_read_ends_well_after(name: str) -> None:
    async def work() -> None:
        async with scripted() as (controller, port), initiator() as node:
            controller.memory[:] = os.urandom(len(controller.memory))
            await node.attach(port, **FOREVER)
            disk = node.open("nn1")
            before = controller.connections
            controller.on_io = once({**BROKEN_CONNECTION, **KEPT_CONNECTION}[name])
            buffers = [bytearray(4096) for _unused in range(20)]
            running = [io(disk, Op.READ, number * 4096, buffer) for number, buffer in enumerate(buffers)]
            assert [await finished(each) for each in running] == [0] * 20
            assert b"".join(buffers) == controller.memory[: 20 * 4096]
            # Admin and I/O queue are new; or else only the I/O queue, which the first read asked for.
            assert controller.connections - before == (3 if name in BROKEN_CONNECTION else 1)

    asyncio.run(work())


def test_the_host_says_what_was_wrong() -> None:
    async def work() -> None:
        async with scripted() as (controller, port), initiator() as node:
            await node.attach(port, **FOREVER)
            disk = node.open("nn1")
            controller.on_io = once(BROKEN_CONNECTION["more data than asked for"])
            assert await finished(io(disk, Op.READ, 0, bytearray(512))) == 0
            await node.until(lambda: controller.terminations)
            assert controller.terminations[0].fes == Fes.DATA_OUT_OF_RANGE

    asyncio.run(work())


def test_damaged_data_is_read_again() -> None:
    async def work() -> None:
        async with scripted() as (controller, port), initiator() as node:
            controller.memory[:] = os.urandom(len(controller.memory))
            await node.attach(port, hdgst=True, ddgst=True, **FOREVER)
            disk = node.open("nn1")
            controller.io_commands, connections = 0, controller.connections
            controller.on_io = once(_spoil_data)
            back = bytearray(4096)
            assert await finished(io(disk, Op.READ, 0, back)) == 0
            assert back == controller.memory[:4096]
            assert (controller.io_commands, controller.connections) == (2, connections + 1)
            controller.on_io = once(_spoil_header)
            assert await finished(io(disk, Op.READ, 0, back)) == 0
            assert [each.fes for each in controller.terminations] == [Fes.HEADER_DIGEST_ERROR]

    asyncio.run(work())


@pytest.mark.parametrize(
    ("status", "sent"), [(Sc.INTERNAL_ERROR, 4), (Sc.INTERNAL_ERROR | DO_NOT_RETRY, 1), (Sc.ABORTED_BY_REQUEST, 1)]
)
def test_an_error_is_retried_as_often_as_the_options_say(status: int, sent: int) -> None:
    async def work() -> None:
        async with scripted() as (controller, port), initiator() as node:
            await node.attach(port, **FOREVER)
            disk = node.open("nn1")

            def fail(queue: Queue, command: nvme.Command) -> bool:
                queue.complete(command, status)
                return True

            controller.io_commands = 0
            controller.on_io = fail
            assert await finished(io(disk, Op.WRITE, 0, bytearray(512))) == status & 0x7FF
            assert controller.io_commands == sent  # bdev_retry_count is 3

    asyncio.run(work())


def test_a_controller_that_says_nothing_is_left() -> None:
    async def work() -> None:
        async with scripted() as (controller, port), initiator() as node:
            controller.keep_alive = 200
            await node.call("bdev_nvme_set_options", tcp_connect_timeout_ms=300)
            await node.attach(port, **FOREVER)
            disk = node.open("nn1")
            assert await finished(io(disk, Op.READ, 0, bytearray(512))) == 0
            controller.deaf = True
            reading = io(disk, Op.READ, 0, bytearray(512))
            await node.until(lambda: not node.app.nvme.groups["n"].controllers[0].live)
            assert not reading.done()
            controller.deaf = False
            assert await finished(reading) == 0

    asyncio.run(work())


def test_writes_of_every_size_arrive(capsule: int = 4096) -> None:
    async def work() -> None:
        async with scripted() as (controller, port), initiator() as node:
            await node.attach(port)
            disk = node.open("nn1")
            for size in (512, capsule, capsule + 512, 131072, 300 << 10):
                data = bytearray(os.urandom(size))
                assert await finished(io(disk, Op.WRITE, 1024, data)) == 0
                assert controller.memory[1024 : 1024 + size] == data

    asyncio.run(work())


@pytest.mark.parametrize("action", ["reset", "abort"])
def test_io_that_takes_too_long_is_dealt_with_as_the_options_say(action: str) -> None:
    async def work() -> None:
        async with scripted() as (controller, port), initiator() as node:
            await node.call("bdev_nvme_set_options", timeout_us=200_000, action_on_timeout=action)
            await node.attach(port, **FOREVER)
            disk = node.open("nn1")
            kept: list[tuple[Queue, nvme.Command]] = []

            def give_up(cid: int) -> None:
                [(queue, command)] = kept
                assert command.cid == cid
                queue.complete(command, Sc.ABORTED_BY_REQUEST)

            controller.on_abort = give_up
            controller.on_io = once(lambda queue, command: kept.append((queue, command)))
            status = await finished(io(disk, Op.READ, 0, bytearray(512)))
            # Aborted I/O is not tried again; after a reset it is.
            assert status == (Sc.ABORTED_BY_REQUEST if action == "abort" else 0)

    asyncio.run(work())


def test_a_detach_ends_the_io_that_is_not_answered() -> None:
    """And nobody waits for it any more: neither who did it nor the examination that the next attach waits for."""

    async def work() -> None:
        async with scripted() as (controller, port), initiator() as node:
            controller.on_io = lambda queue, command: True
            first = asyncio.ensure_future(node.attach(port))
            await node.until(lambda: controller.io_commands)
            reading = io(node.open("nn1"), Op.READ, 0, bytearray(512))
            await node.call("bdev_nvme_detach_controller", name="n")
            assert await finished(reading) == Status.ABORTED
            async with asyncio.timeout(SECONDS):
                await first
            connections = controller.connections
            controller.on_io = lambda queue, command: False
            async with asyncio.timeout(SECONDS):
                assert await node.attach(port) == ["nn1"]
            # The admin and the I/O queue of the second attach, and nothing of what was detached.
            assert controller.connections == connections + 2

    asyncio.run(work())
