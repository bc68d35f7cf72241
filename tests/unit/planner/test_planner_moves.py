"""A disk that goes from one host to another: the old one is fenced, and seen to be, before the new one is let in."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.plugin_utils import moves, planner, steps
from ansible_collections.ipdk.storage.plugins.plugin_utils.validate import InvalidDisks
from world import HOST_NQN, World, disk, nodes

OLD, NEW = "nqn.2022-06.io.ipdk:st1:ipu1", "nqn.2022-06.io.ipdk:st1:ipu2"


@pytest.fixture
def world() -> World:
    world = World(nodes(hosts=2), keeps=True)
    world.run(disk("a", host="host1"), disk("b", host="host1"))
    return world


def admitted(world: World, nqn: str) -> list[str]:
    return [host["nqn"] for host in world.subsystems["st1"][nqn]["hosts"]]


def gone(planned: dict[str, Any]) -> dict[str, Any]:
    """What sma_device answers where all came off."""
    answers: dict[str, Any] = {}
    for step in planned["steps"]:
        if step["stage"] == "unplug":
            device = {"physical_id": step["arguments"]["physical_id"], "state": "absent"}
            answers.setdefault(step["node"], []).append(device)
    return answers


def subsystem(nqn: str, nsids: list[int], hosts: list[str]) -> dict[str, Any]:
    return {"nqn": nqn, "namespaces": [{"nsid": nsid} for nsid in nsids], "hosts": [{"nqn": host} for host in hosts]}


def test_the_last_disk_that_leaves_shuts_the_old_host_out(world: World) -> None:
    world.run(disk("a", host="host2"), disk("b", host="host1"))
    assert admitted(world, OLD) == [HOST_NQN.format(1)], "b is still there"
    planned = world.run(disk("a", host="host2"), disk("b", host="host2"))
    assert [(step["stage"], step["node"], step["action"]) for step in planned["steps"]][:4] == [
        ("unplug", "ipu1", "unplug"),
        ("disconnect", "ipu1", "disconnect"),
        ("release", "st1", "fence"),
        ("release", "st1", "shut out"),
    ]
    assert "st1: shut out 1 host: ipu1" in planned["text"]
    assert admitted(world, OLD) == []
    assert admitted(world, NEW) == [HOST_NQN.format(2)]
    assert world.controllers["ipu1"] == {}
    assert [each["nqn"] for each in world.kept["st1"]["subsystems"]] == [NEW]
    assert "controllers" not in world.kept["ipu1"]
    again = world.plan(disk("a", host="host2"), disk("b", host="host2"))
    assert again["steps"] == [] and again["declarations"] == {}


def test_a_disk_moves_back(world: World) -> None:
    there = [disk("a", host="host2"), disk("b", host="host2")]
    back = [disk("a", host="host1"), disk("b", host="host1")]
    world.run(*there)
    world.run(*back)
    assert admitted(world, OLD) == [HOST_NQN.format(1)] and admitted(world, NEW) == []
    assert world.plan(*back)["steps"] == []
    assert [each["nqn"] for each in world.kept["st1"]["subsystems"]] == [OLD]


def test_a_host_is_not_shut_out_from_a_disk_that_it_keeps(world: World) -> None:
    """A detached disk's namespace stays, and so does one that the target lost and still promises."""
    world.run(disk("b", host="host1", state="detached"))
    world.run(disk("a", host="host2"))
    assert admitted(world, OLD) == [HOST_NQN.format(1)]


def test_a_disk_that_does_not_come_off_keeps_its_host(world: World) -> None:
    planned = world.plan(disk("a", host="host2"), disk("b", host="host2"))
    left = steps.after_unplug(planned, {"ipu1": [{"physical_id": 0, "state": "absent"}]}, {})
    assert left["stuck"] == ["b"] and left["fences"] == ["st1"]
    assert "disconnect" not in left["nodes"].get("ipu1", {})
    (released,) = left["nodes"]["st1"]["release"]
    assert "hosts" not in released and [each["bdev"] for each in released["namespaces"]] == ["a"]
    kept = {each["nqn"]: each for each in left["declarations"]["st1"]["subsystems"]}
    assert [namespace["bdev"] for namespace in kept[OLD]["namespaces"]] == ["b"]
    assert [each["name"] for each in left["declarations"]["ipu1"]["controllers"]] == ["st1"]


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        pytest.param([subsystem(OLD, [1, 2], [])], "a: it is still namespace 1", id="namespace"),
        pytest.param([subsystem(OLD, [], [HOST_NQN.format(1)])], f"a, b: {OLD} still admits", id="host"),
        pytest.param(None, "nobody could see", id="no answer"),
    ],
)
def test_nobody_is_let_in_beside_an_old_host_that_may_write(world: World, seen: Any, words: str) -> None:
    planned = world.plan(disk("a", host="host2"), disk("b", host="host2"), disk("c", host="host2"))
    left = steps.after_unplug(planned, gone(planned), {})
    assert left["stuck"] == []
    after = steps.after_fence(planned, left, {"st1": seen})
    assert after["stuck"] == ["a", "b"]
    assert words in " ".join(after["unfenced"]["st1"])
    (new,) = after["nodes"]["st1"]["subsystems"]
    assert [namespace["bdev"] for namespace in new["namespaces"]] == ["c"]
    assert [device["physical_id"] for device in after["nodes"]["ipu2"]["attach"]] == [2]


def test_what_is_seen_to_be_fenced_goes_on(world: World) -> None:
    planned = world.plan(disk("a", host="host2"), disk("b", host="host2"))
    left = steps.after_unplug(planned, gone(planned), {})
    after = steps.after_fence(planned, left, {"st1": [subsystem(OLD, [], [])]})
    assert after["stuck"] == [] and after["unfenced"] == {}
    assert after["nodes"] == {
        node: {stage: items for stage, items in work.items() if stage not in ("release", "disconnect")}
        for node, work in left["nodes"].items()
        if node != "ipu1"
    }


def test_a_dead_host_gets_nothing_and_loses_nothing(world: World) -> None:
    world.dead = {"host2"}
    planned = world.plan(disk("a", host="host2"))
    assert planned["steps"] == [] and planned["declarations"] == {}
    assert "the state of the host host2 is unknown" in planned["problems"][0]["message"]


def test_an_old_ipu_that_is_dead_is_fenced_by_force_only(world: World) -> None:
    world.dead = {"ipu1", "host1"}
    wanted = [disk("a", host="host2"), disk("b", host="host2")]
    planned = world.plan(*wanted)
    assert planned["steps"] == []
    assert "virtual_disks_force: true" in planned["problems"][0]["message"]
    world.run(*wanted, force=True)
    assert admitted(world, OLD) == []
    assert world.subsystems["st1"][OLD]["namespaces"] == []
    assert list(world.devices["ipu2"].values()) == ["st1n1", "st1n2"]


def moved_by_force(world: World) -> list[dict[str, Any]]:
    """Both disks are on host2 now, and ipu1, which did not answer, answers again with all that it had."""
    world.dead = {"ipu1", "host1"}
    wanted = [disk("a", host="host2"), disk("b", host="host2")]
    world.run(*wanted, force=True)
    world.dead = set()
    return wanted


@pytest.mark.parametrize("use", [{}, {"mounts": ["/mnt"]}])
def test_an_old_ipu_that_answers_again_is_cleared_of_what_moved_away(world: World, use: dict[str, Any]) -> None:
    wanted = moved_by_force(world)
    world.uses["st1n1"] = use
    planned = world.run(*wanted)
    removed = ["sma-1 (st1n2)"] if use else ["sma-0 (st1n1)", "sma-1 (st1n2)"]
    assert [(step["stage"], step["node"]) for step in planned["steps"]] == [
        ("sever", "ipu1"),
        *[("unplug", "ipu1")] * len(removed),
    ]
    assert [step["name"] for step in planned["steps"] if step["stage"] == "unplug"] == removed
    assert world.controllers["ipu1"] == {}
    assert [each["name"] for each in world.kept["ipu1"].get("vhost_blk", [])] == (["sma-0"] if use else [])
    assert "controllers" not in world.kept["ipu1"]
    assert world.plan(*wanted)["steps"] == []


def test_a_disk_that_comes_back_meets_nothing_of_what_its_host_had_on_the_way(world: World) -> None:
    moved_by_force(world)
    back = [disk("a", host="host1"), disk("b", host="host2")]
    planned = world.run(*back)
    happens = [(step["stage"], step["node"]) for step in planned["steps"]]
    assert happens.index(("sever", "ipu1")) == 0
    assert (
        happens.index(("sever", "ipu1")) < happens.index(("subsystems", "st1")) < happens.index(("controllers", "ipu1"))
    )
    assert list(world.devices["ipu1"].values()) == ["st1n1"]
    again = world.plan(*back)
    assert again["steps"] == [] and again["declarations"] == {}


def test_a_disk_does_not_come_back_while_its_host_holds_writes_for_it(world: World) -> None:
    """b is still on host1, so that ipu1 is admitted all the time."""
    world.run(disk("a", host="host2"))
    observed = world.observed()
    (uuid,) = (bdev["uuid"] for bdev in observed["ipu2"]["bdevs"])
    observed["ipu1"]["bdevs"].append({"name": "st1n1", "uuid": uuid, "product_name": "NVMe disk"})
    planned = planner.plan([disk("a", host="host1")], world.inventory, observed)
    assert planned["steps"] == []
    assert "ipu1 still has the bdev st1n1 from when the disk was its own" in planned["problems"][0]["message"]


@pytest.mark.parametrize("lost", ["namespaces", "everything"])
def test_an_ipu_of_a_target_that_came_back_empty_is_not_severed(world: World, lost: str) -> None:
    subsystem = world.subsystems["st1"][OLD]
    subsystem["namespaces"], subsystem["hosts"] = [], []
    if lost == "everything":
        world.kept["st1"] = None
    planned = world.plan(disk("a", host="host1"), disk("b", host="host1"))
    assert "sever" not in [step["stage"] for step in planned["steps"]]


@pytest.mark.parametrize("shared", [False, True])
def test_an_item_has_one_host(shared: bool) -> None:
    with pytest.raises(InvalidDisks) as refused:
        planner.plan([disk(host=["host1", "host2"], shared=shared)], nodes(hosts=2), {})
    (error,) = refused.value.errors
    assert "host: wanted one host, got host1, host2" in error and "an item for each host, with shared: true" in error


def test_two_items_of_one_name_on_two_hosts_are_one_volume_on_two_hosts() -> None:
    with pytest.raises(InvalidDisks) as refused:
        planner.plan([disk(host="host1"), disk(host="host2")], nodes(hosts=2), {})
    (error,) = refused.value.errors
    assert "for host1 and for host2: two hosts that write to one volume destroy" in error


@pytest.mark.parametrize(
    ("names", "host", "words"),
    [
        (["vol01"], "host2", "move_disks: no virtual disk is called 'vol01'; virtual_disks has: vol00, gone, both."),
        (["gone"], "host2", "move_disks: gone is declared absent"),
        (["both"], "host2", "move_disks: both is shared: its hosts have it at the same time."),
        (None, "host2", "move_disks: wanted a list of names of disks, such as [vol00], got nothing."),
        ("vol00", "host2", "move_disks: wanted a list of names of disks, such as [vol00], got 'vol00'."),
        (["vol00"], None, "move_to: wanted the name of one host, got nothing"),
        (["vol00"], ["host1", "host2"], "move_to: wanted the name of one host, got a list"),
        (["vol00"], "host3", "move_to: 'host3' is not in the group ipu_hosts (host1, host2)."),
    ],
)
def test_a_move_that_cannot_be_meant(names: Any, host: Any, words: str) -> None:
    disks = [disk(), disk("gone", state="absent"), disk("both", shared=True)]
    (error,) = moves.mistakes(disks, names, host, ["host1", "host2"])
    assert error.startswith(words)


def test_only_the_disks_that_move_are_the_matter_of_a_move() -> None:
    disks = [disk("a", host="host1", state="detached"), disk("b", host="host1")]
    assert moves.mistakes(disks, ["a"], "host2", ["host1", "host2"]) == []
    assert moves.moved(disks, ["a"], "host2") == [disk("a", host="host2", state="attached")]
