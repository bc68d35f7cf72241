"""Emulators to talk to: real processes with real sockets."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from emulator_node import Emulator


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Emulator]]:
    """Start an emulator with the given arguments; all of them end with the test."""
    started: list[Emulator] = []

    def run(*arguments: str, path: Path = tmp_path / "spdk.sock") -> Emulator:
        started.append(Emulator(path, *arguments))
        return started[-1]

    yield run
    for emulator in started:
        emulator.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """One that a module's tests share."""
    shared = Emulator(tmp_path_factory.mktemp("emulator") / "spdk.sock")
    yield shared
    shared.stop(signal.SIGKILL)
