"""What the tests of labs have in common."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.small_lab import small_lab


@pytest.fixture
def lab() -> Iterator[Path]:
    """The inventory of a lab that is there."""
    with small_lab() as inventory:
        yield inventory
