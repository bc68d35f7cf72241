"""The wire: JSON-RPC 2.0 over a unix socket, as SPDK 26.05 speaks it (batches included)."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import inspect
import json
import logging
import os
from collections.abc import Awaitable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import registry
from .errors import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    INVALID_STATE,
    METHOD_NOT_FOUND,
    RpcError,
)
from .params import decode_call
from .stream import ParseError, Splitter

if TYPE_CHECKING:
    from ..app import App

log = logging.getLogger(__name__)

_REQUEST_KEYS = {"jsonrpc", "method", "params", "id"}
_TOO_EARLY = "Method may only be called after framework is initialized using framework_start_init RPC."
_TOO_LATE = (
    "Method may only be called before framework is initialized. Use --wait-for-rpc command line parameter and then "
    "issue this RPC before the framework_start_init RPC."
)


class AddressInUse(Exception):
    """Another process serves RPC on this socket."""


def find_method(name: str) -> registry.Method | None:
    """The method of that name or deprecated alias."""
    found = registry.METHODS.get(name)
    if found is None:
        found = next((method for method in registry.METHODS.values() if name in method.aliases), None)
    return found


def call(app: App, name: str, params: Any) -> Any:
    """Call a method: its result, or an awaitable of it. Raises :class:`RpcError`."""
    method = find_method(name)
    if method is None or not app.is_allowed(method.name):
        raise RpcError(METHOD_NOT_FOUND, "Method not found")
    if method.state == registry.RUNTIME and not app.running:
        raise RpcError(INVALID_STATE, _TOO_EARLY)
    if method.state == registry.STARTUP and app.running:
        raise RpcError(INVALID_STATE, _TOO_LATE)
    if method.params is None and params is not None:
        default = registry.Method.bad_params == method.bad_params
        raise RpcError(*((INVALID_PARAMS, f"{method.name} requires no parameters") if default else method.bad_params))
    try:
        arguments = decode_call(method, params)
    except ValueError as error:
        log.error("%s: %s", method.name, error)
        raise RpcError(*method.bad_params) from error
    return method.call(app, **arguments)


class Connection(asyncio.Protocol):
    """One client. A request is answered when its method is done, so answers may overtake each other."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._splitter = Splitter()
        self._transport: asyncio.Transport | None = None
        self._finished = False
        self._unanswered = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._server.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        try:
            values = self._splitter.feed(data)
        except ParseError as error:
            # Nothing tells where the next request starts, so SPDK hangs up without an answer.
            log.error("jsonrpc parse request failed: %s", error)
            self.close()
            return
        for value in values:
            if isinstance(value, list) and value:
                self._answer_later(self._batch(value))
            else:
                self._answer_now_or_later(value)

    def eof_received(self) -> bool:
        """Keep the connection until what was asked is answered."""
        self._finished = True
        return self._unanswered > 0

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _answer_now_or_later(self, value: Any) -> None:
        answer = self._answer(value)
        if isinstance(answer, dict) or answer is None:
            self._send(answer)
        else:
            self._answer_later(answer)

    def _answer_later(self, answer: Awaitable[Any]) -> None:
        self._unanswered += 1

        async def wait() -> None:
            result = await answer
            self._unanswered -= 1
            self._send(result)
            if self._finished and not self._unanswered:
                self.close()

        self._server.app.spawn(wait())

    async def _batch(self, requests: list[Any]) -> list[Any] | None:
        started = [self._answer(request) for request in requests]
        answers = [await answer if inspect.isawaitable(answer) else answer for answer in started]
        return [answer for answer in answers if answer is not None] or None

    def _answer(self, request: Any) -> dict[str, Any] | None | Awaitable[dict[str, Any] | None]:
        """One request → its answer; None where the request wants none; an awaitable where the method takes time."""
        identifier = None
        try:
            identifier = _identifier(request)
            result = call(self._server.app, request["method"], request.get("params"))
        except RpcError as error:
            return _error(identifier, error)
        except OSError as error:
            return _error(identifier, RpcError.from_errno(error.errno or errno.EIO))
        except Exception:
            log.exception("%s failed", request["method"])
            return _error(identifier, RpcError(INTERNAL_ERROR, "Internal error"))
        if inspect.isawaitable(result):
            return self._finish(request["method"], identifier, result)
        return _result(identifier, result)

    async def _finish(self, name: str, identifier: Any, result: Awaitable[Any]) -> dict[str, Any] | None:
        try:
            return _result(identifier, await result)
        except RpcError as error:
            return _error(identifier, error)
        except OSError as error:
            return _error(identifier, RpcError.from_errno(error.errno or errno.EIO))
        except Exception:
            log.exception("%s failed", name)
            return _error(identifier, RpcError(INTERNAL_ERROR, "Internal error"))

    def _send(self, answer: Any) -> None:
        self._server.app.framework.threads.look_soon()
        if answer is not None and self._transport is not None:
            self._transport.write(json.dumps(answer, separators=(",", ":")).encode() + b"\n")


def _identifier(request: Any) -> Any:
    """Check the envelope; returns the request's id. Raises "Invalid request"."""
    invalid = RpcError(INVALID_REQUEST, "Invalid request")
    if not isinstance(request, dict) or request.keys() - _REQUEST_KEYS or getattr(request, "repeated", False):
        raise invalid
    if request.get("jsonrpc", "2.0") != "2.0" or not isinstance(request.get("method"), str):
        raise invalid
    if not isinstance(request.get("params"), (dict, list, type(None))):
        raise invalid
    identifier = request.get("id")
    if isinstance(identifier, bool) or not isinstance(identifier, (str, int, float, type(None))):
        raise invalid
    return identifier


def _result(identifier: Any, result: Any) -> dict[str, Any] | None:
    # A request without an id is a notification: SPDK answers it with errors only.
    return None if identifier is None else {"jsonrpc": "2.0", "id": identifier, "result": result}


def _error(identifier: Any, error: RpcError) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": identifier, "error": {"code": error.code, "message": error.message}}


class Server:
    """Listens on one unix socket. ``<path>.lock`` is held while it does, so that nobody takes a live socket away."""

    def __init__(self, app: App, path: str) -> None:
        self.app = app
        self.path = path
        self.connections: set[Connection] = set()
        self._lock: int | None = None
        self._listener: asyncio.AbstractServer | None = None

    async def bind(self) -> None:
        """Take the path; clients are refused until :meth:`serve`.

        Raises :class:`AddressInUse`, or ``OSError`` where the path cannot be used.
        """
        lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise AddressInUse(f"RPC Unix domain socket path {self.path} in use. Specify another.") from None
        self._lock = lock
        if os.path.lexists(self.path):
            os.unlink(self.path)
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_unix_server(
            lambda: Connection(self), self.path, backlog=512, start_serving=False
        )

    async def serve(self) -> None:
        """Accept clients."""
        assert self._listener is not None
        await self._listener.start_serving()

    async def close(self) -> None:
        """Hang up and remove the files, also where somebody has removed them already."""
        if self._listener is not None:
            self._listener.close()
            Path(self.path).unlink(missing_ok=True)
        for connection in list(self.connections):
            connection.close()
        if self._lock is not None:
            Path(f"{self.path}.lock").unlink(missing_ok=True)
            os.close(self._lock)
