"""spdk_lvol against a running SPDK."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.module_utils._lvols import data_capacity
from spdk_nodes import Node

MIB = 2**20
NQN = "nqn.2022-06.io.ipdk:lvol"


def base(node: Node, name: str = "base", size: str = "64MiB", block_size: int = 512) -> None:
    done = node.module("spdk_bdev", bdevs=[{"name": name, "type": "malloc", "size": size, "block_size": block_size}])
    assert done["rc"] == 0, done


def store(**more: Any) -> dict[str, Any]:
    return {"name": "fast", "base_bdev": "base", "cluster_size": "1MiB", **more}


def lvol(name: str = "v0", size: str = "4MiB", **more: Any) -> dict[str, Any]:
    return {"name": name, "store": "fast", "size": size, **more}


def lvols(node: Node) -> dict[str, dict[str, Any]]:
    """alias → bdev"""
    return {
        bdev["aliases"][0]: bdev for bdev in node.call("bdev_get_bdevs") if bdev["product_name"] == "Logical Volume"
    }


def foreseen(result: dict[str, Any]) -> dict[str, Any]:
    """All of a result that check mode has to foresee."""
    assert result["rc"] == 0, result
    return {key: result[key] for key in ("changed", "outcome", "diff", "stores", "lvols")}


def test_check_mode_predicts_the_run_and_a_second_run_changes_nothing(target: Node) -> None:
    base(target)
    wanted: dict[str, Any] = {"stores": [store()], "lvols": [lvol(), lvol("t0", "8MiB", thin=True)]}
    predicted = target.module("spdk_lvol", check=True, **wanted)
    assert predicted["rc"] == 0, predicted
    assert target.call("bdev_lvol_get_lvstores") == []
    done = target.module("spdk_lvol", **wanted)
    assert done["rc"] == 0, done
    assert (done["outcome"], done["diff"]) == (predicted["outcome"], predicted["diff"])
    assert [entry["name"] for entry in done["outcome"]["applied"]] == ["fast", "fast/v0", "fast/t0"]
    there = lvols(target)
    assert {
        alias: (bdev["num_blocks"] * bdev["block_size"], bdev["driver_specific"]["lvol"]["thin_provision"])
        for alias, bdev in there.items()
    } == {"fast/v0": (4 * MIB, False), "fast/t0": (8 * MIB, True)}
    again = target.module("spdk_lvol", **wanted)
    assert (again["rc"], again["changed"]) == (0, False)
    assert again["diff"]["before"] == again["diff"]["after"]
    # The prediction is also what is really there, but for what SPDK chose itself.
    promised, seen = done["diff"]["after"]["fast"], again["diff"]["before"]["fast"]
    assert {**seen, **promised, "lvols": seen["lvols"]} == seen
    for name, volume in promised["lvols"].items():
        assert {**seen["lvols"][name], **volume} == seen["lvols"][name]


def test_what_is_returned(target: Node) -> None:
    base(target)
    wanted: dict[str, Any] = {"stores": [store()], "lvols": [lvol(), lvol("t0", "8MiB", thin=True)]}
    predicted = target.module("spdk_lvol", check=True, **wanted)
    done = target.module("spdk_lvol", **wanted)
    (found,) = target.call("bdev_lvol_get_lvstores")
    bdevs = lvols(target)
    capacity = found["total_data_clusters"] * MIB
    assert done["stores"] == [
        {
            "name": "fast",
            "uuid": found["uuid"],
            "base_bdev": "base",
            "cluster_size": MIB,
            "capacity": capacity,
            "free": capacity - 4 * MIB,
            "promised": 12 * MIB,
            "overcommit_ratio": round(12 * MIB / capacity, 3),
        }
    ]
    for volume, (alias, size, allocated) in zip(
        done["lvols"], [("fast/v0", 4 * MIB, 4 * MIB), ("fast/t0", 8 * MIB, 0)], strict=True
    ):
        assert volume == {
            "name": alias.partition("/")[2],
            "store": "fast",
            "alias": alias,
            "bdev": bdevs[alias]["name"],
            "uuid": bdevs[alias]["uuid"],
            "size": size,
            "thin": volume["name"] == "t0",
            "allocated": allocated,
        }
    # All of it is foreseen but the UUIDs, which SPDK chooses.
    assert predicted["stores"] == [{**done["stores"][0], "uuid": None}]
    assert predicted["lvols"] == [{**volume, "bdev": None, "uuid": None} for volume in done["lvols"]]


@pytest.mark.parametrize(("size", "cluster_size"), [(16, 1), (64, 1), (100, 1), (64, 4), (250, 4), (128, 8), (260, 2)])
def test_the_capacity_of_a_store_to_be_is_known(target: Node, size: int, cluster_size: int) -> None:
    target.module("spdk_bdev", bdevs=[{"name": "base", "type": "null", "size": f"{size}MiB", "block_size": 4096}])
    predicted = target.module("spdk_lvol", check=True, stores=[store(cluster_size=f"{cluster_size}MiB")])
    # SPDK makes no store on what forgets what was written, so the same size is asked of memory.
    target.module("spdk_bdev", bdevs=[{"name": "base", "state": "absent"}])
    base(target, size=f"{size}MiB")
    done = target.module("spdk_lvol", stores=[store(cluster_size=f"{cluster_size}MiB")])
    assert done["rc"] == 0, done
    (found,) = target.call("bdev_lvol_get_lvstores")
    assert found["total_data_clusters"] * found["cluster_size"] == data_capacity(size * MIB, cluster_size * MIB)
    assert predicted["stores"][0]["capacity"] == done["stores"][0]["capacity"]


def test_a_volume_grows_in_place_and_is_never_shrunk(target: Node) -> None:
    base(target)
    target.module("spdk_lvol", stores=[store()], lvols=[lvol(), lvol("t0", thin=True)])
    before = lvols(target)
    larger = [lvol(size="6MiB"), lvol("t0", "7MiB")]
    predicted = target.module("spdk_lvol", check=True, lvols=larger)
    done = target.module("spdk_lvol", lvols=larger)
    assert foreseen(predicted) == foreseen(done)
    after = lvols(target)
    sizes = {alias: bdev["num_blocks"] * bdev["block_size"] // MIB for alias, bdev in after.items()}
    assert sizes == {"fast/v0": 6, "fast/t0": 7}
    assert {alias: bdev["uuid"] for alias, bdev in after.items()} == {
        alias: bdev["uuid"] for alias, bdev in before.items()
    }
    assert target.module("spdk_lvol", lvols=larger)["changed"] is False
    refused = target.module("spdk_lvol", lvols=[lvol(size="5MiB"), lvol("new")])
    assert refused["rc"] == 1 and "fast/v0 has 6MiB, wanted 5MiB: it is never shrunk" in refused["msg"]
    assert lvols(target) == after


def test_check_mode_predicts_what_goes_what_grows_and_what_comes(target: Node) -> None:
    """Beside a snapshot, which promises only what it holds."""
    base(target)
    target.module("spdk_lvol", stores=[store()], lvols=[lvol(), lvol("v1"), lvol("t0", thin=True)])
    target.call("bdev_lvol_snapshot", {"lvol_name": "fast/v1", "snapshot_name": "s1"})
    wanted = [lvol(state="absent"), lvol("t0", "9MiB"), lvol("v2", "5MiB"), lvol("s1"), lvol("v9", state="absent")]
    before = target.call("bdev_get_bdevs")
    predicted = target.module("spdk_lvol", check=True, lvols=wanted)
    assert target.call("bdev_get_bdevs") == before
    done = target.module("spdk_lvol", lvols=wanted)
    (volume,) = (volume for volume in done["lvols"] if volume["name"] == "v2")
    expected = foreseen(done)
    expected["lvols"] = [{**each, "bdev": None, "uuid": None} if each is volume else each for each in done["lvols"]]
    assert foreseen(predicted) == expected
    assert [(entry["action"], entry["name"]) for entry in done["outcome"]["applied"]] == [
        ("delete", "fast/v0"),
        ("update", "fast/t0"),
        ("create", "fast/v2"),
    ]
    assert sorted(lvols(target)) == ["fast/s1", "fast/t0", "fast/v1", "fast/v2"]
    assert target.module("spdk_lvol", lvols=wanted)["changed"] is False


def test_a_size_is_rounded_up_to_whole_clusters(target: Node) -> None:
    base(target)
    wanted: dict[str, Any] = {"stores": [store(cluster_size="4MiB")], "lvols": [lvol(size="5MiB")]}
    predicted = target.module("spdk_lvol", check=True, **wanted)
    done = target.module("spdk_lvol", **wanted)
    assert done["diff"] == predicted["diff"]
    assert done["lvols"][0]["size"] == 8 * MIB
    assert target.module("spdk_lvol", **wanted)["changed"] is False


def test_an_option_that_is_left_out_keeps_what_exists(target: Node) -> None:
    base(target)
    target.module("spdk_lvol", stores=[store()], lvols=[lvol(thin=True, clear_method="none")])
    result = target.module("spdk_lvol", stores=[{"name": "fast"}], lvols=[{"name": "v0", "store": "fast"}])
    assert (result["rc"], result["changed"]) == (0, False)


def test_above_the_overcommit_limit_nothing_is_made(target: Node) -> None:
    base(target)  # 63 clusters
    thin = [lvol("t0", "40MiB", thin=True), lvol("t1", "40MiB", thin=True)]
    for stores in ([store()], [store(overcommit=1.2)]):
        for check in (True, False):
            refused = target.module("spdk_lvol", check=check, stores=stores, lvols=thin)
            assert refused["rc"] == 1 and "which is above the limit" in refused["msg"], refused
            assert "(over-commit 1.27)" in refused["msg"]
    assert target.call("bdev_lvol_get_lvstores") == []
    allowed = target.module("spdk_lvol", stores=[store(overcommit=1.3)], lvols=thin)
    assert allowed["rc"] == 0, allowed
    assert "once it is written full, writes to thin volumes fail" in str(allowed["warnings"])
    assert allowed["stores"][0]["overcommit_ratio"] == round(80 / 63, 3)
    # What is there already counts, in the list or not; what is above a limit that was lowered stays.
    refused = target.module("spdk_lvol", stores=[store(overcommit=1.3)], lvols=[lvol("t2", thin=True)])
    assert refused["rc"] == 1 and "its volumes are 84MiB together and its capacity is 63MiB" in refused["msg"]
    grown = target.module("spdk_lvol", stores=[store(overcommit=1.3)], lvols=[lvol("t1", "50MiB")])
    assert grown["rc"] == 1 and "above the limit 1.3" in grown["msg"]
    kept = target.module("spdk_lvol", stores=[store()], lvols=thin)
    assert (kept["rc"], kept["changed"], len(kept["warnings"])) == (0, False, 1)


def test_within_the_capacity_nobody_is_warned(target: Node) -> None:
    base(target)
    done = target.module("spdk_lvol", stores=[store()], lvols=[lvol("t0", "63MiB", thin=True)])
    assert done["rc"] == 0 and "warnings" not in done


def test_a_store_goes_with_its_volumes_only_if_they_are_named_or_forced(target: Node) -> None:
    base(target)
    target.module("spdk_lvol", stores=[store()], lvols=[lvol(), lvol("v1")])
    gone = {"name": "fast", "state": "absent"}
    refused = target.module("spdk_lvol", stores=[gone], lvols=[lvol(state="absent")])
    assert refused["rc"] == 1 and "fast has 1 volumes that would be lost with it (v1)" in refused["msg"]
    assert sorted(lvols(target)) == ["fast/v0", "fast/v1"]
    named: dict[str, Any] = {"stores": [gone], "lvols": [lvol(state="absent"), lvol("v1", state="absent")]}
    predicted = target.module("spdk_lvol", check=True, **named)
    assert sorted(lvols(target)) == ["fast/v0", "fast/v1"]
    done = target.module("spdk_lvol", **named)
    assert foreseen(predicted) == foreseen(done)
    assert done["diff"]["after"] == {} and target.call("bdev_lvol_get_lvstores") == []
    assert target.module("spdk_lvol", **named)["changed"] is False
    target.module("spdk_lvol", stores=[store()], lvols=[lvol()])
    assert target.module("spdk_lvol", stores=[gone], force=True)["rc"] == 0
    assert target.call("bdev_lvol_get_lvstores") == [] and lvols(target) == {}


def test_a_volume_in_use_is_deleted_only_by_force(target: Node) -> None:
    base(target)
    target.module("spdk_lvol", stores=[store()], lvols=[lvol()])
    exposed = target.module("spdk_nvmf_subsystem", subsystems=[{"nqn": NQN, "namespaces": [{"bdev": "fast/v0"}]}])
    assert exposed["rc"] == 0, exposed
    refused = target.module("spdk_lvol", lvols=[lvol(state="absent")])
    assert refused["rc"] == 1 and "fast/v0 is in use" in refused["msg"]
    assert target.module("spdk_lvol", lvols=[lvol(state="absent")], force=True)["rc"] == 0
    assert lvols(target) == {}


def test_what_cannot_be_changed_in_place_is_refused_before_anything_is(target: Node) -> None:
    base(target)
    base(target, "other")
    target.module("spdk_lvol", stores=[store()], lvols=[lvol()])
    before = target.call("bdev_get_bdevs")
    for stores, volume, said in [
        ([store(base_bdev="other")], lvol(), "base_bdev base, wanted other"),
        ([store(cluster_size="4MiB")], lvol(), "cluster_size 1048576, wanted 4194304"),
        ([], lvol(thin=True), "is thick, wanted thin"),
        ([{"name": "slow"}], lvol(), "there is no lvol store slow; there are: fast"),
        ([], {**lvol(), "store": "slow"}, "there is no lvol store slow"),
        ([], {"name": "v9", "store": "fast"}, "no size is said"),
        ([store(name="more")], lvol(), "cannot be made on bdev base: the lvol store fast is on it"),
    ]:
        result = target.module("spdk_lvol", stores=stores, lvols=[volume, lvol("new")])
        assert result["rc"] == 1 and said in result["msg"], result
    assert target.call("bdev_get_bdevs") == before


def test_a_base_too_small_is_refused(target: Node) -> None:
    base(target, size="4MiB")
    result = target.module("spdk_lvol", stores=[store(cluster_size="4MiB")])
    assert result["rc"] == 1 and "has 4MiB, too little for clusters of 4MiB" in result["msg"]


def test_partial_failure_is_data(target: Node) -> None:
    base(target)
    result = target.module(
        "spdk_lvol",
        stores=[store(), {"name": "slow", "base_bdev": "nothing"}],
        lvols=[lvol(), {"name": "w0", "store": "slow", "size": "4MiB"}],
    )
    assert (result["rc"], result["failed"], result["changed"]) == (1, True, True)
    assert [entry["name"] for entry in result["outcome"]["applied"]] == ["fast", "fast/v0"]
    (failed,) = result["outcome"]["failed"]
    assert failed["name"] == "slow"
    assert "No such device (code -19): usually there is no bdev nothing" in failed["reason"]
    (left,) = result["outcome"]["not_tried"]
    assert (left["name"], left["reason"]) == ("slow/w0", "lvol store slow failed")
    assert list(result["diff"]["after"]) == ["fast"]
    assert [volume["alias"] for volume in result["lvols"]] == ["fast/v0"]


def test_bad_lists_are_refused_with_every_mistake(target: Node) -> None:
    for stores, volumes, said in [
        ([store(), store(base_bdev="b")], [], "stores[0] and stores[1] have the same name: fast"),
        ([], [lvol(), lvol()], "lvols[0] and lvols[1]"),
        ([store(name="a/b")], [], "'a/b' is no valid name"),
        ([store(cluster_size="3MiB")], [], "no power of two"),
        ([store(cluster_size="64KiB")], [], "no power of two from 1MiB"),
        ([store(overcommit=0)], [], "0.0 is no number above 0"),
        ([], [lvol(size="4MB")], "'4MB' is no size"),
        ([store(state="absent")], [lvol()], "lvols[0] (v0): its store fast is to be absent in the same list"),
    ]:
        result = target.module("spdk_lvol", stores=stores, lvols=volumes)
        assert result["rc"] == 1 and said in result["msg"], (said, result)


def test_a_store_on_a_file_is_there_again_with_its_file(target: Node, tmp_path: Path) -> None:
    with (tmp_path / "base.img").open("wb") as file:
        file.truncate(64 * MIB)
    aio = {"name": "base", "type": "aio", "filename": str(tmp_path / "base.img"), "block_size": 512}
    assert target.module("spdk_bdev", bdevs=[aio])["rc"] == 0
    wanted: dict[str, Any] = {"stores": [store()], "lvols": [lvol()]}
    uuid = target.module("spdk_lvol", **wanted)["lvols"][0]["uuid"]
    assert target.module("spdk_bdev", bdevs=[{"name": "base", "state": "absent"}], force=True)["rc"] == 0
    assert lvols(target) == {}
    target.module("spdk_bdev", bdevs=[aio])
    again = target.module("spdk_lvol", **wanted)
    assert (again["rc"], again["changed"], again["lvols"][0]["uuid"]) == (0, False, uuid)


def test_info_gathers_stores(target: Node) -> None:
    base(target)
    target.module("spdk_lvol", stores=[store()])
    result = target.module("spdk_info", gather=["lvol_stores"])
    assert result["spdk"]["lvol_stores"] == target.call("bdev_lvol_get_lvstores")


# Snapshots and clones


def snapshot(name: str = "s0", of: str = "v0") -> dict[str, Any]:
    return {"name": name, "store": "fast", "snapshot_of": of}


def clone(name: str = "c0", of: str = "s0", **more: Any) -> dict[str, Any]:
    return {"name": name, "store": "fast", "clone_of": of, **more}


def test_a_snapshot_is_taken_and_cloned(target: Node) -> None:
    base(target)
    target.module("spdk_lvol", stores=[store()], lvols=[lvol()])
    both: dict[str, Any] = {"stores": [{"name": "fast"}], "lvols": [snapshot(), lvol(thin=None)]}
    predicted = target.module("spdk_lvol", check=True, **both)
    assert sorted(lvols(target)) == ["fast/v0"]
    done = target.module("spdk_lvol", **both)
    assert done["outcome"]["applied"] == [{"action": "create", "kind": "snapshot", "name": "fast/s0"}]
    expected = [
        {**volume, "bdev": None, "uuid": None} if volume["name"] == "s0" else volume for volume in done["lvols"]
    ]
    assert predicted["lvols"] == expected and predicted["stores"] == done["stores"]
    assert [(volume["thin"], volume["allocated"] // MIB) for volume in done["lvols"]] == [(False, 4), (True, 0)]
    assert target.module("spdk_lvol", **both)["changed"] is False

    copies: dict[str, Any] = {"lvols": [clone(), clone("c1", size="6MiB")]}
    predicted = target.module("spdk_lvol", check=True, **copies)
    done = target.module("spdk_lvol", **copies)
    assert [entry["kind"] for entry in done["outcome"]["applied"]] == ["clone", "clone"], done["outcome"]
    assert predicted["stores"] == done["stores"]
    assert [(volume["size"] // MIB, volume["thin"], volume["allocated"]) for volume in done["lvols"]] == [
        (4, True, 0),
        (6, True, 0),
    ]
    there = lvols(target)
    assert there["fast/c0"]["driver_specific"]["lvol"]["base_snapshot"] == "s0"
    assert there["fast/s0"]["driver_specific"]["lvol"]["snapshot"] is True
    assert target.module("spdk_lvol", **copies)["changed"] is False


def test_a_snapshot_goes_after_its_clones_and_not_from_under_several(target: Node) -> None:
    base(target)
    target.module("spdk_lvol", stores=[store()], lvols=[lvol()])
    target.module("spdk_lvol", lvols=[snapshot()])
    target.module("spdk_lvol", lvols=[clone(), clone("c1")])
    gone = [{"name": name, "store": "fast", "state": "absent"} for name in ("s0", "c0", "c1")]
    for check in (True, False):
        refused = target.module("spdk_lvol", check=check, lvols=gone[:2])
        assert refused["rc"] == 1 and "snapshot fast/s0 has 2 clones (v0, c1)" in refused["msg"], refused
    predicted = target.module("spdk_lvol", check=True, lvols=gone)
    done = target.module("spdk_lvol", lvols=gone)
    assert foreseen(predicted) == foreseen(done)
    assert [entry["name"] for entry in done["outcome"]["applied"]] == ["fast/c0", "fast/c1", "fast/s0"]
    assert sorted(lvols(target)) == ["fast/v0"]


def test_a_volume_that_was_thick_becomes_so_again_without_its_snapshot(target: Node) -> None:
    base(target)
    target.module("spdk_lvol", stores=[store()], lvols=[lvol()])
    target.module("spdk_lvol", lvols=[snapshot()])
    thick = [lvol(thin=False)]
    assert target.module("spdk_lvol", lvols=thick)["changed"] is False, "it stands on a snapshot"
    target.module("spdk_lvol", lvols=[{"name": "s0", "store": "fast", "state": "absent"}])
    assert lvols(target)["fast/v0"]["driver_specific"]["lvol"]["thin_provision"] is True
    predicted = target.module("spdk_lvol", check=True, lvols=[lvol(size="6MiB", thin=False)])
    done = target.module("spdk_lvol", lvols=[lvol(size="6MiB", thin=False)])
    assert foreseen(predicted) == foreseen(done)
    (volume,) = done["lvols"]
    assert (volume["size"], volume["thin"], volume["allocated"]) == (6 * MIB, False, 6 * MIB)


def test_a_snapshot_that_no_clone_is_left_of_is_one(target: Node) -> None:
    """SPDK says ``snapshot`` only of those with clones."""
    base(target)
    target.module("spdk_lvol", stores=[store()], lvols=[lvol()])
    target.module("spdk_lvol", lvols=[snapshot()])
    target.module("spdk_lvol", lvols=[lvol(state="absent", size=None)])
    assert target.module("spdk_lvol", lvols=[snapshot()])["changed"] is False
    assert target.module("spdk_lvol", lvols=[clone()])["rc"] == 0


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([snapshot("v1")], "there is a logical volume fast/v1, which is no snapshot: choose another name"),
        ([snapshot("x", "nothing")], "no snapshot fast/x can be taken: fast/nothing is not there"),
        ([snapshot("x", "s0")], "no snapshot fast/x can be taken: fast/s0 is a snapshot itself"),
        ([clone("x", "nothing")], "no clone fast/x can be made: fast/nothing is not there"),
        ([clone("x", "v1")], "no clone fast/x can be made: fast/v1 is no snapshot"),
        ([clone("x", size="2MiB")], "clone fast/x of fast/s0 has 4MiB at least, wanted 2MiB"),
        ([{**snapshot("x"), "clone_of": "s0"}], "lvols[0] (x): snapshot_of and clone_of exclude each other"),
        ([{**snapshot("x"), "size": "4MiB"}], "a snapshot has the size of its volume, leave size out"),
        ([clone("x", thin=False)], "a clone is thin, leave thin out"),
        ([snapshot("x", "a/b")], "'a/b' is no valid name"),
    ],
)
def test_snapshots_and_clones_that_cannot_be_are_refused(target: Node, items: Any, said: str) -> None:
    base(target)
    target.module("spdk_lvol", stores=[store()], lvols=[lvol(), lvol("v1")])
    target.module("spdk_lvol", lvols=[snapshot()])
    before = target.call("bdev_get_bdevs")
    for check in (True, False):
        result = target.module("spdk_lvol", check=check, lvols=items)
        assert result["rc"] == 1 and said in result["msg"], result
    assert target.call("bdev_get_bdevs") == before


def test_what_a_snapshot_holds_counts(target: Node) -> None:
    base(target)  # 63 clusters
    target.module("spdk_lvol", stores=[store()], lvols=[lvol(size="40MiB")])
    refused = target.module("spdk_lvol", stores=[{"name": "fast", "overcommit": 1.0}], lvols=[snapshot()])
    assert refused["rc"] == 1 and "its volumes are 80MiB together and its capacity is 63MiB" in refused["msg"]
    assert target.module("spdk_lvol", stores=[{"name": "fast", "overcommit": 1.3}], lvols=[snapshot()])["rc"] == 0
