"""An lvol store: its lvols, the clusters of its base bdev, and what of that is on the base bdev.

Why a crash at any moment loses nothing that was answered: a cluster belongs to an lvol if its entry in the table names
a map that the catalogue gives to the lvol. Entries of a map that no catalogue has yet are nothing (a new thick lvol),
so that one write of a catalogue, which is whole or counts for nothing, is what makes each change. A number is given to
a map once, so what is left in the table of a map that is gone stays nothing. Entries of a living map that have to go
(those cut off by a resize, those that a merge hides) go after the catalogue and, if a crash came between, when the
store is loaded.
"""

from __future__ import annotations

import asyncio
import errno
import heapq
import logging
import uuid as uuid_module
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

from ..bdev.models import Bdev, BdevError, BdevEvent, BdevRegistry, Descriptor, Op
from ..bdev.transfer import read, transfer, write_zeroes
from ..framework.threads import APP_THREAD
from .bdev import READABLE, WRITABLE, Lvol
from .layout import (
    ENTRY_BYTES,
    FREE,
    Geometry,
    catalogue_bytes,
    pack_catalogue,
    pack_entry,
    pack_header,
    unpack_catalogue,
    unpack_table,
)

log = logging.getLogger(__name__)

NAME_MAX = 63
CLEAR_METHODS = ("none", "unmap", "write_zeroes")
_CLUSTERS_PER_PAGE = 512
"""Clusters of an lvol for which SPDK takes one page of metadata."""

Spawn = Callable[[Coroutine[Any, Any, Any]], Any]


class Store:
    """All methods that change something raise ``BdevError``; EIO once metadata could not be written."""

    def __init__(
        self,
        bdevs: BdevRegistry,
        spawn: Spawn,
        base_name: str,
        geometry: Geometry,
        name: str,
        gone: Callable[[Store], None],
    ) -> None:
        """Opens the base. ``gone`` is called when the store has let go of it."""
        self.bdevs = bdevs
        self.spawn = spawn
        self.geometry = geometry
        self.name = name
        self.lvols: list[Lvol] = []
        self.base: Descriptor = bdevs.open(base_name, True, self._on_base_event, self._channels)
        self.size = 0
        """Clusters of the base, those of the metadata included."""
        self._gone = gone
        self._free: list[int] = []
        self._table = bytearray()
        self._dirty: set[int] = set()
        self._sequence = 0
        self._next_map = 1
        self._broken = False
        self._unloading = False
        self._claimed = False
        self._table_lock = asyncio.Lock()
        self._lock = asyncio.Lock()
        """Held by what changes the catalogue."""

    def _channels(self) -> set[int]:
        return {APP_THREAD, *(thread for lvol in self.lvols for thread in lvol.threads)}

    # From and to the base bdev

    async def format(self, clear_method: str) -> None:
        """Make it a new store. Raises ``BdevError``: EINVAL where the base keeps nothing of what is written (null)."""
        geometry = self.geometry
        page, size = geometry.page, geometry.cluster_size
        self._set_size(self.base.bdev.size // size)
        self._free = list(range(geometry.metadata_clusters, self.size))
        await write_zeroes(self.base, 0, page)
        if clear_method != "none":
            await self.clear(self._free, clear_method)
        await self._commit()
        header = pack_header(geometry)
        await transfer(self.base, Op.WRITE, 0, page, header)
        if await read(self.base, 0, page) != header:
            raise BdevError(errno.EINVAL)
        self._claim()

    async def load(self) -> None:
        """What a crash has left half done is completed. Raises ``BdevError`` where the metadata is not there."""
        geometry = self.geometry
        newest = await self._newest_catalogue()
        if newest is None or newest[1]["size"] * geometry.cluster_size > self.base.bdev.size:
            raise BdevError(errno.EILSEQ)
        self._sequence, catalogue = newest
        self.name = catalogue["name"]
        self._set_size(catalogue["size"])
        self._table[:] = await read(self.base, geometry.page, self._padded_table())
        self._next_map = catalogue["next_map"]
        self._make_lvols(catalogue["lvols"])
        self._find_clusters()
        self._claim()
        for lvol in self.lvols:
            await self._settle(lvol)

    def _claim(self) -> None:
        self.bdevs.claim(self.base, "lvol", "read_many_write_one")
        self._claimed = True

    async def _newest_catalogue(self) -> tuple[int, dict[str, Any]] | None:
        geometry, found = self.geometry, []
        for slot in (0, 1):
            place = geometry.slots + slot * geometry.slot
            length = catalogue_bytes(geometry, await read(self.base, place, geometry.page))
            catalogue = unpack_catalogue(geometry, await read(self.base, place, length))
            if catalogue is not None:
                found.append(catalogue)
        return max(found, key=lambda each: each[0], default=None)

    def _make_lvols(self, records: list[dict[str, Any]]) -> None:
        by_uuid: dict[str, Lvol] = {}
        for record in records:
            lvol = Lvol(self, record["name"], uuid_module.UUID(record["uuid"]), record["clusters"], record["thin"])
            lvol.read_only = record["read_only"]
            lvol.clear_method = record["clear_method"]
            lvol.maps = list(record["maps"])
            by_uuid[record["uuid"]] = lvol
            self.lvols.append(lvol)
        for record in records:
            if record["parent"] is not None:
                by_uuid[record["uuid"]].set_parent(by_uuid[record["parent"]])

    def _find_clusters(self) -> None:
        """By the table; of two maps of one lvol the first one's cluster counts."""
        owners = {number: (lvol, rank) for lvol in self.lvols for rank, number in enumerate(lvol.maps)}
        ranks: dict[tuple[Lvol, int], int] = {}
        for place, number, index in unpack_table(self.geometry, self._table[: self.size * ENTRY_BYTES]):
            self._next_map = max(self._next_map, number + 1)
            if number not in owners:
                continue
            lvol, rank = owners[number]
            if index < lvol.count and rank < ranks.get((lvol, index), len(lvol.maps)):
                ranks[lvol, index] = rank
                lvol.clusters[index] = place
        used = {place for lvol in self.lvols for place in lvol.clusters.values()}
        self._free = [place for place in range(self.geometry.metadata_clusters, self.size) if place not in used]

    async def _settle(self, lvol: Lvol) -> None:
        """In the table, let the lvol have what it has by its first map, and nothing else by any of its maps."""
        wanted = {place: index for index, place in lvol.clusters.items()}
        first, changes = lvol.maps[0], {}
        for place, number, index in unpack_table(self.geometry, self._table[: self.size * ENTRY_BYTES]):
            if number in lvol.maps and (number, index) != (first, wanted.get(place)):
                changes[place] = (first, wanted[place]) if place in wanted else None
        if changes:
            await self.write_entries(changes)
        lvol.maps = [first]

    def _set_size(self, clusters: int) -> None:
        self.size = clusters
        self._table.extend(bytes(self._padded_table() - len(self._table)))

    def _padded_table(self) -> int:
        page = self.geometry.page
        return -(-self.size * ENTRY_BYTES // page) * page

    async def write_entries(self, changes: dict[int, tuple[int, int] | None]) -> None:
        """{cluster of the base: (map, index) or None}. Many who write at the same time share one write.

        Raises ``BdevError`` (EIO).
        """
        page = self.geometry.page
        for place, owner in changes.items():
            start = place * ENTRY_BYTES
            entry = FREE if owner is None else pack_entry(self.geometry, place, *owner)
            self._table[start : start + ENTRY_BYTES] = entry
            self._dirty.add(start // page)
        async with self._table_lock:
            self._check()
            dirty, self._dirty = self._dirty, set()
            for first, count in _runs(dirty):
                data = self._table[first * page : (first + count) * page]
                await self._write_metadata(page + first * page, data)

    async def _commit(self) -> None:
        """The catalogue as it is in memory now."""
        self._check()
        catalogue = {
            "name": self.name,
            "size": self.size,
            "next_map": self._next_map,
            "lvols": [self._record(lvol) for lvol in self.lvols],
        }
        sequence = self._sequence + 1
        slot = self.geometry.slots + sequence % 2 * self.geometry.slot
        try:
            packed = pack_catalogue(self.geometry, sequence, catalogue)
        except BdevError:
            self._broken = True
            raise
        await self._write_metadata(slot, packed)
        self._sequence = sequence

    @staticmethod
    def _record(lvol: Lvol) -> dict[str, Any]:
        return {
            "name": lvol.lvol_name,
            "uuid": str(lvol.uuid),
            "clusters": lvol.count,
            "thin": lvol.thin,
            "read_only": lvol.read_only,
            "clear_method": lvol.clear_method,
            "parent": str(lvol.parent.uuid) if lvol.parent is not None else None,
            "maps": lvol.maps,
        }

    async def _write_metadata(self, place: int, data: bytes | bytearray) -> None:
        try:
            await transfer(self.base, Op.WRITE, place, len(data), data)
        except BdevError:
            if not self._broken:
                log.error("lvol store %s: its metadata cannot be written; it is left as it is", self.name)
            self._broken = True
            raise

    def _check(self) -> None:
        if self._broken:
            raise BdevError(errno.EIO)

    # Clusters of the base

    @property
    def free_clusters(self) -> int:
        return len(self._free)

    @property
    def total_data_clusters(self) -> int:
        return self.size - self.geometry.metadata_clusters

    def take(self, number: int) -> list[int]:
        """The lowest free clusters. Raises ``BdevError``: ENOSPC; EIO where metadata cannot be written any more."""
        self._check()
        if number > len(self._free):
            raise BdevError(errno.ENOSPC)
        return [heapq.heappop(self._free) for _unused in range(number)]

    def give_back(self, places: Iterable[int]) -> None:
        for place in places:
            heapq.heappush(self._free, place)

    async def clear(self, places: Iterable[int], method: str) -> None:
        """``default`` is ``unmap``, and a base that cannot unmap keeps what it has, as in SPDK."""
        size = self.geometry.cluster_size
        for first, count in _runs(places):
            if method == "write_zeroes":
                await write_zeroes(self.base, first * size, count * size)
            elif method != "none" and Op.UNMAP in self.base.bdev.supported:
                await transfer(self.base, Op.UNMAP, first * size, count * size)

    # The store

    async def rename(self, name: str) -> None:
        async with self._lock:
            self.name = name
            await self._commit()
            for lvol in self.lvols:
                self.bdevs.rename(lvol, lvol.aliases[0], f"{name}/{lvol.lvol_name}")

    async def grow(self) -> None:
        """To the size that the base has. Raises ``BdevError`` (ENOSPC) where that is less or more than can be."""
        async with self._lock:
            clusters = self.base.bdev.size // self.geometry.cluster_size
            most = max(self.size, min(self.geometry.growable_clusters, self.geometry.table_clusters))
            if not self.size <= clusters <= most:
                raise BdevError(errno.ENOSPC)
            new = range(self.size, clusters)
            if new:
                self._set_size(clusters)
                await self.write_entries(dict.fromkeys(new))
                await self._commit()
                self.give_back(new)

    async def destroy(self) -> None:
        """The store and all of its lvols, clones before what they are made of."""
        async with self._lock:
            self._check()
            self._unloading = True
            while self.lvols:
                lvol = next(lvol for lvol in reversed(self.lvols) if not lvol.clones)
                await self._unregister(lvol)
                await self.clear(lvol.clusters.values(), lvol.clear_method)
                lvol.set_parent(None)
                self.lvols.remove(lvol)
            await write_zeroes(self.base, 0, self.geometry.page)
            self.close()

    def close(self) -> None:
        if not self.base.closed:
            if self._claimed:
                self.bdevs.release(self.base)
            self._gone(self)
            self.base.close()

    def _on_base_event(self, event: BdevEvent, _base: Bdev) -> None:
        if event == BdevEvent.REMOVE:
            log.info("lvol store %s goes with its base bdev", self.name)
            self._unloading = self._broken = True
            for lvol in list(self.lvols):
                if lvol.registered and not lvol.removing:
                    self.bdevs.unregister(lvol)
            self.lvol_closed()

    def lvol_closed(self) -> None:
        """The last one lets the base go, where that is to go."""
        if self.base.bdev.removing and not any(lvol.registered for lvol in self.lvols):
            self.close()

    # Lvols

    def find(self, name: str) -> Lvol | None:
        return next((lvol for lvol in self.lvols if lvol.lvol_name == name), None)

    def verify_name(self, name: str) -> None:
        """Raises ``BdevError``: EINVAL, EEXIST."""
        if not 0 < len(name.encode()) <= NAME_MAX:
            raise BdevError(errno.EINVAL)
        if self.find(name) is not None or self.bdevs.find(f"{self.name}/{name}") is not None:
            raise BdevError(errno.EEXIST)

    def _pages(self, lvol: Lvol) -> int:
        """Of SPDK's metadata."""
        return 1 + len({index // _CLUSTERS_PER_PAGE for index in lvol.clusters})

    @property
    def _pages_left(self) -> int:
        return self.geometry.metadata_pages - 1 - sum(map(self._pages, self.lvols))

    def _verify_pages(self) -> None:
        """One for another lvol. Raises ``BdevError`` (ENOMEM) as SPDK answers where there is none left."""
        if self._pages_left < 1:
            raise BdevError(errno.ENOMEM)

    def verify_page_for(self, lvol: Lvol, index: int) -> None:
        """One for these 512 clusters, if it is the first of them. Raises ``BdevError`` (ENOSPC)."""
        first = index // _CLUSTERS_PER_PAGE * _CLUSTERS_PER_PAGE
        if any(other in lvol.clusters for other in range(first, first + _CLUSTERS_PER_PAGE)):
            return
        if self._pages_left < 1:
            raise BdevError(errno.ENOSPC)

    def _new_map(self) -> int:
        self._next_map += 1
        return self._next_map - 1

    def _clusters(self, size: int) -> int:
        return -(-size // self.geometry.cluster_size)

    async def create(self, name: str, size: int, thin: bool, clear_method: str) -> Lvol:
        self.verify_name(name)
        async with self._lock:
            self.verify_name(name)
            self._verify_pages()
            count = self._clusters(size)
            lvol = Lvol(self, name, uuid_module.uuid4(), count, thin)
            lvol.clear_method = clear_method
            lvol.maps = [self._new_map()]
            if not thin:
                await self._extend(lvol, range(count))
            self.lvols.append(lvol)
            await self._commit()
            self.show(lvol)
            return lvol

    async def _extend(self, lvol: Lvol, indexes: range) -> None:
        """With clusters that are nothing until the next commit. Raises ``BdevError`` (ENOSPC)."""
        first = -(-indexes.start // _CLUSTERS_PER_PAGE)
        new_pages = -(-indexes.stop // _CLUSTERS_PER_PAGE) - first
        if new_pages > self._pages_left - (lvol not in self.lvols):
            raise BdevError(errno.ENOSPC)
        places = self.take(len(indexes))
        await self.write_entries({place: (lvol.maps[0], index) for place, index in zip(places, indexes)})
        lvol.clusters.update(zip(indexes, places))

    def show(self, lvol: Lvol) -> None:
        """Make it a bdev that others see. What it says it can do stays as it is now, as in SPDK: one that is set read
        only later refuses writes when they come."""
        lvol.supported = READABLE if lvol.read_only else WRITABLE
        lvol.registered = True
        self.bdevs.register(lvol)

    async def snapshot(self, origin: Lvol, name: str) -> Lvol:
        self.verify_name(name)
        with origin.copied():
            return await self._snapshot(origin, name)

    async def _snapshot(self, origin: Lvol, name: str) -> Lvol:
        async with self._lock, origin.exclusive():
            self.verify_name(name)
            if origin.read_only:
                raise BdevError(errno.EINVAL)
            self._verify_pages()
            made = Lvol(self, name, uuid_module.uuid4(), origin.count, origin.thin)
            made.read_only = True
            made.clear_method = origin.clear_method
            made.maps, origin.maps = origin.maps, [self._new_map()]
            made.clusters, origin.clusters = origin.clusters, {}
            made.set_parent(origin.parent)
            origin.set_parent(made)
            origin.thin = True
            self.lvols.append(made)
            await self._commit()
            self.show(made)
            return made

    async def clone(self, snapshot: Lvol, name: str) -> Lvol:
        self.verify_name(name)
        with snapshot.copied():
            return await self._clone(snapshot, name)

    async def _clone(self, snapshot: Lvol, name: str) -> Lvol:
        async with self._lock:
            self.verify_name(name)
            if not snapshot.read_only:
                raise BdevError(errno.EINVAL)
            self._verify_pages()
            made = Lvol(self, name, uuid_module.uuid4(), snapshot.count, True)
            made.clear_method = snapshot.clear_method
            made.maps = [self._new_map()]
            made.set_parent(snapshot)
            self.lvols.append(made)
            await self._commit()
            self.show(made)
            return made

    async def rename_lvol(self, lvol: Lvol, name: str) -> None:
        """As in SPDK, the alias has changed even where the name may not."""
        async with self._lock:
            self.bdevs.rename(lvol, lvol.aliases[0], f"{self.name}/{name}")
            if lvol.lvol_name == name:
                return
            if self.find(name) is not None:
                raise BdevError(errno.EEXIST)
            if lvol.read_only:
                raise BdevError(errno.EPERM)
            lvol.lvol_name = name
            await self._commit()

    async def resize(self, lvol: Lvol, size: int) -> None:
        """Raises ``BdevError``: EPERM where it is read only, ENOSPC, EBUSY where it is in use and should shrink.

        SPDK answers EBUSY, too, but has cut the data off by then.
        """
        async with self._lock:
            count = self._clusters(size)
            if lvol.read_only:
                raise BdevError(errno.EPERM)
            if count == lvol.count:
                return
            if count < lvol.count and lvol.descriptors:
                raise BdevError(errno.EBUSY)
            async with lvol.exclusive():
                if count > lvol.count and not lvol.thin:
                    await self._extend(lvol, range(lvol.count, count))
                cut_off = {index: place for index, place in lvol.clusters.items() if index >= count}
                lvol.count = count
                await self._commit()
                for index in cut_off:
                    del lvol.clusters[index]
                if cut_off:
                    await self.write_entries(dict.fromkeys(cut_off.values()))
            await self._release(cut_off.values(), lvol.clear_method)
            self.bdevs.resize(lvol, count * self.geometry.cluster_size // lvol.block_size)

    async def _release(self, places: Iterable[int], clear_method: str) -> None:
        places = list(places)
        await self.clear(places, clear_method)
        self.give_back(places)

    async def set_read_only(self, lvol: Lvol) -> None:
        async with self._lock, lvol.exclusive():
            lvol.read_only = True
            await self._commit()

    async def delete(self, lvol: Lvol) -> None:
        """Raises ``BdevError``: EPERM where it has more than one clone. One clone takes over what it reads of it."""
        async with self._lock:
            if len(lvol.clones) > 1:
                raise BdevError(errno.EPERM)
            await self._unregister(lvol)
            self._check()
            clone = lvol.clones[0] if lvol.clones else None
            self.lvols.remove(lvol)
            if clone is None:
                lvol.set_parent(None)
                await self._commit()
                freed = list(lvol.clusters.values())
            else:
                async with clone.exclusive():
                    freed = await self._merge(lvol, clone)
            await self._release(freed, lvol.clear_method)

    async def _unregister(self, lvol: Lvol) -> None:
        """Until its last holder has let it go, and the last I/O is done."""
        gone = asyncio.get_running_loop().create_future()
        self.bdevs.unregister(lvol, lambda: gone.set_result(None))
        await gone
        async with lvol.exclusive():
            pass

    async def _merge(self, lvol: Lvol, clone: Lvol) -> list[int]:
        """Returns the clusters that nobody needs any more."""
        own = clone.maps[0]
        clone.maps = [own, *lvol.maps]
        freed: list[int] = []
        changes: dict[int, tuple[int, int] | None] = {}
        for index, place in lvol.clusters.items():
            if index < clone.count and index not in clone.clusters:
                clone.clusters[index] = place
                changes[place] = (own, index)
            else:
                freed.append(place)
                changes[place] = None
        clone.set_parent(lvol.parent)
        lvol.set_parent(None)
        await self._commit()
        await self.write_entries(changes)
        clone.maps = [own]
        return freed

    async def inflate(self, lvol: Lvol, everything: bool) -> None:
        """Give it own clusters: all (it is thick then), or those that its parent has itself, which it then leaves.

        Raises ``BdevError``: EINVAL where there is no parent to leave, ENOSPC.
        """
        async with self._lock:
            if not everything and lvol.parent is None:
                raise BdevError(errno.EINVAL)
            if not lvol.thin:
                return
            if len(self._missing(lvol, everything)) > self.free_clusters:
                raise BdevError(errno.ENOSPC)
            lvol.inflating = True
            try:
                while missing := self._missing(lvol, everything):
                    for index in missing:
                        await lvol.touch(index)
                async with lvol.exclusive():
                    parent = lvol.parent
                    lvol.set_parent(None if everything or parent is None else parent.parent)
                    lvol.thin = not everything
                    await self._commit()
            finally:
                lvol.inflating = False

    @staticmethod
    def _missing(lvol: Lvol, everything: bool) -> list[int]:
        if everything or lvol.parent is None:
            return [index for index in range(lvol.count) if index not in lvol.clusters]
        return [index for index in lvol.parent.clusters if index < lvol.count and index not in lvol.clusters]


def _runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(first, how many) of numbers that follow each other."""
    first = count = 0
    for number in sorted(numbers):
        if count and number == first + count:
            count += 1
            continue
        if count:
            yield first, count
        first, count = number, 1
    if count:
        yield first, count
