"""Guest memory: shared files mapped into this process, and the two kinds of addresses that point into it.

Descriptors hold guest-physical addresses; the rings' own addresses are virtual addresses of the front end. Both are
checked against the regions of the memory table, and a buffer is a memoryview into the mapping: nothing is copied.
"""

from __future__ import annotations

import mmap
import os
import stat
import weakref

from .messages import MemoryRegion, ProtocolError


class AddressError(Exception):
    """An address range that is not guest memory."""


class _Mapping:
    """One shared file, mapped whole. It is unmapped when the last view of it is gone."""

    __slots__ = ("memory", "size", "__weakref__")

    def __init__(self, fd: int, size: int) -> None:
        self.memory = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self.size = size


_mappings: weakref.WeakValueDictionary[tuple[int, int], _Mapping] = weakref.WeakValueDictionary()
"""By device and inode: the 64 disks of one guest bring 64 descriptors of the same memory."""


def map_file(fd: int, end: int) -> _Mapping:
    """The mapping of a shared file, which has to reach up to ``end``. The caller keeps its ``fd``.

    Raises :class:`ProtocolError` for what is no regular file or too short: touching memory beyond its end would kill
    this process with SIGBUS.
    """
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size < end:
        raise ProtocolError(f"a memory region ends at byte {end} of its file, which has {status.st_size}")
    key = (status.st_dev, status.st_ino)
    mapping = _mappings.get(key)
    if mapping is None or mapping.size < end:
        try:
            mapping = _mappings[key] = _Mapping(fd, status.st_size)
        except (OSError, ValueError) as error:
            raise ProtocolError(f"a memory region of {status.st_size} bytes cannot be mapped: {error}") from None
    return mapping


class _Region:
    __slots__ = ("guest_address", "guest_end", "user_address", "user_end", "view", "mapping")

    def __init__(self, region: MemoryRegion) -> None:
        self.mapping = map_file(region.fd, region.offset + region.size)
        self.guest_address = region.guest_address
        self.guest_end = region.guest_address + region.size
        self.user_address = region.user_address
        self.user_end = region.user_address + region.size
        self.view = memoryview(self.mapping.memory)[region.offset : region.offset + region.size]


class GuestMemory:
    """The memory table of one session."""

    def __init__(self, regions: list[MemoryRegion]) -> None:
        """Raises :class:`ProtocolError` if a region is not what it claims to be."""
        self._regions = [_Region(region) for region in regions]

    def guest(self, address: int, length: int) -> memoryview:
        """The ``length`` bytes at a guest-physical address, in one piece. Raises :class:`AddressError`."""
        for region in self._regions:
            if region.guest_address <= address and address + length <= region.guest_end:
                start = address - region.guest_address
                return region.view[start : start + length]
        raise AddressError(f"guest-physical {address:#x}, {length} bytes: not in one region of guest memory")

    def guest_pieces(self, address: int, length: int) -> list[memoryview]:
        """As :meth:`guest`, for a buffer that crosses from one region into the next."""
        pieces = []
        while length:
            for region in self._regions:
                if region.guest_address <= address < region.guest_end:
                    start = address - region.guest_address
                    pieces.append(region.view[start : min(start + length, len(region.view))])
                    break
            else:
                raise AddressError(f"guest-physical {address:#x}, {length} bytes: not in guest memory")
            address += len(pieces[-1])
            length -= len(pieces[-1])
        return pieces

    def user(self, address: int, length: int) -> memoryview:
        """The ``length`` bytes at a virtual address of the front end. Raises :class:`AddressError`."""
        for region in self._regions:
            if region.user_address <= address and address + length <= region.user_end:
                start = address - region.user_address
                return region.view[start : start + length]
        raise AddressError(f"front-end address {address:#x}, {length} bytes: not in one region of guest memory")
