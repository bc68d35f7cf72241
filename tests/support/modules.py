"""Modules run as Ansible runs them, in processes of their own: arguments on standard input, one JSON result back."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
COLLECTIONS = TESTS.parent / "build" / "collections"


@functools.lru_cache(maxsize=1)
def _runner() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "support.module_runner"],
        env={**os.environ, "PYTHONPATH": f"{COLLECTIONS}:{TESTS}"},
        stdin=subprocess.PIPE,  # it ends when this is closed, with this process
        stdout=subprocess.PIPE,
        text=True,
    )


def run_module(
    name: str, options: dict[str, Any], check: bool = False, path: str | None = None, root: Path | None = None
) -> dict[str, Any]:
    """The module's result, diff included, with its exit status as ``rc``.

    ``path``: the PATH in which it finds programs. ``root``: a directory that stands for ``/`` where it looks for disks.
    """
    runner = _runner()
    assert runner.stdin and runner.stdout
    job = {
        "module": name,
        "options": {**options, "_ansible_check_mode": check, "_ansible_diff": True},
        "path": path or os.environ["PATH"],
        "root": str(root) if root else None,
    }
    runner.stdin.write(json.dumps(job) + "\n")
    runner.stdin.flush()
    done = json.loads(runner.stdout.readline())
    assert done["out"].strip(), f"{name} printed nothing: {done['err']}"
    return {**json.loads(done["out"]), "rc": done["rc"]}
