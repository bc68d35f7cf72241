"""What is there, written down: a plan of that list has nothing to do."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.ipdk.storage.plugins.plugin_utils import export, planner
from world import World, disk, lvol_disk, nodes, with_store

KEYS = {"key": "00112233445566778899aabbccddeeff", "key2": "ffeeddccbbaa99887766554433221100"}
DISKS = [
    disk("plain", physical_id=7),
    disk("big", size="192MiB", backing={"type": "malloc", "block_size": 4096}),
    disk("odd", size=512 * 3),
    lvol_disk("thick"),
    lvol_disk("thin", backing={"thin": True}, state="detached"),
    disk("slow", qos={"rw_iops": 2000, "wr_bandwidth": "8MiB"}),
]


def made(*disks: Any, inventory: Any = None, **options: Any) -> World:
    world = World(inventory or with_store(nodes()))
    # Detaching is for what has been attached.
    for lists in ([{**item, "state": "attached"} for item in disks], list(disks)):
        world.carry_out(planner.plan(lists, world.inventory, world.observed(), options))
    return world


def exported(world: World) -> dict[str, Any]:
    """As read back from the file."""
    result = export.virtual_disks(world.inventory, world.observed())
    return yaml.safe_load(yaml.safe_dump(result))


def test_a_run_with_the_list_has_nothing_to_do() -> None:
    world = made(*DISKS)
    result = exported(world)
    assert result["left_out"] == []
    planned = planner.plan(result["virtual_disks"], world.inventory, world.observed())
    assert (planned["steps"], planned["problems"], planned["unmanaged"]) == ([], [], [])
    assert exported(world) == result


def test_items_say_all_that_can_be_seen() -> None:
    by_name = {item["name"]: item for item in exported(made(*DISKS))["virtual_disks"]}
    assert list(by_name) == sorted(by_name)
    assert by_name["plain"] == {
        "name": "plain",
        "size": "64MiB",
        "backing": {"type": "malloc", "block_size": 512},
        "target": "st1",
        "host": "host1",
        "physical_id": 7,
        "state": "attached",
    }
    assert by_name["odd"]["size"] == 1536
    assert by_name["big"]["backing"]["block_size"] == 4096
    assert by_name["thick"]["backing"] == {"type": "lvol", "store": "fast", "thin": False}
    assert (by_name["thin"]["state"], by_name["thin"]["backing"]["thin"]) == ("detached", True)
    assert "physical_id" not in by_name["thin"]
    assert by_name["slow"]["qos"] == {"rw_iops": 2000, "wr_bandwidth": "8MiB"}
    assert "qos" not in by_name["plain"]


@pytest.mark.parametrize(
    ("directory", "said"), [("/var/lib/ipdk/st1/volumes", {}), ("/srv/disks", {"directory": "/srv/disks"})]
)
def test_the_directory_of_a_file_is_said_where_it_is_not_the_usual_one(directory: str, said: dict[str, str]) -> None:
    world = made(disk("a", backing={"type": "aio", "directory": directory}))
    world.bdevs["st1"]["a"]["driver_specific"] = {"aio": {"filename": f"{directory}/a.img"}}
    (item,) = exported(world)["virtual_disks"]
    assert item["backing"] == {"type": "aio", "block_size": 512, **said}


def test_keys_are_not_there_but_where_to_put_them() -> None:
    world = World(nodes())
    disks = [disk("secret", encryption=KEYS), disk("plain")]
    planned = planner.plan(disks, world.inventory, world.observed())
    world.keys["st1n1c"] = "whatever"
    world.carry_out(planned)
    plain, secret = exported(world)["virtual_disks"]
    assert "encryption" not in plain
    assert secret["encryption"] == {
        "cipher": "AES_XTS",
        "key": "{{ virtual_disk_keys['secret'].key }}",
        "key2": "{{ virtual_disk_keys['secret'].key2 }}",
    }


def test_several_targets_and_hosts() -> None:
    two = [disk("a", target="st1", host="host2"), disk("b", target="st2", host="host1", state="detached")]
    world = made(*two, inventory=nodes(2, 2))
    assert [(item["target"], item["host"], item["state"]) for item in exported(world)["virtual_disks"]] == [
        ("st1", "host2", "attached"),
        ("st2", "host1", "detached"),
    ]
    world.subsystems["st2"].clear()
    result = exported(world)
    assert [item["name"] for item in result["virtual_disks"]] == ["a"]
    assert result["left_out"] == [
        "st2: volume b: no IPU knows it, and there are several hosts: declare it with its host"
    ]


def test_one_name_on_two_targets_can_be_listed_once() -> None:
    world = made(disk("a", target="st1"), inventory=nodes(2))
    world.carry_out(planner.plan([disk("a", target="st2")], world.inventory, world.observed()))
    result = exported(world)
    assert [(item["name"], item["target"]) for item in result["virtual_disks"]] == [("a", "st1")]
    assert result["left_out"] == ["st2: volume a: the disk from st1 has the same name"]


def test_the_volumes_of_others_are_named_with_the_reason() -> None:
    world = made(disk("a"), lvol_disk("b"))
    bdevs, stores = world.bdevs["st1"], world.stores["st1"]
    base = {"product_name": "AIO disk", "block_size": 512, "num_blocks": 8, "uuid": "x"}
    bdevs["Store-fast"] = {**base, "name": "Store-fast"}
    bdevs["theirs"] = {**base, "name": "theirs"}
    bdevs["nvme0n1"] = {**base, "name": "nvme0n1", "product_name": "NVMe disk"}
    other = {**bdevs["fast/b"], "name": "u", "uuid": "u", "aliases": ["old/b"]}
    other["driver_specific"] = {"lvol": {**other["driver_specific"]["lvol"], "lvol_store_uuid": "o"}}
    bdevs["old/b"] = other
    stores["old"] = {**stores["fast"], "name": "old", "uuid": "o", "base_bdev": "Store-old"}
    upper = {**bdevs["fast/b"], "name": "v", "uuid": "v", "aliases": ["fast/B"]}
    bdevs["fast/B"] = upper
    result = exported(world)
    assert [item["name"] for item in result["virtual_disks"]] == ["a", "b"]
    assert result["left_out"] == [
        "st1: volume fast/B: no virtual disk can have its name",
        "st1: bdev theirs: it was not made for a virtual disk (its UUID is another)",
        "st1: bdev nvme0n1: NVMe disk is no backing of a virtual disk",
        "st1: bdev old/b: lvol store old is not in storage_target_lvol_stores",
    ]


@pytest.mark.parametrize("dead", ["st1", "ipu1"])
def test_no_list_is_made_without_a_node(dead: str) -> None:
    world = made(disk("a"))
    world.dead = {dead}
    with pytest.raises(export.Incomplete, match=f"got no answer of {dead}: the list would lack their disks"):
        export.virtual_disks(world.inventory, world.observed())


def test_hosts_need_not_answer() -> None:
    world = made(disk("a"))
    world.dead = {"host1"}
    assert exported(world)["virtual_disks"][0]["physical_id"] == 0
