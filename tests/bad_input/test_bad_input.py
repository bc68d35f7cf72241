"""Every row of tests/bad_input.yml: one clear error, and not a single request to a node before it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.support.rpc_relay import RpcRelay  # noqa: E402  (the path to it is made here)

INVENTORY = Path(__file__).with_name("inventory.yml")
ROWS = yaml.safe_load((ROOT / "tests" / "bad_input.yml").read_text(encoding="utf-8"))


@pytest.fixture
def relays(tmp_path: Path) -> Iterator[list[RpcRelay]]:
    with (
        RpcRelay(str(tmp_path / "st1" / "spdk" / "spdk.sock")) as target,
        RpcRelay(str(tmp_path / "ipu1" / "spdk" / "spdk.sock")) as ipu,
    ):
        yield [target, ipu]


def command(row: dict[str, Any], directory: Path) -> list[str]:
    tool = [sys.executable, str(Path(sys.executable).parent / "ansible")]
    if row["run"].endswith(".yml"):
        variables = json.dumps(row.get("vars", {}))
        playbook = str(ROOT / row["run"])
        return [*tool[:1], f"{tool[1]}-playbook", "-i", str(INVENTORY), playbook, "--extra-vars", variables]
    arguments = {"rpc_socket": str(directory / "st1" / "spdk" / "spdk.sock"), **row["args"]}
    return [*tool, "st1", "-i", str(INVENTORY), "-m", row["run"], "-a", json.dumps(arguments)]


@pytest.mark.parametrize("row", ROWS, ids=[row["case"] for row in ROWS])
def test_bad_input(row: dict[str, Any], relays: list[RpcRelay], tmp_path: Path) -> None:
    env = {**os.environ, **row.get("env", {}), "BAD_INPUT_DIR": str(tmp_path), "ANSIBLE_FORCE_COLOR": "0"}
    done = subprocess.run(
        command(row, tmp_path), cwd=ROOT, env=env, text=True, capture_output=True, check=False, timeout=120
    )
    output = done.stdout + done.stderr
    assert done.returncode == row["exit"], output
    assert re.search(row["message"], output), output
    assert "Traceback" not in output, output
    assert [relay.methods for relay in relays] == [[], []]
