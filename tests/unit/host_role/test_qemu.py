"""Where the guest's QEMU comes from: its backports, the suite itself, or one that has vfio-user; nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PLAY = """
- hosts: host1
  gather_facts: false
  roles: [ipdk.storage.names]
  tasks:
    - ansible.builtin.include_role: {name: ipdk.storage.host, tasks_from: TASKS}
"""
SHOW = """
    - ansible.builtin.include_vars: ROOT/roles/host/vars/main.yml
    - ansible.builtin.copy:
        content: "{{ lookup('ansible.builtin.template', 'ROOT/roles/host/templates/qemu.Dockerfile.j2') }}"
        dest: OUT
"""


def play(directory: Path, text: str, *variables: str) -> subprocess.CompletedProcess[str]:
    (directory / "play.yml").write_text(text, encoding="utf-8")
    given = [f"ansible_python_interpreter={sys.executable}", "host_ipu=ipu1", *variables]
    command = ["ansible-playbook", "-i", "host1,", "-c", "local", *(word for each in given for word in ("-e", each))]
    return subprocess.run(
        [*command, str(directory / "play.yml")], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_suite_without_a_qemu_for_this_is_refused(tmp_path: Path) -> None:
    ended = play(tmp_path, PLAY.replace("TASKS", "qemu_base"), "host_qemu_suite=sid", "host_platform=host1")
    assert ended.returncode == 2
    wanted = "host1: host_qemu_suite: wanted one of bookworm, bookworm-backports, trixie-backports, got sid."
    assert wanted in " ".join(ended.stdout.split())


@pytest.mark.parametrize(
    ("suite", "base", "install"),
    [
        ("bookworm", "FROM ipdk-storage/base:bookworm", "--no-install-recommends qemu-system-x86"),
        ("", "FROM ipdk-storage/base:bookworm", "-t bookworm-backports qemu-system-x86"),
        ("trixie-backports", "FROM ipdk-storage/base:trixie", "-t trixie-backports qemu-system-x86"),
    ],
)
def test_the_image_is_made_of_the_suite(tmp_path: Path, suite: str, base: str, install: str) -> None:
    text = PLAY.split("  tasks:", maxsplit=1)[0] + "  tasks:" + SHOW
    text = text.replace("ROOT", str(ROOT)).replace("OUT", str(tmp_path / "Dockerfile"))
    ended = play(tmp_path, text, *([f"host_qemu_suite={suite}"] if suite else []))
    assert ended.returncode == 0, ended.stdout
    made = (tmp_path / "Dockerfile").read_text(encoding="utf-8")
    assert made.startswith(base + "\n") and install in made
    assert ("backports.list" in made) == (suite != "bookworm")
