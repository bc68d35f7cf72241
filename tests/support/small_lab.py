"""A lab of a test's own, with its own name, subnet and directories, deployed with the collection's playbooks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK = str(Path(sys.executable).with_name("ansible-playbook"))
LAB = "ipdk-cleaned"
NODES = ("cst", "cipu", "chost")
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


def run(*command: str, **more: str) -> str:
    """Run a command of the project; what it printed, with which it fails. ``more`` is added to the environment."""
    environment = {**os.environ, **more}
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
    return done.stdout


def of_lab(name: str = LAB) -> dict[str, set[str]]:
    """What of it carries the lab's label."""
    label = ("--filter", f"label=io.ipdk.lab={name}")
    return {
        "containers": set(docker("ps", "--all", "--quiet", "--no-trunc", *label).split()),
        "networks": set(docker("network", "ls", "--quiet", "--no-trunc", *label).split()),
        "volumes": set(docker("volume", "ls", "--quiet", *label).split()),
    }


@contextmanager
def removed(lab: str, *nodes: str) -> Iterator[None]:
    """Nothing of this lab and its nodes is there before, of a run that was interrupted, and nothing afterwards."""
    try:
        remove_lab(lab, *nodes)
        yield
    finally:
        remove_lab(lab, *nodes)


def remove_lab(lab: str, *nodes: str) -> None:
    """With what would bring directories of its nodes back at a boot; those themselves are the test's."""
    for node in nodes:
        for path in Path("/etc/tmpfiles.d").glob(f"ipdk-*@{node}.conf"):
            path.unlink()
    found = of_lab(lab)
    for kind, remove in REMOVE.items():
        if found[kind]:
            docker(*remove, *found[kind])


@contextmanager
def small_lab() -> Iterator[Path]:
    """The inventory of a deployed lab, which has a volume, too."""
    directory = Path(tempfile.mkdtemp(prefix="ipdk-"))  # short: the names of unix sockets are limited
    path = directory / "hosts.yml"
    path.write_text(yaml.safe_dump(inventory(directory)))
    try:
        run(PLAYBOOK, "-i", str(path), "playbooks/lab.yml", "playbooks/deploy.yml")
        docker("volume", "create", "--label", f"io.ipdk.lab={LAB}", f"{LAB}-volume")
        yield path
    finally:
        remove_lab(LAB, *NODES)
        shutil.rmtree(directory)
