"""Read the file in which an SPDK records tracepoints, by offsets: SPDK's, or the emulator's, which has to be like it.

It shares nothing with what writes the emulator's.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, NamedTuple

CONTINUED = 1280
"""In place of a tracepoint: the slot holds more arguments of the entry before it."""
INT, POINTER, STRING = 0, 1, 2
SECTIONS = ("main", "owners", "masks", "owner_types", "objects", "tpoints", "cores")
SHM = Path("/dev/shm")
HEAD = 128
"""Bytes before the first element in each section."""


class Entry(NamedTuple):
    """``args`` by name; ``owner`` is None for the identifier of one that is not, or not yet, registered."""

    core: int
    tsc: int
    name: str
    owner: str | None
    size: int
    object: int
    args: dict[str, int | str]


def leave_nothing(pid: int) -> None:
    """Remove the file of a process that could not do so itself, for it was killed, or has recorded something."""
    (SHM / f"spdk_tgt_trace.pid{pid}").unlink(missing_ok=True)


def text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode()


class TraceReader:
    """A copy of the file, as it is at this moment."""

    def __init__(self, path: str | Path) -> None:
        self.data = data = Path(path).read_bytes()
        self.size, count = struct.unpack_from("<QH", data)
        assert (len(data), count) == (self.size, len(SECTIONS))
        self.at = dict(zip(SECTIONS, struct.unpack_from("<7Q", data, 16), strict=True))
        self.tsc_rate, self.clear_tsc = struct.unpack_from("<QQ", data, self.at["main"])

    def _count(self, section: str) -> int:
        return struct.unpack_from("<H", self.data, self.at[section])[0]

    @property
    def masks(self) -> list[int]:
        return list(struct.unpack_from(f"<{self._count('masks')}Q", self.data, self.at["masks"] + HEAD))

    @property
    def owners(self) -> dict[int, tuple[int, str, int]]:
        """Type, description, time of registration."""
        count, room = struct.unpack_from("<HH", self.data, self.at["owners"])
        found = {}
        for number in range(count):
            start = self.at["owners"] + HEAD + number * (9 + room)
            tsc, kind = struct.unpack_from("<QB", self.data, start)
            if tsc:
                found[number] = (kind, text(self.data[start + 9 : start + 9 + room]), tsc)
        return found

    def _prefixes(self, section: str) -> dict[int, str]:
        start = self.at[section] + HEAD
        pairs = struct.iter_unpack("<Bc", self.data[start : start + 2 * self._count(section)])
        return {kind: prefix.decode() for kind, prefix in pairs if kind}

    @property
    def owner_types(self) -> dict[int, str]:
        return self._prefixes("owner_types")

    @property
    def objects(self) -> dict[int, str]:
        return self._prefixes("objects")

    @property
    def tpoints(self) -> dict[int, dict[str, Any]]:
        """All definitions, in SPDK's words. What has no name has relations only."""
        found = {}
        for number in range(self._count("tpoints")):
            start = self.at["tpoints"] + HEAD + number * 190
            if not any(self.data[start : start + 190]):
                continue
            name, own_number, owner, kind, new, count = struct.unpack_from("<24sHBBBB", self.data, start)
            assert own_number in (0, number)
            args = [struct.unpack_from("<14sBB", self.data, start + 30 + 16 * each) for each in range(8)]
            related = struct.iter_unpack("<BB", self.data[start + 158 : start + 190])
            found[number] = {
                "name": text(name),
                "owner_type": owner,
                "object_type": kind,
                "new_object": bool(new),
                "args": [(text(name), kind, size) for name, kind, size in args[:count]],
                "related": {tuple(each) for each in related if each[0]},
            }
        return found

    @property
    def cores(self) -> dict[int, int]:
        """Where the history of each core is."""
        start = self.at["cores"] + HEAD
        offsets = struct.unpack_from(f"<{self._count('cores')}Q", self.data, start)
        return {core: offset for core, offset in enumerate(offsets) if offset}

    def history(self, core: int) -> tuple[int, int, dict[int, int]]:
        """Slots of the ring, slots that were filled so far, and how often each tracepoint came."""
        start = self.cores[core]
        (own_core,) = struct.unpack_from("<i", self.data, start)
        assert own_core == core
        slots, points, filled = struct.unpack_from("<QQQ", self.data, start + 24)
        counts = struct.unpack_from(f"<{points}Q", self.data, start + 48)
        return slots, filled, {number: count for number, count in enumerate(counts) if count}

    def entries(self, core: int) -> list[Entry]:
        """What is there still and was not cleared, oldest first."""
        slots, filled, _counts = self.history(core)
        start = self.cores[core] + 48 + 8 * CONTINUED
        ring = [self.data[start + 32 * (number % slots) :][:32] for number in range(max(0, filled - slots), filled)]
        found = []
        for position, slot in enumerate(ring):
            tsc, number, owner, size, value = struct.unpack_from("<QHHIQ", slot)
            if number == CONTINUED or tsc < self.clear_tsc:
                continue
            more = ring[position + 1 :]
            args = slot[24:]
            for each in more:
                if struct.unpack_from("<QH", each) != (tsc, CONTINUED):
                    break
                args += each[10:]
            point = self.tpoints[number]
            kind, description, since = self.owners.get(owner, (0, None, tsc))
            known = description if since < tsc else None
            found.append(Entry(core, tsc, point["name"], known, size, value, _values(point["args"], args)))
        return found


def _values(described: list[tuple[str, int, int]], data: bytes) -> dict[str, int | str]:
    values: dict[str, int | str] = {}
    for name, kind, size in described:
        taken, data = data[:size], data[size:]
        assert len(taken) == size, f"argument {name} is cut off"
        values[name] = text(taken) if kind == STRING else int.from_bytes(taken, "little")
    return values
