"""A logical volume as a block device: where its clusters are, and how I/O finds them."""

from __future__ import annotations

import asyncio
import errno
import uuid as uuid_module
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..bdev.models import Bdev, BdevError, BdevIo, Op, Status
from ..bdev.transfer import copy, make_zero, transfer
from ..framework.trace import tracing

if TYPE_CHECKING:
    from .store import Store

READABLE = frozenset({Op.READ, Op.RESET})
WRITABLE = READABLE | {Op.WRITE, Op.WRITE_ZEROES, Op.UNMAP}
_TRACE_START, _TRACE_COMPLETE = range(2)
"""The bits of the tracepoints of ``blob``."""


@dataclass
class _Part:
    """The part of a request that is in one cluster, which is not allocated yet."""

    op: Op
    start: int
    length: int
    iov: list[memoryview]
    done: Callable[[int], None]


class Lvol(Bdev):
    """Its own clusters are at ``clusters[index]`` of the base; all others read as its parent's, else as zeroes."""

    product_name = "Logical Volume"
    module = "lvol"
    also_supported = frozenset({"seek_hole", "seek_data"})

    def __init__(self, store: Store, name: str, uuid: uuid_module.UUID, count: int, thin: bool) -> None:
        """``name``: within the store; that of the bdev is the UUID. ``count``: its size in clusters."""
        base = store.base.bdev
        self.cluster_size = store.geometry.cluster_size
        super().__init__(str(uuid), base.block_size, count * self.cluster_size // base.block_size, uuid)
        self.store = store
        self.lvol_name = name
        self.count = count
        self.thin = thin
        self.clear_method = "default"
        self.parent: Lvol | None = None
        self.clones: list[Lvol] = []
        self.has_had_clones = False
        """What makes a snapshot of it; a restart forgets a snapshot whose clones are gone, as in SPDK."""
        self.maps: list[int] = []
        """Its own in the table of the store; more of them only until a merge is done."""
        self.clusters: dict[int, int] = {}
        self.registered = False
        self.inflating = False
        self.aliases = [f"{store.name}/{name}"]
        self.numa_id = base.numa_id
        self.memory_domains = base.reachable_domains
        self.read_only = False
        self._running = 0
        self._closed = False
        self._held: deque[BdevIo] = deque()
        self._drained: asyncio.Future[None] | None = None
        self._exclusive = asyncio.Lock()
        self._being_copied = False
        self._filling: dict[int, deque[_Part]] = {}

    @property
    def is_snapshot(self) -> bool:
        return self.has_had_clones or bool(self.clones)

    def set_parent(self, parent: Lvol | None) -> None:
        if self.parent is not None:
            self.parent.clones.remove(self)
        self.parent = parent
        if parent is not None:
            parent.clones.append(self)
            parent.has_had_clones = True

    def place(self, index: int) -> int | None:
        """The cluster of the base that holds what is read there; None: zeroes."""
        lvol: Lvol | None = self
        while lvol is not None:
            found = lvol.clusters.get(index)
            if found is not None:
                return found
            lvol = lvol.parent
        return None

    def channels_changed(self) -> None:
        self.store.base.bdev.channels_changed()

    def admits(self, thread: int) -> bool:
        return self.store.base.bdev.admits(thread)

    # I/O

    def submit(self, io: BdevIo) -> None:
        if self._closed:
            self._held.append(io)
            return
        if self.read_only and io.op not in READABLE:
            io.complete(Status.INTERNAL_ERROR)
            return
        self._running += 1
        if tracing.blob is not None:
            self._trace(_TRACE_START, io)
        index, start = divmod(io.offset, self.cluster_size)
        if start + io.length <= self.cluster_size and io.op in (Op.READ, Op.WRITE):
            place = self.clusters.get(index)
            if place is not None:
                address = place * self.cluster_size + start
                self.store.base.io(io.op, address, io.length, io.iov, partial(self._done, io))
                return
        if io.op == Op.RESET:
            self._done(io, Status.SUCCESS)
        elif io.op == Op.UNMAP and self._frees(io):
            self.store.spawn(self._free(io))
            tracing.context = 0
        else:
            self._split(io)
            tracing.context = 0

    def _trace(self, bit: int, io: BdevIo) -> None:
        """What begins on the base now is for this I/O; the blobstore has no object of its own for it."""
        if tracing.blob is not None and io.op != Op.RESET:
            tracing.blob(bit, 0, 0, id(io), id(io), thread=io.thread)
            if bit == _TRACE_START:
                tracing.context = id(io)

    def _done(self, io: BdevIo, status: int) -> None:
        if tracing.blob is not None:
            self._trace(_TRACE_COMPLETE, io)
        self._leave()
        io.complete(status)

    def _leave(self) -> None:
        self._running -= 1
        if not self._running and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Nobody else does I/O: what comes is held, what runs is waited for."""
        async with self._exclusive:
            self._closed = True
            try:
                while self._running:
                    self._drained = asyncio.get_running_loop().create_future()
                    await self._drained
                yield
            finally:
                self._closed = False
                held, self._held = self._held, deque()
                for io in held:
                    self._submit_held(io)

    @contextmanager
    def copied(self) -> Iterator[None]:
        """One snapshot or clone of it is made at a time. Raises ``BdevError``: EBUSY for another one, as in SPDK."""
        if self._being_copied:
            raise BdevError(errno.EBUSY)
        self._being_copied = True
        try:
            yield
        finally:
            self._being_copied = False

    def _submit_held(self, io: BdevIo) -> None:
        """The lvol may be another one by now."""
        if self.removing:
            io.complete(Status.ABORTED)
        elif io.offset + io.length > self.size:
            io.complete(Status.LBA_OUT_OF_RANGE)
        else:
            self.submit(io)

    def _split(self, io: BdevIo) -> None:
        """Into runs that are one piece on the base, and clusters that have to be allocated."""
        left, worst = 1, int(Status.SUCCESS)

        def done(status: int) -> None:
            nonlocal left, worst
            left -= 1
            worst = worst or status
            if not left:
                self._done(io, worst)

        taken = 0
        for start, length, place in self._runs(io):
            iov = _cut(io.iov, taken, length) if io.iov else []
            taken += length
            left += 1
            if place is not None:
                self._pass_on(io.op, place, length, iov, done)
            elif io.op == Op.READ:
                for view in iov:
                    view[:] = bytes(len(view))
                done(Status.SUCCESS)
            elif io.op == Op.UNMAP:
                done(Status.SUCCESS)
            else:
                index, inside = divmod(start, self.cluster_size)
                self._fill(index, _Part(io.op, inside, length, iov, done))
        done(Status.SUCCESS)

    def _runs(self, io: BdevIo) -> list[tuple[int, int, int | None]]:
        """(offset in the lvol, length, address on the base); clusters without an address come one by one."""
        size, end = self.cluster_size, io.offset + io.length
        runs: list[tuple[int, int, int | None]] = []
        offset = io.offset
        while offset < end:
            index, start = divmod(offset, size)
            length = min(size - start, end - offset)
            place = self.place(index) if io.op == Op.READ else self.clusters.get(index)
            address = None if place is None else place * size + start
            if runs and address is not None and runs[-1][2] is not None and runs[-1][2] + runs[-1][1] == address:
                runs[-1] = (runs[-1][0], runs[-1][1] + length, runs[-1][2])
            else:
                runs.append((offset, length, address))
            offset += length
        return runs

    def _pass_on(self, op: Op, address: int, length: int, iov: list[memoryview], done: Callable[[int], None]) -> None:
        base = self.store.base
        if op in base.bdev.supported:
            base.io(op, address, length, iov, done)
        elif op == Op.WRITE_ZEROES:
            base.io(Op.WRITE, address, length, [memoryview(bytes(length))], done)
        else:
            done(Status.SUCCESS)  # unmapping is advice, and SPDK ends it here, too

    # Allocation: on the first write to a cluster

    def _fill(self, index: int, part: _Part) -> None:
        waiting = self._filling.get(index)
        if waiting is not None:
            waiting.append(part)
            return
        self._filling[index] = deque([part])
        self.store.spawn(self._allocate(index))

    async def touch(self, index: int) -> None:
        """Allocate a cluster with what is read there. Raises ``OSError``."""
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._running += 1
        self._fill(index, _Part(Op.READ, 0, 0, [], done.set_result))
        status = await done
        self._leave()
        if status != Status.SUCCESS:
            raise BdevError(errno.EIO)

    async def _allocate(self, index: int) -> None:
        """Data first, then the entry of the table, and only then is the write done: what was not answered may be lost,
        what was answered is there after a crash."""
        parts = self._filling[index]
        try:
            self.store.verify_page_for(self, index)
            place = self.store.take(1)[0]
        except OSError:
            self._fail(index)
            return
        try:
            await self._write_first(place * self.cluster_size, index, parts[0])
            await self.store.write_entries({place: (self.maps[0], index)})
        except OSError:
            self.store.give_back([place])
            self._fail(index)
            return
        self.clusters[index] = place
        del self._filling[index]
        parts.popleft().done(Status.SUCCESS)
        for part in parts:
            if part.length:
                self._pass_on(part.op, place * self.cluster_size + part.start, part.length, part.iov, part.done)
            else:
                part.done(Status.SUCCESS)

    def _fail(self, index: int) -> None:
        for part in self._filling.pop(index):
            part.done(Status.INTERNAL_ERROR)

    async def _write_first(self, address: int, index: int, part: _Part) -> None:
        """The whole cluster: this part, and around it what was read there until now."""
        base = self.store.base
        source = self.parent.place(index) if self.parent is not None else None
        end = part.start + part.length
        if part.op == Op.WRITE_ZEROES and source is None:
            await make_zero(base, address, self.cluster_size)
            return
        for start, stop in ((0, part.start), (end, self.cluster_size)):
            if source is None:
                await make_zero(base, address + start, stop - start)
            else:
                await copy(base, source * self.cluster_size + start, address + start, stop - start)
        if part.op == Op.WRITE_ZEROES:
            await make_zero(base, address + part.start, part.length)
        elif part.op == Op.WRITE:
            await transfer(base, Op.WRITE, address + part.start, part.length, part.iov)

    # Unmapping of whole clusters

    def _frees(self, io: BdevIo) -> bool:
        return self.thin and self.parent is None and not self.inflating and bool(self._whole(io))

    def _whole(self, io: BdevIo) -> dict[int, int]:
        """The clusters that a request covers: index and place."""
        first, last = -(-io.offset // self.cluster_size), (io.offset + io.length) // self.cluster_size
        return {index: self.clusters[index] for index in range(first, last) if index in self.clusters}

    async def _free(self, io: BdevIo) -> None:
        """Nobody may still write to a cluster that goes to another lvol, so I/O stands still."""
        self._leave()
        try:
            async with self.exclusive():
                if self.removing or self.read_only or not self._frees(io):
                    self._held.appendleft(io)
                    return
                freed = self._whole(io)
                await self.store.clear(freed.values(), "unmap")
                await self.store.write_entries(dict.fromkeys(freed.values()))
                for index in freed:
                    del self.clusters[index]
                self.store.give_back(freed.values())
        except OSError:
            self._trace(_TRACE_COMPLETE, io)
            io.complete(Status.INTERNAL_ERROR)
            return
        self._running += 1
        self._split(io)

    # What it says of itself

    def driver_specific(self) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "lvol_store_uuid": self.store.geometry.uuid,
            "base_bdev": self.store.base.bdev.name,
            "thin_provision": self.thin,
            "num_allocated_clusters": len(self.clusters),
            "snapshot": self.is_snapshot,
            "clone": self.parent is not None,
        }
        if self.parent is not None:
            answer["base_snapshot"] = self.parent.lvol_name
        if self.clones:
            answer["clones"] = [clone.lvol_name for clone in self.clones]
        answer["esnap_clone"] = False
        return {"lvol": answer}

    def destroy(self) -> None:
        self.registered = False
        self.store.lvol_closed()


def _cut(iov: list[memoryview], start: int, length: int) -> list[memoryview]:
    """A piece of what the views together hold."""
    cut = []
    for view in iov:
        if start >= len(view):
            start -= len(view)
            continue
        piece = memoryview(view)[start : start + length]
        cut.append(piece)
        length -= len(piece)
        start = 0
        if not length:
            break
    return cut
