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

from dataclasses import asdict, replace
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
    volumes,
)
from ansible_collections.ipdk.storage.plugins.plugin_utils.observed import Sides, disk_uses
from ansible_collections.ipdk.storage.plugins.plugin_utils.report import plan_text
from ansible_collections.ipdk.storage.plugins.plugin_utils.slots import Nsids, free_slot, slot_wish
from ansible_collections.ipdk.storage.plugins.plugin_utils.steps import (
    STAGES,
    Refused,
    Step,
    module_arguments,
)
from ansible_collections.ipdk.storage.plugins.plugin_utils.validate import validate
from ansible_collections.ipdk.storage.plugins.plugin_utils.virtual_disk import (
    Disk,
    bdev_name,
    encrypted_name,
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
        # What frees a slot is planned before what wants one, and who names or has a slot before who takes any.
        for disk in sorted(
            self.disks, key=lambda disk: (disk.state == "attached") * (1 + (slot_wish(disk, self.sides) is None))
        ):
            planned = len(self.steps)
            try:
                self._plan_disk(disk)
            except Refused as refused:
                # A disk is planned as a whole or not at all.
                del self.steps[planned:]
                self.problems.append({"node": refused.node, "disk": disk.name, "message": f"{disk.name}: {refused}"})
                self.results[disk.name].update(action="none", converged=False, reason=str(refused))
        self.steps += fencing.shut_out(self.steps, self.sides)
        listed = {disk.name: index for index, disk in enumerate(self.disks)}
        self.steps.sort(
            key=lambda step: (
                STAGES.index(step.stage),
                listed.get(step.disk or "", len(listed) if step.needs else -1),
            )
        )

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
        owner = disk.name if disk is not None else None
        self.steps.append(Step(stage, node, action, kind, name, owner, detail, arguments, **more))

    def _planned(self, stage: str, node: str, name: str) -> bool:
        return any(step.stage == stage and step.node == node and step.name == name for step in self.steps)

    def _plan_disk(self, disk: Disk) -> None:
        result = self.results[disk.name] = {
            "name": disk.name,
            "state": disk.state,
            "size": disk.size,
            "target": disk.target,
            "ipu": disk.ipu,
            "host": disk.host,
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
        for kind, node, known in (
            ("storage target", disk.target, self.sides.targets),
            ("IPU", disk.ipu, self.sides.ipus),
        ):
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
        actions = {step.action for step in self.steps[first:]} - {"open", "add paths to"}
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
        self._check_paths(disk)
        for nqn, nsid in places:
            if nqn != disk.nqn:
                self._take_back(disk, nqn, nsid)
        if not places:
            self._take_off_others(disk)
        elif result["nsid"] is None:
            self._check_stale(disk)
        self.steps += volumes.provide(disk, volume, self.sides, self.steps)
        result["volume"] = True
        if result["serial"] is None:
            nsid = self.nsids.free(disk)
            result.update(nsid=nsid, serial=_serial(disk, nsid))
            self._add(
                "subsystems",
                disk.target,
                "add",
                "namespace",
                f"{disk.name} ({nsid})",
                disk,
                disk.nqn,
                {**items.namespace(disk, nsid), "state": "present"},
                subsystem=items.subsystem(disk, self.nodes),
            )
        elif not self._admitted(disk) and not self._planned("subsystems", disk.target, disk.nqn):
            self._add(
                "subsystems",
                disk.target,
                "open",
                "subsystem",
                disk.nqn,
                None,
                f"to {disk.ipu}",
                {},
                subsystem=items.subsystem(disk, self.nodes),
            )
        self._connect(disk)
        self._plug(disk, result)
        self._grown(disk, result)

    def _check_paths(self, disk: Disk) -> None:
        """A subsystem that was made for one path cannot get several: one without a disk is made anew, others stay."""
        target = self.sides.targets[disk.target]
        if disk.nqn not in target.subsystems or not self.nodes["targets"][disk.target].get("paths"):
            return
        if not all("anagrpid" in each for each in target.subsystems[disk.nqn]["namespaces"]):
            raise Refused(
                disk.target,
                f"{disk.nqn} was made for one path: it reports no ANA states, and SPDK cannot change that. Move its "
                "disks away or make them absent, and run again; it is made anew when it is empty.",
            )
        if target.reports_no_ana(disk.nqn) and not self._planned("release", disk.target, disk.nqn):
            if disk.target in self.sides.ipus[disk.ipu].controllers:
                arguments = {"name": disk.target, "state": "absent"}
                self._add("disconnect", disk.ipu, "disconnect", "controller", disk.target, None, disk.nqn, arguments)
            detail, subsystem = "to be made anew, for several paths", {"nqn": disk.nqn, "state": "absent"}
            self._add("release", disk.target, "remove", "subsystem", disk.nqn, None, detail, {}, subsystem=subsystem)

    def _check_stale(self, disk: Disk) -> None:
        """A disk that comes back must not meet writes that its IPU still holds from before it went."""
        stale = [name for name, bdev in self.sides.ipus[disk.ipu].bdevs.items() if bdev["uuid"] == disk.uuid]
        if stale:
            raise Refused(
                disk.ipu,
                f"{disk.ipu} still has the bdev {stale[0]} from when the disk was its own, and maybe writes for it. "
                f"Run again when it has noticed that the disk is gone, or detach its controller {disk.target}.",
            )

    def _take_off_others(self, disk: Disk) -> None:
        """A storage target that was started anew has no namespace that would tell; the old IPU knows its volume."""
        for ipu, state in self.sides.ipus.items():
            bdevs = [name for name, bdev in state.bdevs.items() if ipu != disk.ipu and bdev["uuid"] == disk.uuid]
            for bdev in bdevs:
                slot = state.physical_id(bdev)
                if slot is not None:
                    self._unplug(disk, ipu, slot)
                self.steps += encryption.take(ipu, bdev, disk.name, self.sides)

    def _take_back(self, disk: Disk, nqn: str, nsid: int) -> None:
        """The volume is another IPU's namespace (the item names another host now): unplug it there, and fence it."""
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
            self.steps += encryption.take(old, bdev, disk.name, self.sides)
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
        subsystem = target.subsystems[disk.nqn]
        wanted = items.subsystem(disk, self.nodes)
        ways = target.ways(disk.nqn)
        return all(
            (path["traddr"], path["trsvcid"]) in ways
            and path.get("ana_state") in (None, ways[path["traddr"], path["trsvcid"]])
            for path in wanted["listeners"]
        ) and any(host["nqn"] == self.nodes["ipus"][disk.ipu]["host_nqn"] for host in subsystem["hosts"])

    def _connect(self, disk: Disk) -> None:
        wanted = [(path["traddr"], path["trsvcid"]) for path in paths.listeners(self.nodes["targets"][disk.target])]
        there = self.sides.ipus[disk.ipu].controllers.get(disk.target)
        if there is None or self._planned("disconnect", disk.ipu, disk.target):
            if not self._planned("controllers", disk.ipu, disk.target):
                self._add(
                    "controllers",
                    disk.ipu,
                    "connect",
                    "controller",
                    disk.target,
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
                f"{disk.ipu} has an NVMe controller {disk.target} connected to {seen or 'nothing'}, where {disk.nqn} "
                f"at {wanted[0][0]}:{wanted[0][1]} was wanted. Detach its disks, then that controller, and run again.",
            )
        missing = [f"{address}:{port}" for address, port in wanted if (address, port) not in connected]
        if missing and not self._planned("controllers", disk.ipu, disk.target):
            self._add(
                "controllers",
                disk.ipu,
                "add paths to",
                "controller",
                disk.target,
                None,
                ", ".join(missing),
                {**items.controller(disk, self.nodes), "state": "present"},
            )

    def _plug(self, disk: Disk, result: dict[str, Any]) -> None:
        bdev, serial = bdev_name(disk.target, result["nsid"]), result["serial"]
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
        mine = [step for step in self.steps if step.disk == disk.name]
        if self.sides.may_look(disk.host) and not any(step.stage == "attach" for step in mine):
            for step in mine:
                if step.action == "grow":
                    step.host, step.serial = disk.host, result["serial"]

    # detached, absent

    def _remove(
        self, disk: Disk, result: dict[str, Any], volume: dict[str, Any] | None, places: list[tuple[str, int]]
    ) -> None:
        for ipu, state in self.sides.ipus.items():
            serials = {bdev_name(disk.target, nsid) for nqn, nsid in places if nqn == subsystem_nqn(disk.target, ipu)}
            serials |= {bdev["name"] for bdev in state.bdevs.values() if bdev["uuid"] == disk.uuid}
            for slot, behind in sorted(state.devices.items()):
                if behind in serials:
                    self._unplug(disk, ipu, slot)
            self._refuse_lost(ipu, serials)
            for bdev in sorted(serials):
                self.steps += encryption.take(ipu, bdev, disk.name, self.sides)
        if disk.state == "detached":
            return
        for nqn, nsid in places:
            if nqn not in {subsystem_nqn(disk.target, ipu) for ipu in self.sides.ipus}:
                raise Refused(
                    disk.target,
                    f"its volume is namespace {nsid} of {nqn}, and the state of that IPU is unknown; it is left alone.",
                )
            self._release(disk, nqn, nsid)
        self.steps += volumes.destroy(disk, volume, self.sides)
        result.update(volume=False, nsid=None, serial=None)

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
        self._add(
            "release",
            disk.target,
            "remove",
            "namespace",
            f"{disk.name} ({nsid})",
            disk,
            nqn,
            {"bdev": disk.bdev, "nsid": nsid, "state": "absent"},
            subsystem={"nqn": nqn},
        )


def _serial(disk: Disk, nsid: int) -> str:
    """What the host sees: the name of the bdev that the device has."""
    bdev = bdev_name(disk.target, nsid)
    return encrypted_name(bdev) if disk.encrypted else bdev


def plan(
    disks: Any, nodes: dict[str, Any], observed: dict[str, Any], options: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What has to be done so that the disks are what the list says. Raises InvalidDisks.

    Returns a dictionary with

    - ``steps``: in order, each with ``stage``, ``node``, ``action``, ``kind``, ``name``, ``disk``, ``detail``, and what
      its module is told (``arguments``, ``subsystem``) and where it shows (``host``, ``serial``)
    - ``nodes``: for each node with steps, the arguments of the modules that take them (see ``steps.module_arguments``)
    - ``disks``: in the list's order, each with its names on all sides, ``action``, ``converged`` and ``reason``
    - ``unmanaged``: ``{node, kind, name}`` of what is ours and not in the list
    - ``unlisted``: ``{name, target, host, size, backing, state, action}`` of the virtual disks among that;
      ``action`` is ``detach`` where the option ``purge`` says so
    - ``warnings``: sentences about lvol stores that promise more than they can hold
    - ``problems``: ``{node, disk, message}`` of the disks that are left alone
    - ``summary``: how many disks are to ``attach``, ``grow``, ``limit``, ``detach``, ``destroy``, are ``unchanged`` or
      ``not_converged``
    - ``kept``: by node, the declarations that were found; ``remember``: what changes in them (see ``declaration.py``)
    - ``declarations``: by node, those that differ from what is there
    - ``text``: all of that for a human, a list of lines
    """
    options = options or {}
    valid = validate(disks, nodes, options)
    sides = Sides(nodes, observed)
    planner = _Planner(valid, sides, bool(options.get("force", False)))
    unlisted = leftovers.unlisted(valid, sides)
    names = [disk.name for disk in (*valid, *unlisted)]
    purged = [
        replace(disk, state="detached")
        for disk in unlisted
        # A plan tells disks apart by their names: one that shares its name is reported only.
        if disk.state == "attached" and disk.host and names.count(disk.name) == 1
    ]
    purged = purged if options.get("purge") == "detach" else []
    planner.disks = valid = [*valid, *purged]
    planner.run()
    results = [planner.results[disk.name] for disk in valid]
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
    steps = [asdict(step) for step in planner.steps]
    listed = [disk.name for disk in valid]
    remember = declaration.edits(valid, planner.results, steps, sides.kept, nodes)
    declarations = declaration.changed(sides.kept, remember)
    problems = sorted(planner.problems, key=lambda problem: listed.index(problem["disk"]))
    return {
        "steps": steps,
        "nodes": module_arguments(steps),
        "disks": results,
        "unmanaged": unmanaged,
        "unlisted": [
            {
                **{key: getattr(disk, key) for key in ("name", "target", "host", "size", "backing", "state")},
                "action": "detach" if disk.name in {other.name for other in purged} else "none",
            }
            for disk in unlisted
        ],
        "warnings": warnings,
        "problems": problems,
        "summary": summary,
        "kept": sides.kept,
        "remember": remember,
        "declarations": declarations,
        "text": plan_text(planner.steps, summary, problems, unmanaged, sorted(declarations), warnings),
    }
