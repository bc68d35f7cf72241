"""A storage target and an IPU's SPDK, one of each for all module tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import Client
from spdk_nodes import Node, start
from support.ports import free_port


@pytest.fixture(scope="session")
def sessions() -> Iterator[Path]:
    # Short, because the path of a unix socket may have 107 bytes only.
    with tempfile.TemporaryDirectory(prefix="ipdk-") as directory:
        yield Path(directory)


def _running(sessions: Path, name: str) -> Iterator[Node]:
    process, node = start(sessions, name)
    try:
        yield node
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture(scope="session")
def running_target(sessions: Path) -> Iterator[Node]:
    yield from _running(sessions, "target")


@pytest.fixture(scope="session")
def running_ipu(sessions: Path) -> Iterator[Node]:
    yield from _running(sessions, "ipu")


@pytest.fixture
def new_target(sessions: Path) -> Iterator[Node]:
    """A storage target that was never asked for anything: what cannot be undone is tried on it."""
    yield from _running(sessions, "new")


def _empty(node: Node) -> None:
    with Client(node.address) as client:
        for controller in client.call("bdev_nvme_get_controllers"):
            client.call("bdev_nvme_detach_controller", {"name": controller["name"]})
        for subsystem in client.call("nvmf_get_subsystems")[1:]:
            client.call("nvmf_delete_subsystem", {"nqn": subsystem["nqn"]})
        for store in client.call("bdev_lvol_get_lvstores"):
            client.call("bdev_lvol_delete_lvstore", {"lvs_name": store["name"]})
        for bdev in client.call("bdev_get_bdevs"):
            kind = {"Malloc disk": "malloc", "Null disk": "null", "AIO disk": "aio"}[bdev["product_name"]]
            client.call(f"bdev_{kind}_delete", {"name": bdev["name"]})


@pytest.fixture
def target(running_target: Node) -> Node:
    """A storage target without anything in it (a transport, once made, stays)."""
    _empty(running_target)
    return running_target


@pytest.fixture
def ipu(running_ipu: Node) -> Node:
    """An SPDK that attaches to the target."""
    _empty(running_ipu)
    return running_ipu


@pytest.fixture
def port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago."""
    return free_port()


@pytest.fixture
def ports() -> tuple[int, int]:
    """Two of them."""
    return free_port(), free_port()
