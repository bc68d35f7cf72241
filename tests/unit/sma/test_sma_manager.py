# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SPDK's SMA with our device manager, between a fake SPDK and a fake QEMU."""

from __future__ import annotations

import signal
import socket
import stat
import subprocess
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.module_utils import _sma
from sma_fakes import FakeQemu, FakeSpdk


def create(client: _sma.Client, volume: str, physical_id: int, virtual_id: int = 0) -> str:
    request = {
        "volume": {"volume_id": uuid.UUID(volume).bytes},
        "virtio_blk": {"physical_id": physical_id, "virtual_id": virtual_id},
    }
    return client.call("CreateDevice", request).handle


def delete(client: _sma.Client, handle: str) -> None:
    client.call("DeleteDevice", {"handle": handle})


def test_create_plugs_a_reconnecting_disk(client: _sma.Client, spdk: FakeSpdk, qemu: FakeQemu) -> None:
    assert create(client, spdk.add_bdev("st1n1"), 33) == "virtio_blk:sma-33"
    assert spdk.controllers == {"sma-33": "st1n1"}
    assert qemu.devices["sma-33"] == {
        "driver": "vhost-user-blk-pci",
        "id": "sma-33",
        "chardev": "sma-33",
        "bus": "pci.ipdk.1",
        "addr": "0x1",
        # QEMU does not come back to an SPDK that offers less than before, and this is what it may lose.
        "discard": False,
    }
    data = qemu.characters["sma-33"]["data"]
    assert data["reconnect"] == 1
    assert data["addr"]["data"]["path"].endswith("/sma-33")


def test_newer_qemu_gets_the_option_that_it_knows(client: _sma.Client, spdk: FakeSpdk, qemu: FakeQemu) -> None:
    qemu.version = (9, 2)
    create(client, spdk.add_bdev("st1n1"), 0)
    data = qemu.characters["sma-0"]["data"]
    assert data["reconnect-ms"] == 1000
    assert "reconnect" not in data


def test_create_again_answers_the_same_and_changes_nothing(client: _sma.Client, spdk: FakeSpdk, qemu: FakeQemu) -> None:
    volume = spdk.add_bdev("st1n1")
    first = create(client, volume, 0)
    spdk.calls.clear()
    qemu.commands.clear()
    assert create(client, volume, 0) == first
    assert "vhost_create_blk_controller" not in spdk.calls
    assert qemu.commands == ["qmp_capabilities", "qom-list", "query-chardev"]


def test_delete_and_delete_again(client: _sma.Client, spdk: FakeSpdk, qemu: FakeQemu) -> None:
    handle = create(client, spdk.add_bdev("st1n1"), 0)
    delete(client, handle)
    assert (spdk.controllers, qemu.devices, qemu.characters) == ({}, {}, {})
    delete(client, handle)
    delete(client, "virtio_blk:sma-63")


def test_create_after_delete_takes_another_volume(client: _sma.Client, spdk: FakeSpdk) -> None:
    delete(client, create(client, spdk.add_bdev("st1n1"), 0))
    assert create(client, spdk.add_bdev("st1n2"), 0) == "virtio_blk:sma-0"
    assert spdk.controllers == {"sma-0": "st1n2"}


def test_taken_physical_id_and_taken_volume(client: _sma.Client, spdk: FakeSpdk, qemu: FakeQemu) -> None:
    volume = spdk.add_bdev("st1n1")
    create(client, volume, 0)
    with pytest.raises(_sma.AlreadyExists, match="sma-0 is there with another volume, the bdev st1n1, not st1n2"):
        create(client, spdk.add_bdev("st1n2"), 0)
    with pytest.raises(_sma.AlreadyExists, match="already is the device sma-0"):
        create(client, volume, 1)
    assert spdk.controllers == {"sma-0": "st1n1"}
    assert list(qemu.devices) == ["sma-0"]


def test_requests_that_can_never_succeed(client: _sma.Client, spdk: FakeSpdk, qemu: FakeQemu) -> None:
    volume = spdk.add_bdev("st1n1")
    with pytest.raises(_sma.InvalidRequest, match="physical_id 64 is out of range: the guest has 64 slots"):
        create(client, volume, 64)
    with pytest.raises(_sma.InvalidRequest, match="virtual_id 1"):
        create(client, volume, 0, virtual_id=1)
    with pytest.raises(_sma.InvalidRequest, match="needs a volume"):
        client.call("CreateDevice", {"virtio_blk": {"physical_id": 0}})
    with pytest.raises(_sma.NotFound, match="Volume could not be found"):
        create(client, str(uuid.uuid4()), 0)
    for handle in ("virtio_blk:sma-0/../x", "virtio_blk", "nvme:sma-0"):
        with pytest.raises(_sma.NotFound, match="Invalid device handle"):
            delete(client, handle)
    assert spdk.controllers == {}
    assert qemu.commands == []


def test_refused_plug_leaves_nothing_behind(client: _sma.Client, spdk: FakeSpdk, qemu: FakeQemu) -> None:
    qemu.refuse_device_add = "Bus 'pci.ipdk.0' not found"
    with pytest.raises(_sma.NotNow, match="sma-0: cannot plug it: Bus 'pci.ipdk.0' not found"):
        create(client, spdk.add_bdev("st1n1"), 0)
    assert (spdk.controllers, qemu.devices, qemu.characters) == ({}, {}, {})


def test_without_qemu_nothing_is_left_behind(client: _sma.Client, spdk: FakeSpdk, qemu: FakeQemu) -> None:
    qemu.close()
    with pytest.raises(_sma.Unreachable, match=f"no QEMU listens on 127.0.0.1:{qemu.port}"):
        create(client, spdk.add_bdev("st1n1"), 0)
    assert spdk.controllers == {}


def test_monitor_held_by_another_client(client: _sma.Client, spdk: FakeSpdk, qemu: FakeQemu) -> None:
    qemu.close()
    busy = socket.create_server(("127.0.0.1", qemu.port))  # accepts, as a busy monitor does, and never greets
    with busy, pytest.raises(_sma.Unreachable, match="does another client hold its monitor"):
        create(client, spdk.add_bdev("st1n1"), 0)
    assert spdk.controllers == {}


def test_leftovers_of_a_dead_qemu_can_be_deleted(client: _sma.Client, spdk: FakeSpdk, qemu: FakeQemu) -> None:
    handle = create(client, spdk.add_bdev("st1n1"), 0)
    qemu.close()
    with pytest.raises(_sma.Unreachable, match="sma-0: cannot unplug it: no QEMU listens"):
        delete(client, handle)  # somebody still is connected to the controller
    assert spdk.controllers == {"sma-0": "st1n1"}
    spdk.connected.clear()
    delete(client, handle)
    assert spdk.controllers == {}


def test_guest_that_does_not_release_the_disk(client: _sma.Client, spdk: FakeSpdk, qemu: FakeQemu) -> None:
    volume = spdk.add_bdev("st1n1")
    handle = create(client, volume, 0)
    qemu.guest = "ignore"
    for _attempt in range(2):  # QEMU refuses the second device_del, because the first one is pending
        with pytest.raises(_sma.GuestTooSlow, match="sma-0: the guest has not released it within 0.5 s"):
            delete(client, handle)
        assert spdk.controllers == {"sma-0": "st1n1"}
        assert "sma-0" in qemu.devices
    with pytest.raises(_sma.NotNow, match="delete it again first"):
        create(client, volume, 0)
    qemu.release("sma-0")
    delete(client, handle)
    assert (spdk.controllers, qemu.characters) == ({}, {})
    assert create(client, volume, 0) == handle
    assert "sma-0" in qemu.devices


def test_guest_that_releases_the_disk_late(client: _sma.Client, spdk: FakeSpdk, qemu: FakeQemu) -> None:
    handle = create(client, spdk.add_bdev("st1n1"), 0)
    qemu.guest = "ignore"  # and no event at all: what counts is that the device is gone
    releasing = threading.Thread(target=_when, args=(lambda: "sma-0" in qemu.leaving, lambda: qemu.release("sma-0")))
    releasing.start()
    delete(client, handle)
    releasing.join()
    assert (spdk.controllers, qemu.devices, qemu.characters) == ({}, {}, {})


def _when(condition: Any, action: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    action()


def test_guest_that_refuses(client: _sma.Client, spdk: FakeSpdk, qemu: FakeQemu) -> None:
    handle = create(client, spdk.add_bdev("st1n1"), 0)
    qemu.guest = "refuse"
    with pytest.raises(_sma.NotNow, match="the guest refuses to release it"):
        delete(client, handle)
    assert spdk.controllers == {"sma-0": "st1n1"}


def test_vanished_halves_are_made_whole(client: _sma.Client, spdk: FakeSpdk, qemu: FakeQemu) -> None:
    volume = spdk.add_bdev("st1n1")
    handle = create(client, volume, 0)
    spdk.controllers.clear()  # SPDK started anew, QEMU kept the device
    assert create(client, volume, 0) == handle
    assert spdk.controllers == {"sma-0": "st1n1"}
    qemu.release("sma-0")  # the device went, the character device stayed
    qemu.characters["sma-0"]["data"]["addr"]["data"]["path"] = "/elsewhere/sma-0"
    assert create(client, volume, 0) == handle
    assert "sma-0" in qemu.devices
    assert not qemu.characters["sma-0"]["data"]["addr"]["data"]["path"].startswith("/elsewhere")
    spdk.controllers.clear()
    delete(client, handle)
    assert (qemu.devices, qemu.characters) == ({}, {})


def test_controller_without_its_bdev(client: _sma.Client, spdk: FakeSpdk) -> None:
    volume = spdk.add_bdev("st1n1")
    handle = create(client, volume, 0)
    spdk.controllers["sma-0"] = None
    with pytest.raises(_sma.NotNow, match="lost its bdev; delete the device first"):
        create(client, volume, 0)
    delete(client, handle)
    assert spdk.controllers == {}


def test_restart_of_sma_makes_no_second_device(make_sma: Any, spdk: FakeSpdk, qemu: FakeQemu) -> None:
    volume = spdk.add_bdev("st1n1")
    sma = make_sma(spdk.path, qemu.port)
    sma.start()
    with _sma.Client(sma.address, timeout=20) as client:
        handle = create(client, volume, 0)
    sma.stop(signal.SIGKILL)
    assert sma.socket.exists()
    sma.start()  # over the stale socket
    with _sma.Client(sma.address, timeout=20) as client:
        assert create(client, volume, 0) == handle
        assert list(qemu.devices) == ["sma-0"]
        delete(client, handle)
    assert spdk.controllers == {}
    assert "removed the stale socket" in sma.log.read_text()


def test_second_sma_does_not_steal_the_socket(sma: Any, client: _sma.Client) -> None:
    second = subprocess.run(
        sma.command(), env=sma.environment(), capture_output=True, text=True, check=False, timeout=20
    )
    assert second.returncode == 1
    assert "another server listens" in second.stderr
    assert client.qos_capabilities()["device"]


def test_socket_is_for_its_user_only(sma: Any) -> None:
    assert stat.S_IMODE(sma.socket.stat().st_mode) & 0o077 == 0


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("- 1", "has to be a mapping"),
        ("address: unix:/x/sma.sock", "lacks port, socket, devices"),
        ("a: [", "is no YAML"),
        (None, "cannot read the configuration"),
    ],
)
def test_configuration_that_cannot_be(
    sma_python: Path, sma_environment: dict[str, str], tmp_path: Path, text: str | None, pattern: str
) -> None:
    path = tmp_path / "sma.yaml"
    if text is not None:
        path.write_text(text)
    command = [str(sma_python), "-m", "ipdk_sma", "--config", str(path)]
    ended = subprocess.run(command, env=sma_environment, capture_output=True, text=True, check=False, timeout=20)
    assert ended.returncode == 1
    assert pattern in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("params", "pattern"),
    [
        ({"reconnect": 0.5}, "reconnect has to be whole seconds"),
        ({"discard": "unmap"}, "discard has to be true or false, not 'unmap'"),
        ({"unplug_timeout": "soon"}, "unplug_timeout has to be a number of at least 0.1"),
        ({"qmp_prot": 1}, "unknown parameters qmp_prot"),
        ({"qmp_port": None}, "qmp_port has to be a TCP port"),
        ({"buses": [{"name": "a"}, {"name": "a"}]}, "Duplicate PCI bridge names"),
    ],
)
def test_parameters_that_cannot_be(
    make_sma: Any, spdk: FakeSpdk, tmp_path: Path, params: dict[str, Any], pattern: str
) -> None:
    server = make_sma(spdk.path, **{"qmp_port": 1, **params})
    assert server.start(wait=False).wait(timeout=20) == 1
    assert pattern in server.log.read_text()


def test_keys_are_not_in_the_log(sma: Any, client: _sma.Client, spdk: FakeSpdk) -> None:
    request = {
        "volume": {
            "volume_id": uuid.UUID(spdk.add_bdev("st1n1")).bytes,
            "crypto": {"key": b"0123456789abcdef", "cipher": "AES_XTS", "key2": b"fedcba9876543210"},
        },
        "virtio_blk": {"physical_id": 0},
    }
    with pytest.raises(_sma.Error):  # no crypto engine is configured
        client.call("CreateDevice", request)
    log = sma.log.read_text()
    assert "0123456789abcdef" not in log
    assert "fedcba9876543210" not in log


def test_qos_capabilities(client: _sma.Client) -> None:
    limits = ["rw_iops", "rd_bandwidth", "wr_bandwidth", "rw_bandwidth"]
    assert client.qos_capabilities() == {"device": limits, "volume": limits}
