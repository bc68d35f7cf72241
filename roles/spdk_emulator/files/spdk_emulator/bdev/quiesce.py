"""Work that needs a bdev for itself: compare and write, where the bdev cannot do both as one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .models import Bdev, BdevIo

Work = Callable[[Callable[[], None]], None]
"""Begins, and calls what it is given when it is done. Its own I/O goes to ``Bdev.enter``."""


class Quiesce:
    """What came to a bdev since somebody wants it alone, in order: I/O, and such work.

    SPDK locks the blocks in question only. This is simpler, and such work is rare.
    """

    def __init__(self, bdev: Bdev) -> None:
        self._bdev = bdev
        self._waiting: deque[BdevIo | Work] = deque()
        self._working = False
        self._advancing = False

    def add(self, item: BdevIo | Work) -> None:
        self._waiting.append(item)
        self.advance()

    def advance(self) -> None:
        """Let go what can: work once all I/O before it is done, I/O once no work is before it.

        The bdev has no ``Quiesce`` any more when nothing is left.
        """
        if self._advancing:
            return
        self._advancing = True
        while self._waiting and not self._working:
            item = self._waiting[0]
            if not callable(item):
                self._waiting.popleft()
                self._bdev.enter(item)
            elif self._bdev.outstanding:
                break
            else:
                self._waiting.popleft()
                self._working = True
                item(self._done)
        self._advancing = False
        if not self._waiting and not self._working:
            self._bdev.quiesced = None

    def _done(self) -> None:
        self._working = False
        self.advance()

    def abort(self, status: int) -> None:
        """Complete the I/O that waits with this status, for the bdev goes away; such work finds out by itself."""
        waiting, self._waiting = self._waiting, deque()
        for item in waiting:
            if callable(item):
                item(lambda: None)
            else:
                item.complete(status)
