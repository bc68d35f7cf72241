"""The reservations of one namespace (base specification, 8.19): who is registered, who holds it, who may do what.

State alone: what follows of a command, such as notifications, is told in its :class:`Outcome`. Hosts are known by the
16 bytes of identifier with which they connected. What is answered is what SPDK's target answers, which differs from
the specification here and there: a preemption does not change the type of a reservation of all registrants, and
commands that it does not know of (Copy) never conflict.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from ..nvme_tcp import nvme
from ..nvme_tcp.nvme import Io, Sc

MOST_REGISTRANTS = 16


class Type(enum.IntEnum):
    NONE = 0
    WRITE_EXCLUSIVE = 1
    EXCLUSIVE_ACCESS = 2
    WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 3
    EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 4
    WRITE_EXCLUSIVE_ALL_REGISTRANTS = 5
    EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 6


class Registering(enum.IntEnum):
    """RREGA of Reservation Register."""

    REGISTER = 0
    UNREGISTER = 1
    REPLACE = 2


class Acquiring(enum.IntEnum):
    """RACQA of Reservation Acquire."""

    ACQUIRE = 0
    PREEMPT = 1
    PREEMPT_AND_ABORT = 2


class Releasing(enum.IntEnum):
    """RRELA of Reservation Release."""

    RELEASE = 0
    CLEAR = 1


class Notice(enum.IntEnum):
    """Types of reservation notifications. Bit ``1 << type`` of the notification mask suppresses one."""

    REGISTRATION_PREEMPTED = 1
    RESERVATION_RELEASED = 2
    RESERVATION_PREEMPTED = 3


class Persistence(enum.IntEnum):
    """CPTPL of Reservation Register: whether what is registered is to outlive a loss of power."""

    OFF = 2
    ON = 3


_HELD_BY_ALL = (Type.WRITE_EXCLUSIVE_ALL_REGISTRANTS, Type.EXCLUSIVE_ACCESS_ALL_REGISTRANTS)
_REGISTRANTS_ONLY = (Type.WRITE_EXCLUSIVE_REGISTRANTS_ONLY, Type.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY)
_HOLDER_ONLY = (Type.WRITE_EXCLUSIVE, Type.EXCLUSIVE_ACCESS)
_EXCLUSIVE_ACCESS = (
    Type.EXCLUSIVE_ACCESS,
    Type.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY,
    Type.EXCLUSIVE_ACCESS_ALL_REGISTRANTS,
)
_READS = (Io.READ, Io.COMPARE)
_WRITES = (Io.WRITE, Io.WRITE_ZEROES, Io.WRITE_UNCORRECTABLE, Io.DATASET_MANAGEMENT, Io.FLUSH)
_ACTION, _IGNORE_EXISTING_KEY = 0x7, 1 << 3
"""Of dword 10 of the commands that change something."""


@dataclass(eq=False)
class Registrant:
    """``cntlid`` is the controller by which the host registered; 0: it did so before the target was started."""

    host: UUID
    key: int
    cntlid: int = 0


class Outcome(NamedTuple):
    """What a command ends with. ``preempted``: the hosts whose commands have to end before it does."""

    status: int = Sc.SUCCESS
    changed: bool = False
    notices: tuple[tuple[Notice, list[UUID]], ...] = ()
    preempted: tuple[UUID, ...] = ()


class Saved(NamedTuple):
    """What outlives a loss of power. Registrants are pairs of key and host; no holder where all registrants are."""

    type: int
    key: int
    holder: UUID | None
    registrants: list[tuple[int, UUID]]


class Reservations:
    """``can_persist``: there is where to keep them through a loss of power."""

    def __init__(self, can_persist: bool = False) -> None:
        self.can_persist = can_persist
        self.persists = False
        self.type = 0
        self.key = 0
        self.holder: Registrant | None = None
        self.registrants: list[Registrant] = []
        self.generation = 0
        self.notification_mask = 0

    def find(self, host: UUID) -> Registrant | None:
        return next((registrant for registrant in self.registrants if registrant.host == host), None)

    @property
    def capabilities(self) -> int:
        """RESCAP of Identify Namespace."""
        persistence = nvme.RESCAP_PERSISTENCE if self.can_persist else 0
        return persistence | nvme.RESCAP_ALL_TYPES | nvme.RESCAP_IGNORE_EXISTING_KEY

    def forbids(self, host: UUID, opcode: int, dword10: int) -> bool:
        """The command conflicts with the reservation that there is."""
        if not self.type:
            return False
        registrant = self.find(host)
        if registrant is not None and self._holds(registrant):
            return False
        if opcode in _READS:
            if self.type not in _EXCLUSIVE_ACCESS:
                return False
        elif opcode in _WRITES:
            pass
        elif opcode == Io.RESERVATION_ACQUIRE:
            return registrant is None or dword10 & _ACTION == Acquiring.ACQUIRE
        else:
            return opcode == Io.RESERVATION_RELEASE and registrant is None
        return registrant is None or self.type in _HOLDER_ONLY

    # Commands

    def register(self, host: UUID, cntlid: int, dword10: int, key: int, new_key: int) -> Outcome:
        """Reservation Register (7.3)."""
        changed = False
        persistence = dword10 >> 30
        if persistence == Persistence.ON and not self.can_persist:
            return Outcome(Sc.INVALID_FIELD)
        if persistence in (Persistence.ON, Persistence.OFF):
            changed = self.persists != (persistence == Persistence.ON)
            self.persists = persistence == Persistence.ON
        action = dword10 & _ACTION
        registrant = self.find(host)
        keyed = registrant is not None and (bool(dword10 & _IGNORE_EXISTING_KEY) or registrant.key == key)
        if action == Registering.UNREGISTER:
            if registrant is None or not keyed:
                return Outcome(Sc.RESERVATION_CONFLICT, changed)
            return self._unregister(registrant)
        if action not in (Registering.REGISTER, Registering.REPLACE):
            return Outcome(Sc.INVALID_FIELD, changed)
        if new_key == 0 and (registrant is None or action == Registering.REPLACE):
            return Outcome(Sc.INVALID_FIELD, changed)
        if registrant is None:
            if action == Registering.REPLACE and not dword10 & _IGNORE_EXISTING_KEY:
                return Outcome(Sc.RESERVATION_CONFLICT, changed)
            if len(self.registrants) >= MOST_REGISTRANTS:
                return Outcome(Sc.INTERNAL_ERROR, changed)
            self.registrants.append(Registrant(host, new_key, cntlid))
            self.generation += 1
            return Outcome(changed=True)
        if registrant.key == new_key and (keyed or action == Registering.REGISTER):
            return Outcome(changed=changed)
        if action == Registering.REGISTER or not keyed:
            return Outcome(Sc.RESERVATION_CONFLICT, changed)
        registrant.key = new_key
        if self._holds(registrant):
            self.key = new_key
        return Outcome(changed=True)

    def _unregister(self, registrant: Registrant) -> Outcome:
        former = self.type
        self._remove(lambda each: each is registrant)
        released = former in _REGISTRANTS_ONLY and not self.type
        told = self._hosts() if released else []
        return Outcome(changed=True, notices=self._notices(Notice.RESERVATION_RELEASED, told))

    def acquire(self, host: UUID, dword10: int, key: int, preempted_key: int) -> Outcome:
        """Reservation Acquire (7.2)."""
        action, kind = dword10 & _ACTION, dword10 >> 8 & 0xFF
        if dword10 & _IGNORE_EXISTING_KEY or kind > max(Type):
            return Outcome(Sc.INVALID_FIELD)
        registrant = self.find(host)
        if registrant is None or registrant.key != key:
            return Outcome(Sc.RESERVATION_CONFLICT)
        if action == Acquiring.ACQUIRE:
            if self.holder is None:
                self.type, self.key, self.holder = kind, key, registrant
                return Outcome(changed=True)
            same = self._holds(registrant) and self.type == kind
            return Outcome(Sc.SUCCESS if same else Sc.RESERVATION_CONFLICT)
        if action not in (Acquiring.PREEMPT, Acquiring.PREEMPT_AND_ABORT):
            return Outcome(Sc.INVALID_FIELD)
        outcome = self._preempt(registrant, kind, preempted_key)
        return outcome if action == Acquiring.PREEMPT_AND_ABORT else outcome._replace(preempted=())

    def _preempt(self, by: Registrant, kind: int, key: int) -> Outcome:
        before = self._hosts(by)
        released = False
        if self.holder is None:
            self._remove(lambda each: each.key == key)
        elif self.type in _HELD_BY_ALL:
            if not key:
                self._remove(lambda each: each is not by)
            elif not self._remove(lambda each: each.key == key):
                return Outcome(Sc.RESERVATION_CONFLICT)
        elif key == self.key:
            released = True
            if self.holder is not by:
                self._remove(lambda each: each.key == key and each is not by)
            self.type, self.key, self.holder = kind, by.key, by
        elif key:
            self._remove(lambda each: each.key == key)
        else:
            return Outcome(Sc.RESERVATION_CONFLICT)
        remaining = self._hosts(by)
        gone = [host for host in before if host not in remaining]
        notices = self._notices(Notice.REGISTRATION_PREEMPTED, gone)
        notices += self._notices(Notice.RESERVATION_RELEASED, remaining if released else [])
        return Outcome(changed=True, notices=notices, preempted=tuple(gone))

    def release(self, host: UUID, dword10: int, key: int) -> Outcome:
        """Reservation Release (7.4)."""
        action, kind = dword10 & _ACTION, dword10 >> 8 & 0xFF
        if dword10 & _IGNORE_EXISTING_KEY:
            return Outcome(Sc.INVALID_FIELD)
        registrant = self.find(host)
        if registrant is None or registrant.key != key:
            return Outcome(Sc.RESERVATION_CONFLICT)
        others = self._hosts(registrant)
        if action == Releasing.CLEAR:
            self._remove(lambda each: True)
            return Outcome(changed=True, notices=self._notices(Notice.RESERVATION_PREEMPTED, others))
        if action != Releasing.RELEASE:
            return Outcome(Sc.INVALID_FIELD)
        if self.holder is None:
            return Outcome()
        if kind != self.type:
            return Outcome(Sc.INVALID_FIELD)
        if not self._holds(registrant):
            return Outcome()
        self._release()
        told = others if kind not in _HOLDER_ONLY else []
        return Outcome(changed=True, notices=self._notices(Notice.RESERVATION_RELEASED, told))

    def report(self) -> bytes:
        """What Reservation Report (7.5) tells, as the extended data structure."""
        status = nvme.RESERVATION_STATUS.pack(
            gen=self.generation, rtype=self.type, regctl=len(self.registrants), ptpls=self.persists
        )
        return status + b"".join(
            nvme.REGISTRANT.pack(
                cntlid=registrant.cntlid or nvme.DYNAMIC_CNTLID,
                rcsts=registrant is self.holder,
                rkey=registrant.key,
                hostid=registrant.host.bytes,
            )
            for registrant in self.registrants
        )

    # What outlives a loss of power

    def saved(self) -> Saved:
        holder = self.holder.host if self.holder and self.type and self.type not in _HELD_BY_ALL else None
        key = self.key if self.type else 0
        return Saved(self.type, key, holder, [(each.key, each.host) for each in self.registrants])

    def restore(self, saved: Saved) -> None:
        """Raises ``ValueError`` where no registrant has the reservation's key."""
        keys = [key for key, _unused in saved.registrants]
        if saved.key and saved.key not in keys:
            raise ValueError(f"the reservation has the key {saved.key:#x}, the registrants have {keys}")
        self.persists = True
        self.type, self.key = saved.type, saved.key
        self.registrants = [Registrant(host, key) for key, host in saved.registrants]
        if saved.type in _HELD_BY_ALL:
            self.holder = self.registrants[0]
        elif saved.key and saved.holder is not None:
            self.holder = self.find(saved.holder)

    # Parts of commands

    def _holds(self, registrant: Registrant) -> bool:
        return self.type in _HELD_BY_ALL or registrant is self.holder

    def _hosts(self, but: Registrant | None = None) -> list[UUID]:
        return [registrant.host for registrant in self.registrants if registrant is not but]

    @staticmethod
    def _notices(kind: Notice, hosts: list[UUID]) -> tuple[tuple[Notice, list[UUID]], ...]:
        return ((kind, hosts),) if hosts else ()

    def _remove(self, chosen: Callable[[Registrant], bool]) -> int:
        """Take registrants away, and the reservation with its holder; how many they were."""
        gone = [registrant for registrant in self.registrants if chosen(registrant)]
        for registrant in gone:
            self.registrants.remove(registrant)
            self.generation += 1
            if self.holder is None:
                continue
            if self.type in _HELD_BY_ALL and self.registrants:
                self.holder = self.registrants[0]
            elif self._holds(registrant):
                self._release()
        return len(gone)

    def _release(self) -> None:
        self.type, self.key, self.holder = 0, 0, None
