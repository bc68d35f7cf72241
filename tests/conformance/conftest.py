"""Shows the figures of the conformance suite and writes them to build/conformance.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from replay import Outcome, prefix

BUILD = Path(__file__).parents[2] / "build"
_outcomes: dict[str, Outcome] = {}


@pytest.fixture(scope="session")
def outcomes() -> dict[str, Outcome]:
    """Where a test puts what it found, by family."""
    return _outcomes


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not _outcomes:
        return
    terminalreporter.section("agreement with the recorded SPDK")
    for outcome in _outcomes.values():
        terminalreporter.write_line(str(outcome))
    if prefix():
        return
    BUILD.mkdir(exist_ok=True)
    path = BUILD / "conformance.json"
    figures = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for family, outcome in _outcomes.items():
        figures[family] = {"calls": outcome.calls, "agree": outcome.calls - len(outcome.differences)}
    path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
