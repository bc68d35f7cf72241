"""Reservation commands at work: one at a time for each namespace, kept in its file, told to the hosts concerned."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ..nvme_tcp.nvme import Command, Io, Sc
from . import reservation_file
from .reservations import Outcome, Reservations

if TYPE_CHECKING:
    from ..bdev.models import Bdev
    from .connection import Connection
    from .controller import Controller

log = logging.getLogger(__name__)

ABORT_SECONDS = 10.0
"""How long a preemption waits for the commands of those that it preempts."""
_KEYS = {
    Io.RESERVATION_REGISTER: struct.Struct("<QQ"),
    Io.RESERVATION_ACQUIRE: struct.Struct("<QQ"),
    Io.RESERVATION_RELEASE: struct.Struct("<Q"),
}
"""The data of each command."""


class Reserving:
    """The reservations of one namespace. ``path`` is the file that keeps them through a loss of power, or None."""

    def __init__(self, nsid: int, bdev: Bdev, path: str | None) -> None:
        """Raises ``OSError``, ``ValueError``: what the file has cannot be had again."""
        self.path = path
        self.state = Reservations(can_persist=path is not None)
        self._nsid = nsid
        self._bdev = bdev
        self._waiting: deque[Callable[[], None]] = deque()
        """Commands in their order; the first is the one that is at work."""
        saved = None if path is None else reservation_file.load(path, bdev.uuid)
        if saved is not None:
            self.state.restore(saved)

    def execute(self, controller: Controller, command: Command, data: bytes, done: Callable[[int], None]) -> None:
        """Register, acquire or release; ``done`` gets the status, once those before it are done."""

        def begin() -> None:
            outcome = self._outcome(controller, command, data)
            status = outcome.status
            if outcome.changed and not self._save(always=command.opcode == Io.RESERVATION_REGISTER):
                status = Sc.INTERNAL_ERROR
            for kind, hosts in outcome.notices:
                if not self.state.notification_mask & 1 << kind:
                    for told in controller.subsystem.controllers_of_hosts(hosts):
                        told.reservation_changed(self._nsid, kind)
            queues = controller.subsystem.queues_of_hosts(outcome.preempted)
            self._when_ended(queues, lambda ended: finish(status if ended else Sc.COMMAND_INTERRUPTED))

        def finish(status: int) -> None:
            self._waiting.popleft()
            done(status)
            if self._waiting:
                asyncio.get_running_loop().call_soon(self._waiting[0])

        self._waiting.append(begin)
        if len(self._waiting) == 1:
            begin()

    def _outcome(self, controller: Controller, command: Command, data: bytes) -> Outcome:
        layout = _KEYS[Io(command.opcode)]
        if len(data) < layout.size:
            return Outcome(Sc.INVALID_FIELD)
        keys = layout.unpack_from(data)
        host = controller.host_id
        if command.opcode == Io.RESERVATION_REGISTER:
            return self.state.register(host, controller.cntlid, command.cdw10, *keys)
        if command.opcode == Io.RESERVATION_ACQUIRE:
            return self.state.acquire(host, command.cdw10, *keys)
        return self.state.release(host, command.cdw10, *keys)

    def _save(self, always: bool) -> bool:
        """Write the file where there is one and, unless ``always``, something is to be kept. False: it failed.

        At once, for the answer tells that it is kept; the file is small.
        """
        if self.path is None or not (always or self.state.persists):
            return True
        try:
            reservation_file.store(self.path, self._bdev.uuid, self.state.saved() if self.state.persists else None)
        except OSError as error:
            log.error("reservations of namespace %d are not kept: %s: %s", self._nsid, self.path, error.strerror)
            return False
        return True

    def _when_ended(self, queues: Iterable[Connection], done: Callable[[bool], None]) -> None:
        """``done(True)`` when the commands that these queues have at work on the namespace are over, now or later.

        ``done(False)`` where that takes too long.
        """
        left = 1
        timer: asyncio.TimerHandle | None = None

        def ended() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                if timer is not None:
                    timer.cancel()
                done(True)

        def too_late() -> None:
            nonlocal left
            left = 0
            done(False)

        for queue in queues:
            left += queue.watch(self._nsid, ended)
        if left > 1:
            timer = asyncio.get_running_loop().call_later(ABORT_SECONDS, too_late)
        ended()
