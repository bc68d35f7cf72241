"""Every playbook is well-formed with every inventory, and the inventories speak of the same groups."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INVENTORIES = ("simulation", "hardware")


def ansible(command: str, *arguments: str) -> str:
    """What an Ansible command prints; fails with all it said."""
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build" / "collections"),
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
    }
    program = str(Path(sys.executable).with_name(command))
    done = subprocess.run(
        [program, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("inventory", INVENTORIES)
def test_playbooks_are_well_formed(inventory: str) -> None:
    playbooks = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "playbooks").glob("*.yml"))
    assert {"playbooks/lab.yml", "playbooks/deploy.yml", "playbooks/teardown.yml"} <= set(playbooks)
    ansible("ansible-playbook", "--syntax-check", "-i", f"inventories/{inventory}", *playbooks)


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
