# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The planner: a list of virtual disks and the state of three sides in, ordered steps out.

Everything here is a pure function of plain data (what JSON can carry). Nothing talks to a node, nothing knows Ansible.

``disks``, ``nodes`` and ``options`` are those of ``validate.py``, ``observed`` that of ``observed.py``; more options
are ``force`` (default false: no disk in use is unplugged) and ``purge`` (``detach``: virtual disks of ours that are not
in the list are unplugged).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._qos import shown_all
from ansible_collections.ipdk.storage.plugins.module_utils._sma_devices import handle_of
from ansible_collections.ipdk.storage.plugins.plugin_utils import (
    capacity,
    declaration,
    encryption,
    fencing,
    items,
    leftovers,
    limits,
    paths,
    sharing,
    volumes,
)
from ansible_collections.ipdk.storage.plugins.plugin_utils.observed import Sides, disk_uses
from ansible_collections.ipdk.storage.plugins.plugin_utils.report import plan_text
from ansible_collections.ipdk.storage.plugins.plugin_utils.slots import Nsids, free_slot, slot_wish
from ansible_collections.ipdk.storage.plugins.plugin_utils.steps import (
    ORDER,
    Refused,
    Step,
    fences,
    module_arguments,
    stages,
)
from ansible_collections.ipdk.storage.plugins.plugin_utils.validate import validate
from ansible_collections.ipdk.storage.plugins.plugin_utils.virtual_disk import (
    Disk,
    bdev_name,
    encrypted_name,
    shared_volume,
    subsystem_nqn,
)


class _Planner:
    def __init__(self, disks: list[Disk], sides: Sides, force: bool) -> None:
        self.disks = disks
        self.sides = sides
        self.nodes = sides.nodes
        self.force = force
        self.nsids = Nsids(sides)
        self.steps: list[Step] = []
        self.results: dict[str, dict[str, Any]] = {}
        self.problems: list[dict[str, Any]] = []

    def run(self) -> None:
        self.steps += fencing.sever(self.sides)
        for ipu in self.sides.ipus:
            self.steps += leftovers.remove_orphans(ipu, self.disks, self.sides)
            self.steps += leftovers.remove_fenced(ipu, self.sides, self.force)
        for disk in self.disks:
            self.results[disk.id] = _untouched(disk)
        # What frees a slot is planned before what wants one, and who names or has a slot before who takes any.
        ordered = sorted(
            self.disks, key=lambda disk: (disk.state == "attached") * (1 + (slot_wish(disk, self.sides) is None))
        )
        for disks in self._units(ordered):
            planned = len(self.steps)
            try:
                for disk in disks:
                    self._plan_disk(disk)
            except Refused as refused:
                # A disk is planned as a whole or not at all.
                del self.steps[planned:]
                for disk in disks:
                    self._leave_alone(disk, refused)
        for disk in self.disks:
            self._turn_away_others(disk)
        self.steps += fencing.shut_out(self.steps, self.sides)
        listed = {disk.id: index for index, disk in enumerate(self.disks)}
        self.steps.sort(
            key=lambda step: (
                ORDER.index(step.stage),
                listed.get(step.disk or "", len(listed) if step.needs else -1),
            )
        )

    @staticmethod
    def _units(disks: list[Disk]) -> list[list[Disk]]:
        """What is planned as a whole: a disk, or all items of a shared volume that is to be destroyed."""
        units: dict[str, list[Disk]] = {}
        for disk in disks:
            together = disk.shared and disk.state == "absent"
            units.setdefault(disk.name if together else disk.id, []).append(disk)
        return list(units.values())

    def _leave_alone(self, disk: Disk, refused: Refused) -> None:
        self.problems.append({"node": refused.node, "disk": disk.id, "message": f"{disk.id}: {refused}"})
        self.results[disk.id].update(action="none", converged=False, reason=str(refused))

    def _add(
        self,
        stage: str,
        node: str,
        action: str,
        kind: str,
        name: str,
        disk: Disk | None,
        detail: str,
        arguments: dict[str, Any],
        **more: Any,
    ) -> None:
        owner = disk.id if disk is not None else None
        self.steps.append(Step(stage, node, action, kind, name, owner, detail, arguments, **more))

    def _planned(self, stage: str, node: str, name: str) -> bool:
        return any(step.stage == stage and step.node == node and step.name == name for step in self.steps)

    def _plan_disk(self, disk: Disk) -> None:
        result = self.results[disk.id]
        for kind, node, known in (
            ("storage target", disk.target, self.sides.targets),
            ("IPU", disk.ipu, self.sides.ipus),
        ):
            if node == disk.ipu and node not in known and disk.shared and disk.state == "detached":
                self._shut_out(disk, result)
                return
            if node not in known:
                raise Refused(
                    node, f"the state of the {kind} {node} is unknown (no answer); nothing is changed for this disk."
                )
        if self.sides.may_look(disk.host) and disk.host not in self.sides.hosts:
            raise Refused(
                disk.host,
                f"the state of the host {disk.host} is unknown (no answer); nothing is changed for this disk. "
                "If nobody may log in there, set ipdk_host_access: none.",
            )
        volume = volumes.find(disk, self.sides)
        places = self.sides.targets[disk.target].places(volume["name"]) if volume else []
        result["volume"] = volume is not None
        here = next((nsid for nqn, nsid in places if nqn == disk.nqn), None)
        if here is not None:
            result.update(nsid=here, serial=_serial(disk, here))
        first = len(self.steps)
        if disk.state == "attached":
            self._attach(disk, result, volume, places)
        else:
            self._remove(disk, result, volume, places)
        # Paths and their ANA states are their subsystem's: nothing becomes of the disk itself.
        actions = {step.action for step in self.steps[first:] + self._growing(disk)} - {"open", "add paths to"}
        if actions:
            inplace = next((action for action in ("limit", "grow") if actions <= {action, "limit"}), "attach")
            result["action"] = {"attached": inplace, "detached": "detach", "absent": "destroy"}[disk.state]

    # attached

    def _attach(
        self, disk: Disk, result: dict[str, Any], volume: dict[str, Any] | None, places: list[tuple[str, int]]
    ) -> None:
        if not self.sides.targets[disk.target].has_tcp:
            raise Refused(
                disk.target,
                f"{disk.target} has no NVMe/TCP transport; deploy the storage target first (playbook deploy).",
            )
        sharing.check(disk, places, self.sides)
        self._check_paths(disk)
        if self._planned("release", disk.target, disk.nqn):
            # It is made anew.
            places = [place for place in places if place[0] != disk.nqn]
            result.update(nsid=None, serial=None)
        for nqn, nsid in places:
            if nqn != disk.nqn:
                self._take_back(disk, nqn, nsid)
        if not places and not disk.shared:
            self._take_off_others(disk)
        elif result["nsid"] is None:
            self._check_stale(disk, places)
        if not self._of_volume(disk):
            self.steps += volumes.provide(disk, volume, self.sides, self.steps)
        result["volume"] = True
        there = result["serial"] is not None
        if not there:
            nsid = self.nsids.free(disk)
            result.update(nsid=nsid, serial=_serial(disk, nsid))
            self._expose(disk, nsid)
        if (there or disk.shared) and not self._admitted(disk):
            self._open(disk)
        self._connect(disk)
        self._plug(disk, result)
        self._grown(disk, result)

    def _of_volume(self, disk: Disk) -> list[Step]:
        """The steps so far that make its volume, or make it grow: a shared one has several items."""
        return [
            step
            for step in self.steps
            if step.stage in ("bdevs", "lvols") and step.node == disk.target and step.name in (disk.bdev, disk.filename)
        ]

    def _expose(self, disk: Disk, nsid: int) -> None:
        name = f"{disk.name} ({nsid})"
        if self._planned("subsystems", disk.target, name) and disk.shared:
            return
        arguments = {**items.namespace(disk, nsid), "state": "present"}
        subsystem = items.subsystem(disk, self.nodes)
        self.steps.append(
            Step(
                "subsystems",
                disk.target,
                "add",
                "namespace",
                name,
                disk.owner,
                disk.nqn,
                arguments,
                subsystem=subsystem,
            )
        )

    def _open(self, disk: Disk) -> None:
        """Let the IPU in, at all addresses."""
        subsystem = items.subsystem(disk, self.nodes)
        name, owner = disk.nqn, None
        if disk.shared:
            subsystem["hosts"] = [self.nodes["ipus"][disk.ipu]["host_nqn"]]
            name, owner = f"{disk.name} to {disk.ipu}", disk
        elif self._planned("subsystems", disk.target, name):
            return
        self._add(
            "subsystems", disk.target, "open", "subsystem", name, owner, f"to {disk.ipu}", {}, subsystem=subsystem
        )

    def _check_paths(self, disk: Disk) -> None:
        """A subsystem that was made for one path cannot get several: one without a disk is made anew, others stay."""
        target = self.sides.targets[disk.target]
        if disk.nqn not in target.subsystems or not self.nodes["targets"][disk.target].get("paths"):
            return
        if not all("anagrpid" in each for each in target.subsystems[disk.nqn]["namespaces"]):
            if disk.shared and not sharing.ipus(disk.target, disk.name, self.sides):
                self._dissolve(disk, disk.nqn, "to be made anew, for several paths")
                return
            if disk.shared:
                raise Refused(
                    disk.target,
                    f"{disk.nqn} was made for one path: it reports no ANA states, and SPDK cannot change that. Detach "
                    "the disk from all of its hosts, and attach it again; it is made anew then.",
                )
            raise Refused(
                disk.target,
                f"{disk.nqn} was made for one path: it reports no ANA states, and SPDK cannot change that. Move its "
                "disks away or make them absent, and run again; it is made anew when it is empty.",
            )
        if target.reports_no_ana(disk.nqn) and not self._planned("release", disk.target, disk.nqn):
            if disk.controller in self.sides.ipus[disk.ipu].controllers:
                arguments = {"name": disk.controller, "state": "absent"}
                self._add(
                    "disconnect", disk.ipu, "disconnect", "controller", disk.controller, None, disk.nqn, arguments
                )
            detail, subsystem = "to be made anew, for several paths", {"nqn": disk.nqn, "state": "absent"}
            self._add("release", disk.target, "remove", "subsystem", disk.nqn, None, detail, {}, subsystem=subsystem)

    def _dissolve(self, disk: Disk, nqn: str, detail: str) -> None:
        """The subsystem of a shared volume, which no host has attached then, goes."""
        if not self._planned("release", disk.target, nqn):
            ids = disk.sharers or (disk.id,)
            self.steps += fencing.dissolve(disk.target, nqn, detail, ids, self.sides)

    def _check_stale(self, disk: Disk, places: list[tuple[str, int]]) -> None:
        """A disk that comes back must not meet writes that its IPU still holds from before it went."""
        # What it has is not stale: it is there now, or the target has lost it and it comes back.
        has = self.sides.bdevs(disk.ipu, disk.target, places or [(disk.nqn, 1)])
        stale = [
            name
            for name, bdev in self.sides.ipus[disk.ipu].bdevs.items()
            if bdev["uuid"] == disk.uuid and name not in has
        ]
        if stale:
            raise Refused(
                disk.ipu,
                f"{disk.ipu} still has the bdev {stale[0]} from when the disk was its own, and maybe writes for it. "
                f"Run again when it has noticed that the disk is gone, or detach its controller {disk.controller}.",
            )

    def _take_off_others(self, disk: Disk) -> None:
        """A storage target that was started anew has no namespace that would tell; the old IPU knows its volume."""
        for ipu, state in self.sides.ipus.items():
            bdevs = [name for name, bdev in state.bdevs.items() if ipu != disk.ipu and bdev["uuid"] == disk.uuid]
            for bdev in bdevs:
                slot = state.physical_id(bdev)
                if slot is not None:
                    self._unplug(disk, ipu, slot)
                self.steps += encryption.take(ipu, bdev, disk, self.sides)

    def _take_back(self, disk: Disk, nqn: str, nsid: int) -> None:
        """The volume is another IPU's namespace (the item names another host now): unplug it there, and fence it. Or
        it is to be shared now, or was; then nobody has it attached."""
        if shared_volume(nqn, disk.target) == disk.name:
            others = sharing.ipus(disk.target, disk.name, self.sides)
            if others and not self.force:
                raise Refused(
                    others[0],
                    f"it was shared by the IPU {others[0]}, whose state is unknown; nothing is changed for this disk. "
                    f"Set virtual_disks_force: true to take it away all the same: {disk.target} then refuses what "
                    f"{others[0]} still writes to it.",
                )
            self._dissolve(disk, nqn, "it is not shared any more")
            return
        if self._planned("release", disk.target, f"{disk.name} ({nsid})"):
            return
        old = next((ipu for ipu in self.nodes["ipus"] if subsystem_nqn(disk.target, ipu) == nqn), None)
        if old is None:
            raise Refused(
                disk.target,
                f"its volume is namespace {nsid} of {nqn}, which is none of this inventory; remove it there.",
            )
        if old in self.sides.ipus:
            bdev = bdev_name(disk.target, nsid)
            slot = self.sides.ipus[old].physical_id(bdev)
            if slot is not None:
                self._unplug(disk, old, slot)
            self.steps += encryption.take(old, bdev, disk, self.sides)
        elif not self.force:
            raise Refused(
                old,
                f"its volume still belongs to the IPU {old}, whose state is unknown; nothing is changed for this disk. "
                f"Set virtual_disks_force: true to move it all the same: {disk.target} then refuses what {old} still "
                "writes to it.",
            )
        self.steps.append(fencing.fence(disk, nqn, nsid))

    def _admitted(self, disk: Disk) -> bool:
        """Is the subsystem, which exists, open to this IPU at the declared addresses, with their ANA states?"""
        target = self.sides.targets[disk.target]
        if disk.nqn not in target.subsystems or self._planned("release", disk.target, disk.nqn):
            return False
        wanted = items.subsystem(disk, self.nodes)
        ways = target.ways(disk.nqn)
        return all(
            (path["traddr"], path["trsvcid"]) in ways
            and path.get("ana_state") in (None, ways[path["traddr"], path["trsvcid"]])
            for path in wanted["listeners"]
        ) and any(
            host["nqn"] == self.nodes["ipus"][disk.ipu]["host_nqn"] for host in target.subsystems[disk.nqn]["hosts"]
        )

    def _connect(self, disk: Disk) -> None:
        wanted = [(path["traddr"], path["trsvcid"]) for path in paths.listeners(self.nodes["targets"][disk.target])]
        there = self.sides.ipus[disk.ipu].controllers.get(disk.controller)
        if there is None or self._planned("disconnect", disk.ipu, disk.controller):
            if not self._planned("controllers", disk.ipu, disk.controller):
                self._add(
                    "controllers",
                    disk.ipu,
                    "connect",
                    "controller",
                    disk.controller,
                    None,
                    disk.nqn,
                    {**items.controller(disk, self.nodes), "state": "present"},
                )
            return
        trids = [path["trid"] for path in there["ctrlrs"]]
        connected = [(trid["traddr"], str(trid["trsvcid"])) for trid in trids if trid["subnqn"] == disk.nqn]
        if len(connected) < len(trids) or not set(wanted) & set(connected):
            seen = ", ".join(f"{trid['subnqn']} at {trid['traddr']}:{trid['trsvcid']}" for trid in trids)
            raise Refused(
                disk.ipu,
                f"{disk.ipu} has an NVMe controller {disk.controller} connected to {seen or 'nothing'}, where "
                f"{disk.nqn} at {wanted[0][0]}:{wanted[0][1]} was wanted. Detach its disks, then that controller, and "
                "run again.",
            )
        missing = [f"{address}:{port}" for address, port in wanted if (address, port) not in connected]
        if missing and not self._planned("controllers", disk.ipu, disk.controller):
            self._add(
                "controllers",
                disk.ipu,
                "add paths to",
                "controller",
                disk.controller,
                None,
                ", ".join(missing),
                {**items.controller(disk, self.nodes), "state": "present"},
            )

    def _plug(self, disk: Disk, result: dict[str, Any]) -> None:
        bdev, serial = bdev_name(disk.controller, result["nsid"]), result["serial"]
        looked_at = self.sides.may_look(disk.host)
        slot = self.sides.ipus[disk.ipu].physical_id(bdev)
        if slot is not None:
            encryption.check(disk, bdev, slot, self.sides)
        ipu = self.sides.ipus[disk.ipu]
        if slot is not None and (disk.physical_id not in (None, slot) or disk.interface != ipu.interfaces[slot]):
            self._unplug(disk, disk.ipu, slot)
            slot = None
        self.steps += encryption.give(disk, bdev, self.sides)
        arguments: dict[str, Any] = {} if disk.interface == "virtio-blk" else {"interface": disk.interface}
        if slot is None:
            slot = free_slot(disk, serial, self.sides, self.steps)
            detail = serial
        elif slot in self.sides.ipus[disk.ipu].unplugged or (looked_at and serial not in self.sides.hosts[disk.host]):
            detail = f"{serial}: {disk.ipu} has the device, but {disk.host} does not"
            arguments |= {"replug": True} if arguments else {}
        else:
            detail = ""
        if detail:
            self._add(
                "attach",
                disk.ipu,
                "attach",
                "device",
                f"{disk.name} (sma-{slot})",
                disk,
                detail,
                {"physical_id": slot, "volume": disk.served_uuid, "state": "present", **arguments},
                host=disk.host if looked_at else None,
                serial=serial,
            )
        result.update(physical_id=slot, handle=handle_of(slot, disk.interface))
        self.steps += limits.change(disk, serial, slot, self.sides)
        result["qos"] = shown_all({**limits.current(disk, serial, self.sides), **disk.qos})

    def _grown(self, disk: Disk, result: dict[str, Any]) -> None:
        """Somebody looks whether a disk that grows does so on its host; one that is attached in this run comes so."""
        if self.sides.may_look(disk.host):
            for step in self._growing(disk):
                if step.host is None:
                    step.host, step.serial = disk.host, result["serial"]
                else:
                    step.others[disk.host] = result["serial"]

    def _growing(self, disk: Disk) -> list[Step]:
        """What makes the volume grow under the disk; nothing where it is attached in this run."""
        if disk.state != "attached" or any(step.stage == "attach" and step.disk == disk.id for step in self.steps):
            return []
        return [step for step in self._of_volume(disk) if step.action == "grow"]

    # detached, absent

    def _remove(
        self, disk: Disk, result: dict[str, Any], volume: dict[str, Any] | None, places: list[tuple[str, int]]
    ) -> None:
        if not disk.shared:
            sharing.check(disk, places, self.sides)
        # The other hosts of a shared volume have items of their own.
        ipus = {disk.ipu: self.sides.ipus[disk.ipu]} if disk.shared else self.sides.ipus
        for ipu, state in ipus.items():
            serials = sharing.bdevs(disk, ipu, places, self.sides)
            for slot, behind in sorted(state.devices.items()):
                if behind in serials:
                    self._unplug(disk, ipu, slot)
            self._refuse_lost(ipu, serials)
            for bdev in sorted(serials):
                self.steps += encryption.take(ipu, bdev, disk, self.sides)
        if disk.state == "detached":
            if disk.shared:
                self.steps += fencing.turn_away(disk.target, disk.nqn, disk.ipu, (disk.id,), self.sides)
            return
        sharing.refuse_others(disk, self.disks, places, self.sides)
        for nqn, nsid in places:
            if shared_volume(nqn, disk.target) == disk.name:
                self._dissolve(disk, nqn, "its volume goes")
                continue
            if nqn not in {subsystem_nqn(disk.target, ipu) for ipu in self.sides.ipus}:
                raise Refused(
                    disk.target,
                    f"its volume is namespace {nsid} of {nqn}, and the state of that IPU is unknown; it is left alone.",
                )
            self._release(disk, nqn, nsid)
        if not self._of_volume(disk):
            self.steps += volumes.destroy(disk, volume, self.sides)
        result.update(volume=False, nsid=None, serial=None)

    def _shut_out(self, disk: Disk, result: dict[str, Any]) -> None:
        """A host that loses a shared disk, and whose IPU does not answer: the storage target refuses what it writes."""
        if disk.target not in self.sides.targets or not self.force:
            raise Refused(
                disk.ipu,
                f"the state of the IPU {disk.ipu} is unknown (no answer); nothing is changed for this disk. Set "
                f"virtual_disks_force: true to shut it out all the same: {disk.target} then refuses what {disk.ipu} "
                "still writes to it.",
            )
        result["volume"] = volumes.find(disk, self.sides) is not None
        steps = fencing.turn_away(disk.target, disk.nqn, disk.ipu, (disk.id,), self.sides)
        self.steps += steps
        result["action"] = "detach" if steps else "none"

    def _turn_away_others(self, disk: Disk) -> None:
        """An IPU is admitted to a shared volume as long as its host is to have it, or has it."""
        if not disk.shared or disk.state == "absent" or disk.target not in self.sides.targets:
            return
        mine = {other.ipu for other in self.disks if (other.target, other.name) == (disk.target, disk.name)}
        for ipu in self.sides.ipus:
            if ipu not in mine and ipu not in sharing.ipus(disk.target, disk.name, self.sides):
                for step in fencing.turn_away(disk.target, disk.nqn, ipu, (), self.sides):
                    if not self._planned(step.stage, step.node, step.name):
                        self.steps.append(step)

    def _refuse_lost(self, ipu: str, bdevs: set[str]) -> None:
        """A host that shows a disk whose device its IPU has lost waits for it, and would take what comes next there."""
        host, served = self.sides.ipu_host.get(ipu, ""), self.sides.ipus[ipu].served.values()
        names = {*bdevs, *map(encrypted_name, bdevs)}
        lost = sorted(names & set(self.sides.hosts.get(host, {})) - set(served))
        if lost:
            raise Refused(
                ipu,
                f"{host} shows it ({lost[0]}), but {ipu} has lost its device, so that it cannot be unplugged. Run "
                f"again when {ipu} has it back.",
            )

    def _unplug(self, disk: Disk, ipu: str, slot: int) -> None:
        host, serial = self.sides.ipu_host.get(ipu), self.sides.ipus[ipu].served[slot] or ""
        volume = self.sides.ipus[ipu].bdevs.get(serial, {}).get("uuid", disk.uuid)
        looked_at = host is not None and self.sides.may_look(host)
        if not self.force:
            if not looked_at:
                raise Refused(
                    ipu,
                    f"it is attached through {ipu}, and nobody may look whether {host or 'its host'} uses it "
                    "(ipdk_host_access: none). Set virtual_disks_force: true to unplug it all the same.",
                )
            if host not in self.sides.hosts:
                raise Refused(
                    host,
                    f"it is attached to {host}, whose state is unknown, so it may be in use there; it is left alone. "
                    "Set virtual_disks_force: true to unplug it all the same.",
                )
            uses = disk_uses(self.sides.hosts[host].get(serial, {}))
            if uses:
                raise Refused(
                    host,
                    f"it is in use on {host} ({', '.join(uses)}) and is not unplugged. Release it there, or set "
                    "virtual_disks_force: true.",
                )
        arguments: dict[str, Any] = {"physical_id": slot, "volume": volume, "state": "absent"}
        if self.sides.ipus[ipu].interfaces[slot] == "nvme" and self.nodes["ipus"][ipu].get("nvme_stays"):
            arguments = {"physical_id": slot, "interface": "nvme", "volumes": [], "state": "present"}
        self._add(
            "unplug",
            ipu,
            "unplug",
            "device",
            f"{disk.name} (sma-{slot})",
            disk,
            serial,
            arguments,
            host=host if looked_at and serial in self.sides.hosts.get(host, {}) else None,
            serial=serial,
        )

    def _release(self, disk: Disk, nqn: str, nsid: int) -> None:
        name = f"{disk.name} ({nsid})"
        if disk.shared and self._planned("release", disk.target, name):
            return
        self.steps.append(
            Step(
                "release",
                disk.target,
                "remove",
                "namespace",
                name,
                disk.owner,
                nqn,
                {"bdev": disk.bdev, "nsid": nsid, "state": "absent"},
                subsystem={"nqn": nqn},
                needs=disk.sharers,
            )
        )


def _untouched(disk: Disk) -> dict[str, Any]:
    """The result of a disk for which nothing is done."""
    return {
        "id": disk.id,
        "name": disk.name,
        "state": disk.state,
        "size": disk.size,
        "target": disk.target,
        "ipu": disk.ipu,
        "host": disk.host,
        "shared": disk.shared,
        "bdev": disk.bdev,
        "uuid": disk.uuid,
        "nqn": disk.nqn,
        "nsid": None,
        "serial": None,
        "physical_id": None,
        "handle": None,
        "volume": None,
        "qos": None,
        "action": "none",
        "converged": True,
        "reason": None,
    }


def _serial(disk: Disk, nsid: int) -> str:
    """What the host sees: the name of the bdev that the device has."""
    bdev = bdev_name(disk.controller, nsid)
    return encrypted_name(bdev) if disk.encrypted else bdev


def plan(
    disks: Any, nodes: dict[str, Any], observed: dict[str, Any], options: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What has to be done so that the disks are what the list says. Raises InvalidDisks.

    Returns a dictionary with

    - ``steps``: in order, each with ``stage``, ``node``, ``action``, ``kind``, ``name``, ``disk``, ``detail``, and what
      its module is told (``arguments``, ``subsystem``) and where it shows (``host``, ``serial``)
    - ``nodes``: for each node with steps, the arguments of the modules that take them (see ``steps.module_arguments``)
    - ``stages``: what of ``steps.ORDER`` is needed
    - ``disks``: in the list's order, each with its names on all sides, ``action``, ``converged`` and ``reason``; ``id``
      is what steps and problems call it: its name, or ``name@host`` of one that is ``shared``
    - ``unmanaged``: ``{node, kind, name}`` of what is ours and not in the list
    - ``unlisted``: ``{name, target, host, size, backing, state, action}`` of the virtual disks among that;
      ``action`` is ``detach`` where the option ``purge`` says so
    - ``warnings``: sentences about lvol stores that promise more than they can hold
    - ``problems``: ``{node, disk, message}`` of the disks that are left alone
    - ``summary``: how many disks are to ``attach``, ``grow``, ``limit``, ``detach``, ``destroy``, are ``unchanged`` or
      ``not_converged``
    - ``kept``: by node, the declarations that were found; ``remember``: what changes in them (see ``declaration.py``)
    - ``declarations``: by node, those that differ from what is there
    - ``fences``: the storage targets that are to shut a host out
    - ``stuck``: the disks that nothing more is done for; none yet (see ``steps.after_unplug``)
    - ``text``: all of that for a human, a list of lines
    """
    options = options or {}
    valid = validate(disks, nodes, options)
    sides = Sides(nodes, observed)
    planner = _Planner(valid, sides, bool(options.get("force", False)))
    unlisted = leftovers.unlisted(valid, sides)
    ids = [disk.id for disk in (*valid, *unlisted)]
    purged = [
        replace(disk, state="detached")
        for disk in unlisted
        # A plan tells disks apart by their ids: one that has another's is reported only.
        if disk.state == "attached" and disk.host and ids.count(disk.id) == 1
    ]
    purged = purged if options.get("purge") == "detach" else []
    planner.disks = valid = [*valid, *purged]
    planner.run()
    results = [planner.results[disk.id] for disk in valid]
    summary = {
        **{
            action: sum(result["action"] == action for result in results)
            for action in ("attach", "grow", "limit", "detach", "destroy")
        },
        "unchanged": sum(result["action"] == "none" and result["converged"] for result in results),
        "not_converged": sum(not result["converged"] for result in results),
    }
    unmanaged = leftovers.unmanaged(valid, sides, planner.steps)
    warnings = capacity.warnings(sides, planner.steps)
    steps = [dict(vars(step)) for step in planner.steps]
    listed = [disk.id for disk in valid]
    remember = declaration.edits(valid, planner.results, steps, sides.kept, nodes)
    declarations = declaration.changed(sides.kept, remember)
    told, fenced = module_arguments(steps), fences(steps)
    problems = sorted(planner.problems, key=lambda problem: listed.index(problem["disk"]))
    return {
        "steps": steps,
        "nodes": told,
        "stages": stages(told, bool(declarations), bool(fenced)),
        "disks": results,
        "unmanaged": unmanaged,
        "unlisted": [
            {
                **{key: getattr(disk, key) for key in ("name", "target", "host", "size", "backing", "state")},
                "action": "detach" if disk.id in {other.id for other in purged} else "none",
            }
            for disk in unlisted
        ],
        "warnings": warnings,
        "problems": problems,
        "summary": summary,
        "kept": sides.kept,
        "remember": remember,
        "declarations": declarations,
        "fences": fenced,
        "stuck": [],
        "text": plan_text(planner.steps, summary, problems, unmanaged, sorted(declarations), warnings),
    }
