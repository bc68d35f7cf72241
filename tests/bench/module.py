"""Memory of a module with 1,000 volumes in its list."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from support.emulator import Emulator
from support.modules import COLLECTIONS

from .report import Report


def measure(report: Report) -> None:
    """The module's own process, as Ansible starts it, with 1,000 volumes in its list."""
    volumes = [{"name": f"v{number}", "type": "malloc", "size": 1 << 20} for number in range(1000)]
    with tempfile.TemporaryDirectory() as directory, Emulator(Path(directory)) as emulator:
        arguments = {"rpc_socket": str(emulator.rpc_socket), "bdevs": volumes}
        peaks = [peak("spdk_bdev", arguments, changed) for changed in (True, False)]
    report.add(
        "module_rss_mb_1000_volumes",
        max(peaks),
        "MB",
        "peak resident memory (ru_maxrss) of the process of spdk_bdev that creates 1,000 volumes, and of a second one "
        "that finds them; the larger",
    )


def peak(name: str, arguments: dict[str, Any], changed: bool) -> float:
    command = [sys.executable, "-m", f"ansible_collections.ipdk.storage.plugins.modules.{name}"]
    env = {**os.environ, "PYTHONPATH": str(COLLECTIONS)}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, cwd="/")
    assert process.stdin and process.stdout
    process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode())
    process.stdin.close()
    answer = json.loads(process.stdout.read())
    _unused, _unused, usage = os.wait4(process.pid, 0)
    assert answer.get("changed") is changed, answer
    return usage.ru_maxrss * 1024 / 1e6
