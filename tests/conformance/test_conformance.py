"""The emulator answers as the recorded SPDK did. ``pytest tests/conformance -k nvmf`` replays one family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from replay import HERE, Outcome, prefix, recording, replay

FAMILIES = ("early", "wire", "bdev", "core", "lvol", "nvmf", "vhost")
"""``core`` has what the others leave out of bdevs, logs, options, keys, notifications: odd values, often refused."""
INFORMATIONAL = ("save", "stack")
"""Reported, but not yet promised,"""
PROMISED = ("accel_", "bdev_crypto_", "bdev_lvol_", "bdev_passthru_")
"""but for the methods that begin like this. A real SPDK has to agree with its recordings here, too."""
OF_THE_BUILD = ("spdk_get_version", "rpc_get_methods", "log_get_flags")
"""What depends on how an SPDK was built, for ``SPDK_PREFIX``."""


def expected(family: str) -> set[int]:
    """The calls that differ, and may: those listed or, where a real SPDK is asked, those that tell of its build."""
    if prefix() is None:
        return set(known(family))
    return {number for number, call in enumerate(recording(family), 1) if call.get("method") in OF_THE_BUILD}


def known(family: str) -> dict[int, dict[str, Any]]:
    listed = yaml.safe_load((HERE / "known_differences.yml").read_text(encoding="utf-8"))
    return {entry["call"]: entry for entry in listed.get(family, [])}


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_as_recorded(family: str, outcomes: dict[str, Outcome], tmp_path: Path) -> None:
    outcome = outcomes[family] = replay(family, keep=tmp_path)
    found = {difference.call: difference for difference in outcome.differences}
    new = [str(difference) for call, difference in found.items() if call not in expected(family)]
    assert not new, f"{outcome}; not in known_differences.yml:\n" + "\n".join(new)
    gone = sorted(set(known(family)) - found.keys())
    assert not gone or prefix(), f"{family}: calls {gone} agree now; take them off the list"


@pytest.mark.parametrize("family", INFORMATIONAL)
def test_is_reported(family: str, outcomes: dict[str, Outcome], tmp_path: Path) -> None:
    outcome = outcomes[family] = replay(family, keep=tmp_path)
    unanswered = [difference for difference in outcome.differences if "no answer" in difference.got]
    assert not unanswered, "\n".join(map(str, unanswered))
    promised = ("",) if prefix() else PROMISED
    broken = [
        difference
        for difference in outcome.differences
        if difference.method.startswith(promised) and difference.call not in expected(family)
    ]
    assert not broken, "\n".join(map(str, broken))


def test_known_differences_name_their_call_and_a_reason() -> None:
    for family in FAMILIES:
        calls = recording(family)
        for call, entry in known(family).items():
            assert entry["method"] == calls[call - 1].get("method", calls[call - 1].get("raw")), f"{family}:{call}"
            assert len(entry["reason"]) > 20, f"{family}:{call} has no reason"
