# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The planner: a list of virtual disks and the state of three sides in, ordered steps out.

Everything here is a pure function of plain data (what JSON can carry). Nothing talks to a node, nothing knows Ansible.

``disks``, ``nodes`` and ``options`` are those of ``validate.py``, ``observed`` that of ``observed.py``; one more option
is ``force`` (default false: no disk in use is unplugged).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ansible_collections.ipdk.storage.plugins.plugin_utils import declaration, items
from ansible_collections.ipdk.storage.plugins.plugin_utils.observed import (
    Ipu,
    Target,
    disk_uses,
)
from ansible_collections.ipdk.storage.plugins.plugin_utils.report import plan_text
from ansible_collections.ipdk.storage.plugins.plugin_utils.steps import (
    STAGES,
    Step,
    module_arguments,
)
from ansible_collections.ipdk.storage.plugins.plugin_utils.validate import validate
from ansible_collections.ipdk.storage.plugins.plugin_utils.virtual_disk import (
    BACKINGS,
    MAX_NAMESPACES,
    Disk,
    bdev_name,
    human_size,
    subsystem_nqn,
    volume_uuid,
)


class _Refused(Exception):
    """This disk cannot be brought to its state; ``node`` is where the reason lies."""

    def __init__(self, node: str, message: str) -> None:
        super().__init__(message)
        self.node = node


class _Planner:
    def __init__(self, disks: list[Disk], nodes: dict[str, Any], observed: dict[str, Any], force: bool) -> None:
        self.disks = disks
        self.nodes = nodes
        self.force = force
        self.targets = {name: Target.of(observed[name]) for name in nodes["targets"] if observed.get(name)}
        self.ipus = {name: Ipu.of(observed[name]) for name in nodes["ipus"] if observed.get(name)}
        self.hosts = {
            name: {disk["serial"]: disk for disk in observed[name]["disks"] if disk.get("serial")}
            for name in nodes["hosts"]
            if observed.get(name)
        }
        self.ipu_host = {declared["ipu"]: name for name, declared in nodes["hosts"].items() if declared.get("ipu")}
        self.kept = {
            node: answer["declaration"] for node, answer in observed.items() if answer and "declaration" in answer
        }
        self.steps: list[Step] = []
        self.results: dict[str, dict[str, Any]] = {}
        self.problems: list[dict[str, Any]] = []
        self.nsids = {
            nqn: {namespace["nsid"] for namespace in subsystem.get("namespaces", [])}
            for state in self.targets.values()
            for nqn, subsystem in state.subsystems.items()
        }
        self.freed: dict[str, set[int]] = {ipu: set() for ipu in self.ipus}
        self.claimed: dict[str, set[int]] = {ipu: set() for ipu in self.ipus}

    def run(self) -> None:
        # What frees a slot is planned before what wants one, and who names or has a slot before who takes any.
        for disk in sorted(
            self.disks, key=lambda disk: (disk.state == "attached") * (1 + (self._slot_wish(disk) is None))
        ):
            planned = len(self.steps)
            try:
                self._plan_disk(disk)
            except _Refused as refused:
                # A disk is planned as a whole or not at all.
                del self.steps[planned:]
                self.problems.append({"node": refused.node, "disk": disk.name, "message": f"{disk.name}: {refused}"})
                self.results[disk.name].update(action="none", converged=False, reason=str(refused))
            else:
                for step in self.steps[planned:]:
                    if step.stage == "unplug":
                        self.freed[step.node].add(step.arguments["physical_id"])
        listed = {disk.name: index for index, disk in enumerate(self.disks)}
        self.steps.sort(key=lambda step: (STAGES.index(step.stage), listed.get(step.disk or "", -1)))

    def _slot_wish(self, disk: Disk) -> int | None:
        """The slot that the item names, or the one that the disk has."""
        target, ipu = self.targets.get(disk.target), self.ipus.get(disk.ipu)
        if disk.physical_id is not None or target is None or ipu is None:
            return disk.physical_id
        slots = [
            ipu.physical_id(bdev_name(disk.target, nsid)) for nqn, nsid in target.places(disk.name) if nqn == disk.nqn
        ]
        return slots[0] if slots else None

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

    def _access(self, host: str) -> str:
        return self.nodes["hosts"][host].get("access", "ssh")

    def _plan_disk(self, disk: Disk) -> None:
        result = self.results[disk.name] = {
            "name": disk.name,
            "state": disk.state,
            "size": disk.size,
            "target": disk.target,
            "ipu": disk.ipu,
            "host": disk.host,
            "uuid": disk.uuid,
            "nqn": disk.nqn,
            "nsid": None,
            "serial": None,
            "physical_id": None,
            "handle": None,
            "volume": None,
            "action": "none",
            "converged": True,
            "reason": None,
        }
        for kind, node, known in (("storage target", disk.target, self.targets), ("IPU", disk.ipu, self.ipus)):
            if node not in known:
                raise _Refused(
                    node, f"the state of the {kind} {node} is unknown (no answer); nothing is changed for this disk."
                )
        if self._access(disk.host) == "ssh" and disk.host not in self.hosts:
            raise _Refused(
                disk.host,
                f"the state of the host {disk.host} is unknown (no answer); nothing is changed for this disk. "
                "If nobody may log in there, set ipdk_host_access: none.",
            )
        volume = self._volume(disk)
        places = self.targets[disk.target].places(disk.name) if volume else []
        result["volume"] = volume is not None
        here = next((nsid for nqn, nsid in places if nqn == disk.nqn), None)
        if here is not None:
            result.update(nsid=here, serial=bdev_name(disk.target, here))
        first = len(self.steps)
        if disk.state == "attached":
            self._attach(disk, result, volume, places)
        else:
            self._remove(disk, result, volume, places)
        if len(self.steps) > first:
            result["action"] = {"attached": "attach", "detached": "detach", "absent": "destroy"}[disk.state]

    def _volume(self, disk: Disk) -> dict[str, Any] | None:
        """The disk's bdev as observed. Refuses one that is not this disk's, or that cannot become what is wanted."""
        bdev = self.targets[disk.target].bdevs.get(disk.name)
        if bdev is None:
            return None
        if bdev["uuid"] != disk.uuid:
            raise _Refused(
                disk.target,
                f"{disk.target} has a bdev {disk.name} with UUID {bdev['uuid']}, where {disk.uuid} was wanted: it was "
                "not made for this virtual disk and is left alone. Rename the virtual disk, or remove that bdev.",
            )
        if disk.state != "attached":
            return bdev
        size = bdev["block_size"] * bdev["num_blocks"]
        for what, wanted, there in (
            (
                "backing",
                disk.backing,
                bdev["product_name"] if bdev["product_name"] != BACKINGS[disk.backing] else disk.backing,
            ),
            ("block size", disk.block_size, bdev["block_size"]),
        ):
            if wanted != there:
                raise _Refused(
                    disk.target,
                    f"{what}: {wanted} was wanted, but the volume on {disk.target} has {there}; that cannot be changed "
                    "without losing its data, so it is left as it is. Declare what it has, or make it absent first.",
                )
        if size != disk.size:
            raise _Refused(
                disk.target,
                f"size: {human_size(disk.size)} was wanted, but the volume on {disk.target} has {human_size(size)}; "
                f"a {disk.backing} bdev is not resized, so it is left as it is. "
                f"Declare size: {size}, or make it absent first, which destroys its data.",
            )
        return bdev

    # attached

    def _attach(
        self, disk: Disk, result: dict[str, Any], volume: dict[str, Any] | None, places: list[tuple[str, int]]
    ) -> None:
        if not self.targets[disk.target].has_tcp:
            raise _Refused(
                disk.target,
                f"{disk.target} has no NVMe/TCP transport; deploy the storage target first (playbook deploy).",
            )
        for nqn, nsid in places:
            if nqn != disk.nqn:
                self._take_back(disk, nqn, nsid)
        if volume is None:
            self._add(
                "bdevs",
                disk.target,
                "create",
                "bdev",
                disk.name,
                disk,
                f"{disk.backing}, {human_size(disk.size)}",
                {**items.volume(disk), "state": "present"},
            )
            result["volume"] = True
        if result["serial"] is None:
            nsid = self._free_nsid(disk)
            result.update(nsid=nsid, serial=bdev_name(disk.target, nsid))
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

    def _take_back(self, disk: Disk, nqn: str, nsid: int) -> None:
        """The volume is another IPU's namespace (the item names another host now): unplug it there, and release it."""
        old = next((ipu for ipu in self.nodes["ipus"] if subsystem_nqn(disk.target, ipu) == nqn), None)
        if old is None:
            raise _Refused(
                disk.target,
                f"its volume is namespace {nsid} of {nqn}, which is none of this inventory; remove it there.",
            )
        if old not in self.ipus:
            raise _Refused(
                old,
                f"its volume still belongs to the IPU {old}, whose state is unknown; nothing is changed for this disk.",
            )
        slot = self.ipus[old].physical_id(bdev_name(disk.target, nsid))
        if slot is not None:
            self._unplug(disk, old, slot, bdev_name(disk.target, nsid))
        self._release(disk, nqn, nsid)

    def _free_nsid(self, disk: Disk) -> int:
        """The NSID by which the IPU still knows this volume, or else the lowest that nobody has.

        A storage target that was started anew may have lost its namespaces while the IPU waits for them: under their
        old NSIDs its devices go on where they were. One released in this run is not free yet: its serial may be seen.
        """
        taken = self.nsids.setdefault(disk.nqn, set())
        remembered = {
            **self.ipus[disk.ipu].remembered(disk.target),
            **declaration.declared_nsids(self.kept.get(disk.target), disk.nqn),
        }
        used = taken | remembered.keys()
        lowest = next(number for number in range(1, len(used) + 2) if number not in used)
        known = [number for number, uuid in remembered.items() if uuid == disk.uuid and number not in taken]
        nsid = known[0] if known else lowest
        if nsid > MAX_NAMESPACES:
            raise _Refused(
                disk.target, f"{disk.nqn} has all of its {MAX_NAMESPACES} namespaces; make some disks absent."
            )
        taken.add(nsid)
        return nsid

    def _admitted(self, disk: Disk) -> bool:
        """Is the subsystem, which exists, open to this IPU at the declared address?"""
        subsystem = self.targets[disk.target].subsystems[disk.nqn]
        declared = self.nodes["targets"][disk.target]
        return any(
            (listener["traddr"], str(listener["trsvcid"])) == (declared["address"], str(declared["port"]))
            for listener in subsystem["listen_addresses"]
        ) and any(host["nqn"] == self.nodes["ipus"][disk.ipu]["host_nqn"] for host in subsystem["hosts"])

    def _connect(self, disk: Disk) -> None:
        declared = self.nodes["targets"][disk.target]
        address, port = declared["address"], str(declared["port"])
        there = self.ipus[disk.ipu].controllers.get(disk.target)
        if there is None:
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
        paths = [
            (path["trid"]["subnqn"], path["trid"]["traddr"], str(path["trid"]["trsvcid"])) for path in there["ctrlrs"]
        ]
        if (disk.nqn, address, port) not in paths:
            seen = ", ".join(f"{nqn} at {traddr}:{trsvcid}" for nqn, traddr, trsvcid in paths)
            raise _Refused(
                disk.ipu,
                f"{disk.ipu} has an NVMe controller {disk.target} connected to {seen or 'nothing'}, where {disk.nqn} "
                f"at {address}:{port} was wanted. Detach its disks, then that controller, and run again.",
            )

    def _plug(self, disk: Disk, result: dict[str, Any]) -> None:
        serial = result["serial"]
        looked_at = self._access(disk.host) == "ssh"
        slot = self.ipus[disk.ipu].physical_id(serial)
        if slot is not None and disk.physical_id not in (None, slot):
            self._unplug(disk, disk.ipu, slot, serial)
            slot = None
        if slot is None:
            slot = self._free_slot(disk)
            detail = serial
        elif slot in self.ipus[disk.ipu].unplugged or (looked_at and serial not in self.hosts[disk.host]):
            detail = f"{serial}: {disk.ipu} has the device, but {disk.host} does not"
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
                {"physical_id": slot, "volume": disk.uuid, "state": "present"},
                host=disk.host if looked_at else None,
                serial=serial,
            )
        result.update(physical_id=slot, handle=f"virtio_blk:sma-{slot}")

    def _free_slot(self, disk: Disk) -> int:
        slots = range(self.nodes["ipus"][disk.ipu]["max_disks"])
        devices, freed, claimed = self.ipus[disk.ipu].devices, self.freed[disk.ipu], self.claimed[disk.ipu]
        # A slot that is freed in this very run is the last choice: it is free only if the unplugging succeeds.
        free = [slot for slot in slots if slot not in devices and slot not in claimed]
        free += [slot for slot in slots if slot in freed and slot not in claimed]
        if disk.physical_id is None and not free:
            raise _Refused(
                disk.ipu, f"all {len(slots)} slots of {disk.ipu} are taken (ipu_max_virtual_disks); detach some disks."
            )
        if disk.physical_id is not None and disk.physical_id not in free:
            raise _Refused(
                disk.ipu,
                f"physical_id {disk.physical_id} of {disk.ipu} is taken by {self._behind(disk.ipu, disk.physical_id)}. "
                "Leave physical_id out, choose another, or detach that one first.",
            )
        slot = free[0] if disk.physical_id is None else disk.physical_id
        claimed.add(slot)
        return slot

    def _behind(self, ipu: str, slot: int) -> str:
        """What the device in a slot is, in the operator's words."""
        bdev = self.ipus[ipu].devices.get(slot)
        if bdev is None:
            return f"sma-{slot}, whose bdev is gone" if slot in self.ipus[ipu].devices else "another disk of this list"
        return self._volume_names(ipu).get(bdev, f"bdev {bdev}")

    def _volume_names(self, ipu: str) -> dict[str, str]:
        """The IPU's bdev names → the names of the volumes behind them on the storage targets."""
        return {
            bdev_name(target, namespace["nsid"]): namespace["bdev_name"]
            for target, state in self.targets.items()
            for namespace in state.subsystems.get(subsystem_nqn(target, ipu), {}).get("namespaces", [])
        }

    # detached, absent

    def _remove(
        self, disk: Disk, result: dict[str, Any], volume: dict[str, Any] | None, places: list[tuple[str, int]]
    ) -> None:
        for ipu, state in self.ipus.items():
            serials = {bdev_name(disk.target, nsid) for nqn, nsid in places if nqn == subsystem_nqn(disk.target, ipu)}
            serials |= {bdev["name"] for bdev in state.bdevs.values() if bdev["uuid"] == disk.uuid}
            for slot, behind in sorted(state.devices.items()):
                if behind in serials:
                    self._unplug(disk, ipu, slot, behind)
        if disk.state == "detached":
            return
        for nqn, nsid in places:
            if nqn not in {subsystem_nqn(disk.target, ipu) for ipu in self.ipus}:
                raise _Refused(
                    disk.target,
                    f"its volume is namespace {nsid} of {nqn}, and the state of that IPU is unknown; it is left alone.",
                )
            self._release(disk, nqn, nsid)
        if volume is not None:
            arguments = {"name": disk.name, "type": disk.backing, "state": "absent"}
            if disk.filename:
                arguments["filename"] = disk.filename
            self._add(
                "bdevs", disk.target, "destroy", "bdev", disk.name, disk, f"{disk.backing}, its data is lost", arguments
            )
        result.update(volume=False, nsid=None, serial=None)

    def _unplug(self, disk: Disk, ipu: str, slot: int, serial: str) -> None:
        host = self.ipu_host.get(ipu)
        looked_at = host is not None and self._access(host) == "ssh"
        if not self.force:
            if not looked_at:
                raise _Refused(
                    ipu,
                    f"it is attached through {ipu}, and nobody may look whether {host or 'its host'} uses it "
                    "(ipdk_host_access: none). Set virtual_disks_force: true to unplug it all the same.",
                )
            if host not in self.hosts:
                raise _Refused(
                    host,
                    f"it is attached to {host}, whose state is unknown, so it may be in use there; it is left alone. "
                    "Set virtual_disks_force: true to unplug it all the same.",
                )
            uses = disk_uses(self.hosts[host].get(serial, {}))
            if uses:
                raise _Refused(
                    host,
                    f"it is in use on {host} ({', '.join(uses)}) and is not unplugged. Release it there, or set "
                    "virtual_disks_force: true.",
                )
        self._add(
            "unplug",
            ipu,
            "unplug",
            "device",
            f"{disk.name} (sma-{slot})",
            disk,
            serial,
            {"physical_id": slot, "volume": disk.uuid, "state": "absent"},
            host=host if looked_at and serial in self.hosts.get(host, {}) else None,
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
            {"bdev": disk.name, "nsid": nsid, "state": "absent"},
            subsystem={"nqn": nqn},
        )

    # what is there and not in the list

    def unmanaged(self) -> list[dict[str, Any]]:
        """Volumes and devices that are ours by their names but not in the list. They are left alone."""
        listed = {(disk.target, disk.name) for disk in self.disks}
        volumes = [
            {"node": target, "kind": "volume", "name": name}
            for target, state in self.targets.items()
            for name, bdev in state.bdevs.items()
            if bdev["uuid"] == volume_uuid(name, target) and (target, name) not in listed
        ]
        devices = []
        for ipu, state in self.ipus.items():
            names = self._volume_names(ipu)
            uuids = {disk.uuid for disk in self.disks}
            for slot, behind in sorted(state.devices.items()):
                target = next((target for target in self.targets if (behind or "").startswith(f"{target}n")), None)
                ours = (target, names.get(behind or "")) in listed or state.bdevs.get(behind or "", {}).get(
                    "uuid"
                ) in uuids
                if not ours:
                    devices.append(
                        {
                            "node": ipu,
                            "kind": "device",
                            "name": f"sma-{slot} ({names.get(behind or '', behind) or 'its bdev is gone'})",
                        }
                    )
        return volumes + devices


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
    - ``problems``: ``{node, disk, message}`` of the disks that are left alone
    - ``summary``: how many disks are to ``attach``, ``detach``, ``destroy``, are ``unchanged``, ``not_converged``
    - ``kept``: by node, the declarations that were found; ``remember``: what changes in them (see ``declaration.py``)
    - ``declarations``: by node, those that differ from what is there
    - ``text``: all of that for a human, a list of lines
    """
    options = options or {}
    valid = validate(disks, nodes, options)
    planner = _Planner(valid, nodes, observed, bool(options.get("force", False)))
    planner.run()
    results = [planner.results[disk.name] for disk in valid]
    summary = {
        "attach": sum(result["action"] == "attach" for result in results),
        "detach": sum(result["action"] == "detach" for result in results),
        "destroy": sum(result["action"] == "destroy" for result in results),
        "unchanged": sum(result["action"] == "none" and result["converged"] for result in results),
        "not_converged": sum(not result["converged"] for result in results),
    }
    unmanaged = planner.unmanaged()
    steps = [asdict(step) for step in planner.steps]
    listed = [disk.name for disk in valid]
    remember = declaration.edits(valid, planner.results, steps, planner.kept, nodes)
    declarations = declaration.changed(planner.kept, remember)
    problems = sorted(planner.problems, key=lambda problem: listed.index(problem["disk"]))
    return {
        "steps": steps,
        "nodes": module_arguments(steps),
        "disks": results,
        "unmanaged": unmanaged,
        "problems": problems,
        "summary": summary,
        "kept": planner.kept,
        "remember": remember,
        "declarations": declarations,
        "text": plan_text(planner.steps, summary, problems, unmanaged, sorted(declarations)),
    }
