"""`make clean-lab` removes every container, network, volume and process of a lab, and nothing else.

A lab of its own, with its own name, subnet and directories, is deployed with the collection's playbooks; whatever else
runs on the machine is a decoy, beside the decoys made here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LAB = "ipdk-cleaned"
DECOY = "ipdk-cleaned-decoy"
"""It begins with the lab's name, and belongs to another lab."""
REMOVE = {"containers": ["rm", "--force"], "networks": ["network", "rm"], "volumes": ["volume", "rm"]}
"""The docker command that removes one of them, in an order that works."""


def docker(*arguments: str) -> str:
    """Output of a docker command; fails with its words."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


def inventory(directory: Path) -> dict[str, object]:
    """One storage target, one IPU and a guest that boots in seconds."""
    return {
        "all": {
            "vars": {
                "ansible_connection": "local",
                "ansible_python_interpreter": "{{ ansible_playbook_python }}",
                "ipdk_lab_name": LAB,
                "ipdk_lab_network": LAB,
                "ipdk_lab_subnet": "198.18.9.0/24",
                "ipdk_run_dir": f"{directory}/run",
                "ipdk_state_dir": f"{directory}/state",
            },
            "children": {
                "storage_targets": {"hosts": {"cst": {"storage_target_address": "198.18.9.10"}}},
                "ipus": {"hosts": {"cipu": {"ipu_address": "198.18.9.20"}}},
                "ipu_hosts": {
                    "hosts": {
                        "chost": {
                            "host_ipu": "cipu",
                            "host_address": "198.18.9.30",
                            "host_guest": "minimal",
                            "host_memory_mib": 256,
                            "host_vcpus": 1,
                            "ipdk_host_access": "none",
                        }
                    }
                },
                "lab_platforms": {"hosts": {"localhost": {}}},
            },
        }
    }


def run(*command: str) -> None:
    """Run a command of the project; fails with the end of what it printed."""
    environment = dict(os.environ)
    environment["ANSIBLE_COLLECTIONS_PATH"] = str(ROOT / "build" / "collections")
    environment["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}"


def everything() -> dict[str, set[str]]:
    """Identities of all containers, networks and volumes of the engine."""
    return {
        "containers": set(docker("ps", "--all", "--quiet", "--no-trunc").split()),
        "networks": set(docker("network", "ls", "--quiet", "--no-trunc").split()),
        "volumes": set(docker("volume", "ls", "--quiet").split()),
    }


def of_lab() -> dict[str, set[str]]:
    """What of it carries the lab's label."""
    label = ("--filter", f"label=io.ipdk.lab={LAB}")
    return {
        "containers": set(docker("ps", "--all", "--quiet", "--no-trunc", *label).split()),
        "networks": set(docker("network", "ls", "--quiet", "--no-trunc", *label).split()),
        "volumes": set(docker("volume", "ls", "--quiet", *label).split()),
    }


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and more than its exit status."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.fixture
def lab() -> Iterator[Path]:
    """The inventory of a deployed lab, which has a volume, too."""
    directory = Path(tempfile.mkdtemp(prefix="ipdk-"))  # short: the names of unix sockets are limited
    path = directory / "hosts.yml"
    path.write_text(yaml.safe_dump(inventory(directory)))
    try:
        playbook = str(Path(sys.executable).with_name("ansible-playbook"))
        run(playbook, "-i", str(path), "playbooks/lab.yml", "playbooks/deploy.yml")
        docker("volume", "create", "--label", f"io.ipdk.lab={LAB}", f"{LAB}-volume")
        yield path
    finally:
        found = of_lab()
        for kind, remove in REMOVE.items():
            if found[kind]:
                docker(*remove, *found[kind])
        shutil.rmtree(directory)


@pytest.fixture
def decoys(lab: Path) -> Iterator[dict[str, str]]:
    """A container, a network, a volume and a process, named like the lab's, that are none of its own."""
    image = docker("inspect", "--format", "{{.Config.Image}}", f"{LAB}-cst-spdk")
    label = ("--label", f"io.ipdk.lab={DECOY}")
    process = subprocess.Popen(["sleep", "900"])
    made: dict[str, str] = {"process": str(process.pid)}
    try:
        made["networks"] = docker("network", "create", *label, "--subnet", "198.18.10.0/24", DECOY)
        made["volumes"] = docker("volume", "create", *label, DECOY)
        made["containers"] = docker(
            "run", "--detach", "--name", DECOY, *label, "--network", DECOY, "--volume", f"{DECOY}:/data",
            "--entrypoint", "sleep", image, "900",
        )  # fmt: skip
        yield made
    finally:
        process.kill()
        process.wait()
        for kind, remove in REMOVE.items():
            if kind in made:
                docker(*remove, made[kind])


def test_clean_lab_removes_the_lab_and_nothing_else(lab: Path, decoys: dict[str, str]) -> None:
    mine = of_lab()
    before = everything()
    names = docker("ps", "--filter", f"label=io.ipdk.lab={LAB}", "--format", "{{.Names}}").split()
    assert sorted(names) == [f"{LAB}-chost-vm", f"{LAB}-cipu-sma", f"{LAB}-cipu-spdk", f"{LAB}-cst-spdk"]
    assert (len(mine["networks"]), len(mine["volumes"])) == (1, 1)
    pids = [item["State"]["Pid"] for item in json.loads(docker("inspect", *mine["containers"]))]
    assert all(is_alive(pid) for pid in pids)

    run("make", "clean-lab", f"INVENTORY={lab}")

    after = everything()
    assert after == {kind: before[kind] - mine[kind] for kind in before}
    assert not [pid for pid in pids if is_alive(pid)], "processes of the lab are left"
    assert [path for part in ("run", "state") for path in (lab.parent / part).glob("*/*")] == []
    assert is_alive(int(decoys["process"]))
    assert docker("inspect", "--format", "{{.State.Running}}", DECOY) == "true"
    assert all(decoys[kind] in after[kind] for kind in ("containers", "networks", "volumes"))

    run("make", "clean-lab", f"INVENTORY={lab}")
    assert everything() == after
