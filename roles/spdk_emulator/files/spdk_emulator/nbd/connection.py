"""A client of an NBD disk: its connection, and its requests on their way to the bdev."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ..bdev.models import Op, Status
from .protocol import Command, ProtocolError, Request, Server

if TYPE_CHECKING:
    from .models import NbdDisk

log = logging.getLogger(__name__)

_OPS = {
    Command.READ: Op.READ,
    Command.WRITE: Op.WRITE,
    Command.FLUSH: Op.FLUSH,
    Command.TRIM: Op.UNMAP,
    Command.WRITE_ZEROES: Op.WRITE_ZEROES,
}
_ERRORS = {
    Status.SUCCESS: 0,
    Status.INVALID_OPCODE: errno.EINVAL,
    Status.INVALID_FIELD: errno.EINVAL,
    Status.LBA_OUT_OF_RANGE: errno.ENOSPC,
}


class Connection(asyncio.Protocol):
    """One client. Requests are answered as they are done, in any order."""

    def __init__(self, disk: NbdDisk) -> None:
        self._disk = disk
        self._server = Server(disk.export)
        self._transport: asyncio.Transport | None = None
        self._sending = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._disk.connected(self)
        self._send()

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        self._disk.disconnected(self)

    def data_received(self, data: bytes) -> None:
        try:
            requests = self._server.receive(data)
        except ProtocolError as error:
            log.warning("%s: a client was let go: %s", self._disk.path, error)
            self.close()
            return
        self._sending = True  # what is answered at once goes out together
        for request in requests:
            self._begin(request)
        self._sending = False
        self._send()
        if self._server.finished and self._transport is not None:
            self._transport.close()

    def pause_writing(self) -> None:
        """A client that does not take its answers gets no more of them begun."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        """End it, at once."""
        if self._transport is not None:
            self._transport.abort()

    def _begin(self, request: Request) -> None:
        op = _OPS.get(request.command)  # type: ignore[call-overload]
        if op is None or not (request.length or op is Op.FLUSH):
            self._server.reply(request.cookie, errno.EINVAL)
            return
        offset, length, buffer = request.offset, request.length, request.payload
        if op is Op.READ:
            buffer = bytearray(length)
        elif op is Op.FLUSH:
            offset, length = 0, self._disk.size
        done: Callable[[int], None] = partial(self._done, request.cookie, buffer if op is Op.READ else b"")
        self._disk.io(op, offset, length, [memoryview(buffer)] if buffer else [], done)

    def _done(self, cookie: int, data: bytes | bytearray, status: int) -> None:
        if self._transport is None:
            return
        error = _ERRORS.get(status, errno.EIO)  # type: ignore[call-overload]
        self._server.reply(cookie, error, b"" if error else data)
        if not self._sending:
            self._send()

    def _send(self) -> None:
        if self._transport is not None and self._server.outgoing:
            outgoing, self._server.outgoing = self._server.outgoing, bytearray()
            self._transport.write(outgoing)
