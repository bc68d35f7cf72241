"""What differs from the declaration, read from plans of a world that was tampered with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.plugin_utils import drift, planner
from world import World, disk, lvol_disk, nodes, with_store

PLUGIN_UTILS = Path(planner.__file__).parent


def found(world: World, disks: list[dict[str, Any]], silent: list[str] | None = None, **options: Any) -> list[Any]:
    """(node, disk, kind, found, next_run) of each difference."""
    planned = planner.plan(disks, world.inventory, world.observed(), options)
    rows = drift.differences(planned, silent or [])
    assert all(list(row) == ["node", "disk", "kind", "name", "found", "detail", "next_run"] for row in rows)
    return [(row["node"], row["disk"], row["kind"], row["found"], row["next_run"]) for row in rows]


@pytest.fixture
def world() -> World:
    made = World(with_store(nodes()))
    made.carry_out(planner.plan(DISKS, made.inventory, made.observed()))
    return made


DISKS = [disk("a"), lvol_disk("b"), disk("c", qos={"rw_iops": 2000})]


def test_nothing_differs_after_a_run(world: World) -> None:
    assert found(world, DISKS) == []


def test_what_is_missing_different_and_not_wanted_is_told_apart(world: World) -> None:
    del world.devices["ipu1"][0]
    world.limits["ipu1"]["st1n3"]["rw_ios_per_sec"] = 9000
    wanted = [DISKS[0], lvol_disk("b", size="128MiB"), DISKS[2], disk("d", state="detached")]
    assert found(world, wanted) == [
        ("st1", "b", "lvol", "different", "grow"),
        ("ipu1", "a", "device", "missing", "attach"),
        ("ipu1", "c", "device", "different", "limit"),
    ]
    assert found(world, [DISKS[0], lvol_disk("b", state="detached"), DISKS[2]]) == [
        ("ipu1", "b", "device", "not wanted", "unplug"),
        ("ipu1", "a", "device", "missing", "attach"),
        ("ipu1", "c", "device", "different", "limit"),
    ]


def test_a_namespace_that_somebody_took_away_is_missing(world: World) -> None:
    world.devices["ipu1"].clear()
    world.subsystems["st1"].clear()
    rows = found(world, DISKS)
    assert [row for row in rows if row[2] == "namespace"] == [
        ("st1", name, "namespace", "missing", "add") for name in ("a", "b", "c")
    ]


def test_what_is_not_in_the_list_differs_and_stays(world: World) -> None:
    assert found(world, DISKS[1:]) == [
        ("st1", None, "volume", "not in the list", "nothing"),
        ("ipu1", None, "device", "not in the list", "nothing"),
    ]
    assert found(world, DISKS[1:], purge="detach") == [("ipu1", "a", "device", "not wanted", "unplug")]


def test_what_cannot_become_what_is_declared_is_refused(world: World) -> None:
    (row,) = drift.differences(
        planner.plan([DISKS[0], lvol_disk("b", size="32MiB"), DISKS[2]], world.inventory, world.observed()), []
    )
    assert (row["disk"], row["found"], row["next_run"]) == ("b", "refused", "nothing")
    assert row["detail"].startswith("size: 32 MiB was wanted, but the volume on st1 has 64 MiB")


def test_a_silent_node_is_unknown_and_so_are_its_disks(world: World) -> None:
    world.dead = {"st1"}
    assert found(world, DISKS[:1], ["st1"])[:2] == [
        ("st1", None, "node", "unknown", "nothing"),
        ("st1", "a", "virtual disk", "unknown", "nothing"),
    ]


def test_a_declaration_that_a_node_keeps_and_is_not_this_one_differs(world: World) -> None:
    observed = world.observed()
    observed["ipu1"]["declaration"] = None
    planned = planner.plan(DISKS, world.inventory, observed)
    assert [(row["node"], row["kind"], row["next_run"]) for row in drift.differences(planned, [])] == [
        ("ipu1", "declaration", "keep")
    ]


def test_every_action_of_the_planner_has_its_word() -> None:
    actions = {
        action
        for path in PLUGIN_UTILS.glob("*.py")
        for call in re.findall(r"(?:_add|Step)\((.*?)\)", path.read_text(encoding="utf-8"), re.DOTALL)
        for action in re.findall(r'^\s*"[a-z_]+",\s*[a-z_.]+,\s*"([a-z ]+)",', call)
    }
    assert len(actions) > 8
    assert actions <= drift.FOUND.keys()
