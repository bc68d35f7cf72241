"""What the module tests share: modules run as processes of their own, against a real SPDK or the emulator.

The emulator is the default. ``SPDK_PREFIX=/where/it/was/built pytest tests/unit/modules`` runs the same tests against
``$SPDK_PREFIX/build/bin/spdk_tgt``.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import Client, ConnectionFailed
from support.modules import run_module
from support.spdk import START_SECONDS, prefix, program


class Node:
    """A running SPDK, and modules run against it as Ansible runs them: arguments as JSON on standard input."""

    def __init__(self, address: str) -> None:
        self.address = address

    def module(self, name: str, check: bool = False, **options: Any) -> dict[str, Any]:
        """The module's result, with its exit status as ``rc``."""
        return run_module(name, {"rpc_socket": self.address, **options}, check)

    def call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        with Client(self.address) as client:
            return client.call(method, params)


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
