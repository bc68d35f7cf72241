# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is there and not in the list: virtual disks of ours, volumes and devices, and devices that nobody wants back."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._bdevs import aio_file
from ansible_collections.ipdk.storage.plugins.plugin_utils import encryption, sharing
from ansible_collections.ipdk.storage.plugins.plugin_utils.declaration import declared_hosts, declared_nsids
from ansible_collections.ipdk.storage.plugins.plugin_utils.observed import Sides, disk_uses
from ansible_collections.ipdk.storage.plugins.plugin_utils.steps import Step
from ansible_collections.ipdk.storage.plugins.plugin_utils.virtual_disk import (
    BACKINGS,
    Disk,
    bdev_name,
    controller_of,
    is_shared,
    shared_nqn,
    subsystem_nqn,
)


def unlisted(disks: list[Disk], sides: Sides) -> list[Disk]:
    """The virtual disks of ours that exist and are not in the list, in the state that they are in; a shared volume once
    for each host that has it and is not in the list with it."""
    listed = {(disk.target, disk.name, disk.ipu if disk.shared else "") for disk in disks}
    names = {(target, name) for target, name, _ipu in listed}
    ipus = {subsystem_nqn(target, ipu): ipu for target in sides.targets for ipu in sides.nodes["ipus"]}
    found = []
    for target, volumes in sides.volumes.items():
        state = sides.targets[target]
        by_name = {bdev["name"]: (called, bdev) for called, bdev in state.bdevs.items()}
        for name, volume in volumes.items():
            if (target, volume, "") in listed:
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
            mine = []
            for nqn, nsid in state.places(name):
                disk.shared = nqn == shared_nqn(target, volume)
                for ipu in sharing.ipus(target, volume, sides) if disk.shared else [ipus[nqn]] if nqn in ipus else []:
                    if (target, volume, ipu) not in listed:
                        mine.append(_on_ipu(disk, ipu, nsid, sides))
            found += mine or ([] if (target, volume) in names else [disk])
    return found


def _on_ipu(disk: Disk, ipu: str, nsid: int, sides: Sides) -> Disk:
    """The disk as an IPU has it."""
    its = replace(disk, ipu=ipu, host=sides.ipu_host.get(ipu, ""))
    state = sides.ipus.get(ipu)
    slot = state.physical_id(bdev_name(its.controller, nsid)) if state is not None else None
    return its if slot is None else replace(its, physical_id=slot, interface=state.interfaces[slot], state="attached")


def unmanaged(disks: list[Disk], sides: Sides, steps: list[Step]) -> list[dict[str, Any]]:
    """Volumes and devices that are ours by their names but not in the list. They are left alone."""
    listed = {(disk.target, disk.name) for disk in disks}
    leaving = {(step.node, step.arguments["physical_id"]) for step in steps if step.stage == "unplug"}
    others = [
        {"node": target, "kind": "volume", "name": name}
        for target, volumes in sides.volumes.items()
        for name in volumes.values()
        if (target, name) not in listed
    ]
    for ipu, state in sides.ipus.items():
        names = sides.volume_names(ipu)
        wanted = _of_ipu(disks, ipu)
        here = {(disk.target, disk.name) for disk in wanted if not disk.shared}
        uuids = {disk.uuid for disk in wanted}
        shared = {bdev_name(disk.controller, 1) for disk in wanted if disk.shared}
        for slot, behind in sorted(state.devices.items()):
            target = next((target for target in sides.targets if (behind or "").startswith(f"{target}n")), None)
            ours = (target, names.get(behind or "")) in here or behind in shared
            ours = ours or state.bdevs.get(behind or "", {}).get("uuid") in uuids
            if not ours and (ipu, slot) not in leaving:
                name = f"sma-{slot} ({names.get(behind or '', behind) or 'its bdev is gone'})"
                others.append({"node": ipu, "kind": "device", "name": name})
    return others


def _of_ipu(disks: list[Disk], ipu: str) -> list[Disk]:
    """The disks of the list that may be on an IPU: a shared volume is there for its own item only."""
    return [disk for disk in disks if not disk.shared or disk.ipu == ipu]


def remove_orphans(ipu: str, disks: list[Disk], sides: Sides) -> list[Step]:
    """Take away the devices that outlived their QEMU and that no disk of the list wants back.

    Only where somebody looked into the host and does not see them, and where all storage targets have answered:
    SPDK sees nobody for a moment, too, when it has been started anew under a running guest.
    """
    state, host = sides.ipus[ipu], sides.ipu_host.get(ipu)
    if host not in sides.hosts or len(sides.targets) < len(sides.nodes["targets"]):
        return []
    mine = _of_ipu(disks, ipu)
    wanted = {bdev for disk in mine for bdev in sides.bdevs(ipu, disk.target, sides.places(disk))}
    uuids = {disk.uuid for disk in mine}
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
        if not slot or not disk or int(slot[1]) in state.unplugged:
            continue
        if state.devices.get(int(slot[1]), "none") is not None:
            continue
        if not _is_fenced(ipu, disk[1], int(disk[2]), sides):
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


def _is_fenced(ipu: str, controller: str, nsid: int, sides: Sides) -> bool:
    """Has the target of an IPU's controller taken this namespace away from it, and does not promise it?"""
    if controller in sides.targets:
        nqn = subsystem_nqn(controller, ipu)
        there = sides.targets[controller].subsystems.get(nqn, {}).get("namespaces", [])
        promised = declared_nsids(sides.kept.get(controller), nqn)
        return nsid not in {*(namespace["nsid"] for namespace in there), *promised}
    if not is_shared(controller) or len(sides.targets) < len(sides.nodes["targets"]):
        return False
    host = sides.nodes["ipus"][ipu]["host_nqn"]
    return all(
        not sides.admits(target, nqn, ipu) and host not in declared_hosts(sides.kept.get(target), nqn)
        for target, state in sides.targets.items()
        for nqn in {*state.subsystems, *(each["nqn"] for each in (sides.kept.get(target) or {}).get("subsystems", []))}
        if controller_of(nqn, target, ipu) == controller
    )
