# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is there: the answers of the three sides, as the planner asks them.

``observed``: by node; a node that is left out, null or ``{}`` is *unknown*, never empty::

    {"st1":   {"bdevs": bdev_get_bdevs, "subsystems": nvmf_get_subsystems, "transports": nvmf_get_transports,
               "lvol_stores": bdev_lvol_get_lvstores (of a target that declares some),
               "listeners": nvmf_subsystem_get_listeners by NQN (of one that declares several paths),
               "files": those of volumes.files_to_go that are there},
     "ipu1":  {"nvme_controllers": bdev_nvme_get_controllers, "bdevs": bdev_get_bdevs,
               "vhost_controllers": vhost_get_controllers, of an IPU that shows NVMe disks "subsystems" or
               "nbd_disks": nbd_get_disks, too},
     "host1": {"disks", "nvme_controllers": what the module host_disk_info returns}}
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils import _lvols, _sma_devices
from ansible_collections.ipdk.storage.plugins.module_utils._crypto import PRODUCT
from ansible_collections.ipdk.storage.plugins.plugin_utils.lvol_stores import Store, parse
from ansible_collections.ipdk.storage.plugins.plugin_utils.virtual_disk import (
    Disk,
    bdev_name,
    controller_of,
    volume_uuid,
)

OF_EVERY_BDEV = (
    "name",
    "aliases",
    "product_name",
    "uuid",
    "block_size",
    "num_blocks",
    "claimed",
    "assigned_rate_limits",
)
OF_ITS_KIND = ("aio", "crypto", "lvol")
"""What is read of ``driver_specific``."""


def brief(answers: dict[str, Any]) -> dict[str, Any]:
    """SPDK's answers without what nobody here reads: most of what it says of a bdev."""
    return {**answers, "bdevs": [_brief(bdev) for bdev in answers["bdevs"]]} if "bdevs" in answers else answers


def _brief(bdev: dict[str, Any]) -> dict[str, Any]:
    specific = {key: value for key, value in (bdev.get("driver_specific") or {}).items() if key in OF_ITS_KIND}
    # Whether a volume may be written is how a read-only one is told.
    types = {"supported_io_types": bdev["supported_io_types"]} if "lvol" in specific else {}
    return {**{key: bdev[key] for key in OF_EVERY_BDEV if key in bdev}, "driver_specific": specific, **types}


@dataclass
class Target:
    """A storage target as observed. ``bdevs`` has a logical volume by its alias, ``store/volume``."""

    bdevs: dict[str, dict[str, Any]]
    subsystems: dict[str, dict[str, Any]]
    has_tcp: bool
    lvol_stores: dict[str, dict[str, Any]]
    """As ``_lvols.describe`` returns them."""
    listeners: dict[str, list[dict[str, Any]]]
    """Of the subsystems that may report ANA."""
    files: set[str]
    """Of disks that are to be absent."""

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
            state.get("listeners") or {},
            set(state.get("files") or []),
        )

    def ways(self, nqn: str) -> dict[tuple[str, str], str | None]:
        """The listeners of a subsystem, address and port → ANA state; null where it is unknown or differs by group."""
        ways: dict[tuple[str, str], str | None] = {
            (address["traddr"], str(address["trsvcid"])): None for address in self.subsystems[nqn]["listen_addresses"]
        }
        for listener in self.listeners.get(nqn, []):
            states = {group["ana_state"] for group in listener.get("ana_states", [])}
            place = (listener["address"]["traddr"], str(listener["address"]["trsvcid"]))
            if len(states) == 1 and place in ways:
                ways[place] = states.pop()
        return ways

    def reports_no_ana(self, nqn: str) -> bool:
        """It is known not to."""
        listeners = self.listeners.get(nqn, [])
        return bool(listeners) and "ana_states" not in listeners[0]

    def admits(self, nqn: str, host_nqn: str) -> bool:
        """Does a subsystem let this host in, by name or with everybody?"""
        subsystem = self.subsystems.get(nqn, {})
        return bool(subsystem.get("allow_any_host")) or any(
            host["nqn"] == host_nqn for host in subsystem.get("hosts", [])
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
    """An IPU as observed. ``devices`` maps physical ids to the name of the NVMe bdev behind (null where it is gone),
    ``served`` to that of the bdev that the device has: the same one, or the one that encrypts it.

    ``unplugged``: the physical ids of those that no QEMU is connected to, because the host was started anew.
    ``encrypted``: NVMe bdevs → the bdevs that encrypt them. ``interfaces``: of the devices. ``empty``: serial numbers
    of NVMe devices without a volume → their physical ids.
    """

    controllers: dict[str, dict[str, Any]]
    devices: dict[int, str | None]
    served: dict[int, str | None]
    unplugged: set[int]
    bdevs: dict[str, dict[str, Any]]
    encrypted: dict[str, str]
    interfaces: dict[int, str]
    empty: dict[str, int]

    @classmethod
    def of(cls, state: dict[str, Any]) -> Ipu:
        bdevs = {bdev["name"]: bdev for bdev in state["bdevs"]}
        bases = {
            name: bdev["driver_specific"]["crypto"]["base_bdev_name"]
            for name, bdev in bdevs.items()
            if bdev["product_name"] == PRODUCT
        }
        found = _sma_devices.state_of(
            state["vhost_controllers"], state["bdevs"], state.get("subsystems") or [], state.get("nbd_disks") or []
        ).devices
        served = {slot: device.bdev for slot, device in found.items()}
        unplugged = {slot for slot, device in found.items() if device.connected is False}
        return cls(
            {controller["name"]: controller for controller in state["nvme_controllers"]},
            {slot: bases.get(bdev or "", bdev) for slot, bdev in served.items()},
            served,
            unplugged,
            bdevs,
            {base: name for name, base in bases.items()},
            {slot: device.interface for slot, device in found.items()},
            {device.serial_number: slot for slot, device in found.items() if device.serial_number and not device.bdev},
        )

    def forget(self, controller: str) -> None:
        """What is seen when it has been disconnected: its bdevs are gone."""
        its = re.compile(re.escape(controller) + "n[0-9]+c?")
        self.controllers.pop(controller, None)
        self.bdevs = {name: bdev for name, bdev in self.bdevs.items() if not its.fullmatch(name)}
        self.encrypted = {base: name for base, name in self.encrypted.items() if not its.fullmatch(base)}
        for behind in (self.devices, self.served):
            behind.update({slot: None for slot, bdev in behind.items() if its.fullmatch(bdev or "")})

    def remembered(self, controller: str) -> dict[int, str]:
        """NSID → UUID of a controller's bdevs."""
        matches = [(re.fullmatch(re.escape(controller) + "n([0-9]+)", name), bdev) for name, bdev in self.bdevs.items()]
        return {int(match[1]): bdev["uuid"] for match, bdev in matches if match}

    def volumes(self, slot: int) -> list[str]:
        """The UUIDs of what a device has."""
        bdev = self.bdevs.get(self.served.get(slot) or "", {})
        return [bdev["uuid"]] if bdev else []

    def physical_id(self, bdev: str) -> int | None:
        return next((physical_id for physical_id, behind in sorted(self.devices.items()) if behind == bdev), None)


class Sides:
    """The three sides as far as they have answered, and what the inventory declares of them (``nodes``).

    ``hosts``: a host's disks by serial; ``controllers``: the serials of its NVMe controllers; ``ipu_host``: the host
    behind an IPU; ``kept``: the declarations that nodes keep; ``stores``: the lvol stores that targets declare;
    ``volumes``: by target, the bdevs that are volumes of ours → the names of their virtual disks.
    """

    def __init__(self, nodes: dict[str, Any], observed: dict[str, Any]) -> None:
        self.nodes = nodes
        self.targets = {name: Target.of(observed[name]) for name in nodes["targets"] if observed.get(name)}
        self.ipus = {name: Ipu.of(observed[name]) for name in nodes["ipus"] if observed.get(name)}
        self.hosts = {
            name: {disk["serial"]: disk for disk in observed[name]["disks"] if disk.get("serial")}
            for name in nodes["hosts"]
            if observed.get(name)
        }
        self.controllers = {
            name: {controller["serial"] for controller in observed[name]["nvme_controllers"]}
            for name in self.hosts
            if "nvme_controllers" in observed[name]
        }
        self.ipu_host = {declared["ipu"]: name for name, declared in nodes["hosts"].items() if declared.get("ipu")}
        self.kept = {
            node: answer["declaration"] for node, answer in observed.items() if answer and "declaration" in answer
        }
        self.stores: dict[str, dict[str, Store]] = {
            name: parse(declared.get("lvol_stores") or [], declared.get("volumes_dir"))[0]
            for name, declared in nodes["targets"].items()
        }
        self.volumes = {target: self._volumes(target) for target in self.targets}

    def _volumes(self, target: str) -> dict[str, str]:
        state = self.targets[target]
        ours = {bdev["name"]: name for name, bdev in state.bdevs.items() if bdev["uuid"] == volume_uuid(name, target)}
        for store in self.stores[target]:
            for volume in state.lvol_stores.get(store, {}).get("lvols", []):
                if not volume["snapshot"]:
                    ours[volume["uuid"]] = volume["name"]
        return ours

    def may_look(self, host: str) -> bool:
        """May somebody log in at this host?"""
        return bool(self.nodes["hosts"][host].get("access", "ssh") == "ssh")

    def places(self, disk: Disk) -> list[tuple[str, int]]:
        """Where the disk's volume is a namespace: pairs of NQN and NSID."""
        state = self.targets[disk.target]
        # A logical volume's bdev has a UUID as its name.
        return state.places(str(state.bdevs.get(disk.bdev, {"name": disk.bdev})["name"]))

    def volume_names(self, ipu: str) -> dict[str, str]:
        """The IPU's bdev names → the names of the volumes behind them: of virtual disks, or just those of bdevs."""
        return {
            bdev_name(controller, namespace["nsid"]): self.volumes[target].get(
                namespace["bdev_name"], namespace["bdev_name"]
            )
            for target, state in self.targets.items()
            for nqn, subsystem in state.subsystems.items()
            for controller in [controller_of(nqn, target, ipu)]
            if controller is not None
            for namespace in subsystem.get("namespaces", [])
        }

    def admits(self, target: str, nqn: str, ipu: str) -> bool:
        """Does a subsystem of a target that answered let an IPU in?"""
        return self.targets[target].admits(nqn, self.nodes["ipus"][ipu]["host_nqn"])

    def bdevs(self, ipu: str, target: str, places: list[tuple[str, int]]) -> set[str]:
        """What an IPU calls the namespaces at these places of a target."""
        found = ((controller_of(nqn, target, ipu), nsid) for nqn, nsid in places)
        return {bdev_name(controller, nsid) for controller, nsid in found if controller is not None}

    def behind(self, ipu: str, slot: int) -> str:
        """What the device in a slot is, in the operator's words."""
        bdev = self.ipus[ipu].devices.get(slot)
        if slot in self.ipus[ipu].empty.values():
            return f"sma-{slot}, an NVMe device without a volume"
        if bdev is None:
            return f"sma-{slot}, whose bdev is gone" if slot in self.ipus[ipu].devices else "another disk of this list"
        return self.volume_names(ipu).get(bdev, f"bdev {bdev}")


def disk_uses(disk: dict[str, Any]) -> list[str]:
    """Why a disk of a host, as host_disk_info returns it, must not be unplugged now; empty if nothing uses it."""
    uses = [f"mounted on {mount}" for mount in disk.get("mounts") or []]
    uses += [f"used as swap ({swap})" for swap in disk.get("swaps") or []]
    uses += [f"held by {holder}" for holder in disk.get("holders") or []]
    if disk.get("open") and not uses:
        uses.append("open in a process")
    return uses
