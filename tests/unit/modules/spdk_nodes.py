"""What the module tests share: modules run as processes of their own, against a real SPDK or the emulator.

The emulator is the default. ``SPDK_PREFIX=/where/it/was/built pytest tests/unit/modules`` runs the same tests against
``$SPDK_PREFIX/build/bin/spdk_tgt``.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import Client, ConnectionFailed
from support.spdk import START_SECONDS, prefix, program

ROOT = Path(__file__).resolve().parents[3]
COLLECTIONS = ROOT / "build" / "collections"


class Node:
    """A running SPDK, and modules run against it as Ansible runs them: arguments as JSON on standard input."""

    def __init__(self, address: str) -> None:
        self.address = address

    def module(self, name: str, check: bool = False, **options: Any) -> dict[str, Any]:
        """The module's result, with its exit status as ``rc``."""
        options = {"rpc_socket": self.address, **options, "_ansible_check_mode": check, "_ansible_diff": True}
        return run_module(name, options)

    def call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        with Client(self.address) as client:
            return client.call(method, params)


@functools.lru_cache(maxsize=1)
def _runner() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("module_runner.py"))],
        env={**os.environ, "PYTHONPATH": str(COLLECTIONS)},
        stdin=subprocess.PIPE,  # it ends when this is closed, with this process
        stdout=subprocess.PIPE,
        text=True,
    )


def run_module(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The module's result, with its exit status as ``rc``."""
    runner = _runner()
    assert runner.stdin and runner.stdout
    runner.stdin.write(json.dumps({"module": name, "options": options}) + "\n")
    runner.stdin.flush()
    done = json.loads(runner.stdout.readline())
    assert done["out"].strip(), f"{name} printed nothing: {done['err']}"
    return {**json.loads(done["out"]), "rc": done["rc"]}


def start(directory: Path, name: str) -> tuple[subprocess.Popen[bytes], Node]:
    """Start an SPDK whose files are in ``directory`` and wait until it answers."""
    address = str(directory / f"{name}.sock")
    command, env = program(built_at=prefix())
    log = (directory / f"{name}.log").open("wb")
    process = subprocess.Popen([*command, "-r", address, "-S", str(directory)], env=env, stdout=log, stderr=log)
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, f"SPDK ended at once: {(directory / f'{name}.log').read_text()}"
        try:
            with Client(address) as client:
                client.call("framework_wait_init")
            return process, Node(address)
        except ConnectionFailed:
            assert time.monotonic() < deadline, "SPDK does not answer"
            time.sleep(0.05)
