"""The PDUs of NVMe/TCP: what they look like, how they are written and how a stream of bytes is read back into them.

Nothing here does I/O. Both ends use it: the target reads with ``Decoder(HOST)``, the initiator with
``Decoder(CONTROLLER)``. The layouts are those of the NVMe/TCP transport specification, section 3.6.

A PDU's ``encode(framing)`` returns a list of buffers in wire order, so that a payload is never copied just to be put
behind its header. A decoder's payloads are views of the bytes that it was fed with.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Union

from .digests import crc32c

Buffer = Union[bytes, bytearray, memoryview]


class Kind(enum.IntEnum):
    IC_REQ = 0x00
    IC_RESP = 0x01
    H2C_TERM_REQ = 0x02
    C2H_TERM_REQ = 0x03
    CAPSULE_CMD = 0x04
    CAPSULE_RESP = 0x05
    H2C_DATA = 0x06
    C2H_DATA = 0x07
    R2T = 0x09


class Fes(enum.IntEnum):
    """Fatal error status of a termination request."""

    INVALID_HEADER_FIELD = 1
    SEQUENCE_ERROR = 2
    HEADER_DIGEST_ERROR = 3
    DATA_OUT_OF_RANGE = 4
    LIMIT_EXCEEDED = 5
    UNSUPPORTED_PARAMETER = 6


HOST = "host"
CONTROLLER = "controller"

HEADER_DIGEST_FLAG = 0x01
DATA_DIGEST_FLAG = 0x02
LAST_FLAG = 0x04
SUCCESS_FLAG = 0x08

DIGEST_SIZE = 4
COMMON_SIZE = 8
TERM_REQ_SIZE = 24
TERM_REQ_DATA_LIMIT = 128
MAX_ALIGNMENT = 31
"""The greatest CPDA and HPDA."""

FLAGS_OFFSET = 1
HLEN_OFFSET = 2
PDO_OFFSET = 3
PLEN_OFFSET = 4
PFV_OFFSET = 8
FES_OFFSET = 8
HPDA_OFFSET = 10
CCCID_OFFSET = 8
TTAG_OFFSET = 10
DATAL_OFFSET = 16

_COMMON = struct.Struct("<BBBBI")
_IC = struct.Struct("<BBBBIHBBI112x")
_TERM = struct.Struct("<BBBBIHI10x")
_DATA = struct.Struct("<BBBBIHHII4x")
_DIGEST = struct.Struct("<I")

_HEADER_SIZE = {
    Kind.IC_REQ: 128,
    Kind.IC_RESP: 128,
    Kind.H2C_TERM_REQ: TERM_REQ_SIZE,
    Kind.C2H_TERM_REQ: TERM_REQ_SIZE,
    Kind.CAPSULE_CMD: 72,
    Kind.CAPSULE_RESP: 24,
    Kind.H2C_DATA: 24,
    Kind.C2H_DATA: 24,
    Kind.R2T: 24,
}

_SENT_BY = {
    HOST: (Kind.IC_REQ, frozenset({Kind.H2C_TERM_REQ, Kind.CAPSULE_CMD, Kind.H2C_DATA})),
    CONTROLLER: (Kind.IC_RESP, frozenset({Kind.C2H_TERM_REQ, Kind.CAPSULE_RESP, Kind.C2H_DATA, Kind.R2T})),
}


class ProtocolError(Exception):
    """A fatal transport error: the receiver answers with a termination request of this ``fes`` and ``fei``.

    ``header`` is the header at fault, as far as it was looked at; :meth:`termination` puts it into the request.
    """

    def __init__(self, fes: Fes, fei: int, header: Buffer, text: str) -> None:
        super().__init__(text)
        self.fes = fes
        self.fei = fei if fes in (Fes.INVALID_HEADER_FIELD, Fes.UNSUPPORTED_PARAMETER) else 0
        self.header = bytes(header)

    def termination(self, by: str) -> TermReq:
        """The request with which ``by`` (HOST or CONTROLLER) ends the connection."""
        return TermReq(by, self.fes, self.fei, self.header[:TERM_REQ_DATA_LIMIT])


class Framing(NamedTuple):
    """What the ICReq and ICResp of a connection agreed about the PDUs that one side sends.

    ``alignment`` is CPDA or HPDA as on the wire: payloads begin at a multiple of ``(alignment + 1) * 4`` bytes.
    """

    header_digest: bool = False
    data_digest: bool = False
    alignment: int = 0


PLAIN = Framing()


def _with_digest(header: bytes, framing: Framing) -> bytes:
    return header + _DIGEST.pack(crc32c(header)) if framing.header_digest else header


def _data_offset(header_size: int, framing: Framing) -> int:
    """Where the payload of a PDU begins: behind header and digest, at the next multiple of the alignment."""
    offset = header_size + (DIGEST_SIZE if framing.header_digest else 0)
    step = (framing.alignment + 1) * 4
    return -(-offset // step) * step


def _frame(kind: Kind, flags: int, header_rest: bytes, data: Buffer, framing: Framing) -> list[Buffer]:
    """A PDU that may have a payload, as buffers in wire order."""
    header_size = COMMON_SIZE + len(header_rest)
    digest_size = DIGEST_SIZE if framing.header_digest else 0
    if framing.header_digest:
        flags |= HEADER_DIGEST_FLAG
    if not len(data):
        common = _COMMON.pack(kind, flags, header_size, 0, header_size + digest_size)
        return [_with_digest(common + header_rest, framing)]
    offset = _data_offset(header_size, framing)
    length = offset + len(data)
    if framing.data_digest:
        flags |= DATA_DIGEST_FLAG
        length += DIGEST_SIZE
    header = _with_digest(_COMMON.pack(kind, flags, header_size, offset, length) + header_rest, framing)
    buffers: list[Buffer] = [header.ljust(offset, b"\0"), data]
    if framing.data_digest:
        buffers.append(_DIGEST.pack(crc32c(data)))
    return buffers


@dataclass(slots=True)
class IcReq:
    """Initialize connection request. ``alignment`` is HPDA, ``max_r2t`` counts from zero."""

    kind: ClassVar[Kind] = Kind.IC_REQ
    version: int = 0
    alignment: int = 0
    header_digest: bool = False
    data_digest: bool = False
    max_r2t: int = 0

    def encode(self, framing: Framing = PLAIN) -> list[Buffer]:
        digests = self.header_digest | self.data_digest << 1
        return [_IC.pack(self.kind, 0, 128, 0, 128, self.version, self.alignment, digests, self.max_r2t)]


@dataclass(slots=True)
class IcResp:
    """Initialize connection response. ``alignment`` is CPDA, ``max_h2c_data`` is in bytes."""

    kind: ClassVar[Kind] = Kind.IC_RESP
    version: int = 0
    alignment: int = 0
    header_digest: bool = False
    data_digest: bool = False
    max_h2c_data: int = 131072

    def encode(self, framing: Framing = PLAIN) -> list[Buffer]:
        digests = self.header_digest | self.data_digest << 1
        return [_IC.pack(self.kind, 0, 128, 0, 128, self.version, self.alignment, digests, self.max_h2c_data)]


@dataclass(slots=True)
class TermReq:
    """A termination request; ``by`` is its sender, ``data`` the header that it complains about."""

    by: str
    fes: int
    fei: int = 0
    data: Buffer = b""

    @property
    def kind(self) -> Kind:
        return Kind.H2C_TERM_REQ if self.by == HOST else Kind.C2H_TERM_REQ

    def encode(self, framing: Framing = PLAIN) -> list[Buffer]:
        header = _TERM.pack(self.kind, 0, TERM_REQ_SIZE, 0, TERM_REQ_SIZE + len(self.data), self.fes, self.fei)
        return [header + bytes(self.data)]


@dataclass(slots=True)
class CapsuleCmd:
    """A submission queue entry of 64 bytes and its in-capsule data."""

    kind: ClassVar[Kind] = Kind.CAPSULE_CMD
    sqe: Buffer
    data: Buffer = b""
    data_digest_ok: bool = True

    def encode(self, framing: Framing = PLAIN) -> list[Buffer]:
        return _frame(self.kind, 0, bytes(self.sqe), self.data, framing)


@dataclass(slots=True)
class CapsuleResp:
    """A completion queue entry of 16 bytes."""

    kind: ClassVar[Kind] = Kind.CAPSULE_RESP
    cqe: Buffer

    def encode(self, framing: Framing = PLAIN) -> list[Buffer]:
        return _frame(self.kind, 0, bytes(self.cqe), b"", framing)


@dataclass(slots=True)
class H2CData:
    """A part of a write command's data, in answer to an R2T. ``offset`` counts from the command's first byte."""

    kind: ClassVar[Kind] = Kind.H2C_DATA
    cccid: int
    ttag: int
    offset: int
    data: Buffer
    last: bool = True
    data_digest_ok: bool = True

    def encode(self, framing: Framing = PLAIN) -> list[Buffer]:
        rest = struct.pack("<HHII4x", self.cccid, self.ttag, self.offset, len(self.data))
        return _frame(self.kind, LAST_FLAG if self.last else 0, rest, self.data, framing)


@dataclass(slots=True)
class C2HData:
    """A part of what a command returns. With ``success`` on the last part there is no completion: it was successful."""

    kind: ClassVar[Kind] = Kind.C2H_DATA
    cccid: int
    offset: int
    data: Buffer
    last: bool = True
    success: bool = False
    data_digest_ok: bool = True

    def encode(self, framing: Framing = PLAIN) -> list[Buffer]:
        rest = struct.pack("<HHII4x", self.cccid, 0, self.offset, len(self.data))
        flags = (LAST_FLAG if self.last else 0) | (SUCCESS_FLAG if self.success else 0)
        return _frame(self.kind, flags, rest, self.data, framing)


@dataclass(slots=True)
class R2T:
    """The controller asks for ``length`` bytes of a write command's data, from ``offset`` on."""

    kind: ClassVar[Kind] = Kind.R2T
    cccid: int
    ttag: int
    offset: int
    length: int

    def encode(self, framing: Framing = PLAIN) -> list[Buffer]:
        rest = struct.pack("<HHII4x", self.cccid, self.ttag, self.offset, self.length)
        return _frame(self.kind, 0, rest, b"", framing)


Pdu = Union[IcReq, IcResp, TermReq, CapsuleCmd, CapsuleResp, H2CData, C2HData, R2T]


class Decoder:
    """Makes PDUs out of the bytes that one side sends, however they are cut.

    ``sender`` is HOST or CONTROLLER. ``max_data`` bounds a payload, and with it the memory that a peer can make us
    hold. The owner sets :attr:`framing` when it has seen the ICReq or ICResp; :meth:`feed` is lazy so that this takes
    effect on the very next PDU. A wrong data digest is no fatal error: the PDU comes out with ``data_digest_ok`` false.
    """

    def __init__(self, sender: str, max_data: int = 131072) -> None:
        self.sender = sender
        self.max_data = max_data
        self.framing = PLAIN
        self.connected = False
        """The ICReq or ICResp was there."""
        self._first, self._later = _SENT_BY[sender]
        self._held: list[Buffer] = []
        self._held_size = 0
        self._wanted = COMMON_SIZE

    @property
    def pending(self) -> int:
        """Bytes of a PDU that is not complete yet."""
        return self._held_size

    def feed(self, data: Buffer) -> Iterator[Pdu]:
        """Yield every PDU that ``data`` completes. The caller must not change ``data`` afterwards.

        Raises :class:`ProtocolError`; the stream cannot be read any further then.
        """
        if self._held:
            self._held.append(data)
            self._held_size += len(data)
            if self._held_size < self._wanted:
                return
            data = b"".join(self._held)
            self._held.clear()
            self._held_size = 0
        view = memoryview(data)
        start, end = 0, len(data)
        while end - start >= COMMON_SIZE:
            kind, flags, hlen, pdo, plen = _COMMON.unpack_from(data, start)
            data_end = self._check_common(view[start : start + COMMON_SIZE], kind, flags, hlen, pdo, plen)
            if end - start < plen:
                self._wanted = plen
                break
            pdu = view[start : start + plen]
            start += plen
            yield self._decode(pdu, kind, flags, hlen, pdo, data_end)
        else:
            self._wanted = COMMON_SIZE
        if start < end:
            self._held.append(view[start:])
            self._held_size = end - start

    def _check_common(self, common: memoryview, kind: int, flags: int, hlen: int, pdo: int, plen: int) -> int:
        """Check what the first eight bytes say. Returns where the payload ends (0: there is none)."""

        def wrong(fes: Fes, fei: int, text: str) -> ProtocolError:
            # As long as it says it is, but never without the part that is known.
            header = bytes(common).ljust(hlen, b"\0")
            return ProtocolError(fes, fei, header, f"PDU type {kind:#04x} from the {self.sender}: {text}")

        if kind == self._first:
            if self.connected:
                raise wrong(Fes.SEQUENCE_ERROR, 0, "the connection is initialized already")
        elif not self.connected:
            raise wrong(Fes.SEQUENCE_ERROR, 0, "the connection is not initialized yet")
        elif kind not in self._later:
            raise wrong(Fes.INVALID_HEADER_FIELD, 0, "no type that it may send")
        header_size = _HEADER_SIZE[kind]  # type: ignore[index]
        if hlen != header_size:
            raise wrong(Fes.INVALID_HEADER_FIELD, HLEN_OFFSET, f"header length {hlen}, not {header_size}")
        if kind <= Kind.IC_RESP:
            if plen != header_size:
                raise wrong(Fes.INVALID_HEADER_FIELD, PLEN_OFFSET, f"length {plen}, not {header_size}")
            return 0
        if kind <= Kind.C2H_TERM_REQ:
            if not header_size < plen <= header_size + TERM_REQ_DATA_LIMIT:
                raise wrong(Fes.INVALID_HEADER_FIELD, PLEN_OFFSET, f"length {plen} is not within 25 to 152")
            return plen
        framing = self.framing
        if framing.header_digest:
            if not flags & HEADER_DIGEST_FLAG:
                raise wrong(Fes.INVALID_HEADER_FIELD, FLAGS_OFFSET, "no header digest though one was agreed")
            header_size += DIGEST_SIZE
        if plen == header_size and kind not in (Kind.H2C_DATA, Kind.C2H_DATA):
            return 0
        if plen < header_size or kind in (Kind.CAPSULE_RESP, Kind.R2T):
            raise wrong(Fes.INVALID_HEADER_FIELD, PLEN_OFFSET, f"length {plen}, header {header_size}")
        if pdo < header_size or pdo > plen or (framing.alignment and pdo % ((framing.alignment + 1) * 4)):
            raise wrong(Fes.INVALID_HEADER_FIELD, PDO_OFFSET, f"data offset {pdo} in {plen} bytes")
        data_end = plen
        if framing.data_digest and plen > pdo:
            if not flags & DATA_DIGEST_FLAG:
                raise wrong(Fes.INVALID_HEADER_FIELD, FLAGS_OFFSET, "no data digest though one was agreed")
            data_end -= DIGEST_SIZE
            if data_end < pdo:
                raise wrong(Fes.INVALID_HEADER_FIELD, PLEN_OFFSET, f"length {plen} leaves no room for the data digest")
        if data_end - pdo > self.max_data:
            raise wrong(Fes.LIMIT_EXCEEDED, 0, f"{data_end - pdo} bytes of data, the limit is {self.max_data}")
        return data_end

    def _decode(self, pdu: memoryview, kind: int, flags: int, hlen: int, pdo: int, data_end: int) -> Pdu:
        """One complete PDU, whose first eight bytes are good."""
        header = pdu[:hlen]
        if kind <= Kind.IC_RESP:
            *_unused, version, alignment, digests, last = _IC.unpack(header)
            if version:
                text = f"PDU format version {version}, not 0"
                raise ProtocolError(Fes.INVALID_HEADER_FIELD, PFV_OFFSET, header, text)
            if alignment > MAX_ALIGNMENT:
                text = f"data alignment {alignment} is more than {MAX_ALIGNMENT}"
                raise ProtocolError(Fes.INVALID_HEADER_FIELD, HPDA_OFFSET, header, text)
            self.connected = True
            made = IcReq if kind == Kind.IC_REQ else IcResp
            return made(version, alignment, bool(digests & 1), bool(digests & 2), last)
        if kind <= Kind.C2H_TERM_REQ:
            *_unused, fes, fei = _TERM.unpack(header)
            if self.sender == HOST and fes > Fes.UNSUPPORTED_PARAMETER:
                raise ProtocolError(Fes.INVALID_HEADER_FIELD, FES_OFFSET, header, f"unknown fatal error status {fes}")
            return TermReq(self.sender, fes, fei, pdu[hlen:])
        framing = self.framing
        if framing.header_digest and _DIGEST.unpack_from(pdu, hlen)[0] != crc32c(header):
            raise ProtocolError(Fes.HEADER_DIGEST_ERROR, 0, header, f"PDU type {kind:#04x}: wrong header digest")
        if data_end:
            data: Buffer = pdu[pdo:data_end]
            good = data_end == len(pdu) or _DIGEST.unpack_from(pdu, data_end)[0] == crc32c(data)
        else:
            data, good = b"", True
        if kind == Kind.CAPSULE_CMD:
            return CapsuleCmd(header[COMMON_SIZE:], data, good)
        if kind == Kind.CAPSULE_RESP:
            return CapsuleResp(header[COMMON_SIZE:])
        *_unused, cccid, ttag, offset, length = _DATA.unpack(header)
        if kind == Kind.R2T:
            return R2T(cccid, ttag, offset, length)
        if length != len(data):
            raise ProtocolError(
                Fes.INVALID_HEADER_FIELD, DATAL_OFFSET, header, f"data length {length}, but {len(data)} bytes are there"
            )
        last = bool(flags & LAST_FLAG)
        if kind == Kind.H2C_DATA:
            return H2CData(cccid, ttag, offset, data, last, good)
        return C2HData(cccid, offset, data, last, bool(flags & SUCCESS_FLAG), good)
