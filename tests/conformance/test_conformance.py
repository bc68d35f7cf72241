"""The emulator answers as the recorded SPDK did. ``pytest tests/conformance -k nvmf`` replays one family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from replay import HERE, Outcome, recording, replay

FAMILIES = ("early", "wire", "bdev", "core", "nvmf", "vhost")
"""``core`` has what the others leave out of bdevs, logs, options, keys and notifications: odd values, often refused."""
INFORMATIONAL = ("save", "stack")
"""Reported, but not yet promised."""


def known(family: str) -> dict[int, dict[str, Any]]:
    listed = yaml.safe_load((HERE / "known_differences.yml").read_text(encoding="utf-8"))
    return {entry["call"]: entry for entry in listed.get(family, [])}


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_as_recorded(family: str, outcomes: dict[str, Outcome], tmp_path: Path) -> None:
    outcome = outcomes[family] = replay(family, keep=tmp_path)
    listed = known(family)
    new = [difference for difference in outcome.differences if difference.call not in listed]
    gone = sorted(listed.keys() - {difference.call for difference in outcome.differences})
    assert not new, f"{outcome}; not in known_differences.yml:\n" + "\n".join(map(str, new))
    assert not gone, f"{family}: calls {gone} agree now; take them out of known_differences.yml"


@pytest.mark.parametrize("family", INFORMATIONAL)
def test_is_reported(family: str, outcomes: dict[str, Outcome], tmp_path: Path) -> None:
    outcome = outcomes[family] = replay(family, keep=tmp_path)
    unanswered = [difference for difference in outcome.differences if "no answer" in difference.got]
    assert not unanswered, "\n".join(map(str, unanswered))


def test_known_differences_name_their_call_and_a_reason() -> None:
    for family in FAMILIES:
        calls = recording(family)
        for call, entry in known(family).items():
            assert entry["method"] == calls[call - 1].get("method", calls[call - 1].get("raw")), f"{family}:{call}"
            assert len(entry["reason"]) > 20, f"{family}:{call} has no reason"
