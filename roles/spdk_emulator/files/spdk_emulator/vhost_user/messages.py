"""The messages of the vhost-user protocol that a virtio-blk back end exchanges with its front end (QEMU).

A message is a 12-byte header (request, flags, payload size), a payload and maybe file descriptors, which travel with
the header's first byte. :class:`Reader` puts messages together from what a stream socket gives, in any pieces; the
``decode_*`` functions turn payloads into values and refuse what is not well formed with :class:`ProtocolError`; the
``encode_*`` functions make what goes back. Source: QEMU's "Vhost-user Protocol" document.
"""

from __future__ import annotations

import enum
import os
import struct
from typing import NamedTuple

VERSION = 0x1
"""The protocol version, in the low two bits of ``flags``."""
FLAG_REPLY = 0x4
FLAG_NEED_REPLY = 0x8

MAX_PAYLOAD = 4096
"""No message that is understood here comes near it."""
MAX_FDS = 8
"""As many memory regions as one SET_MEM_TABLE can carry."""
MAX_CONFIG = 256
"""The size of the largest device configuration space that the protocol carries."""


class Request(enum.IntEnum):
    """What the front end asks."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SET_BACKEND_REQ_FD = 21
    GET_CONFIG = 24
    SET_CONFIG = 25
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32


class BackendRequest(enum.IntEnum):
    """What the back end says on its own channel."""

    CONFIG_CHANGE = 2


class ProtocolFeature(enum.IntFlag):
    """Bits of GET_PROTOCOL_FEATURES."""

    MQ = 1 << 0
    REPLY_ACK = 1 << 3
    BACKEND_REQ = 1 << 5
    CONFIG = 1 << 9
    INFLIGHT_SHMFD = 1 << 12


F_PROTOCOL_FEATURES = 1 << 30
"""The bit among the virtio features that says: protocol features can be negotiated."""

HEADER = struct.Struct("<III")
U64 = struct.Struct("<Q")
_PAIR = struct.Struct("<II")
_VRING_ADDRESS = struct.Struct("<IIQQQQ")
_REGION = struct.Struct("<QQQQ")
_CONFIG = struct.Struct("<III")
_INFLIGHT = struct.Struct("<QQHH")

_VRING_INDEX_MASK = 0xFF
_VRING_NO_FD = 0x100


class ProtocolError(Exception):
    """The peer sent something that is not vhost-user, or that contradicts itself. The connection cannot go on."""


class Message(NamedTuple):
    request: int
    flags: int
    payload: bytes
    fds: list[int]
    """Whoever handles the message owns them; :func:`close_fds` is for those that nobody took."""


class VringState(NamedTuple):
    index: int
    value: int


class VringAddress(NamedTuple):
    """Where a ring's three parts are, as addresses in the front end's own virtual memory."""

    index: int
    descriptors: int
    used: int
    available: int


class VringFd(NamedTuple):
    index: int
    fd: int | None


class MemoryRegion(NamedTuple):
    guest_address: int
    size: int
    user_address: int
    """Where the front end has it mapped."""
    offset: int
    """Where it begins in its file."""
    fd: int


class ConfigRange(NamedTuple):
    offset: int
    size: int
    flags: int


class InflightRegion(NamedTuple):
    size: int
    offset: int
    queues: int
    queue_size: int


def close_fds(fds: list[int]) -> None:
    """Close all of them and empty the list."""
    while fds:
        os.close(fds.pop())


class Reader:
    """Puts messages together. Read :attr:`wanted` bytes at most, so that descriptors stay with their message."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._fds: list[int] = []
        self._need = HEADER.size

    @property
    def wanted(self) -> int:
        return self._need - len(self._data)

    def feed(self, data: bytes, fds: list[int]) -> Message | None:
        """Take what was read; the message, if this completes one. Raises :class:`ProtocolError`."""
        self._fds += fds
        self._data += data
        if len(self._fds) > MAX_FDS:
            raise ProtocolError(f"a message came with {len(self._fds)} file descriptors; at most {MAX_FDS} are allowed")
        if len(self._data) < self._need:
            return None
        request, flags, size = HEADER.unpack_from(self._data)
        if self._need == HEADER.size:
            if flags & 0x3 != VERSION:
                raise ProtocolError(f"request {request} has protocol version {flags & 0x3}; {VERSION} is spoken here")
            if size > MAX_PAYLOAD:
                raise ProtocolError(f"request {request} announces {size} bytes; at most {MAX_PAYLOAD} are allowed")
            self._need += size
            if size:
                return None
        message = Message(request, flags, bytes(self._data[HEADER.size :]), self._fds)
        self._data, self._fds, self._need = bytearray(), [], HEADER.size
        return message

    def close(self) -> None:
        """Close descriptors of a message that was never completed."""
        close_fds(self._fds)


def _unpack(layout: struct.Struct, payload: bytes, what: str) -> tuple[int, ...]:
    if len(payload) < layout.size:
        raise ProtocolError(f"{what} is {len(payload)} bytes long; {layout.size} are needed")
    return layout.unpack_from(payload)


def decode_u64(payload: bytes) -> int:
    return _unpack(U64, payload, "a 64-bit number")[0]


def decode_vring_state(payload: bytes) -> VringState:
    return VringState(*_unpack(_PAIR, payload, "a ring's state"))


def decode_vring_address(payload: bytes) -> VringAddress:
    index, _flags, descriptors, used, available, _log = _unpack(_VRING_ADDRESS, payload, "a ring's addresses")
    return VringAddress(index, descriptors, used, available)


def decode_vring_fd(message: Message) -> VringFd:
    """KICK, CALL and ERR: which ring, and the eventfd unless the message says that there is none."""
    value = decode_u64(message.payload)
    if value & _VRING_NO_FD:
        return VringFd(value & _VRING_INDEX_MASK, None)
    if len(message.fds) != 1:
        raise ProtocolError(f"an eventfd was announced and {len(message.fds)} file descriptors came")
    return VringFd(value & _VRING_INDEX_MASK, message.fds.pop())


def decode_memory_table(message: Message) -> list[MemoryRegion]:
    """The regions with their descriptors, which stay in ``message.fds`` for the caller to close."""
    count, _padding = _unpack(_PAIR, message.payload, "a memory table")
    if count > MAX_FDS or len(message.payload) < _PAIR.size + count * _REGION.size:
        raise ProtocolError(f"a memory table of {count} regions is {len(message.payload)} bytes long")
    if len(message.fds) != count:
        raise ProtocolError(f"a memory table of {count} regions came with {len(message.fds)} file descriptors")
    return [
        MemoryRegion(*_REGION.unpack_from(message.payload, _PAIR.size + number * _REGION.size), fd)
        for number, fd in enumerate(message.fds)
    ]


def decode_config_range(payload: bytes) -> ConfigRange:
    config = ConfigRange(*_unpack(_CONFIG, payload, "a configuration range"))
    if config.size > MAX_CONFIG or config.offset + config.size > MAX_CONFIG:
        raise ProtocolError(
            f"configuration bytes {config.offset} to {config.offset + config.size}: there are {MAX_CONFIG}"
        )
    return config


def decode_inflight(payload: bytes) -> InflightRegion:
    return InflightRegion(*_unpack(_INFLIGHT, payload, "an inflight region"))


def encode_reply(request: int, payload: bytes) -> bytes:
    return HEADER.pack(request, VERSION | FLAG_REPLY, len(payload)) + payload


def encode_u64(value: int) -> bytes:
    return U64.pack(value)


def encode_vring_state(state: VringState) -> bytes:
    return _PAIR.pack(*state)


def encode_config(config: ConfigRange, space: bytes) -> bytes:
    """As many bytes as were asked for: the front end insists on it."""
    return _CONFIG.pack(*config) + space[config.offset : config.offset + config.size].ljust(config.size, b"\0")


def encode_inflight(region: InflightRegion) -> bytes:
    return _INFLIGHT.pack(*region).ljust(24, b"\0")


def encode_config_change() -> bytes:
    """For the back end's own channel: the configuration space is to be read again. No reply is asked for."""
    return HEADER.pack(BackendRequest.CONFIG_CHANGE, VERSION, 0)
