"""The server's side of the NBD protocol on one connection, without I/O: bytes in, requests and bytes out.

Source: NetworkBlockDevice/nbd, doc/proto.md: fixed newstyle negotiation, simple replies. Structured replies, TLS and
metadata contexts are refused as that document asks a server to that has none of them.
"""

from __future__ import annotations

import enum
import errno
import struct
from collections.abc import Callable
from typing import NamedTuple

INIT_MAGIC = b"NBDMAGIC"
OPTION_MAGIC = b"IHAVEOPT"
OPTION_REPLY_MAGIC = 0x0003E889045565A9
REQUEST_MAGIC = 0x25609513
REPLY_MAGIC = 0x67446698

FIXED_NEWSTYLE, NO_ZEROES = 1, 2
"""Handshake flags of the server; the client's have the same bits."""

MAX_OPTION = 64 * 1024
"""Bytes of an option; a client that says more is no client."""
MAX_PAYLOAD = 32 * 1024 * 1024
"""Bytes of one request."""

_OPTION = struct.Struct(">8sII")
_OPTION_REPLY = struct.Struct(">QIII")
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")


class ProtocolError(Exception):
    """The client speaks something else; the connection is of no more use."""


class Option(enum.IntEnum):
    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    INFO = 6
    GO = 7


class OptionReply(enum.IntEnum):
    ACK = 1
    SERVER = 2
    INFO = 3
    UNSUPPORTED = 0x80000001
    INVALID = 0x80000003
    UNKNOWN = 0x80000006


class Info(enum.IntEnum):
    EXPORT = 0
    BLOCK_SIZE = 3


class Flag(enum.IntFlag):
    """Transmission flags: what an export can do."""

    HAS_FLAGS = 1
    READ_ONLY = 2
    SEND_FLUSH = 4
    SEND_TRIM = 32
    SEND_WRITE_ZEROES = 64


class Command(enum.IntEnum):
    READ = 0
    WRITE = 1
    DISCONNECT = 2
    FLUSH = 3
    TRIM = 4
    WRITE_ZEROES = 6


class Export(NamedTuple):
    """What a client is told: bytes, bytes of a block, and the transmission flags."""

    name: str
    size: int
    block_size: int
    flags: int


class Request(NamedTuple):
    """``offset`` and ``length`` in bytes; ``payload`` of a WRITE, else empty. ``command`` may be an unknown number."""

    command: int
    cookie: int
    offset: int
    length: int
    payload: bytearray


class Server:
    """``export``: asked once for each option that wants to know it. What has to be sent gathers in ``outgoing``.

    ``finished``: the client has said that it goes.
    """

    def __init__(self, export: Callable[[], Export]) -> None:
        self._export = export
        self._received = bytearray()
        self._step: Callable[[], Request | bool | None] = self._read_flags
        self._no_zeroes = False
        self.finished = False
        self.outgoing = bytearray(INIT_MAGIC + OPTION_MAGIC + struct.pack(">H", FIXED_NEWSTYLE | NO_ZEROES))

    def receive(self, data: bytes) -> list[Request]:
        """The requests that are complete now. Raises :class:`ProtocolError`."""
        self._received += data
        requests = []
        while not self.finished and (step := self._step()):
            if isinstance(step, Request):
                requests.append(step)
        return requests

    def reply(self, cookie: int, error: int = 0, data: bytes | bytearray = b"") -> None:
        """Answer a request: an errno that NBD knows, or the data of a READ."""
        self.outgoing += _REPLY.pack(REPLY_MAGIC, error, cookie)
        self.outgoing += data

    # Negotiation

    def _take(self, length: int) -> bytearray:
        taken = self._received[:length]
        del self._received[:length]
        return taken

    def _read_flags(self) -> bool:
        if len(self._received) < 4:
            return False
        (flags,) = struct.unpack(">I", self._take(4))
        if flags & ~(FIXED_NEWSTYLE | NO_ZEROES):
            raise ProtocolError(f"unknown client flags {flags:#x}")
        self._no_zeroes = bool(flags & NO_ZEROES)
        self._step = self._read_option
        return True

    def _read_option(self) -> bool:
        if len(self._received) < _OPTION.size:
            return False
        magic, option, length = _OPTION.unpack_from(self._received)
        if magic != OPTION_MAGIC:
            raise ProtocolError(f"an option begins with {bytes(magic)!r}")
        if length > MAX_OPTION:
            raise ProtocolError(f"option {option} has {length} bytes")
        if len(self._received) < _OPTION.size + length:
            return False
        data = bytes(self._take(_OPTION.size + length)[_OPTION.size :])
        if option == Option.EXPORT_NAME:
            self._export_name(data)
        elif option in (Option.GO, Option.INFO):
            self._tell(option, data)
        elif option == Option.LIST and not data:
            name = self._export().name.encode()
            self._answer(option, OptionReply.SERVER, struct.pack(">I", len(name)) + name)
            self._answer(option, OptionReply.ACK)
        elif option == Option.ABORT:
            self._answer(option, OptionReply.ACK)
            self.finished = True
        else:
            self._answer(option, OptionReply.INVALID if option == Option.LIST else OptionReply.UNSUPPORTED)
        return True

    def _answer(self, option: int, kind: OptionReply, data: bytes = b"") -> None:
        self.outgoing += _OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, kind, len(data)) + data

    def _export_name(self, name: bytes) -> None:
        """The one option whose answer is no reply: the export, or an end of the connection."""
        export = self._export()
        if name not in (b"", export.name.encode()):
            raise ProtocolError(f"there is no export {name!r}")
        self.outgoing += struct.pack(">QH", export.size, export.flags)
        if not self._no_zeroes:
            self.outgoing += bytes(124)
        self._step = self._read_request

    def _tell(self, option: int, data: bytes) -> None:
        """INFO and GO: the export, its block sizes; with GO, requests come next."""
        if len(data) < 4:
            self._answer(option, OptionReply.INVALID)
            return
        (length,) = struct.unpack_from(">I", data)
        name, rest = data[4 : 4 + length], data[4 + length :]
        if len(name) < length or len(rest) < 2 or len(rest) != 2 + 2 * struct.unpack_from(">H", rest)[0]:
            self._answer(option, OptionReply.INVALID)
            return
        export = self._export()
        if name not in (b"", export.name.encode()):
            self._answer(option, OptionReply.UNKNOWN)
            return
        self._answer(option, OptionReply.INFO, struct.pack(">HQH", Info.EXPORT, export.size, export.flags))
        sizes = struct.pack(">HIII", Info.BLOCK_SIZE, export.block_size, max(export.block_size, 4096), MAX_PAYLOAD)
        self._answer(option, OptionReply.INFO, sizes)
        self._answer(option, OptionReply.ACK)
        if option == Option.GO:
            self._step = self._read_request

    # Transmission

    def _read_request(self) -> Request | bool:
        if len(self._received) < _REQUEST.size:
            return False
        magic, _flags, command, cookie, offset, length = _REQUEST.unpack_from(self._received)
        if magic != REQUEST_MAGIC:
            raise ProtocolError(f"a request begins with {magic:#x}")
        payload = length if command == Command.WRITE else 0
        if payload > MAX_PAYLOAD:
            raise ProtocolError(f"a write of {length} bytes")
        if len(self._received) < _REQUEST.size + payload:
            return False
        self._take(_REQUEST.size)
        if command == Command.DISCONNECT:
            self.finished = True
            return False
        data = self._take(payload) if payload else bytearray()
        if command == Command.READ and length > MAX_PAYLOAD:
            self.reply(cookie, errno.EINVAL)
            return True
        return Request(command, cookie, offset, length, data)
