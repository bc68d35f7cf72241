"""What each node keeps, so that it comes back with its disks by itself."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.module_utils import _declaration
from ansible_collections.ipdk.storage.plugins.plugin_utils.planner import plan
from ansible_collections.ipdk.storage.plugins.plugin_utils.steps import after_unplug
from world import World, disk, lvol_disk, nodes, with_store

NQN = "nqn.2022-06.io.ipdk:st1:ipu1"


class Keeping:
    """A world whose nodes keep their declarations."""

    def __init__(self, inventory: dict[str, Any]) -> None:
        self.world = World(inventory)
        self.kept: dict[str, Any] = dict.fromkeys([*inventory["targets"], *inventory["ipus"]])

    def plan(self, items: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
        observed = self.world.observed()
        for node, document in self.kept.items():
            if node in observed:
                observed[node]["declaration"] = document
        return plan(items, self.world.inventory, observed, options)

    def run(self, items: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
        planned = self.plan(items, **options)
        self.world.carry_out(planned)
        self.kept.update(planned["declarations"])
        for document in planned["declarations"].values():
            _declaration.check(document)  # the node can read it
        return planned


def test_both_sides_keep_what_they_have_and_a_second_run_writes_nothing() -> None:
    keeping = Keeping(nodes())
    items = [disk("vol00"), disk("vol01", state="detached"), disk("vol02", physical_id=7)]
    first = keeping.run(items)
    assert "st1: keep another declaration, for its next start" in first["text"]
    target, ipu = keeping.kept["st1"], keeping.kept["ipu1"]
    assert (target["node"], target["version"], target["transports"]) == ("st1", 1, [{"trtype": "TCP"}])
    assert [bdev["name"] for bdev in target["bdevs"]] == ["vol00", "vol02"]
    (subsystem,) = target["subsystems"]
    assert subsystem["nqn"] == NQN and len(subsystem["hosts"]) == len(subsystem["listeners"]) == 1
    there = {ns["bdev_name"]: ns["nsid"] for ns in keeping.world.subsystems["st1"][NQN]["namespaces"]}
    assert {ns["bdev"]: ns["nsid"] for ns in subsystem["namespaces"]} == there
    assert [controller["name"] for controller in ipu["controllers"]] == ["st1"]
    assert {each["name"]: each["bdev"] for each in ipu["vhost_blk"]} == {
        f"sma-{slot}": bdev for slot, bdev in keeping.world.devices["ipu1"].items()
    }
    again = keeping.plan(items)
    assert again["steps"] == [] and again["declarations"] == {}


def test_detached_keeps_the_volume_absent_keeps_nothing_and_what_is_off_the_list_stays() -> None:
    keeping = Keeping(nodes())
    keeping.run([disk("vol00"), disk("vol01"), disk("vol02")])
    gone = [disk("vol00", state="detached"), disk("vol01", state="absent")]
    keeping.run(gone, safe_mode=False)
    assert [bdev["name"] for bdev in keeping.kept["st1"]["bdevs"]] == ["vol00", "vol02"]
    (subsystem,) = keeping.kept["st1"]["subsystems"]
    assert [ns["bdev"] for ns in subsystem["namespaces"]] == ["vol00", "vol02"]
    assert [each["name"] for each in keeping.kept["ipu1"]["vhost_blk"]] == ["sma-2"]


def test_a_declaration_that_is_lost_is_written_again_though_nothing_else_is_to_do() -> None:
    keeping = Keeping(nodes())
    keeping.run([disk("vol00")])
    before = dict(keeping.kept)
    keeping.kept["st1"] = None
    planned = keeping.run([disk("vol00")])
    assert planned["steps"] == [] and list(planned["declarations"]) == ["st1"]
    assert keeping.kept == before


def test_transports_of_the_deployment_stay_as_they_are() -> None:
    keeping = Keeping(nodes())
    keeping.kept["st1"] = {"version": 1, "node": "st1", "transports": [{"trtype": "TCP", "max_queue_depth": 64}]}
    keeping.run([disk("vol00")])
    assert keeping.kept["st1"]["transports"] == [{"trtype": "TCP", "max_queue_depth": 64}]


def test_a_disk_that_does_not_come_off_stays_declared() -> None:
    keeping = Keeping(nodes())
    keeping.run([disk("vol00"), disk("vol01")])
    planned = keeping.plan([disk("vol00", state="detached"), disk("vol01", state="detached")])
    left = after_unplug(planned, {"ipu1": [{"physical_id": 1, "state": "absent"}]}, {})
    assert left["stuck"] == ["vol00"]
    assert [each["name"] for each in left["declarations"]["ipu1"]["vhost_blk"]] == ["sma-0"]
    assert "vhost_blk" not in planned["declarations"]["ipu1"]


def test_a_disk_that_moves_is_declared_where_it_is() -> None:
    keeping = Keeping(nodes(hosts=2))
    keeping.run([disk("vol00", host="host1"), disk("vol01", host="host1")])
    keeping.run([disk("vol00", host="host2"), disk("vol01", host="host1")])
    assert [each["name"] for each in keeping.kept["ipu1"]["vhost_blk"]] == ["sma-1"]
    assert [each["name"] for each in keeping.kept["ipu2"]["vhost_blk"]] == ["sma-0"]
    namespaces = {
        each["nqn"][-4:]: [ns["bdev"] for ns in each["namespaces"]] for each in keeping.kept["st1"]["subsystems"]
    }
    assert namespaces == {"ipu1": ["vol01"], "ipu2": ["vol00"]}


@pytest.mark.parametrize("lost", ["nothing", "file"])
def test_a_target_that_came_back_empty_gives_the_nsids_that_it_had_promised(lost: str) -> None:
    keeping = Keeping(nodes())
    items = [disk("vol00"), disk("vol01"), disk("vol02")]
    keeping.run([items[2], items[0]])
    before = {ns["bdev"]: ns["nsid"] for ns in keeping.kept["st1"]["subsystems"][0]["namespaces"]}
    keeping.world.bdevs["st1"].clear()
    keeping.world.subsystems["st1"].clear()
    keeping.world.controllers["ipu1"].clear()
    keeping.world.devices["ipu1"].clear()
    if lost == "file":
        keeping.kept["ipu1"] = None
    planned = keeping.run(items)
    nsids = {result["name"]: result["nsid"] for result in planned["disks"]}
    assert nsids == {**before, "vol01": 3}


def test_a_node_that_is_unknown_keeps_what_it_has() -> None:
    keeping = Keeping(nodes(hosts=2))
    keeping.run([disk("vol00", host="host1")])
    keeping.world.dead = {"ipu1"}
    planned = keeping.plan([disk("vol00", host="host1", state="detached"), disk("vol01", host="host2")])
    assert sorted(planned["declarations"]) == ["ipu2", "st1"]


def test_an_lvol_is_kept_as_a_namespace_and_comes_back_with_its_store() -> None:
    keeping = Keeping(with_store(nodes()))
    keeping.run([lvol_disk("vol00"), disk("vol01")])
    target = keeping.kept["st1"]
    assert [bdev["name"] for bdev in target["bdevs"]] == ["vol01"]
    (subsystem,) = target["subsystems"]
    assert [(ns["bdev"], ns["nsid"]) for ns in subsystem["namespaces"]] == [("fast/vol00", 1), ("vol01", 2)]
    # Whoever lost his namespaces gets them under the old NSIDs, in any order.
    keeping.world.subsystems["st1"].clear()
    keeping.world.controllers["ipu1"].clear()
    keeping.world.devices["ipu1"].clear()
    planned = keeping.run([disk("vol01"), lvol_disk("vol00")])
    assert {result["name"]: result["nsid"] for result in planned["disks"]} == {"vol00": 1, "vol01": 2}
    keeping.run([lvol_disk("vol00", state="absent")], safe_mode=False)
    (subsystem,) = keeping.kept["st1"]["subsystems"]
    assert [ns["bdev"] for ns in subsystem["namespaces"]] == ["vol01"]
