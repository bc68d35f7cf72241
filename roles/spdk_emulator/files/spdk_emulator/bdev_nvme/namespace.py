"""A namespace as one controller shows it."""

from __future__ import annotations

import enum
import logging
import struct
import uuid as uuid_module
from dataclasses import dataclass

from ..nvme_tcp import nvme
from ..nvme_tcp.pdu import Buffer

log = logging.getLogger(__name__)


class Ana(enum.IntEnum):
    """Asymmetric namespace access states (8.1.2)."""

    OPTIMIZED = 0x1
    NON_OPTIMIZED = 0x2
    INACCESSIBLE = 0x3
    PERSISTENT_LOSS = 0x4
    CHANGE = 0xF


@dataclass
class Namespace:
    """``uuid`` is its NGUID if it has one, else its UUID, else None."""

    nsid: int
    num_blocks: int
    block_size: int
    uuid: uuid_module.UUID | None
    shared: bool
    group: int
    write_granularity: tuple[int, int, int]
    unmap_granularity: tuple[int, int]
    atomic_compare: int = 0
    """The most blocks of an atomic compare and write; 0: what the controller says of all namespaces."""
    ana: Ana = Ana.OPTIMIZED
    ana_deadline: float | None = None
    """Until when (loop time) it is worth waiting for a better access state; None: the state is good."""

    @property
    def usable(self) -> bool:
        return self.ana in (Ana.OPTIMIZED, Ana.NON_OPTIMIZED)


def can_be_bdev(name: str, nsid: int, page: Buffer) -> bool:
    """Whether its blocks are such that a bdev can be made of it. ``name`` (the controller's) is for the log."""
    metadata, shift = _block_format(page)
    if metadata or not 9 <= shift <= 16:
        log.warning(
            "%s: namespace %d has blocks of 2^%d bytes with %d bytes of metadata; no bdev is made of it",
            name, nsid, shift, metadata,
        )  # fmt: skip
        return False
    return True


def _block_format(page: Buffer) -> tuple[int, int]:
    """Bytes of metadata, and the power of two that a block is long."""
    flbas = nvme.IDENTIFY_NAMESPACE.unpack(page)["flbas"]
    offset = nvme.IDENTIFY_NAMESPACE.fields["lbaf0_ms"][0] + 4 * (flbas & 0xF | flbas >> 1 & 0x30)
    return struct.unpack_from("<HB", page, offset)


def describe(nsid: int, page: Buffer, identifiers: dict[int, bytes]) -> Namespace:
    """What there is to know of it, from Identify Namespace and its identification descriptors."""
    known = nvme.IDENTIFY_NAMESPACE.unpack(page)
    identifier = identifiers.get(nvme.DESCRIPTOR_NGUID) or known["nguid"]
    if not any(identifier):
        identifier = identifiers.get(nvme.DESCRIPTOR_UUID, bytes(16))
    optimal = known["nsfeat"] & 0x10
    return Namespace(
        nsid=nsid,
        num_blocks=known["nsze"],
        block_size=1 << _block_format(page)[1],
        uuid=uuid_module.UUID(bytes=bytes(identifier)) if any(identifier) else None,
        shared=bool(known["nmic"] & 1),
        group=known["anagrpid"],
        write_granularity=(known["npwa"] + 1, known["npwg"] + 1, known["nows"] + 1) if optimal else (0, 0, 0),
        unmap_granularity=(known["npda"] + 1, known["npdg"] + 1) if optimal else (0, 0),
        atomic_compare=known["nacwu"] + 1 if known["nsfeat"] & nvme.NSFEAT_ATOMIC_UNITS else 0,
    )


def access_states(page: Buffer) -> dict[int, Ana]:
    """The namespaces that an ANA log page (5.16.1.13) names, with their states."""
    states: dict[int, Ana] = {}
    _unused, groups = struct.unpack_from("<QH", page)
    position = 16
    for _unused in range(groups):
        if position + 32 > len(page):
            break
        _unused, count, _unused, state = struct.unpack_from("<IIQB", page, position)
        position += 32
        count = min(count, (len(page) - position) // 4)
        try:
            ana = Ana(state & 0xF)
        except ValueError:
            ana = Ana.INACCESSIBLE
        states |= dict.fromkeys(struct.unpack_from(f"<{count}I", page, position), ana)
        position += 4 * count
    return states
