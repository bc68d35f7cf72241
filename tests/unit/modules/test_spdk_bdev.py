"""spdk_bdev against a running SPDK."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spdk_nodes import Node

MIB = 2**20


def bdevs(node: Node) -> dict[str, dict[str, Any]]:
    return {bdev["name"]: bdev for bdev in node.call("bdev_get_bdevs")}


def volumes(directory: Path) -> list[dict[str, Any]]:
    (directory / "file.img").write_bytes(bytes(MIB))
    return [
        {"name": "m", "type": "malloc", "size": "2MiB", "uuid": "00000000-0000-4000-8000-00000000000A"},
        {"name": "n", "type": "null", "num_blocks": 512, "block_size": 4096},
        {"name": "a", "type": "aio", "filename": str(directory / "file.img"), "block_size": 4096},
    ]


def test_check_mode_predicts_the_run_and_a_second_run_changes_nothing(target: Node, tmp_path: Path) -> None:
    predicted = target.module("spdk_bdev", check=True, bdevs=volumes(tmp_path))
    assert bdevs(target) == {}
    done = target.module("spdk_bdev", bdevs=volumes(tmp_path))
    assert done["rc"] == 0, done
    assert (done["outcome"], done["diff"]) == (predicted["outcome"], predicted["diff"])
    there = bdevs(target)
    assert {name: (b["block_size"], b["num_blocks"]) for name, b in there.items()} == {
        "m": (512, 4096),
        "n": (4096, 512),
        "a": (4096, 256),
    }
    assert there["m"]["uuid"] == "00000000-0000-4000-8000-00000000000a"
    again = target.module("spdk_bdev", bdevs=volumes(tmp_path))
    assert again["changed"] is False
    assert again["diff"]["before"] == again["diff"]["after"]
    # The prediction is also what is really there, but for what SPDK chose itself.
    for name, promised in done["diff"]["after"].items():
        assert {**again["diff"]["before"][name], **promised} == again["diff"]["before"][name]


def test_absent_twice(target: Node, tmp_path: Path) -> None:
    target.module("spdk_bdev", bdevs=volumes(tmp_path))
    absent = [
        {"name": "new", "type": "null", "size": "1MiB"},
        {"name": "m", "state": "absent"},
        {"name": "a", "type": "aio", "state": "absent"},
        {"name": "never", "state": "absent"},
    ]
    predicted = target.module("spdk_bdev", check=True, bdevs=absent)
    assert sorted(bdevs(target)) == ["a", "m", "n"]
    done = target.module("spdk_bdev", bdevs=absent)
    assert (done["rc"], done["changed"]) == (0, predicted["changed"]), done
    assert (done["outcome"], done["diff"]) == (predicted["outcome"], predicted["diff"])
    assert [(entry["action"], entry["name"]) for entry in done["outcome"]["applied"]] == [
        ("delete", "m"),
        ("delete", "a"),
        ("create", "new"),
    ]
    assert (sorted(done["diff"]["before"]), list(done["diff"]["after"])) == (["a", "m"], ["new"])
    assert sorted(bdevs(target)) == ["n", "new"]
    for check in (True, False):
        assert target.module("spdk_bdev", check=check, bdevs=absent)["changed"] is False


def test_the_deletion_of_a_bdev_in_use_is_predicted_too(target: Node) -> None:
    """Without force it is refused in both modes, with force done in one of them."""
    nqn = "nqn.2022-06.io.ipdk:st1:ipu1"
    target.module("spdk_bdev", bdevs=[{"name": "m", "type": "malloc", "size": "1MiB"}])
    made = target.module("spdk_nvmf_subsystem", subsystems=[{"nqn": nqn, "namespaces": [{"bdev": "m"}]}])
    assert made["rc"] == 0, made
    absent = [{"name": "m", "state": "absent"}]
    refused = [target.module("spdk_bdev", check=check, bdevs=absent) for check in (True, False)]
    assert refused[0] == refused[1] and "m is in use" in refused[0]["msg"]
    predicted = target.module("spdk_bdev", check=True, bdevs=absent, force=True)
    assert list(bdevs(target)) == ["m"]
    done = target.module("spdk_bdev", bdevs=absent, force=True)
    assert (done["rc"], done["outcome"], done["diff"]) == (0, predicted["outcome"], predicted["diff"])
    assert bdevs(target) == {}


def test_a_null_bdev_grows(target: Node) -> None:
    target.module("spdk_bdev", bdevs=[{"name": "n", "type": "null", "size": "1MiB"}])
    wanted = [{"name": "n", "type": "null", "size": "3MiB"}]
    predicted = target.module("spdk_bdev", check=True, bdevs=wanted)
    done = target.module("spdk_bdev", bdevs=wanted)
    assert done["diff"] == predicted["diff"]
    assert bdevs(target)["n"]["num_blocks"] * 512 == 3 * MIB
    assert target.module("spdk_bdev", bdevs=wanted)["changed"] is False


def test_an_aio_bdev_follows_its_file(target: Node, tmp_path: Path) -> None:
    wanted = {**volumes(tmp_path)[2], "size": "1MiB"}
    target.module("spdk_bdev", bdevs=[wanted])
    larger = [{**wanted, "size": "2MiB"}]
    refused = target.module("spdk_bdev", bdevs=larger)
    assert refused["rc"] == 1 and "grow the file first" in refused["msg"]
    with Path(wanted["filename"]).open("ab") as file:
        file.truncate(2 * MIB)
    predicted = target.module("spdk_bdev", check=True, bdevs=larger)
    done = target.module("spdk_bdev", bdevs=larger)
    assert (done["rc"], done["diff"]) == (0, predicted["diff"])
    assert bdevs(target)["a"]["num_blocks"] * 4096 == 2 * MIB
    assert target.module("spdk_bdev", bdevs=larger)["changed"] is False


def test_an_option_that_is_left_out_keeps_what_exists(target: Node) -> None:
    target.module("spdk_bdev", bdevs=[{"name": "m", "type": "malloc", "size": "1MiB", "block_size": 4096}])
    result = target.module("spdk_bdev", bdevs=[{"name": "m", "type": "malloc", "size": "1MiB"}])
    assert (result["rc"], result["changed"]) == (0, False)


def test_what_cannot_be_changed_in_place_is_refused_before_anything_is(target: Node) -> None:
    target.module(
        "spdk_bdev",
        bdevs=[{"name": "m", "type": "malloc", "size": "2MiB"}, {"name": "n", "type": "null", "size": "2MiB"}],
    )
    before = bdevs(target)
    for item, said in [
        ({"name": "m", "type": "malloc", "size": "2MiB", "block_size": 4096}, "block_size 512, wanted 4096"),
        ({"name": "m", "type": "null", "size": "2MiB"}, "type malloc, wanted null"),
        ({"name": "m", "type": "malloc", "size": "4MiB"}, "cannot grow"),
        ({"name": "m", "type": "malloc", "size": "1MiB"}, "never shrunk"),
        ({"name": "n", "type": "null", "size": "1MiB"}, "never shrunk"),
        ({"name": "n", "type": "null", "size": "2097664"}, "whole MiB"),
        ({"name": "m", "type": "null", "state": "absent"}, "type malloc"),
    ]:
        result = target.module("spdk_bdev", bdevs=[{"name": "new", "type": "malloc", "size": "1MiB"}, item])
        assert result["rc"] == 1 and said in result["msg"], result
    assert bdevs(target) == before


def test_partial_failure_is_data(target: Node, tmp_path: Path) -> None:
    result = target.module(
        "spdk_bdev",
        bdevs=[
            {"name": "m", "type": "malloc", "size": "1MiB"},
            {"name": "a", "type": "aio", "filename": str(tmp_path / "nothing")},
            {"name": "n", "type": "null", "size": "1MiB"},
        ],
    )
    assert (result["rc"], result["failed"], result["changed"]) == (1, True, True)
    assert [entry["name"] for entry in result["outcome"]["applied"]] == ["m", "n"]
    (failed,) = result["outcome"]["failed"]
    assert failed["name"] == "a" and "No such file or directory" in failed["reason"]
    assert result["msg"].startswith("2 applied, 1 failed, 0 not tried")
    assert sorted(bdevs(target)) == sorted(result["diff"]["after"]) == ["m", "n"]
