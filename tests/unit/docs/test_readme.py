"""What README.md tells a newcomer to type is there, and its example is a valid declaration."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from ansible_collections.ipdk.storage.plugins.plugin_utils import validate

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [
    "\n".join(line[4:] for line in block.splitlines()).strip()
    for block in re.findall(r"(?:^(?: {4}.*)?\n)+", README, flags=re.MULTILINE)
    if block.strip()
]
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith(("make ", "build/venv/bin/"))]


def test_there_are_commands() -> None:
    assert {"make demo", "make test"} <= {command.split("  ")[0] for command in COMMANDS}


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:`|^ {4})make ([a-z-]+)", README, flags=re.MULTILINE))))
def test_make_knows_the_target(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:.*## ", makefile, flags=re.MULTILINE)


@pytest.mark.parametrize("command", [command for command in COMMANDS if "ansible-playbook" in command])
def test_the_playbook_and_its_inventory_are_there(command: str) -> None:
    words = command.split()
    inventory, playbook = words[words.index("-i") + 1], next(word for word in words if word.startswith("playbooks/"))
    check = ["ansible-playbook", "-i", inventory, "--syntax-check", playbook]
    subprocess.run(check, cwd=ROOT, check=True, capture_output=True, timeout=60)


def test_the_example_is_a_valid_declaration() -> None:
    example = next(block for block in BLOCKS if block.startswith("virtual_disks:"))
    nodes = {
        "targets": {"st1": {"address": "198.18.0.10", "port": 4420, "volumes_dir": "/v"}},
        "ipus": {"ipu1": {"host_nqn": "nqn.2014-08.org.nvmexpress:uuid:1", "max_disks": 64}},
        "hosts": {"host1": {"ipu": "ipu1", "access": "ssh"}},
    }
    disks = validate.validate(yaml.safe_load(example)["virtual_disks"], nodes)
    assert [disk.name for disk in disks] == ["vol00"]
