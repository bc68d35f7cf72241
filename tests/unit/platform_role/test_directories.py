"""Directories are looked at first, all at once; only those that are not as they are wanted are made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
NOBODY = 65534


@pytest.fixture
def make(tmp_path: Path):
    """Have the role make directories; the paths of those that it changed, or would."""

    def run(directories: list[dict], *options: str) -> list[str]:
        task = {
            "name": "Make them",
            "ansible.builtin.include_role": {"name": "ipdk.storage.platform", "tasks_from": "directories"},
            "vars": {"platform_directories": directories},
        }
        variables = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        play = {"hosts": "st1", "gather_facts": False, "vars": variables, "tasks": [task]}
        (tmp_path / "play.yml").write_text(json.dumps([play]), encoding="utf-8")
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("ansible-playbook")),
                "-i",
                "st1,",
                str(tmp_path / "play.yml"),
                *options,
            ],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        items = [line.split("item=")[1].rstrip(")") for line in done.stdout.splitlines() if "item=" in line]
        assert all(line.startswith("changed:") for line in done.stdout.splitlines() if "item=" in line), done.stdout
        return items

    return run


def wanted(path: Path, mode: str, owner: int = 0) -> dict:
    return {"path": str(path), "mode": mode, "owner": owner, "group": owner}


def is_now(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return f"{status.st_mode & 0o7777:04o}", status.st_uid, status.st_gid


def test_what_is_as_it_shall_be_is_left_alone(make, tmp_path: Path) -> None:
    right, linked = tmp_path / "right", tmp_path / "linked"
    right.mkdir(mode=0o700)
    linked.symlink_to(right)
    directories = [
        wanted(right, "0700"),
        wanted(linked, "0700"),
        wanted(tmp_path / "missing", "0755", NOBODY),
        wanted(tmp_path / "open", "0700"),
        wanted(tmp_path / "somebodys", "0700", NOBODY),
    ]
    for name in ("open", "somebodys"):
        (tmp_path / name).mkdir(mode=0o755)
    changed = [entry["path"] for entry in directories[2:]]

    assert make(directories, "--check") == changed
    assert not (tmp_path / "missing").exists()
    assert make(directories) == changed
    assert [is_now(Path(entry["path"])) for entry in directories] == [
        (entry["mode"], entry["owner"], entry["group"]) for entry in directories
    ]
    assert linked.is_symlink()
    assert make(directories) == []
