# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is there: the answers of the three sides, as the planner asks them.

``observed``: by node; a node that is left out, null or ``{}`` is *unknown*, never empty::

    {"st1":   {"bdevs": bdev_get_bdevs, "subsystems": nvmf_get_subsystems, "transports": nvmf_get_transports,
               "lvol_stores": bdev_lvol_get_lvstores (of a target that declares some)},
     "ipu1":  {"nvme_controllers": bdev_nvme_get_controllers, "bdevs": bdev_get_bdevs,
               "vhost_controllers": vhost_get_controllers},
     "host1": {"disks": what the module host_disk_info returns}}
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils import _lvols


@dataclass
class Target:
    """A storage target as observed. ``bdevs`` has a logical volume by its alias, ``store/volume``."""

    bdevs: dict[str, dict[str, Any]]
    subsystems: dict[str, dict[str, Any]]
    has_tcp: bool
    lvol_stores: dict[str, dict[str, Any]]
    """As ``_lvols.describe`` returns them."""

    @classmethod
    def of(cls, state: dict[str, Any]) -> Target:
        return cls(
            {_called(bdev): bdev for bdev in state["bdevs"]},
            {subsystem["nqn"]: subsystem for subsystem in state["subsystems"]},
            any(transport["trtype"].upper() == "TCP" for transport in state["transports"]),
            {
                store["name"]: store
                for store in _lvols.describe({"stores": state.get("lvol_stores", []), "bdevs": state["bdevs"]})
            },
        )

    def places(self, bdev: str) -> list[tuple[str, int]]:
        """Where a bdev is a namespace: pairs of NQN and NSID."""
        return [
            (nqn, namespace["nsid"])
            for nqn, subsystem in self.subsystems.items()
            for namespace in subsystem.get("namespaces", [])
            if namespace["bdev_name"] == bdev
        ]


def _called(bdev: dict[str, Any]) -> str:
    return str(bdev["aliases"][0] if bdev["product_name"] == _lvols.PRODUCT else bdev["name"])


@dataclass
class Ipu:
    """An IPU as observed. ``devices`` maps physical ids to the name of the bdev behind (null where it is gone).

    ``unplugged``: the physical ids of those that no QEMU is connected to, because the host was started anew.
    """

    controllers: dict[str, dict[str, Any]]
    devices: dict[int, str | None]
    unplugged: set[int]
    bdevs: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, state: dict[str, Any]) -> Ipu:
        devices: dict[int, str | None] = {}
        unplugged = set()
        for controller in state["vhost_controllers"]:
            match = re.fullmatch(r"sma-([0-9]+)", controller["ctrlr"])
            if match:
                devices[int(match[1])] = controller.get("backend_specific", {}).get("block", {}).get("bdev")
                if not controller.get("sessions"):
                    unplugged.add(int(match[1]))
        return cls(
            {controller["name"]: controller for controller in state["nvme_controllers"]},
            devices,
            unplugged,
            {bdev["name"]: bdev for bdev in state["bdevs"]},
        )

    def remembered(self, controller: str) -> dict[int, str]:
        """NSID → UUID of a controller's bdevs."""
        matches = [(re.fullmatch(re.escape(controller) + "n([0-9]+)", name), bdev) for name, bdev in self.bdevs.items()]
        return {int(match[1]): bdev["uuid"] for match, bdev in matches if match}

    def physical_id(self, bdev: str) -> int | None:
        return next((physical_id for physical_id, behind in sorted(self.devices.items()) if behind == bdev), None)


def disk_uses(disk: dict[str, Any]) -> list[str]:
    """Why a disk of a host, as host_disk_info returns it, must not be unplugged now; empty if nothing uses it."""
    uses = [f"mounted on {mount}" for mount in disk.get("mounts") or []]
    uses += [f"used as swap ({swap})" for swap in disk.get("swaps") or []]
    uses += [f"held by {holder}" for holder in disk.get("holders") or []]
    if disk.get("open") and not uses:
        uses.append("open in a process")
    return uses
