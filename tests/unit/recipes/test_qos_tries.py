"""How often recipes/qos.yml measures: its own tasks, with a module fio that says what it is told to have measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
FIO = """
import json, os
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule(argument_spec={"jobs": {"type": "list", "elements": "dict"}, "allow_write": {"type": "list"}})
with open("@rates@") as file:
    rates = json.load(file)
with open("@rates@", "w") as file:
    json.dump(rates[1:], file)
if rates[0] is None:
    module.fail_json(msg="fio broke off")
module.exit_json(jobs=[{"iops": rates[0], "bw_bytes": rates[0]}])
"""
LIMITS = {
    "rd_bandwidth": {"limit": 1000, "rw": "read", "bs": "128k"},
    "rw_iops": {"limit": 1000, "rw": "randrw", "bs": "4k"},
}


def collection(directory: Path, rates: Path) -> None:
    """The collection with that module instead of its own, which has an action plugin."""
    here = directory / "ansible_collections" / "ipdk" / "storage"
    (here / "plugins" / "action").mkdir(parents=True)
    for path in ROOT.iterdir():
        if path.name in ("galaxy.yml", "meta", "roles", "playbooks"):
            (here / path.name).symlink_to(path)
    for path in (ROOT / "plugins").iterdir():
        if path.name not in ("action", "modules"):
            (here / "plugins" / path.name).symlink_to(path)
    (here / "plugins" / "modules").mkdir()
    for path in (ROOT / "plugins" / "modules").glob("[!f]*.py"):
        (here / "plugins" / "modules" / path.name).symlink_to(path)
    text = FIO.replace("@rates@", str(rates))
    (here / "plugins" / "modules" / "fio.py").write_text(text, encoding="utf-8")


def measure(tmp_path: Path, kind: str, measured: list[int | None], tries: Any = 3) -> tuple[int, dict[str, Any] | None]:
    """How often the disk was measured, and the number that was kept; none where the play failed."""
    rates, kept = tmp_path / "rates.json", tmp_path / "kept.json"
    rates.write_text(json.dumps(measured), encoding="utf-8")
    collection(tmp_path / "collections", rates)
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "qos_phase": ["device", kind],
        "qos_limits": LIMITS,
        "qos_seconds": 1,
        "qos_tries": tries,
        "qos_host": "host1",
        "qos_ipu": "ipu1",  # not in the play: nobody sets a limit
        "virtual_disks_result": [{"serial": "st1n1"}],
    }
    tasks = [
        {"name": "Measure", "ansible.builtin.include_tasks": str(ROOT / "playbooks" / "tasks" / "qos_measure.yml")},
        {"name": "Tell", "ansible.builtin.copy": {"content": "{{ qos_numbers[0] | to_json }}", "dest": str(kept)}},
    ]
    play = {"hosts": "host1", "gather_facts": False, "vars": variables, "tasks": tasks}
    (tmp_path / "play.yml").write_text(json.dumps([play]), encoding="utf-8")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "host1,", str(tmp_path / "play.yml")],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode == 0) is kept.exists(), done.stdout + done.stderr
    assert done.returncode == 0 or "fio broke off" in done.stdout, done.stdout + done.stderr
    left = len(json.loads(rates.read_text(encoding="utf-8")))
    return len(measured) - left, json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else None


@pytest.mark.parametrize(
    ("kind", "measured", "times", "kept"),
    [
        pytest.param("rd_bandwidth", [990, 1000], 1, (990, True), id="kept at once"),
        pytest.param("rd_bandwidth", [500, 899, 950, 1000], 3, (950, True), id="below the limit it is measured again"),
        pytest.param("rw_iops", [500, 1000, 1000], 2, (1000, True), id="so are requests"),
        pytest.param("rw_iops", [500, 600, 700, 1000], 3, (700, False), id="not for ever"),
        pytest.param("rd_bandwidth", [1200, 1000], 1, (1200, False), id="what is above the limit is not excused"),
        pytest.param("none before", [1050, 1500], 2, (1500, True), id="without a limit it has to be well above it"),
    ],
)
def test_a_disk_is_measured_again_where_it_stays_below(
    tmp_path: Path, kind: str, measured: list[int | None], times: int, kept: tuple[int, bool]
) -> None:
    taken, number = measure(tmp_path, kind, measured)
    assert number is not None
    assert (taken, number["bw_bytes"], number["kept"]) == (times, *kept)


def test_an_operator_may_want_one_try(tmp_path: Path) -> None:
    taken, number = measure(tmp_path, "rd_bandwidth", [500, 1000], tries="1")
    assert taken == 1 and number is not None and not number["kept"]


def test_a_fio_that_fails_is_not_tried_again(tmp_path: Path) -> None:
    assert measure(tmp_path, "rd_bandwidth", [None, 1000]) == (1, None)
