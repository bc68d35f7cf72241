"""CRC32C (Castagnoli), which NVMe/TCP uses for header and data digests (NVMe/TCP transport specification, 3.3.1)."""

from __future__ import annotations

import functools
import struct

_POLYNOMIAL = 0x82F63B78
"""0x1EDC6F41 with its bits reversed."""


@functools.cache
def _tables() -> tuple[list[int], list[int]]:
    """Two tables that take the message two bytes each: four bytes a step. Made when the first digest is wanted."""
    single = []
    for value in range(256):
        for _unused in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        single.append(value)

    def shift(value: int) -> int:
        """The register after one more zero byte."""
        return single[value & 0xFF] ^ (value >> 8)

    low_byte = [shift(value) for value in single]
    late = [low_byte[word & 0xFF] ^ single[word >> 8] for word in range(65536)]
    early = [shift(shift(value)) for value in late]
    return early, late


def crc32c(data: bytes | bytearray | memoryview, crc: int = 0) -> int:
    """The checksum of ``data``, or of what ``crc`` is the checksum of followed by ``data``."""
    early, late = _tables()
    crc ^= 0xFFFFFFFF
    whole = len(data) & ~3
    for (word,) in struct.iter_unpack("<I", memoryview(data)[:whole]):
        word ^= crc
        crc = early[word & 0xFFFF] ^ late[word >> 16]
    for byte in data[whole:]:
        crc = late[((crc ^ byte) & 0xFF) << 8] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF
