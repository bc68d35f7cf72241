"""Hugepages as the role makes and removes them, for two nodes of one machine at once, in mounts of the test's own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))
from tests.support.hugepages import NUMBER, SETTINGS, own_mounts  # noqa: E402  (the path to it is made here)

PLAY = """
- hosts: "{{ nodes }}"
  gather_facts: false
  strategy: ansible.builtin.free
  roles: [{role: ipdk.storage.names}]
  tasks:
    - ansible.builtin.include_role: {name: ipdk.storage.spdk, tasks_from: "{{ item }}"}
      loop: "{{ entries }}"
      loop_control: {loop_var: item}
"""


class Machine:
    """Two nodes, with 4 pages each, on a machine whose fstab, sysctl.d and mounts are its own."""

    def __init__(self, enter: list[str], directory: Path) -> None:
        self.enter = enter
        self.directory = directory
        variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "ipdk_run_dir": str(directory / "run"),
            "ipdk_engine": "spdk",
            "spdk_hugepages": True,
            "spdk_hugepages_reserve": True,
            "spdk_memory_mib": 8,
        }
        groups = {"storage_targets": {"hosts": {"st1": {}}}, "ipus": {"hosts": {"ipu1": {}}}}
        inventory = {"all": {"vars": variables, "children": groups}}
        (directory / "hosts.yml").write_text(yaml.safe_dump(inventory), encoding="utf-8")
        (directory / "play.yml").write_text(PLAY, encoding="utf-8")

    def run(self, *command: str, status: int = 0) -> str:
        environment = {**os.environ, "ANSIBLE_FORCE_COLOR": "0"}
        done = subprocess.run(
            [*self.enter, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    def play(self, nodes: str, *entries: str, status: int = 0, **variables: object) -> str:
        """Run entry points of the role; what Ansible printed."""
        given = json.dumps({"nodes": nodes, "entries": entries, **variables})
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        inventory, play = str(self.directory / "hosts.yml"), str(self.directory / "play.yml")
        return self.run(program, "-i", inventory, play, "--extra-vars", given, status=status)

    def mounted(self) -> list[str]:
        """Where there are hugepages of nodes, with the options that name their user."""
        lines = [line.split() for line in self.run("cat", "/proc/self/mounts").splitlines()]
        ours = [fields for fields in lines if fields[2] == "hugetlbfs" and fields[1].startswith(str(self.directory))]
        assert all("uid=64020" in fields[3] and "mode=700" in fields[3] for fields in ours), ours
        return sorted(str(Path(fields[1]).relative_to(self.directory)) for fields in ours)

    def fstab(self) -> list[str]:
        """The same, as a boot finds it."""
        lines = [line.split() for line in self.run("cat", "/etc/fstab").splitlines() if "hugetlbfs" in line]
        assert all("nofail" in fields[3] and "x-systemd.before=docker.service" in fields[3] for fields in lines), lines
        return sorted(str(Path(fields[1]).relative_to(self.directory)) for fields in lines)


@pytest.fixture
def machine() -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="ipdk-") as path:
        (Path(path) / "fstab").touch()
        Path("/etc/fstab").touch()
        with own_mounts(8, f"mount --bind {path}/fstab /etc/fstab") as enter:
            yield Machine(enter, Path(path))


def test_two_nodes_get_theirs_and_give_them_back(machine: Machine) -> None:
    before = int(NUMBER.read_text())
    refused = machine.play("all", "size", status=2, spdk_hugepages_reserve=False)
    assert "spdk_hugepages: 8 MiB are needed in hugepages of 2048 KiB, 4 for st1, 4 for ipu1; 0 are free" in refused
    assert int(NUMBER.read_text()) == before

    machine.play("all", "size", "hugepages")
    both = ["run/ipu1/hugepages", "run/st1/hugepages"]
    assert machine.mounted() == machine.fstab() == both
    assert int(NUMBER.read_text()) == before + 8
    assert f"vm.nr_hugepages = {before + 8}" in machine.run("cat", str(SETTINGS))

    again = machine.play("all", "size", "hugepages")
    assert re.findall(r"changed=(\d+)", again) == ["0", "0"]

    gone = {"spdk_hugepage_dirs": ["{{ spdk_hugepage_dir }}"]}
    machine.play("ipu1", "hugepages_absent", **gone)
    assert machine.mounted() == machine.fstab() == ["run/st1/hugepages"]
    assert int(NUMBER.read_text()) == before + 8, "a node is left"

    machine.play("st1", "hugepages_absent", **gone)
    assert machine.mounted() == machine.fstab() == []
    assert int(NUMBER.read_text()) == before
    assert machine.run("ls", "/etc/sysctl.d") == ""
