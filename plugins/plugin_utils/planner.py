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

from ansible_collections.ipdk.storage.plugins.module_utils._checks import human
from ansible_collections.ipdk.storage.plugins.module_utils._lvols import whole_clusters
from ansible_collections.ipdk.storage.plugins.plugin_utils import declaration, items
from ansible_collections.ipdk.storage.plugins.plugin_utils.lvol_stores import Store, parse
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
        self.stores: dict[str, dict[str, Store]] = {
            name: parse(declared.get("lvol_stores") or [], declared.get("volumes_dir"))[0]
            for name, declared in nodes["targets"].items()
        }
        self.promised: dict[tuple[str, str], dict[str, int]] = {
            (target, store["name"]): {volume["name"]: volume["promised"] for volume in store["lvols"]}
            for target, state in self.targets.items()
            for store in state.lvol_stores.values()
        }
        """by target and store: what its volumes take at most, by name; this run's come as they are planned"""
        self.steps: list[Step] = []
        self.results: dict[str, dict[str, Any]] = {}
        self.problems: list[dict[str, Any]] = []
        self.nsids = {
            nqn: {namespace["nsid"] for namespace in subsystem.get("namespaces", [])}
            for state in self.targets.values()
            for nqn, subsystem in state.subsystems.items()
        }
        self.volumes = {target: self._volumes(target) for target in self.targets}
        self.freed: dict[str, set[int]] = {ipu: set() for ipu in self.ipus}
        self.claimed: dict[str, set[int]] = {ipu: set() for ipu in self.ipus}

    def _volumes(self, target: str) -> dict[str, str]:
        """The bdevs of a storage target that are volumes of ours → the names of their virtual disks."""
        state = self.targets[target]
        ours = {bdev["name"]: name for name, bdev in state.bdevs.items() if bdev["uuid"] == volume_uuid(name, target)}
        for store in self.stores[target]:
            for volume in state.lvol_stores.get(store, {}).get("lvols", []):
                ours[volume["uuid"]] = volume["name"]
        return ours

    def run(self) -> None:
        for ipu in self.ipus:
            self._remove_orphans(ipu)
        # What frees a slot is planned before what wants one, and who names or has a slot before who takes any.
        for disk in sorted(
            self.disks, key=lambda disk: (disk.state == "attached") * (1 + (self._slot_wish(disk) is None))
        ):
            planned = len(self.steps)
            promised = dict(self.promised.get((disk.target, disk.store or ""), {}))
            try:
                self._plan_disk(disk)
            except _Refused as refused:
                # A disk is planned as a whole or not at all.
                del self.steps[planned:]
                if disk.store and (disk.target, disk.store) in self.promised:
                    self.promised[disk.target, disk.store] = promised
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
        places = target.places(self._bdev_of(disk))
        slots = [ipu.physical_id(bdev_name(disk.target, nsid)) for nqn, nsid in places if nqn == disk.nqn]
        return slots[0] if slots else None

    def _bdev_of(self, disk: Disk) -> str:
        """The name that the disk's bdev has on its storage target: a logical volume's is a UUID."""
        return str(self.targets[disk.target].bdevs.get(disk.bdev, {"name": disk.bdev})["name"])

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
        places = self.targets[disk.target].places(volume["name"]) if volume else []
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
            growing = all(step.action == "grow" for step in self.steps[first:])
            result["action"] = {"attached": "grow" if growing else "attach", "detached": "detach", "absent": "destroy"}[
                disk.state
            ]

    def _volume(self, disk: Disk) -> dict[str, Any] | None:
        """The disk's bdev as observed. Refuses one that is not this disk's, or that cannot become what is wanted."""
        bdevs = self.targets[disk.target].bdevs
        bdev = bdevs.get(disk.bdev)
        if bdev is None:
            self._refuse_elsewhere(disk)
            return None
        if not disk.store and bdev["uuid"] != disk.uuid:
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
            ("block size", disk.block_size or bdev["block_size"], bdev["block_size"]),
            (
                "thin",
                disk.thin,
                bdev["driver_specific"]["lvol"]["thin_provision"] if disk.store else disk.thin,
            ),
        ):
            if wanted != there:
                raise _Refused(
                    disk.target,
                    f"{what}: {wanted} was wanted, but the volume on {disk.target} has {there}; that cannot be changed "
                    "without losing its data, so it is left as it is. Declare what it has, or make it absent first.",
                )
        if disk.store and size < self._whole_size(disk):
            return bdev  # it grows
        if size != self._whole_size(disk):
            how = "an lvol is never shrunk" if disk.store else f"backing {disk.backing} is not resized"
            raise _Refused(
                disk.target,
                f"size: {human_size(disk.size)} was wanted, but the volume on {disk.target} has {human_size(size)}; "
                f"{how}, so it is left as it is. "
                f"Declare size: {size}, or make it absent first, which destroys its data.",
            )
        return bdev

    def _refuse_elsewhere(self, disk: Disk) -> None:
        """Refuse a disk whose volume is there, but of another backing or in another store."""
        bdevs = self.targets[disk.target].bdevs
        names = [disk.name, *(f"{store}/{disk.name}" for store in self.stores[disk.target])]
        for name in names:
            there = bdevs.get(name)
            if there is not None and ("/" in name or there["uuid"] == disk.uuid):
                wanted = f"{disk.backing} {disk.store}" if disk.store else disk.backing
                raise _Refused(
                    disk.target,
                    f"backing: {wanted} was wanted, but {disk.target} has its volume as {there['product_name']} "
                    f"{name}; it is left alone. Declare what it has, or make it absent first.",
                )

    def _whole_size(self, disk: Disk) -> int:
        store = self.targets[disk.target].lvol_stores.get(disk.store or "")
        return whole_clusters(disk.size, store["cluster_size"]) if store else disk.size

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
        if disk.store:
            self._provide(disk, disk.store, volume)
            result["volume"] = True
        elif volume is None:
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

    def _provide(self, disk: Disk, name: str, volume: dict[str, Any] | None) -> None:
        """The disk's logical volume, made or grown if need be, and if its store can promise that."""
        there = self.targets[disk.target].lvol_stores.get(name)
        if there is None:
            raise _Refused(
                disk.target,
                f"{disk.target} has no lvol store {name}; deploy the storage target first (playbook deploy).",
            )
        size = self._whole_size(disk)
        has = volume["block_size"] * volume["num_blocks"] if volume else 0
        if size <= has:
            return
        volumes = self.promised[disk.target, name]
        total = sum(volumes.values()) - volumes.get(disk.name, 0) + size
        limit = self.stores[disk.target][name].overcommit
        if total > limit * there["capacity"]:
            raise _Refused(
                disk.target,
                f"with it the volumes of lvol store {name} on {disk.target} would be {human(total)}, its capacity is "
                f"{human(there['capacity'])} (over-commit {total / there['capacity']:.2f}), above the limit {limit:g}. "
                "Make disks smaller or absent, or raise the store's overcommit.",
            )
        grow = human(size - has)
        if not disk.thin and size - has > self._free(disk.target, name):
            raise _Refused(
                disk.target,
                f"lvol store {name} on {disk.target} has {human(self._free(disk.target, name))} free, and it needs "
                f"{grow}. Make disks smaller or absent, or make it thin.",
            )
        volumes[disk.name] = size
        action = "create" if volume is None else "grow"
        detail = f"{'thin' if disk.thin else 'thick'}, {human_size(size)}"
        self._add(
            "lvols",
            disk.target,
            action,
            "lvol",
            disk.bdev,
            disk,
            detail if volume is None else f"{detail}, {grow} more",
            {**items.volume(disk), "state": "present"},
        )

    def _free(self, target: str, name: str) -> int:
        """What is free in a store once this run's volumes have gone, and its thick ones have taken theirs."""
        store = self.targets[target].lvol_stores[name]
        there = {volume["name"]: volume for volume in store["lvols"]}
        free = store["free"]
        for step in self.steps:
            arguments = step.arguments
            if step.stage == "lvols" and step.node == target and arguments["store"] == name:
                volume = there.get(arguments["name"], {"size": 0, "allocated": 0})
                if arguments["state"] == "absent":
                    free += volume["allocated"]
                elif not arguments["thin"]:
                    free -= self.promised[target, name][arguments["name"]] - volume["size"]
        return int(free)

    def warnings(self) -> list[str]:
        """Stores whose thin volumes promise more than there is."""
        lines = []
        for (target, name), volumes in self.promised.items():
            capacity = self.targets[target].lvol_stores[name]["capacity"]
            total = sum(volumes.values())
            if total > capacity:
                lines.append(
                    f"{target}: lvol store {name} promises {human(total)} and can hold {human(capacity)} "
                    f"(over-commit {total / capacity:.2f}): once it is written full, writes to thin volumes fail"
                )
        return lines

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
            bdev_name(target, namespace["nsid"]): self._volume_name(target, namespace["bdev_name"])
            for target, state in self.targets.items()
            for namespace in state.subsystems.get(subsystem_nqn(target, ipu), {}).get("namespaces", [])
        }

    def _volume_name(self, target: str, bdev: str) -> str:
        """The virtual disk that a bdev of a storage target is the volume of, or just the bdev's name."""
        return self.volumes[target].get(bdev, bdev)

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
        if volume is not None and disk.store:
            gone = {"name": disk.name, "store": disk.store, "state": "absent"}
            self._add("lvols", disk.target, "destroy", "lvol", disk.bdev, disk, "lvol, its data is lost", gone)
            self.promised[disk.target, disk.store].pop(disk.name, None)
        elif volume is not None:
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

    def _remove_orphans(self, ipu: str) -> None:
        """Take away the devices that outlived their QEMU and that no disk of the list wants back.

        Only where somebody looked into the host and does not see them, and where all storage targets have answered:
        SPDK sees nobody for a moment, too, when it has been started anew under a running guest.
        """
        state, host = self.ipus[ipu], self.ipu_host.get(ipu)
        if host not in self.hosts or len(self.targets) < len(self.nodes["targets"]):
            return
        wanted = {
            bdev_name(disk.target, nsid)
            for disk in self.disks
            for nqn, nsid in self.targets[disk.target].places(self._bdev_of(disk))
            if nqn == subsystem_nqn(disk.target, ipu)
        }
        uuids = {disk.uuid for disk in self.disks}
        wanted |= {name for name, bdev in state.bdevs.items() if bdev["uuid"] in uuids}
        for slot in sorted(state.unplugged):
            behind = state.devices[slot]
            if behind is None or (behind not in wanted and behind not in self.hosts[host]):
                self._add(
                    "unplug",
                    ipu,
                    "remove",
                    "orphan",
                    f"sma-{slot} ({self._behind(ipu, slot)})",
                    None,
                    f"{behind or 'its bdev is gone'}; no QEMU is connected",
                    {"physical_id": slot, "state": "absent"},
                )
                self.freed[ipu].add(slot)

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

    # what is there and not in the list

    def unlisted(self) -> list[Disk]:
        """The virtual disks of ours that exist and are not in the list, in the state that they are in."""
        listed = {(disk.target, disk.name) for disk in self.disks}
        ipus = {subsystem_nqn(target, ipu): ipu for target in self.targets for ipu in self.nodes["ipus"]}
        found = []
        for target, volumes in self.volumes.items():
            state = self.targets[target]
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
                    filename=None,
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
                        disk.host = self.ipu_host.get(disk.ipu, "")
                        shown = (
                            self.ipus[disk.ipu].physical_id(bdev_name(target, nsid)) if disk.ipu in self.ipus else None
                        )
                        if shown is not None:
                            disk.physical_id = shown
                            disk.state = "attached"
                found.append(disk)
        return found

    def unmanaged(self) -> list[dict[str, Any]]:
        """Volumes and devices that are ours by their names but not in the list. They are left alone."""
        listed = {(disk.target, disk.name) for disk in self.disks}
        volumes = [
            {"node": target, "kind": "volume", "name": name}
            for target in self.targets
            for name in self.volumes[target].values()
            if (target, name) not in listed
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
                            "slot": slot,
                            "name": f"sma-{slot} ({names.get(behind or '', behind) or 'its bdev is gone'})",
                        }
                    )
        leaving = {(step.node, step.arguments["physical_id"]) for step in self.steps if step.stage == "unplug"}
        return volumes + [device for device in devices if (device["node"], device.pop("slot")) not in leaving]


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
    - ``summary``: how many disks are to ``attach``, ``grow``, ``detach``, ``destroy``, are ``unchanged`` or
      ``not_converged``
    - ``kept``: by node, the declarations that were found; ``remember``: what changes in them (see ``declaration.py``)
    - ``declarations``: by node, those that differ from what is there
    - ``text``: all of that for a human, a list of lines
    """
    options = options or {}
    valid = validate(disks, nodes, options)
    planner = _Planner(valid, nodes, observed, bool(options.get("force", False)))
    unlisted = planner.unlisted()
    purged = [replace(disk, state="detached") for disk in unlisted if disk.state == "attached" and disk.host]
    purged = purged if options.get("purge") == "detach" else []
    planner.disks = valid = [*valid, *purged]
    planner.run()
    results = [planner.results[disk.name] for disk in valid]
    summary = {
        "attach": sum(result["action"] == "attach" for result in results),
        "grow": sum(result["action"] == "grow" for result in results),
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
        "unlisted": [
            {
                **{key: getattr(disk, key) for key in ("name", "target", "host", "size", "backing", "state")},
                "action": "detach" if disk.name in {other.name for other in purged} else "none",
            }
            for disk in unlisted
        ],
        "warnings": planner.warnings(),
        "problems": problems,
        "summary": summary,
        "kept": planner.kept,
        "remember": remember,
        "declarations": declarations,
        "text": plan_text(planner.steps, summary, problems, unmanaged, sorted(declarations), planner.warnings()),
    }
