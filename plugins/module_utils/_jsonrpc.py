# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A typed JSON-RPC 2.0 client for SPDK: one connection, pipelined calls, bounded waits.

SPDK's dialect: requests follow each other on a stream without framing; answers come in the order in which the calls
*finish*, so they are matched by id. Arrays of requests are not used (releases before 26.05 refuse them), and no more is
sent ahead than an older release's 32 KiB receive buffer holds.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Call = tuple  # (method, params or None)

METHOD_NOT_FOUND = -32601
#: How far requests may run ahead of their answers: calls, and bytes (half of the smallest receive buffer there is).
WINDOW_CALLS = 64
WINDOW_BYTES = 16 * 1024
#: The receive buffer of releases before 26.05: a single request above it makes them close the connection.
SMALLEST_BUFFER = 32 * 1024
_CHUNK = 256 * 1024
_LONGEST_UNIX_PATH = 107

#: Parameters that hold key material itself (`psk` only up to 24.01: later it names a key, which is no loss to hide).
SECRET_PARAMS = frozenset(("key", "key2", "psk", "secret", "msecret", "password"))
HIDDEN = "(hidden)"

_IDENTIFYING = frozenset(
    ("name", "nqn", "ctrlr", "bdev_name", "dev_name", "host", "nsid", "filename", "trtype", "traddr", "trsvcid")
)

_HINTS = {
    errno.ENOENT: "there is no such socket: is SPDK running, and was it started with this path (option -r)?",
    errno.ECONNREFUSED: "nobody listens there: SPDK is not running, still starting, or has died",
    errno.EACCES: "this user may not open the socket: use become, or run as the user that SPDK runs as",
    errno.EPERM: "this user may not open the socket: use become, or run as the user that SPDK runs as",
    errno.ENOTSOCK: "this path is no socket",
    errno.EHOSTUNREACH: "no route to this host",
    errno.ENETUNREACH: "no route to this network",
    errno.ETIMEDOUT: "the host does not answer",
}


class Error(Exception):
    """What a call can end with instead of a result."""


class RpcError(Error):
    """SPDK answered with an error. Attributes: ``code``, ``message``, ``method``, ``params`` (without key material)."""

    def __init__(self, code: int, message: str, method: str, params: Mapping[str, Any] | None = None) -> None:
        self.code = code
        self.method = method
        self.message = _without_secrets(message, params)
        self.params = redact(params)
        subject = describe(params)
        text = f"{self.message} (code {code})"
        super().__init__(f"{method} ({subject}): {text}" if subject else f"{method}: {text}")


class Exists(RpcError):
    """The thing is there already."""


class NotFound(RpcError):
    """There is no such thing."""


class InUse(RpcError):
    """The thing is held by something else."""


class Unsupported(RpcError):
    """This SPDK has no such method: another release, or built without that feature."""


class ConnectionFailed(Error):
    """No connection, or it broke. ``address`` names the socket."""

    def __init__(self, address: str, reason: str) -> None:
        self.address = address
        super().__init__(f"SPDK at {address}: {reason}")


class Timeout(Error):
    """SPDK did not answer in time; whether it will still do what was asked is unknown. ``address`` names the socket."""

    def __init__(self, address: str, method: str, seconds: float) -> None:
        self.address = address
        self.method = method
        super().__init__(f"SPDK at {address}: no answer to {method} within {seconds:g} s; it may still be carried out")


def error_from(answer: Mapping[str, Any], method: str, params: Mapping[str, Any] | None = None) -> RpcError:
    """The typed error for an answer's ``error`` object. SPDK's codes are negative errno values or JSON-RPC's own."""
    code = answer.get("code")
    code = code if isinstance(code, int) else 0
    message = str(answer.get("message", "no message"))
    text = message.lower()
    if code == METHOD_NOT_FOUND:
        kind: type[RpcError] = Unsupported
    elif code in (-errno.EEXIST, -errno.EALREADY) or "already exists" in text:
        kind = Exists
    elif code in (-errno.ENODEV, -errno.ENOENT) or "does not exist" in text or "no such device" in text:
        kind = NotFound
    elif code == -errno.EBUSY:
        kind = InUse
    else:
        kind = RpcError
    return kind(code, message, method, params)


def redact(value: Any) -> Any:
    """A copy of parameters in which key material is replaced by ``(hidden)``."""
    if isinstance(value, Mapping):
        return {k: HIDDEN if k in SECRET_PARAMS and v is not None else redact(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(item) for item in value]
    return value


def describe(params: Mapping[str, Any] | None) -> str:
    """What a call is about, for error messages: the identifying parameters and nothing else."""
    parts: list[str] = []
    for key, value in (params or {}).items():
        if key in _IDENTIFYING:
            parts.append(f"{key} {value}")
        elif key in ("namespace", "listen_address"):
            parts.append(describe(value if isinstance(value, Mapping) else None))
    return ", ".join(part for part in parts if part)


def _without_secrets(message: str, params: Any) -> str:
    if isinstance(params, Mapping):
        for key, value in params.items():
            if key in SECRET_PARAMS and isinstance(value, str) and value:
                message = message.replace(value, HIDDEN)
            else:
                message = _without_secrets(message, value)
    elif isinstance(params, (list, tuple)):
        for item in params:
            message = _without_secrets(message, item)
    return message


def _reason(error: OSError) -> str:
    number = error.errno
    if number is None:
        return str(error)
    name = errno.errorcode.get(number, str(number))
    hint = _HINTS.get(number)
    text = f"{os.strerror(number)} ({name})"
    return f"{text}: {hint}" if hint else text


def parse_address(address: str) -> tuple[int, Any]:
    """``(family, sockaddr)`` for a unix socket's path, or ``host:port`` (``[v6]:port``). Raises ValueError."""
    if not isinstance(address, str) or not address:
        raise ValueError("the address of SPDK's RPC socket is empty: give a path or host:port")
    if "/" in address:
        if len(os.fsencode(address)) > _LONGEST_UNIX_PATH:
            raise ValueError(f"{address} is longer than the {_LONGEST_UNIX_PATH} bytes of a unix socket's path")
        return socket.AF_UNIX, address
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{address} is neither the path of a unix socket (with a /) nor host:port")
    return socket.AF_UNSPEC, (host.strip("[]"), int(port))


class Client:
    """One connection to one SPDK. Use it as a context manager::

        with Client("/run/spdk.sock") as spdk:
            bdevs = spdk.call("bdev_get_bdevs")
            results = spdk.pipeline([("bdev_malloc_create", {...}), ...])

    ``timeout`` (seconds) bounds the connect and the wait for each next answer. ``calls`` counts the requests sent.
    """

    def __init__(self, address: str, timeout: float = 30.0) -> None:
        if timeout <= 0:
            raise ValueError(f"the timeout for SPDK's answers is {timeout:g} s, and has to be more than 0")
        self.address = address
        self.timeout = timeout
        self.calls = 0
        self._socket: socket.socket | None = None
        self._received = bytearray()
        self._next_id = 1

    def __enter__(self) -> Client:
        self.connect()
        return self

    def __exit__(self, *_ignored: object) -> None:
        self.close()

    def connect(self) -> socket.socket:
        """Connect, if not connected. Raises ConnectionFailed, or ValueError for an address that is none."""
        if self._socket is not None:
            return self._socket
        family, target = parse_address(self.address)
        try:
            if family == socket.AF_UNIX:
                connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                try:
                    connection.settimeout(self.timeout)
                    connection.connect(target)
                except OSError:
                    connection.close()
                    raise
            else:
                connection = socket.create_connection(target, timeout=self.timeout)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except socket.timeout:
            raise ConnectionFailed(self.address, f"no connection within {self.timeout:g} s") from None
        except OSError as error:
            raise ConnectionFailed(self.address, _reason(error)) from None
        connection.setblocking(False)
        self._socket = connection
        self._received = bytearray()
        return connection

    def close(self) -> None:
        """Close the connection; without one, nothing."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """The result of one call. Raises RpcError (or a subclass), ConnectionFailed, Timeout."""
        (answer,) = self.pipeline([(method, params)])
        if isinstance(answer, Error):
            raise answer
        return answer

    def pipeline(self, calls: Iterable[Sequence[Any]]) -> list[Any]:
        """Make calls that do not depend on each other; ``[result or Error, ...]`` in the order of the calls.

        An entry is an RpcError where SPDK refused that call. If the connection breaks or an answer stays away, each
        call without an answer gets that ConnectionFailed or Timeout, and the connection is closed.
        """
        wanted = [(str(call[0]), call[1]) for call in calls]
        answers: list[Any] = [None] * len(wanted)
        try:
            self._exchange(self.connect(), wanted, answers)
        except _Broken as broken:
            self.close()
            for index in broken.unanswered:
                answers[index] = broken.because
        return answers

    def _exchange(self, connection: socket.socket, wanted: list[tuple[str, Any]], answers: list[Any]) -> None:
        waiting: dict[int, tuple[int, int]] = {}  # id -> (index, bytes of the request)
        ahead = 0  # bytes of requests without an answer
        upcoming = 0
        request = b""
        outgoing = bytearray()
        deadline = time.monotonic() + self.timeout

        def broken(because: Error) -> _Broken:
            indexes = [index for index, _size in waiting.values()] + list(range(upcoming, len(wanted)))
            return _Broken(because, sorted(indexes))

        while upcoming < len(wanted) or waiting:
            while upcoming < len(wanted) and len(waiting) < WINDOW_CALLS:
                request = request or self._request(*wanted[upcoming])
                if waiting and ahead + len(request) > WINDOW_BYTES:
                    break
                outgoing += request
                waiting[self._next_id] = (upcoming, len(request))
                ahead += len(request)
                self._next_id += 1
                self.calls += 1
                upcoming += 1
                request = b""
            left = deadline - time.monotonic()
            readable, writable = _ready(connection, bool(outgoing), left) if left > 0 else (False, False)
            if not readable and not writable:
                method = wanted[next(iter(waiting.values()))[0]][0]
                raise broken(Timeout(self.address, method, self.timeout))
            try:
                if writable:
                    del outgoing[: connection.send(outgoing)]
                chunk = connection.recv(_CHUNK) if readable else None
            except BlockingIOError:
                continue
            except OSError as error:
                raise broken(ConnectionFailed(self.address, self._lost(wanted, waiting, _reason(error)))) from None
            if chunk is None:
                continue
            if not chunk:
                raise broken(ConnectionFailed(self.address, self._lost(wanted, waiting, "closed the connection")))
            try:
                arrived = self._messages(chunk)
            except ValueError:
                raise broken(ConnectionFailed(self.address, "answered with something that is not JSON")) from None
            for message in arrived:
                entry = waiting.pop(message.get("id"), None) if isinstance(message, dict) else None
                if entry is None:
                    raise broken(ConnectionFailed(self.address, f"an answer that belongs to no call: {message!s:.200}"))
                index, size = entry
                ahead -= size
                deadline = time.monotonic() + self.timeout
                if "error" in message:
                    answers[index] = error_from(message["error"] or {}, *wanted[index])
                else:
                    answers[index] = message.get("result")

    def _request(self, method: str, params: Any) -> bytes:
        body: dict[str, Any] = {"jsonrpc": "2.0", "id": self._next_id, "method": method}
        if params:
            # Some methods refuse even an empty object ("requires no parameters").
            body["params"] = params
        return json.dumps(body, separators=(",", ":")).encode()

    def _messages(self, chunk: bytes) -> list[Any]:
        """The whole messages that are in by now. A message ends with a brace, so that other chunks need no look."""
        self._received += chunk
        if not chunk.rstrip().endswith(b"}"):
            return []
        text = self._received.decode("utf-8")
        decoder = json.JSONDecoder()
        messages: list[Any] = []
        position = _skip_space(text, 0)
        while position < len(text):
            try:
                message, position = decoder.raw_decode(text, position)
            except json.JSONDecodeError:
                if text[position] != "{":
                    raise
                break  # the rest of this message is still to come
            messages.append(message)
            position = _skip_space(text, position)
        self._received = bytearray(text[position:].encode())
        return messages

    def _lost(self, wanted: list[tuple[str, Any]], waiting: Mapping[int, tuple[int, int]], reason: str) -> str:
        if not waiting:
            return reason
        index, size = next(iter(waiting.values()))
        text = f"{reason} before it answered {wanted[index][0]}"
        if size > SMALLEST_BUFFER:
            text += f": the request has {size} bytes, and releases before 26.05 take 32 KiB at most"
        return text


class _Broken(Exception):
    """The connection is of no more use; these calls have no answer."""

    def __init__(self, because: Error, unanswered: list[int]) -> None:
        super().__init__(str(because))
        self.because = because
        self.unanswered = unanswered


def _ready(connection: socket.socket, writing: bool, seconds: float) -> tuple[bool, bool]:
    """``(readable, writable)``; both false when the time is over. (Unlike select, poll takes any descriptor.)"""
    poll = select.poll()
    poll.register(connection, select.POLLIN | (select.POLLOUT if writing else 0))
    events = poll.poll(max(1, int(seconds * 1000)))
    mask = events[0][1] if events else 0
    return bool(mask & ~select.POLLOUT), bool(mask & select.POLLOUT)


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position
