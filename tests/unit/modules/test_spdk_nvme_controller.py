"""spdk_nvme_controller: a storage target and an IPU, two running SPDKs."""

from __future__ import annotations

from typing import Any

import pytest
from spdk_nodes import Node

NQN = "nqn.2022-06.io.ipdk:st1:ipu1"
HOST = "nqn.2014-08.org.nvmexpress:uuid:6f3c0a52-1b1f-5d0e-9d4e-2f0f3f6b7a10"
STRANGER = "nqn.2014-08.org.nvmexpress:uuid:6f3c0a52-1b1f-5d0e-9d4e-2f0f3f6b7a99"


@pytest.fixture
def export(target: Node, port: int) -> int:
    """The port at which the target exports vol0 and vol1 to the host."""
    target.module("spdk_nvmf_transport", transports=[{"trtype": "TCP", "in_capsule_data_size": 8192}])
    target.module("spdk_bdev", bdevs=[{"name": f"vol{i}", "type": "malloc", "size": "1MiB"} for i in range(2)])
    subsystem = {
        "nqn": NQN,
        "hosts": [HOST],
        "namespaces": [{"bdev": "vol0"}, {"bdev": "vol1"}],
        "listeners": [{"traddr": "127.0.0.1", "trsvcid": port}],
    }
    result = target.module("spdk_nvmf_subsystem", subsystems=[subsystem])
    assert result["rc"] == 0, result
    return port


def attach(port: int, **more: Any) -> dict[str, Any]:
    return {"name": "st1", "traddr": "127.0.0.1", "trsvcid": port, "subnqn": NQN, "hostnqn": HOST, **more}


def test_attach_twice_and_detach_twice(ipu: Node, export: int) -> None:
    wanted = [attach(export, bdevs=2)]
    predicted = ipu.module("spdk_nvme_controller", check=True, controllers=wanted)
    assert ipu.call("bdev_nvme_get_controllers") == []
    done = ipu.module("spdk_nvme_controller", controllers=wanted, wait_for_bdevs=["st1n2"])
    assert done["rc"] == 0, done
    assert (done["outcome"], done["diff"]) == (predicted["outcome"], predicted["diff"])
    assert sorted(bdev["name"] for bdev in done["bdevs"]) == ["st1n1", "st1n2"]
    assert {bdev["size"] for bdev in done["bdevs"]} == {2**20}
    again = ipu.module("spdk_nvme_controller", controllers=wanted, wait_for_bdevs=["st1n2"])
    assert (again["changed"], len(again["bdevs"])) == (False, 2)
    for changed in (True, False):
        gone = ipu.module("spdk_nvme_controller", controllers=[{"name": "st1", "state": "absent"}])
        assert (gone["rc"], gone["changed"]) == (0, changed)
    assert ipu.call("bdev_get_bdevs") == []


def test_check_mode_predicts_the_detaching(target: Node, ipu: Node, export: int) -> None:
    """One controller goes and another comes, in one list; the third is not in it and stays."""
    other = {
        "nqn": NQN.replace("ipu1", "ipu2"),
        "hosts": [HOST],
        "namespaces": [{"bdev": "vol2"}],
        "listeners": [{"traddr": "127.0.0.1", "trsvcid": export}],
    }
    target.module("spdk_bdev", bdevs=[{"name": "vol2", "type": "malloc", "size": "1MiB"}])
    assert target.module("spdk_nvmf_subsystem", subsystems=[other])["rc"] == 0
    attached = [attach(export, bdevs=2), attach(export, name="stays", subnqn=other["nqn"], bdevs=1)]
    assert ipu.module("spdk_nvme_controller", controllers=attached)["rc"] == 0
    names = {bdev["name"] for bdev in ipu.call("bdev_get_bdevs")}
    assert names == {"st1n1", "st1n2", "staysn1"}
    wanted = [attach(export, name="new", bdevs=2), {"name": "st1", "state": "absent"}]
    predicted = ipu.module("spdk_nvme_controller", check=True, controllers=wanted)
    assert {bdev["name"] for bdev in ipu.call("bdev_get_bdevs")} == names
    done = ipu.module("spdk_nvme_controller", controllers=wanted)
    assert (done["rc"], done["changed"]) == (0, predicted["changed"]), done
    assert (done["outcome"], done["diff"]) == (predicted["outcome"], predicted["diff"])
    assert [(entry["action"], entry["name"]) for entry in done["outcome"]["applied"]] == [
        ("delete", "st1"),
        ("create", "new"),
    ]
    assert (list(done["diff"]["before"]), list(done["diff"]["after"])) == (["st1"], ["new"])
    assert {bdev["name"] for bdev in ipu.call("bdev_get_bdevs")} == {"newn1", "newn2", "staysn1"}
    for check in (True, False):
        again = ipu.module("spdk_nvme_controller", check=check, controllers=wanted)
        assert (again["rc"], again["changed"], again["outcome"]["applied"]) == (0, False, [])
        # The prediction is also what is really there.
        assert again["diff"]["before"] == again["diff"]["after"] == done["diff"]["after"]


def test_it_waits_for_a_namespace_and_says_what_did_not_come(ipu: Node, export: int) -> None:
    wanted = [attach(export, bdevs=3)]
    result = ipu.module("spdk_nvme_controller", controllers=wanted, wait_for_bdevs=["st1n1", "st1n9"], wait_timeout=0.2)
    assert (result["rc"], result["changed"]) == (1, True)
    assert "bdev st1n9 is not there" in result["msg"]
    assert "controller st1 has 2 bdevs, wanted 3" in result["msg"]


def test_another_identity_under_the_same_name_is_refused(ipu: Node, export: int) -> None:
    ipu.module("spdk_nvme_controller", controllers=[attach(export)])
    other = ipu.module("spdk_nvme_controller", controllers=[attach(export, hostnqn=STRANGER)])
    assert other["rc"] == 1 and f"hostnqn {HOST}, wanted {STRANGER}" in other["msg"]
    moved = ipu.module("spdk_nvme_controller", controllers=[attach(export + 1)])
    assert moved["rc"] == 1 and f"127.0.0.1 {export}" in moved["msg"] and f"127.0.0.1 {export + 1}" in moved["msg"]
    assert len(ipu.call("bdev_nvme_get_controllers")) == 1


def test_a_host_that_is_not_admitted_is_told_why(ipu: Node, export: int) -> None:
    wanted = [attach(export), attach(export, name="no", hostnqn=STRANGER)]
    result = ipu.module("spdk_nvme_controller", controllers=wanted)
    assert result["rc"] == 1
    assert [entry["name"] for entry in result["outcome"]["applied"]] == ["st1"]
    assert [entry["name"] for entry in result["outcome"]["failed"]] == ["no"]
    assert "does not admit this host" in result["msg"]
    assert list(result["diff"]["after"]) == ["st1"]


def test_an_address_where_nobody_listens(ipu: Node, port: int) -> None:
    result = ipu.module("spdk_nvme_controller", controllers=[attach(port)])
    assert result["rc"] == 1
    assert f"nobody listens at TCP IPv4 127.0.0.1 {port}" in result["msg"]


def test_a_second_path(target: Node, ipu: Node, export: int, ports: tuple[int, int]) -> None:
    second = ports[0]
    target.module(
        "spdk_nvmf_subsystem",
        subsystems=[{"nqn": NQN, "listeners": [{"traddr": "127.0.0.1", "trsvcid": second}]}],
    )
    one = attach(export, multipath="multipath")
    ipu.module("spdk_nvme_controller", controllers=[one])
    both = [{**one, "paths": [{"traddr": "127.0.0.1", "trsvcid": second}]}]
    predicted = ipu.module("spdk_nvme_controller", check=True, controllers=both)
    done = ipu.module("spdk_nvme_controller", controllers=both)
    assert done["rc"] == 0, done
    assert done["diff"] == predicted["diff"]
    assert [entry["kind"] for entry in done["outcome"]["applied"]] == ["path"]
    assert ipu.module("spdk_nvme_controller", controllers=both)["changed"] is False
    # A path that is not mentioned is left alone.
    assert ipu.module("spdk_nvme_controller", controllers=[one])["changed"] is False
