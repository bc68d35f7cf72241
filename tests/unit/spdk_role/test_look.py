"""A node whose SPDK runs as a container gets no second one of systemd, which would never be ready."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DOCKER = """#!/bin/sh
[ "$*" = "container inspect ipdk-st1-spdk" ] && exit {status}
exit 125
"""


@pytest.mark.parametrize("there", [True, False])
def test_a_container_that_is_there_is_named(tmp_path: Path, there: bool) -> None:
    docker = tmp_path / "docker"
    docker.write_text(DOCKER.format(status=0 if there else 1), encoding="utf-8")
    docker.chmod(0o755)
    look = {
        "name": "Look",
        "ansible.builtin.include_role": {"name": "ipdk.storage.spdk", "tasks_from": "look"},
    }
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "ipdk_runtime": "systemd",
        "ipdk_lab_name": "ipdk",
    }
    play = {
        "hosts": "st1",
        "gather_facts": False,
        "vars": variables,
        "roles": ["ipdk.storage.names"],
        "tasks": [look],
    }
    (tmp_path / "play.yml").write_text(json.dumps([play]), encoding="utf-8")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "st1,", str(tmp_path / "play.yml")],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == (2 if there else 0), done.stdout
    said = "st1: wanted SPDK with runtime systemd, and there is one with runtime container. Remove that first"
    assert (said in done.stdout) is there
