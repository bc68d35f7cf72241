"""Compare, and compare and write as one, also where a bdev can do neither by itself."""

from __future__ import annotations

from collections.abc import Callable

from ..framework.threads import running
from .models import BdevIo, CompareAndWriteIo, Descriptor, Op, Status


def compare(base: Descriptor, offset: int, length: int, iov: list[memoryview], done: Callable[[int], None]) -> None:
    """``done`` gets COMPARE_FAILURE where ``iov``, of ``length`` bytes, is not what the bdev has there."""
    if Op.COMPARE in base.bdev.supported:
        base.io(Op.COMPARE, offset, length, iov, done)
        return
    found = bytearray(length)

    def read(status: int) -> None:
        if status:
            done(Status.INTERNAL_ERROR)
        else:
            done(Status.SUCCESS if _same(found, iov) else Status.COMPARE_FAILURE)

    base.io(Op.READ, offset, length, [memoryview(found)], read)


def compare_and_write(
    base: Descriptor,
    offset: int,
    length: int,
    expected: list[memoryview],
    iov: list[memoryview],
    done: Callable[[int], None],
) -> None:
    """Write ``iov`` where the bdev has ``expected``, both of ``length`` bytes, with no other I/O in between.

    Else ``done`` gets COMPARE_FAILURE. The caller has checked that there are such blocks, and no more than ``acwu``.
    """
    bdev = base.bdev
    if base.closed or bdev.removing:
        done(Status.ABORTED)
        return
    if Op.COMPARE_AND_WRITE in bdev.supported:
        bdev.start(CompareAndWriteIo(offset, length, expected, iov, done))
        return
    found = bytearray(length)
    native = Op.COMPARE in bdev.supported
    thread = running.thread

    def enter(op: Op, iov: list[memoryview], done: Callable[[int], None]) -> None:
        """On the thread that began, whoever has made it wait."""
        io = BdevIo(op, offset, length, iov, done)
        io.thread = thread
        bdev.enter(io)

    def begin(leave: Callable[[], None]) -> None:
        def finish(status: int) -> None:
            leave()
            done(status)

        def compared(status: int) -> None:
            # SPDK calls it a miscompare whyever the comparison has failed.
            if status or not native and not _same(found, expected):
                finish(Status.COMPARE_FAILURE)
            elif bdev.removing:
                finish(Status.ABORTED)
            else:
                enter(Op.WRITE, iov, written)

        def written(status: int) -> None:
            finish(Status.INTERNAL_ERROR if status else Status.SUCCESS)

        if bdev.removing:
            finish(Status.ABORTED)
        elif native:
            enter(Op.COMPARE, expected, compared)
        else:
            enter(Op.READ, [memoryview(found)], compared)

    bdev.quiesce(begin)


def _same(found: bytearray, iov: list[memoryview]) -> bool:
    return found == (iov[0] if len(iov) == 1 else b"".join(iov))
