"""The way back: `make clean-lab` removes every container, network, volume and process of a lab, and nothing else; the
roles with the state absent remove what each of them made.

A lab of its own, with its own name, subnet and directories, is deployed with the collection's playbooks; whatever else
runs on the machine is a decoy, beside the decoys made here.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from support.small_lab import LAB, PLAYBOOK, docker, inventory, of_lab, removed, run
from support.spdk import program

DECOY = "ipdk-cleaned-decoy"
"""It begins with the lab's name, and belongs to another lab."""


def everything() -> dict[str, set[str]]:
    """Identities of all containers, networks and volumes of the engine."""
    return {
        "containers": set(docker("ps", "--all", "--quiet", "--no-trunc").split()),
        "networks": set(docker("network", "ls", "--quiet", "--no-trunc").split()),
        "volumes": set(docker("volume", "ls", "--quiet").split()),
    }


def recap(output: str) -> dict[str, int]:
    """How many changes a playbook made, by node."""
    return {node: int(number) for node, number in re.findall(r"^(\S+) +: ok=.* changed=(\d+)", output, re.MULTILINE)}


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and more than its exit status."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[dict[str, int]]:
    """An emulator, a QEMU and what calls itself SMA: the lab's are the same programs, these are none of its own."""
    emulator, environment = program()
    commands = {
        "emulator": [*emulator, "-r", str(tmp_path / "spdk.sock")],
        "qemu": [
            "qemu-system-x86_64",
            "-name",
            "chost",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-M",
            "none",
        ],
        "sma": [sys.executable, "-c", "import time; time.sleep(900)", "-m", "ipdk_sma"],
    }
    made = {}
    with ExitStack() as stack:
        for name, command in commands.items():
            process = stack.enter_context(subprocess.Popen(command, env=environment))
            stack.callback(process.kill)
            made[name] = process.pid
        yield made


@pytest.fixture
def decoys(lab: Path) -> Iterator[dict[str, str]]:
    """A container, a network and a volume, named like the lab's, that are none of its own."""
    image = docker("inspect", "--format", "{{.Config.Image}}", f"{LAB}-cst-spdk")
    label = ("--label", f"io.ipdk.lab={DECOY}")
    with removed(DECOY):
        networks = docker("network", "create", *label, "--subnet", "198.18.10.0/24", DECOY)
        volumes = docker("volume", "create", *label, DECOY)
        containers = docker(
            "run", "--detach", "--name", DECOY, *label, "--network", DECOY, "--volume", f"{DECOY}:/data",
            "--entrypoint", "sleep", image, "900",
        )  # fmt: skip
        yield {"networks": networks, "volumes": volumes, "containers": containers}


def test_clean_lab_removes_the_lab_and_nothing_else(
    lab: Path, decoys: dict[str, str], processes: dict[str, int]
) -> None:
    mine = of_lab()
    before = everything()
    names = docker("ps", "--filter", f"label=io.ipdk.lab={LAB}", "--format", "{{.Names}}").split()
    assert sorted(names) == [f"{LAB}-chost-vm", f"{LAB}-cipu-sma", f"{LAB}-cipu-spdk", f"{LAB}-cst-spdk"]
    assert (len(mine["networks"]), len(mine["volumes"])) == (1, 1)
    pids = [item["State"]["Pid"] for item in json.loads(docker("inspect", *mine["containers"]))]
    assert all(is_alive(pid) for pid in (*pids, *processes.values()))

    run("make", "clean-lab", f"INVENTORY={lab}")

    after = everything()
    assert after == {kind: before[kind] - mine[kind] for kind in before}
    assert not [pid for pid in pids if is_alive(pid)], "processes of the lab are left"
    assert [path for part in ("run", "state") for path in (lab.parent / part).glob("*/*")] == []
    assert [name for name, pid in processes.items() if not is_alive(pid)] == []
    assert docker("inspect", "--format", "{{.State.Running}}", DECOY) == "true"
    assert all(decoys[kind] in after[kind] for kind in ("containers", "networks", "volumes"))

    assert recap(run("make", "clean-lab", f"INVENTORY={lab}")) == {"cst": 0, "cipu": 0, "localhost": 0}
    assert everything() == after


def way_back(hosts: Path) -> dict[str, int]:
    """The roles of all nodes with the state absent; how many changes they made, by node."""
    roles = {"cipu": "ipu", "cst": "storage_target", "chost": "host"}
    plays = [
        {
            "hosts": node,
            "gather_facts": False,
            "roles": [{"role": f"ipdk.storage.{role}", "vars": {f"{role}_state": "absent"}}],
        }
        for node, role in roles.items()
    ]
    playbook = hosts.with_name("way_back.yml")
    playbook.write_text(yaml.safe_dump(plays))
    return recap(run(PLAYBOOK, "-i", str(hosts), str(playbook)))


def below(directory: Path) -> list[str]:
    """All paths in there, relative to it."""
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_roles_with_the_state_absent_remove_what_they_made(lab: Path) -> None:
    run_dir, state_dir = lab.parent / "run", lab.parent / "state"
    there = below(run_dir)
    assert {"chost/qmp.sock", "cipu/spdk/spdk.sock", "cst/spdk/spdk.sock"} <= set(there)
    assert [path for path in there if path.startswith("cipu/sma/sma.sock")]
    data = state_dir / "cst" / "volumes" / "kept.img"
    data.write_bytes(b"data")

    changes = way_back(lab)

    assert [node for node, number in changes.items() if number == 0] == []
    assert of_lab()["containers"] == set()
    assert below(run_dir) == ["cipu", "cst"]
    assert data.read_bytes() == b"data"
    left = (below(run_dir), below(state_dir))
    assert way_back(lab) == {"cipu": 0, "cst": 0, "chost": 0}
    assert (below(run_dir), below(state_dir)) == left


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory like that of a lab; nothing is deployed."""
    with tempfile.TemporaryDirectory(prefix="ipdk-") as directory:
        yield Path(directory)


def test_a_guest_that_is_removed_is_known_no_more(short_path: Path) -> None:
    nodes = inventory(short_path)
    nodes["all"]["children"]["ipu_hosts"]["hosts"]["chost"]["host_guest"] = "debian"
    hosts = short_path / "hosts.yml"
    hosts.write_text(yaml.safe_dump(nodes))
    known = short_path / "state" / f"lab-{LAB}" / "known_hosts"
    known.parent.mkdir(parents=True)
    key = known.with_name("id_ed25519")
    key.write_text("of all guests")
    known.write_text("198.18.9.3 ssh-ed25519 another\n198.18.9.30 ssh-ed25519 this\n198.18.9.30x ssh-ed25519 third\n")
    (short_path / "state" / "chost" / "vm").mkdir(parents=True)

    assert way_back(hosts)["chost"] > 0
    assert known.read_text() == "198.18.9.3 ssh-ed25519 another\n198.18.9.30x ssh-ed25519 third\n"
    assert key.exists(), "the key that logs in to the other guests"
    assert not (short_path / "state" / "chost").exists()
    assert way_back(hosts)["chost"] == 0


def test_without_an_engine_there_is_nothing_to_remove(short_path: Path) -> None:
    hosts = short_path / "hosts.yml"
    hosts.write_text(yaml.safe_dump(inventory(short_path)))
    (short_path / "state" / "cst").mkdir(parents=True)
    output = run("make", "clean-lab", f"INVENTORY={hosts}", DOCKER_HOST=f"unix://{short_path}/docker.sock")
    assert f"localhost: no Docker engine answers, so no lab {LAB} is there: nothing to remove but" in output
    assert below(short_path / "state") == []
