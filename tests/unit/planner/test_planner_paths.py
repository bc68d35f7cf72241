"""A storage target with several addresses: listeners with ANA states, and controllers with as many paths."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.plugin_utils.planner import plan
from ansible_collections.ipdk.storage.plugins.plugin_utils.validate import InvalidDisks
from world import World, disk, nodes

NQN = "nqn.2022-06.io.ipdk:st1:ipu1"
SECOND = {"address": "198.19.0.1", "ana_state": "non_optimized"}


def with_paths(*paths: Any, **more: Any) -> dict[str, Any]:
    inventory = nodes()
    inventory["targets"]["st1"].update(paths=list(paths), **more)
    return inventory


def states(world: World) -> dict[str, str]:
    return {f"{address}:{port}": state for (_nqn, address, port), state in world.ana.items()}


def test_each_path_is_a_listener_and_a_path_of_the_controller() -> None:
    world = World(with_paths(SECOND, {"address": "198.18.0.1", "port": 4421, "ana_state": "inaccessible"}), keeps=True)
    world.run(disk())
    assert states(world) == {
        "198.18.0.1:4420": "optimized",
        "198.19.0.1:4420": "non_optimized",
        "198.18.0.1:4421": "inaccessible",
    }
    (controller,) = world.controllers["ipu1"].values()
    assert [(path["trid"]["traddr"], path["trid"]["trsvcid"]) for path in controller["ctrlrs"]] == [
        ("198.18.0.1", "4420"),
        ("198.19.0.1", "4420"),
        ("198.18.0.1", "4421"),
    ]
    (declared,) = world.kept["ipu1"]["controllers"]
    assert declared["multipath"] == "multipath" and len(declared["paths"]) == 2
    again = world.plan(disk())
    assert again["steps"] == [] and again["declarations"] == {}


def test_an_ana_state_changes_in_place() -> None:
    world = World(with_paths(SECOND), keeps=True)
    world.run(disk("a"), disk("b"))
    world.inventory["targets"]["st1"].update(ana_state="inaccessible", paths=[{**SECOND, "ana_state": "optimized"}])
    planned = world.run(disk("a"), disk("b"))
    assert [(step["node"], step["action"], step["kind"]) for step in planned["steps"]] == [("st1", "open", "subsystem")]
    assert planned["text"][0].startswith("0 to attach, 0 to detach, 0 to destroy, 2 unchanged"), "the disks stay"
    assert states(world) == {"198.18.0.1:4420": "inaccessible", "198.19.0.1:4420": "optimized"}
    assert [each["ana_state"] for each in world.kept["st1"]["subsystems"][0]["listeners"]] == [
        "inaccessible",
        "optimized",
    ]


def test_a_path_is_added_to_what_is_there() -> None:
    world = World(with_paths(SECOND), keeps=True)
    world.run(disk("a"), disk("b"))
    world.inventory["targets"]["st1"]["paths"].append({"address": "198.19.0.2"})
    planned = world.run(disk("a"), disk("b"))
    assert [(step["node"], step["action"], step["kind"], step["detail"]) for step in planned["steps"]] == [
        ("st1", "open", "subsystem", "to ipu1"),
        ("ipu1", "add paths to", "controller", "198.19.0.2:4420"),
    ]
    assert planned["summary"]["unchanged"] == 2
    assert len(world.controllers["ipu1"]["st1"]["ctrlrs"]) == 3
    assert world.plan(disk("a"), disk("b"))["steps"] == []


def test_a_listener_that_is_gone_comes_back() -> None:
    world = World(with_paths(SECOND), keeps=True)
    world.run(disk())
    subsystem = world.subsystems["st1"][NQN]
    subsystem["listen_addresses"] = subsystem["listen_addresses"][1:]
    world.run(disk())
    assert len(world.subsystems["st1"][NQN]["listen_addresses"]) == 2


def test_what_was_made_for_one_path_is_not_taken_for_several() -> None:
    world = World(nodes(), keeps=True)
    world.run(disk())
    world.inventory["targets"]["st1"]["paths"] = [SECOND]
    planned = world.plan(disk())
    assert planned["steps"] == []
    assert "was made for one path: it reports no ANA states" in planned["problems"][0]["message"]


def test_what_was_made_for_one_path_and_is_empty_is_made_anew() -> None:
    world = World(nodes(), keeps=True)
    world.run(disk())
    world.run(disk(state="absent"), safe_mode=False)
    world.inventory["targets"]["st1"]["paths"] = [SECOND]
    planned = world.run(disk("a"), disk("b"))
    assert [(step["stage"], step["node"], step["action"]) for step in planned["steps"]][:2] == [
        ("disconnect", "ipu1", "disconnect"),
        ("release", "st1", "remove"),
    ]
    assert len(world.controllers["ipu1"]["st1"]["ctrlrs"]) == 2
    again = world.plan(disk("a"), disk("b"))
    assert again["steps"] == [] and again["declarations"] == {}


@pytest.mark.parametrize(
    ("inventory", "words"),
    [
        (with_paths({"adress": "198.19.0.1"}), r"st1: storage_target_paths[0]: wanted a dictionary with address"),
        (with_paths({"address": "st1-b"}), "storage_target_paths[0].address: wanted an IP address, got 'st1-b'"),
        (with_paths({"address": "198.19.0.1", "port": 0}), "storage_target_paths[0].port: wanted 1 to 65535, got 0"),
        (
            with_paths({"address": "198.19.0.1", "ana_state": "fast"}),
            "storage_target_paths[0].ana_state: wanted one of optimized, non_optimized, inaccessible, got 'fast'",
        ),
        (with_paths({"address": "198.18.0.1"}), "198.18.0.1:4420 is there twice"),
        (with_paths({**SECOND, "ana_state": "inaccessible"}, ana_state="inaccessible"), "all paths are inaccessible"),
        (with_paths(ana_state="fast"), "storage_target_ana_state: wanted one of optimized"),
    ],
)
def test_paths_that_cannot_be_meant(inventory: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidDisks) as refused:
        plan([disk()], inventory, {})
    (error,) = refused.value.errors
    assert words in error
