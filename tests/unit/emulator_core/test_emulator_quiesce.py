"""A bdev that somebody has alone, and compare and write on top of that."""

from __future__ import annotations

from spdk_emulator.bdev.compare import compare, compare_and_write
from spdk_emulator.bdev.malloc import MallocBdev
from spdk_emulator.bdev.models import Bdev, BdevIo, BdevRegistry, Descriptor, Op, Status

BLOCK = 512


class LateBdev(Bdev):
    """Completes what it was given when it is told so."""

    def __init__(self) -> None:
        super().__init__("late", BLOCK, 64)
        self.content = bytearray(BLOCK * 64)
        self.begun: list[BdevIo] = []

    def submit(self, io: BdevIo) -> None:
        self.begun.append(io)

    def complete(self, status: int = Status.SUCCESS) -> Op:
        """The oldest; what it was."""
        io = self.begun.pop(0)
        place = slice(io.offset, io.offset + io.length)
        if not status and io.op == Op.READ:
            io.iov[0][:] = self.content[place]
        elif not status and io.op == Op.WRITE:
            self.content[place] = io.iov[0]
        io.complete(status)
        return io.op


class World:
    """A bdev, opened, and what its I/O came to: pairs of name and status."""

    def __init__(self, bdev: Bdev) -> None:
        self.bdev = bdev
        self.bdevs = BdevRegistry()
        self.bdevs.options["bdev_auto_examine"] = False
        self.bdevs.register(bdev)
        self.descriptor: Descriptor = self.bdevs.open(bdev.name, True, lambda event, _bdev: self.descriptor.close())
        self.ends: list[tuple[str, int]] = []

    def io(self, name: str, op: Op, data: bytes = b"", lba: int = 0) -> None:
        iov = [memoryview(bytearray(data or BLOCK))] if op in (Op.READ, Op.WRITE) else []
        self.descriptor.io(op, lba * BLOCK, BLOCK, iov, lambda status: self.ends.append((name, status)))

    def pair(self, name: str, expected: bytes, new: bytes) -> None:
        views = [memoryview(expected)], [memoryview(new)]
        compare_and_write(self.descriptor, 0, BLOCK, *views, lambda status: self.ends.append((name, status)))


ZEROES, OLD, NEW = bytes(BLOCK), b"o" * BLOCK, b"n" * BLOCK


def test_a_pair_begins_when_what_was_before_is_done_and_what_comes_after_waits() -> None:
    late = LateBdev()
    world = World(late)
    world.io("before", Op.WRITE, OLD)
    world.pair("pair", OLD, NEW)
    world.io("after", Op.WRITE, ZEROES)
    world.io("elsewhere", Op.READ, lba=9)
    assert len(late.begun) == 1
    assert late.complete() == Op.WRITE
    assert [io.op for io in late.begun] == [Op.READ]
    assert late.complete() == Op.READ
    assert [io.op for io in late.begun] == [Op.WRITE]
    assert late.complete() == Op.WRITE
    assert world.ends == [("before", 0), ("pair", 0)]
    assert late.content[:BLOCK] == NEW
    assert [io.op for io in late.begun] == [Op.WRITE, Op.READ]
    assert late.quiesced is None
    late.complete()
    late.complete()
    assert late.content[:BLOCK] == ZEROES
    assert late.outstanding == 0


def test_pairs_take_turns() -> None:
    late = LateBdev()
    world = World(late)
    world.pair("one", ZEROES, OLD)
    world.pair("two", ZEROES, NEW)
    world.pair("three", OLD, NEW)
    done = []
    while late.begun:
        assert len(late.begun) == 1
        done.append(late.complete())
    assert world.ends == [("one", 0), ("two", Status.COMPARE_FAILURE), ("three", 0)]
    assert done == [Op.READ, Op.WRITE, Op.READ, Op.READ, Op.WRITE]
    assert late.content[:BLOCK] == NEW


def test_what_fails_ends_the_pair_and_lets_others_go_on() -> None:
    late = LateBdev()
    world = World(late)
    world.pair("read", ZEROES, OLD)
    world.pair("write", ZEROES, OLD)
    world.io("after", Op.READ)
    late.complete(Status.READ_ERROR)
    late.complete()
    late.complete(Status.WRITE_FAULT)
    late.complete()
    assert world.ends == [("read", Status.COMPARE_FAILURE), ("write", Status.INTERNAL_ERROR), ("after", 0)]
    assert late.content[:BLOCK] == ZEROES


def test_a_reset_does_not_wait() -> None:
    late = LateBdev()
    world = World(late)
    world.io("before", Op.READ)
    world.pair("pair", ZEROES, OLD)
    world.io("reset", Op.RESET)
    assert [io.op for io in late.begun] == [Op.READ, Op.RESET]
    while late.begun:
        late.complete()
    assert world.ends == [("before", 0), ("reset", 0), ("pair", 0)]


def test_what_waits_for_a_bdev_that_goes_away_is_aborted() -> None:
    late = LateBdev()
    world = World(late)
    world.pair("at work", ZEROES, OLD)
    world.pair("waits", ZEROES, OLD)
    world.io("after", Op.WRITE, OLD)
    world.bdevs.unregister(late)
    assert world.ends == [("waits", Status.ABORTED), ("after", Status.ABORTED)]
    late.complete()
    assert world.ends[2:] == [("at work", Status.ABORTED)]
    assert late.content[:BLOCK] == ZEROES
    world.pair("too late", ZEROES, OLD)
    assert world.ends[3:] == [("too late", Status.ABORTED)]


def test_any_number_may_wait() -> None:
    """More than the interpreter would nest calls."""
    late = LateBdev()
    world = World(late)
    world.io("before", Op.READ)
    disk = World(MallocBdev("m", BLOCK, 64))
    disk.bdev.outstanding += 1  # something that is not done yet
    for number in range(3000):
        disk.pair(str(number), OLD if number % 2 else ZEROES, ZEROES if number % 2 else OLD)
        disk.io("read", Op.READ)
    assert disk.ends == []
    disk.bdev.outstanding -= 1
    assert disk.bdev.quiesced is not None
    disk.bdev.quiesced.advance()
    assert {status for _unused, status in disk.ends} == {0}
    assert len(disk.ends) == 6000


def test_a_bdev_that_cannot_compare_is_read() -> None:
    late = LateBdev()
    world = World(late)
    ends: list[int] = []
    pieces = [memoryview(ZEROES[:100]), memoryview(ZEROES[100:])]
    for iov in (pieces, [memoryview(OLD)], [memoryview(OLD)]):
        compare(world.descriptor, 0, BLOCK, iov, ends.append)
    late.complete()
    late.complete()
    late.complete(Status.READ_ERROR)
    assert ends == [0, Status.COMPARE_FAILURE, Status.INTERNAL_ERROR]
