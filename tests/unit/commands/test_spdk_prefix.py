"""SPDK_PREFIX and ENGINE: they arrive; where nothing is built, one error before anything is installed or started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def refused(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode != 0
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize("target", ["demo", "lab", "disks", "test-spdk", "bench"])
def test_make_refuses_a_directory_without_spdk(target: str, tmp_path: Path) -> None:
    error = refused("make", "--no-print-directory", target, f"SPDK_PREFIX={tmp_path}")
    assert f"SPDK_PREFIX is '{tmp_path}': name the directory of a built SPDK" in error
    assert len(error.splitlines()) == 2, "make's own line and ours"


def test_make_test_spdk_wants_a_prefix() -> None:
    assert "SPDK_PREFIX is ''" in refused("make", "--no-print-directory", "test-spdk", "SPDK_PREFIX=")


def test_so_does_the_program_behind_it(tmp_path: Path) -> None:
    error = refused(sys.executable, "tests/run", "--spdk-prefix", str(tmp_path))
    assert error.splitlines()[-1].endswith(f"{tmp_path} has no build/bin/spdk_tgt: name the directory of a built SPDK")


def test_a_suite_of_the_other_table_is_not_taken(tmp_path: Path) -> None:
    program = tmp_path / "build" / "bin" / "spdk_tgt"
    program.parent.mkdir(parents=True)
    program.touch()
    error = refused(sys.executable, "tests/run", "--spdk-prefix", str(tmp_path), "sanity")
    assert "no suite is called sanity; there are: modules, " in error


def planned(*arguments: str) -> str:
    """What make would run."""
    command = ["make", "--no-print-directory", "--dry-run", *arguments]
    return subprocess.check_output(command, cwd=ROOT, text=True)


@pytest.mark.parametrize("target", ["lab", "disks"])
def test_make_passes_engine_and_prefix_on(target: str, tmp_path: Path) -> None:
    program = tmp_path / "build" / "bin" / "spdk_tgt"
    program.parent.mkdir(parents=True)
    program.touch(0o755)
    said = planned(target, f"SPDK_PREFIX={tmp_path}")
    assert '--extra-vars "ipdk_engine=spdk"' in said
    assert f"--extra-vars \"spdk_prefix='{tmp_path}'\"" in said
    assert '--extra-vars "ipdk_engine=spdk"' in planned(target, "ENGINE=spdk", "SPDK_PREFIX=")
    assert "--extra-vars" not in planned(target, "ENGINE=", "SPDK_PREFIX="), "the inventory says which engine"
