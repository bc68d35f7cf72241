"""disk_unplug as a task: what it returns of each side, and what it says where both fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.modules import COLLECTIONS

NOBODY = {
    "address": "unix:/nowhere/sma.sock:8080",
    "rpc_socket": "/nowhere/spdk.sock",
    "rpc_timeout": 1.0,
    "devices": [],
}


def unplug(**options: Any) -> dict[str, Any]:
    ansible = Path(sys.executable).parent / "ansible"
    command = [ansible, "localhost", "-m", "ipdk.storage.disk_unplug", "-a", json.dumps(options)]
    command += ["-e", json.dumps({"ansible_connection": "local", "ansible_python_interpreter": sys.executable})]
    env = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
    }
    done = subprocess.run(command, env=env, text=True, capture_output=True, check=False)
    result: dict[str, Any] = json.loads(done.stdout)["plays"][0]["tasks"][0]["hosts"]["localhost"]
    return result


def test_a_host_looks() -> None:
    result = unplug(host={"absent": ["no-such-serial"], "timeout": 1})
    assert (result["changed"], result["still_there"]) == (False, [])
    assert "devices" not in result


def test_what_both_sides_say_is_told() -> None:
    conflict = {"absent": ["a"], "present": ["a"]}
    result = unplug(device={**NOBODY, "devices": [{"physical_id": 0, "state": "absent"}]}, host=conflict)
    assert result["failed"]
    assert "/nowhere/spdk.sock" in result["msg"]
    assert result["msg"].endswith("; a: wanted present and absent at once")


def test_a_side_that_fails_is_not_hidden_by_the_other() -> None:
    result = unplug(device={**NOBODY, "devices": [{"physical_id": 0, "state": "absent"}]}, host={"absent": ["a"]})
    assert result["failed"]
    assert "/nowhere/spdk.sock" in result["msg"]
