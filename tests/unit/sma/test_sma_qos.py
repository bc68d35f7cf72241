# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""sma_qos through the real SMA, between an SPDK and a fake QEMU: nobody uses its disks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.module_utils import _sma, _sma_devices, _sma_qos
from sma_fakes import FakeQemu, FakeSpdk
from support.spdk import Spdk

NONE = {"rw_ios_per_sec": 0, "rw_mbytes_per_sec": 0, "r_mbytes_per_sec": 0, "w_mbytes_per_sec": 0}
ALL = dict.fromkeys(("rw_iops", "rw_bandwidth", "rd_bandwidth", "wr_bandwidth"), "unlimited")
Module = Callable[..., dict[str, Any]]


@pytest.fixture
def ipu(tmp_path: Path) -> Iterator[Spdk]:
    with Spdk(tmp_path) as node:
        for number in (1, 2):
            node.call("bdev_malloc_create", name=f"st1n{number}", num_blocks=2048, block_size=512)
        yield node


@pytest.fixture
def module(make_sma: Any, ipu: Spdk, spdk: FakeSpdk) -> Iterator[Module]:
    """sma_qos, and two devices in the slots 0 and 1. ``spdk`` is there for the fake QEMU to tell, which nobody asks."""
    qemu = FakeQemu(spdk)
    server = make_sma(ipu.rpc_socket, qemu.port)
    server.start()
    params = {"address": server.address, "rpc_socket": str(ipu.rpc_socket), "rpc_timeout": 10.0, "timeout": 20.0}
    devices = [{"volume": uuid_of(ipu, f"st1n{slot + 1}"), "physical_id": slot} for slot in (0, 1)]
    made = _sma_devices.converge({**params, "max_devices": 64, "wait": 0.0, "devices": devices}, False)
    assert not made.get("failed"), made

    def run(*devices: dict[str, Any], check: bool = False) -> dict[str, Any]:
        return _sma_qos.converge({**params, "devices": list(devices)}, check)

    yield run
    qemu.close()


def uuid_of(node: Spdk, name: str) -> str:
    return node.call("bdev_get_bdevs", name=name)[0]["uuid"]


def limits(node: Spdk, name: str = "st1n1") -> dict[str, int]:
    return node.call("bdev_get_bdevs", name=name)[0]["assigned_rate_limits"]


def test_a_story(module: Module, ipu: Spdk) -> None:
    wanted = [
        {"physical_id": 0, "rd_bandwidth": "16MiB"},
        {"handle": "virtio_blk:sma-1", "volume": uuid_of(ipu, "st1n2"), "rw_iops": "3000", "wr_bandwidth": "2MiB"},
    ]
    foreseen = module(*wanted, check=True)
    assert limits(ipu) == NONE
    done = module(*wanted)
    assert done == foreseen
    assert done["changed"] is True
    assert limits(ipu) == {**NONE, "r_mbytes_per_sec": 16}
    assert limits(ipu, "st1n2") == {**NONE, "rw_ios_per_sec": 3000, "w_mbytes_per_sec": 2}
    assert done["devices"] == [
        {
            "physical_id": slot,
            "handle": f"virtio_blk:sma-{slot}",
            "volume": uuid_of(ipu, f"st1n{slot + 1}"),
            "bdev": f"st1n{slot + 1}",
            "limits": {**ALL, **limited},
            "changed": True,
        }
        for slot, limited in enumerate(({"rd_bandwidth": "16MiB"}, {"rw_iops": 3000, "wr_bandwidth": "2MiB"}))
    ]
    assert set(done["capabilities"]) == {"device", "volume"}
    assert set(done["capabilities"]["device"]) == set(ALL)

    again = module(*wanted)
    assert (again["changed"], again["outcome"]["applied"]) == (False, [])

    # Left out: kept. SPDK would refuse, because nobody uses the disk.
    module({"physical_id": 0, "rw_iops": "1000"})
    assert limits(ipu) == {**NONE, "r_mbytes_per_sec": 16, "rw_ios_per_sec": 1000}
    module({"physical_id": 0, "rd_bandwidth": "unlimited"})
    assert limits(ipu) == {**NONE, "rw_ios_per_sec": 1000}
    module({"physical_id": 0, "rw_iops": "0"}, {"physical_id": 1, **ALL})
    assert limits(ipu) == limits(ipu, "st1n2") == NONE
    assert len(ipu.call("nvmf_get_subsystems")) == 1


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ({"physical_id": 0, "rd_iops": "1000"}, "SMA has no rd_iops of a device, only rw_iops, rd_bandwidth,"),
        ({"physical_id": 0, "volume": "{other}", "rw_iops": "1000"}, "virtio_blk:sma-0 has the volume"),
        ({"physical_id": 7, "rw_iops": "1000"}, "virtio_blk:sma-7: there is no such device"),
        ({"physical_id": 0}, r"devices\[0\]: no limit is named"),
        ({"rw_iops": "1000"}, r"devices\[0\]: say which device"),
        ({"handle": "nvme:1", "rw_iops": "1000"}, "no handle of a device"),
        ({"handle": "nvme:sma-1", "rw_iops": "1000"}, "an NVMe device has no limits here, only a virtio-blk device"),
        ({"physical_id": 0, "rw_bandwidth": "16MB"}, r"devices\[0\].rw_bandwidth: wanted bytes a second.*got '16MB'"),
        ({"physical_id": 0, "rw_bandwidth": "-1"}, "got '-1'"),
    ],
)
def test_what_cannot_be_is_refused(module: Module, ipu: Spdk, device: dict[str, Any], message: str) -> None:
    if device.get("volume"):
        device = {**device, "volume": uuid_of(ipu, "st1n2")}
    done = module(device)
    assert done["failed"] and not done["changed"]
    assert re.search(message, done["msg"]), done["msg"]
    assert limits(ipu) == limits(ipu, "st1n2") == NONE


def test_two_items_for_one_device_are_refused(module: Module) -> None:
    done = module({"physical_id": 0, "rw_iops": "1000"}, {"handle": "virtio_blk:sma-0", "rw_iops": "2000"})
    assert "devices[0] and devices[1] have the same physical_id" in done["msg"]


def test_a_limit_that_no_sma_has_may_be_lifted(module: Module) -> None:
    assert module({"physical_id": 0, "rd_iops": "0"})["changed"] is False


def test_a_limit_that_spdk_cannot_tell_is_set_each_time() -> None:
    device = _sma_devices.Device(0, "b", "u", True)
    qos = _sma_qos._qos.State({"b": {"name": "b", "uuid": "u"}}, {"b": "b", "u": "b"}, busy={"b"}, subsystems=set())
    state = _sma_qos.State({0: device}, qos, {"device": ["rd_iops"], "volume": []})
    wanted = _sma_qos.normalise([{"physical_id": 0, "rd_iops": "2000"}])
    (change,) = _sma_qos.DeviceLimits().plan(wanted, state).changes
    ((method, request),) = change.calls
    kept = dict.fromkeys(_sma.QOS_FIELDS, 2**64 - 1)
    assert (method, request["maximum"]) == ("SetQos", {**kept, "rd_iops": 2})


def test_the_volume_that_sma_encrypts_has_limits_of_its_own() -> None:
    """A UUID names the bdev below, the device is the one on top; nobody has used either."""
    volume, above = "6c3f1c3e-5a55-5f29-9e6c-8e3b2a1d4f01", "6c3f1c3e-5a55-5f29-9e6c-8e3b2a1d4f02"
    bdevs = {
        "b": {"name": "b", "uuid": volume, "claimed": True, "assigned_rate_limits": {**NONE, "rw_ios_per_sec": 5000}},
        "c": {"name": "c", "uuid": above, "driver_specific": {"crypto": {"base_bdev_name": "b"}}},
    }
    qos = _sma_qos._qos.State(bdevs, {"b": "b", volume: "b", "c": "c", above: "c"}, busy=set(), subsystems=set())
    device = _sma_devices.Device(0, "c", above, False)
    state = _sma_qos.State({0: device}, qos, dict.fromkeys(("device", "volume"), list(ALL)))

    def calls(**item: str) -> list[str]:
        wanted = _sma_qos.normalise([{"physical_id": 0, "rw_iops": "2000", **item}])
        (change,) = _sma_qos.DeviceLimits().plan(wanted, state).changes
        used = [params["namespace"]["bdev_name"] for name, params in change.calls if name == "nvmf_subsystem_add_ns"]
        assert used in ([], ["c"])
        return [name for name, _params in change.calls]

    detour = ["nvmf_create_subsystem", "nvmf_subsystem_add_ns", "SetQos", "nvmf_delete_subsystem"]
    assert calls(volume=volume) == detour  # the bdev below has a limit already
    assert calls() == calls(volume=above) == ["SetQos"]
