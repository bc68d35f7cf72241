"""What is recorded of the target's queue pairs, and of the requests on them, by the states that they pass here."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from ..framework.trace import tracing
from ..framework.tracepoints import Owner

if TYPE_CHECKING:
    from .subsystem import Address


class _Bit(enum.IntEnum):
    NEW = 0x00
    NEED_BUFFER = 0x01
    HAVE_BUFFER = 0x02
    TRANSFER_TO_CONTROLLER = 0x05
    READY_TO_EXECUTE = 0x06
    EXECUTING = 0x07
    EXECUTED = 0x09
    READY_TO_COMPLETE = 0x0A
    TRANSFER_TO_HOST = 0x0B
    COMPLETED = 0x0D
    READ_DONE = 0x0F
    AWAIT_R2T = 0x10
    QUEUE_CREATE = 0x11
    QUEUE_SOCKET = 0x12
    QUEUE_STATE = 0x13
    QUEUE_DISCONNECT = 0x14
    QUEUE_DESTROY = 0x15
    QUEUE_ABORT = 0x16


class QueueState(enum.IntEnum):
    """SPDK's numbers."""

    NEW = 0
    INITIALIZING = 1
    RUNNING = 2
    EXITING = 3
    EXITED = 4


class QueueTrace:
    """Of one queue pair. ``thread`` is that of its poll group, ``value`` what its requests have in common."""

    __slots__ = ("_thread", "_value", "_owner", "_name", "_executing", "_exiting")

    def __init__(self, thread: int, value: int) -> None:
        self._thread = thread
        self._value = value
        self._owner = 0
        self._name = ""
        self._executing: set[int] = set()
        self._exiting = False

    # The queue pair

    def connected(self, peer: tuple[str, str]) -> None:
        """Its owner in the file of traces is there whether or not something is recorded."""
        self._name = ":".join(peer)
        self._owner = tracing.add_owner(Owner.NVMF_TCP_QUEUE, self._name)
        self._queue(_Bit.QUEUE_SOCKET)
        self._queue(_Bit.QUEUE_CREATE)
        self.changed(QueueState.NEW)

    def named(self, nqn: str, address: Address, qid: int) -> None:
        """Connect has told whose queue it is."""
        self._name += f" {nqn} {address.traddr}:{address.trsvcid} qid:{qid}"
        tracing.describe_owner(self._owner, self._name)

    def changed(self, state: QueueState) -> None:
        if tracing.nvmf_tcp is not None:
            tracing.nvmf_tcp(_Bit.QUEUE_STATE, self._owner, 0, 0, state, thread=self._thread)

    def disconnected(self) -> None:
        if not self._exiting:
            self._exiting = True
            self._queue(_Bit.QUEUE_DISCONNECT)
            self.changed(QueueState.EXITING)

    def destroyed(self) -> None:
        """No command is at work any more."""
        self.disconnected()
        if self._owner:
            self.changed(QueueState.EXITED)
            self._queue(_Bit.QUEUE_DESTROY)
            tracing.remove_owner(self._owner)
            self._owner = 0

    def read(self, size: int) -> None:
        self._queue(_Bit.READ_DONE, size)

    def aborting(self) -> None:
        """On behalf of the request that is being executed."""
        self._queue(_Bit.QUEUE_ABORT, value=tracing.context)

    def _queue(self, bit: _Bit, size: int = 0, value: int = 0) -> None:
        if tracing.nvmf_tcp is not None:
            tracing.nvmf_tcp(bit, self._owner, size, value, thread=self._thread)

    # Its requests, by slot

    def received(self, slot: int, depth: int, has_data: bool, to_controller: bool, in_capsule: bool) -> None:
        """``depth``: how many there are, this one included."""
        self._request(slot, _Bit.NEW, depth)
        if has_data:
            self._request(slot, _Bit.NEED_BUFFER)
            self._request(slot, _Bit.HAVE_BUFFER)
        if to_controller:
            self._request(slot, _Bit.TRANSFER_TO_CONTROLLER if in_capsule else _Bit.AWAIT_R2T)

    def ready(self, slot: int) -> None:
        """All its data is here, though maybe not the other half of a fused operation."""
        self._request(slot, _Bit.READY_TO_EXECUTE)

    def executing(self, slot: int) -> None:
        """I/O that begins now is for this request."""
        self._request(slot, _Bit.EXECUTING)
        self._executing.add(slot)
        tracing.context = self._object(slot)

    def finished(self, slot: int) -> None:
        """The host is about to be told."""
        if slot in self._executing:
            self._request(slot, _Bit.EXECUTED)
        self._request(slot, _Bit.READY_TO_COMPLETE)
        self._request(slot, _Bit.TRANSFER_TO_HOST)

    def completed(self, slot: int, depth: int) -> None:
        self._executing.discard(slot)
        self._request(slot, _Bit.COMPLETED, depth)

    def _request(self, slot: int, bit: _Bit, *args: int) -> None:
        if tracing.nvmf_tcp is not None:
            tracing.nvmf_tcp(bit, self._owner, 0, self._object(slot), *args, thread=self._thread)

    def _object(self, slot: int) -> int:
        """A value for what is in a slot, which is no object here."""
        return self._value << 16 | slot
