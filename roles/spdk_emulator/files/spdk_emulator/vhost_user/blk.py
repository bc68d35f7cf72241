"""virtio-blk: requests, results and the configuration space.

Source: the virtio specification 1.2, section 5.2. The layout of a request is not taken for granted: its 16-byte header
and its status byte may share buffers with data.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

from .virtqueue import Chain

SECTOR = 512
ID_BYTES = 20


class Feature(enum.IntFlag):
    SEG_MAX = 1 << 2
    RO = 1 << 5
    BLK_SIZE = 1 << 6
    FLUSH = 1 << 9
    TOPOLOGY = 1 << 10
    MQ = 1 << 12
    DISCARD = 1 << 13
    WRITE_ZEROES = 1 << 14


class Type(enum.IntEnum):
    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8
    DISCARD = 11
    WRITE_ZEROES = 13


class Result(enum.IntEnum):
    OK = 0
    IOERR = 1
    UNSUPPORTED = 2


_HEADER = struct.Struct("<I4xQ")
_RANGE = struct.Struct("<QII")
_BARRIER = 1 << 31
"""A flag of legacy drivers in the type field; ordering is not promised beyond what FLUSH gives, so it means nothing."""
_RANGE_UNMAP = 1
_CONFIG = struct.Struct("<QIIHBBIBBHIBBHIIIIIB3x")


class MalformedRequest(Exception):
    """A chain that is too short to be a request: there is no header, or no status byte to answer in."""


class BlkRequest(NamedTuple):
    type: int
    sector: int
    readable: list[memoryview]
    """Data from the guest, without the header."""
    writable: list[memoryview]
    """Room for data to the guest, without the status byte."""
    status: memoryview


class Range(NamedTuple):
    """What DISCARD or WRITE_ZEROES is about, in bytes."""

    offset: int
    length: int
    unmap: bool


def parse(chain: Chain) -> BlkRequest:
    """Raises :class:`MalformedRequest`."""
    readable, writable = chain
    if not readable or not writable:
        raise MalformedRequest(f"{len(readable)} readable and {len(writable)} writable buffers")
    if len(readable[0]) == _HEADER.size:
        header: bytes | memoryview = readable[0]
        data = readable[1:]
    else:
        header, data = _split(readable, _HEADER.size)
    while not writable[-1]:
        writable.pop()
        if not writable:
            raise MalformedRequest("no room for the status byte")
    last = writable[-1]
    if len(last) == 1:
        room, status = writable[:-1], last
    else:
        room, status = [*writable[:-1], last[:-1]], last[-1:]
    type_, sector = _HEADER.unpack(header)
    return BlkRequest(type_ & ~_BARRIER, sector, data, room, status)


def _split(buffers: list[memoryview], count: int) -> tuple[bytes, list[memoryview]]:
    """The first ``count`` bytes, and what is behind them."""
    taken = b""
    rest = list(buffers)
    while len(taken) < count:
        if not rest:
            raise MalformedRequest(f"{len(taken)} readable bytes, the header has {count}")
        need = count - len(taken)
        taken += bytes(rest[0][:need])
        if len(rest[0]) > need:
            rest[0] = rest[0][need:]
        else:
            rest.pop(0)
    return taken, rest


def parse_range(data: list[memoryview]) -> Range | None:
    """The one range of a DISCARD or WRITE_ZEROES request; None if the data is anything else."""
    if sum(map(len, data)) != _RANGE.size:
        return None
    sector, count, flags = _RANGE.unpack(data[0] if len(data) == 1 else b"".join(data))
    return Range(sector * SECTOR, count * SECTOR, bool(flags & _RANGE_UNMAP))


def fill(buffers: list[memoryview], data: bytes) -> int:
    """Copy ``data`` into the buffers; how many bytes fitted."""
    written = 0
    for buffer in buffers:
        piece = data[written : written + len(buffer)]
        buffer[: len(piece)] = piece
        written += len(piece)
    return written


def config_space(
    *,
    size: int,
    block_size: int,
    queues: int,
    max_segments: int,
    max_discard_sectors: int = 0,
    max_write_zeroes_sectors: int = 0,
) -> bytes:
    """``struct virtio_blk_config``. ``size`` and ``block_size`` in bytes, 0 for a device without a medium."""
    return _CONFIG.pack(
        size // SECTOR,
        0,  # size_max: not offered
        max_segments,
        0,  # geometry: cylinders, heads, sectors
        0,
        0,
        block_size,
        0,  # physical block exponent
        0,  # alignment offset
        1,  # smallest I/O, in blocks
        0,  # best I/O, in blocks
        0,  # write-back cache
        0,
        queues,
        max_discard_sectors,
        1 if max_discard_sectors else 0,
        block_size // SECTOR if max_discard_sectors else 0,
        max_write_zeroes_sectors,
        1 if max_write_zeroes_sectors else 0,
        0,  # WRITE_ZEROES may not unmap
    )
