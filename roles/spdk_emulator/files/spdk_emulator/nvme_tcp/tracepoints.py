"""What is recorded of the commands on a host's queue pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..framework.trace import tracing

if TYPE_CHECKING:
    from .host import HostQueue, Request

_SUBMIT, _COMPLETE = range(2)
_DWORD = 0xFFFFFFFF


def submitted(queue: HostQueue, request: Request, cid: int) -> None:
    """It is with the controller, or as good as."""
    if tracing.nvme_tcp is not None:
        low, high = request.low, request.high
        dwords = (low & _DWORD, low >> 32, high & _DWORD)
        args = (_context(request), cid, request.opcode, *dwords, queue.outstanding)
        tracing.nvme_tcp(_SUBMIT, queue.qid, 0, _object(queue, cid), *args)


def completed(queue: HostQueue, request: Request, cid: int, status: int) -> None:
    """It is over; ``status`` without the phase tag, which SPDK records with it."""
    if tracing.nvme_tcp is not None:
        args = (_context(request), cid, status << 1, queue.outstanding)
        tracing.nvme_tcp(_COMPLETE, queue.qid, 0, _object(queue, cid), *args)


def _context(request: Request) -> int:
    """A bdev's I/O, be it that several commands are one; else whatever is called at the end."""
    context = request.context
    return id(request.done if context is None else getattr(context, "io", context))


def _object(queue: HostQueue, cid: int) -> int:
    """A value for what has this identifier, which is no object here."""
    return id(queue) << 16 | cid
