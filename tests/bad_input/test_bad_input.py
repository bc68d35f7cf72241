"""Every row of tests/bad_input.yml: one clear error, not a request to a node before it, and nothing changed.

What Ansible reports is read as data (callback ansible.posix.json), so that a pattern is looked for in the error's own
words and not in the titles of tasks. What is below the directories of the nodes is compared before and after.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.support.emulator import Emulator  # noqa: E402  (the path to it is made here)
from tests.support.rpc_relay import RpcRelay  # noqa: E402  (likewise)
from tests.unit.spdk_role import fake_spdk  # noqa: E402  (likewise)

HERE = Path(__file__).parent
ROWS = yaml.safe_load((ROOT / "tests" / "bad_input.yml").read_text(encoding="utf-8"))
NODES = ("st1", "ipu1")
GOOD_DISK = {"name": "vol00", "size": "64MiB", "backing": {"type": "malloc"}}


class MuteRelay(RpcRelay):
    """It takes every request and never answers."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        text = ""
        while data := await reader.read(65536):
            text = self._note(text + data.decode())
        writer.close()


class Nodes:
    """What is at the RPC sockets of the nodes, by the word that a row has for it: relay, where it has none.

    relay   counts what it is asked, and knows no method
    spdk    likewise, with an emulator behind it that answers
    mute    likewise, and never answers
    dead    the socket is there, and nobody listens
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.relays: dict[str, RpcRelay] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, kinds: dict[str, str], there: dict[str, list[dict[str, Any]]] | None = None) -> None:
        for node in NODES:
            kind, path = kinds.get(node, "relay"), self.socket(node)
            path.parent.mkdir(parents=True)
            if kind == "dead":
                with socket.socket(socket.AF_UNIX) as nobody:
                    nobody.bind(str(path))
                continue
            upstream = None
            if kind == "spdk":
                behind = self.directory / f"{node}-spdk"
                behind.mkdir()
                emulator = self._stack.enter_context(Emulator(behind))
                upstream = str(emulator.rpc_socket)
                for call in (there or {}).get(node, []):
                    emulator.call(call["method"], **call.get("params", {}))
            relay = MuteRelay(str(path)) if kind == "mute" else RpcRelay(str(path), upstream)
            self.relays[node] = self._stack.enter_context(relay)

    def socket(self, node: str) -> Path:
        return self.directory / "run" / node / "spdk" / "spdk.sock"

    def asked(self) -> dict[str, list[str]]:
        """The methods that each was asked for."""
        return {node: relay.methods for node, relay in self.relays.items()}

    def files(self) -> set[tuple[str, int, int]]:
        """Path, mode and owner of all that is below the directories of the nodes."""
        places = [self.directory / name for name in ("run", "state", "cache", "installed")]
        found = [item for place in places for item in (place, *place.rglob("*")) if item.exists()]
        return {(str(item), item.lstat().st_mode, item.lstat().st_uid) for item in found}


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    with Nodes(tmp_path) as nodes:
        yield nodes


@pytest.fixture
def repository(tmp_path: Path) -> None:
    """A repository with a submodule and the tag v26.05, at sources/spdk."""
    fake_spdk.make(tmp_path / "sources")


def run(row: dict[str, Any], nodes: Nodes) -> tuple[int, dict[str, Any], str]:
    """Run a row; its exit status, what Ansible reports, and all that was printed."""
    inventory = str(HERE / row.get("inventory", "inventory.yml"))
    tool = str(Path(sys.executable).parent / "ansible")
    if row["run"].endswith(".yml"):
        variables = json.dumps(row.get("vars", {}))
        command = [f"{tool}-playbook", "-i", inventory, str(ROOT / row["run"]), "--extra-vars", variables]
        command += ["--limit", row["limit"]] if "limit" in row else []
        command += ["--check"] if row.get("check") else []
    else:
        arguments = json.dumps({"rpc_socket": str(nodes.socket("st1")), **row["args"]})
        command = [tool, "st1", "-i", inventory, "-m", row["run"], "-a", arguments]
    environment = {
        **os.environ,
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
        "ANSIBLE_FORCE_COLOR": "0",
        "BAD_INPUT_DIR": str(nodes.directory),
        **row.get("env", {}),
    }
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, text=True, capture_output=True, check=False, timeout=120
    )
    output = done.stdout + done.stderr
    assert done.stdout.startswith("{"), output
    return done.returncode, json.loads(done.stdout), output


def results(report: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each result with its node; those of a loop one by one."""
    for play in report["plays"]:
        for task in play["tasks"]:
            for node, result in task["hosts"].items():
                for item in result.get("results") or [result]:
                    yield node, item


def errors(report: dict[str, Any]) -> set[str]:
    """The error messages. What several nodes say is one message, whichever of them says it first."""
    failed = [(node, item) for node, item in results(report) if item.get("failed") or item.get("unreachable")]
    return {str(item["msg"]).removeprefix(f"{node}: ") for node, item in failed}


def changed(report: dict[str, Any]) -> bool:
    """Whether the recap or a single result says so."""
    recap = any(counts["changed"] for counts in report["stats"].values())
    return recap or any(item.get("changed") for _name, item in results(report))


@pytest.mark.parametrize("row", ROWS, ids=[row["case"] for row in ROWS])
def test_bad_input(row: dict[str, Any], nodes: Nodes, request: pytest.FixtureRequest) -> None:
    if "fixture" in row:
        request.getfixturevalue(row["fixture"])
    nodes.start(row.get("nodes", {}), row.get("there"))
    before = nodes.files()

    status, report, output = run(row, nodes)

    assert status == row["exit"], output
    assert "Traceback" not in output, output
    said = errors(report)
    assert len(said) == 1, said
    assert re.search(row["message"], *said), said
    if "nodes" in row:  # only whoever asks learns that a node does not answer; the others are looked at and no more
        assert all("_get_" in method for methods in nodes.asked().values() for method in methods), nodes.asked()
    else:
        assert nodes.asked() == {"st1": [], "ipu1": []}
    # A row that is excused has to need it.
    assert changed(report) == ("changes" in row), output
    assert (nodes.files() != before) == ("changes" in row), nodes.files() ^ before


def test_no_row_has_a_key_twice() -> None:
    """Not even one that it takes from another row: Ansible, whose tools read the table, warns of that."""
    read = "import sys; from ansible.parsing.dataloader import DataLoader; DataLoader().load_from_file(sys.argv[1])"
    environment = {**os.environ, "ANSIBLE_DUPLICATE_YAML_DICT_KEY": "error"}
    done = subprocess.run(
        [sys.executable, "-c", read, str(ROOT / "tests" / "bad_input.yml")],
        env=environment, text=True, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_both_nodes_are_asked_about_a_good_list(nodes: Nodes) -> None:
    """What no row makes the relays count, they do count where the list is right."""
    nodes.start({})
    row = {"run": "playbooks/disks.yml", "vars": {"virtual_disks": [GOOD_DISK]}}
    status, report, output = run(row, nodes)
    assert {"bdev_get_bdevs", "nvmf_get_subsystems"} <= set(nodes.asked()["st1"]), output
    assert {"bdev_get_bdevs", "bdev_nvme_get_controllers"} <= set(nodes.asked()["ipu1"]), output
    assert status == 2
    assert all("cannot tell its" in error for error in errors(report)), "the relays know no method"


def test_what_a_good_module_call_changes_is_seen(nodes: Nodes) -> None:
    nodes.start({"st1": "spdk"})
    bdevs = [{"name": "a", "type": "malloc", "size": "1MiB"}]
    status, report, output = run({"run": "ipdk.storage.spdk_bdev", "args": {"bdevs": bdevs}}, nodes)
    assert (status, errors(report), changed(report)) == (0, set(), True), output
    assert "bdev_malloc_create" in nodes.asked()["st1"]
