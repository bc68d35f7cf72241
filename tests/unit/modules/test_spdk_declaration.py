"""spdk_declaration: the document that a node comes back with, and no SPDK is asked."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from support.modules import run_module

DECLARATION = {"version": 1, "node": "st1", "bdevs": [{"name": "vol00", "type": "malloc", "size": "1MiB"}]}


def keep(path: Path, declaration: Any, check: bool = False) -> dict[str, Any]:
    return run_module("spdk_declaration", {"path": str(path), "declaration": declaration}, check=check)


def test_check_mode_predicts_the_run_and_a_second_run_changes_nothing(tmp_path: Path) -> None:
    kept = tmp_path / "declaration.json"
    predicted = keep(kept, DECLARATION, check=True)
    assert (predicted["rc"], predicted["changed"]) == (0, True) and not kept.exists()

    done = keep(kept, DECLARATION)
    assert (done["rc"], done["changed"], done["diff"]) == (0, True, predicted["diff"])
    assert json.loads(kept.read_text(encoding="utf-8")) == DECLARATION
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert keep(kept, DECLARATION)["changed"] is False


def test_it_takes_the_place_of_what_is_there_and_stays_its_owners(tmp_path: Path) -> None:
    kept = tmp_path / "declaration.json"
    keep(kept, DECLARATION)
    os.chown(kept, 64020, 64021)
    assert keep(kept, {"version": 1, "node": "st1"})["changed"]
    assert json.loads(kept.read_text(encoding="utf-8")) == {"version": 1, "node": "st1"}
    assert (kept.stat().st_uid, kept.stat().st_gid) == (64020, 64021)
    assert [path.name for path in tmp_path.iterdir()] == ["declaration.json"], "nothing is left beside it"


@pytest.mark.parametrize(
    ("there", "declaration", "message"),
    [
        (None, {"bdev": []}, "bdev: a declaration has no such section"),
        ("{", DECLARATION, "cannot be read as a declaration"),
        ("[]", DECLARATION, "is no declaration"),
    ],
)
@pytest.mark.parametrize("check", [True, False])
def test_what_is_wrong_changes_nothing(
    tmp_path: Path, there: str | None, declaration: Any, message: str, check: bool
) -> None:
    kept = tmp_path / "declaration.json"
    if there is not None:
        kept.write_text(there, encoding="utf-8")
    refused = keep(kept, declaration, check)
    assert refused["failed"] and message in refused["msg"] and refused["msg"].startswith("Nothing was changed. ")
    assert (kept.read_text(encoding="utf-8") if kept.exists() else None) == there


@pytest.mark.parametrize("check", [True, False])
def test_a_node_that_was_never_deployed_is_named(tmp_path: Path, check: bool) -> None:
    refused = keep(tmp_path / "st1" / "declaration.json", DECLARATION, check=check)
    assert refused["failed"] and f"{tmp_path}/st1 is not there; deploy the node first" in refused["msg"]
