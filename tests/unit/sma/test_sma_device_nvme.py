# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""sma_device with NVMe devices, by vfio-user and of QEMU's own, through the real SMA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.module_utils import _sma_devices
from sma_fakes import FakeQemu, FakeSpdk
from test_sma_nvme import NQN, started

Module = Callable[..., dict[str, Any]]


def module_of(sma: Any, spdk: FakeSpdk) -> Module:
    connection = {"address": sma.address, "rpc_socket": str(spdk.path), "rpc_timeout": 10.0, "timeout": 20.0}

    def module(*devices: dict[str, Any], check: bool = False) -> dict[str, Any]:
        return _sma_devices.converge({**connection, "max_devices": 64, "wait": 0.0, "devices": list(devices)}, check)

    return module


@pytest.fixture
def vfiouser(make_sma: Callable[..., Any], spdk: FakeSpdk, qemu: FakeQemu) -> Iterator[Module]:
    qemu.version = (11, 1)
    sma = make_sma(spdk.path, qemu.port, manager="ipdk_vfiouser", hot_unplug=True)
    for _client in started(sma):
        yield module_of(sma, spdk)


@pytest.fixture
def qemu_nvme(make_sma: Callable[..., Any], spdk: FakeSpdk, qemu: FakeQemu) -> Iterator[Module]:
    sma = make_sma(spdk.path, qemu.port, manager="ipdk_qemu_nvme")
    for _client in started(sma):
        yield module_of(sma, spdk)


def applied(result: dict[str, Any]) -> list[str]:
    assert not result.get("failed"), result
    return [f"{change['action']} {change['name']}" for change in result["outcome"]["applied"]]


@pytest.mark.parametrize("manager", ["vfiouser", "qemu_nvme"])
def test_one_volume(manager: str, request: pytest.FixtureRequest, spdk: FakeSpdk, qemu: FakeQemu) -> None:
    module: Module = request.getfixturevalue(manager)
    volume = spdk.add_bdev("st1n1")
    wanted = {"interface": "nvme", "volume": volume}
    foreseen, done = module(wanted, check=True), module(wanted)
    assert foreseen == done
    assert applied(done) == ["create sma-0"]
    (device,) = done["devices"]
    assert (device["handle"], device["serial"], device["volumes"]) == ("nvme:sma-0", "st1n1", [volume])
    assert applied(module(wanted)) == []
    qemu.devices.clear()
    assert applied(module(wanted)) == [], "SPDK cannot tell that the guest was started anew"
    assert applied(module({**wanted, "replug": True})) == ["replug sma-0"]
    assert "sma-0" in qemu.devices
    assert "volumes still attached" in module({"handle": "nvme:sma-0", "state": "absent"})["msg"]
    assert applied(module({**wanted, "state": "absent"})) == ["delete sma-0"]
    assert (spdk.disks, spdk.subsystems, qemu.devices) == ({}, {}, {})
    assert applied(module({**wanted, "state": "absent"})) == []


def test_what_went_keeps_its_handle_where_another_one_stays(
    qemu_nvme: Module, spdk: FakeSpdk, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes = [spdk.add_bdev(f"st1n{number}") for number in (1, 2)]
    qemu_nvme(*({"interface": "nvme", "volume": volume} for volume in volumes))
    stop = spdk.rpc_nbd_stop_disk

    def not_the_second(params: dict[str, Any]) -> dict[str, Any]:
        return {"error": {"code": -16, "message": "busy"}} if "sma-1." in params["nbd_device"] else stop(params)

    monkeypatch.setattr(spdk, "rpc_nbd_stop_disk", not_the_second)
    # Who names no interface: the volume says which device it is.
    done = qemu_nvme(*({"volume": volume, "state": "absent"} for volume in volumes))
    assert done["failed"]
    assert [(device["handle"], device["interface"], device["state"]) for device in done["devices"]] == [
        ("nvme:sma-0", "nvme", "absent"),
        ("nvme:sma-1", "nvme", "present"),
    ]


def test_several_volumes(vfiouser: Module, spdk: FakeSpdk) -> None:
    volumes = [spdk.add_bdev(f"st1n{number}") for number in range(1, 33)]
    wanted = {"interface": "nvme", "physical_id": 3, "volumes": volumes}
    done = vfiouser(wanted)
    assert applied(done) == ["create sma-3"]
    assert (done["devices"][0]["serial"], done["devices"][0]["volumes"]) == ("sma-3", volumes)
    assert len(spdk.subsystems[NQN + "sma-3"]["namespaces"]) == 32
    assert applied(vfiouser(wanted)) == []
    assert applied(vfiouser({**wanted, "volumes": volumes[:2]})) == ["update sma-3"]
    assert [each["uuid"] for each in spdk.subsystems[NQN + "sma-3"]["namespaces"]] == volumes[:2]
    refused = vfiouser({**wanted, "volumes": volumes[:1], "state": "absent"})
    assert f"nvme:sma-3 has volumes still attached ({volumes[1]})" in refused["msg"]
    assert applied(vfiouser({"handle": "nvme:sma-3", "volumes": []})) == ["update sma-3"]
    assert applied(vfiouser({"handle": "nvme:sma-3", "state": "absent"})) == ["delete sma-3"]
    assert spdk.subsystems == {}


def test_a_second_volume_of_qemus_own_is_refused(qemu_nvme: Module, spdk: FakeSpdk) -> None:
    first, second = spdk.add_bdev("st1n1"), spdk.add_bdev("st1n2")
    qemu_nvme({"interface": "nvme", "volume": first, "physical_id": 0})
    refused = qemu_nvme({"handle": "nvme:sma-0", "volumes": [first, second]})
    assert refused["failed"]
    assert "takes no other volume later; create one device for each volume" in refused["msg"]
    assert list(spdk.disks.values()) == ["st1n1"]


def test_slots_are_for_both_interfaces(qemu_nvme: Module, spdk: FakeSpdk) -> None:
    first, second = spdk.add_bdev("st1n1"), spdk.add_bdev("st1n2")
    spdk.controllers["sma-0"] = "st1n1"
    (device,) = qemu_nvme({"interface": "nvme", "volume": second})["devices"]
    assert device["handle"] == "nvme:sma-1"
    refused = qemu_nvme({"interface": "nvme", "volume": first, "physical_id": 0})
    assert "physical_id 0 is virtio_blk:sma-0; choose another or delete that one first" in refused["msg"]


@pytest.mark.parametrize(
    ("device", "complaint"),
    [
        ({"volumes": [], "physical_id": 0}, "a virtio-blk device has one volume"),
        ({"interface": "nvme", "volumes": []}, "a device with volumes needs its physical_id or handle"),
        ({"interface": "virtio-blk", "handle": "nvme:sma-0", "volumes": []}, "is no handle of a device with interface"),
        ({"handle": "nvme:sma-0", "volumes": ["x"]}, "volumes[0]"),
        ({"handle": "nvme:sma-0"}, "a device that shall be present needs its volume"),
    ],
)
def test_what_cannot_be_is_refused(qemu_nvme: Module, spdk: FakeSpdk, device: dict[str, Any], complaint: str) -> None:
    spdk.calls.clear()
    refused = qemu_nvme(device)
    assert refused["msg"].startswith("Nothing was changed.") and complaint in refused["msg"]
    assert spdk.calls == []


def test_a_volume_is_wanted_once(qemu_nvme: Module, spdk: FakeSpdk) -> None:
    volume = spdk.add_bdev("st1n1")
    twice = [{"handle": f"nvme:sma-{number}", "volumes": [volume]} for number in (0, 1)]
    assert f"the volume {volume} is wanted more than once" in qemu_nvme(*twice)["msg"]


def test_a_device_that_cannot_go_is_a_failure_though_its_volume_is_detached(
    make_sma: Callable[..., Any], spdk: FakeSpdk, qemu: FakeQemu
) -> None:
    qemu.version = (11, 1)
    volume = spdk.add_bdev("st1n1")
    sma = make_sma(spdk.path, qemu.port, manager="ipdk_vfiouser")
    for _client in started(sma):
        module = module_of(sma, spdk)
        module({"interface": "nvme", "volume": volume})
        refused = module({"interface": "nvme", "volume": volume, "state": "absent"})
        assert refused["failed"]
        assert "QEMU 11.1 would end itself when this device is unplugged" in refused["msg"]
        assert spdk.subsystems[NQN + "sma-0"]["namespaces"] == []
        assert applied(module({"interface": "nvme", "volume": volume, "physical_id": 0})) == ["update sma-0"]
