"""disk_plan, the planner as a task: it says what the filters say, and refuses what they refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from world import World, disk, nodes

PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")


def play(directory: Path, tasks: list[dict[str, Any]], variables: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    path = directory / "play.yml"
    path.write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]), encoding="utf-8")
    command = [str(PLAYBOOK), "-i", "localhost,", str(path), "-e", json.dumps(variables)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))


def task(**more: Any) -> dict[str, Any]:
    return {"ipdk.storage.disk_plan": {"disks": "{{ disks }}", "nodes": "{{ nodes }}", **more}, "register": "done"}


def test_it_says_what_the_filters_say(tmp_path: Path) -> None:
    world = World(nodes())
    # Nothing is unplugged: what would stay as it is where that fails is left out.
    planned = "disks | ipdk.storage.plan(nodes, seen, {'safe_mode': false}) | combine({'kept': {}, 'remember': []})"
    checks = [f"done.plan == ({planned})"]
    ours = task(observed="{{ seen }}", options={"safe_mode": False})
    done = play(
        tmp_path,
        [ours, {"ansible.builtin.assert": {"that": [*checks, "not done.changed", "done.plan.steps | length == 4"]}}],
        {"disks": [disk()], "nodes": world.inventory, "seen": world.observed()},
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("more", [{}, {"observed": {}}])
def test_every_mistake_of_a_list_is_told(tmp_path: Path, more: dict[str, Any]) -> None:
    shown = {"ansible.builtin.debug": {"msg": "{{ done.msg.splitlines() }}"}, "when": "done.failed"}
    refused = play(
        tmp_path,
        [{**task(**more), "ignore_errors": True}, shown],
        {"disks": [disk("a/b"), disk(size="1000")], "nodes": nodes()},
    )
    assert refused.returncode == 0, refused.stdout + refused.stderr
    assert "'a/b'" in refused.stdout and "1000 bytes" in refused.stdout, refused.stdout
