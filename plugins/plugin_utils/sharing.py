# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Shared volumes: which hosts have one, and what is refused while they do.

A shared volume is in a subsystem of its own, and has another name on its IPUs than a disk of one host. Whether it is
shared changes while no host has it attached.
"""

from __future__ import annotations

from ansible_collections.ipdk.storage.plugins.plugin_utils.observed import Sides
from ansible_collections.ipdk.storage.plugins.plugin_utils.steps import Refused
from ansible_collections.ipdk.storage.plugins.plugin_utils.virtual_disk import (
    Disk,
    bdev_name,
    shared_controller,
    shared_nqn,
)

Places = list[tuple[str, int]]
"""Where a volume is a namespace: pairs of NQN and NSID."""


def ipus(target: str, name: str, sides: Sides) -> list[str]:
    """The IPUs whose hosts have a shared volume, or may have it: those that are admitted and do not answer."""
    bdev = bdev_name(shared_controller(target, name), 1)
    return [
        ipu
        for ipu in sides.nodes["ipus"]
        if (
            sides.ipus[ipu].physical_id(bdev) is not None
            if ipu in sides.ipus
            else sides.admits(target, shared_nqn(target, name), ipu)
        )
    ]


def bdevs(disk: Disk, ipu: str, places: Places, sides: Sides) -> set[str]:
    """What an IPU calls the disk's volume, or called it when the target had it. A shared one keeps its name."""
    known = {bdev["name"] for bdev in sides.ipus[ipu].bdevs.values() if bdev["uuid"] == disk.uuid}
    return known | sides.bdevs(ipu, disk.target, [*places, (disk.nqn, 1)] if disk.shared else places)


def check(disk: Disk, places: Places, sides: Sides) -> None:
    """Refuse a disk that is attached as shared, and is not to be, or the other way round."""
    shared = {bdev_name(shared_controller(disk.target, disk.name), 1)}
    for ipu, state in sides.ipus.items():
        names = bdevs(disk, ipu, places, sides)
        attached = [
            bdev
            for bdev in sorted(names - shared if disk.shared else names & shared)
            if state.physical_id(bdev) is not None
        ]
        if attached:
            there, wanted = ("a disk of one host", "shared") if disk.shared else ("shared", "a disk of one host")
            raise Refused(
                ipu,
                f"it is attached to {sides.ipu_host.get(ipu, ipu)} ({attached[0]}) as {there}, and is wanted "
                f"as {wanted}. Detach it from all of its hosts first, with an item for each of them (shared: true, "
                "state: detached), and run again.",
            )


def refuse_others(disk: Disk, disks: list[Disk], places: Places, sides: Sides) -> None:
    """A volume is not destroyed under a host that has no item for it, or whose IPU does not say whether it has it."""
    mine = {other.ipu for other in disks if other.id in disk.sharers}
    others = {*ipus(disk.target, disk.name, sides)}
    if disk.shared:
        # Of a disk of one host, the one that has it now needs no item.
        others |= {
            ipu
            for ipu, state in sides.ipus.items()
            if any(state.physical_id(bdev) is not None for bdev in bdevs(disk, ipu, places, sides))
        }
    for ipu in sorted(others - mine):
        host = sides.ipu_host.get(ipu, ipu)
        raise Refused(
            ipu,
            f"{host} has its volume, too, or may have it, and there is no item for {host}; it is not destroyed. "
            "Add one.",
        )
