"""Snapshots of virtual disks, the disks that are clones of them, and volumes that stand on snapshots."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.plugin_utils import drift, export, snapshots, validate
from world import World, disk, lvol_disk, nodes, with_store

MIB = 1 << 20


@pytest.fixture
def world() -> World:
    """vol00, thick, attached, with a snapshot."""
    made = World(with_store(nodes(), overcommit=3.0))
    made.converge(lvol_disk())
    made.snapshot("st1", "fast/vol00", "monday")
    return made


def clone(name: str = "copy", **more: Any) -> dict[str, Any]:
    return lvol_disk(name, **{"backing": {"clone_of": "monday"}, **more})


# Clones


def test_a_clone_is_a_disk_that_starts_as_a_snapshot(world: World) -> None:
    planned = world.converge(lvol_disk(), clone())
    (lvol,) = planned["nodes"]["st1"]["lvols"]
    assert lvol == {
        "name": "copy",
        "store": "fast",
        "size": 64 * MIB,
        "thin": True,
        "state": "present",
        "clone_of": "monday",
    }
    assert [step["detail"] for step in planned["steps"] if step["stage"] == "lvols"] == [
        "thin, 64 MiB, clone of monday"
    ]
    assert world.devices["ipu1"] == {0: "st1n1", 1: "st1n2"}


def test_a_shared_volume_has_snapshots_and_is_a_clone_once() -> None:
    world = World(with_store(nodes(hosts=2), overcommit=3.0))
    hosts = ("host1", "host2")
    items = [lvol_disk(host=host, shared=True) for host in hosts]
    world.converge(*items)
    world.snapshot("st1", "fast/vol00", "monday")
    items += [clone(host=host, shared=True) for host in hosts]
    planned = world.converge(*items)
    assert [lvol["name"] for lvol in planned["nodes"]["st1"]["lvols"]] == ["copy"]
    work = snapshots.work(items, world.inventory, {"disk": "vol00", "name": "tuesday"}, world.observed())
    assert (work["problems"], work["clones"]) == ([], [])
    work = snapshots.work(items, world.inventory, {"disk": "vol00", "name": "monday"}, world.observed())
    assert work["clones"] == ["copy"]


def test_a_clone_may_be_bigger_and_grows_like_any_other(world: World) -> None:
    world.converge(lvol_disk(), clone(size="96MiB"))
    grown = world.converge(lvol_disk(), clone(size="128MiB"))
    assert [(step["action"], step["name"]) for step in grown["steps"]] == [("grow", "fast/copy")]


def test_a_clone_outlives_its_snapshot_and_its_origin(world: World) -> None:
    world.converge(lvol_disk(), clone())
    world.bdevs["st1"]["fast/monday"]["driver_specific"]["lvol"]["clones"] = ["copy"]
    world.converge(lvol_disk(state="absent"), clone(), safe_mode=False)
    world.drop_snapshot("st1", "fast", "monday")
    assert world.plan(clone())["steps"] == [] == world.plan(clone())["problems"]


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (clone(size="32MiB"), "the snapshot fast/monday on st1 has 64 MiB; a clone is never smaller. Declare size: 67"),
        (clone(backing={"clone_of": "sunday"}), "a snapshot was wanted, but st1 has no fast/sunday. Take it first"),
        (clone(backing={"clone_of": "vol00"}), "but st1 has fast/vol00, which is no snapshot"),
        (
            lvol_disk("monday"),
            "fast/monday on st1 is a snapshot, which no virtual disk can be. Rename the virtual disk",
        ),
    ],
)
def test_clones_that_cannot_be_are_refused(world: World, item: dict[str, Any], said: str) -> None:
    planned = world.plan(lvol_disk(), item)
    assert planned["steps"] == []
    (problem,) = planned["problems"]
    assert said in problem["message"]


def test_no_snapshot_is_destroyed_by_the_name_of_a_disk(world: World) -> None:
    planned = world.plan(lvol_disk(), lvol_disk("monday", state="absent"), safe_mode=False)
    assert planned["steps"] == [] and "is a snapshot" in planned["problems"][0]["message"]


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (disk(backing={"type": "malloc", "clone_of": "x"}), "backing.clone_of is for type lvol, not for malloc"),
        (lvol_disk(backing={"clone_of": "a/b"}), "backing.clone_of: 'a/b' is no valid name"),
        (lvol_disk(backing={"clone_of": "vol00"}), "vol00 is the disk's own name, wanted that of a snapshot"),
        (lvol_disk(backing={"clone_of": "x", "thin": False}), "backing.thin: a clone is thin, leave it out"),
    ],
)
def test_bad_clones_get_one_error(item: dict[str, Any], said: str) -> None:
    with pytest.raises(validate.InvalidDisks) as raised:
        validate.validate([item], with_store(nodes()))
    assert len(raised.value.errors) == 1 and said in raised.value.errors[0], raised.value.errors


# The disk itself


def test_a_thick_disk_is_thin_as_long_as_it_has_a_snapshot_and_thick_again_afterwards(world: World) -> None:
    assert world.plan(lvol_disk())["steps"] == []
    free = world.stores["st1"]["fast"]["free_clusters"]
    world.converge(lvol_disk(size="128MiB"))
    assert world.stores["st1"]["fast"]["free_clusters"] == free, "it takes none yet"
    world.drop_snapshot("st1", "fast", "monday")
    planned = world.converge(lvol_disk(size="128MiB"))
    assert [(step["action"], step["detail"]) for step in planned["steps"]] == [("grow", "thick, 128 MiB, is thin now")]
    lvol = world.bdevs["st1"]["fast/vol00"]["driver_specific"]["lvol"]
    assert (lvol["thin_provision"], lvol["num_allocated_clusters"]) == (False, 32)
    assert world.stores["st1"]["fast"]["free_clusters"] == free - 16


def test_becoming_thick_needs_free_clusters(world: World) -> None:
    world.drop_snapshot("st1", "fast", "monday")
    world.bdevs["st1"]["fast/vol00"]["driver_specific"]["lvol"]["num_allocated_clusters"] = 4
    world.stores["st1"]["fast"]["free_clusters"] = 11
    assert "has 44MiB free, and it needs 48MiB" in world.plan(lvol_disk())["problems"][0]["message"]


def test_what_is_thick_cannot_become_thin() -> None:
    world = World(with_store(nodes()))
    world.converge(lvol_disk())
    (problem,) = world.plan(lvol_disk(backing={"thin": True}))["problems"]
    assert "thin: True was wanted, but the volume on st1 has False" in problem["message"]


def test_a_snapshot_is_neither_unlisted_nor_drift_nor_exported(world: World) -> None:
    planned = world.plan(lvol_disk())
    assert (planned["unlisted"], planned["unmanaged"], drift.differences(planned, [])) == ([], [], [])
    result = export.virtual_disks(world.inventory, world.observed())
    assert [item["name"] for item in result["virtual_disks"]] == ["vol00"]
    assert result["left_out"] == ["st1: bdev fast/monday: a snapshot is no virtual disk, and stays"]
    assert world.plan(*result["virtual_disks"])["steps"] == []


# Taking and removing


def work(world: World, *disks: dict[str, Any], asked: bool = True, safe_mode: bool = False, **request: Any) -> Any:
    return snapshots.work(
        list(disks),
        world.inventory,
        {"disk": "vol00", "name": "tuesday", **request},
        world.observed() if asked else None,
        {"safe_mode": safe_mode},
    )


def test_what_takes_and_what_removes_a_snapshot(world: World) -> None:
    copy = clone(backing={"clone_of": "tuesday"})
    assert work(world, lvol_disk(), copy) == {
        "problems": [],
        "node": "st1",
        "store": "fast",
        "lvols": [{"name": "tuesday", "store": "fast", "snapshot_of": "vol00"}],
        "clones": ["copy"],
    }
    assert work(world, lvol_disk(), name="monday", state="absent")["lvols"] == [
        {"name": "monday", "store": "fast", "state": "absent"}
    ]
    assert work(world, lvol_disk(), state="absent")["lvols"] == [], "it is not there"


def test_a_snapshot_of_several_clones_stays_until_they_go(world: World) -> None:
    world.converge(lvol_disk(), clone())
    world.bdevs["st1"]["fast/monday"]["driver_specific"]["lvol"]["clones"].append("copy")
    (problem,) = work(world, lvol_disk(), clone(), name="monday", state="absent")["problems"]
    assert "fast/monday on st1 has 2 clones (vol00, copy)" in problem
    leaving = clone(state="absent")
    assert work(world, lvol_disk(), leaving, name="monday", state="absent")["problems"] == []


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"name": "monday"}, "fast/monday on st1 is there already, a snapshot of 64MiB. Choose another name"),
        ({"name": "vol00"}, "fast/vol00 on st1 is a volume, not a snapshot. Choose another name"),
        ({"name": "vol00", "state": "absent"}, "fast/vol00 on st1 is a volume, not a snapshot"),
        ({"disk": "other"}, "other has no volume fast/other on st1; attach it first"),
        ({"disk": "plain"}, "plain is on backing malloc; snapshots are of lvols only"),
        ({"disk": "nobody"}, "'nobody' is not in virtual_disks (vol00, other, plain)"),
        ({"disk": ""}, "snapshot_disk is missing: say of which virtual disk"),
        ({"name": ""}, "snapshot_name is missing"),
        ({"name": "a/b"}, "snapshot_name: 'a/b' is no valid name"),
        ({"state": "gone"}, "snapshot_state: wanted one of present, absent, got 'gone'"),
        ({"state": "absent", "safe_mode": True}, "absent destroys data, and ipdk_safe_mode is true"),
    ],
)
def test_snapshots_that_cannot_be_are_refused(world: World, request_: dict[str, Any], said: str) -> None:
    disks = [lvol_disk(), lvol_disk("other"), disk("plain")]
    (problem,) = work(world, *disks, **request_)["problems"]
    assert said in problem
    needs_a_look = any(words in said for words in (" on st1 ", "has no volume"))
    assert (work(world, *disks, asked=False, **request_)["problems"] == []) is needs_a_look


def test_a_silent_target_and_a_missing_store_are_said(world: World) -> None:
    world.stores["st1"].clear()
    assert work(world, lvol_disk())["problems"] == ["st1 has no lvol store fast; deploy it first."]
    world.dead = {"st1"}
    assert work(world, lvol_disk())["problems"] == ["st1 did not answer."]


def test_a_list_with_mistakes_is_refused_as_such(world: World) -> None:
    assert "unknown key 'sise'" in work(world, lvol_disk(sise=1))["problems"][0]
