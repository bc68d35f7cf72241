# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SPDK's SMA with our device manager, between a fake SPDK and a fake QEMU."""

from __future__ import annotations

import uuid

from ansible_collections.ipdk.storage.plugins.module_utils import _sma
from fakes import FakeQemu, FakeSpdk


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
    }
    data = qemu.characters["sma-33"]["data"]
    assert data["reconnect"] == 1
    assert data["addr"]["data"]["path"].endswith("/sma-33")


def test_qos_capabilities(client: _sma.Client) -> None:
    limits = ["rw_iops", "rd_bandwidth", "wr_bandwidth", "rw_bandwidth"]
    assert client.qos_capabilities() == {"device": limits, "volume": limits}
