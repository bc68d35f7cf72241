"""spdk_info and spdk_rpc against a running SPDK."""

from __future__ import annotations

from spdk_nodes import Node


def test_info_is_what_spdk_answers(target: Node) -> None:
    target.module("spdk_bdev", bdevs=[{"name": "m", "type": "malloc", "size": "1MiB"}])
    result = target.module("spdk_info", gather=["version", "bdevs", "transports", "subsystems", "methods"])
    assert (result["rc"], result["changed"]) == (0, False)
    assert result["spdk"]["bdevs"] == target.call("bdev_get_bdevs")
    assert result["spdk"]["version"] == target.call("spdk_get_version")
    assert result["spdk"]["subsystems"] == target.call("nvmf_get_subsystems")
    assert "bdev_get_bdevs" in result["spdk"]["methods"]
    assert sorted(result["spdk"]) == ["bdevs", "methods", "subsystems", "transports", "version"]


def test_calls_are_made_in_order_and_the_first_error_ends_it(target: Node) -> None:
    create = {"method": "bdev_malloc_create", "params": {"name": "m", "num_blocks": 8, "block_size": 512}}
    read = {"method": "bdev_get_bdevs", "params": {"name": "m"}}
    result = target.module("spdk_rpc", calls=[create, read, create, read])
    assert (result["rc"], result["changed"]) == (1, True)
    assert result["results"][0] == "m"
    assert result["results"][1][0]["num_blocks"] == 8
    assert len(result["results"]) == 2
    assert "calls[2]: bdev_malloc_create (name m): File exists (code -17)" in result["msg"]
    assert result["not_tried"] == ["bdev_get_bdevs"]


def test_check_mode_sends_what_reads_and_names_the_rest(target: Node) -> None:
    create = {"method": "bdev_malloc_create", "params": {"name": "m", "num_blocks": 8, "block_size": 512}}
    result = target.module("spdk_rpc", check=True, calls=[create, {"method": "bdev_get_bdevs"}])
    assert (result["changed"], result["results"], result["would_call"]) == (True, [[]], ["bdev_malloc_create"])
    assert target.call("bdev_get_bdevs") == []


def test_a_single_call_and_what_counts_as_a_change(target: Node) -> None:
    result = target.module("spdk_rpc", method="spdk_get_version")
    assert (result["changed"], result["result"]) == (False, target.call("spdk_get_version"))
    assert target.module("spdk_rpc", method="spdk_get_version", changes=True)["changed"] is True
    assert target.module("spdk_rpc", check=True, method="framework_wait_init", changes=False)["results"] == [True]


def test_an_unknown_method(target: Node) -> None:
    result = target.module("spdk_rpc", method="bdev_cromulent_create")
    assert result["rc"] == 1
    assert "bdev_cromulent_create: Method not found (code -32601)" in result["msg"]
