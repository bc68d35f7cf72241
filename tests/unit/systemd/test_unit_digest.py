# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which changes of a unit start its service anew: SPDK's restart stops the I/O of every host for a moment."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PLATFORM = Path(__file__).resolve().parents[3] / "roles" / "platform"
SERVICE = {
    "name": "ipdk-test-digest",
    "description": "a service of the tests",
    "command": ["/bin/true", "one"],
    "ready": ["/bin/true", "--timeout", "60"],
    "start_timeout": 65,
    "limits": {"MemoryMax": 1048576},
}


def digest(tmp_path: Path, **changes: Any) -> str:
    """What the role makes of the unit that it would write."""
    if not (tmp_path / "templates").exists():
        (tmp_path / "templates").symlink_to(PLATFORM / "templates")
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars_files": [str(PLATFORM / "vars" / "main.yml")],
        "vars": {"platform_service": {**SERVICE, **changes}, "ipdk_uid": 1000, "ipdk_gid": 1000},
        "tasks": [{"name": "Say it", "ansible.builtin.debug": {"msg": "is {{ platform_service_digest }}"}}],
    }
    playbook = tmp_path / "play.yml"
    playbook.write_text(json.dumps([play]), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", str(playbook)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    (found,) = re.findall('"is ([0-9a-f]{16})"', done.stdout)
    return found


@pytest.mark.parametrize(
    "change",
    [
        {"start_timeout": 125, "ready": ["/bin/true", "--timeout", "120"]},
        {"stop_timeout": 99},
        {"description": "the same with another name"},
    ],
)
def test_what_concerns_systemd_alone_starts_nothing_anew(tmp_path: Path, change: dict[str, Any]) -> None:
    assert digest(tmp_path, **change) == digest(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"command": ["/bin/true", "two"]},
        {"limits": {"MemoryMax": 2097152}},
        {"environment": {"A": "b"}},
        {"made_from": "another installation"},
    ],
)
def test_what_the_process_has_starts_it_anew(tmp_path: Path, change: dict[str, Any]) -> None:
    assert digest(tmp_path, **change) != digest(tmp_path)
