"""The bench's own arithmetic, what it reads from Ansible's record, and what its command refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from bench.lab import DISKS, _tasks, busy_seconds, virtual_disks
from bench.report import LEAST, LIMITS, Pairs, Report, task_pairs

ROOT = Path(__file__).resolve().parents[3]


def test_a_report_says_which_bounds_were_missed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    report.add("noop_rpc_per_node", LIMITS["noop_rpc_per_node"], "calls", "counted")
    report.add("emulator_rss_mb", LIMITS["emulator_rss_mb"] + 0.1, "MB", "read", nodes={"st1": 1.0})
    report.add("guest_randread_ratio", LEAST["guest_randread_ratio"] - 0.01, "ratio", "read")
    report.add("something_new", 1e9, "s", "no bound")
    assert report.missed() == ["emulator_rss_mb", "guest_randread_ratio"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith("MISSED") for line in lines] == [False, True, True, False]
    assert "wanted ≤ 150" in lines[1] and "wanted ≥ 0.5" in lines[2] and "wanted" not in lines[3]
    report.write(tmp_path / "bench.json")
    figures = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))["figures"]
    assert [sorted(row) for row in figures] == [
        ["how", "name", "unit", "value"],
        ["how", "name", "nodes", "unit", "value"],
        ["how", "name", "unit", "value"],
        ["how", "name", "unit", "value"],
    ]


def test_what_bounds_a_figure_is_told_where_it_is_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    report.add("two_ipus_ratio", 1.5, "ratio", "measured", bound_by="the cores: all of them", cores=2)
    report.add("two_ipus_ratio", 1.5, "ratio", "measured", bound_by="")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("wanted ≤ 1.2  bound by the cores: all of them") and lines[1].endswith("MISSED")
    assert report.missed() == ["two_ipus_ratio"]
    assert report.figures[0]["bound_by"] == "the cores: all of them" and "bound_by" not in report.figures[1]


def test_the_cores_work_while_somebody_computes() -> None:
    before = busy_seconds()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    assert busy_seconds() - before >= 0.25


def test_a_real_spdk_has_names_and_bounds_of_its_own() -> None:
    report = Report("_spdk")
    report.add("create_64_volumes_ratio", 1.4, "ratio", "within the emulator's bound")
    report.add("restore_seconds_per_64", 1e9, "s", "no bound")
    assert [row["name"] for row in report.figures] == ["create_64_volumes_ratio_spdk", "restore_seconds_per_64_spdk"]
    assert report.missed() == ["create_64_volumes_ratio_spdk"]


def test_a_ratio_is_the_median_of_the_rounds_not_the_ratio_of_medians() -> None:
    pairs = Pairs([1.0, 2.0, 9.0], [1.0, 4.0, 3.0])
    assert (pairs.ratios, pairs.ratio, pairs.medians()) == ([1.0, 0.5, 3.0], 1.0, (2.0, 3.0))
    for ours, other in (([], []), ([1.0], [1.0, 2.0])):
        with pytest.raises(AssertionError, match="rounds of ours"):
            Pairs(ours, other)


def task(name: str, seconds: float, delta: str | None = None) -> dict[str, Any]:
    result = {"action": "command", "changed": True, **({"delta": delta} if delta else {})}
    duration = {"start": "2026-01-01T00:00:00.000000Z", "end": f"2026-01-01T00:00:{seconds:09.6f}Z"}
    return {"task": {"name": name, "duration": duration}, "hosts": {"st1": result}}


def test_a_rounds_time_is_the_sum_of_its_tasks() -> None:
    rounds = [
        [task("ours : One", 1), task("Two", 2), task("Bare", 1.5, "0:00:00.250000")],
        [task("ours : One", 2), task("Two", 4), task("Bare", 2, "0:00:00.500000")],
        [task("ours : One", 3), task("Two", 6), task("Bare", 2, "0:01:00.500000")],
    ]
    tasks = _tasks({"plays": [{"tasks": [one for some in rounds for one in some]}]})
    assert [(one["host"], one["module"], one["changed"], one["skipped"]) for one in tasks] == [
        ("st1", "command", True, False)
    ] * 9
    pairs, details = task_pairs(tasks, ["One", "Two"], ["Bare"])
    assert pairs.ratio == 3.0
    assert details == {
        "our_seconds": 6.0,
        "bare_seconds": 2.0,
        "bare_process_seconds": 0.5,
        "rounds": [2.0, 3.0, 4.5],
    }
    with pytest.raises(AssertionError, match="0 rounds of ours"):
        task_pairs(tasks, ["Three"], ["Bare"])


def test_the_disks_of_the_lab() -> None:
    disks = virtual_disks("attached", but_last="detached")["virtual_disks"]
    assert (len(disks), len({disk["name"] for disk in disks})) == (DISKS, DISKS)
    assert {disk["state"] for disk in disks[:-1]} == {"attached"} and disks[-1]["state"] == "detached"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["restore"],
            "no part is called restore; there are: module, two_ipus, whole, volumes, devices, noop, emulator, reads",
        ),
        (["--spdk-prefix", "/nowhere"], "/nowhere has no build/bin/spdk_tgt: name the directory of a built SPDK"),
    ],
)
def test_what_the_command_refuses(arguments: list[str], said: str) -> None:
    command = [sys.executable, "tests/bench/run", *arguments]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].endswith(said)
