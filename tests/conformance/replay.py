"""Replay what a real SPDK was asked, and compare what it answered with what this one answers.

Against the emulator, or with ``SPDK_PREFIX=/path`` against the ``spdk_tgt`` built there, which checks the harness.
A recording is one line a call: ``method``, ``params``, ``result`` or ``error``, ``wait_ms`` before the call (which only
asks how things are), ``node`` (``initiator`` is a second process), ``volatile`` (JSON pointers into the answer to what
differs from run to run).
"""

from __future__ import annotations

import base64
import contextlib
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from support.spdk import START_SECONDS, prefix, program  # noqa: E402  (the path to it is made here)
from support.trace_reader import leave_nothing  # noqa: E402  (likewise)

RECORDINGS = HERE / "recordings"
ANSWER_SECONDS = 30.0
SPARSE_MIB = (4, 8, 16, 20, 100, 1025, 10240, 1048576)
"""The files that lvol stores are made on, by their size."""
SILENCE_SECONDS = 0.3
"""How long nothing has to come before "timeout" of a wire recording counts as seen."""


@dataclass(frozen=True)
class Difference:
    """One call whose answer is not the recorded one. ``call``: its line in the recording, from 1; answers are JSON."""

    family: str
    call: int
    method: str
    wanted: str
    got: str

    def __str__(self) -> str:
        return f"{self.family}:{self.call} {self.method}\n    wanted {self.wanted}\n    got    {self.got}"


@dataclass(frozen=True)
class Outcome:
    """One family, replayed."""

    family: str
    calls: int
    differences: list[Difference]

    def __str__(self) -> str:
        return f"{self.family} {self.calls - len(self.differences)}/{self.calls}"


def recording(family: str) -> list[dict[str, Any]]:
    text = (RECORDINGS / f"spdk-26.05-{family}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


class Places:
    """Recordings name files below /tmp and the address 127.0.0.1. A replay has a directory and address of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.address = f"127.{random.randint(64, 127)}.{random.randint(1, 254)}.{random.randint(1, 254)}"
        (directory / "rec-aio.img").write_bytes(bytes(1024 * 1024))
        for size in SPARSE_MIB:
            with (directory / f"rec-sparse-{size}.img").open("wb") as file:
                file.truncate(size * 1024 * 1024)
        secret = bytes(range(32))
        checksum = zlib.crc32(secret).to_bytes(4, "little")
        for mode in (0o600, 0o644):
            key = directory / f"rec-key-{mode:o}"
            key.write_text(f"DHHC-1:00:{base64.b64encode(secret + checksum).decode()}:", encoding="ascii")
            key.chmod(mode)

    def here(self, recorded: Any) -> Any:
        text = json.dumps(recorded).replace("/tmp/rec-", f"{self.directory}/rec-").replace("127.0.0.1", self.address)
        return json.loads(text)

    def recorded(self, here: Any) -> Any:
        text = json.dumps(here).replace(f"{self.directory}/rec-", "/tmp/rec-").replace(self.address, "127.0.0.1")
        return json.loads(text)


class Node:
    """One fresh process, waiting for ``framework_start_init``."""

    def __init__(self, name: str, directory: Path) -> None:
        self.socket_path = directory / f"{name}.sock"
        vhost = directory / f"{name}-vhost"
        vhost.mkdir()
        self._log = (directory / f"{name}.log").open("wb")
        arguments = ["--wait-for-rpc", "-r", str(self.socket_path), "-S", str(vhost)]
        command, environment = program(built_at=prefix())
        self._process = subprocess.Popen(
            [*command, *arguments], cwd=directory, env=environment, stdout=self._log, stderr=self._log
        )
        self._connection: socket.socket | None = None
        self._received = b""

    def connect(self) -> socket.socket:
        """A connection of its own; waits until the process listens."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(str(self.socket_path))
                return connection
            except OSError:
                connection.close()
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{self.socket_path}: nobody listens; see {self._log.name}") from None
                time.sleep(0.02)

    def call(self, method: str, params: Any = None) -> dict[str, Any]:
        """The answer, ``{"result": …}`` or ``{"error": …}``."""
        if self._connection is None:
            self._connection = self.connect()
            self._connection.settimeout(ANSWER_SECONDS)
        request = {"jsonrpc": "2.0", "id": 1, "method": method}
        if params is not None:
            request["params"] = params
        self._connection.sendall(json.dumps(request).encode())
        while b"\n" not in self._received:
            try:
                part = self._connection.recv(1 << 20)
            except TimeoutError:
                return {"no answer": f"within {ANSWER_SECONDS} s"}
            if not part:
                return {"no answer": f"hung up; exit status {self._process.poll()}, see {self._log.name}"}
            self._received += part
        line, _unused, self._received = self._received.partition(b"\n")
        answer = json.loads(line)
        return {key: answer[key] for key in ("result", "error") if key in answer}

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        leave_nothing(self._process.pid)
        self._log.close()


def replay(family: str, keep: Path | None = None) -> Outcome:
    """``keep``: a directory for sockets and logs instead of a temporary one."""
    with tempfile.TemporaryDirectory(prefix="conf-") as temporary:
        directory = keep or Path(temporary)
        places = Places(directory)
        nodes: dict[str, Node] = {}
        try:
            calls = recording(family)
            for name in ["target", *(["initiator"] if any("node" in call for call in calls) else [])]:
                nodes[name] = Node(name, directory)
            if family != "early":
                for node in nodes.values():
                    _replay_calls("early", recording("early"), {"target": node}, places)
            if family == "wire":
                differences = _replay_wire(calls, nodes["target"])
            else:
                differences = _replay_calls(family, calls, nodes, places)
            return Outcome(family, len(calls), differences)
        finally:
            for node in nodes.values():
                node.close()


def _replay_calls(family: str, calls: list[dict[str, Any]], nodes: dict[str, Node], places: Places) -> list[Difference]:
    differences = []
    for number, call in enumerate(calls, start=1):
        node, params = nodes[call.get("node", "target")], places.here(call.get("params"))
        volatile = call.get("volatile", [])
        wanted = _comparable({key: call[key] for key in ("result", "error") if key in call}, volatile)
        time.sleep(call.get("wait_ms", 0) / 1000)
        deadline = time.monotonic() + (ANSWER_SECONDS if "wait_ms" in call else 0)
        while True:
            got = _comparable(places.recorded(node.call(call["method"], params)), volatile)
            # What had come about by then takes longer on a busy machine.
            if got == wanted or time.monotonic() >= deadline:
                break
            time.sleep(0.05)
        if got != wanted:
            differences.append(Difference(family, number, call["method"], wanted, got))
    return differences


def _comparable(answer: dict[str, Any], volatile: list[str]) -> str:
    """The order of keys counts: SPDK writes them in one order."""
    for pointer in volatile:
        # An answer may have another shape, which the comparison shows.
        with contextlib.suppress(KeyError, IndexError, TypeError, ValueError):
            put(answer, pointer, "(volatile)")
    return json.dumps(answer)


def put(document: Any, pointer: str, value: Any) -> None:
    """Put a value where a JSON pointer says; the last key of an object may be a new one.

    Raises KeyError, IndexError, TypeError or ValueError where there is no such place.
    """
    *parents, last = pointer.strip("/").split("/")
    for key in parents:
        document = document[int(key) if isinstance(document, list) else key]
    document[int(last) if isinstance(document, list) else last] = value


def _replay_wire(calls: list[dict[str, Any]], node: Node) -> list[Difference]:
    """Each request on a connection of its own; all wait for their silence at the same time."""
    with ThreadPoolExecutor(len(calls)) as pool:
        got = list(pool.map(lambda call: _ask_raw(node, call["raw"].encode("latin-1"), len(call["replies"])), calls))
    differences = []
    for number, (call, answer) in enumerate(zip(calls, got), start=1):
        wanted = {"replies": call["replies"], "then": call["then"]}
        if json.dumps(wanted) != json.dumps(answer):
            differences.append(Difference("wire", number, call["raw"], json.dumps(wanted), json.dumps(answer)))
    return differences


def _ask_raw(node: Node, request: bytes, expected: int) -> dict[str, Any]:
    received, replies = b"", []
    with node.connect() as connection:
        connection.sendall(request)
        while True:
            connection.settimeout(ANSWER_SECONDS if len(replies) < expected else SILENCE_SECONDS)
            try:
                part = connection.recv(1 << 20)
            except TimeoutError:
                return {"replies": replies, "then": "timeout"}
            except ConnectionResetError:
                part = b""
            if not part:
                return {"replies": replies, "then": "closed"}
            *lines, received = (received + part).split(b"\n")
            replies += [json.loads(line) for line in lines]


if __name__ == "__main__":
    for each in sys.argv[1:]:
        outcome = replay(each)
        for difference in outcome.differences:
            print(difference)
        print(outcome)
