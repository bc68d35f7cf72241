"""Volumes that grow under their hosts, and those that are not to shrink."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.plugin_utils import planner, report
from world import World, disk, lvol_disk, nodes, with_store

MIB = 1 << 20


def aio(**more: Any) -> dict[str, Any]:
    return disk(**{"backing": {"type": "aio"}, **more})


def null(**more: Any) -> dict[str, Any]:
    return disk(**{"backing": {"type": "null"}, **more})


def converged(*disks: dict[str, Any], **inventory: Any) -> World:
    world = World(with_store(nodes(**inventory)))
    world.carry_out(world.plan(*disks))
    return world


@pytest.mark.parametrize(
    ("make", "stage", "kind"), [(lvol_disk, "lvols", "lvol"), (aio, "bdevs", "bdev"), (null, "bdevs", "bdev")]
)
def test_a_volume_grows_in_place_and_its_host_is_looked_at(make: Any, stage: str, kind: str) -> None:
    world = converged(make())
    grown = world.plan(make(size="128MiB"))
    (step,) = grown["steps"]
    assert (step["stage"], step["action"], step["kind"]) == (stage, "grow", kind)
    assert step["detail"].endswith("128 MiB, 64MiB more")
    assert grown["nodes"]["host1"] == {"sizes": {"st1n1": 128 * MIB}}
    assert grown["disks"][0]["action"] == "grow"
    world.carry_out(grown)
    assert world.plan(make(size="128MiB"))["steps"] == []


def test_the_file_grows_before_its_bdev() -> None:
    grown = converged(aio()).plan(aio(size="128MiB"))
    (files,) = grown["nodes"]["st1"]["files_present"]
    assert files == {"size": 128 * MIB, "paths": ["/var/lib/ipdk/st1/volumes/vol00.img"]}
    assert grown["nodes"]["st1"]["bdevs"][0]["size"] == 128 * MIB


def test_what_a_node_comes_back_with_has_the_new_size() -> None:
    world = converged(aio())
    observed = world.observed()
    observed["st1"]["declaration"] = None
    document = planner.plan([aio(size="128MiB")], world.inventory, observed)["declarations"]["st1"]
    assert [bdev["size"] for bdev in document["bdevs"]] == [128 * MIB]


def test_where_nobody_may_look_nobody_waits() -> None:
    grown = converged(aio(), access="none").plan(aio(size="128MiB"))
    assert set(grown["nodes"]) == {"st1"}


def test_a_disk_that_grows_and_is_attached_appears_once() -> None:
    world = converged(aio())
    world.carry_out(world.plan(aio(state="detached")))
    grown = world.plan(aio(size="128MiB"))
    assert grown["nodes"]["host1"] == {"present": ["st1n1"]}


def test_an_lvol_gets_whole_clusters_of_its_store_and_the_host_sees_them() -> None:
    world = converged(lvol_disk(size="16MiB"))
    world.stores["st1"]["fast"]["cluster_size"] = 16 * MIB
    assert world.plan(lvol_disk(size="20MiB"))["nodes"]["host1"] == {"sizes": {"st1n1": 32 * MIB}}


@pytest.mark.parametrize(
    ("there", "wanted", "said"),
    [
        (lvol_disk(), lvol_disk(size="32MiB"), "st1 has 64 MiB; an lvol is never shrunk"),
        (aio(), aio(size="32MiB"), "st1 has 64 MiB; backing aio is never shrunk"),
        (null(), null(size="32MiB"), "st1 has 64 MiB; backing null is never shrunk"),
        (disk(), disk(size="32MiB"), "st1 has 64 MiB; backing malloc is never shrunk"),
        (disk(), disk(size="128MiB"), "st1 has 64 MiB; backing malloc is not resized"),
        (null(), null(size=65 * MIB + 512), "st1 has 64 MiB; SPDK resizes backing null to whole MiB only"),
    ],
)
def test_what_cannot_be_is_refused_with_the_size_that_is_there(there: Any, wanted: Any, said: str) -> None:
    world = converged(there)
    planned = world.plan(wanted)
    assert planned["steps"] == []
    (problem,) = planned["problems"]
    assert said in problem["message"] and "Declare size: 67108864" in problem["message"]


def test_a_file_at_another_place_does_not_grow_by_another_one() -> None:
    world = converged(aio())
    world.bdevs["st1"]["vol00"]["driver_specific"] = {"aio": {"filename": "/srv/vol00.img"}}
    assert world.plan(aio())["problems"] == []
    (problem,) = world.plan(aio(size="128MiB"))["problems"]
    assert "its file is /srv/vol00.img, where /var/lib/ipdk/st1/volumes/vol00.img was wanted" in problem["message"]


@pytest.mark.parametrize(("has", "right"), [(64 * MIB, False), (128 * MIB, True)])
def test_a_host_that_does_not_see_the_new_size_is_named(has: int, right: bool) -> None:
    planned = converged(aio()).plan(aio(size="128MiB"))
    seen = {"host1": [{"serial": "st1n1", "path": "/dev/vdb", "size_bytes": has}]}
    (told,) = report.report(planned, seen)
    assert told["converged"] is right
    assert told["reason"] == (None if right else "host1 sees 64 MiB of it, where 128 MiB was wanted")
