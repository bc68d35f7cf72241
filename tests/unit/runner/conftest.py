"""tests/run as a module, and commands for it to run."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """It writes into a directory of the test's."""
    loader = SourceFileLoader("tests_run", str(ROOT / "tests" / "run"))
    spec = importlib.util.spec_from_loader("tests_run", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    monkeypatch.setattr(module, "BUILD", tmp_path)
    monkeypatch.setattr(sys, "argv", ["run"])
    return module


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str, str], list[str]]:
    """Makes a command of a name and a shell script."""

    def make(name: str, text: str) -> list[str]:
        path = tmp_path / name
        path.write_text(text)
        return ["sh", str(path)]

    return make
