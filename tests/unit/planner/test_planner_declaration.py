"""What each node keeps, so that it comes back with its disks by itself."""

from __future__ import annotations

import pytest
from ansible_collections.ipdk.storage.plugins.plugin_utils.steps import after_unplug
from world import World, disk, lvol_disk, nodes, with_store

NQN = "nqn.2022-06.io.ipdk:st1:ipu1"


def test_both_sides_keep_what_they_have_and_a_second_run_writes_nothing() -> None:
    world = World(nodes(), keeps=True)
    items = [disk("vol00"), disk("vol01", state="detached"), disk("vol02", physical_id=7)]
    first = world.run(*items)
    assert "st1: keep another declaration, for its next start" in first["text"]
    target, ipu = world.kept["st1"], world.kept["ipu1"]
    assert (target["node"], target["version"], target["transports"]) == ("st1", 1, [{"trtype": "TCP"}])
    assert [bdev["name"] for bdev in target["bdevs"]] == ["vol00", "vol02"]
    (subsystem,) = target["subsystems"]
    assert subsystem["nqn"] == NQN and len(subsystem["hosts"]) == len(subsystem["listeners"]) == 1
    there = {ns["bdev_name"]: ns["nsid"] for ns in world.subsystems["st1"][NQN]["namespaces"]}
    assert {ns["bdev"]: ns["nsid"] for ns in subsystem["namespaces"]} == there
    assert [controller["name"] for controller in ipu["controllers"]] == ["st1"]
    assert {each["name"]: each["bdev"] for each in ipu["vhost_blk"]} == {
        f"sma-{slot}": bdev for slot, bdev in world.devices["ipu1"].items()
    }
    again = world.plan(*items)
    assert again["steps"] == [] and again["declarations"] == {}


def test_detached_keeps_the_volume_absent_keeps_nothing_and_what_is_off_the_list_stays() -> None:
    world = World(nodes(), keeps=True)
    world.run(disk("vol00"), disk("vol01"), disk("vol02"))
    gone = [disk("vol00", state="detached"), disk("vol01", state="absent")]
    world.run(*gone, safe_mode=False)
    assert [bdev["name"] for bdev in world.kept["st1"]["bdevs"]] == ["vol00", "vol02"]
    (subsystem,) = world.kept["st1"]["subsystems"]
    assert [ns["bdev"] for ns in subsystem["namespaces"]] == ["vol00", "vol02"]
    assert [each["name"] for each in world.kept["ipu1"]["vhost_blk"]] == ["sma-2"]


def test_a_declaration_that_is_lost_is_written_again_though_nothing_else_is_to_do() -> None:
    world = World(nodes(), keeps=True)
    world.run(disk("vol00"))
    before = dict(world.kept)
    world.kept["st1"] = None
    planned = world.run(disk("vol00"))
    assert planned["steps"] == [] and list(planned["declarations"]) == ["st1"]
    assert world.kept == before


def test_transports_of_the_deployment_stay_as_they_are() -> None:
    world = World(nodes(), keeps=True)
    world.kept["st1"] = {"version": 1, "node": "st1", "transports": [{"trtype": "TCP", "max_queue_depth": 64}]}
    world.run(disk("vol00"))
    assert world.kept["st1"]["transports"] == [{"trtype": "TCP", "max_queue_depth": 64}]


def test_a_disk_that_does_not_come_off_stays_declared() -> None:
    world = World(nodes(), keeps=True)
    world.run(disk("vol00"), disk("vol01"))
    planned = world.plan(disk("vol00", state="detached"), disk("vol01", state="detached"))
    left = after_unplug(planned, {"ipu1": [{"physical_id": 1, "state": "absent"}]}, {})
    assert left["stuck"] == ["vol00"]
    assert [each["name"] for each in left["declarations"]["ipu1"]["vhost_blk"]] == ["sma-0"]
    assert "vhost_blk" not in planned["declarations"]["ipu1"]


def test_a_disk_that_moves_is_declared_where_it_is() -> None:
    world = World(nodes(hosts=2), keeps=True)
    world.run(disk("vol00", host="host1"), disk("vol01", host="host1"))
    world.run(disk("vol00", host="host2"), disk("vol01", host="host1"))
    assert [each["name"] for each in world.kept["ipu1"]["vhost_blk"]] == ["sma-1"]
    assert [each["name"] for each in world.kept["ipu2"]["vhost_blk"]] == ["sma-0"]
    namespaces = {
        each["nqn"][-4:]: [ns["bdev"] for ns in each["namespaces"]] for each in world.kept["st1"]["subsystems"]
    }
    assert namespaces == {"ipu1": ["vol01"], "ipu2": ["vol00"]}


@pytest.mark.parametrize("lost", ["nothing", "file"])
def test_a_target_that_came_back_empty_gives_the_nsids_that_it_had_promised(lost: str) -> None:
    world = World(nodes(), keeps=True)
    items = [disk("vol00"), disk("vol01"), disk("vol02")]
    world.run(items[2], items[0])
    before = {ns["bdev"]: ns["nsid"] for ns in world.kept["st1"]["subsystems"][0]["namespaces"]}
    world.bdevs["st1"].clear()
    world.subsystems["st1"].clear()
    world.controllers["ipu1"].clear()
    world.devices["ipu1"].clear()
    if lost == "file":
        world.kept["ipu1"] = None
    planned = world.run(*items)
    nsids = {result["name"]: result["nsid"] for result in planned["disks"]}
    assert nsids == {**before, "vol01": 3}


def test_a_node_that_is_unknown_keeps_what_it_has() -> None:
    world = World(nodes(hosts=2), keeps=True)
    world.run(disk("vol00", host="host1"))
    world.dead = {"ipu1"}
    planned = world.plan(disk("vol00", host="host1", state="detached"), disk("vol01", host="host2"))
    assert sorted(planned["declarations"]) == ["ipu2", "st1"]


def test_an_lvol_is_kept_as_a_namespace_and_comes_back_with_its_store() -> None:
    world = World(with_store(nodes()), keeps=True)
    world.run(lvol_disk("vol00"), disk("vol01"))
    target = world.kept["st1"]
    assert [bdev["name"] for bdev in target["bdevs"]] == ["vol01"]
    (subsystem,) = target["subsystems"]
    assert [(ns["bdev"], ns["nsid"]) for ns in subsystem["namespaces"]] == [("fast/vol00", 1), ("vol01", 2)]
    # Whoever lost his namespaces gets them under the old NSIDs, in any order.
    world.subsystems["st1"].clear()
    world.controllers["ipu1"].clear()
    world.devices["ipu1"].clear()
    planned = world.run(disk("vol01"), lvol_disk("vol00"))
    assert {result["name"]: result["nsid"] for result in planned["disks"]} == {"vol00": 1, "vol01": 2}
    world.run(lvol_disk("vol00", state="absent"), safe_mode=False)
    (subsystem,) = world.kept["st1"]["subsystems"]
    assert [ns["bdev"] for ns in subsystem["namespaces"]] == ["vol01"]
