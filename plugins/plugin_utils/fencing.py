# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fencing: what keeps the old host of a disk that moves from writing to it, at the storage target, which alone can.

The disk's namespace leaves the subsystem of the old IPU: SPDK waits for its I/O and refuses what comes later. Other
disks of the old host are not disturbed. When no disk is left there, the IPU's host NQN leaves the allowed hosts, too.

A shared volume has a subsystem of its own, which admits the IPUs of the hosts that have it attached: what keeps a host
from writing is that its IPU is admitted no more.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.ipdk.storage.plugins.plugin_utils.declaration import declared_hosts, declared_nsids
from ansible_collections.ipdk.storage.plugins.plugin_utils.observed import Sides
from ansible_collections.ipdk.storage.plugins.plugin_utils.steps import Step
from ansible_collections.ipdk.storage.plugins.plugin_utils.virtual_disk import (
    Disk,
    controller_of,
    shared_volume,
    subsystem_nqn,
)


def fence(disk: Disk, nqn: str, nsid: int) -> Step:
    """Take the disk away from the hosts of a subsystem."""
    return Step(
        "release",
        disk.target,
        "fence",
        "namespace",
        f"{disk.name} ({nsid})",
        disk.owner,
        nqn,
        {"bdev": disk.bdev, "nsid": nsid, "state": "absent"},
        subsystem={"nqn": nqn},
        needs=disk.sharers,
    )


def sever(sides: Sides) -> list[Step]:
    """Disconnect each IPU that was shut out while it did not answer, before anything else.

    Its SPDK still holds the writes that were on their way and tries to connect for ever. It must not get them to the
    disk when that comes back one day: disconnected, they fail. The IPU is planned for as it is then.
    """
    steps = []
    for target in sides.targets:
        for ipu, there in sides.ipus.items():
            nqns = {path["trid"]["subnqn"] for each in there.controllers.values() for path in each["ctrlrs"]}
            for nqn in sorted(nqns):
                controller = controller_of(nqn, target, ipu)
                if controller is None or not _connected(there.controllers.get(controller), nqn):
                    continue
                if not sides.admits(target, nqn, ipu) and _is_meant(target, nqn, ipu, sides):
                    there.forget(controller)
                    arguments = {"name": controller, "state": "absent"}
                    steps.append(Step("sever", ipu, "sever", "controller", controller, None, nqn, arguments))
    return steps


def _is_meant(target: str, nqn: str, ipu: str, sides: Sides) -> bool:
    """Has the target shut this IPU out? One that lost what it had, and promises it or has lost that too, goes on where
    it was."""
    subsystem, kept = sides.targets[target].subsystems.get(nqn), sides.kept.get(target)
    if not kept:
        return False
    if shared_volume(nqn, target) is not None:
        # The subsystem may have gone meanwhile.
        return sides.nodes["ipus"][ipu]["host_nqn"] not in declared_hosts(kept, nqn)
    return subsystem is not None and not subsystem.get("namespaces") and not declared_nsids(kept, nqn)


def shut_out(steps: list[Step], sides: Sides) -> list[Step]:
    """For each subsystem that the last disk leaves by these steps: its IPU disconnects and is admitted no more."""
    more: list[Step] = []
    for target, state in sides.targets.items():
        for ipu in sides.nodes["ipus"]:
            nqn = subsystem_nqn(target, ipu)
            here = [step for step in steps if step.node == target and (step.subsystem or {}).get("nqn") == nqn]
            leaving = [step for step in here if step.stage == "release"]
            disks = tuple(disk for step in leaving for disk in ((step.disk,) if step.disk else step.needs))
            staying = {namespace["nsid"] for namespace in state.subsystems.get(nqn, {}).get("namespaces", [])}
            # What the target lost and still promises comes back to this IPU.
            staying |= declared_nsids(sides.kept.get(target), nqn).keys()
            staying -= {step.arguments.get("nsid") for step in leaving}
            moved = any(step.action == "fence" for step in leaving)
            if moved and not staying and len(here) == len(leaving):
                more += turn_away(target, nqn, ipu, disks, sides)
    return more


def turn_away(target: str, nqn: str, ipu: str, disks: tuple[str, ...], sides: Sides) -> list[Step]:
    """An IPU disconnects from a subsystem and is admitted no more, once these disks have come off."""
    steps = _disconnect(target, nqn, ipu, disks, sides)
    host = sides.nodes["ipus"][ipu]["host_nqn"]
    if any(there["nqn"] == host for there in sides.targets[target].subsystems.get(nqn, {}).get("hosts", [])):
        subsystem = {"nqn": nqn, "hosts": [{"nqn": host, "state": "absent"}]}
        steps.append(Step("release", target, "shut out", "host", ipu, None, nqn, {}, subsystem=subsystem, needs=disks))
    return steps


def dissolve(target: str, nqn: str, detail: str, disks: tuple[str, ...], sides: Sides) -> list[Step]:
    """A subsystem goes with all that is in it, once these disks have come off."""
    steps = [step for ipu in sides.ipus for step in _disconnect(target, nqn, ipu, disks, sides)]
    subsystem = {"nqn": nqn, "state": "absent"}
    return [
        *steps,
        Step("release", target, "remove", "subsystem", nqn, None, detail, {}, subsystem=subsystem, needs=disks),
    ]


def _disconnect(target: str, nqn: str, ipu: str, disks: tuple[str, ...], sides: Sides) -> list[Step]:
    controller = controller_of(nqn, target, ipu) or ""
    if ipu not in sides.ipus or not _connected(sides.ipus[ipu].controllers.get(controller), nqn):
        return []
    arguments = {"name": controller, "state": "absent"}
    return [Step("disconnect", ipu, "disconnect", "controller", controller, None, nqn, arguments, needs=disks)]


def _connected(controller: dict[str, Any] | None, nqn: str) -> bool:
    return controller is not None and any(path["trid"]["subnqn"] == nqn for path in controller["ctrlrs"])
