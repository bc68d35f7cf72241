# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The numbers of a disk: the slot that it has on its IPU, the NSID in its subsystem; those it has, or free ones."""

from __future__ import annotations

from ansible_collections.ipdk.storage.plugins.plugin_utils import declaration
from ansible_collections.ipdk.storage.plugins.plugin_utils.observed import Sides
from ansible_collections.ipdk.storage.plugins.plugin_utils.steps import Refused, Step
from ansible_collections.ipdk.storage.plugins.plugin_utils.virtual_disk import (
    MAX_NAMESPACES,
    Disk,
    bdev_name,
)


def slot_wish(disk: Disk, sides: Sides) -> int | None:
    """The slot that the item names, or the one that the disk has."""
    ipu = sides.ipus.get(disk.ipu)
    if disk.physical_id is not None or disk.target not in sides.targets or ipu is None:
        return disk.physical_id
    slots = [ipu.physical_id(bdev_name(disk.controller, nsid)) for nqn, nsid in sides.places(disk) if nqn == disk.nqn]
    return slots[0] if slots else None


def free_slot(disk: Disk, wanted_serial: str, sides: Sides, steps: list[Step]) -> int:
    """The slot that the item names, or the lowest free one; refused where it is taken, or none is free."""
    slots = range(sides.nodes["ipus"][disk.ipu]["max_disks"])
    devices = sides.ipus[disk.ipu].devices
    freed, claimed = (
        {step.arguments["physical_id"] for step in steps if step.stage == stage and step.node == disk.ipu}
        for stage in ("unplug", "attach")
    )
    # What the IPU has lost and still promises: a guest is connected there, and would get another disk under its feet.
    promised = {
        slot: bdev
        for slot, bdev in declaration.declared_slots(sides.kept.get(disk.ipu)).items()
        if slot not in devices and slot not in freed
    }
    own = [slot for slot, bdev in promised.items() if bdev == wanted_serial and slot in slots and slot not in claimed]
    # A slot that is freed in this very run is the last choice: it is free only if the unplugging succeeds.
    free = own + [slot for slot in slots if slot not in devices and slot not in claimed and slot not in promised]
    free += [slot for slot in slots if slot in freed and slot not in claimed]
    if disk.interface == "nvme":
        # Its own device stayed, without a volume, when it was detached: its serial number is the disk's.
        free = [slot for serial, slot in sides.ipus[disk.ipu].empty.items() if serial == wanted_serial] + free
    if disk.physical_id is None:
        if not free:
            raise Refused(
                disk.ipu, f"all {len(slots)} slots of {disk.ipu} are taken (ipu_max_virtual_disks); detach some disks."
            )
        return free[0]
    if disk.physical_id in promised and disk.physical_id not in own:
        raise Refused(
            disk.ipu,
            f"physical_id {disk.physical_id} of {disk.ipu} is promised to {promised[disk.physical_id]}, which has not "
            "come back yet. Leave physical_id out, choose another, or wait for that one.",
        )
    if disk.physical_id not in free:
        raise Refused(
            disk.ipu,
            f"physical_id {disk.physical_id} of {disk.ipu} is taken by {sides.behind(disk.ipu, disk.physical_id)}. "
            "Leave physical_id out, choose another, or detach that one first.",
        )
    return disk.physical_id


class Nsids:
    """The NSIDs of all subsystems, those given in this run included. One released in this run is not free yet: its
    serial may be seen."""

    def __init__(self, sides: Sides) -> None:
        self._sides = sides
        self._taken = {
            nqn: {namespace["nsid"] for namespace in subsystem.get("namespaces", [])}
            for state in sides.targets.values()
            for nqn, subsystem in state.subsystems.items()
        }

    def free(self, disk: Disk) -> int:
        """The NSID by which the IPU still knows this volume, or else the lowest that nobody has.

        A storage target that was started anew may have lost its namespaces while the IPU waits for them: under their
        old NSIDs its devices go on where they were. A shared volume is alone in its subsystem.
        """
        if disk.shared:
            return 1
        taken = self._taken.setdefault(disk.nqn, set())
        remembered = {
            **self._sides.ipus[disk.ipu].remembered(disk.target),
            **declaration.declared_nsids(self._sides.kept.get(disk.target), disk.nqn),
        }
        used = taken | remembered.keys()
        lowest = next(number for number in range(1, len(used) + 2) if number not in used)
        known = [number for number, uuid in remembered.items() if uuid == disk.uuid and number not in taken]
        nsid = known[0] if known else lowest
        if nsid > MAX_NAMESPACES:
            raise Refused(
                disk.target, f"{disk.nqn} has all of its {MAX_NAMESPACES} namespaces; make some disks absent."
            )
        taken.add(nsid)
        return nsid
