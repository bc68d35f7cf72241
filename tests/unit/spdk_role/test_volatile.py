"""A restart that would empty malloc volumes needs leave; here with systemd, whose systemctl is the test's."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.emulator import Emulator
from support.role_tasks import run_tasks

SYSTEMCTL = """#!/bin/sh
echo "$*" >>@directory@/asked
case "$*" in
    *MainPID*) cat @directory@/pid ;;
    *ExecMainStartTimestamp*) date -u '+%a %Y-%m-%d %H:%M:%S.%6N UTC' ;;
    show*) printf 'LoadState=loaded\\nActiveState=active\\nSubState=running\\nUnitFileState=enabled\\n' ;;
esac
"""


class Node:
    """A storage target whose SPDK listens at ``rpc_socket``."""

    def __init__(self, directory: Path, rpc_socket: str) -> None:
        self.directory = directory
        self.link = directory / "state" / "st1" / "spdk"
        (directory / "installed" / "one").mkdir(parents=True)
        self.link.parent.mkdir(parents=True)
        self.link.symlink_to(directory / "installed" / "one")
        systemctl = directory / "systemctl"
        systemctl.write_text(SYSTEMCTL.replace("@directory@", str(directory)), encoding="utf-8")
        systemctl.chmod(0o755)
        self.given = {
            "ipdk_run_dir": str(directory / "run"),
            "ipdk_state_dir": str(directory / "state"),
            "spdk_runtime": "systemd",
            "spdk_rpc_socket": rpc_socket,
            "spdk_command_line": ["/bin/true"],
            "spdk_process_memory": "512m",
            "spdk_startup": [],
            "spdk_size": {"files": 1024, "cpus": ""},
            "spdk_node_is_there": True,
        }

    def runs_from(self, digest: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["sleep", "300"], env={**os.environ, "IPDK_STARTED_FROM": digest})
        (self.directory / "pid").write_text(f"{process.pid}\n", encoding="utf-8")
        return process

    def look(self, installation: str = "one") -> tuple[int, str]:
        """Exit status of the look, and all that was printed, changes included."""
        installed = {"path": str(self.directory / "installed" / installation), "image": "", "program": "spdk_tgt"}
        given = {**self.given, "spdk_installed": installed}
        done = run_tasks(self.directory, "spdk", "volatile", "--diff", programs=self.directory, **given)
        return done.returncode, done.stdout


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with Emulator(tmp_path) as spdk:
        spdk.call("bdev_malloc_create", name="held", num_blocks=2048, block_size=512)
        spdk.call("bdev_null_create", name="nothing", num_blocks=2048, block_size=512)
        yield Node(tmp_path, str(spdk.rpc_socket))


def test_a_restart_that_would_empty_a_volume_is_refused_and_nothing_is_done(node: Node) -> None:
    said = "st1: this run has to start SPDK anew, and these malloc volumes would come back empty: held. Nothing was"
    with node.runs_from("something else") as process:
        status, printed = node.look()
        process.kill()
    assert status == 2 and said in printed
    digest = re.findall(r"\+Environment=IPDK_STARTED_FROM=([0-9a-f]{16})", printed)[-1]

    with node.runs_from(digest) as process:
        assert node.look()[0] == 0, "what runs is what shall run"
        status, printed = node.look("another")
        process.kill()
    assert status == 2 and said in printed
    assert node.link.readlink().name == "one"
    asked = (node.directory / "asked").read_text(encoding="utf-8")
    assert not re.search(r"^(re)?(start|load|enable|stop)", asked, re.MULTILINE), asked


def test_what_listens_and_does_not_answer_may_have_something_to_lose(node: Node) -> None:
    path = node.directory / "silent.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        node.given |= {"spdk_rpc_socket": str(path), "spdk_rpc_timeout": 1}
        status, printed = node.look("another")
    assert status == 2
    assert "no answer to bdev_get_bdevs within 1 s; it may still be carried out. Nothing was changed." in printed
    assert not (node.directory / "asked").exists()


def test_where_nobody_listens_there_is_nothing_to_lose(node: Node) -> None:
    node.given["spdk_rpc_socket"] = str(node.directory / "nobody.sock")
    assert node.look("another")[0] == 0
    assert not (node.directory / "asked").exists()
