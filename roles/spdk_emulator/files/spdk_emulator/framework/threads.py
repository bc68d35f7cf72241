"""SPDK's threads: which there are, on which core each is, what it polls, and how busy it is.

The emulator is one event loop, whatever the mask of cores says. What a thread means here is who counts what: a queue
pair belongs to the thread of its poll group, a bdev has statistics for each thread that does I/O, a vhost controller
has a thread of its own. They are named, numbered and put on cores as SPDK does it.

What a thread polls is looked up, not registered: families tell what SPDK would have there at the moment. A poller runs
once in each turn of the loop, one with a period whenever that has passed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from . import cores
from .turns import APP_THREAD, turns


class Running:
    """Whose work the event loop does now. Who does another thread's than the first one's says so, and undoes it."""

    __slots__ = ("_thread",)

    def __init__(self) -> None:
        self._thread = APP_THREAD

    @property
    def thread(self) -> int:
        return self._thread

    @thread.setter
    def thread(self, number: int) -> None:
        self._thread = number
        if number != APP_THREAD:
            turns.working.add(number)


running = Running()


class Poller(NamedTuple):
    """What SPDK would call again and again. ``owner`` tells it from others of that name; ``period`` 0: all the time."""

    owner: Any
    name: str
    period: int = 0
    """Microseconds."""
    work: int | None = None
    """How many things it has done so far; None: it does whatever I/O its thread does, or nothing if it has a period."""


_ALWAYS_BUSY = {
    "rpc_subsystem_poll_servers",
    "bdev_channel_poll_qos",
    "bdev_nvme_hotplug",
    "bdev_nvme_remove_poller",
    "no_bdev_vdev_worker",
}
"""Pollers of SPDK that say each time that they had something to do."""


@dataclass(eq=False)
class Polled:
    """A poller that is there. Its counts never fall, whatever becomes of what they are computed from."""

    since: int
    turn: int
    worked: int
    """Turns in which its thread did I/O before."""
    work: int
    number: int = 0
    """0: nobody has asked yet."""
    run_count: int = 0
    busy_count: int = 0

    def count(self, poller: Poller, worked: int, now: int) -> None:
        """Bring the counts up to ``now``."""
        runs = (now - self.since) // (poller.period * 1000) if poller.period else turns.number - self.turn
        if poller.name in _ALWAYS_BUSY:
            busy = runs
        elif poller.work is not None:
            busy = poller.work - self.work
            if not poller.period:
                busy = min(busy, worked - self.worked)
        else:
            busy = 0 if poller.period else worked - self.worked
        self.run_count = max(self.run_count, runs)
        self.busy_count = max(self.busy_count, min(busy, self.run_count))

    def due(self, period: int) -> int:
        """When it runs next."""
        return self.since + (self.run_count + 1) * period * 1000


@dataclass(eq=False)
class Thread:
    name: str
    number: int
    cpus: frozenset[int]
    core: int
    scheduled: int = field(default_factory=time.perf_counter_ns)
    """When it came to its core."""
    polled: dict[tuple[Any, str], Polled] = field(default_factory=dict)
    """The pollers that were there at the last look."""
    last_poller: int = 0
    busy: int = 0
    """Nanoseconds, like ``idle``."""
    idle: int = 0


@dataclass(eq=False)
class Reactor:
    """A core and its threads, in the order in which they came."""

    threads: list[Thread] = field(default_factory=list)
    busy: int = 0
    """Nanoseconds, like ``idle``."""
    idle: int = 0


_LOOKS = 0.01
"""The share of the time that may be spent on looking which pollers there are."""


class Threads:
    """All threads of a process, by identifier. The first one is there from the beginning, on the main core."""

    def __init__(self, mask: str = "0x1", main_core: int | None = None, interrupt_mode: bool = False) -> None:
        """Raises ``ValueError`` for what is no mask of cores, none at all, or a main core that is not in it.

        ``interrupt_mode``: all counts and times are 0 for ever, as in SPDK, which takes them where it polls.
        """
        self.cores = sorted(cores.parse(mask))
        if not self.cores or main_core not in (None, *self.cores):
            raise ValueError(f"{mask!r} has no core{'' if main_core is None else f' {main_core}'}")
        self.main_core = self.cores[0] if main_core is None else main_core
        self._next_core = self.cores[0]
        self._threads: dict[int, Thread] = {}
        self._numbers = 0
        self.reactors = {core: Reactor() for core in self.cores}
        self._interrupt_mode = interrupt_mode
        self._settled = turns.restart()
        self._polled: list[Callable[[Thread], Iterable[Poller]]] = []
        self._look_planned = False
        self._look_took = 0.0
        self.created: list[Callable[[Thread], None]] = []
        """Called with each new thread."""
        self.moving: list[Callable[[Thread, int], None]] = []
        """Called with a thread that is about to get a core, and that core."""
        self.create("app_thread", frozenset([self.main_core]))

    def __iter__(self) -> Iterator[Thread]:
        return iter(list(self._threads.values()))

    @property
    def cpus(self) -> frozenset[int]:
        """All cores of the process."""
        return frozenset(self.cores)

    def get(self, number: int) -> Thread | None:
        return self._threads.get(number)

    def create(self, name: str, cpus: frozenset[int] | None = None) -> Thread:
        """On the next core, in turn, that ``cpus`` has; None: on any. An identifier is given once."""
        self.settle()
        self._numbers += 1
        thread = Thread(name, self._numbers, self.cpus if cpus is None else cpus, self._current_core)
        self._threads[thread.number] = thread
        for created in self.created:
            created(thread)
        self._schedule(thread)
        return thread

    def exit(self, thread: Thread) -> None:
        self.settle()
        del self._threads[thread.number]
        turns.accounts.pop(thread.number, None)
        self.reactors[thread.core].threads.remove(thread)

    def move(self, thread: Thread, cpus: frozenset[int]) -> None:
        """Let it be on one of these cores, at least one of which is the process's."""
        self.settle()
        self.reactors[thread.core].threads.remove(thread)
        thread.cpus = cpus
        self._schedule(thread)

    @property
    def _current_core(self) -> int:
        """Where the thread is whose work is done now."""
        thread = self._threads.get(running.thread)
        return self.main_core if thread is None else thread.core

    def _schedule(self, thread: Thread) -> None:
        core = self._next_core
        for _unused in self.cores:
            core = self._next_core
            self._next_core = self.cores[(self.cores.index(core) + 1) % len(self.cores)]
            if core in thread.cpus:
                break
        for moving in self.moving:
            moving(thread, core)
        thread.core = core
        thread.scheduled = time.perf_counter_ns()
        self.reactors[core].threads.append(thread)

    def settle(self) -> None:
        """Bring all times up to now. Time in which none of its threads is busy is a core's, in equal parts theirs."""
        if self._interrupt_mode or not self._threads:
            return
        now = turns.charge()
        passed, self._settled = now - self._settled, now
        for reactor in self.reactors.values():
            busy = 0
            for thread in reactor.threads:
                more = turns.fetch(thread.number)
                thread.busy += more
                busy += more
            idle = passed - busy
            reactor.busy += busy
            reactor.idle += idle
            for thread in reactor.threads:
                thread.idle += idle // len(reactor.threads)

    # What is polled

    def add_pollers(self, polled: Callable[[Thread], Iterable[Poller]]) -> None:
        """``polled`` tells what a family of this process has on a thread, at this moment."""
        self._polled.append(polled)

    def pollers(self, thread: Thread) -> list[tuple[Polled, Poller]]:
        """With their numbers, each of which a thread gives once, and their counts."""
        found = self._look_at(thread)
        now, worked = time.perf_counter_ns(), turns.accounts[thread.number].turns
        for key, polled in thread.polled.items():
            if not polled.number:
                thread.last_poller += 1
                polled.number = thread.last_poller
            if not self._interrupt_mode:
                polled.count(found[key], worked, now)
        return [(polled, found[key]) for key, polled in thread.polled.items()]

    def _look_at(self, thread: Thread) -> dict[tuple[Any, str], Poller]:
        """What the thread polls now. Those that were not there at the last look come now."""
        found: dict[tuple[Any, str], Poller] = {}
        for polled in self._polled:
            for poller in polled(thread):
                same = found.get(poller[:2])
                if same is not None and poller.work is not None:
                    poller = poller._replace(work=poller.work + (same.work or 0))
                found[poller[:2]] = poller
        now, worked = time.perf_counter_ns(), turns.accounts[thread.number].turns
        there = {key: polled for key, polled in thread.polled.items() if key in found}
        for key, poller in found.items():
            if key not in there:
                there[key] = Polled(now, turns.number, worked, poller.work or 0)
        thread.polled = there
        return found

    def look_soon(self) -> None:
        """Pollers may have come: look without delaying anything. A look goes through everything, so it serves many."""
        if not self._look_planned:
            self._look_planned = True
            asyncio.get_running_loop().call_later(self._look_took / _LOOKS, self.look)

    def look(self) -> None:
        """Pollers that have come count from now on."""
        self._look_planned = False
        began = time.perf_counter()
        for thread in self:
            self._look_at(thread)
        self._look_took = time.perf_counter() - began
