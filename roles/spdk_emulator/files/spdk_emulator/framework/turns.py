"""The event loop's account: how often it went round, and whose work took how long.

A turn lasts from one return of the selector to the next. It is one poll of everything that SPDK would poll, as a turn
of a reactor is, only that the selector sleeps until there is something to do.
"""

from __future__ import annotations

import selectors
from collections import defaultdict
from time import perf_counter_ns as _now

APP_THREAD = 1
"""The identifier of the first thread, which serves JSON-RPC."""


class Account:
    """What there is of a thread's I/O."""

    __slots__ = ("turns", "busy")

    def __init__(self) -> None:
        self.turns = 0
        """Those with I/O of this thread."""
        self.busy = 0
        """Nanoseconds that nobody has fetched."""


class Turns:
    """A turn's time counts for the threads that did I/O in it, in equal parts; for the first thread where none did."""

    __slots__ = ("number", "working", "since", "without_io", "accounts")

    def __init__(self) -> None:
        self.number = 0
        self.working: set[int] = set()
        """Threads that did I/O in this turn, as far as it is over."""
        self.since = _now()
        """Up to when the account goes; not while the selector waits."""
        self.without_io = 0
        """Nanoseconds of turns without I/O that nobody has fetched."""
        self.accounts: dict[int, Account] = defaultdict(Account)
        """By thread."""

    def restart(self) -> int:
        """Now, where all accounts begin anew."""
        self.working.clear()
        self.without_io = 0
        self.accounts.clear()
        self.since = _now()
        return self.since

    def charge(self, over: int = 0) -> int:
        """Bring the account up to now, which it returns. ``over``: 1 at the end of a turn."""
        now = _now()
        if self.working:
            share = (now - self.since) // len(self.working)
            for thread in self.working:
                account = self.accounts[thread]
                account.busy += share
                account.turns += over
        else:
            self.without_io += now - self.since
        self.since = now
        return now

    def fetch(self, thread: int) -> int:
        """Nanoseconds for which a thread was busy since they were fetched last."""
        account = self.accounts[thread]
        busy, account.busy = account.busy, 0
        if thread == APP_THREAD:
            busy += self.without_io
            self.without_io = 0
        return busy


turns = Turns()
"""Of the event loop of this process."""
_wait = selectors.DefaultSelector.select


class Selector(selectors.DefaultSelector):
    """Counts the turns of a loop that waits with it."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        # Every turn comes through here, so it does without calls where there was no I/O.
        if turns.working:
            turns.charge(1)
        else:
            turns.without_io += _now() - turns.since
        events = _wait(self, timeout)
        turns.since = _now()
        turns.number += 1
        if turns.working and (events or timeout != 0):
            # Else this turn does what the last one has left to it, such as to send answers.
            turns.working.clear()
        return events
