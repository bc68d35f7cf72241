# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Wait until SPDK answers on its RPC socket.

    python3 -m ipdk_node.wait --socket SOCKET --timeout SECONDS

A socket may be there before its methods are, and one of a predecessor may still be there: only an answer counts. Exits
0 with it, or 1 with what was there last.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import time

PAUSE_SECONDS = 0.05


def answer(path: str, timeout: float) -> dict:
    """What SPDK says to spdk_get_version; OSError or ValueError where nobody says anything sensible."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(path)
        connection.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "spdk_get_version"}).encode())
        received = b""
        while True:
            chunk = connection.recv(65536)
            if not chunk:
                raise ConnectionError(f"the connection was closed after {len(received)} bytes")
            received += chunk
            try:
                return json.loads(received)["result"]
            except json.JSONDecodeError:
                continue  # not all of it yet
            except (KeyError, TypeError):
                raise ValueError(f"it answered {received[:200]!r}") from None


def wait(path: str, timeout: float) -> dict:
    """The answer, as soon as there is one; TimeoutError names the socket and the last reason."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return answer(path, max(0.1, deadline - time.monotonic()))
        except (OSError, ValueError) as error:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"no SPDK answers on {path} within {timeout:g} s: {error}") from None
        time.sleep(PAUSE_SECONDS)


def main() -> None:
    """Command line, see the module's text."""
    parser = argparse.ArgumentParser(prog="ipdk_node.wait", description="Wait until SPDK answers")
    parser.add_argument("--socket", required=True, help="SPDK's RPC socket")
    parser.add_argument("--timeout", type=float, default=60, help="seconds")
    arguments = parser.parse_args()
    try:
        print(wait(arguments.socket, arguments.timeout)["version"])
    except TimeoutError as error:
        sys.exit(f"ipdk_node.wait: {error}")


if __name__ == "__main__":
    main()
