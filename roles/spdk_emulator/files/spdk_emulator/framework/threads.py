"""SPDK's threads: which there are, on which core each is, and what it polls.

The emulator is one event loop, whatever the mask of cores says. What a thread means here is who counts what: a queue
pair belongs to the thread of its poll group, a bdev has statistics for each thread that does I/O, a vhost controller
has a thread of its own. They are named, numbered and put on cores as SPDK does it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from . import cores

APP_THREAD = 1
"""The identifier of the first thread, which serves JSON-RPC."""


class Running:
    """Whose work the event loop does now. Who does another thread's than the first one's says so, and undoes it."""

    __slots__ = ("thread",)

    def __init__(self) -> None:
        self.thread = APP_THREAD


running = Running()


class Poller(NamedTuple):
    """What SPDK would call again and again. ``owner`` tells it from others of that name; ``period`` 0: all the time."""

    owner: Any
    name: str
    period: int = 0
    """Microseconds."""


@dataclass(eq=False)
class Thread:
    name: str
    number: int
    cpus: frozenset[int]
    core: int
    created: int = field(default_factory=time.perf_counter_ns)
    scheduled: int = field(default_factory=time.perf_counter_ns)
    """When it came to its core."""
    polled: dict[tuple[Any, str], int] = field(default_factory=dict)
    """Numbers of the pollers that were there when somebody asked."""
    last_poller: int = 0


class Threads:
    """All threads of a process, by identifier. The first one is there from the beginning, on the main core."""

    def __init__(self, mask: str = "0x1", main_core: int | None = None) -> None:
        """Raises ``ValueError`` for what is no mask of cores, none at all, or a main core that is not in it."""
        self.cores = sorted(cores.parse(mask))
        if not self.cores or main_core not in (None, *self.cores):
            raise ValueError(f"{mask!r} has no core{'' if main_core is None else f' {main_core}'}")
        self.main_core = self.cores[0] if main_core is None else main_core
        self._next_core = self.cores[0]
        self._threads: dict[int, Thread] = {}
        self._numbers = 0
        self._reactors: dict[int, list[Thread]] = {core: [] for core in self.cores}
        self._polled: list[Callable[[Thread], Iterable[Poller]]] = []
        self.create("app_thread", frozenset([self.main_core]))

    def __iter__(self) -> Iterator[Thread]:
        return iter(list(self._threads.values()))

    @property
    def cpus(self) -> frozenset[int]:
        """All cores of the process."""
        return frozenset(self.cores)

    def get(self, number: int) -> Thread | None:
        return self._threads.get(number)

    def on_core(self, core: int) -> list[Thread]:
        """Those that a reactor runs, in the order in which they came."""
        return self._reactors[core]

    def create(self, name: str, cpus: frozenset[int] | None = None) -> Thread:
        """On the next core, in turn, that ``cpus`` has; None: on any. An identifier is given once."""
        self._numbers += 1
        thread = Thread(name, self._numbers, self.cpus if cpus is None else cpus, self.main_core)
        self._threads[thread.number] = thread
        self._schedule(thread)
        return thread

    def exit(self, thread: Thread) -> None:
        del self._threads[thread.number]
        self._reactors[thread.core].remove(thread)

    def move(self, thread: Thread, cpus: frozenset[int]) -> None:
        """Let it be on one of these cores, at least one of which is the process's."""
        self._reactors[thread.core].remove(thread)
        thread.cpus = cpus
        self._schedule(thread)

    def _schedule(self, thread: Thread) -> None:
        for _unused in self.cores:
            thread.core = self._next_core
            self._next_core = self.cores[(self.cores.index(thread.core) + 1) % len(self.cores)]
            if thread.core in thread.cpus:
                break
        thread.scheduled = time.perf_counter_ns()
        self._reactors[thread.core].append(thread)

    # What is polled

    def add_pollers(self, polled: Callable[[Thread], Iterable[Poller]]) -> None:
        """``polled`` tells what a family of this process has on a thread, at this moment."""
        self._polled.append(polled)

    def pollers(self, thread: Thread) -> list[tuple[int, Poller]]:
        """With their numbers, each of which a thread gives once."""
        found = {poller[:2]: poller for polled in self._polled for poller in polled(thread)}
        numbers = {key: number for key, number in thread.polled.items() if key in found}
        for key in found:
            if key not in numbers:
                thread.last_poller += 1
                numbers[key] = thread.last_poller
        thread.polled = numbers
        return sorted(((number, found[key]) for key, number in numbers.items()), key=lambda each: each[0])
