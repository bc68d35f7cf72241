"""The files of aio volumes: new ones are made, and none takes the place of one that a guest uses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from support.role_tasks import run_tasks

MIB = 1 << 20


def run(tmp_path: Path, *groups: dict[str, Any]) -> str:
    then = {"files_present": list(groups)}
    mine = {"ipdk_uid": os.getuid(), "ipdk_gid": os.getgid()}
    done = run_tasks(tmp_path, "virtual_disks", "stages/files_present", virtual_disks_then=then, **mine)
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
