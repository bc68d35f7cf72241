"""What an lvol store keeps on its base bdev. The format is the emulator's own: a real SPDK does not read it.

The clusters at the beginning are metadata: as many as SPDK takes for a store of that size (:func:`measure`). In them::

    page 0     the header: written once when the store is made, wiped when it is deleted
    table      one entry a cluster: which map it belongs to, and which cluster of that map it is
    two slots  the catalogue: name and size of the store, its lvols and their maps

An entry is 16 bytes with a checksum of its own, so that one that was torn, or that an earlier store left, counts as
free. The catalogue is written to the slots in turn, with a checksum and a sequence number: the newest whole one counts.
A change of many clusters (a snapshot, a deletion) is one catalogue, because maps change hands in it; a cluster that is
allocated is one entry.
"""

from __future__ import annotations

import errno
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ..bdev.models import BdevError

PAGE = 4096
"""The least page of metadata in SPDK, and the page of this format where a block is not longer."""
MASK_HEADER = 5
"""Bytes before the bits of each of SPDK's masks."""
_MAGIC = b"ipdklvs1"
_HEADER = struct.Struct("<8sII")
_SLOT = struct.Struct("<8sQII")
_ENTRY = struct.Struct("<IIII")
ENTRY_BYTES = _ENTRY.size
FREE = bytes(ENTRY_BYTES)


def _divide_up(value: int, by: int) -> int:
    return -(-value // by)


@dataclass(frozen=True)
class Geometry:
    """Where everything is. Lengths and places are in bytes unless they are named otherwise."""

    uuid: str
    block_size: int
    cluster_size: int
    metadata_clusters: int
    metadata_pages: int
    """SPDK's: one each for the store, for every lvol and for every 512 clusters of an lvol."""
    growable_clusters: int
    """What SPDK calls the size that the store may grow to."""
    table_clusters: int
    """How many clusters this table has room for."""
    page: int

    @property
    def salt(self) -> int:
        """What checksums start with, so that nothing of another store counts."""
        return zlib.crc32(self.uuid.encode())

    @property
    def slot(self) -> int:
        """The length of one of the two slots."""
        left = self.metadata_clusters * self.cluster_size - self.slots
        return left // 2 // self.page * self.page

    @property
    def slots(self) -> int:
        """The place of the first slot."""
        return self.page + _divide_up(self.table_clusters * ENTRY_BYTES, self.page) * self.page


def measure(
    uuid: str, size: int, block_size: int, physical_block_size: int, cluster_size: int, ratio: int, page_size: int
) -> Geometry:
    """The geometry of a new store on ``size`` bytes, as SPDK computes it: lib/blob/blobstore.c, spdk_bs_init.

    ``ratio``: pages of metadata in a hundred clusters. Raises ``BdevError`` as SPDK answers: EINVAL, ENOSPC, ENOMEM.
    """
    clusters = size // cluster_size
    pages = (ratio * clusters & 0xFFFFFFFF) // 100
    if not pages or cluster_size % PAGE:
        raise BdevError(errno.EINVAL)
    if not clusters:
        raise BdevError(errno.ENOSPC)
    spdk_page = max(physical_block_size, PAGE, page_size)
    if cluster_size < spdk_page:
        raise BdevError(errno.EINVAL)

    def mask(bits: int) -> int:
        return _divide_up(MASK_HEADER + _divide_up(bits, 8), spdk_page)

    all_pages = 1 + mask(pages) + max(mask(pages), mask(clusters)) + mask(pages) + pages
    metadata_clusters = _divide_up(all_pages, cluster_size // spdk_page)
    page = max(PAGE, block_size)
    growable = (mask(pages) * spdk_page - MASK_HEADER) * 8
    spare = metadata_clusters * cluster_size // 4 // ENTRY_BYTES
    geometry = Geometry(
        uuid=uuid,
        block_size=block_size,
        cluster_size=cluster_size,
        metadata_clusters=metadata_clusters,
        metadata_pages=pages,
        growable_clusters=growable,
        table_clusters=max(clusters, min(growable, spare)),
        page=page,
    )
    if metadata_clusters > clusters or geometry.slot < page:
        raise BdevError(errno.ENOMEM)
    if block_size & (block_size - 1):
        raise BdevError(errno.EINVAL)
    return geometry


def pack_header(geometry: Geometry) -> bytes:
    """One page."""
    content = json.dumps(asdict(geometry)).encode()
    header = _HEADER.pack(_MAGIC, len(content), zlib.crc32(content)) + content
    return header.ljust(geometry.page, b"\0")


def unpack_header(page: bytes) -> Geometry | None:
    """None where there is no store."""
    if len(page) < _HEADER.size:
        return None
    magic, length, checksum = _HEADER.unpack_from(page)
    content = page[_HEADER.size : _HEADER.size + length]
    if magic != _MAGIC or len(content) != length or zlib.crc32(content) != checksum:
        return None
    return Geometry(**json.loads(content))


def pack_catalogue(geometry: Geometry, sequence: int, catalogue: dict[str, Any]) -> bytes:
    """Whole pages. Raises ``BdevError`` (ENOMEM) where that is more than a slot."""
    content = json.dumps(catalogue, ensure_ascii=False, separators=(",", ":")).encode()
    packed = _SLOT.pack(_MAGIC, sequence, len(content), _checksum(geometry, sequence, content)) + content
    if len(packed) > geometry.slot:
        raise BdevError(errno.ENOMEM)
    return packed.ljust(_divide_up(len(packed), geometry.page) * geometry.page, b"\0")


def _checksum(geometry: Geometry, sequence: int, content: bytes) -> int:
    return zlib.crc32(sequence.to_bytes(8, "little") + content, geometry.salt)


def catalogue_bytes(geometry: Geometry, first_page: bytes) -> int:
    """How much of a slot has to be read, by its first page: whole pages."""
    _magic, _sequence, length, _unused = _SLOT.unpack_from(first_page)
    return min(geometry.slot, _divide_up(_SLOT.size + length, geometry.page) * geometry.page)


def unpack_catalogue(geometry: Geometry, slot: bytes) -> tuple[int, dict[str, Any]] | None:
    """Sequence number and content; None where it is not whole."""
    magic, sequence, length, checksum = _SLOT.unpack_from(slot)
    content = slot[_SLOT.size : _SLOT.size + length]
    if magic != _MAGIC or len(content) != length or _checksum(geometry, sequence, content) != checksum:
        return None
    return sequence, json.loads(content)


def pack_entry(geometry: Geometry, cluster: int, map_id: int, index: int) -> bytes:
    """``cluster`` of the base belongs to a map, as its cluster ``index``."""
    return _ENTRY.pack(map_id, index, _entry_checksum(geometry.salt, cluster, map_id, index), 1)


def _entry_checksum(salt: int, cluster: int, map_id: int, index: int) -> int:
    return zlib.crc32(struct.pack("<QII", cluster, map_id, index), salt)


def unpack_table(geometry: Geometry, table: bytearray) -> Iterator[tuple[int, int, int]]:
    """(cluster, map, index) of each whole entry."""
    salt = geometry.salt
    for cluster, (map_id, index, checksum, used) in enumerate(_ENTRY.iter_unpack(table)):
        if used and _entry_checksum(salt, cluster, map_id, index) == checksum:
            yield cluster, map_id, index
