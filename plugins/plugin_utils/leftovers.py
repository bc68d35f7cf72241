# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is there and not in the list: virtual disks of ours, volumes and devices, and devices that nobody wants back."""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._bdevs import aio_file
from ansible_collections.ipdk.storage.plugins.plugin_utils import encryption
from ansible_collections.ipdk.storage.plugins.plugin_utils.declaration import declared_nsids
from ansible_collections.ipdk.storage.plugins.plugin_utils.observed import Sides, disk_uses
from ansible_collections.ipdk.storage.plugins.plugin_utils.steps import Step
from ansible_collections.ipdk.storage.plugins.plugin_utils.virtual_disk import (
    BACKINGS,
    Disk,
    bdev_name,
    subsystem_nqn,
)


def unlisted(disks: list[Disk], sides: Sides) -> list[Disk]:
    """The virtual disks of ours that exist and are not in the list, in the state that they are in."""
    listed = {(disk.target, disk.name) for disk in disks}
    ipus = {subsystem_nqn(target, ipu): ipu for target in sides.targets for ipu in sides.nodes["ipus"]}
    found = []
    for target, volumes in sides.volumes.items():
        state = sides.targets[target]
        by_name = {bdev["name"]: (called, bdev) for called, bdev in state.bdevs.items()}
        for name, volume in volumes.items():
            if (target, volume) in listed:
                continue
            called, bdev = by_name[name]
            lvol = (bdev.get("driver_specific") or {}).get("lvol")
            disk = Disk(
                name=volume,
                size=bdev["block_size"] * bdev["num_blocks"],
                backing=next((key for key, product in BACKINGS.items() if product == bdev["product_name"]), "null"),
                block_size=bdev["block_size"],
                filename=aio_file(bdev),
                target=target,
                ipu="",
                host="",
                physical_id=None,
                state="detached",
                store=called.partition("/")[0] if lvol else None,
                thin=bool(lvol and lvol["thin_provision"]),
            )
            for nqn, nsid in state.places(name):
                if nqn in ipus:
                    disk.ipu = ipus[nqn]
                    disk.host = sides.ipu_host.get(disk.ipu, "")
                    ipu = sides.ipus.get(disk.ipu)
                    shown = ipu.physical_id(bdev_name(target, nsid)) if ipu is not None else None
                    if shown is not None:
                        disk.physical_id = shown
                        disk.interface = ipu.interfaces[shown]
                        disk.state = "attached"
            found.append(disk)
    return found


def unmanaged(disks: list[Disk], sides: Sides, steps: list[Step]) -> list[dict[str, Any]]:
    """Volumes and devices that are ours by their names but not in the list. They are left alone."""
    listed = {(disk.target, disk.name) for disk in disks}
    uuids = {disk.uuid for disk in disks}
    leaving = {(step.node, step.arguments["physical_id"]) for step in steps if step.stage == "unplug"}
    others = [
        {"node": target, "kind": "volume", "name": name}
        for target, volumes in sides.volumes.items()
        for name in volumes.values()
        if (target, name) not in listed
    ]
    for ipu, state in sides.ipus.items():
        names = sides.volume_names(ipu)
        for slot, behind in sorted(state.devices.items()):
            target = next((target for target in sides.targets if (behind or "").startswith(f"{target}n")), None)
            ours = (target, names.get(behind or "")) in listed or state.bdevs.get(behind or "", {}).get("uuid") in uuids
            if not ours and (ipu, slot) not in leaving:
                name = f"sma-{slot} ({names.get(behind or '', behind) or 'its bdev is gone'})"
                others.append({"node": ipu, "kind": "device", "name": name})
    return others


def remove_orphans(ipu: str, disks: list[Disk], sides: Sides) -> list[Step]:
    """Take away the devices that outlived their QEMU and that no disk of the list wants back.

    Only where somebody looked into the host and does not see them, and where all storage targets have answered:
    SPDK sees nobody for a moment, too, when it has been started anew under a running guest.
    """
    state, host = sides.ipus[ipu], sides.ipu_host.get(ipu)
    if host not in sides.hosts or len(sides.targets) < len(sides.nodes["targets"]):
        return []
    wanted = {
        bdev_name(disk.target, nsid)
        for disk in disks
        for nqn, nsid in sides.places(disk)
        if nqn == subsystem_nqn(disk.target, ipu)
    }
    uuids = {disk.uuid for disk in disks}
    wanted |= {name for name, bdev in state.bdevs.items() if bdev["uuid"] in uuids}
    steps = []
    # SPDK does not know whether a guest has an NVMe device. One without a volume is no disk there, but a controller.
    unseen = {slot for slot, interface in state.interfaces.items() if interface == "nvme"}
    unseen -= {slot for serial, slot in state.empty.items() if serial in sides.controllers.get(host, {serial})}
    for slot in sorted(state.unplugged | unseen):
        behind = state.devices[slot]
        if behind is None or (behind not in wanted and state.served[slot] not in sides.hosts[host]):
            name = f"sma-{slot} ({sides.behind(ipu, slot)})"
            detail = f"{behind or 'its bdev is gone'}; no QEMU is connected"
            arguments: dict[str, Any] = {"physical_id": slot, "state": "absent"}
            if slot in unseen:
                arguments.update(interface="nvme", volumes=list(state.volumes(slot)))
            steps.append(Step("unplug", ipu, "remove", "orphan", name, None, detail, arguments))
            steps += encryption.take(ipu, behind or "", None, sides)
    return steps


def remove_fenced(ipu: str, sides: Sides, force: bool) -> list[Step]:
    """Take away the devices whose disks were moved to another host while this IPU did not answer.

    The IPU still declares such a device, its bdev is gone, and the storage target neither has nor promises the
    namespace. Where the host uses what is left of it, it stays.
    """
    state, host = sides.ipus[ipu], sides.ipu_host.get(ipu, "")
    steps = []
    for declared in (sides.kept.get(ipu) or {}).get("vhost_blk", []):
        slot, disk = re.fullmatch(r"sma-([0-9]+)", declared["name"]), re.fullmatch(r"(.+)n([0-9]+)c?", declared["bdev"])
        if not slot or not disk or disk[1] not in sides.targets or int(slot[1]) in state.unplugged:
            continue
        if state.devices.get(int(slot[1]), "none") is not None:
            continue
        nqn = subsystem_nqn(disk[1], ipu)
        there = sides.targets[disk[1]].subsystems.get(nqn, {}).get("namespaces", [])
        if int(disk[2]) in {*(each["nsid"] for each in there), *declared_nsids(sides.kept.get(disk[1]), nqn)}:
            continue
        seen = sides.hosts.get(host, {}).get(declared["bdev"])
        if not force and (host not in sides.hosts or disk_uses(seen or {})):
            continue
        arguments = {"physical_id": int(slot[1]), "state": "absent"}
        name, detail = f"{declared['name']} ({declared['bdev']})", "its disk was moved to another host"
        waits = host if seen is not None else None
        serial = declared["bdev"]
        steps.append(Step("unplug", ipu, "remove", "orphan", name, None, detail, arguments, host=waits, serial=serial))
    return steps
