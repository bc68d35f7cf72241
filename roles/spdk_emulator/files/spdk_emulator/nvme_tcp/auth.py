"""DH-HMAC-CHAP, NVMe's in-band authentication: both sides, without I/O (base specification 2.0, 8.13).

Each side turns the message it got into the message it answers with. :class:`Controller` is the one that wants to know
who connects, :class:`Host` proves that it knows the key. A key is what ``DHHC-1:…`` names. Each group's prime is
computed from its definition (RFC 7919, appendix A) when it is first used.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import logging
import secrets
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

log = logging.getLogger(__name__)

HASHES = {1: "sha256", 2: "sha384", 3: "sha512"}
GROUPS = {0: "null", 1: "ffdhe2048", 2: "ffdhe3072", 3: "ffdhe4096", 4: "ffdhe6144", 5: "ffdhe8192"}
SECP_NVME = 0xE9
"""Security protocol and, in the two bytes below it, its specific field in Authentication Send and Receive."""
SECURITY_FIELDS = SECP_NVME << 24 | 0x0101 << 8
MESSAGE_LIMIT = 2048
"""Bytes; no message is longer."""

_PRIMES = {1: (2048, 560316), 2: (3072, 2625351), 3: (4096, 5736041), 4: (6144, 15705020), 5: (8192, 10965728)}
"""Bits, and the constant that the definition adds so that the number is a safe prime."""
_SECRET_BITS = {1: 225, 2: 275, 3: 325, 4: 375, 5: 400}
"""Of the private exponent (RFC 7919, appendix A)."""

_GROUP_ORDER = (2, 1, 3, 4, 5, 0)
"""SPDK takes the largest. Beyond 3,072 bits one exchange would keep this process busy for too long."""

_COMMON, _DHCHAP = 0x00, 0x01
_NEGOTIATE, _CHALLENGE, _REPLY, _SUCCESS1, _SUCCESS2 = 0x00, 0x01, 0x02, 0x03, 0x04
_FAILURE1, _FAILURE2 = 0xF1, 0xF0
FAILED, PROTOCOL_UNUSABLE, CONCATENATION_MISMATCH, HASH_UNUSABLE, GROUP_UNUSABLE = 0x01, 0x02, 0x03, 0x04, 0x05
INCORRECT_PAYLOAD, INCORRECT_MESSAGE = 0x06, 0x07
"""Explanations of a failure."""

_HEADER = struct.Struct("<BBHH")
_NEGOTIATE_HEADER = struct.Struct("<BBHHBB")
_DESCRIPTOR = struct.Struct("<BxBB30s30s")
_CHALLENGE_HEADER = struct.Struct("<BBHHBxBBHI")
_REPLY_HEADER = struct.Struct("<BBHHBxBxHI")
_SUCCESS1_HEADER = struct.Struct("<BBHHBxB7x")
_FAILURE = struct.Struct("<BBHHBB")


class AuthError(Exception):
    """The other side did not prove itself, or did not speak the protocol; ``reason`` explains it to the peer.

    ``by_peer``: it was the other side that said so; it need not be told.
    """

    def __init__(self, reason: int, text: str, by_peer: bool = False) -> None:
        super().__init__(text)
        self.reason = reason
        self.by_peer = by_peer


class Secret(NamedTuple):
    """A configured key, and with what hash it is bound to its owner's NQN (0: it is not)."""

    hash_id: int
    key: bytes

    def bound_to(self, nqn: str) -> bytes:
        """The key that is used for that owner."""
        if not self.hash_id:
            return self.key
        return hmac.digest(self.key, nqn.encode() + b"NVMe-over-Fabrics", HASHES[self.hash_id])


def parse_secret(text: bytes) -> Secret:
    """``DHHC-1:<hash>:<base64 of key and its CRC32>:``. Raises ``ValueError`` that does not repeat the secret."""
    parts = text.strip().split(b":")
    try:
        if len(parts) != 4 or parts[0] != b"DHHC-1":
            raise ValueError
        hash_id = int(parts[1], 16)
        data = base64.b64decode(parts[2], validate=True)
    except (ValueError, binascii.Error):
        raise ValueError("a DH-HMAC-CHAP key looks like DHHC-1:00:<base64>:, this one does not") from None
    key, checksum = data[:-4], data[-4:]
    if len(key) not in (32, 48, 64) or hash_id not in (0, *HASHES) or zlib.crc32(key).to_bytes(4, "little") != checksum:
        raise ValueError("a DH-HMAC-CHAP key has 32, 48 or 64 bytes, a hash of 0 to 3 and a CRC32; this one does not")
    return Secret(hash_id, key)


@functools.cache
def prime(group: int) -> int:
    """The modulus of a group; its generator is 2."""
    bits, addend = _PRIMES[group]
    scale = bits  # more than the bits - 130 that are wanted, so that rounding does not reach them
    e, term, divisor = 0, 1 << scale, 1
    while term:
        e += term
        term //= divisor
        divisor += 1
    return (1 << bits) - (1 << bits - 64) + ((e >> scale - (bits - 130)) + addend << 64) - 1


def _group_size(group: int) -> int:
    """Bytes of a public value."""
    return _PRIMES[group][0] // 8 if group else 0


class _Exchange:
    """One Diffie-Hellman exchange; in the null group there is nothing to exchange."""

    def __init__(self, group: int) -> None:
        self.group = group
        self.public = b""
        if group:
            self._private = secrets.randbits(_SECRET_BITS[group]) | 1 << _SECRET_BITS[group] - 1
            self.public = pow(2, self._private, prime(group)).to_bytes(_group_size(group), "big")

    def shared(self, peer: bytes) -> bytes:
        """Raises :class:`AuthError` for a value that is no public value of the group."""
        if not self.group:
            return b""
        value, modulus = int.from_bytes(peer, "big"), prime(self.group)
        if not 1 < value < modulus - 1:
            raise AuthError(FAILED, "the other side's public value is outside the group")
        return pow(value, self._private, modulus).to_bytes(_group_size(self.group), "big")


def _response(
    hash_id: int, key: bytes, challenge: bytes, shared: bytes, sequence: int, tid: int, role: bytes, own: str, peer: str
) -> bytes:
    """What proves the key to who sent the challenge (8.13.5.4)."""
    name = HASHES[hash_id]
    if shared:
        challenge = hmac.digest(hashlib.new(name, shared).digest(), challenge, name)
    said = struct.pack("<IHB", sequence, tid, 0) + role + own.encode() + b"\0" + peer.encode()
    return hmac.digest(key, challenge + said, name)


def _hash_size(hash_id: int) -> int:
    return hashlib.new(HASHES[hash_id]).digest_size


def _sequence() -> int:
    """Any number but 0, which means that there is no challenge."""
    return secrets.randbelow(0xFFFFFFFF) + 1


@dataclass
class Names:
    """Who talks to whom, and the keys: the host's, and the controller's if it has one."""

    host_nqn: str
    subsystem_nqn: str
    host_secret: Secret
    controller_secret: Secret | None = None

    def host_key(self) -> bytes:
        return self.host_secret.bound_to(self.host_nqn)

    def controller_key(self) -> bytes | None:
        return self.controller_secret.bound_to(self.subsystem_nqn) if self.controller_secret else None


class Controller:
    """The side that authenticates: messages go in by :meth:`send` and come out by :meth:`receive`."""

    def __init__(self, names: Callable[[], Names], hashes: list[str], groups: list[str]) -> None:
        """``names`` is asked whenever keys are needed; it may raise ``OSError`` or ``ValueError``.

        ``hashes`` and ``groups`` are the allowed ones by name. The strongest hash that both sides know is taken, and
        the first common group of ``_GROUP_ORDER``.
        """
        self._names = names
        self._hashes = hashes
        self._groups = groups
        self.state = "negotiate"
        """As SPDK calls them: negotiate, challenge, reply, success1, success2, failure1, completed."""
        self.hash_id = 0
        self.group = -1
        self._tid = 0
        self._reason = FAILED
        self._answer = b""

    @property
    def completed(self) -> bool:
        return self.state == "completed"

    def send(self, message: bytes) -> None:
        """A message from the host. What is wrong with it the host learns from :meth:`receive`."""
        try:
            if len(message) < _HEADER.size:
                raise AuthError(INCORRECT_PAYLOAD, "the message is too short")
            kind = message[0], message[1]
            if kind == (_COMMON, _NEGOTIATE):
                self._negotiate(message)
            elif kind == (_DHCHAP, _REPLY) and self.state == "reply":
                self._reply(message)
            elif kind == (_DHCHAP, _SUCCESS2) and self.state == "success2":
                self.state = "completed"
            elif kind == (_COMMON, _FAILURE2):
                raise AuthError(FAILED, "the host does not believe that this is the controller")
            else:
                raise AuthError(INCORRECT_MESSAGE, "not the message that was expected")
        except AuthError as error:
            log.warning("authentication failed: %s", error)
            self._fail(error.reason)

    def receive(self) -> bytes:
        """The message for the host."""
        if self.state == "challenge":
            self._sequence = _sequence()
            self._challenge = secrets.token_bytes(_hash_size(self.hash_id))
            self._exchange = _Exchange(self.group)
            public = self._exchange.public
            header = _CHALLENGE_HEADER.pack(
                *(_DHCHAP, _CHALLENGE, 0, self._tid, len(self._challenge)),
                *(self.hash_id, self.group, len(public), self._sequence),
            )
            self.state = "reply"
            return header + self._challenge + public
        if self.state == "success1":
            proof = self._answer
            header = _SUCCESS1_HEADER.pack(
                _DHCHAP, _SUCCESS1, 0, self._tid, _hash_size(self.hash_id), 1 if proof else 0
            )
            self.state = "success2" if proof else "completed"
            return header + proof
        if self.state != "failure1":
            self._fail(INCORRECT_MESSAGE)
        return _FAILURE.pack(_COMMON, _FAILURE1, 0, self._tid, 1, self._reason)

    def _fail(self, reason: int) -> None:
        self.state = "failure1"
        self._reason = reason

    def _negotiate(self, message: bytes) -> None:
        if self.state not in ("negotiate", "completed"):
            raise AuthError(INCORRECT_MESSAGE, "the negotiation is over")
        if len(message) < _NEGOTIATE_HEADER.size:
            raise AuthError(INCORRECT_PAYLOAD, "the message is too short")
        *_unused, self._tid, secure, count = _NEGOTIATE_HEADER.unpack_from(message)
        if len(message) < _NEGOTIATE_HEADER.size + count * _DESCRIPTOR.size:
            raise AuthError(INCORRECT_PAYLOAD, "descriptors are missing")
        if secure:
            raise AuthError(CONCATENATION_MISMATCH, "there is no secure channel")
        for index in range(count):
            offset = _NEGOTIATE_HEADER.size + index * _DESCRIPTOR.size
            protocol, hash_count, group_count, hashes, groups = _DESCRIPTOR.unpack_from(message, offset)
            if protocol == _DHCHAP:
                break
        else:
            raise AuthError(PROTOCOL_UNUSABLE, "the host does not know DH-HMAC-CHAP")
        if hash_count > 30 or group_count > 30:
            raise AuthError(INCORRECT_PAYLOAD, "more hashes or groups than fit")
        self.hash_id = max((one for one in hashes[:hash_count] if HASHES.get(one) in self._hashes), default=0)
        if not self.hash_id:
            raise AuthError(HASH_UNUSABLE, "no common hash")
        offered = groups[:group_count]
        self.group = next((one for one in _GROUP_ORDER if one in offered and GROUPS[one] in self._groups), -1)
        if self.group < 0:
            raise AuthError(GROUP_UNUSABLE, "no common group")
        self.state = "challenge"

    def _reply(self, message: bytes) -> None:
        if len(message) < _REPLY_HEADER.size:
            raise AuthError(INCORRECT_PAYLOAD, "the message is too short")
        *_unused, tid, size, wants_proof, public_size, sequence = _REPLY_HEADER.unpack_from(message)
        start = _REPLY_HEADER.size
        if (
            tid != self._tid
            or size != _hash_size(self.hash_id)
            or public_size != _group_size(self.group)
            or len(message) < start + 2 * size + public_size
            or wants_proof > 1
            or (wants_proof and not sequence)
        ):
            raise AuthError(INCORRECT_PAYLOAD, "the reply does not fit the challenge")
        proof, challenge = message[start : start + size], message[start + size : start + 2 * size]
        shared = self._exchange.shared(message[start + 2 * size : start + 2 * size + public_size])
        try:
            names = self._names()
        except (OSError, ValueError) as error:
            raise AuthError(FAILED, f"the keys cannot be used: {error}") from error
        wanted = _response(
            *(self.hash_id, names.host_key(), self._challenge, shared, self._sequence, tid),
            *(b"HostHost", names.host_nqn, names.subsystem_nqn),
        )
        if not hmac.compare_digest(proof, wanted):
            raise AuthError(FAILED, "the host does not know its key")
        self._answer = b""
        if wants_proof:
            key = names.controller_key()
            if key is None:
                raise AuthError(FAILED, "the host wants a proof and there is no controller key")
            self._answer = _response(
                *(self.hash_id, key, challenge, shared, sequence, tid),
                *(b"Controller", names.subsystem_nqn, names.host_nqn),
            )
        self.state = "success1"


class Host:
    """The side that proves itself. ``negotiate`` → send; receive → :meth:`reply` → send; receive → :meth:`finish`."""

    def __init__(self, names: Names, hashes: list[str], groups: list[str], tid: int = 1) -> None:
        self._names = names
        self._hashes = [one for one, name in HASHES.items() if name in hashes]
        self._groups = [one for one, name in GROUPS.items() if name in groups]
        self._tid = tid

    def negotiate(self) -> bytes:
        """The first message."""
        return _NEGOTIATE_HEADER.pack(_COMMON, _NEGOTIATE, 0, self._tid, 0, 1) + _DESCRIPTOR.pack(
            _DHCHAP, len(self._hashes), len(self._groups), bytes(self._hashes), bytes(self._groups)
        )

    def reply(self, message: bytes) -> bytes:
        """The answer to the controller's challenge. Raises :class:`AuthError`."""
        self._check(message, _CHALLENGE, _CHALLENGE_HEADER.size)
        *_unused, size, hash_id, group, public_size, sequence = _CHALLENGE_HEADER.unpack_from(message)
        if hash_id not in self._hashes or group not in self._groups:
            raise AuthError(INCORRECT_PAYLOAD, "the controller chose a hash or group that was not offered")
        start = _CHALLENGE_HEADER.size
        if (
            size != _hash_size(hash_id)
            or public_size != _group_size(group)
            or len(message) < start + size + public_size
        ):
            raise AuthError(INCORRECT_PAYLOAD, "the challenge has the wrong size")
        challenge, public = message[start : start + size], message[start + size : start + size + public_size]
        exchange, names = _Exchange(group), self._names
        shared = exchange.shared(public)
        proof = _response(
            *(hash_id, names.host_key(), challenge, shared, sequence, self._tid),
            *(b"HostHost", names.host_nqn, names.subsystem_nqn),
        )
        key = names.controller_key()
        own, self._wanted, own_sequence = bytes(size), b"", 0
        if key is not None:
            own, own_sequence = secrets.token_bytes(size), _sequence()
            self._wanted = _response(
                *(hash_id, key, own, shared, own_sequence, self._tid),
                *(b"Controller", names.subsystem_nqn, names.host_nqn),
            )
        header = _REPLY_HEADER.pack(
            *(_DHCHAP, _REPLY, 0, self._tid, size, key is not None, len(exchange.public), own_sequence)
        )
        return header + proof + own + exchange.public

    def finish(self, message: bytes) -> bytes | None:
        """The controller's verdict. Returns the last message to send, None if there is none; raises AuthError."""
        self._check(message, _SUCCESS1, _SUCCESS1_HEADER.size)
        *_unused, size, proves = _SUCCESS1_HEADER.unpack_from(message)
        if not self._wanted:
            return None
        start = _SUCCESS1_HEADER.size
        if not proves or not hmac.compare_digest(message[start : start + size], self._wanted):
            raise AuthError(FAILED, "the controller does not know its key")
        return _HEADER.pack(_DHCHAP, _SUCCESS2, 0, self._tid) + bytes(10)

    def failure(self, error: AuthError) -> bytes:
        """What tells the controller that it is refused."""
        return _FAILURE.pack(_COMMON, _FAILURE2, 0, self._tid, 1, error.reason)

    def _check(self, message: bytes, kind: int, size: int) -> None:
        if len(message) >= _FAILURE.size and message[1] == _FAILURE1:
            raise AuthError(message[7], f"the controller refuses: reason {message[7]}", by_peer=True)
        if len(message) < size or (message[0], message[1]) != (_DHCHAP, kind):
            raise AuthError(INCORRECT_MESSAGE, "not the message that was expected")
        if _HEADER.unpack_from(message)[3] != self._tid:
            raise AuthError(INCORRECT_PAYLOAD, "another transaction")
