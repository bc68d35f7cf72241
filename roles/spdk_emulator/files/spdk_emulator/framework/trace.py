"""Tracepoints: which are switched on, and what is recorded of them.

Code that a tracepoint is in asks :data:`tracing` for its group, which is None as long as nothing is to be recorded:
that is all that tracing costs then.
"""

from __future__ import annotations

import logging
import os
import struct
import time
from collections.abc import Callable
from typing import Any, Protocol

from ..bdev.stats import TICK_RATE
from .threads import Thread, Threads, running
from .trace_file import TraceFile
from .tracepoints import ALL, GROUPS, MOST_GROUPS, OBJECT_PREFIXES, OWNER_PREFIXES, POINTS_OF_GROUP, Owner

log = logging.getLogger(__name__)

DEFAULT_ENTRIES = 32768
"""Of each core."""
_BITS = {group.name: group.bit for group in GROUPS}
_MOVE_THREAD = 3
_RECORDED = {name: _BITS[name] for name in ("bdev", "bdev_nvme", "blob", "nvme_tcp", "nvmf_tcp", "scheduler", "thread")}


class Recorder:
    """Entries of one group."""

    def __init__(self, traces: Traces, group: int) -> None:
        self._traces = traces
        self._group = group
        [tpoints] = [each.tpoints for each in GROUPS if each.bit == group]
        self._pack = {
            bit: struct.Struct("<" + "".join("Q" if arg.size == 8 else "I" for arg in tpoint.args)).pack
            for bit, tpoint in tpoints.items()
        }

    def __call__(self, bit: int, owner: int, size: int, value: int, *args: int, thread: int | None = None) -> None:
        """``owner``, ``size``, ``value`` (an object's) and arguments as the tracepoint has them; unless that is off.

        ``thread`` is who did it; None: whose work is done now.
        """
        if self._traces.masks[self._group] >> bit & 1:
            number = self._group * POINTS_OF_GROUP + bit
            self._traces.record(thread or running.thread, number, owner, size, value, self._pack[bit](*args))


class Channels(Protocol):
    """What is told of I/O channels."""

    def changed(self) -> None:
        """Some threads have others than before."""

    def used(self, bdev: Any, thread: int) -> None:
        """A thread has one to this bdev."""


class Tracing:
    """Where this process records now, by group. ``context`` is the object for which I/O is about to begin, if any."""

    __slots__ = (*_RECORDED, "bdev_io", "channels", "context", "traces")

    def __init__(self) -> None:
        self.stop()

    def stop(self) -> None:
        """There is nothing to record into."""
        self.bdev: Recorder | None = None
        self.bdev_nvme: Recorder | None = None
        self.blob: Recorder | None = None
        self.nvme_tcp: Recorder | None = None
        self.nvmf_tcp: Recorder | None = None
        self.scheduler: Recorder | None = None
        self.thread: Recorder | None = None
        self.bdev_io = False
        """I/O is recorded by bdevs, or by the modules of some."""
        self.channels: Channels | None = None
        """Who looks after the I/O channels of bdevs, as far as they are recorded."""
        self.context = 0
        self.traces: Traces | None = None
        """What is recorded into; None: there is no file."""

    def channels_changed(self) -> None:
        """Somebody has begun or ceased to use a bdev, or is about to."""
        if self.channels is not None:
            self.channels.changed()

    def add_owner(self, kind: Owner, description: str) -> int:
        """Who entries belong to; 0 where there is no file."""
        return self.traces.add_owner(kind, description) if self.traces is not None else 0

    def describe_owner(self, number: int, description: str) -> None:
        if number and self.traces is not None:
            self.traces.describe_owner(number, description)

    def remove_owner(self, number: int) -> None:
        if number and self.traces is not None:
            self.traces.remove_owner(number)


tracing = Tracing()


class Traces:
    """The masks of the groups, by bit, and the file."""

    def __init__(self, wanted: str | None = None, shm_id: int = -1, entries: int = DEFAULT_ENTRIES) -> None:
        """``wanted`` is what ``-e`` says. Raises ``ValueError`` for what names no tracepoints.

        Without ``entries`` there is no file, and nothing can be switched on.
        """
        self.masks = [0] * MOST_GROUPS
        self.entries = entries
        name = f"/spdk_tgt_trace.{shm_id if shm_id >= 0 else f'pid{os.getpid()}'}"
        self.path = f"/dev/shm{name if entries else ''}"
        """Where entries go."""
        self.switched: list[Callable[[], None]] = []
        """Called when something is switched on or off, and there is a file."""
        self._file: TraceFile | None = None
        self._threads: Threads | None = None
        self._thread_owners: dict[int, int] = {}
        self._last = 0
        for each in (wanted or "").split(","):
            self._enable(each)

    # The file

    def open(self, threads: Threads) -> None:
        """Make the file, as soon as the threads are known whose entries go there. Raises ``OSError``."""
        if not self.entries:
            return
        self._threads = threads
        try:
            self._file = TraceFile(self.path, self.entries, threads.cores, TICK_RATE)
            self._file.define_kinds(OWNER_PREFIXES, OBJECT_PREFIXES)
            for group in GROUPS:
                for bit, tpoint in group.tpoints.items():
                    self._file.define(group.bit * POINTS_OF_GROUP + bit, tpoint)
        except OSError as error:
            self.close()
            raise OSError(error.errno, f"the file of traces {self.path} cannot be made: {error.strerror}") from error
        tracing.traces = self
        [app_thread, *others] = threads
        self._add_thread(app_thread)
        for core in threads.cores:
            self.add_owner(Owner.REACTOR, f"reactor_{core}")
        for thread in others:
            self._add_thread(thread)
        threads.created.append(self._add_thread)
        threads.moving.append(self._move_thread)
        self._apply()

    def close(self) -> None:
        """The file stays if there is an entry in it, for ``spdk_trace`` to read."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if tracing.traces is self:
            tracing.stop()

    def _add_thread(self, thread: Thread) -> None:
        self._thread_owners[thread.number] = self.add_owner(Owner.THREAD, thread.name)

    def _move_thread(self, thread: Thread, core: int) -> None:
        if tracing.scheduler is not None and thread.core != core:
            owner = self._thread_owners[thread.number]
            tracing.scheduler(_MOVE_THREAD, owner, 0, 0, thread.core, core, thread=thread.number)

    def add_owner(self, kind: Owner, description: str) -> int:
        return self._file.add_owner(self._now(), kind, description) if self._file is not None else 0

    def describe_owner(self, number: int, description: str) -> None:
        if self._file is not None:
            self._file.describe_owner(number, description)

    def remove_owner(self, number: int) -> None:
        if self._file is not None:
            self._file.remove_owner(number)

    def forget(self) -> None:
        """Whoever reads the file sees no more of what is in it now."""
        if self._file is not None:
            self._file.clear(self._now())

    def record(self, thread: int, number: int, owner: int, size: int, value: int, args: bytes) -> None:
        assert self._file is not None and self._threads is not None
        found = self._threads.get(thread)
        core = self._threads.main_core if found is None else found.core
        self._file.record(core, self._now(), number, owner, size, value, args)

    def _now(self) -> int:
        """Never the same time twice: ``spdk_trace`` knows entries by their time."""
        self._last = max(time.perf_counter_ns(), self._last + 1)
        return self._last

    def _apply(self) -> None:
        """The masks are others: whoever reads the file is to see them, and who records is to know."""
        if self._file is None:
            return
        for group, mask in enumerate(self.masks):
            self._file.set_mask(group, mask)
        on = {name for name, bit in _RECORDED.items() if self.masks[bit]}
        try:
            if on:
                self._file.reserve()
        except OSError as error:
            log.error("nothing is recorded in %s: %s", self.path, error.strerror)
            on = set()
        for name, bit in _RECORDED.items():
            setattr(tracing, name, Recorder(self, bit) if name in on else None)
        tracing.bdev_io = bool(on & {"bdev", "bdev_nvme"})
        for switched in self.switched:
            switched()

    # The masks

    @property
    def group_mask(self) -> int:
        """The groups of which something is on."""
        return sum(1 << bit for bit, mask in enumerate(self.masks) if mask)

    def set(self, name: str, mask: int) -> None:
        """In one group; of ``all``, SPDK takes the last. Raises ``ValueError`` for another name."""
        group = _group_mask(name).bit_length() - 1
        self._switch(1 << group, self.masks[group] | mask)

    def clear(self, name: str, mask: int) -> None:
        group = _group_mask(name).bit_length() - 1
        self._switch(1 << group, self.masks[group] & ~mask)

    def switch(self, name: str, on: bool) -> None:
        """A whole group, or all. Raises ``ValueError`` for another name, and where there is no file."""
        if not self.entries:
            raise ValueError("there is no file of traces")
        self._switch(_group_mask(name), ALL if on else 0)

    def _switch(self, groups: int, mask: int) -> None:
        if not self.entries:
            return
        for bit in range(MOST_GROUPS):
            if groups >> bit & 1:
                self.masks[bit] = mask
        self._apply()

    def _enable(self, text: str) -> None:
        """``group``, ``group:mask`` or ``group:tracepoint+tracepoint``; a group may be a mask of groups."""
        group, colon, tpoints = text.partition(":")
        groups = _hexadecimal(group)
        if groups is None:
            groups = _group_mask(group)
        if not colon:
            self._switch(groups, ALL)
            return
        if groups.bit_count() != 1:
            raise ValueError(f"{text!r} has tracepoints of several groups, or of none")
        mask = _hexadecimal(tpoints)
        if mask is None:
            mask = sum(1 << _tpoint(groups.bit_length() - 1, name) for name in set(tpoints.split("+")))
        self._switch(groups, self.masks[groups.bit_length() - 1] | mask)


def _hexadecimal(text: str) -> int | None:
    try:
        return int(text, 16) if text else 0
    except ValueError:
        return None


def _group_mask(name: str) -> int:
    if name == "all":
        return sum(1 << bit for bit in _BITS.values())
    if name not in _BITS:
        raise ValueError(f"there is no group of tracepoints {name!r}")
    return 1 << _BITS[name]


def _tpoint(group_bit: int, wanted: str) -> int:
    for group in GROUPS:
        for bit, tpoint in group.tpoints.items():
            if group.bit == group_bit and tpoint.name.lower() == wanted.lower():
                return bit
    raise ValueError(f"there is no tracepoint {wanted!r}")
