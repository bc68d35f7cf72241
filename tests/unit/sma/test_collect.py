"""SMA's packages on the controller: collected once, however many IPUs ask for them at the same time."""

from __future__ import annotations

import subprocess
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[3] / "roles" / "ipu" / "files" / "collect-sma.sh"
# Instead of an interpreter with pip and grpcio-tools: it notes that it was called, and takes its time.
PYTHON = """#!/bin/sh
echo "$2" >>@log@
sleep 0.5
"""


def test_two_ipus_at_once_collect_once(tmp_path: Path) -> None:
    log, python, directory = tmp_path / "log", tmp_path / "python", tmp_path / "cache" / "sma"
    python.write_text(PYTHON.replace("@log@", str(log)), encoding="utf-8")
    python.chmod(0o755)
    command = ["sh", str(SCRIPT), str(python), "3.11", "x86_64", str(directory)]
    running = [subprocess.Popen(command) for _ipu in range(3)]
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0]
    assert (directory / "complete").exists()
    assert log.read_text(encoding="utf-8").splitlines().count("pip") == 1
