"""The least that asks an SPDK for something: one connection, one call after the other, no state read, no check.

What our own tasks are held against. Usage: bare_calls.py SOCKET FILE; the file is a JSON list of {method, params}.
"""

from __future__ import annotations

import json
import socket
import sys
from typing import Any


class Connection:
    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.id = 0

    def call(self, method: str, params: Any) -> object:
        self.id += 1
        request = {"jsonrpc": "2.0", "id": self.id, "method": method, "params": params}
        self.socket.sendall(json.dumps(request).encode())
        text = ""
        while True:
            data = self.socket.recv(65536)
            if not data:
                raise SystemExit(f"{method}: the connection was closed")
            text += data.decode()
            try:
                answer = json.loads(text)
            except ValueError:
                continue
            if "error" in answer:
                raise SystemExit(f"{method}: {answer['error']}")
            return answer["result"]


def main() -> None:
    path, file = sys.argv[1:]
    spdk = Connection(path)
    with open(file, encoding="utf-8") as calls:
        for call in json.load(calls):
            spdk.call(call["method"], call["params"])


if __name__ == "__main__":
    main()
