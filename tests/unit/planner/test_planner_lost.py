"""What an interrupted, restarted or contradicting world may not cost: a byte, a file, or the disk under a guest."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.module_utils import _declaration
from ansible_collections.ipdk.storage.plugins.plugin_utils import volumes
from ansible_collections.ipdk.storage.plugins.plugin_utils.planner import plan
from world import World, disk, nodes

FILE = "/var/lib/ipdk/st1/volumes/vol00.img"


def aio(name: str = "vol00", directory: str | None = None, **more: Any) -> dict[str, Any]:
    return disk(name, backing={"type": "aio", **({"directory": directory} if directory else {})}, **more)


def on_a_file() -> World:
    world = World(nodes(), keeps=True)
    world.run(aio())
    world.bdevs["st1"]["vol00"]["driver_specific"] = {"aio": {"filename": FILE}}
    return world


def seen(world: World, **shown: Any) -> dict[str, Any]:
    """What is observed, and disks that hosts still show."""
    observed = world.observed()
    for host, serial in shown.items():
        observed[host]["disks"].append({"serial": serial, "mounts": ["/data"]})
    return observed


def test_a_slot_that_an_ipu_promises_is_given_to_no_other_disk() -> None:
    world = World(nodes(targets=2), keeps=True)
    world.run(disk("vol00", target="st1"))
    world.dead.add("st1")
    world.controllers["ipu1"].clear()
    world.devices["ipu1"].clear()
    items = [disk("vol00", target="st1"), disk("vol01", target="st2")]
    planned = plan(items, world.inventory, seen(world, host1="st1n1"))
    (attached,) = planned["nodes"]["ipu1"]["attach"]
    assert attached["physical_id"] == 1
    assert {"name": "sma-0", "bdev": "st1n1"} in planned["declarations"]["ipu1"]["vhost_blk"]
    items[1]["physical_id"] = 0
    planned = plan(items, world.inventory, seen(world))
    assert "physical_id 0 of ipu1 is promised to st1n1" in planned["problems"][1]["message"]


@pytest.mark.parametrize("state", ["detached", "absent"])
def test_a_disk_that_its_host_shows_and_its_ipu_has_lost_is_not_said_to_be_off(state: str) -> None:
    world = World(nodes(), keeps=True)
    world.run(disk("vol00"))
    world.devices["ipu1"].clear()
    item = disk("vol00", state=state)
    planned = plan([item], world.inventory, seen(world, host1="st1n1"), {"safe_mode": False})
    assert planned["steps"] == [] and planned["declarations"] == {}
    assert "host1 shows it (st1n1), but ipu1 has lost its device" in planned["problems"][0]["message"]


def test_no_empty_file_is_made_in_the_place_of_one_that_a_guest_uses() -> None:
    world = on_a_file()
    bdevs = world.observed()["ipu1"]["bdevs"]
    world.bdevs["st1"].clear()
    world.subsystems["st1"].clear()
    observed = seen(world)
    observed["ipu1"]["bdevs"] = bdevs  # it waits for its storage target
    (files,) = plan([aio()], world.inventory, observed)["nodes"]["st1"]["files_present"]
    assert files == {"size": 64 << 20, "must_exist": True, "paths": [FILE]}


@pytest.mark.parametrize(
    "item",
    [
        aio(directory="/srv/other"),
        aio(directory="/srv/other", state="detached"),
        aio(size="128MiB", state="detached"),
        disk("vol00", state="detached"),
    ],
)
def test_a_volume_comes_back_as_what_it_is_whatever_its_item_says(item: dict[str, Any]) -> None:
    world = on_a_file()
    assert "st1" not in world.plan(item)["declarations"]


def test_the_file_that_goes_is_the_one_that_the_volume_is_on() -> None:
    planned = on_a_file().plan(aio(directory="/srv/other", state="absent"), safe_mode=False)
    assert planned["nodes"]["st1"]["files_absent"] == [FILE]


def left(*files: str, also: dict[str, Any] | None = None) -> dict[str, Any]:
    """The plan for a disk that is to be absent, whose bdev is gone, where these files are there."""
    world = World(nodes(), keeps=True)
    others = [also] if also else []
    world.run(*others)
    for bdev in world.bdevs["st1"].values():
        bdev["driver_specific"] = {"aio": {"filename": FILE}}
    observed = seen(world)
    observed["st1"]["files"] = list(files)
    return plan([aio(state="absent"), *others], world.inventory, observed, {"safe_mode": False})


def test_the_file_of_an_absent_disk_goes_though_its_bdev_is_gone() -> None:
    assert volumes.files_to_go([aio(state="absent"), aio("stays")], nodes(), {"safe_mode": False}) == {"st1": [FILE]}
    planned = left(FILE)
    assert planned["nodes"]["st1"] == {
        "bdevs": [{"name": "vol00", "type": "aio", "filename": FILE, "state": "absent"}],
        "files_absent": [FILE],
    }
    assert planned["summary"]["destroy"] == 1
    assert any(f"destroy 1 file: {FILE}" in line for line in planned["text"]), planned["text"]


def test_no_file_goes_that_is_not_there_or_has_another_bdev_on_it() -> None:
    assert left()["steps"] == []
    assert left(FILE, also=aio("other"))["steps"] == []


def test_a_volume_of_another_backing_is_not_destroyed() -> None:
    planned = on_a_file().plan(disk("vol00", state="absent"), safe_mode=False)
    assert planned["steps"] == []
    assert "backing: malloc was wanted, but the volume on st1 has AIO disk" in planned["problems"][0]["message"]


def test_a_purged_disk_on_a_file_stays_declared_with_its_file() -> None:
    world = on_a_file()
    world.run(purge="detach")
    assert [bdev["filename"] for bdev in world.kept["st1"]["bdevs"]] == [FILE]


def test_a_disk_that_shares_its_name_with_one_of_the_list_is_not_purged() -> None:
    world = World(nodes(targets=2), keeps=True)
    world.run(disk("a", target="st1"), disk("vol00", target="st1"))
    before = world.kept["st1"]
    planned = world.run(disk("a", target="st1"), disk("vol00", target="st2"), purge="detach")
    assert world.kept["st1"] == before and "unplug" not in planned["nodes"]["ipu1"]
    assert [(each["name"], each["target"], each["action"]) for each in planned["unlisted"]] == [
        ("vol00", "st1", "none")
    ]
    for document in world.kept.values():
        _declaration.check(document)


def test_a_disk_that_moves_is_in_use_though_its_target_has_lost_its_namespace() -> None:
    world = World(nodes(hosts=2), keeps=True)
    world.run(disk("vol00", host="host1"))
    world.uses["st1n1"] = {"mounts": ["/data"]}
    observed = seen(world)
    observed["st1"].update(subsystems=[], listeners={})
    planned = plan([disk("vol00", host="host2")], world.inventory, observed)
    assert planned["steps"] == [] and "in use on host1" in planned["problems"][0]["message"]
