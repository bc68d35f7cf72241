"""The host's side of one NVMe/TCP queue pair, without I/O: commands go in, buffers to send come out, and back.

A 4 KiB read has to cost as little as Python allows, for the whole data path runs in one thread. So a command is one
:class:`Request` and one :meth:`~struct.Struct.pack`, a completion is parsed where it was received, and read data is
copied once, from the receive buffer into the request's own buffers. Only that common case is handled here; PDUs with
digests, the connection's initialization and everything odd go through :mod:`.pdu`, which also knows all the errors.
"""

from __future__ import annotations

import mmap
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

from ..framework.trace import tracing
from . import tracepoints
from .nvme import (
    FABRICS_OPCODE,
    FUSED_FIRST,
    FUSED_SECOND,
    SGL_IN_CAPSULE,
    SGL_TRANSPORT,
    SQE_FLAGS,
    Completion,
    Fabrics,
    Sc,
)
from .pdu import (
    CONTROLLER,
    HOST,
    LAST_FLAG,
    PLAIN,
    R2T,
    SUCCESS_FLAG,
    Buffer,
    C2HData,
    CapsuleCmd,
    CapsuleResp,
    Decoder,
    Fes,
    Framing,
    H2CData,
    IcReq,
    IcResp,
    Kind,
    Pdu,
    ProtocolError,
    TermReq,
)

MAX_TRANSFER = 128 * 1024
"""The most data of one command, in bytes, whatever the controller would allow."""
RECEIVE_SIZE = 4 * MAX_TRANSFER

TO_CONTROLLER = 1
FROM_CONTROLLER = 2

_CAPSULE = struct.Struct("<BBBBIBBHI16xQI3xBQQ8x")
_SQE = struct.Struct("<BBHI16xQI3xBQQ8x")
_HEAD = struct.Struct("<BBBBIHHII")
_RESPONSE = struct.Struct("<BBBBIIIHHHH")
_SMALLEST = 24
"""Bytes of the smallest PDU that a controller sends."""
_TERM_REQ_LIMIT = 152
_DATA_OFFSET_FIELD = 12
_FINISHED = LAST_FLAG | SUCCESS_FLAG


class Request:
    """One command. ``low`` and ``high`` are its dwords 10, 11 and 12, 13; ``iov`` its data, ``length`` bytes in all.

    ``done(request, status, value)`` is called once: ``status`` as :class:`~.nvme.Sc` (and DO_NOT_RETRY), ``value`` is
    dwords 0 and 1 of the completion. ``context`` and ``retries`` belong to whoever made the request. For a fabrics
    command ``nsid`` is its type.
    """

    __slots__ = ("opcode", "nsid", "low", "high", "iov", "length", "done", "context", "retries", "moved", "damaged")
    flags = SQE_FLAGS
    second: Request | None = None
    """The second half of a fused operation, where this is the first."""

    def __init__(
        self,
        opcode: int,
        nsid: int,
        low: int,
        high: int,
        iov: list[Any],
        length: int,
        done: Callable[[Request, int, int], None],
        context: Any = None,
    ) -> None:
        self.opcode = opcode
        self.nsid = nsid
        self.low = low
        self.high = high
        self.iov = iov
        self.length = length
        self.done = done
        self.context = context
        self.retries = 0
        self.moved = 0
        self.damaged = False

    @property
    def may_fall_short(self) -> bool:
        """An authentication message may be shorter than the room for it; other data comes and goes as a whole."""
        return self.opcode == FABRICS_OPCODE and self.nsid == Fabrics.AUTHENTICATION_RECV

    @property
    def direction(self) -> int:
        """TO_CONTROLLER, FROM_CONTROLLER or 0, as the opcode says (NVMe base specification, 3.3.3.1)."""
        return (self.nsid if self.opcode == FABRICS_OPCODE else self.opcode) & 3


class SecondHalf(Request):
    """The second command of a fused operation; :attr:`Request.second` of the first."""

    __slots__ = ()
    flags = SQE_FLAGS | FUSED_SECOND


class FirstHalf(Request):
    """The first command of a fused operation. The second one is submitted with it."""

    __slots__ = ("second",)
    flags = SQE_FLAGS | FUSED_FIRST


def part(iov: list[Any], offset: int, length: int) -> list[memoryview]:
    """The buffers that hold ``length`` bytes from ``offset`` on."""
    views = []
    for buffer in iov:
        size = len(buffer)
        if offset < size:
            taken = min(size - offset, length)
            views.append(memoryview(buffer)[offset : offset + taken])
            length -= taken
            offset = 0
            if not length:
                break
        else:
            offset -= size
    return views


class HostQueue:
    """A queue pair: up to ``depth`` commands with the controller, any number that wait for their turn.

    ``out`` is what has to be sent; ``on_output`` is called when it was empty and no longer is. The owner receives into
    :meth:`receive_buffer` and says how much it was with :meth:`received`.
    """

    def __init__(
        self,
        depth: int,
        on_output: Callable[[], None],
        on_ready: Callable[[], None],
        header_digest: bool = False,
        data_digest: bool = False,
    ) -> None:
        self.depth = depth
        self.qid = 0
        """As its owner has connected it."""
        self.in_capsule = 8192
        """Bytes of data that a command capsule may carry: 8 KiB on the admin queue, else what IOCCSZ says."""
        self.max_h2c_data = 0
        self.out: list[Buffer] = []
        self.ready = False
        """The controller has answered the ICReq."""
        self.submitted = 0
        self.queued = 0
        self.receives = 0
        """Commands sent, commands that had to wait for their turn, pieces received."""
        self._on_output = on_output
        self._on_ready = on_ready
        self._wanted = (header_digest, data_digest)
        self._framing = PLAIN
        self._plain = False
        self._free = list(range(depth - 1, -1, -1))
        self._sent: list[Request | None] = [None] * depth
        self._waiting: deque[Request] = deque()
        self._decoder = Decoder(CONTROLLER, RECEIVE_SIZE)
        # Its pages come as they are used: each disk has a queue, and few of them ever need all of this.
        self._memory = mmap.mmap(-1, RECEIVE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._view = memoryview(self._memory)
        self._start = 0
        self._end = 0

    @property
    def outstanding(self) -> int:
        """Commands with the controller."""
        return self.depth - len(self._free)

    def in_flight(self) -> dict[int, Request]:
        """The commands with the controller, by identifier."""
        return {cid: request for cid, request in enumerate(self._sent) if request is not None}

    # To the controller

    def open(self) -> None:
        """Send the ICReq."""
        self._emit(IcReq(header_digest=self._wanted[0], data_digest=self._wanted[1]).encode())

    def submit(self, request: Request) -> None:
        if self._free and self.ready:
            self._send(request)
        else:
            self.queued += 1
            self._waiting.append(request)
        if request.second is not None:
            self.submit(request.second)

    def _send(self, request: Request) -> None:
        cid = self._free.pop()
        self.submitted += 1
        self._sent[cid] = request
        opcode, flags, nsid, length = request.opcode, request.flags, request.nsid, request.length
        if (nsid if opcode == FABRICS_OPCODE else opcode) & 3 == TO_CONTROLLER and length <= self.in_capsule:
            sgl, carried = SGL_IN_CAPSULE, length
        else:
            sgl, carried = SGL_TRANSPORT, 0
        request.moved = carried
        request.damaged = False
        if tracing.nvme_tcp is not None:
            tracepoints.submitted(self, request, cid)
        out = self.out
        if not out:
            self._on_output()
        if self._plain:
            offset = 72 if carried else 0
            low, high = request.low, request.high
            out.append(
                _CAPSULE.pack(4, 0, 72, offset, 72 + carried, opcode, flags, cid, nsid, 0, length, sgl, low, high)
            )
            if carried:
                out += request.iov
        else:
            sqe = _SQE.pack(opcode, flags, cid, nsid, 0, length, sgl, request.low, request.high)
            data = b"".join(request.iov) if carried else b""
            out += CapsuleCmd(sqe, data).encode(self._framing)

    def _emit(self, buffers: list[Buffer]) -> None:
        if not self.out:
            self._on_output()
        self.out += buffers

    def take_output(self) -> list[Buffer]:
        out, self.out = self.out, []
        return out

    def take_requests(self) -> list[Request]:
        """All requests without a completion, those sent first. The queue is of no use afterwards."""
        sent = [request for request in self._sent if request is not None]
        if tracing.nvme_tcp is not None:
            for cid, request in self.in_flight().items():
                self._free.append(cid)
                tracepoints.completed(self, request, cid, Sc.ABORTED_SQ_DELETION)
        waiting = list(self._waiting)
        self._sent = [None] * self.depth
        self._waiting.clear()
        self._free.clear()
        self.ready = False
        self.out.clear()
        return sent + waiting

    # From the controller

    def receive_buffer(self) -> memoryview:
        """Where the next bytes go. There is always room."""
        return self._view[self._end :]

    def received(self, count: int) -> None:
        """``count`` bytes are in the buffer. Raises :class:`~.pdu.ProtocolError`: the connection has to be ended."""
        self._end += count
        self.receives += 1
        start = self._start
        try:
            while self._end - start >= _SMALLEST:
                if not self._parse(start):
                    break
                start = self._start
        except ProtocolError as error:
            error.header = error.header or bytes(self._view[start : start + _SMALLEST])
            raise
        self._make_room()

    def _parse(self, start: int) -> bool:
        """One PDU, which begins at ``start``; false if it is not complete."""
        memory = self._memory
        kind, flags, hlen, offset, plen, cccid, _unused, data_offset, length = _HEAD.unpack_from(memory, start)
        if self._end - start < plen:
            if plen > RECEIVE_SIZE // 2:
                raise _refused(Fes.LIMIT_EXCEEDED, 0, f"{plen} bytes long, the limit is {RECEIVE_SIZE // 2}")
            return False
        if self._plain and hlen == _SMALLEST and plen >= _SMALLEST:
            if kind == Kind.CAPSULE_RESP and plen == _SMALLEST:
                self._start = start + plen
                *_unused, low, high, _unused, _unused, cid, status = _RESPONSE.unpack_from(memory, start)
                self._complete(cid, status >> 1, low | high << 32)
                return True
            if kind == Kind.C2H_DATA and offset >= _SMALLEST and offset + length == plen:
                request = self._sent[cccid] if cccid < self.depth else None
                if request is not None and request.moved == data_offset and request.direction == FROM_CONTROLLER:
                    end = start + plen
                    self._start = end
                    self._fill(request, length, self._view[start + offset : end])
                    if flags & _FINISHED == _FINISHED:
                        self._complete(cccid, 0, 0)
                    return True
        self._start = start + max(plen, _SMALLEST)
        self._odd(bytes(self._view[start : self._start]))
        return True

    def _make_room(self) -> None:
        start, end = self._start, self._end
        if start == end:
            self._start = self._end = 0
        elif start and end > RECEIVE_SIZE // 2:
            held = end - start
            self._memory[:held] = self._memory[start:end]
            self._start, self._end = 0, held

    def _odd(self, data: bytes) -> None:
        """A PDU that is not of the common kind, or that is wrong."""
        for pdu in self._decoder.feed(data):
            self._take(pdu)
        if self._decoder.pending:
            raise _refused(Fes.INVALID_HEADER_FIELD, 4, "its length is less than its header")

    def _take(self, pdu: Pdu) -> None:
        if isinstance(pdu, IcResp):
            self._begin(pdu)
        elif isinstance(pdu, CapsuleResp):
            completion = Completion.unpack(pdu.cqe)
            self._complete(completion.cid, completion.status, completion.value)
        elif isinstance(pdu, C2HData):
            request = self._request(pdu.cccid, FROM_CONTROLLER)
            if pdu.offset != request.moved:
                text = f"data from byte {pdu.offset} of command {pdu.cccid}, expected is byte {request.moved}"
                raise _refused(Fes.INVALID_HEADER_FIELD, _DATA_OFFSET_FIELD, text)
            self._fill(request, len(pdu.data), memoryview(pdu.data))
            request.damaged |= not pdu.data_digest_ok
            if pdu.last and pdu.success:
                self._complete(pdu.cccid, 0, 0)
        elif isinstance(pdu, R2T):
            self._send_data(pdu)
        elif isinstance(pdu, TermReq):
            raise ConnectionTerminated(pdu.fes, pdu.fei)

    def _begin(self, answer: IcResp) -> None:
        for name, wanted, given in zip(
            ("header", "data"), self._wanted, (answer.header_digest, answer.data_digest), strict=True
        ):
            if given and not wanted:
                text = f"ICResp: a {name} digest that was not asked for"
                raise _refused(Fes.INVALID_HEADER_FIELD, 11, text)
        self.max_h2c_data = answer.max_h2c_data
        if self.max_h2c_data < 4096:
            text = f"ICResp: MAXH2CDATA is {self.max_h2c_data}, the least allowed is 4096"
            raise _refused(Fes.INVALID_HEADER_FIELD, 12, text)
        self._framing = Framing(answer.header_digest, answer.data_digest, answer.alignment)
        self._decoder.framing = Framing(answer.header_digest, answer.data_digest)
        self._plain = self._framing == PLAIN
        self.ready = True
        self._on_ready()
        self._send_waiting()

    def _send_waiting(self) -> None:
        while self._waiting and self._free:
            self._send(self._waiting.popleft())

    def _request(self, cid: int, direction: int) -> Request:
        request = self._sent[cid] if cid < self.depth else None
        if request is None or request.direction != direction:
            raise _refused(Fes.INVALID_HEADER_FIELD, 8, f"command {cid} is none that it can belong to")
        return request

    def _fill(self, request: Request, length: int, data: memoryview) -> None:
        position = request.moved
        if position + length > request.length:
            text = f"{position + length} bytes of data, the command has {request.length}"
            raise _refused(Fes.DATA_OUT_OF_RANGE, 0, text)
        iov = request.iov
        request.moved = position + length
        if len(iov) == 1:
            iov[0][position : position + length] = data
            return
        done = 0
        for view in part(iov, position, length):
            size = len(view)
            view[:] = data[done : done + size]
            done += size

    def _send_data(self, pdu: R2T) -> None:
        """Answer an R2T."""
        request = self._request(pdu.cccid, TO_CONTROLLER)
        if pdu.offset != request.moved or not pdu.length:
            text = f"R2T from byte {pdu.offset} of command {pdu.cccid}, expected is byte {request.moved}"
            raise _refused(Fes.INVALID_HEADER_FIELD, _DATA_OFFSET_FIELD, text)
        end = pdu.offset + pdu.length
        if end > request.length:
            text = f"R2T up to byte {end} of command {pdu.cccid}, which has {request.length}"
            raise _refused(Fes.DATA_OUT_OF_RANGE, 0, text)
        position = pdu.offset
        while position < end:
            length = min(end - position, self.max_h2c_data)
            views = part(request.iov, position, length)
            data = views[0] if len(views) == 1 else b"".join(views)
            last = position + length == end
            self._emit(H2CData(pdu.cccid, pdu.ttag, position, data, last).encode(self._framing))
            position += length
        request.moved = end

    def _complete(self, cid: int, status: int, value: int) -> None:
        request = self._sent[cid] if cid < self.depth else None
        if request is None:
            raise _refused(Fes.INVALID_HEADER_FIELD, 8, f"completion of command {cid}, which was not sent")
        self._sent[cid] = None
        self._free.append(cid)
        if not status and (request.damaged or request.moved != request.length and not request.may_fall_short):
            # The data did not come or go as a whole: what the controller calls a success is none.
            status = Sc.TRANSIENT_TRANSPORT_ERROR
        if tracing.nvme_tcp is not None:
            tracepoints.completed(self, request, cid, status)
        request.done(request, status, value)
        if self._waiting:
            self._send_waiting()


def _refused(fes: Fes, fei: int, text: str) -> ProtocolError:
    """Its header is put in where it is known."""
    return ProtocolError(fes, fei, b"", f"PDU from the {CONTROLLER}: {text}")


class ConnectionTerminated(Exception):
    """The controller has sent a termination request."""

    def __init__(self, fes: int, fei: int) -> None:
        super().__init__(f"the {CONTROLLER} ends the connection: fatal error status {fes}, field at byte {fei}")


def termination(error: ProtocolError) -> list[Buffer]:
    """The termination request with which the host answers a fatal error."""
    return error.termination(HOST).encode()
