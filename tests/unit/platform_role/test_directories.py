"""Directories are looked at first, all at once; only those that are not as they are wanted are made."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.role_tasks import run_tasks

NOBODY = 65534


@pytest.fixture
def make(tmp_path: Path):
    """Have the role make directories; the paths of those that it changed, or would."""

    def run(directories: list[dict], *options: str) -> list[str]:
        done = run_tasks(tmp_path, "platform", "directories", *options, platform_directories=directories)
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
