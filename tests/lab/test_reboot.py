"""A boot of the machine: nothing below /run outlives it, and the nodes' containers start all the same.

The machine itself is not booted. The containers are killed, their directories below /run taken away as a boot does, and
brought back by what a boot runs: systemd-tmpfiles, with the files that the roles have written.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import Client, Error
from support.small_lab import LAB, docker, run

TMPFILES = [Path(f"/etc/tmpfiles.d/ipdk-{name}.conf") for name in ("spdk@cst", "spdk@cipu", "sma@cipu", "vm@chost")]
CONTAINERS = ["chost-vm", "cst-spdk", "cipu-spdk", "cipu-sma"]


def owners(directory: Path) -> dict[str, tuple[int, int, str]]:
    """Owner, group and mode of every directory in there."""
    found = [path for path in directory.rglob("*") if path.is_dir()]
    return {
        str(path.relative_to(directory)): (path.stat().st_uid, path.stat().st_gid, oct(path.stat().st_mode))
        for path in found
    }


def until(look: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 240
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def asked(socket: Path, method: str) -> Any:
    """The answer of an SPDK; None as long as there is none."""
    try:
        with Client(str(socket)) as client:
            return client.call(method)
    except Error:
        return None


def test_containers_start_after_a_boot_and_a_node_has_its_state(lab: Path) -> None:
    run_dir = lab.parent / "run"
    before = owners(run_dir)
    assert {"cst/spdk", "cipu/spdk", "cipu/vhost", "cipu/sma", "chost"} <= set(before)
    names = [f"{LAB}-{name}" for name in CONTAINERS]
    docker("kill", *names)
    run_dir.rename(lab.parent / "run.before")
    started = subprocess.run(["docker", "start", *names], capture_output=True, text=True, timeout=120, check=False)
    assert started.returncode != 0, "no directory is needed below /run: this test shows nothing"

    run("systemd-tmpfiles", "--create", *map(str, TMPFILES))

    assert owners(run_dir) == before
    for name in names:
        docker("start", name)
    for node in ("cst", "cipu"):
        until(lambda node=node: asked(run_dir / node / "spdk" / "spdk.sock", "spdk_get_version"), f"{node} is silent")
    transports = until(
        lambda: asked(run_dir / "cst" / "spdk" / "spdk.sock", "nvmf_get_transports"), "nothing was restored"
    )
    assert [(each["trtype"], each["max_queue_depth"]) for each in transports] == [("TCP", 128)]
    until(lambda: list((run_dir / "cipu" / "sma").glob("sma.sock:*")), "SMA does not listen")

    # Another queue depth: SPDK cannot change a transport, so it is started anew, with what the node keeps.
    playbook = str(Path(sys.executable).with_name("ansible-playbook"))
    run(playbook, "-i", str(lab), "playbooks/deploy.yml", "-e", "storage_target_queue_depth=64")
    transports = asked(run_dir / "cst" / "spdk" / "spdk.sock", "nvmf_get_transports")
    assert [(each["trtype"], each["max_queue_depth"]) for each in transports] == [("TCP", 64)]

    run(playbook, "-i", str(lab), "playbooks/teardown.yml")
    assert [path for path in TMPFILES if path.exists()] == []
