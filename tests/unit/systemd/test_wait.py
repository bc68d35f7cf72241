# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What makes a unit of SPDK ready: an answer, not a socket."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NODE = Path(__file__).resolve().parents[3] / "roles" / "spdk" / "files" / "node"
VERSION = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"version": "SPDK v26.05"}}).encode()


def wait(path: Path, timeout: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ipdk_node.wait", "--socket", str(path), "--timeout", str(timeout)]
    return subprocess.run(
        command, env={"PYTHONPATH": str(NODE)}, capture_output=True, text=True, timeout=30, check=False
    )


@contextmanager
def answering(path: Path, *answers: tuple[bytes, ...]) -> Iterator[None]:
    """A server that answers the first connection with the pieces of the first answer, and so on."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def serve() -> None:
        for pieces in answers:
            connection, _unused = server.accept()
            with connection:
                connection.recv(65536)
                for piece in pieces:
                    connection.sendall(piece)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        thread.join(10)
        server.close()


def test_an_answer_ends_it(tmp_path: Path) -> None:
    with answering(tmp_path / "s", (VERSION[:20], VERSION[20:])):
        done = wait(tmp_path / "s", 10)
    assert (done.returncode, done.stdout) == (0, "SPDK v26.05\n")


def test_a_closed_connection_and_an_error_are_no_answer(tmp_path: Path) -> None:
    error = json.dumps({"jsonrpc": "2.0", "id": 1, "error": {"code": -1, "message": "not now"}}).encode()
    with answering(tmp_path / "s", (), (error,), (VERSION,)):
        done = wait(tmp_path / "s", 10)
    assert (done.returncode, done.stdout) == (0, "SPDK v26.05\n")


def test_nobody_answers(tmp_path: Path) -> None:
    done = wait(tmp_path / "s", 0.3)
    assert done.returncode == 1
    assert f"no SPDK answers on {tmp_path}/s within 0.3 s: " in done.stderr
    assert "No such file" in done.stderr


def test_a_socket_that_says_nothing_is_not_ready(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        done = wait(tmp_path / "s", 0.3)
    assert done.returncode == 1
    assert "timed out" in done.stderr
