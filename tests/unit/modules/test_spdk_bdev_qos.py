"""spdk_bdev_qos against a running SPDK."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.module_utils import _qos
from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import RpcError
from spdk_nodes import Node

NONE = {"rw_ios_per_sec": 0, "rw_mbytes_per_sec": 0, "r_mbytes_per_sec": 0, "w_mbytes_per_sec": 0}


def qos(node: Node, *items: dict[str, Any], check: bool = False) -> dict[str, Any]:
    done = node.module("spdk_bdev_qos", check=check, qos=list(items))
    assert done["rc"] == 0, done
    return done


def limits(node: Node, name: str = "m0") -> dict[str, int]:
    return node.call("bdev_get_bdevs", {"name": name})[0]["assigned_rate_limits"]


@pytest.fixture
def disk(target: Node) -> Node:
    """A target with a bdev m0 that nobody uses."""
    target.module("spdk_bdev", bdevs=[{"name": "m0", "type": "malloc", "size": "16MiB"}])
    return target


def test_limits_of_an_idle_bdev_are_set_kept_changed_and_lifted(disk: Node) -> None:
    first = {"name": "m0", "rd_bandwidth": "16MiB"}
    predicted = qos(disk, first, check=True)
    assert limits(disk) == NONE
    done = qos(disk, first)
    assert (done["outcome"], done["diff"]) == (predicted["outcome"], predicted["diff"])
    assert done["diff"]["before"]["m0"]["rd_bandwidth"] == "unlimited"
    assert done["diff"]["after"]["m0"] == {
        "rw_iops": "unlimited",
        "rw_bandwidth": "unlimited",
        "rd_bandwidth": "16MiB",
        "wr_bandwidth": "unlimited",
    }
    assert limits(disk) == {**NONE, "r_mbytes_per_sec": 16}
    assert qos(disk, first)["changed"] is False
    assert qos(disk, {"name": "m0", "rd_bandwidth": 16 << 20})["changed"] is False

    # What SPDK refuses, and the operator does not get to see.
    with pytest.raises(RpcError, match="Resource temporarily unavailable"):
        disk.call("bdev_set_qos_limit", {"name": "m0", "r_mbytes_per_sec": 8})
    qos(disk, {"name": "m0", "rw_iops": 2000, "rw_bandwidth": "1GiB"})
    assert limits(disk) == {**NONE, "r_mbytes_per_sec": 16, "rw_ios_per_sec": 2000, "rw_mbytes_per_sec": 1024}
    qos(disk, {"name": "m0", "rd_bandwidth": "unlimited", "rw_iops": 0})
    assert limits(disk) == {**NONE, "rw_mbytes_per_sec": 1024}
    qos(disk, {"name": "m0", "rw_bandwidth": "0"})
    assert limits(disk) == NONE
    assert [each["nqn"] for each in disk.call("nvmf_get_subsystems")] == ["nqn.2014-08.org.nvmexpress.discovery"]
    assert disk.call("bdev_get_bdevs", {"name": "m0"})[0]["claimed"] is False


def test_limits_of_a_namespace_change_without_a_detour(disk: Node) -> None:
    disk.module("spdk_nvmf_subsystem", subsystems=[{"nqn": "nqn.2022-06.io.ipdk:q:q", "namespaces": [{"bdev": "m0"}]}])
    for iops in (1000, 3000):
        qos(disk, {"name": "m0", "rw_iops": iops})
        assert limits(disk)["rw_ios_per_sec"] == iops


def test_what_a_killed_run_left_behind_is_taken_away(disk: Node) -> None:
    qos(disk, {"name": "m0", "wr_bandwidth": "4MiB"})
    state = _qos.State(
        {"m0": disk.call("bdev_get_bdevs", {"name": "m0"})[0]}, {"m0": "m0"}, busy=set(), subsystems=set()
    )
    calls = _qos.with_channel(("bdev_set_qos_limit", {"name": "m0"}), "m0", "m0", state)
    for method, params in calls[:2]:  # it did not get any further
        disk.call(method, params)
    assert disk.call("bdev_get_bdevs", {"name": "m0"})[0]["claimed"] is True
    qos(disk, {"name": "m0", "wr_bandwidth": "5MiB"})
    assert limits(disk) == {**NONE, "w_mbytes_per_sec": 5}
    assert len(disk.call("nvmf_get_subsystems")) == 1


def test_a_bdev_that_is_not_there_does_not_stop_the_others(disk: Node) -> None:
    done = disk.module("spdk_bdev_qos", qos=[{"name": "m9", "rw_iops": 1000}, {"name": "m0", "rw_iops": 1000}])
    assert (done["rc"], done["changed"]) == (1, True)
    assert [entry["reason"] for entry in done["outcome"]["failed"]] == ["there is no bdev m9"]
    assert limits(disk)["rw_ios_per_sec"] == 1000


def test_a_node_remembers_limits(disk: Node, tmp_path: Any) -> None:
    declaration = {
        "bdevs": [{"name": "m0", "type": "malloc", "size": "16MiB"}],
        "qos": [{"name": "m0", "rd_bandwidth": "16MiB", "rw_iops": 1000}],
    }
    done = disk.module("spdk_target", declaration=declaration, remember=str(tmp_path / "declaration.json"))
    assert (done["rc"], done["changed"]) == (0, True), done
    assert limits(disk) == {**NONE, "r_mbytes_per_sec": 16, "rw_ios_per_sec": 1000}
    assert disk.module("spdk_target", declaration=declaration)["changed"] is False


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"rd_bandwidth": "16MB"}, r"qos\[0\] \(m0\)\.rd_bandwidth: wanted bytes a second.*got '16MB'"),
        ({"rd_bandwidth": "16MiB/s"}, "got '16MiB/s'"),
        ({"rd_bandwidth": "-16MiB"}, "got '-16MiB'"),
        ({"wr_bandwidth": "1.5MiB"}, "got '1.5MiB'"),
        ({"wr_bandwidth": "1500KiB"}, "1500KiB is no multiple of 1MiB.*nearest are 1MiB and 2MiB"),
        ({"wr_bandwidth": "512KiB"}, "512KiB is no multiple of 1MiB.*nearest is 1MiB"),
        ({"rw_iops": 1500}, "1500 is no multiple of 1000.*nearest are 1000 and 2000"),
        ({"rw_iops": "2k"}, "rw_iops: wanted I/Os a second, a whole number.*got '2k'"),
        ({"rw_iops": "-1"}, "got '-1'"),
        ({"rw_bandwidth": f"{2**60}TiB"}, "more than SPDK can count"),
        ({}, "no limit is named"),
    ],
)
def test_a_limit_that_is_none(disk: Node, item: dict[str, Any], message: str) -> None:
    done = disk.module("spdk_bdev_qos", qos=[{"name": "m0", **item}])
    assert done["rc"] == 1
    assert re.search(message, done["msg"]), done["msg"]
    assert limits(disk) == NONE
