"""Targets to connect to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nvme_initiator import Target


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Callable[..., Target]]:
    """Start targets; all of them end with the test."""
    started: list[Target] = []

    def start(**options: int) -> Target:
        started.append(Target(tmp_path, **options))
        return started[-1]

    yield start
    for each in started:
        each.kill()
