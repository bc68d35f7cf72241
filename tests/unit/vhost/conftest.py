"""A vhost family to talk to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from front_end import Memory
from vhost_node import Node


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.close()


@pytest.fixture
def memory() -> Memory:
    return Memory()
