"""What `make demo` reports: build/demo.json with the numbers that were asked for and seen, and the table made of it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
PLAYBOOKS = ROOT / "playbooks"
REPORT = {
    "disks_requested": 64,
    "disks_visible": 63,
    "disks_left": 2,
    "fio": [
        {
            "name": "demo00",
            "disk": "st1n1",
            "iops": 2549.4,
            "bw_bytes": 10485760,
            "lat_ns": {"p50": 8590000, "p99": 43780000},
            "verify_errors": 3,
        }
    ],
    "reattach_data_intact": True,
    "seconds": {"lab": 102.2, "attach": 27.8, "total": 130.0},
    "engine": "emulator",
    "accelerator": "tcg",
}
PLAYBOOK_PROGRAM = """#!/usr/bin/env python3
import json, os, sys
variables = json.loads(sys.argv[sys.argv.index("--extra-vars") + 1])
with open(os.environ["VARIABLES"], "w") as file:
    json.dump(variables, file)
if os.environ["REPORT"]:
    with open(variables["demo_output"], "w") as file:
        file.write(os.environ["REPORT"])
sys.exit(int(os.environ["STATUS"]))
"""


@pytest.fixture
def demo() -> ModuleType:
    """scripts/demo as a module."""
    loader = SourceFileLoader("demo_script", str(ROOT / "scripts" / "demo"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_the_table_has_every_number(demo: ModuleType) -> None:
    lines = demo.summary(REPORT).splitlines()
    assert max(map(len, lines)) <= 80
    words = [" ".join(line.split()) for line in lines]
    for expected in (
        "disks 64 requested, 63 seen by the guest's kernel",
        "data after re-attaching the same",
        "disks left at the end 2",
        "engine, accelerator emulator, tcg",
        "seconds 130",
        "lab 102.2",
        "attach 27.8",
        "demo00 st1n1 2549 10.0 8.59 43.78 3",
    ):
        assert expected in words
    assert "DIFFERENT" in demo.summary({**REPORT, "reattach_data_intact": False})


@pytest.mark.parametrize(("written", "status", "ends_with"), [(True, 0, 0), (True, 2, 2), (False, 2, 2), (False, 0, 1)])
def test_the_program_adds_the_set_up_and_ends_as_the_playbook_did(
    demo: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    written: bool,
    status: int,
    ends_with: int,
) -> None:
    program = tmp_path / "ansible-playbook"
    program.write_text(PLAYBOOK_PROGRAM, encoding="utf-8")
    program.chmod(0o755)
    report = tmp_path / "demo.json"
    report.write_text("of an earlier run", encoding="utf-8")
    monkeypatch.setattr(demo, "REPORT", report)
    monkeypatch.setattr(demo.time, "time", lambda: 1050.0)
    monkeypatch.setattr(sys, "argv", ["demo", "--started", "1000", "--disks", "128"])
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("VARIABLES", str(tmp_path / "variables.json"))
    monkeypatch.setenv("REPORT", json.dumps(REPORT) if written else "")
    monkeypatch.setenv("STATUS", str(status))

    assert demo.main() == ends_with

    variables = json.loads((tmp_path / "variables.json").read_text(encoding="utf-8"))
    assert (variables["demo_disks"], variables["ipu_max_virtual_disks"]) == (128, 128)
    said = capsys.readouterr()
    if written:
        seconds = json.loads(report.read_text(encoding="utf-8"))["seconds"]
        assert seconds == {"setup": 50.0, "lab": 102.2, "attach": 27.8, "total": 180.0}
        assert "setup" in said.out
    else:
        assert not report.exists(), "what an earlier run found is not taken for this one's"
        assert "without a report" in said.err


PLAY = [
    {
        "hosts": "localhost",
        "gather_facts": False,
        "tasks": [{"ansible.builtin.set_fact": {"demo_seconds": {}, "demo_mark": "{{ now().timestamp() }}"}}],
    },
    {
        "hosts": "host1",
        "gather_facts": False,
        "vars_files": [str(PLAYBOOKS / "vars" / "demo.yml")],
        "tasks": [
            {"ansible.builtin.include_tasks": str(PLAYBOOKS / "tasks" / "demo_look.yml")},
            {"ansible.builtin.set_fact": {"demo_visible": "{{ demo_seen | length }}", "demo_intact": True}},
            {
                "ansible.builtin.include_tasks": str(PLAYBOOKS / "tasks" / "demo_clock.yml"),
                "vars": {"demo_phase": "attach"},
            },
            {
                "ipdk.storage.fio": {
                    "jobs": [
                        {
                            "name": "demo00",
                            "filename": "{{ file }}",
                            "rw": "randwrite",
                            "size": "64k",
                            "verify": "crc32c",
                        }
                    ],
                    "allow_write": ["{{ file }}"],
                },
                "register": "demo_fio",
            },
            {
                "ansible.builtin.include_tasks": str(PLAYBOOKS / "tasks" / "demo_clock.yml"),
                "vars": {"demo_phase": "fio"},
            },
            {
                "ansible.builtin.copy": {
                    "content": "{{ demo_report | to_json }}",
                    "dest": "{{ result }}",
                    "mode": "0644",
                }
            },
        ],
    },
]


def report_of(directory: Path, serials: list[str | None], **variables: Any) -> dict[str, Any]:
    """The playbook's report from a host whose kernel shows disks with these serials; None: not even an empty one."""
    for number, serial in enumerate(serials):
        disk = directory / "block" / f"vd{chr(ord('a') + number)}"
        disk.mkdir(parents=True)
        if serial is not None:
            (disk / "serial").write_text(serial, encoding="utf-8")  # as virtio-blk does, without a newline
    (directory / "block" / "loop0").mkdir()
    (directory / "play.yml").write_text(yaml.safe_dump(PLAY), encoding="utf-8")
    result = directory / "report.json"
    given = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "demo_block_devices": str(directory / "block"),
        "file": str(directory / "file"),
        "result": str(result),
        **variables,
    }
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    done = subprocess.run(
        [program, "-i", "host1,", str(directory / "play.yml"), "-e", json.dumps(given)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(result.read_text(encoding="utf-8"))


def test_the_report_counts_what_was_asked_for_and_what_the_kernel_shows(tmp_path: Path) -> None:
    # The role found three; a fourth is a stranger, one is there twice, one has no serial.
    found = [{"name": f"demo0{number}", "serial": f"st1n{number}"} for number in (1, 2, 3)]
    serials = ["ipdk-root", "st1n1", "st1n2", "st1n2 ", "stranger", "", None]
    report = report_of(tmp_path, serials, demo_disks=4, demo_found=found, host_accelerator="tcg")

    assert " ".join(report) == (
        "disks_requested disks_visible disks_left fio reattach_data_intact seconds engine accelerator"
    )
    assert (report["disks_requested"], report["disks_visible"], report["disks_left"]) == (4, 5, 5)
    (job,) = report["fio"]
    assert (job["disk"], job["verify_errors"]) == (str(tmp_path / "file"), 0)
    assert job["iops"] > 0
    assert job["bw_bytes"] > 0
    assert job["lat_ns"]["p99"] >= job["lat_ns"]["p50"] > 0
    assert report["reattach_data_intact"] is True
    assert list(report["seconds"]) == ["attach", "fio", "total"]
    assert report["seconds"]["total"] == round(report["seconds"]["attach"] + report["seconds"]["fio"], 1)
    assert (report["engine"], report["accelerator"]) == ("emulator", "tcg")
