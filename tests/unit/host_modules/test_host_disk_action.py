"""host_disk_info through its action plugin: the small program and the module, which have to say the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]


class Host:
    """This machine; its Python is a script that notes how it was called."""

    def __init__(self, path: Path) -> None:
        self._python = path / "python"
        self._calls = path / "calls"
        self.interpreter(f'exec {sys.executable} "$@"')

    def interpreter(self, then: str) -> None:
        self._calls.write_text("")
        self._python.write_text(f'#!/bin/sh\necho "called $*" >> {self._calls}\n{then}\n')
        self._python.chmod(0o755)

    def look(self, wanted: dict[str, Any], python: str = "") -> dict[str, Any]:
        command = ["ansible", "localhost", "--connection=local", "--module-name=ipdk.storage.host_disk_info"]
        variables = {"ansible_python_interpreter": python or str(self._python)}
        command += ["--args", json.dumps({"timeout": 5, **wanted}), "--extra-vars", json.dumps(variables)]
        environment = {
            **os.environ,
            "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        }
        environment["ANSIBLE_PIPELINING"] = "1"
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        try:
            result: dict[str, Any] = json.loads(done.stdout)["plays"][0]["tasks"][0]["hosts"]["localhost"]
        except (ValueError, LookupError):
            pytest.fail(done.stdout + done.stderr)
        return result

    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def names(result: dict[str, Any]) -> list[str]:
    return [disk["name"] for disk in result["disks"]]


def test_both_ways_see_the_same(host: Host) -> None:
    light = host.look({})
    assert host.calls() == ["called -IS -"], "one program, and no module"
    host.interpreter(f'[ "$2" = - ] && exit 9; exec {sys.executable} "$@"')
    module = host.look({})
    assert host.calls()[0] == "called -IS -"
    assert len(host.calls()) > 1, "the program failed, and the module did the work"
    assert names(light) == names(module)
    assert {key: light[key] for key in ("missing", "still_there", "too_small", "changed")} == {
        key: module[key] for key in ("missing", "still_there", "too_small", "changed")
    }


def test_what_is_not_there_is_named(host: Host) -> None:
    result = host.look({"present": ["nobody"], "timeout": 0.1})
    assert (result["failed"], result["msg"]) == (
        True,
        "disks not there: nobody (no further one came, went or grew for 0.1 s)",
    )
    assert host.calls() == ["called -IS -"]


def test_an_option_that_is_none_is_refused_in_the_words_of_ansible(host: Host) -> None:
    assert "Unsupported parameters" in host.look({"serial": "st1n1"})["msg"]
    assert "called -IS -" not in host.calls()


def test_a_host_without_its_python_hears_it_from_ansible(host: Host) -> None:
    result = host.look({}, python="/nonexistent/python3")
    assert result["failed"]
    assert "/nonexistent/python3" in json.dumps(result)
