"""A JSON-RPC server that says what a test tells it to, in the order and at the pace that the test wants."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Request = dict[str, Any]


class Peer:
    """The server's end of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._text = ""

    def requests(self, count: int) -> list[Request]:
        """The next ``count`` requests; fewer when the client closes before."""
        decoder = json.JSONDecoder()
        found: list[Request] = []
        while len(found) < count:
            try:
                request, end = decoder.raw_decode(self._text)
            except json.JSONDecodeError:
                chunk = self.connection.recv(65536)
                if not chunk:
                    break
                self._text += chunk.decode()
                continue
            self._text = self._text[end:]
            found.append(request)
        return found

    def answer(self, request: Request, result: Any = True) -> None:
        self.send({"jsonrpc": "2.0", "id": request["id"], "result": result})

    def refuse(self, request: Request, code: int, message: str) -> None:
        self.send({"jsonrpc": "2.0", "id": request["id"], "error": {"code": code, "message": message}})

    def send(self, message: Any) -> None:
        self.connection.sendall(json.dumps(message).encode() + b"\n")


@contextmanager
def serving(path: Path, *scripts: Callable[[Peer], None]) -> Iterator[str]:
    """Serve one connection after another, each by the next of ``scripts``; what a script raises fails the test."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    raised: list[BaseException] = []

    def serve() -> None:
        for script in scripts:
            try:
                connection, _address = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    script(Peer(connection))
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the client is free to go
                except BaseException as error:
                    raised.append(error)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield str(path)
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(timeout=10)
        if raised:
            raise raised[0]


def spdk(state: dict[str, Callable[[Request], Any]]) -> Callable[[Peer], None]:
    """A script that answers each method by its function; a LookupError(code, message) becomes an error."""

    def script(peer: Peer) -> None:
        while True:
            requests = peer.requests(1)
            if not requests:
                return
            request = requests[0]
            try:
                peer.answer(request, state[request["method"]](request.get("params") or {}))
            except LookupError as error:
                peer.refuse(request, *(error.args if len(error.args) == 2 else (-32601, "Method not found")))

    return script
