"""The inventories speak of the same groups; a lab's subnet is its own; who asks first makes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INVENTORIES = ("simulation", "hardware")


def ansible(command: str, *arguments: str, status: int = 0) -> str:
    """What an Ansible command prints; fails with all it said where it ends otherwise."""
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build" / "collections"),
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
    }
    program = str(Path(sys.executable).with_name(command))
    done = subprocess.run(
        [program, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("inventory", INVENTORIES)
def test_inventories_have_the_groups_and_what_each_node_needs(inventory: str) -> None:
    listed = json.loads(ansible("ansible-inventory", "-i", f"inventories/{inventory}", "--list"))
    variables = listed["_meta"]["hostvars"]
    needed = {"storage_targets": "storage_target_address", "ipus": "ipu_address", "ipu_hosts": "host_ipu"}
    for group, name in needed.items():
        hosts = listed[group]["hosts"]
        assert hosts
        assert [host for host in hosts if name not in variables[host]] == []
    assert {variables[host]["host_ipu"] for host in listed["ipu_hosts"]["hosts"]} <= set(listed["ipus"]["hosts"])


def test_only_a_simulation_simulates() -> None:
    simulation, hardware = (
        json.loads(ansible("ansible-inventory", "-i", f"inventories/{inventory}", "--list"))
        for inventory in INVENTORIES
    )
    assert simulation["lab_platforms"]["hosts"] == ["localhost"]
    assert "lab_platforms" not in hardware
    assert not any("host_guest" in hardware["_meta"]["hostvars"][host] for host in hardware["ipu_hosts"]["hosts"])


def test_a_subnet_that_another_network_has_is_refused() -> None:
    device, lab = "ipdk-taken", "ipdk-refused"
    subprocess.run(["ip", "link", "add", device, "type", "bridge"], check=True)
    try:
        subprocess.run(["ip", "address", "add", "198.18.77.1/25", "dev", device], check=True)
        subprocess.run(["ip", "link", "set", device, "up"], check=True)
        variables = {"ipdk_lab_name": lab, "ipdk_lab_network": lab, "ipdk_lab_subnet": "198.18.77.0/24"}
        said = ansible(
            "ansible-playbook",
            "-i",
            "inventories/simulation",
            "playbooks/lab.yml",
            "--extra-vars",
            json.dumps(variables),
            status=2,
        )
        assert f"ipdk_lab_subnet 198.18.77.0/24 has addresses of {device} on localhost" in said
        assert lab not in subprocess.check_output(["docker", "network", "ls"], text=True)
    finally:
        subprocess.run(["ip", "link", "delete", device], check=True)


def test_the_directories_of_another_labs_nodes_are_refused(tmp_path: Path) -> None:
    """Of nodes with the same names, and before anything is made."""
    docker = ["docker", "create", "--label", "io.ipdk.lab=ipdk-neighbour", "--name", "ipdk-neighbour-st1-spdk"]
    remove = ["docker", "rm", "--force", "ipdk-neighbour-st1-spdk"]
    subprocess.run(remove, check=False)  # of a run that was interrupted
    empty = subprocess.run(["tar", "--create", "--files-from=/dev/null"], capture_output=True, check=True).stdout
    subprocess.run(["docker", "import", "-", "ipdk-neighbour"], input=empty, check=True)
    try:
        place = f"{tmp_path}/run/st1/spdk"
        subprocess.run([*docker, "--volume", f"{place}:{place}", "ipdk-neighbour", "nothing"], check=True)
        lab = "ipdk-refused"
        variables = {"ipdk_lab_name": lab, "ipdk_lab_network": lab, "ipdk_lab_subnet": "198.18.77.0/24"}
        variables |= {"ipdk_run_dir": f"{tmp_path}/run", "ipdk_state_dir": f"{tmp_path}/state"}
        inventory = ["-i", "inventories/simulation", "playbooks/lab.yml", "--extra-vars"]
        said = ansible("ansible-playbook", *inventory, json.dumps(variables), status=2)
        assert f"another lab's on localhost: ipdk-neighbour has {tmp_path}/run/st1. Give this" in " ".join(said.split())
        assert lab not in subprocess.check_output(["docker", "network", "ls"], text=True)
        assert not (tmp_path / "state" / "host1").exists()
    finally:
        subprocess.run(remove, check=True)
        subprocess.run(["docker", "rmi", "ipdk-neighbour"], check=True)


def test_check_mode_of_a_lab_that_was_never_made(tmp_path: Path) -> None:
    lab = "ipdk-asked"
    variables = {
        "ipdk_lab_name": lab,
        "ipdk_lab_network": lab,
        "ipdk_lab_subnet": "198.18.78.0/24",
        "ipdk_run_dir": f"{tmp_path}/run",
        "ipdk_state_dir": f"{tmp_path}/state",
    }
    playbooks = ("playbooks/lab.yml", "playbooks/deploy.yml")
    said = ansible(
        "ansible-playbook",
        "-i",
        "inventories/simulation",
        "--check",
        *playbooks,
        "--extra-vars",
        json.dumps(variables),
    )
    recap = {line.split()[0]: line for line in said.splitlines() if " ok=" in line}
    assert {node for node, line in recap.items() if "changed=0" not in line} == {"host1", "ipu1", "localhost", "st1"}
    assert lab not in subprocess.check_output(["docker", "ps", "--all", "--format", "{{.Names}}"], text=True)
    assert lab not in subprocess.check_output(["docker", "network", "ls"], text=True)
    assert list(tmp_path.iterdir()) == []
