# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SPDK's SMA with our managers of NVMe devices, between a fake SPDK and a fake QEMU."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.module_utils import _sma
from sma_fakes import FakeQemu, FakeSpdk

NQN = "nqn.2022-06.io.ipdk:device:"


@pytest.fixture
def qemu_nvme(make_sma: Callable[..., Any], spdk: FakeSpdk, qemu: FakeQemu) -> Iterator[_sma.Client]:
    yield from started(make_sma(spdk.path, qemu.port, manager="ipdk_qemu_nvme", qmp_timeout=1, unplug_timeout=0.5))


@pytest.fixture
def vfiouser_sma(make_sma: Callable[..., Any], spdk: FakeSpdk, qemu: FakeQemu) -> Any:
    qemu.version = (11, 1)
    return make_sma(spdk.path, qemu.port, manager="ipdk_vfiouser", qmp_timeout=1, unplug_timeout=0.5, hot_unplug=True)


@pytest.fixture
def vfiouser(vfiouser_sma: Any) -> Iterator[_sma.Client]:
    yield from started(vfiouser_sma)


def started(sma: Any) -> Iterator[_sma.Client]:
    sma.start(wait=False)
    with _sma.Client(sma.address, timeout=20) as client:
        _wait(client)
        yield client


def _wait(client: _sma.Client) -> None:
    """Until it serves calls; it has no manager of the kind that is asked for."""
    with pytest.raises(_sma.InvalidRequest, match="Unsupported device type"):
        client.wait_ready(20)


def create(client: _sma.Client, volume: str | None, physical_id: int) -> str:
    request: dict[str, Any] = {"nvme": {"physical_id": physical_id}}
    if volume:
        request["volume"] = {"volume_id": uuid.UUID(volume).bytes}
    return client.call("CreateDevice", request).handle


def attach(client: _sma.Client, handle: str, volume: str) -> None:
    client.call("AttachVolume", {"device_handle": handle, "volume": {"volume_id": uuid.UUID(volume).bytes}})


def detach(client: _sma.Client, handle: str, volume: str) -> None:
    client.call("DetachVolume", {"device_handle": handle, "volume_id": uuid.UUID(volume).bytes})


def delete(client: _sma.Client, handle: str) -> None:
    client.call("DeleteDevice", {"handle": handle})


class TestQemusOwn:
    def test_create_plugs_a_controller_with_its_disk(
        self, qemu_nvme: _sma.Client, spdk: FakeSpdk, qemu: FakeQemu, tmp_path: Path
    ) -> None:
        assert create(qemu_nvme, spdk.add_bdev("st1n1"), 33) == "nvme:sma-33"
        path = str(tmp_path / "sma-33.nbd")
        assert spdk.disks == {path: "st1n1"}
        assert qemu.nodes["sma-33"]["server"] == {"type": "unix", "path": path}
        assert qemu.nodes["sma-33"]["reconnect-delay"] > 0
        assert qemu.devices["sma-33"] == {
            "driver": "nvme",
            "id": "sma-33",
            "drive": "sma-33",
            "serial": "st1n1",
            "logical_block_size": 512,
            "physical_block_size": 512,
            "bus": "pci.ipdk.1",
            "addr": "0x1",
        }

    def test_create_again_changes_nothing_and_delete_leaves_nothing(
        self, qemu_nvme: _sma.Client, spdk: FakeSpdk, qemu: FakeQemu
    ) -> None:
        volume = spdk.add_bdev("st1n1")
        handle = create(qemu_nvme, volume, 0)
        spdk.calls.clear()
        qemu.commands.clear()
        assert create(qemu_nvme, volume, 0) == handle
        assert "nbd_start_disk" not in spdk.calls
        assert qemu.commands == ["qmp_capabilities", "qom-list"]
        delete(qemu_nvme, handle)
        assert (spdk.disks, qemu.devices, qemu.nodes) == ({}, {}, {})
        delete(qemu_nvme, handle)
        delete(qemu_nvme, "nvme:sma-63")

    def test_a_guest_that_was_started_anew_gets_its_device_again(
        self, qemu_nvme: _sma.Client, spdk: FakeSpdk, qemu: FakeQemu
    ) -> None:
        volume = spdk.add_bdev("st1n1")
        create(qemu_nvme, volume, 0)
        qemu.devices.clear()
        create(qemu_nvme, volume, 0)
        assert list(qemu.devices) == list(qemu.nodes) == ["sma-0"]

    def test_other_volumes_are_refused(self, qemu_nvme: _sma.Client, spdk: FakeSpdk) -> None:
        first, second = spdk.add_bdev("st1n1"), spdk.add_bdev("st1n2")
        handle = create(qemu_nvme, first, 0)
        with pytest.raises(_sma.AlreadyExists, match="sma-0 is there with another volume, the bdev st1n1, not st1n2"):
            create(qemu_nvme, second, 0)
        with pytest.raises(_sma.AlreadyExists, match=f"the volume {first} already is the device sma-0"):
            create(qemu_nvme, first, 1)
        with pytest.raises(_sma.NotNow, match="takes no other volume later; create one device for each volume"):
            attach(qemu_nvme, handle, second)
        attach(qemu_nvme, handle, first)
        with pytest.raises(_sma.NotNow, match="for as long as it is plugged; delete the device"):
            detach(qemu_nvme, handle, first)
        with pytest.raises(_sma.InvalidRequest, match="needs its volume when it is created"):
            create(qemu_nvme, None, 2)
        with pytest.raises(_sma.InvalidRequest, match="physical_id 64 is out of range: the guest has 64 slots"):
            create(qemu_nvme, second, 64)

    def test_a_failed_plug_leaves_nothing(self, qemu_nvme: _sma.Client, spdk: FakeSpdk, qemu: FakeQemu) -> None:
        qemu.refuse_device_add = "PCI: slot 0 function 0 not available"
        with pytest.raises(_sma.NotNow, match="sma-0: cannot plug it: PCI: slot 0"):
            create(qemu_nvme, spdk.add_bdev("st1n1"), 0)
        assert (spdk.disks, qemu.nodes) == ({}, {})

    def test_a_slot_with_a_device_of_another_kind_is_refused(
        self, qemu_nvme: _sma.Client, spdk: FakeSpdk, qemu: FakeQemu
    ) -> None:
        qemu.devices["sma-0"] = {"driver": "vhost-user-blk-pci"}
        with pytest.raises(_sma.AlreadyExists, match="its slot has another device, a vhost-user-blk-pci"):
            create(qemu_nvme, spdk.add_bdev("st1n1"), 0)
        assert spdk.disks == {}

    def test_a_guest_that_does_not_let_go_keeps_its_disk(
        self, qemu_nvme: _sma.Client, spdk: FakeSpdk, qemu: FakeQemu
    ) -> None:
        handle = create(qemu_nvme, spdk.add_bdev("st1n1"), 0)
        qemu.guest = "ignore"
        with pytest.raises(_sma.GuestTooSlow, match="has not released it within 0.5 s"):
            delete(qemu_nvme, handle)
        assert list(spdk.disks.values()) == ["st1n1"]
        qemu.release("sma-0")
        delete(qemu_nvme, handle)
        assert spdk.disks == {}

    def test_limits_are_those_of_the_volume(self, qemu_nvme: _sma.Client, spdk: FakeSpdk) -> None:
        volume = spdk.add_bdev("st1n1")
        handle = create(qemu_nvme, volume, 0)
        keep = 2**64 - 1
        limit = {"rd_iops": 0, "wr_iops": 0, "rw_iops": keep, "rd_bandwidth": 7, "wr_bandwidth": keep}
        qemu_nvme.call("SetQos", {"device_handle": handle, "maximum": {**limit, "rw_bandwidth": keep}})
        assert spdk.limits == {"name": volume, "r_mbytes_per_sec": 7}


class TestVfiouser:
    def test_create_plugs_a_subsystem(
        self, vfiouser: _sma.Client, spdk: FakeSpdk, qemu: FakeQemu, tmp_path: Path
    ) -> None:
        volume = spdk.add_bdev("st1n1")
        assert create(vfiouser, volume, 1) == "nvme:sma-1"
        subsystem = spdk.subsystems[NQN + "sma-1"]
        assert (subsystem["serial_number"], spdk.transports) == ("st1n1", ["VFIOUSER"])
        identity = {"uuid": volume, "nguid": volume.replace("-", "")}
        assert subsystem["namespaces"] == [{"nsid": 1, "bdev_name": "st1n1", **identity}]
        assert qemu.devices["sma-1"] == {
            "driver": "vfio-user-pci",
            "id": "sma-1",
            "socket": {"type": "unix", "path": str(tmp_path / "sma-1.vfiouser" / "cntrl")},
            "bus": "pci.ipdk.0",
            "addr": "0x1",
        }

    def test_volumes_come_and_go(self, vfiouser: _sma.Client, spdk: FakeSpdk, tmp_path: Path) -> None:
        handle = create(vfiouser, None, 0)
        assert spdk.subsystems[NQN + "sma-0"]["serial_number"] == "sma-0"
        volumes = [spdk.add_bdev(f"st1n{number}") for number in range(1, 33)]
        for volume in volumes:
            attach(vfiouser, handle, volume)
            attach(vfiouser, handle, volume)
        assert [each["uuid"] for each in spdk.subsystems[NQN + "sma-0"]["namespaces"]] == volumes
        with pytest.raises(_sma.NotNow, match="Device has attached volumes"):
            delete(vfiouser, handle)
        for volume in volumes:
            detach(vfiouser, handle, volume)
            detach(vfiouser, handle, volume)
        delete(vfiouser, handle)
        assert spdk.subsystems == {}
        assert not (tmp_path / "sma-0.vfiouser").exists()

    def test_a_device_with_volumes_stays_whatever_sma_remembers(
        self, vfiouser_sma: Any, vfiouser: _sma.Client, spdk: FakeSpdk
    ) -> None:
        volume = spdk.add_bdev("st1n1")
        handle = create(vfiouser, volume, 0)
        vfiouser_sma.stop()
        vfiouser_sma.start(wait=False)
        vfiouser.close()
        _wait(vfiouser)
        with pytest.raises(_sma.NotNow, match=f"it has volumes still attached \\({volume}\\); detach them first"):
            delete(vfiouser, handle)

    def test_a_volume_is_in_one_device(self, vfiouser: _sma.Client, spdk: FakeSpdk) -> None:
        first, second = spdk.add_bdev("st1n1"), spdk.add_bdev("st1n2")
        create(vfiouser, first, 0)
        with pytest.raises(_sma.AlreadyExists, match=f"the volume {first} already is in the device sma-0"):
            create(vfiouser, first, 1)
        with pytest.raises(_sma.AlreadyExists, match="sma-0 is there with another volume, st1n1, not st1n2"):
            create(vfiouser, second, 0)
        handle = create(vfiouser, second, 1)
        with pytest.raises(_sma.SmaError, match=f"the volume {first} already is in the device sma-0|attached"):
            attach(vfiouser, handle, first)

    def test_an_old_qemu_is_named_and_nothing_stays(
        self, vfiouser: _sma.Client, spdk: FakeSpdk, qemu: FakeQemu, tmp_path: Path
    ) -> None:
        qemu.version = (7, 2)
        with pytest.raises(_sma.NotNow, match=r"vfio-user needs QEMU 10\.1 or newer, and the guest's is 7\.2"):
            create(vfiouser, spdk.add_bdev("st1n1"), 0)
        assert spdk.subsystems == {}
        assert not (tmp_path / "sma-0.vfiouser").exists()

    def test_a_device_is_plugged_anew_after_its_spdk(
        self, vfiouser: _sma.Client, spdk: FakeSpdk, qemu: FakeQemu
    ) -> None:
        volume = spdk.add_bdev("st1n1")
        create(vfiouser, volume, 0)
        spdk.subsystems.clear()
        qemu.commands.clear()
        create(vfiouser, volume, 0)
        assert qemu.commands == ["qmp_capabilities", "qom-list", "device_del", "device_add"]

    def test_no_unplug_where_qemu_would_end_itself(
        self, make_sma: Callable[..., Any], spdk: FakeSpdk, qemu: FakeQemu
    ) -> None:
        qemu.version = (11, 1)
        for client in started(make_sma(spdk.path, qemu.port, manager="ipdk_vfiouser")):
            handle = create(client, None, 0)
            with pytest.raises(_sma.NotNow, match=r"QEMU 11\.1 would end itself when this device is unplugged"):
                delete(client, handle)
            assert "device_del" not in qemu.commands
            qemu.devices.clear()  # the guest was started anew
            delete(client, handle)
            assert spdk.subsystems == {}


@pytest.mark.parametrize(
    ("manager", "params", "complaint"),
    [
        ("ipdk_vfiouser", {"hot_unplug": "maybe"}, "hot_unplug has to be true or false, not 'maybe'"),
        ("ipdk_vfiouser", {"qmp_port": "x"}, "qmp_port has to be a TCP port, not 'x'"),
        ("ipdk_qemu_nvme", {"hot_unplug": True}, "ipdk_qemu_nvme: unknown parameters hot_unplug"),
    ],
)
def test_parameters_that_cannot_be_right(
    make_sma: Callable[..., Any], spdk: FakeSpdk, manager: str, params: dict[str, Any], complaint: str
) -> None:
    sma = make_sma(spdk.path, **{"qmp_port": 5555, **params}, manager=manager)
    process: subprocess.Popen[bytes] = sma.start(wait=False)
    assert process.wait(20) != 0
    assert complaint in sma.log.read_text()
