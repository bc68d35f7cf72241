"""I/O on malloc, null and aio bdevs, through a descriptor as their users do it."""

from __future__ import annotations

import asyncio
import errno
import time
from pathlib import Path

import pytest
from spdk_emulator.bdev.aio import AioBdev
from spdk_emulator.bdev.malloc import MallocBdev
from spdk_emulator.bdev.models import Bdev, BdevError, BdevEvent, BdevRegistry, Descriptor, Op, Status
from spdk_emulator.bdev.null import NullBdev
from spdk_emulator.bdev.qos import UNSET, Bucket
from spdk_emulator.bdev.stats import Histogram

BLOCKS = 4096
SIZE = BLOCKS * 512


def opened(bdev: Bdev, registry: BdevRegistry | None = None) -> Descriptor:
    registry = registry or BdevRegistry()
    registry.register(bdev)
    return registry.open(bdev.name, True, lambda event, _unused: None)


def do(descriptor: Descriptor, op: Op, offset: int, length: int, *iov: bytearray) -> int:
    """The status of an I/O that is complete when ``io`` returns."""
    done: list[int] = []
    descriptor.io(op, offset, length, [memoryview(part) for part in iov], done.append)
    assert len(done) == 1
    return done[0]


@pytest.fixture(params=["malloc", "aio", "aio with fallocate"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Descriptor:
    """Something that keeps what is written."""
    if request.param == "malloc":
        return opened(MallocBdev("disk", 512, BLOCKS))
    (tmp_path / "file").write_bytes(bytes(SIZE))
    return opened(AioBdev("disk", str(tmp_path / "file"), 512, fallocate=request.param != "aio"))


def test_what_is_written_is_read_whatever_the_pieces(disk: Descriptor) -> None:
    data = bytes(range(256)) * 64
    pieces = [bytearray(data[:100]), bytearray(data[100:9000]), bytearray(data[9000:])]
    assert do(disk, Op.WRITE, 512, len(data), *pieces) == Status.SUCCESS
    left, right = bytearray(1), bytearray(len(data) - 1)
    assert do(disk, Op.READ, 512, len(data), left, right) == Status.SUCCESS
    assert left + right == data
    edge = bytearray(512)
    assert do(disk, Op.READ, 0, 512, edge) == Status.SUCCESS
    assert edge == bytes(512)


@pytest.mark.parametrize("op", [Op.UNMAP, Op.WRITE_ZEROES])
@pytest.mark.parametrize(("offset", "length"), [(512, 1024), (0, SIZE), (3584, 16384), (4096, 8192), (512, 3584)])
def test_zeroed_ranges_read_as_zeroes_and_nothing_else_does(disk: Descriptor, op: Op, offset: int, length: int) -> None:
    if op not in disk.bdev.supported:
        assert do(disk, op, offset, length) == Status.INVALID_OPCODE
        return
    assert do(disk, Op.WRITE, 0, SIZE, bytearray(b"\xaa" * SIZE)) == Status.SUCCESS
    assert do(disk, op, offset, length) == Status.SUCCESS
    data = bytearray(SIZE)
    assert do(disk, Op.READ, 0, SIZE, data) == Status.SUCCESS
    assert data[offset : offset + length] == bytes(length)
    assert data.count(0xAA) == SIZE - length


def test_many_small_pieces_in_one_request(disk: Descriptor) -> None:
    pieces = [bytearray([number % 251]) * 64 for number in range(SIZE // 64)]
    assert do(disk, Op.WRITE, 0, SIZE, *pieces) == Status.SUCCESS
    data = bytearray(SIZE)
    assert do(disk, Op.READ, 0, SIZE, data) == Status.SUCCESS
    assert data == b"".join(pieces)


@pytest.mark.parametrize(
    ("offset", "length", "status"),
    [
        (1, 512, Status.INVALID_FIELD),
        (0, 100, Status.INVALID_FIELD),
        (SIZE, 512, Status.LBA_OUT_OF_RANGE),
        (SIZE - 512, 1024, Status.LBA_OUT_OF_RANGE),
    ],
)
def test_requests_that_do_not_fit_are_refused(disk: Descriptor, offset: int, length: int, status: int) -> None:
    assert do(disk, Op.READ, offset, length, bytearray(length)) == status


def test_compare(disk: Descriptor) -> None:
    if Op.COMPARE not in disk.bdev.supported:
        assert do(disk, Op.COMPARE, 0, 512, bytearray(512)) == Status.INVALID_OPCODE
        return
    assert do(disk, Op.COMPARE, 0, 1024, bytearray(512), bytearray(512)) == Status.SUCCESS
    assert do(disk, Op.COMPARE, 0, 512, bytearray(b"x" * 512)) == Status.COMPARE_FAILURE


def test_a_flush_of_a_file_completes_later(tmp_path: Path) -> None:
    async def flush() -> int:
        (tmp_path / "file").write_bytes(bytes(SIZE))
        disk = opened(AioBdev("disk", str(tmp_path / "file"), 512))
        done = asyncio.get_running_loop().create_future()
        disk.io(Op.FLUSH, 0, SIZE, [], done.set_result)
        assert not done.done()
        return await asyncio.wait_for(done, 60)

    assert asyncio.run(flush()) == Status.SUCCESS


def test_what_aio_writes_is_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(SIZE))
    disk = opened(AioBdev("disk", str(tmp_path / "file"), 512))
    assert do(disk, Op.WRITE, 1024, 512, bytearray(b"z" * 512)) == Status.SUCCESS
    assert (tmp_path / "file").read_bytes()[1024:1536] == b"z" * 512
    (tmp_path / "file").write_bytes(b"")
    assert do(disk, Op.READ, 0, 512, bytearray(512)) == Status.READ_ERROR


def test_a_read_only_file_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(SIZE))
    disk = opened(AioBdev("disk", str(tmp_path / "file"), 512, readonly=True))
    assert do(disk, Op.WRITE, 0, 512, bytearray(512)) == Status.WRITE_FAULT


@pytest.mark.parametrize(("size", "block_size"), [(SIZE, 0), (SIZE, 100), (SIZE, 768), (SIZE + 1, 512), (2048, 4096)])
def test_block_sizes_that_do_not_fit_a_file(tmp_path: Path, size: int, block_size: int) -> None:
    (tmp_path / "file").write_bytes(bytes(size))
    with pytest.raises(OSError, match="Invalid argument"):
        AioBdev("disk", str(tmp_path / "file"), block_size)


def test_null_reads_as_zeroes() -> None:
    disk = opened(NullBdev("disk", 512, BLOCKS))
    assert do(disk, Op.WRITE, 0, 512, bytearray(b"x" * 512)) == Status.SUCCESS
    data = bytearray(b"y" * 512)
    assert do(disk, Op.READ, 0, 512, data) == Status.SUCCESS
    assert data == bytes(512)


def test_holders_hear_of_a_resize_and_of_the_end() -> None:
    registry, heard = BdevRegistry(), []
    bdev = NullBdev("disk", 512, 8)
    registry.register(bdev)
    holder = registry.open("disk", True, lambda event, _unused: heard.append(event))
    registry.resize(bdev, 16)
    gone: list[bool] = []
    registry.unregister(bdev, lambda: gone.append(True))
    assert heard == [BdevEvent.RESIZE, BdevEvent.REMOVE]
    assert do(holder, Op.READ, 0, 512, bytearray(512)) == Status.ABORTED
    assert not gone
    with pytest.raises(BdevError) as refused:
        registry.open("disk", False, lambda event, _unused: None)
    assert refused.value.errno == errno.ENODEV
    holder.close()
    assert gone
    assert registry.find("disk") is None


def test_a_claimed_bdev_is_not_opened_for_writing() -> None:
    registry = BdevRegistry()
    holder = opened(NullBdev("disk", 512, 8), registry)
    registry.claim(holder, "somebody")
    with pytest.raises(BdevError) as refused:
        registry.open("disk", True, lambda event, _unused: None)
    assert refused.value.errno == errno.EPERM
    registry.open("disk", False, lambda event, _unused: None)


def test_io_is_counted() -> None:
    disk = opened(MallocBdev("disk", 512, BLOCKS))
    stats = disk.bdev.stats
    stats.reset()
    stats.histogram = Histogram(7, 1, 10**10, Op.WRITE)
    for _unused in range(3):
        do(disk, Op.WRITE, 0, 1024, bytearray(1024))
    do(disk, Op.UNMAP, 0, 512)
    do(disk, Op.COMPARE, 0, 512, bytearray(b"x" * 512))
    counted = stats.as_json()
    assert (counted["bytes_written"], counted["num_write_ops"]) == (3072, 3)
    assert (counted["bytes_unmapped"], counted["num_unmap_ops"]) == (512, 1)
    assert 0 < counted["min_write_latency_ticks"] <= counted["max_write_latency_ticks"]
    assert sum(counted["io_error"].values()) == 1
    assert sum(stats.histogram.buckets) == 3


def test_histograms_have_spdks_buckets() -> None:
    histogram = Histogram(7, 0, 2**64 - 1, None)
    for value in (0, 127, 128, 255, 256, 257, 258):
        histogram.tally(value)
    filled = {position: count for position, count in enumerate(histogram.buckets) if count}
    assert filled == {0: 1, 127: 1, 128: 1, 255: 1, 256: 2, 257: 1}
    assert (histogram.min_range, histogram.max_range, len(histogram.buckets)) == (0, 57, 58 * 128)


@pytest.mark.parametrize(
    ("limits", "operations", "length", "seconds"),
    [
        ({"rw_ios_per_sec": 1000}, 300, 512, 0.3),
        ({"w_mbytes_per_sec": 1}, 64, 4096, 0.25),
        ({"rw_mbytes_per_sec": 4, "rw_ios_per_sec": 100000}, 8, 131072, 0.25),
        ({"r_mbytes_per_sec": 1}, 64, 4096, 0.0),
    ],
)
def test_rate_limits_hold_writes_back(limits: dict[str, int], operations: int, length: int, seconds: float) -> None:
    async def write() -> float:
        disk = opened(MallocBdev("disk", 512, BLOCKS))
        disk.bdev.qos.set(limits, in_use=True)
        last = asyncio.get_running_loop().create_future()
        left = operations

        def done(status: int) -> None:
            nonlocal left
            assert status == Status.SUCCESS
            left -= 1
            if not left:
                last.set_result(None)

        began = time.monotonic()
        for _unused in range(operations):
            disk.io(Op.WRITE, 0, length, [memoryview(bytes(length))], done)
        await asyncio.wait_for(last, 60)
        return time.monotonic() - began

    assert seconds * 0.7 <= asyncio.run(write()) <= seconds + 2


def test_what_io_has_waited_for_is_made_up_for_and_nothing_else_is_saved() -> None:
    bucket = Bucket(1000.0)
    start = bucket.filled
    bucket.fill(start + 5, late=False)
    assert bucket.tokens == 10, "a slice's, after 5 s without I/O"
    bucket.tokens = -1.0
    bucket.fill(start + 5.5, late=True)
    assert bucket.tokens == pytest.approx(499), "half a second's, for I/O waited all that time"
    bucket.fill(start + 9, late=True)
    assert bucket.tokens == 10, "no I/O had to wait for these"


def test_limits_change_once_there_is_a_channel_until_nobody_has_the_bdev_open() -> None:
    async def change() -> list[bool]:
        disk = opened(MallocBdev("disk", 512, BLOCKS))
        taken = []
        for in_use in (False, False, True, False):
            try:
                disk.bdev.qos.set({"rw_ios_per_sec": 1000}, in_use)
                taken.append(True)
            except OSError as error:
                assert error.errno == errno.EAGAIN
                taken.append(False)
        disk.close()
        with pytest.raises(OSError, match="temporarily unavailable"):
            disk.bdev.qos.set({"rw_ios_per_sec": 2000}, in_use=False)
        return taken

    assert asyncio.run(change()) == [True, False, True, True]


def test_limits_that_are_removed_let_everything_through() -> None:
    async def remove() -> list[int]:
        disk = opened(MallocBdev("disk", 512, BLOCKS))
        disk.bdev.qos.set({"rw_mbytes_per_sec": 1}, in_use=True)
        done: list[int] = []
        for _unused in range(4):
            disk.io(Op.WRITE, 0, SIZE, [memoryview(bytes(SIZE))], done.append)
        assert len(done) == 1
        disk.bdev.qos.set({"rw_mbytes_per_sec": 0, "rw_ios_per_sec": UNSET}, in_use=True)
        disk.io(Op.READ, 0, 512, [memoryview(bytearray(512))], done.append)
        await asyncio.sleep(0)
        return done

    assert asyncio.run(remove()) == [Status.SUCCESS] * 5
