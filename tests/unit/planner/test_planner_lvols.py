"""Virtual disks in lvol stores, and disks that were taken off the list."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.plugin_utils import lvol_stores, validate, virtual_disk
from world import World, disk, lvol_disk, nodes, with_store

GIB = 1 << 30
MIB = 1 << 20
UUID = virtual_disk.volume_uuid("vol00", "st1")


def namespace(world: World) -> dict[str, Any]:
    (subsystem,) = world.subsystems["st1"].values()
    (only,) = subsystem["namespaces"]
    return dict(only)


def test_an_lvol_is_made_in_its_store_and_its_namespace_has_the_identity_of_the_disk() -> None:
    world = World(with_store(nodes()))
    planned = world.converge(lvol_disk(backing={"thin": True}))
    assert planned["nodes"]["st1"]["lvols"] == [
        {"name": "vol00", "store": "fast", "size": 64 * MIB, "thin": True, "state": "present"}
    ]
    assert "bdevs" not in planned["nodes"]["st1"]
    (made,) = planned["nodes"]["st1"]["subsystems"][0]["namespaces"]
    assert made == {"bdev": "fast/vol00", "nsid": 1, "uuid": UUID, "nguid": UUID.replace("-", ""), "state": "present"}
    assert world.bdevs["st1"]["fast/vol00"]["uuid"] != UUID  # SPDK's own
    assert planned["disks"][0]["uuid"] == namespace(world)["uuid"] == UUID


@pytest.mark.parametrize("make", [disk, lvol_disk])
def test_identity_outlives_detaching_and_a_storage_target_that_lost_its_namespaces(make: Any) -> None:
    world = World(with_store(nodes()))
    first = world.converge(make())["disks"][0]
    before = namespace(world)
    world.converge(make(state="detached"))
    world.subsystems["st1"].clear()
    if make is disk:
        world.bdevs["st1"].clear()
    again = world.converge(make())["disks"][0]
    assert namespace(world) == {**before, "bdev_name": namespace(world)["bdev_name"]}
    assert [again[key] for key in ("serial", "uuid", "nsid")] == [first[key] for key in ("serial", "uuid", "nsid")]


def test_the_only_store_need_not_be_named() -> None:
    (valid,) = validate.validate([disk(backing={"type": "lvol"})], with_store(nodes()))
    assert (valid.store, valid.thin, valid.bdev) == ("fast", False, "fast/vol00")


def test_detached_keeps_an_lvol_and_absent_takes_it_after_its_namespace() -> None:
    world = World(with_store(nodes()))
    world.converge(lvol_disk())
    kept = world.converge(lvol_disk(state="detached"))
    assert [step["stage"] for step in kept["steps"]] == ["unplug"]
    gone = world.converge(lvol_disk(state="absent"), safe_mode=False)
    assert [step["stage"] for step in gone["steps"]] == ["release", "lvols"]
    assert gone["nodes"]["st1"]["lvols"] == [{"name": "vol00", "store": "fast", "state": "absent"}]
    assert world.bdevs["st1"] == {} and world.stores["st1"]["fast"]["free_clusters"] == 255


def test_an_lvol_grows_under_the_attached_disk_and_is_never_shrunk() -> None:
    world = World(with_store(nodes()))
    world.converge(lvol_disk())
    grown = world.converge(lvol_disk(size="128MiB"))
    assert [(step["stage"], step["action"]) for step in grown["steps"]] == [("lvols", "grow")]
    assert grown["disks"][0]["action"] == "grow" and grown["summary"]["grow"] == 1
    assert "st1: grow 1 lvol: fast/vol00" in grown["text"]
    refused = world.plan(lvol_disk())
    assert refused["steps"] == []
    assert "64 MiB was wanted, but the volume on st1 has 128 MiB; an lvol is never shrunk" in refused["text"][-1]


def test_a_store_that_was_made_with_other_clusters_rounds_up() -> None:
    world = World(with_store(nodes()))
    world.stores["st1"]["fast"]["cluster_size"] = 16 * MIB
    world.converge(lvol_disk(size="20MiB"))
    assert world.bdevs["st1"]["fast/vol00"]["num_blocks"] * 512 == 32 * MIB


def test_what_the_volumes_of_others_leave_is_all_there_is() -> None:
    world = World(with_store(nodes()))
    world.converge(lvol_disk("other", size="512MiB"))
    planned = world.plan(lvol_disk("a", size="256MiB"), lvol_disk("b", size="256MiB"), disk("c"))
    (problem,) = planned["problems"]
    assert problem["disk"] == "b"
    assert "would be 1GiB, its capacity is 1020MiB (over-commit 1.00), above the limit 1" in problem["message"]
    assert [step["name"] for step in planned["steps"] if step["stage"] in ("lvols", "bdevs")] == ["c", "fast/a"]
    assert planned["warnings"] == []


def test_thick_volumes_need_free_clusters_whatever_the_limit() -> None:
    world = World(with_store(nodes(), overcommit=2.0))
    world.converge(lvol_disk("other", size="512MiB"))
    planned = world.plan(lvol_disk("a", size="512MiB"))
    assert "fast on st1 has 508MiB free, and it needs 512MiB" in planned["problems"][0]["message"]
    thin = lvol_disk("a", size="512MiB", backing={"thin": True})
    assert world.plan(thin)["problems"] == []
    # What leaves in the same run makes room.
    both = [lvol_disk("other", size="512MiB", state="absent"), lvol_disk("a", size="512MiB")]
    world.converge(*both, safe_mode=False)


def test_thin_volumes_beyond_the_capacity_are_warned_about() -> None:
    world = World(with_store(nodes(), overcommit=1.5))
    disks = [lvol_disk(name, size="640MiB", backing={"thin": True}) for name in ("a", "b")]
    planned = world.converge(*disks)
    (warning,) = planned["warnings"]
    assert "st1: lvol store fast promises 1280MiB and can hold 1020MiB (over-commit 1.25)" in warning
    assert f"warning: {warning}" in planned["text"]


def test_a_disk_that_is_refused_later_promises_nothing() -> None:
    world = World(with_store(nodes(slots=1)))
    world.converge(disk("x"))
    refused = world.plan(lvol_disk("a", size="1020MiB"))
    assert "all 1 slots" in refused["problems"][0]["message"]
    assert refused["steps"] == [] and refused["warnings"] == []


def test_a_store_that_is_not_there_was_not_deployed() -> None:
    world = World(with_store(nodes()))
    world.stores["st1"].clear()
    planned = world.plan(lvol_disk())
    assert planned["steps"] == []
    assert "st1 has no lvol store fast; deploy the storage target first" in planned["problems"][0]["message"]


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        (disk(), lvol_disk(), "backing: lvol fast was wanted, but st1 has its volume as Malloc disk vol00"),
        (lvol_disk(), disk(), "backing: malloc was wanted, but st1 has its volume as Logical Volume fast/vol00"),
        (lvol_disk(), lvol_disk(backing={"thin": True}), "thin: True was wanted, but the volume on st1 has False"),
    ],
)
@pytest.mark.parametrize("state", ["attached", "absent"])
def test_another_backing_is_refused(first: Any, then: Any, said: str, state: str) -> None:
    world = World(with_store(nodes()))
    world.converge(first)
    if state == "absent" and "thin" in said:
        return  # what is to be destroyed may be of any kind
    planned = world.plan({**then, "state": state}, safe_mode=False)
    assert planned["steps"] == []
    assert said in planned["problems"][0]["message"]


# The list against the stores as they are declared: no node is asked.


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([lvol_disk(backing={"store": "fasd"})], "got 'fasd'. Did you mean 'fast'?"),
        ([lvol_disk(backing={"block_size": 512})], "backing.block_size is for malloc, aio and null"),
        ([lvol_disk(backing={"thin": "maybe"})], "backing.thin: wanted true or false, got 'maybe'"),
        ([lvol_disk(backing={"directory": "/srv"})], "backing.directory is for type aio, not for lvol"),
        ([disk(backing={"type": "malloc", "thin": True})], "backing.thin is for type lvol, not for malloc"),
        ([lvol_disk(size="5MiB")], "no multiple of the cluster size of lvol store fast (4MiB)"),
        (
            [lvol_disk("a", size="640MiB"), lvol_disk("b", size="640MiB", backing={"thin": True})],
            "2 disks in lvol store fast of st1 are 1280MiB together, its capacity is 1020MiB (over-commit 1.25), above "
            "the limit 1.",
        ),
    ],
)
def test_bad_lvols_get_one_error(items: Any, message: str) -> None:
    with pytest.raises(validate.InvalidDisks) as raised:
        validate.validate(items, with_store(nodes()))
    assert len(raised.value.errors) == 1 and message in raised.value.errors[0], raised.value.errors


def test_thick_disks_beyond_the_capacity_are_a_mistake_at_any_limit() -> None:
    with pytest.raises(validate.InvalidDisks, match="those that are not thin are 2GiB together"):
        validate.validate([lvol_disk(size="2GiB")], with_store(nodes(), overcommit=4.0))


def test_a_target_without_stores_says_so() -> None:
    with pytest.raises(validate.InvalidDisks, match="storage_target_lvol_stores: empty"):
        validate.validate([lvol_disk()], nodes())


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("fast", "wanted a dictionary with name and size"),
        ({"name": "fast"}, "size is missing"),
        ({"name": "a/b", "size": "1GiB"}, "no valid name"),
        ({"name": "fast", "size": "1GB"}, "is no size"),
        ({"name": "fast", "size": "1GiB", "clustersize": 1}, "unknown key 'clustersize'"),
        ({"name": "fast", "size": "1GiB", "cluster_size": "3MiB"}, "no power of two"),
        ({"name": "fast", "size": "1GiB", "overcommit": 0}, "no number above 0"),
        ({"name": "fast", "size": "1GiB", "overcommit": "much"}, "no number above 0"),
        ({"name": "fast", "size": "1GiB", "block_size": 520}, "neither 512 nor 4096"),
        ({"name": "fast", "size": "1GiB", "directory": "srv"}, "no absolute path"),
        ({"name": "fast", "size": "1GiB", "directory": "/srv", "filename": "/srv/x"}, "exclude each other"),
        ({"name": "fast", "size": "1GiB", "base_bdev": "nvme0n1"}, "leave size out"),
        ({"name": "fast", "size": "4MiB"}, "has no room for data"),
    ],
)
def test_bad_stores(item: Any, message: str) -> None:
    stores, problems = lvol_stores.parse([item], "/var/lib/ipdk/st1/volumes")
    assert len(problems) == 1 and message in problems[0], problems
    assert stores == {}
    inventory = nodes()
    inventory["targets"]["st1"]["lvol_stores"] = [item]
    with pytest.raises(validate.InvalidDisks, match="storage_target_lvol_stores"):
        validate.validate([disk()], inventory)


def test_two_stores_of_one_name_or_file() -> None:
    _stores, problems = lvol_stores.parse(
        [
            {"name": "a", "size": "1GiB"},
            {"name": "a", "size": "1GiB", "filename": "/x/y"},
            {"name": "b", "size": "1GiB", "filename": "/x/y"},
            {"name": "b", "base_bdev": "q"},
        ],
        "/d",
    )
    assert "storage_target_lvol_stores[1]: name a is that of another store of the list" in problems
    assert "storage_target_lvol_stores[3]: name b is that of another store of the list" in problems


def test_what_makes_the_stores() -> None:
    work = lvol_stores.work(
        [
            {"name": "fast", "size": "1GiB"},
            {"name": "bulk", "size": "2GiB", "directory": "/srv", "overcommit": 2},
            {"name": "raw", "base_bdev": "nvme0n1", "cluster_size": "1MiB"},
        ],
        "/d",
    )
    assert work["problems"] == []
    assert work["directories"] == ["/d", "/srv"]
    assert work["files"] == [{"path": "/d/fast.lvs", "size": GIB}, {"path": "/srv/bulk.lvs", "size": 2 * GIB}]
    assert [(bdev["name"], bdev["type"], bdev["filename"]) for bdev in work["bdevs"]] == [
        ("Store-fast", "aio", "/d/fast.lvs"),
        ("Store-bulk", "aio", "/srv/bulk.lvs"),
    ]
    assert [
        (store["name"], store["base_bdev"], store["cluster_size"], store["overcommit"]) for store in work["stores"]
    ] == [
        ("fast", "Store-fast", 4 * MIB, 1.0),
        ("bulk", "Store-bulk", 4 * MIB, 2),
        ("raw", "nvme0n1", MIB, 1.0),
    ]


# What was taken off the list


def test_disks_off_the_list_are_reported_with_their_state_and_left_alone() -> None:
    world = World(with_store(nodes()))
    world.converge(disk("a"), lvol_disk("b"), lvol_disk("c"), disk("d"))
    world.converge(disk("a"), lvol_disk("b"), lvol_disk("c", state="detached"), disk("d"))
    planned = world.plan(disk("a"))
    assert planned["steps"] == []
    assert planned["unlisted"] == [
        {
            "name": name,
            "target": "st1",
            "host": "host1",
            "size": 64 * MIB,
            "backing": backing,
            "state": state,
            "action": "none",
        }
        for name, backing, state in [
            ("d", "malloc", "attached"),
            ("b", "lvol", "attached"),
            ("c", "lvol", "detached"),
        ]
    ]
    assert "st1: left alone, not in the list: 3 volumes: d, b, c" in planned["text"]


def test_purge_detaches_them_and_keeps_their_data() -> None:
    world = World(with_store(nodes()))
    world.converge(disk("a"), lvol_disk("b"), disk("d", state="detached"))
    planned = world.plan(disk("a"), purge="detach")
    assert [(entry["name"], entry["action"]) for entry in planned["unlisted"]] == [("b", "detach")]
    assert [(step["stage"], step["disk"]) for step in planned["steps"]] == [("unplug", "b")]
    assert planned["unmanaged"] == []
    assert [(result["name"], result["state"]) for result in planned["disks"]] == [("a", "attached"), ("b", "detached")]
    world.carry_out(planned)
    assert "fast/b" in world.bdevs["st1"] and world.devices["ipu1"] == {0: "st1n1"}
    again = world.plan(disk("a"), purge="detach")
    assert again["steps"] == [] and again["unlisted"][0]["state"] == "detached"


def test_purge_unplugs_no_disk_in_use() -> None:
    world = World(nodes())
    world.converge(disk("a"))
    world.uses["st1n1"] = {"mounts": ["/mnt"]}
    planned = world.plan(purge="detach")
    assert planned["steps"] == [] and "in use on host1 (mounted on /mnt)" in planned["problems"][0]["message"]


def test_purge_knows_detach_only() -> None:
    with pytest.raises(validate.InvalidDisks, match="ipdk_purge: wanted detach, or nothing, got 'absent'"):
        validate.validate([], nodes(), {"purge": "absent"})
