"""Rate limits of disks: what differs is one step, what is left out stays."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.plugin_utils import report, validate
from world import World, disk, nodes

READ_16 = {"rd_bandwidth": "16MiB"}


def test_a_new_disk_is_limited_after_it_is_attached() -> None:
    world = World(nodes())
    planned = world.converge(disk(qos=READ_16), disk("vol01"))
    assert [step["stage"] for step in planned["steps"]][-3:] == ["attach", "attach", "limits"]
    assert planned["nodes"]["ipu1"]["limits"] == [{"physical_id": 0, "rd_bandwidth": "16MiB"}]
    assert [result["action"] for result in planned["disks"]] == ["attach", "attach"]
    assert [result["qos"]["rd_bandwidth"] for result in planned["disks"]] == ["16MiB", "unlimited"]
    assert world.limits["ipu1"] == {"st1n1": {"r_mbytes_per_sec": 16}}


def test_limits_change_in_place_and_what_is_left_out_stays() -> None:
    world = World(nodes())
    world.converge(disk(qos=READ_16))
    planned = world.converge(disk(qos={"rw_iops": 2000, "rd_bandwidth": "32 MiB"}))
    assert [(step["stage"], step["action"], step["name"], step["detail"]) for step in planned["steps"]] == [
        ("limits", "limit", "vol00 (sma-0)", "rw_iops 2000 (was unlimited), rd_bandwidth 32MiB (was 16MiB)")
    ]
    assert planned["text"][:2] == [
        "0 to attach, 1 to limit, 0 to detach, 0 to destroy, 0 unchanged, 0 not converged",
        "ipu1: limit 1 device: vol00 (sma-0)",
    ]
    assert planned["disks"][0]["action"] == "limit"
    assert "host1" not in planned["nodes"]  # nothing is to be seen there
    for unchanged in ({}, {"qos": {}}, {"qos": None}, {"qos": {"rw_iops": None}}, {"qos": {"rw_iops": "2000"}}):
        assert world.plan(disk(**unchanged))["steps"] == []
    world.converge(disk(qos={"rw_iops": "unlimited", "rd_bandwidth": 0}))
    assert world.plan(disk())["disks"][0]["qos"] == dict.fromkeys(world.plan(disk())["disks"][0]["qos"], "unlimited")


def test_a_detached_disk_keeps_its_limits_and_a_new_one_does_not_get_them() -> None:
    world = World(nodes())
    world.converge(disk(qos=READ_16))
    world.converge(disk(qos=READ_16, state="detached"))
    back = world.converge(disk(qos=READ_16))
    assert [step["stage"] for step in back["steps"]] == ["attach"]


def test_the_node_remembers_limits_until_they_are_lifted_or_the_disk_is_gone() -> None:
    world = World(nodes(hosts=2), keeps=True)
    world.converge(disk(host="host1", qos=READ_16), disk("vol01", host="host1", qos={"rw_iops": 1000}))
    assert world.kept["ipu1"]["qos"] == [
        {"name": "st1n1", "rd_bandwidth": "16MiB"},
        {"name": "st1n2", "rw_iops": 1000},
    ]
    world.converge(disk(host="host1"), disk("vol01", host="host1", state="detached"))
    assert [each["name"] for each in world.kept["ipu1"]["qos"]] == ["st1n1", "st1n2"]
    world.converge(
        disk(host="host1", qos={"rw_iops": 2000}), disk("vol01", host="host1", state="absent"), safe_mode=False
    )
    assert world.kept["ipu1"]["qos"] == [{"name": "st1n1", "rd_bandwidth": "16MiB", "rw_iops": 2000}]
    world.converge(disk(host="host1", qos={"rw_iops": 0, "rd_bandwidth": 0}))
    assert "qos" not in world.kept["ipu1"]
    world.converge(disk(host="host1", qos=READ_16))
    world.converge(disk(host="host2", qos=READ_16))
    assert ("qos" in world.kept["ipu1"], world.kept["ipu2"]["qos"]) == (
        False,
        [{"name": "st1n1", "rd_bandwidth": "16MiB"}],
    )


def test_a_disk_whose_limits_failed_is_not_converged() -> None:
    planned = World(nodes()).plan(disk(qos=READ_16), disk("vol01", qos=READ_16), disk("vol02"))
    seen = {"host1": [{"serial": f"st1n{n}", "path": f"/dev/vd{n}"} for n in (1, 2, 3)]}
    failed = {"action": "update", "kind": "limits", "name": "virtio_blk:sma-1", "reason": "SetQos: Failed"}
    answer = {"failed": True, "msg": "1 failed", "outcome": {"applied": [], "failed": [failed], "not_tried": []}}
    reported = report.report(planned, seen, {"ipu1": ["1 failed"]}, {"ipu1": answer})
    assert [each["converged"] for each in reported] == [True, False, True]
    assert reported[1]["reason"] == "ipu1 did not set its limits: SetQos: Failed"
    reported = report.report(planned, seen, {}, {"ipu1": {"failed": True, "msg": "SMA does not answer"}})
    assert [each["converged"] for each in reported] == [False, False, True]
    reported = report.report(planned, seen, {}, {"ipu1": {"changed": True}})
    assert [each["converged"] for each in reported] == [True, True, True]


@pytest.mark.parametrize(
    ("qos", "message"),
    [
        ("16MiB", r"virtual_disks[0] ('vol00'): qos: wanted a dictionary such as {rd_bandwidth: 16MiB}, got a string."),
        ({"rd_iops": 1000}, "unknown key in qos: 'rd_iops'. Did you mean 'rw_iops'? Known: rw_iops, rw_bandwidth,"),
        ({"rd_bandwidth": "16MB"}, "qos.rd_bandwidth: wanted bytes a second, or a whole number with KiB, MiB,"),
        ({"rd_bandwidth": -1}, "got -1."),
        ({"rd_bandwidth": True}, "got True."),
        ({"rd_bandwidth": 1.5}, "got 1.5."),
        ({"rd_bandwidth": ["16MiB"]}, "got ['16MiB']."),
        ({"rd_bandwidth": 16}, "qos.rd_bandwidth: 16 is no multiple of 1MiB, in which SPDK counts; nearest is 1MiB."),
        ({"rw_iops": "16MiB"}, "qos.rw_iops: wanted I/Os a second, a whole number (0 or unlimited: no limit), got"),
        ({"rw_iops": 2500}, "nearest are 2000 and 3000."),
    ],
)
def test_limits_that_are_none(qos: Any, message: str) -> None:
    with pytest.raises(validate.InvalidDisks) as refused:
        validate.validate([disk(qos=qos)], nodes())
    assert len(refused.value.errors) == 1
    assert message in refused.value.errors[0]
