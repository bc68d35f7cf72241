# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fencing: what keeps the old host of a disk that moves from writing to it, at the storage target, which alone can.

The disk's namespace leaves the subsystem of the old IPU: SPDK waits for its I/O and refuses what comes later. Other
disks of the old host are not disturbed. When no disk is left there, the IPU's host NQN leaves the allowed hosts, too.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.ipdk.storage.plugins.plugin_utils.declaration import declared_nsids
from ansible_collections.ipdk.storage.plugins.plugin_utils.observed import Sides
from ansible_collections.ipdk.storage.plugins.plugin_utils.steps import Step
from ansible_collections.ipdk.storage.plugins.plugin_utils.virtual_disk import Disk, subsystem_nqn


def fence(disk: Disk, nqn: str, nsid: int) -> Step:
    """Take the disk away from the hosts of a subsystem."""
    return Step(
        "release",
        disk.target,
        "fence",
        "namespace",
        f"{disk.name} ({nsid})",
        disk.name,
        nqn,
        {"bdev": disk.bdev, "nsid": nsid, "state": "absent"},
        subsystem={"nqn": nqn},
    )


def sever(sides: Sides) -> list[Step]:
    """Disconnect each IPU that was shut out while it did not answer, before anything else.

    Its SPDK still holds the writes that were on their way and tries to connect for ever. It must not get them to the
    disk when that comes back one day: disconnected, they fail. The IPU is planned for as it is then.
    """
    steps = []
    for target, state in sides.targets.items():
        for ipu, there in sides.ipus.items():
            nqn = subsystem_nqn(target, ipu)
            subsystem = state.subsystems.get(nqn)
            kept = sides.kept.get(target)
            # A target that lost its namespaces, and promises them or has lost that too, goes on where it was.
            if subsystem is None or subsystem.get("namespaces") or not kept or declared_nsids(kept, nqn):
                continue
            known = sides.nodes["ipus"][ipu]["host_nqn"]
            admitted = subsystem.get("allow_any_host") or any(host["nqn"] == known for host in subsystem["hosts"])
            if not admitted and _connected(there.controllers.get(target), nqn):
                there.forget(target)
                arguments = {"name": target, "state": "absent"}
                steps.append(Step("sever", ipu, "sever", "controller", target, None, nqn, arguments))
    return steps


def shut_out(steps: list[Step], sides: Sides) -> list[Step]:
    """For each subsystem that the last disk leaves by these steps: its IPU disconnects and is admitted no more."""
    more = []
    for target, state in sides.targets.items():
        for ipu, declared in sides.nodes["ipus"].items():
            nqn = subsystem_nqn(target, ipu)
            here = [step for step in steps if step.node == target and (step.subsystem or {}).get("nqn") == nqn]
            leaving = [step for step in here if step.stage == "release"]
            disks = tuple(step.disk for step in leaving if step.disk)
            subsystem = state.subsystems.get(nqn, {})
            staying = {namespace["nsid"] for namespace in subsystem.get("namespaces", [])}
            # What the target lost and still promises comes back to this IPU.
            staying |= declared_nsids(sides.kept.get(target), nqn).keys()
            staying -= {step.arguments.get("nsid") for step in leaving}
            moved = any(step.action == "fence" for step in leaving)
            if not moved or staying or len(here) > len(leaving):
                continue
            if ipu in sides.ipus and _connected(sides.ipus[ipu].controllers.get(target), nqn):
                arguments = {"name": target, "state": "absent"}
                more.append(
                    Step("disconnect", ipu, "disconnect", "controller", target, None, nqn, arguments, needs=disks)
                )
            if any(host["nqn"] == declared["host_nqn"] for host in subsystem.get("hosts", [])):
                hosts = [{"nqn": declared["host_nqn"], "state": "absent"}]
                more.append(
                    Step(
                        "release",
                        target,
                        "shut out",
                        "host",
                        ipu,
                        None,
                        nqn,
                        {},
                        subsystem={"nqn": nqn, "hosts": hosts},
                        needs=disks,
                    )
                )
    return more


def _connected(controller: dict[str, Any] | None, nqn: str) -> bool:
    return controller is not None and any(path["trid"]["subnqn"] == nqn for path in controller["ctrlrs"])
