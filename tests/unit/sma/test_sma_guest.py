# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The real SMA between an SPDK and a Linux guest that really takes and releases the disks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils import _sma_devices
from guests import Guest
from support.ports import free_port
from support.spdk import Spdk


def test_disks_come_and_go(make_sma: Any, tmp_path: Path, tmp_path_factory: Any) -> None:
    monitor = tmp_path / "qmp.sock"  # as in a lab
    arguments = ("-qmp", f"unix:{monitor},server=on,wait=off")
    with Spdk(tmp_path) as ipu, Guest(tmp_path_factory.mktemp("guest"), arguments=arguments) as guest:
        sma = make_sma(ipu.rpc_socket, free_port(), monitor=monitor)
        sma.start()
        volumes = []
        for number in range(6):
            ipu.call("bdev_malloc_create", name=f"st1n{number}", num_blocks=2048, block_size=512)
            volumes.append(ipu.call("bdev_get_bdevs", name=f"st1n{number}")[0]["uuid"])

        def device(*devices: dict[str, Any]) -> list[dict[str, Any]]:
            params = {"address": sma.address, "rpc_socket": str(ipu.rpc_socket), "rpc_timeout": 10.0, "timeout": 60.0}
            result = _sma_devices.converge({**params, "max_devices": 64, "wait": 0.0, "devices": list(devices)}, False)
            assert not result.get("failed"), result
            return result["devices"]

        # On both bridges, in the first slot and the last.
        slots = (0, 1, 31, 32, 40, 63)
        plugged = device(*({"volume": volume, "physical_id": slot} for volume, slot in zip(volumes, slots)))
        serials = {entry["serial"] for entry in plugged}
        disks = guest.wait_disks(lambda disks: serials <= disks.keys())
        assert len(disks) == 6

        data = guest.sh(f"dd if=/dev/urandom bs=64k count=1 | tee /dev/{disks['st1n4'].name} | sha256sum; sync")
        device({"physical_id": 40, "state": "absent"})
        assert "st1n4" not in guest.disks()  # released when the module returns, not some time later
        device({"volume": volumes[4]})
        disks = guest.wait_disks(lambda disks: "st1n4" in disks)
        again = guest.sh(f"dd if=/dev/{disks['st1n4'].name} bs=64k count=1 iflag=direct | sha256sum")
        assert again.split()[-2] in data

        device(*({"volume": volume, "state": "absent"} for volume in volumes))
        assert guest.disks() == {}
        assert ipu.call("vhost_get_controllers") == []
