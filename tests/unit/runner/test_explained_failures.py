"""What tests/run says about failures at its end: enough to understand them, short enough for a log's last screens."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from support.commands import ALL_LINES, FAILURE_LINES, Failure, clean, excerpt, explain, reason, stream

ROOT = Path(__file__).resolve().parents[3]

Script = Callable[[str, str], list[str]]


def test_a_failed_command_is_explained_before_the_table(
    runner: ModuleType,
    script: Script,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    noise = "seq -f 'chatter %g' 2000\n"
    fake = "echo 'TASK [Make a thing]'; echo 'fatal: [st1]: FAILED! => no thing' >&2\n"
    broken = script("broken", f"{noise}{fake}{noise}exit 3\n")
    fine = script("fine", "echo all is well\n")
    monkeypatch.setattr(runner, "SUITES", {"fake": runner.Suite(runner.each(fine, broken))})

    assert runner.main() == 1

    lines = capfd.readouterr().out.splitlines()
    table = next(number for number, line in enumerate(lines) if line.startswith("suite "))
    again = lines.index(f"--- failed: fake: {' '.join(broken)}")
    assert lines[again + 1 : again + 3] == ["TASK [Make a thing]", "fatal: [st1]: FAILED! => no thing"]
    assert again < table < again + FAILURE_LINES + 5
    assert len(lines) - again < 250
    assert lines[-1] == "1 passed, 1 failed"
    assert "chatter 1000" in lines[:again], "the output itself is shown in full"
    assert "--- failed: fake: " + " ".join(fine) not in lines
    suites = json.loads((tmp_path / "test.json").read_text())["suites"]
    assert [(suite["passed"], suite["failed"]) for suite in suites] == [(1, 1)]


def test_a_failed_case_is_explained_by_its_own_text(
    runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cases = tmp_path / "test_cases.py"
    cases.write_text("def test_good():\n    pass\n\n\ndef test_bad():\n    assert 'want' == 'have'\n")
    (tmp_path / "junit").mkdir()
    monkeypatch.setattr(runner, "SUITES", {"fake": runner.Suite(runner.pytest("fake", str(cases)))})

    assert runner.main() == 1

    explained = capfd.readouterr().out.split("--- failed: fake: ")[-1]
    assert explained.splitlines()[0].endswith("::test_bad")
    assert "E       AssertionError: assert 'want' == 'have'" in explained
    assert explained.rstrip().endswith("1 passed, 1 failed")


def test_nothing_is_explained_where_nothing_failed() -> None:
    assert explain([]) == []


def test_an_output_without_marks_is_shown_from_its_end() -> None:
    assert excerpt("\n".join(f"line {number}" for number in range(100))) == [f"line {n}" for n in range(60, 100)]


@pytest.mark.parametrize(
    "mark",
    [
        "failed: [ipu1] (item=x) => no",
        "ERROR: Found 1 pep8 issue(s) which need to be resolved:",
        "CRITICAL Ansible return code was 2",
        "ERROR    Scenario failed",
        "=================================== FAILURES ===================================",
        "Traceback (most recent call last):",
        "\x1b[0;31mfatal: [st1]: FAILED! => red\x1b[0m",
    ],
)
def test_a_failure_begins_at_its_mark(mark: str) -> None:
    shown = excerpt("\n".join(["before"] * 100 + [mark] + ["after"] * 45))
    assert shown[-46:] == [clean(mark), *["after"] * 45]


def test_what_ansible_ignores_is_no_failure() -> None:
    ignored = ["TASK [Try]", "fatal: [st1]: FAILED! => first", "fatal: [ipu1]: FAILED! => too", "...ignoring"]
    real = ["TASK [Do]", "fatal: [st1]: FAILED! => second", "PLAY RECAP"]
    assert excerpt("\n".join([*ignored, *real])) == real


def test_the_last_lines_say_why() -> None:
    """Molecule draws a border and breaks lines where it takes its output for a terminal's."""
    border = "  \x1b[2m\x1b[31m│\x1b[0m "
    drawn = [
        "TASK [Try]",
        "failed: [st1]",
        "(item=1) => first",
        "failed: [st1]",
        "(item=2) => second",
        "...ignoring",
        "",
        "TASK [Do]",
        "fatal: [ipu1]:",
        "UNREACHABLE! =>",
    ]
    output = "\n".join(border + line for line in [*drawn, "no route", "PLAY RECAP"])
    assert reason(Failure("molecule x", output)) == "molecule x: fatal: [ipu1]: UNREACHABLE! => no route PLAY RECAP"
    assert reason(Failure("a case", "def test():\n>   assert 1 == 2\nE   assert 1 == 2")) == "a case: E   assert 1 == 2"
    assert reason(Failure("a case", "nothing marked")) == "a case"
    assert len(reason(Failure("long", "ERROR: " + "x" * 5000))) < 700


def test_of_a_play_that_an_assertion_quotes_the_failed_task_is_told() -> None:
    play = ["PLAY [all] ***", "", "TASK [Look] ***", "ok: [st1]", *["included: size.yml for st1"] * 80]
    play += ["TASK [Mount them] ***", "fatal: [st1]: FAILED! => {'msg': 'no room'}", "PLAY RECAP ***"]
    error = ["E       AssertionError: " + play[0], *(f"E         {line}" for line in play[1:])]
    failure = Failure("a case", "\n".join([">       assert done.returncode == 0", *error, "", "a.py:7: Error"]))
    assert excerpt(failure.output)[0] == "E         TASK [Mount them] ***"
    assert reason(failure).startswith("a case: E         TASK [Mount them] *** E         fatal: [st1]: FAILED!")
    failure.output = "\n".join([">       assert a == b", "E       assert 1 == 2", "", "fatal: [st1]: of another play"])
    assert reason(failure).startswith("a case: E       assert 1 == 2"), "what is no part of the assertion is no reason"


def test_many_failures_share_the_room() -> None:
    long = "\n".join(["ERROR: it broke", *(f"detail {number}" for number in range(500)), "the end"])
    for many in (1, 4, 30, 400):
        lines = explain([Failure(f"suite: case {number}", long) for number in range(many)])
        assert len(lines) <= ALL_LINES + 2
        assert "ERROR: it broke" in lines
        assert "the end" in lines
    assert lines[-1].endswith("further failures")


def test_no_line_is_endless_and_no_secret_is_repeated() -> None:
    assert len(clean("x" * 100_000)) < 700
    for secret in ("DHHC-1:01:c2VjcmV0c2VjcmV0:", "NVMeTLSkey-1:01:c2VjcmV0c2VjcmV0:"):
        assert clean(f"key {secret} of st1") == "key [secret] of st1"


def test_of_a_long_result_the_message_is_told() -> None:
    result = {"devices": ["x" * 2000], "msg": "58 applied, 1 failed: sma-58: not released", "outcome": ["y" * 2000]}
    line = f"fatal: [ipu1]: FAILED! => {json.dumps(result)}"
    assert reason(Failure("story", line)) == f"story: fatal: [ipu1]: FAILED! => {result['msg']}"
    assert "characters" in clean(line.replace('"msg"', '"no"')), "without a message it is shortened"
    assert "characters" in clean(line[:-1])


def test_output_appears_while_the_command_still_runs(script: Script, tmp_path: Path) -> None:
    """The command waits until somebody has seen its first line, and answers."""
    go = tmp_path / "go"
    command = script("slow", f"echo first\nwhile [ ! -e {go} ]; do sleep 0.02; done\necho second\n")
    program = "import sys, pathlib, support.commands as c; c.stream(sys.argv[1:], pathlib.Path('.'))"
    with subprocess.Popen(
        [sys.executable, "-c", program, *command], cwd=ROOT / "tests", stdout=subprocess.PIPE, text=True
    ) as watched:
        assert watched.stdout is not None
        assert watched.stdout.readline() == "first\n"
        go.touch()
        assert watched.stdout.read() == "second\n"


def test_a_process_left_behind_holds_nothing_up(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("support.commands.DRAIN_SECONDS", 0.2)
    pid_file = tmp_path / "pid"
    status, output = stream(script("daemon", f"sleep 600 & echo $! >{pid_file}; echo done\n"), tmp_path)
    try:
        assert (status, output) == (0, "done\n")
    finally:
        subprocess.run(["kill", pid_file.read_text().strip()], check=True)


def test_the_projects_files_are_found_without_its_repository(
    runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    (project / "build").mkdir(parents=True)
    (project / "galaxy.yml").touch()
    (project / "build" / "junk").touch()
    (project / ".gitignore").write_text("/build/\n")
    monkeypatch.setattr(runner, "ROOT", project)
    assert sorted(runner.project_files()) == [".gitignore", "galaxy.yml"]
