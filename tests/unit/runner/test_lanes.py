"""How tests/run runs suites: lanes at the same time, whole outputs, a last line for programs, nothing lost."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import signal, sys, time
from importlib.machinery import SourceFileLoader
from pathlib import Path

run = SourceFileLoader("tests_run", sys.argv[1]).load_module()
run.BUILD = Path(sys.argv[2])


def until_begun(results):
    while b"\\nbegun" not in results.console._unfinished.get("one", b""):
        time.sleep(0.01)
    results.add("it has begun", True)


run.SUITES = {
    "one": run.Suite(
        run.each(["sh", "-c", "trap 'echo removed; exit 1' INT; echo begun; sleep 600"], ["false"]), lane="1"
    ),
    "two": run.Suite(until_begun, lane="2"),
}
sys.argv[1:] = []
signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
sys.exit(run.main())
"""


def waiting(script: Callable[..., list[str]], name: str, directory: Path, other: str) -> list[str]:
    """A command that ends when another one has begun, too."""
    until = f"until [ -e {directory}/{other} ]; do sleep 0.02; done"
    wait = f"touch {directory}/{name}; timeout 30 sh -c '{until}' || exit 1; "
    return script(f"{name}.sh", f"echo {name} begins; {wait} echo {name} ends\n")


def test_lanes_run_at_the_same_time_and_outputs_stay_whole(
    runner: ModuleType,
    script: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    one, two = waiting(script, "one", tmp_path, "two"), waiting(script, "two", tmp_path, "one")
    after = script("after.sh", f"test -e {tmp_path}/one\n")
    suites = {
        "one": runner.Suite(runner.each(one), lane="1"),
        "two": runner.Suite(runner.each(two, ["false"]), lane="2"),
        "after one": runner.Suite(runner.each(after), lane="1"),
    }
    monkeypatch.setattr(runner, "SUITES", suites)

    assert runner.main() == 1

    said = capfd.readouterr().out
    for name, command in (("one", one), ("two", two)):
        line = f"{name}: $ {' '.join(command)}"
        assert f"\n=== {line}\n{name} begins\n{name} ends\n=== {name}: exit status 0\n" in said
        assert f"] {line}\n" in said, "it was told when it began"
    assert re.search(r"two: 1 passed, 1 failed in \d+ s", said)
    assert said.splitlines()[-2:] == ["failed: two: false", "3 passed, 1 failed"]
    rows = json.loads((tmp_path / "test.json").read_text())["suites"]
    assert [(row["name"], row["passed"], row["failed"], row["skipped"]) for row in rows] == [
        ("one", 1, 0, 0), ("two", 1, 1, 0), ("after one", 1, 0, 0)
    ]  # fmt: skip
    assert all(row["seconds"] >= 0 for row in rows)


def test_suites_of_one_lane_do_not_meet(
    runner: ModuleType, script: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = f"mkdir {tmp_path}/here && sleep 0.1 && rmdir {tmp_path}/here\n"
    suites = {name: runner.Suite(runner.each(script(name, alone)), lane="lab") for name in ("a", "b", "c")}
    monkeypatch.setattr(runner, "SUITES", {**suites, "d": runner.Suite(runner.each(["true"]))})
    assert runner.main() == 0


def test_a_lane_with_nothing_left_helps_another_one(
    runner: ModuleType, script: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = waiting(script, "one", tmp_path, "two"), waiting(script, "two", tmp_path, "one")
    suites = {name: runner.Suite(runner.each(command)) for name, command in (("one", one), ("two", two))}
    monkeypatch.setattr(runner, "SUITES", {"lab": runner.Suite(runner.each(["true"]), lane="lab"), **suites})
    assert runner.main() == 0


def test_a_suite_waits_for_one_of_another_lane(
    runner: ModuleType, script: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watches = script("watches", f"sleep 0.3 && mkdir {tmp_path}/seen\n")
    suites = {
        "waits": runner.Suite(runner.each(["rmdir", str(tmp_path / "seen")]), after="watches"),
        "watches": runner.Suite(runner.each(watches), lane="lab"),
        "alone": runner.Suite(runner.each(["true"]), after="one that is not run"),
    }
    monkeypatch.setattr(runner, "SUITES", suites)
    assert runner.main() == 0


def test_every_story_is_told_once(runner: ModuleType) -> None:
    assert set(runner.OWN_LABS) == {"multi_ipu", "systemd"}
    assert set(runner.SECOND_IPU) == {"move", "transparent"}
    assert sorted(runner.OWN_LABS + runner.SECOND_IPU + runner.ONE_IPU) == sorted(runner.STORIES)
    assert {runner.SUITES[name].after for name in ("installation", "own labs", "systemd")} == {"lab"}


def test_skipped_ones_are_named_before_the_last_line(
    runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cases = tmp_path / "test_cases.py"
    skip = "@pytest.mark.skip(reason='not here')\n"
    cases.write_text(f"import pytest\n\n{skip}def test_a():\n    pass\n\n{skip}def test_b():\n    pass\n")
    (tmp_path / "junit").mkdir()
    suites = {"fake": runner.Suite(runner.pytest("fake", str(cases))), "fine": runner.Suite(runner.each(["true"]))}
    monkeypatch.setattr(runner, "SUITES", suites)

    assert runner.main() == 0

    lines = capfd.readouterr().out.splitlines()
    assert lines[-4] == "2 skipped:"
    assert lines[-3].startswith("skipped: fake: ") and lines[-3].endswith("::test_a")
    assert lines[-2].startswith("skipped: fake: ") and lines[-2].endswith("::test_b")
    assert lines[-1] == "1 passed, 0 failed"
    rows = json.loads((tmp_path / "test.json").read_text())["suites"]
    assert [row["skipped"] for row in rows] == [2, 0]


def test_a_suite_that_breaks_off_has_failed(
    runner: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    suites = {
        "broken": runner.Suite(runner.each(["no-such-program-at-all"])),
        "fine": runner.Suite(runner.each(["true"])),
    }
    monkeypatch.setattr(runner, "SUITES", suites)

    assert runner.main() == 1

    said = capfd.readouterr().out
    assert "--- failed: broken: the suite was broken off" in said
    assert "FileNotFoundError" in said
    assert said.splitlines()[-1] == "1 passed, 1 failed"


def test_a_lab_has_its_engines_from_its_own_environment(runner: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two labs, each with other engines; what is in the environment of who calls does not count."""
    show = ["sh", "-c", 'echo "$SPDK_PREFIX/$IPDK_TARGET_ENGINE/$IPDK_IPU_ENGINE/$IPDK_LAB_NODES/$IPDK_HOST_QEMU"']
    seen: list[str] = []

    def molecule(*_unused: str) -> list[str]:
        return show

    class Watched(runner.Results):
        def call(self, *arguments: object, **named: object) -> tuple[int, str]:
            status, output = super().call(*arguments, **named)
            seen.append(output.strip())
            return status, output

    monkeypatch.setattr(runner, "molecule", molecule)
    monkeypatch.setattr("support.suites.Results", Watched)
    for name in runner.ENGINE_VARIABLES:
        monkeypatch.setenv(name, "wrong")
    before = dict(os.environ)
    suites = {
        "a": runner.Suite(runner.scenarios("spdk", "emulator", "fio")),
        "b": runner.Suite(runner.scenarios("emulator", "spdk", "fio")),
        "c": runner.Suite(runner.scenarios("spdk", "spdk", "nvme")),
        "d": runner.Suite(runner.scenarios("emulator", "emulator", "nvme", "move")),
        "none": runner.Suite(runner.each(show)),
    }
    monkeypatch.setattr(runner, "SUITES", suites)

    assert runner.main() == 0

    # Forgotten, made, one scenario, removed.
    assert seen == [
        *["/spdk/emulator/inventory/"] * 4,
        *["/emulator/spdk/inventory/"] * 4,
        *["/spdk/spdk/inventory/trixie-backports"] * 4,
        *["/emulator/emulator/second/"] * 5,
        "////",
    ]
    assert dict(os.environ) == before


def test_the_lab_and_the_scenarios_share_a_lane_and_nothing_else_is_in_it(runner: ModuleType) -> None:
    lanes = {name: suite.lane for name, suite in runner.SUITES.items()}
    assert [name for name, lane in lanes.items() if lane == runner.LAB] == ["lab", "scenarios"]
    assert len(set(lanes.values())) == 2
    assert len({suite.lane for suite in runner.SPDK_SUITES.values()}) == 1, "an SPDK that polls wants a core for itself"


def test_what_has_not_ended_is_interrupted_and_shown(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(ROOT / "tests" / "run"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert any("two: 1 passed" in line for line in running.stdout)
        running.terminate()
        rest = running.stdout.read()  # to the end: no process has it open any more
    assert running.returncode == 128 + signal.SIGTERM
    assert "sleep 600\nbegun\nremoved\n=== " in rest
    assert "=== one: $ false" not in rest, "no next command begins"
