"""One TCP connection of a controller: a socket on one side, a :class:`~..nvme_tcp.host.HostQueue` on the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..nvme_tcp import host as protocol
from ..nvme_tcp.host import ConnectionTerminated, HostQueue, Request
from ..nvme_tcp.nvme import Sc
from ..nvme_tcp.pdu import ProtocolError

TIMEOUT = 10.0
"""Seconds for a connection and for the answer to a command that is no I/O; ``tcp_connect_timeout_ms`` changes it."""


@dataclass(frozen=True)
class Trid:
    """Where a controller is (SPDK's transport id). Strings as they were given in the JSON-RPC call."""

    trtype: str
    adrfam: str
    traddr: str
    trsvcid: str
    subnqn: str

    def as_json(self) -> dict[str, str]:
        fields = {"trtype": self.trtype, "adrfam": self.adrfam, "traddr": self.traddr, "trsvcid": self.trsvcid}
        return {name: value for name, value in {**fields, "subnqn": self.subnqn}.items() if value}


@dataclass(frozen=True)
class Host:
    """Who connects: its NQN, its 16 bytes of host identifier, and the local address to connect from (maybe empty)."""

    nqn: str
    identifier: bytes
    address: str = ""
    service: str = ""


class NvmeError(Exception):
    """A command failed. ``status`` as in :class:`~..nvme_tcp.nvme.Sc`, without the bits above the status code type."""

    def __init__(self, what: str, status: int) -> None:
        self.status = status & 0x7FF
        try:
            name = Sc(self.status).name
        except ValueError:
            name = "unknown"
        super().__init__(f"{what} failed with status {self.status:#05x} ({name})")


class Connection(asyncio.BufferedProtocol):
    """Everything submitted in one turn of the event loop leaves in one send.

    ``on_lost(reason)`` is called once when the connection ends without :meth:`close`. What was submitted and has no
    completion then gets ABORTED_SQ_DELETION.
    """

    def __init__(
        self,
        name: str,
        depth: int,
        digests: tuple[bool, bool],
        on_lost: Callable[[str], None],
        timeout: float = TIMEOUT,
    ) -> None:
        self.name = name
        self.timeout = timeout
        self.queue = HostQueue(depth, self._schedule, self._is_ready, *digests)
        self._loop = asyncio.get_running_loop()
        self._on_lost = on_lost
        self._transport: Any = None
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._ended = False

    @property
    def ended(self) -> bool:
        return self._ended

    def check(self) -> None:
        """Raises ``OSError`` where it has ended: its owner may have had no use for being told."""
        if self._ended:
            raise ConnectionAbortedError(f"{self.name}: closed meanwhile")

    async def open(self, trid: Trid, host: Host) -> None:
        """Connect and agree about the connection. Raises ``OSError``."""
        local = (host.address or None, int(host.service or 0)) if host.address or host.service else None
        try:
            async with asyncio.timeout(self.timeout):
                await self._loop.create_connection(lambda: self, trid.traddr, int(trid.trsvcid), local_addr=local)
                self.queue.open()
                await self._ready
        except TimeoutError:
            self.close()
            raise TimeoutError(f"{self.name}: no connection within {self.timeout:g} s") from None
        except BaseException:
            self.close()
            raise

    async def call(self, what: str, opcode: int, nsid: int = 0, low: int = 0, high: int = 0, data: Any = b"") -> int:
        """One command, ``data`` (bytes to send, or a bytearray to be filled) as its data; returns its dwords 0 and 1.

        Raises :class:`NvmeError`, or ``OSError`` where there is no answer; both name ``what`` was done.
        """
        answer: asyncio.Future[int] = self._loop.create_future()

        def done(request: Request, status: int, value: int) -> None:
            if answer.done():
                return
            if status:
                answer.set_exception(NvmeError(f"{self.name}: {what}", status))
            else:
                answer.set_result(value)

        self.submit(Request(opcode, nsid, low, high, [data] if data else [], len(data), done))
        try:
            async with asyncio.timeout(self.timeout):
                return await answer
        except TimeoutError:
            raise TimeoutError(f"{self.name}: {what}: no answer within {self.timeout:g} s") from None

    def submit(self, request: Request) -> None:
        if self._ended:
            request.done(request, Sc.ABORTED_SQ_DELETION, 0)
        else:
            self.queue.submit(request)

    def close(self) -> None:
        """End the connection now."""
        self._end()
        if self._transport is not None:
            self._transport.close()

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        if not self._ready.done():
            # No cancellation: that would end the task which opens, and whoever waits for it would wait for ever.
            self._fail(f"{self.name}: closed before it was open")
        for request in self.queue.take_requests():
            request.done(request, Sc.ABORTED_SQ_DELETION, 0)

    def _fail(self, text: str) -> None:
        self._ready.set_exception(ConnectionAbortedError(text))
        self._ready.exception()  # seen, if nobody waits for it any more

    def _is_ready(self) -> None:
        if not self._ready.done():
            self._ready.set_result(None)

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if self._ended:
            self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.queue.receive_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        if self._ended:
            return
        try:
            self.queue.received(nbytes)
        except ProtocolError as error:
            self._transport.writelines(protocol.termination(error))
            self._lose(str(error))
        except ConnectionTerminated as error:
            self._lose(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(str(exc) if exc else "the controller has closed the connection")

    def _lose(self, reason: str) -> None:
        if self._ended:
            return
        if not self._ready.done():
            self._fail(f"{self.name}: {reason}")
            self._transport.close()
            self._end()
            return
        self._transport.close()
        # First the owner: it has to know that this way is closed before it gets the requests back.
        self._on_lost(reason)
        self._end()

    def _schedule(self) -> None:
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        out = self.queue.take_output()
        if out and not self._ended:
            self._transport.writelines(out)
