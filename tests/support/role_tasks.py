"""A file of tasks of a role, run by itself on the node st1, which is this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def run_tasks(
    directory: Path, role: str, tasks_from: str, *options: str, programs: Path | None = None, **variables: Any
) -> subprocess.CompletedProcess[str]:
    """Run ``roles/<role>/tasks/<tasks_from>.yml`` with these variables and options of ansible-playbook.

    ``directory`` gets the play. What is in ``programs`` comes first in PATH.
    """
    include = {"name": f"ipdk.storage.{role}", "tasks_from": tasks_from}
    play = {
        "hosts": "st1",
        "gather_facts": False,
        "roles": ["ipdk.storage.names"],
        "tasks": [{"name": "Run them", "ansible.builtin.include_role": include}],
    }
    path = directory / "play.yml"
    path.write_text(json.dumps([play]), encoding="utf-8")
    given = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, **variables}
    first = f"{programs}:" if programs else ""
    ansible = str(Path(sys.executable).with_name("ansible-playbook"))
    return subprocess.run(
        [ansible, "-i", "st1,", str(path), "--extra-vars", json.dumps(given), *options],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_FORCE_COLOR": "0", "PATH": f"{first}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
