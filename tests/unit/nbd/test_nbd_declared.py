"""NBD disks in a node's declaration: made when the node starts, where the bdev is there, and never made twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.module_utils import _declaration
from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import Client
from ansible_collections.ipdk.storage.plugins.module_utils._reconcile import Outcome, Refused
from support.spdk import Spdk


@pytest.fixture
def spdk(tmp_path: Path) -> Iterator[Spdk]:
    with Spdk(tmp_path) as node:
        node.call("bdev_malloc_create", name="st1n1", num_blocks=8192, block_size=512)
        yield node


def apply(spdk: Spdk, *disks: dict[str, Any]) -> Outcome:
    with Client(str(spdk.rpc_socket), 60) as client:
        return _declaration.apply(_declaration.check({"nbd": list(disks)}), client)


def test_a_disk_is_made_once(spdk: Spdk, tmp_path: Path) -> None:
    disk = {"name": str(tmp_path / "sma-0.nbd"), "bdev": "st1n1"}
    assert apply(spdk, disk).applied == [{"action": "create", "kind": "NBD disk", "name": disk["name"]}]
    assert spdk.call("nbd_get_disks") == [{"nbd_device": disk["name"], "bdev_name": "st1n1"}]
    assert apply(spdk, disk).applied == []


def test_a_disk_waits_for_its_bdev(spdk: Spdk, tmp_path: Path) -> None:
    disk = {"name": str(tmp_path / "sma-0.nbd"), "bdev": "st1n2"}
    (failed,) = apply(spdk, disk).failed
    assert failed["reason"] == "its bdev st1n2 is not there"
    spdk.call("bdev_malloc_create", name="st1n2", num_blocks=8192, block_size=512)
    assert len(apply(spdk, disk).applied) == 1


def test_another_bdev_is_refused(spdk: Spdk, tmp_path: Path) -> None:
    name = str(tmp_path / "sma-0.nbd")
    spdk.call("bdev_malloc_create", name="st1n2", num_blocks=8192, block_size=512)
    apply(spdk, {"name": name, "bdev": "st1n1"})
    (failed,) = apply(spdk, {"name": name, "bdev": "st1n2"}).failed
    assert f"NBD disk {name} is there with the bdev st1n1, wanted st1n2" in failed["reason"]


@pytest.mark.parametrize(
    ("item", "complaint"),
    [
        ({"name": "sma-0.nbd", "bdev": "st1n1"}, "is no absolute path without '..'"),
        ({"name": "/run/../x", "bdev": "st1n1"}, "is no absolute path without '..'"),
        ({"name": "/run/x"}, "bdev is missing"),
    ],
)
def test_what_cannot_be_is_refused(item: dict[str, Any], complaint: str) -> None:
    with pytest.raises(Refused, match=complaint):
        _declaration.check({"nbd": [item]})
