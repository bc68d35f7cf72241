"""The files of aio volumes: new ones are made, and none takes the place of one that a guest uses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

MIB = 1 << 20


def run(tmp_path: Path, *groups: dict[str, Any]) -> str:
    role = {"name": "ipdk.storage.virtual_disks", "tasks_from": "stages/files_present"}
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "ipdk_uid": os.getuid(),
        "ipdk_gid": os.getgid(),
    }
    include = {"name": "Make files", "ansible.builtin.include_role": role, "vars": {"virtual_disks_then": {}}}
    include["vars"]["virtual_disks_then"]["files_present"] = list(groups)
    play = {"hosts": "st1", "gather_facts": False, "vars": variables, "tasks": [include]}
    (tmp_path / "play.yml").write_text(json.dumps([play]), encoding="utf-8")
    playbook = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "st1,", str(tmp_path / "play.yml")]
    done = subprocess.run(playbook, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_new_files_are_made_and_old_ones_grow_only(tmp_path: Path) -> None:
    new, old = tmp_path / "new file", tmp_path / "old"
    old.write_bytes(b"x" * 2 * MIB)
    run(tmp_path, {"size": MIB, "paths": [str(new), str(old)]})
    assert (new.stat().st_size, old.stat().st_size) == (MIB, 2 * MIB)
    assert new.stat().st_mode & 0o777 == 0o600


def test_no_empty_file_takes_the_place_of_one_that_a_guest_uses(tmp_path: Path) -> None:
    there, gone, new = tmp_path / "there", tmp_path / "gone", tmp_path / "new"
    there.write_bytes(b"x" * MIB)
    known = {"size": MIB, "must_exist": True, "paths": [str(there), str(gone)]}
    said = run(tmp_path, known, {"size": MIB, "paths": [str(new)]})
    assert f"{gone}: wanted the file that was there before, and it is gone, or not mounted" in said
    assert not gone.exists()
    assert (there.read_bytes(), new.stat().st_size) == (b"x" * MIB, MIB)
