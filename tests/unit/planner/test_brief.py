"""What the planner is handed of SPDK's answers: less than there is, and no plan differs for it."""

from __future__ import annotations

from typing import Any

from ansible_collections.ipdk.storage.plugins.plugin_utils.observed import brief
from ansible_collections.ipdk.storage.plugins.plugin_utils.planner import plan
from world import World, disk, nodes

SAID_BESIDES = {
    "supported_io_types": {"read": True, "write": True},
    "memory_domains": [{"dma_device_id": "system", "dma_device_type": 1}],
    "driver_specific": {"nvme": [{"trid": {"trtype": "TCP"}}], "mp_policy": "active_passive"},
}


def said(observed: dict[str, Any]) -> dict[str, Any]:
    """As SPDK says it, whose bdevs have more to tell than those of the tests."""
    bdevs = [{**SAID_BESIDES, **bdev} for bdev in observed["bdevs"]]
    return {**observed, "bdevs": bdevs}


def test_a_plan_is_the_same() -> None:
    world = World(nodes())
    disks = [disk(), disk("b", state="absent")]
    seen = {node: said(answer) if "bdevs" in answer else answer for node, answer in world.observed().items() if answer}
    short = {node: brief(answer) for node, answer in seen.items()}
    assert plan(disks, world.inventory, short, {"safe_mode": False}) == plan(
        disks, world.inventory, seen, {"safe_mode": False}
    )


def test_what_nobody_reads_is_left_out() -> None:
    bdev = {"name": "a", "uuid": "u", "product_name": "NVMe disk", **SAID_BESIDES}
    volume = {**bdev, "driver_specific": {"lvol": {"snapshot": False}}}
    (short,) = brief({"bdevs": [bdev]})["bdevs"]
    assert short == {"name": "a", "uuid": "u", "product_name": "NVMe disk", "driver_specific": {}}
    (kept,) = brief({"bdevs": [volume]})["bdevs"]
    assert kept["driver_specific"] == {"lvol": {"snapshot": False}}
    assert kept["supported_io_types"] == {"read": True, "write": True}
    assert brief({"subsystems": []}) == {"subsystems": []}
