"""A node's SPDK comes back with what its declaration says: real processes, killed and started again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import Client, Error
from support.ports import free_port
from support.spdk import prefix, program
from support.trace_reader import leave_nothing

ROOT = Path(__file__).resolve().parents[3]

NODE_PATH = [ROOT / "roles" / "spdk" / "files" / "node", ROOT / "build" / "collections"]
NQN = "nqn.2022-06.io.ipdk:st1:ipu1"
HOST = "nqn.2014-08.org.nvmexpress:uuid:6f3c0a52-1b1f-5d0e-9d4e-2f0f3f6b7a10"
UUIDS = [f"00000000-0000-4000-8000-00000000000{number}" for number in range(3)]


class Node:
    """``ipdk_node run`` with an SPDK, as a container starts it."""

    def __init__(
        self, directory: Path, name: str, declaration: dict[str, Any] | None = None, hugepages: Path | None = None
    ) -> None:
        self.socket = str(directory / f"{name}.sock")
        self.declaration = directory / f"{name}.json"
        self.log = directory / f"{name}.log"
        self.vhost = directory
        self.hugepages = ["--hugepages", str(hugepages)] if hugepages else []
        self.process: subprocess.Popen[bytes] | None = None
        self._mark = 0  # how long the log was at the last start
        if declaration is not None:
            self.declare(declaration)

    def declare(self, declaration: dict[str, Any]) -> None:
        self.declaration.write_text(json.dumps({"version": 1, **declaration}))

    def start(self) -> Node:
        command, environment = program(1200, prefix())
        self._mark = self.log.stat().st_size if self.log.exists() else 0
        paths = [*map(str, NODE_PATH), environment.get("PYTHONPATH", "")]
        runs = [sys.executable, "-m", "ipdk_node", "run", "--socket", self.socket, "--declaration"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *runs,
                    str(self.declaration),
                    *self.hugepages,
                    "--",
                    *command,
                    "-r",
                    self.socket,
                    "-S",
                    str(self.vhost),
                ],
                env={**environment, "PYTHONPATH": ":".join(paths)},
                stdout=log,
                stderr=log,
            )
        return self

    def child(self) -> int:
        """The process id of SPDK itself."""
        assert self.process is not None
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(until(lambda: path.read_text().split(), "SPDK is not started")[0])

    def kill(self) -> int:
        """Kill SPDK; the exit status of what started it."""
        assert self.process is not None
        child = self.child()
        os.kill(child, signal.SIGKILL)
        status = self.process.wait(120)
        leave_nothing(child)
        return status

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(120)

    def call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        with Client(self.socket) as client:
            return client.call(method, params)

    def names(self, method: str, key: str = "name") -> list[str]:
        """The names in the answer of a list method; none as long as nobody answers."""
        try:
            return sorted(item[key] for item in self.call(method))
        except Error:
            return []

    def says(self, text: str) -> bool:
        """Whether it has said so since its last start."""
        return text in self.log.read_text()[self._mark :]


def until(look: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ipdk-") as path:  # short: a unix socket's path has 107 bytes
        yield Path(path)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def start(directory: Path) -> Iterator[Callable[..., Node]]:
    nodes: list[Node] = []

    def new(name: str, declaration: dict[str, Any] | None = None) -> Node:
        nodes.append(Node(directory, name, declaration))
        return nodes[-1].start()

    yield new
    for node in nodes:
        if node.process is not None and node.process.poll() is None:
            node.stop()


def target_of(directory: Path, port: int, count: int = 2) -> dict[str, Any]:
    """A storage target with volumes in files, as the playbooks declare it."""
    bdevs = []
    for number in range(count):
        file = directory / f"vol{number}.img"
        if not file.exists():
            file.write_bytes(bytes(1 << 20))
        uuid = UUIDS[number]
        bdevs.append({"name": f"vol{number}", "type": "aio", "filename": str(file), "block_size": 512, "uuid": uuid})
    return {
        "node": "st1",
        "transports": [{"trtype": "TCP"}],
        "bdevs": bdevs,
        "subsystems": [
            {
                "nqn": NQN,
                "max_namespaces": 64,
                "hosts": [HOST],
                "namespaces": [{"bdev": bdev["name"], "nsid": 2 * index + 1} for index, bdev in enumerate(bdevs)],
                "listeners": [{"traddr": "127.0.0.1", "trsvcid": str(port)}],
            }
        ],
    }


def ipu_of(port: int, count: int = 2) -> dict[str, Any]:
    return {
        "node": "ipu1",
        "controllers": [
            {"name": "st1", "traddr": "127.0.0.1", "trsvcid": str(port), "subnqn": NQN, "hostnqn": HOST},
        ],
        "vhost_blk": [{"name": f"sma-{number}", "bdev": f"st1n{2 * number + 1}"} for number in range(count)],
    }


def test_both_sides_come_back_after_kill_9_in_either_order(
    start: Callable[..., Node], directory: Path, port: int
) -> None:
    ipu = start("ipu1", ipu_of(port))  # its target is not there yet: it waits
    until(lambda: ipu.says("still missing"), "the IPU does not say what it waits for")
    target = start("st1", target_of(directory, port))

    def whole() -> bool:
        return ipu.names("vhost_get_controllers", "ctrlr") == ["sma-0", "sma-1"]

    until(whole, "the vhost controllers are not there")
    until(lambda: ipu.says("all that is declared is there"), "the IPU does not say that it is done")
    assert [bdev["uuid"] for bdev in ipu.call("bdev_get_bdevs")] == UUIDS[:2]

    assert ipu.kill() == 128 + 9
    ipu.start()
    until(whole, "the IPU did not come back")

    assert target.kill() == 128 + 9
    target.start()
    until(lambda: target.says("all that is declared is there"), "the target did not come back")
    (subsystem,) = target.call("nvmf_get_subsystems")[1:]
    assert {ns["nsid"]: ns["uuid"] for ns in subsystem["namespaces"]} == {1: UUIDS[0], 3: UUIDS[1]}
    until(lambda: ipu.call("bdev_nvme_get_controllers")[0]["ctrlrs"][0]["state"] == "enabled", "it does not reconnect")
    assert whole() and ipu.names("bdev_get_bdevs") == ["st1n1", "st1n3"]

    assert (ipu.stop(), target.stop()) == (0, 0)


def test_a_peer_that_says_nothing_delays_no_other(start: Callable[..., Node], directory: Path, port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        declaration = ipu_of(port)
        lost = {**declaration["controllers"][0], "name": "st2", "trsvcid": str(silent.getsockname()[1])}
        declaration["controllers"].insert(0, lost)
        declaration["vhost_blk"].insert(0, {"name": "sma-9", "bdev": "st2n1"})
        target = start("st1", target_of(directory, port))
        until(lambda: target.says("all that is declared is there"), "the target has not come")
        ipu = start("ipu1", declaration)
        until(lambda: ipu.names("vhost_get_controllers", "ctrlr") == ["sma-0", "sma-1"], "the others are not there")
        assert not ipu.says("controller st2: "), "it has waited for the end of the call about the silent peer"
        until(lambda: ipu.says("controller st2: "), "it does not name the peer")
    assert ipu.names("vhost_get_controllers", "ctrlr") == ["sma-0", "sma-1"]


def test_what_fails_is_named_and_stops_nothing_else(start: Callable[..., Node], directory: Path, port: int) -> None:
    declaration = target_of(directory, port)
    declaration["bdevs"] += [
        {"name": "lost", "type": "aio", "filename": str(directory / "lost.img"), "block_size": 512},
        {"name": "small", "type": "aio", "filename": str(directory / "vol0.img"), "block_size": 512, "size": "2MiB"},
        {"name": "odd", "type": "floppy"},
        {"name": "memory", "type": "malloc", "size": "1MiB"},
    ]
    target = start("st1", declaration)
    until(lambda: target.says("bdev lost: "), "it does not name the bdev whose file is lost")
    until(lambda: target.names("bdev_get_bdevs") == ["memory", "vol0", "vol1"], "the others are not there")
    assert target.says("small: ") and target.says("'floppy' is none of")
    assert target.says("warning: malloc bdevs live in memory and have come back empty: memory")
    until(lambda: target.call("nvmf_get_subsystems")[1]["listen_addresses"], "hosts are not let in")

    (directory / "lost.img").write_bytes(bytes(1 << 20))
    until(lambda: "lost" in target.names("bdev_get_bdevs"), "a file that comes later is not taken")


def test_hosts_are_not_let_in_while_a_namespace_is_missing(
    start: Callable[..., Node], directory: Path, port: int
) -> None:
    declaration = target_of(directory, port)
    (directory / "vol1.img").rename(directory / "elsewhere.img")
    target = start("st1", declaration)
    until(lambda: target.says("still missing"), "it misses nothing")
    assert target.call("nvmf_get_subsystems")[1]["listen_addresses"] == []
    (directory / "elsewhere.img").rename(directory / "vol1.img")
    until(lambda: target.says("all that is declared is there"), "it does not go on")
    (subsystem,) = target.call("nvmf_get_subsystems")[1:]
    assert len(subsystem["namespaces"]) == 2 and len(subsystem["listen_addresses"]) == 1


def test_what_was_taken_away_meanwhile_is_not_made_again(
    start: Callable[..., Node], directory: Path, port: int
) -> None:
    declaration = target_of(directory, port)
    declaration["bdevs"].append(
        {"name": "late", "type": "aio", "filename": str(directory / "late.img"), "block_size": 512}
    )
    target = start("st1", declaration)
    until(lambda: target.says("still missing: bdev late"), "it misses nothing")
    with Client(target.socket) as client:
        client.call("nvmf_delete_subsystem", {"nqn": NQN})
        client.call("bdev_aio_delete", {"name": "vol0"})
    (directory / "late.img").write_bytes(bytes(1 << 20))
    until(lambda: target.says("all that is declared is there"), "it does not end")
    assert target.names("bdev_get_bdevs") == ["late", "vol1"]
    assert len(target.call("nvmf_get_subsystems")) == 1


def restore(node: Node, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ipdk_node", "restore", "--socket", node.socket, "--declaration"]
    environment = {**os.environ, "PYTHONPATH": ":".join(map(str, NODE_PATH))}
    return subprocess.run(
        [*command, str(node.declaration), *more],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_restore_by_itself(start: Callable[..., Node], directory: Path, port: int) -> None:
    target = start("st1")  # without a declaration
    until(lambda: target.says("nothing to restore"), "it does not say that there is nothing")
    target.declare(target_of(directory, port))
    first, second = restore(target), restore(target)
    assert first.returncode == second.returncode == 0, first.stderr
    assert "(0 changes)" in second.stderr

    target.declare({"bdevs": [{"name": "x", "type": "aio", "filename": str(directory / "none")}]})
    given_up = restore(target, "--timeout", "0.5")
    assert given_up.returncode == 1 and "bdev x: " in given_up.stderr

    target.declaration.write_text("{")
    broken = restore(target, "--timeout", "0.1")
    assert broken.returncode == 1 and "cannot be read as a declaration" in broken.stderr


def test_a_unit_is_ready_when_all_is_there_or_when_it_has_waited_long_enough(
    start: Callable[..., Node], directory: Path, port: int
) -> None:
    ipu = start("ipu1")  # restores nothing by itself
    ipu.declare(ipu_of(port))
    path = directory / "notify"
    command = [sys.executable, "-m", "ipdk_node", "restore", "--socket", ipu.socket, "--declaration"]
    environment = {**os.environ, "PYTHONPATH": ":".join(map(str, NODE_PATH)), "NOTIFY_SOCKET": str(path)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(30)
        late = subprocess.Popen([*command, str(ipu.declaration), "--ready-after", "0.5"], env=environment)
        assert manager.recv(100) == b"READY=1"
        assert late.poll() is None, "it has not gone on"
        assert ipu.names("vhost_get_controllers", "ctrlr") == []

        start("st1", target_of(directory, port))
        assert late.wait(30) == 0
        assert ipu.names("vhost_get_controllers", "ctrlr") == ["sma-0", "sma-1"]
        assert manager.recv(100) == b"READY=1"  # once more, which means nothing

        again = subprocess.Popen([*command, str(ipu.declaration), "--ready-after", "1000"], env=environment)
        assert manager.recv(100) == b"READY=1"
        assert again.wait(30) == 0


def test_ends_as_its_command_ends(directory: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": ":".join(map(str, NODE_PATH))}
    run = [
        sys.executable,
        "-m",
        "ipdk_node",
        "run",
        "--socket",
        str(directory / "s"),
        "--declaration",
        str(directory / "d"),
    ]

    def status(*command: str) -> int:
        return subprocess.run([*run, "--", *command], env=environment, timeout=30, check=False).returncode

    assert status("sh", "-c", "exit 7") == 7
    assert status("sh", "-c", "kill -9 $$") == 137
    assert status(str(directory / "nothing")) == 127

    # Restoring hangs: nobody ever writes into this declaration.
    os.mkfifo(directory / "d")
    assert status("sh", "-c", "exit 7") == 7


def test_is_shipped_with_all_that_it_imports(directory: Path) -> None:
    """The role's list of module_utils is enough, and no module of the list is useless."""
    variables = (ROOT / "roles" / "spdk" / "vars" / "main.yml").read_text()
    listed = variables.split("spdk_node_modules:\n")[1].split("#")[0].replace("  - ", "").split()
    program_text = (
        "import sys, ipdk_node.restore; print(*[m.rsplit('.', 1)[1] for m in sys.modules if '.module_utils.' in m])"
    )
    environment = {**os.environ, "PYTHONPATH": ":".join(map(str, NODE_PATH))}
    loaded = subprocess.check_output([sys.executable, "-c", program_text], env=environment, text=True).split()
    assert sorted(loaded) == sorted(listed)
