"""Compare and write of an NVMe bdev: two fused commands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from nvme_initiator import Target, finished, initiator, io
from nvme_scripted import Queue, scripted
from spdk_emulator.bdev.compare import compare_and_write
from spdk_emulator.bdev.models import Descriptor, Op, Status
from spdk_emulator.nvme_tcp import nvme
from spdk_emulator.nvme_tcp.nvme import FUSED_FIRST, FUSED_MASK, FUSED_SECOND, Io, Sc

ZEROES, OLD, NEW = bytes(512), b"o" * 512, b"n" * 512


def pair(disk: Descriptor, expected: bytes, new: bytes, lba: int = 0) -> asyncio.Future[int]:
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    compare_and_write(disk, lba * 512, 512, [memoryview(expected)], [memoryview(new)], done.set_result)
    return done


@pytest.mark.parametrize("digests", [False, True])
def test_a_block_is_written_where_it_is_as_expected(target: Callable[..., Target], digests: bool) -> None:
    async def work() -> None:
        async with initiator() as node:
            await node.attach(target().port, hdgst=digests, ddgst=digests)
            disk = node.open("nn1")
            assert Op.COMPARE_AND_WRITE in disk.bdev.supported
            assert disk.bdev.acwu == 1
            assert await finished(pair(disk, ZEROES, OLD)) == 0
            assert await finished(pair(disk, ZEROES, NEW)) == Status.COMPARE_FAILURE
            found = bytearray(512)
            assert await finished(io(disk, Op.READ, 0, found)) == 0
            assert found == OLD

    asyncio.run(work())


def test_pairs_among_more_commands_than_the_queue_is_deep(target: Callable[..., Target]) -> None:
    async def work() -> None:
        async with initiator() as node:
            await node.attach(target().port)
            disk = node.open("nn1")
            reads, pairs = [], []
            for lba in range(500):
                reads.append(io(disk, Op.READ, lba * 512, bytearray(512)))
                pairs.append(pair(disk, ZEROES, NEW, lba))
            assert set(await asyncio.gather(*reads, *pairs)) == {0}
            found = bytearray(500 * 512)
            assert await finished(io(disk, Op.READ, 0, found)) == 0
            assert found == NEW * 500

    asyncio.run(work())


def test_a_pair_that_was_lost_is_not_sent_again() -> None:
    """Nobody knows whether it was done."""

    async def work() -> None:
        async with scripted() as (controller, port), initiator() as node:
            await node.attach(port, ctrlr_loss_timeout_sec=-1, reconnect_delay_sec=1)
            disk = node.open("nn1")
            seen = []

            def on_io(queue: Queue, command: nvme.Command) -> bool:
                fuse = command.flags & FUSED_MASK
                if fuse:
                    seen.append((command.opcode, fuse))
                if fuse == FUSED_SECOND:
                    queue.close()
                return bool(fuse)

            controller.on_io = on_io
            assert await finished(pair(disk, ZEROES, NEW)) == Status.INTERNAL_ERROR
            assert await finished(io(disk, Op.READ, 0, bytearray(512))) == 0
            assert seen == [(Io.COMPARE, FUSED_FIRST), (Io.WRITE, FUSED_SECOND)]

    asyncio.run(work())


@pytest.mark.parametrize(
    ("compare", "write", "tries", "status"),
    [
        (Sc.COMPARE_FAILURE, Sc.ABORTED_FAILED_FUSED, 1, Status.COMPARE_FAILURE),
        (Sc.SUCCESS, Sc.RESERVATION_CONFLICT | nvme.DO_NOT_RETRY, 1, Sc.RESERVATION_CONFLICT),
        (Sc.INTERNAL_ERROR, Sc.ABORTED_FAILED_FUSED, 4, Status.INTERNAL_ERROR),
        (Sc.SUCCESS, Sc.INTERNAL_ERROR, 4, Status.INTERNAL_ERROR),
    ],
)
def test_what_fails_is_the_reason(compare: int, write: int, tries: int, status: int) -> None:
    async def work() -> None:
        async with scripted() as (controller, port), initiator() as node:
            await node.attach(port)
            disk = node.open("nn1")
            seen = 0

            def on_io(queue: Queue, command: nvme.Command) -> bool:
                nonlocal seen
                fuse = command.flags & FUSED_MASK
                seen += fuse == FUSED_FIRST
                if fuse:
                    queue.complete(command, compare if fuse == FUSED_FIRST else write)
                return bool(fuse)

            controller.on_io = on_io
            assert await finished(pair(disk, ZEROES, NEW)) == status
            assert seen == tries

    asyncio.run(work())
