"""Modules as small programs, without Ansible's library."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.plugin_utils.light import LightAction, answer, program

ROOT = Path(__file__).resolve().parents[3]
ON_THE_CONTROLLER = {"disk_plan", "disk_sight", "disk_unplug"}
"""They have no module of their name: one asks nobody, the others do what two modules do."""
ACTIONS = sorted({path.stem for path in (ROOT / "plugins" / "action").glob("*.py")} - ON_THE_CONTROLLER)
COLLECTION = "ansible_collections.ipdk.storage.plugins"
SECRETS = {"spdk_bdev_crypto", "spdk_rpc"}
"""Their options hold secrets, which Ansible's library hides wherever they would be shown."""


def action(name: str) -> type[LightAction]:
    found: type[LightAction] = importlib.import_module(f"{COLLECTION}.action.{name}").ActionModule
    return found


def run(module: ModuleType, given: dict[str, Any], end: str | None = None) -> str:
    """What the program says: isolated, without site-packages, so with nothing from the machine but Python."""
    text = program(module, given, False) if end is None else program(module, given, False, end)
    done = subprocess.run([sys.executable, "-I", "-S", "-"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ACTIONS)
def test_a_program_is_whole_in_itself(name: str) -> None:
    module = action(name).module
    assert module.__name__ == f"{COLLECTION}.modules.{name}"
    assert run(module, {}, "print(sorted(task))") == "['check_mode', 'given', 'modules']\n"


def test_it_does_the_work() -> None:
    given = {"bridges": None, "present": ["a"], "absent": ["a"]}
    said = run(action("host_disk_info").module, given)
    assert answer(said) == {"failed": True, "msg": "a: wanted present and absent at once"}


def test_a_look_at_the_disks_imports_nothing_that_is_slow_to_import() -> None:
    slow = ("enum", "json", "re", "typing")
    assert (
        run(action("host_disk_info").module, {}, f"print([name for name in {slow} if name in sys.modules])") == "[]\n"
    )


@pytest.mark.parametrize("line", ['{"serial": "\\u00e9\'", "open": null}', """{'serial': "\\xe9'", 'open': None}"""])
def test_an_answer_is_json_or_a_literal(line: str) -> None:
    assert answer(f"Welcome\n{line}\n") == {"serial": "é'", "open": None}


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_what_has_secrets_is_left_to_ansible(name: str) -> None:
    assert name not in ACTIONS


@pytest.mark.parametrize("name", ACTIONS)
def test_no_option_is_a_secret(name: str) -> None:
    def secret(options: dict[str, Any]) -> bool:
        return any(option.get("no_log") or secret(option.get("options") or {}) for option in options.values())

    assert not secret(action(name).module.ARGUMENTS)


@pytest.mark.parametrize("output", ["", "Traceback", "3", "Welcome\n", "{[]: 1}", "{'a':" * 10_000])
def test_what_is_no_answer(output: str) -> None:
    assert answer(output) is None
