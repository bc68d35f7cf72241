"""What each module claims of check mode, diff and a second run. What is not full is in the table, with its reason."""

from __future__ import annotations

import json
import os
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.modules import COLLECTIONS, run_module

ROOT = Path(__file__).resolve().parents[3]
MODULES = sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("*.py"))
ATTRIBUTES = ("check_mode", "diff_mode", "idempotent")
LOOKS = "it only looks: there is nothing before and after"
NOT_FULL = {
    ("build_command", "diff_mode"): ("none", "what a command changes is unknown"),
    ("build_command", "idempotent"): ("partial", "it is where the command says that there was nothing to do"),
    ("disk_plan", "diff_mode"): ("N/A", LOOKS),
    ("disk_sight", "diff_mode"): ("N/A", LOOKS),
    ("fio", "diff_mode"): ("none", "a disk's data is no text to compare"),
    ("fio", "idempotent"): ("none", "measuring twice is doing the I/O twice"),
    ("host_disk_info", "diff_mode"): ("N/A", LOOKS),
    ("sma_info", "diff_mode"): ("N/A", LOOKS),
    ("spdk_info", "diff_mode"): ("N/A", LOOKS),
    ("spdk_rpc", "check_mode"): ("partial", "what a call would answer is unknown; only those that read are made"),
    ("spdk_rpc", "diff_mode"): ("none", "what a call changes is unknown"),
    ("spdk_rpc", "idempotent"): ("none", "what a call changes is unknown, so each is made again"),
}


@lru_cache(maxsize=1)
def documentation() -> dict[str, Any]:
    """Of each module, as users see it: with the fragments that it extends."""
    names = [f"ipdk.storage.{name}" for name in MODULES]
    env = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS)}
    shown = subprocess.check_output(["ansible-doc", "-t", "module", "--json", *names], env=env, text=True)
    return {name.rpartition(".")[2]: row["doc"] for name, row in json.loads(shown).items()}


@pytest.mark.parametrize("name", MODULES)
def test_every_claim_is_full_or_has_its_reason_here(name: str) -> None:
    claims = {key: row["support"] for key, row in documentation()[name]["attributes"].items()}
    assert claims == {key: NOT_FULL.get((name, key), ("full", ""))[0] for key in ATTRIBUTES}
    assert all(row["description"] for row in documentation()[name]["attributes"].values())


def test_the_table_names_modules_and_attributes_that_there_are() -> None:
    assert {name for name, _key in NOT_FULL} <= set(MODULES)
    assert {key for _name, key in NOT_FULL} <= set(ATTRIBUTES)
    assert all(support in ("partial", "none", "N/A") and reason for support, reason in NOT_FULL.values())


ACTIONS_ONLY = {"disk_plan", "disk_sight", "disk_unplug"}


@pytest.mark.parametrize("name", [name for name in MODULES if name not in ACTIONS_ONLY])
def test_no_module_is_skipped_in_check_mode(name: str) -> None:
    """A module that does not say that it supports check mode is skipped in it, before it does anything."""
    nothing = {"rpc_socket": "/nowhere/spdk.sock", "address": "unix:/nowhere/sma.sock:8080", "timeout": 1}
    lists = {
        "build_command": {"what": "nothing", "argv": []},
        "fio": {"jobs": []},
        "sma_device": {"devices": []},
        "spdk_bdev": {"bdevs": []},
        "spdk_declaration": {"path": "/nowhere/declaration.json", "declaration": {}},
        "spdk_nvme_controller": {"controllers": []},
        "spdk_nvmf_subsystem": {"subsystems": []},
        "spdk_nvmf_transport": {"transports": []},
        "spdk_rpc": {"method": "spdk_get_version"},
        "spdk_target": {"declaration": {}},
    }
    known = documentation()[name]["options"]
    options = {key: value for key, value in nothing.items() if key in known}
    result = run_module(name, {**options, **lists.get(name, {})}, check=True)
    assert "skipped" not in result, result
    assert result.get("failed") or name == "host_disk_info", result


def test_every_module_that_takes_the_options_of_a_group_is_in_it() -> None:
    """``module_defaults: {group/ipdk.storage.spdk: …}`` reaches all of them."""
    groups = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text(encoding="utf-8"))["action_groups"]
    sma = {name for name in MODULES if "address" in documentation()[name]["options"]}
    spdk = {name for name in MODULES if "rpc_socket" in documentation()[name]["options"]}
    assert set(groups["sma"]) == sma
    assert set(groups["spdk"]) == spdk - sma
