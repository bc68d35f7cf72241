"""The files of lvol stores: new ones are made, old ones grow only, and a check tells what a run would do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.role_tasks import run_tasks

MIB = 1 << 20


@pytest.fixture
def changes(tmp_path: Path):
    """Have the role make a file; whether that changed something, or would."""

    def run(path: Path, size: int, *options: str) -> bool:
        work = {"files": [{"path": str(path), "size": size}]}
        mine = {"ipdk_uid": os.getuid(), "ipdk_gid": os.getgid()}
        done = run_tasks(tmp_path, "storage_target", "lvol_files", *options, storage_target_lvol_work=work, **mine)
        assert done.returncode == 0, done.stdout + done.stderr
        return "changed=1" in done.stdout

    return run


def test_a_new_file_is_made(changes, tmp_path: Path) -> None:
    path = tmp_path / "a store's"
    assert changes(path, MIB, "--check")
    assert not path.exists()
    assert changes(path, MIB)
    assert (path.stat().st_size, path.stat().st_mode & 0o777) == (MIB, 0o600)
    assert not changes(path, MIB, "--check")
    assert not changes(path, MIB)


def test_an_old_file_keeps_its_data_and_grows_only(changes, tmp_path: Path) -> None:
    path = tmp_path / "store"
    path.write_bytes(b"x" * MIB)
    assert not changes(path, MIB // 2)
    assert changes(path, 2 * MIB)
    assert path.read_bytes() == b"x" * MIB + bytes(MIB)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives a file away")
def test_a_file_of_somebody_else_is_spdks(changes, tmp_path: Path) -> None:
    path = tmp_path / "store"
    path.write_bytes(b"x" * MIB)
    os.chown(path, 65534, 65534)
    assert changes(path, MIB, "--check")
    assert path.stat().st_uid == 65534
    assert changes(path, MIB)
    assert (path.stat().st_uid, path.read_bytes()) == (0, b"x" * MIB)
