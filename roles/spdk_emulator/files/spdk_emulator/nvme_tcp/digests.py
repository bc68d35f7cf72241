"""CRC32C (Castagnoli), which NVMe/TCP uses for header and data digests (NVMe/TCP transport specification, 3.3.1).

The library ``crc32c`` computes it. It is loaded when digests are wanted: the emulator works without, and then has none.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

WITHOUT = "there are no digests without the Python library crc32c"


@functools.cache
def _library() -> Callable[[bytes | bytearray | memoryview], int] | None:
    try:
        computes: Callable[[bytes | bytearray | memoryview], int] = importlib.import_module("crc32c").crc32c
    except ImportError:
        return None
    return computes


def there_are() -> bool:
    """Whether there can be digests; where there cannot, the log says why."""
    if _library() is None:
        log.error(WITHOUT)
        return False
    return True


def crc32c(data: bytes | bytearray | memoryview) -> int:
    """The checksum of ``data``, for a connection that has agreed to digests."""
    computes = _library()
    assert computes is not None
    return computes(data)
