"""The file in shared memory in which SPDK records tracepoints, in its layout: ``spdk_trace`` reads it.

A header points to sections: what the entries mean (owners, kinds of objects, definitions of tracepoints, masks of those
that are on), and one history for each core: counters, and a ring of entries of one size. An entry whose arguments do
not fit goes on in the next slots of the ring.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections import deque
from collections.abc import Mapping
from itertools import accumulate

from .tracepoints import MOST_GROUPS, POINTS_OF_GROUP, Tpoint

POINTS = MOST_GROUPS * POINTS_OF_GROUP
CONTINUED = POINTS
"""Stands for a tracepoint where a slot holds more arguments of the entry before it."""
_KINDS = 256
"""Of owners, and of objects: each is one byte."""
_OWNERS = 16384
_FIRST_OWNER = 256
"""Lower numbers are what some tracepoints have instead of an owner's, such as that of a queue."""
_DESCRIPTION = 119

_FILE = struct.Struct("<QH6x7Q")
_MAIN = struct.Struct("<QQ496x")
_COUNT = struct.Struct("<H126x")
_OWNER_COUNT = struct.Struct("<HH124x")
_OWNER = struct.Struct(f"<QB{_DESCRIPTION}s")
_PREFIX = struct.Struct("<Bc")
_TPOINT = struct.Struct("<24sHBBBB")
_ARGUMENT = struct.Struct("<14sBB")
_RELATION = struct.Struct("<BB")
_MOST_ARGUMENTS, _MOST_RELATIONS = 8, 16
_TPOINT_SIZE = _TPOINT.size + _MOST_ARGUMENTS * _ARGUMENT.size + _MOST_RELATIONS * _RELATION.size
_HISTORY = struct.Struct("<i16s4xQQQ")
_NEXT_OFFSET = _HISTORY.size - 8
_NUMBER = struct.Struct("<Q")
_RING_OFFSET = _HISTORY.size + POINTS * _NUMBER.size
_ENTRY = struct.Struct("<QHHIQ8s")
_MORE = struct.Struct("<QH22s")
_MOST_SIZE = 0xFFFFFFFF
_FIRST_ARGUMENTS, _MORE_ARGUMENTS = 8, 22
"""Bytes of arguments in an entry, and in each slot in which it goes on."""


class TraceFile:
    """Made and written to here, by nobody else; read by whoever may.

    What nobody writes to takes no memory: the file has holes, and only histories are mapped, from the first entry on.
    """

    def __init__(self, path: str, slots: int, cores: list[int], tick_rate: int) -> None:
        """``slots`` in the ring of each core: a power of 2. Raises ``OSError``."""
        self.path = path
        sections = (
            _MAIN.size,
            _OWNER_COUNT.size + _OWNERS * _OWNER.size,
            _COUNT.size + MOST_GROUPS * _NUMBER.size,
            _COUNT.size + _KINDS * _PREFIX.size,
            _COUNT.size + _KINDS * _PREFIX.size,
            _COUNT.size + POINTS * _TPOINT_SIZE,
            _COUNT.size + (cores[-1] + 1) * _NUMBER.size,
        )
        *starts, self._first_history = accumulate(sections, initial=_FILE.size)
        main, owners, masks, owner_kinds, object_kinds, points, offsets = starts
        self._clear_at = main + _NUMBER.size
        self._owners_at, self._masks_at = owners + _OWNER_COUNT.size, masks + _COUNT.size
        self._owner_kinds_at, self._object_kinds_at = owner_kinds + _COUNT.size, object_kinds + _COUNT.size
        self._points_at = points + _COUNT.size
        history = _RING_OFFSET + slots * _ENTRY.size
        self._size = self._first_history + len(cores) * history
        self._slots = slots
        self._histories = {core: self._first_history + number * history for number, core in enumerate(cores)}
        self._new_owner = _FIRST_OWNER
        self._former_owners: deque[int] = deque()
        """Numbers that are given again when there are no new ones."""
        self._memory: mmap.mmap | None = None
        self._recorded = False
        # An older file of that name may still be another process's: it keeps what it has.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(self._file, self._size)
            self._write(main, _MAIN.pack(tick_rate, 0))
            self._write(owners, _OWNER_COUNT.pack(_OWNERS, _DESCRIPTION))
            counted = ((masks, MOST_GROUPS), (owner_kinds, _KINDS), (object_kinds, _KINDS), (points, POINTS))
            for start, count in (*counted, (offsets, cores[-1] + 1)):
                self._write(start, _COUNT.pack(count))
            for core, start in self._histories.items():
                self._write(offsets + _COUNT.size + core * _NUMBER.size, _NUMBER.pack(start))
                self._write(start, _HISTORY.pack(core, b"", slots, POINTS, 0))
            self._write(0, _FILE.pack(self._size, len(starts), *starts))
        except OSError:
            self.close()
            raise

    def _write(self, offset: int, data: bytes) -> None:
        """A call, not a store into mapped memory: that would be SIGBUS where the system has no more of it."""
        os.pwrite(self._file, data, offset)

    def close(self) -> None:
        """The file stays where there is something in it."""
        if self._memory is not None:
            self._memory.close()
        with contextlib.suppress(FileNotFoundError):
            # Another process may have taken the name over.
            if not self._recorded and os.path.samestat(os.fstat(self._file), os.stat(self.path)):
                os.unlink(self.path)
        os.close(self._file)

    # What entries mean

    def define_kinds(self, owners: Mapping[int, str], objects: Mapping[int, str]) -> None:
        """A letter for each."""
        for start, prefixes in ((self._owner_kinds_at, owners), (self._object_kinds_at, objects)):
            for kind, prefix in prefixes.items():
                self._write(start + kind * _PREFIX.size, _PREFIX.pack(kind, prefix.encode()))

    def define(self, number: int, tpoint: Tpoint) -> None:
        head = _TPOINT.pack(tpoint.name.encode(), number, tpoint.owner, tpoint.object, tpoint.new, len(tpoint.args))
        args = b"".join(_ARGUMENT.pack(name.encode(), pointer, size) for name, pointer, size in tpoint.args)
        related = b"".join(_RELATION.pack(*each) for each in tpoint.related)
        packed = head + args.ljust(_MOST_ARGUMENTS * _ARGUMENT.size, b"\0") + related
        self._write(self._points_at + number * _TPOINT_SIZE, packed)

    def set_mask(self, group: int, mask: int) -> None:
        self._write(self._masks_at + group * _NUMBER.size, _NUMBER.pack(mask))

    def clear(self, now: int) -> None:
        """Readers leave out what is older."""
        self._write(self._clear_at, _NUMBER.pack(now))

    def add_owner(self, now: int, kind: int, description: str) -> int:
        """Its number; 0, which is no owner, where there is no more room."""
        if self._new_owner == _OWNERS and not self._former_owners:
            return 0
        number = self._former_owners[0] if self._new_owner == _OWNERS else self._new_owner
        try:
            self._write(self._owner_at(number), _OWNER.pack(now, kind, _text(description)))
        except OSError:
            return 0
        if self._new_owner == _OWNERS:
            self._former_owners.popleft()
        else:
            self._new_owner += 1
        return number

    def describe_owner(self, number: int, description: str) -> None:
        """In other words than before."""
        self._write(self._owner_at(number) + _OWNER.size - _DESCRIPTION, _text(description))

    def remove_owner(self, number: int) -> None:
        """It stays to be seen until its number is given again, after all others."""
        if number:
            self._former_owners.append(number)

    def _owner_at(self, number: int) -> int:
        return self._owners_at + number * _OWNER.size

    # Histories

    def reserve(self) -> None:
        """Have the memory for all entries, before the first one. Raises ``OSError``."""
        if self._memory is None:
            os.posix_fallocate(self._file, self._first_history, self._size - self._first_history)
            self._memory = mmap.mmap(self._file, self._size)

    def record(self, core: int, now: int, number: int, owner: int, size: int, value: int, args: bytes) -> None:
        """``now`` has to be later than that of the entry before. The memory is reserved."""
        memory, start, last = self._memory, self._histories[core], self._slots - 1
        assert memory is not None
        counter = start + _HISTORY.size + number * _NUMBER.size
        _NUMBER.pack_into(memory, counter, _NUMBER.unpack_from(memory, counter)[0] + 1)
        (position,) = _NUMBER.unpack_from(memory, start + _NEXT_OFFSET)
        ring = start + _RING_OFFSET
        entry = (now, number, owner, size & _MOST_SIZE, value, args[:_FIRST_ARGUMENTS])
        _ENTRY.pack_into(memory, ring + (position & last) * _ENTRY.size, *entry)
        position += 1
        for offset in range(_FIRST_ARGUMENTS, len(args), _MORE_ARGUMENTS):
            more = args[offset : offset + _MORE_ARGUMENTS]
            _MORE.pack_into(memory, ring + (position & last) * _ENTRY.size, now, CONTINUED, more)
            position += 1
        _NUMBER.pack_into(memory, start + _NEXT_OFFSET, position)
        self._recorded = True


def _text(description: str) -> bytes:
    """With a zero at its end."""
    return description.encode()[: _DESCRIPTION - 1]
