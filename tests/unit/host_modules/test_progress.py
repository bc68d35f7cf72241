"""How far a module is: what it leaves to be read, and what an operator sees of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.module_utils import _fio, _reconcile, _sysfs
from ansible_collections.ipdk.storage.plugins.module_utils._progress import VARIABLE, Progress
from ansible_collections.ipdk.storage.plugins.plugin_utils import followed
from ansible_collections.ipdk.storage.plugins.plugin_utils.followed import FollowedAction, sentence

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "progress"
    monkeypatch.setenv(VARIABLE, str(path))
    return path


def test_it_is_one_line_that_is_replaced(file: Path) -> None:
    progress = Progress("devices")
    progress(3, 64, "sma-2")
    progress(4, 64, "sma-3")
    told = json.loads(file.read_text())
    assert (told["done"], told["total"], told["name"]) == (4, 64, "sma-3")
    assert sentence("ipu1", {**told, "rate": "3.1/s"}) == "ipu1: devices 4 of 64, sma-3, 3.1/s"
    assert list(file.parent.iterdir()) == [file]


def test_nobody_who_listens_and_no_place_are_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    Progress("devices")(1, 2, "a")
    monkeypatch.setenv(VARIABLE, "/nonexistent/progress")
    Progress("devices")(1, 2, "a")


class _Family:
    """Three things, of which the second cannot be made."""

    def read(self, _executor: Any) -> None:
        return None

    def plan(self, wanted: Any, _current: Any) -> _reconcile.Plan:
        change = _reconcile.Change
        calls = [((name, None),) for name in wanted]
        made = [change("create", "thing", call[0][0], (call[0][0],), {}, call, n) for n, call in enumerate(calls)]
        return _reconcile.Plan(changes=made)


class _Executor:
    def pipeline(self, calls: Any) -> list[Any]:
        return [_reconcile.RpcError("b", -1, "no") if call[0] == "b" else True for call in calls]


def test_the_engine_tells_what_it_has_done() -> None:
    told: list[Any] = []
    _reconcile.reconcile(_Family(), ["a", "b", "c"], _Executor(), progress=lambda *now: told.append(now))
    assert told[:3] == [(1, 3, "a"), (1, 3, "b"), (2, 3, "c")]


def test_fio_tells_which_jobs_are_at_work(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fio, "PROGRESS_SECONDS", 0.1)
    told: list[Any] = []
    monkeypatch.setattr(Progress, "__call__", lambda _self, *now: told.append(now))
    data = tmp_path / "data"
    data.write_bytes(bytes(1 << 20))
    plain = {"rw": "randread", "bs": "4k", "iodepth": 1, "ioengine": "psync", "direct": False, "filename": str(data)}
    jobs = [{**plain, "name": "short", "io_size": "4k"}, {**plain, "name": "long", "runtime": 4}]
    _fio.run(_fio.resolve(jobs, [], False, _sysfs.Sysfs()), False, 60)
    assert (1, 2, "at work: long") in [now[:3] for now in told]
    assert all(rate.endswith(" MiB/s") for *_now, rate in told)


PLAY = """
- hosts: localhost
  gather_facts: false
  tasks:
    - ipdk.storage.fio:
        jobs: [{name: slow, filename: FILE, rw: randread, runtime: 8, direct: false, ioengine: psync}]
        progress: "{{ follow }}"
      register: done
    - ansible.builtin.debug:
        msg: "ios={{ done.jobs[0].ios | default('none') }} keys={{ done | sort | join(',') }}"
    - ipdk.storage.fio: {jobs: [], progress: "{{ follow }}"}
      ignore_errors: true
"""


def play(tmp_path: Path, follow: bool, *more: str, python: str = sys.executable) -> str:
    (tmp_path / "tmp").mkdir(exist_ok=True)
    (tmp_path / "data").write_bytes(bytes(1 << 20))
    (tmp_path / "play.yml").write_text(PLAY.replace("FILE", str(tmp_path / "data")))
    command = [Path(sys.executable).parent / "ansible-playbook", "-i", "localhost,", "-c", "local", *more]
    variables = {"follow": follow, "ansible_python_interpreter": python}
    env = {**os.environ, "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_ASYNC_DIR": str(tmp_path / "async")}
    env |= {"ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build" / "collections"), "TMPDIR": str(tmp_path / "tmp")}
    done = subprocess.run(
        [*command, tmp_path / "play.yml", "-e", json.dumps(variables)],
        cwd=tmp_path,
        env=env,
        text=True,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def keys(text: str) -> str:
    return text.partition("keys=")[2].partition('"')[0]


def test_an_operator_sees_how_far_it_is_and_gets_the_same_result(tmp_path: Path) -> None:
    said = play(tmp_path, follow=True)
    assert "localhost: fio jobs 0 of 1, at work: slow, " in said
    plain = play(tmp_path, follow=False)
    assert "fio jobs" not in plain
    assert keys(said) == keys(plain) and "jobs" in keys(said)
    assert said.count("jobs is empty: name at least one job") == plain.count("jobs is empty: name at least one job") > 0
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not (tmp_path / "async").exists()


def test_a_module_in_the_background_says_the_same(tmp_path: Path) -> None:
    """Where no program gets through, Ansible's own way into the background is left."""
    said = play(tmp_path, follow=True, python=interpreter(tmp_path, "exit 9"))
    assert "localhost: fio jobs 0 of 1, at work: slow, " in said
    assert "jobs" in keys(said) and "jobs is empty: name at least one job" in said
    assert list((tmp_path / "async").iterdir()) == []


def test_where_the_program_dies_the_module_does_its_work(tmp_path: Path) -> None:
    """It began, in the background, and was killed."""
    killed = f"sed 's/^    leave(result())$/    os.kill(os.getpid(), 9)/' | exec {sys.executable} -"
    said = play(tmp_path, follow=True, python=interpreter(tmp_path, killed))
    assert "localhost: fio jobs 0 of 1, at work: slow, " in said and "jobs" in keys(said)
    assert list((tmp_path / "tmp").iterdir()) == []


def interpreter(tmp_path: Path, program: str) -> str:
    """A Python that does something else with a program on its standard input."""
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\nif [ "$2" = - ]; then {program}; else exec {sys.executable} "$@"; fi\n')
    path.chmod(0o755)
    return str(path)


class _Asked(FollowedAction):
    """A node whose shell answers with these texts, one after the other."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)

    def _low_level_execute_command(self, _command: str, **_more: Any) -> dict[str, Any]:
        return {"stdout": self.answers.pop(0)}


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["local", "by a terminal, as ssh's"])
def test_the_end_is_seen(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed, "SAY_SECONDS", 0)
    at_work, told = '{"started": 1}', '{"what": "jobs", "done": 0, "total": 1, "name": "a", "rate": "1/s"}'
    first = [f"{at_work}{end}", f"{at_work}{end}{told}"]
    assert _Asked(*first, f'{{"jobs": 1}}{end}{told}')._watch("ask", "host1", 0.0) == {"jobs": 1}
    assert _Asked(*first, f'over{end}{{"jobs": 1}}{end}{told}')._watch("ask", "host1", 0.0) == {"jobs": 1}
    assert _Asked(*first, f"over{end}{at_work}{end}{told}")._watch("ask", "host1", 0.0) is None


def test_check_mode_runs_nothing_in_the_background(tmp_path: Path) -> None:
    assert "ios=none" in play(tmp_path, True, "--check")
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not (tmp_path / "async").exists()
