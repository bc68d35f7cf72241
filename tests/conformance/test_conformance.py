"""The emulator answers as the recorded SPDK did. ``pytest tests/conformance -k nvmf`` replays one family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from replay import HERE, Difference, Outcome, prefix, put, recording, replay

FAMILIES = ("early", "wire", "bdev", "core", "lvol", "nvmf", "targets", "vhost")
"""``core`` has what the others leave out of bdevs, logs, options, keys, notifications: odd values, often refused;
``targets`` has several NVMe-oF targets, threads, caches of buffers, and tracepoints."""
MOST = {"early": 5, "vhost": 7}
"""How many entries a family has in known_differences.yml. Who mends a difference lowers its number; none is raised."""
INFORMATIONAL = {"save": 3, "stack": 25}
"""Reported, with at most so many differences, but not yet promised,"""
PROMISED = ("accel_", "bdev_crypto_", "bdev_lvol_", "bdev_passthru_")
"""but for the methods that begin like this. A real SPDK has to agree with its recordings here, too."""
OF_THE_BUILD = ("spdk_get_version", "rpc_get_methods", "log_get_flags")
"""What depends on how an SPDK was built, for ``SPDK_PREFIX``."""


def expected(family: str) -> set[int]:
    """The calls that differ, and may: those listed or, where a real SPDK is asked, those that tell of its build."""
    if prefix() is None:
        return set(known(family))
    return {number for number, call in enumerate(recording(family), 1) if call.get("method") in OF_THE_BUILD}


def listed() -> dict[str, list[dict[str, Any]]]:
    return yaml.safe_load((HERE / "known_differences.yml").read_text(encoding="utf-8"))


def known(family: str) -> dict[int, dict[str, Any]]:
    return {entry["call"]: entry for entry in listed().get(family, [])}


def is_as_listed(difference: Difference, entry: dict[str, Any]) -> bool:
    """The emulator's answer is the one that its entry in known_differences.yml tells."""
    wanted, got = json.loads(difference.wanted), json.loads(difference.got)
    if "answer" in entry:
        return got == entry["answer"]
    if "lacks" in entry:
        items, own = wanted["result"], got.get("result", [])
        return len(set(own)) == len(own) == len(items) - entry["lacks"] and set(own) < set(items)
    for pointer, value in entry["instead"].items():
        put(wanted, pointer, value)
    return json.dumps(got) == json.dumps(wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_as_recorded(family: str, outcomes: dict[str, Outcome], tmp_path: Path) -> None:
    outcome = outcomes[family] = replay(family, keep=tmp_path)
    found = {difference.call: difference for difference in outcome.differences}
    new = [str(difference) for call, difference in found.items() if call not in expected(family)]
    assert not new, f"{outcome}; not in known_differences.yml:\n" + "\n".join(new)
    if prefix():
        return
    entries = known(family)
    gone = sorted(entries.keys() - found.keys())
    assert not gone, f"{family}: calls {gone} agree now; take them off the list, and lower MOST"
    others = [str(difference) for call, difference in found.items() if not is_as_listed(difference, entries[call])]
    assert not others, f"{family}: not the answers of known_differences.yml:\n" + "\n".join(others)


@pytest.mark.parametrize("family", INFORMATIONAL)
def test_is_reported(family: str, outcomes: dict[str, Outcome], tmp_path: Path) -> None:
    outcome = outcomes[family] = replay(family, keep=tmp_path)
    unanswered = [difference for difference in outcome.differences if "no answer" in difference.got]
    assert not unanswered, "\n".join(map(str, unanswered))
    assert len(outcome.differences) <= INFORMATIONAL[family], "\n".join(map(str, outcome.differences))
    promised = ("",) if prefix() else PROMISED
    broken = [
        difference
        for difference in outcome.differences
        if difference.method.startswith(promised) and difference.call not in expected(family)
    ]
    assert not broken, "\n".join(map(str, broken))


def test_known_differences_name_their_call_a_reason_and_our_answer() -> None:
    for family, entries in listed().items():
        calls = recording(family)
        for entry in entries:
            call = entry["call"]
            assert entry["method"] == calls[call - 1].get("method", calls[call - 1].get("raw")), f"{family}:{call}"
            assert len(entry["reason"]) > 20, f"{family}:{call} has no reason"
            assert len(entry.keys() & {"answer", "instead", "lacks"}) == 1, f"{family}:{call} does not tell our answer"


def test_the_list_only_shrinks() -> None:
    assert MOST.keys() <= set(FAMILIES)
    assert {family: len(entries) for family, entries in listed().items()} == MOST
    assert [family for family in MOST if len(known(family)) != MOST[family]] == [], "a call is listed twice"


@pytest.mark.parametrize(
    ("entry", "got", "same"),
    [
        ({"answer": {"result": [1]}}, {"result": [1]}, True),
        ({"answer": {"result": [1]}}, {"result": [2]}, False),
        ({"instead": {"/result/1": "x"}}, {"result": ["a", "x", "c"]}, True),
        ({"instead": {"/result/1": "x"}}, {"result": ["b", "x", "c"]}, False),
        ({"lacks": 1}, {"result": ["c", "a"]}, True),
        ({"lacks": 1}, {"result": ["a"]}, False),
        ({"lacks": 1}, {"result": ["a", "d"]}, False),
        ({"lacks": 1}, {"result": ["a", "a"]}, False),
        ({"lacks": 1}, {"error": {"code": -32601}}, False),
    ],
)
def test_a_listed_answer_cannot_be_anything(entry: dict[str, Any], got: dict[str, Any], same: bool) -> None:
    difference = Difference("early", 1, "x", json.dumps({"result": ["a", "b", "c"]}), json.dumps(got))
    assert is_as_listed(difference, entry) is same
