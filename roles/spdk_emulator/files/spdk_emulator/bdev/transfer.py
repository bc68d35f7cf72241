"""I/O of a coroutine on a bdev: what is not done for every request of a guest."""

from __future__ import annotations

import asyncio
import errno

from .models import BdevError, Descriptor, Op, Status

CHUNK = 1024 * 1024
"""Bytes; between two of these others get their turn."""
_ZEROES = bytes(CHUNK)


async def transfer(
    base: Descriptor, op: Op, offset: int, length: int, data: bytes | bytearray | list[memoryview] | None = None
) -> None:
    """Raises ``BdevError`` (EIO)."""
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    iov = [] if data is None else data if isinstance(data, list) else [memoryview(data)]
    base.io(op, offset, length, iov, lambda status: None if done.cancelled() else done.set_result(status))
    if await done != Status.SUCCESS:
        raise BdevError(errno.EIO)


async def read(base: Descriptor, offset: int, length: int) -> bytearray:
    data = bytearray(length)
    for start in range(0, length, CHUNK):
        part = bytearray(min(CHUNK, length - start))
        await transfer(base, Op.READ, offset + start, len(part), part)
        data[start : start + len(part)] = part
        await asyncio.sleep(0)
    return data


async def write_zeroes(base: Descriptor, offset: int, length: int) -> None:
    for start in range(offset, offset + length, CHUNK):
        part = min(CHUNK, offset + length - start)
        if Op.WRITE_ZEROES in base.bdev.supported:
            await transfer(base, Op.WRITE_ZEROES, start, part)
        else:
            await transfer(base, Op.WRITE, start, part, bytearray(part))
        await asyncio.sleep(0)


async def make_zero(base: Descriptor, offset: int, length: int) -> None:
    """As :func:`write_zeroes`, but a file keeps its holes: where a bdev cannot unmap, it is read first."""
    if Op.UNMAP in base.bdev.supported:
        await write_zeroes(base, offset, length)
        return
    for start in range(offset, offset + length, CHUNK):
        part = min(CHUNK, offset + length - start)
        if await read(base, start, part) != (_ZEROES if part == CHUNK else bytes(part)):
            await write_zeroes(base, start, part)


async def copy(base: Descriptor, source: int, target: int, length: int) -> None:
    """The two may overlap."""
    chunks = range(0, length, CHUNK)
    for start in chunks if target < source else reversed(chunks):
        data = await read(base, source + start, min(CHUNK, length - start))
        await transfer(base, Op.WRITE, target + start, len(data), data)
