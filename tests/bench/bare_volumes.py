"""The least that creates (or deletes) volumes: one connection, one call after the other, no state read, no check.

What `create_64_volumes_ratio` holds our own task against.
Usage: bare_volumes.py SOCKET NQN create|export|delete UUID...
"""

from __future__ import annotations

import json
import socket
import sys


class Connection:
    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.id = 0

    def call(self, method: str, **params: object) -> object:
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
    path, nqn, action, volumes = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
    spdk = Connection(path)
    for number, volume in enumerate(volumes):
        name = f"bench{number}"
        if action == "create":
            spdk.call("bdev_malloc_create", name=name, num_blocks=32768, block_size=512, uuid=volume)
        elif action == "export":
            spdk.call("nvmf_subsystem_add_ns", nqn=nqn, namespace={"bdev_name": name, "nsid": number + 1})
        elif action == "delete":
            spdk.call("bdev_malloc_delete", name=name)
        else:
            raise SystemExit(f"no action is called {action}")


if __name__ == "__main__":
    main()
