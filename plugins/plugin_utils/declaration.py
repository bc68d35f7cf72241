# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What each node keeps of the virtual disks, so that it comes back with them by itself.

A node's declaration is the document that module_utils/_declaration.py describes. A run changes in it what is about its
own disks; those that were taken off the list stay. Pure functions of plain data.
"""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._declaration import SECTIONS, VERSION
from ansible_collections.ipdk.storage.plugins.module_utils._qos import UNLIMITED, shown_all
from ansible_collections.ipdk.storage.plugins.plugin_utils import items
from ansible_collections.ipdk.storage.plugins.plugin_utils.virtual_disk import (
    Disk,
    bdev_name,
    controller_of,
    encrypted_name,
    shared_nqn,
    shared_volume,
    subsystem_nqn,
)

Edit = dict[str, Any]
"""``{disk, node, section, name, item}``: the item of that name becomes this, or goes where ``item`` is null. Section
``namespaces`` is that of a subsystem, ``nqn``; its ``name`` is the bdev's. Section ``hosts`` likewise; ``name`` and
``item`` are a host's NQN. ``disk`` is the id of one. ``needs``: more disks that it is about."""


def edits(
    disks: list[Disk],
    results: dict[str, dict[str, Any]],
    steps: list[dict[str, Any]],
    kept: dict[str, dict[str, Any] | None],
    nodes: dict[str, Any],
) -> list[Edit]:
    """What this plan changes in the nodes' declarations; what goes is first, for another may get its name.

    ``kept``: by node, the declaration that is there, or null; a node that is left out keeps none.
    """
    going: list[Edit] = []
    coming: list[Edit] = []
    for step in steps:
        if step["stage"] == "unplug":
            slot = step["arguments"]["physical_id"]
            going.append(_edit(step["disk"], step["node"], "vhost_blk", f"sma-{slot}"))
            going.append(_edit(step["disk"], step["node"], "nbd", items.nbd_device(slot, step["node"], nodes)))
            if step["kind"] == "orphan" and step["serial"]:
                going += [_edit(None, step["node"], section, step["serial"]) for section in ("crypto", "qos")]
        elif step["stage"] in ("disconnect", "sever"):
            going.append(_edit(None, step["node"], "controllers", step["name"], needs=step["needs"]))
    for disk in disks:
        result = results[disk.id]
        if result["converged"]:
            going += _forget(disk, kept, nodes)
            coming += _remember(disk, result, nodes, kept)
    for step in steps:
        nqn = (step["subsystem"] or {}).get("nqn", "")
        shared = shared_volume(nqn, step["node"]) is not None
        if step["action"] == "shut out" and shared:
            (host,) = step["subsystem"]["hosts"]
            going.append(_edit(None, step["node"], "hosts", host["nqn"], nqn=nqn, needs=step["needs"]))
        elif step["action"] == "shut out" or (shared and step["subsystem"].get("state") == "absent"):
            going.append(_edit(None, step["node"], "subsystems", nqn, needs=step["needs"]))
    return [edit for edit in going + coming if edit["node"] in kept]


def _edit(disk: str | None, node: str, section: str, name: str, item: Any = None, **more: Any) -> Edit:
    return {"disk": disk, "node": node, "section": section, "name": name, "item": item, **more}


def _forget(disk: Disk, kept: dict[str, dict[str, Any] | None], nodes: dict[str, Any]) -> list[Edit]:
    """What the declarations say of this disk and is not true any more."""
    gone = []
    shared = shared_nqn(disk.target, disk.name)
    ways = [(ipu, subsystem_nqn(disk.target, ipu)) for ipu in nodes["ipus"]]
    # What the other hosts of a shared volume have is the matter of their items.
    ways += [(ipu, shared) for ipu in ([disk.ipu] if disk.shared else nodes["ipus"])]
    for ipu, nqn in ways:
        nsids = [nsid for nsid, bdev in _namespaces(kept.get(disk.target), nqn).items() if bdev == disk.bdev]
        if nsids and (nqn != disk.nqn or disk.state == "absent"):
            gone.append(_edit(disk.id, disk.target, "namespaces", disk.bdev, nqn=nqn, needs=disk.sharers))
        bdevs = [bdev_name(controller_of(nqn, disk.target, ipu) or "", nsid) for nsid in nsids]
        encrypted = [encrypted_name(bdev) for bdev in bdevs]
        its_own = ipu == disk.ipu and nqn == disk.nqn
        here = disk.state == "attached" and its_own
        if not here:
            gone += [
                _edit(disk.id, ipu, section, device["name"])
                for section in ("vhost_blk", "nbd")
                for device in (kept.get(ipu) or {}).get(section, [])
                if device["bdev"] in (*bdevs, *encrypted)
            ]
        if not here or not disk.encrypted:
            # Its limits go with the encrypted bdev. Those of the one below stay while that does.
            gone += [_edit(disk.id, ipu, section, name) for section in ("crypto", "qos") for name in encrypted]
        if disk.state == "absent" or not its_own or (here and disk.encrypted) or (disk.shared and not here):
            gone += [_edit(disk.id, ipu, "qos", bdev) for bdev in bdevs]
    if disk.shared and disk.state != "attached":
        gone.append(_edit(disk.id, disk.ipu, "controllers", disk.controller))
        host = nodes["ipus"][disk.ipu]["host_nqn"]
        gone.append(_edit(disk.id, disk.target, "hosts", host, nqn=disk.nqn))
    if disk.shared and disk.state == "absent":
        gone.append(_edit(disk.id, disk.target, "subsystems", disk.nqn, needs=disk.sharers))
    if disk.state == "absent" and not disk.store:
        gone.append(_edit(disk.id, disk.target, "bdevs", disk.name, needs=disk.sharers))
    return gone


def _remember(
    disk: Disk, result: dict[str, Any], nodes: dict[str, Any], kept: dict[str, dict[str, Any] | None]
) -> list[Edit]:
    """What the declarations have to say of this disk."""
    come = []
    if disk.state != "absent" and result["volume"]:
        listed = [each["name"] for each in (kept.get(disk.target) or {}).get("bdevs", [])]
        # A detached one stays what it is, whatever its item says; it becomes that when it is attached.
        # A logical volume comes back with its store, and that with its file.
        if not disk.store and not (disk.state == "detached" and disk.name in listed):
            come.append(_edit(disk.id, disk.target, "bdevs", disk.name, items.volume(disk)))
        come.append(_edit(None, disk.target, "transports", "TCP", {"trtype": "TCP"}))
        if result["nsid"] is not None:
            subsystem = items.subsystem(disk, nodes)
            namespace = items.namespace(disk, result["nsid"])
            come.append(_edit(disk.id, disk.target, "subsystems", disk.nqn, subsystem))
            come.append(_edit(disk.id, disk.target, "namespaces", disk.bdev, namespace, nqn=disk.nqn))
            # A host that has a shared volume detached is not admitted to it.
            if disk.state == "attached" or not disk.shared:
                controller = items.controller(disk, nodes)
                come.append(_edit(disk.id, disk.ipu, "controllers", disk.controller, controller))
            if disk.state == "attached" and disk.shared:
                host = nodes["ipus"][disk.ipu]["host_nqn"]
                come.append(_edit(disk.id, disk.target, "hosts", host, host, nqn=disk.nqn))
    if disk.state == "attached":
        come += _device(disk, result, nodes)
        if disk.encrypted:
            item = items.encrypted(disk, bdev_name(disk.controller, result["nsid"]), nodes)
            come.append(_edit(disk.id, disk.ipu, "crypto", item["name"], item))
        if disk.qos:
            come.append(_limits(disk, result["serial"], kept.get(disk.ipu)))
    return come


def _device(disk: Disk, result: dict[str, Any], nodes: dict[str, Any]) -> list[Edit]:
    """What the device is behind. Of one by vfio-user nothing is kept: QEMU does not connect to it a second time."""
    section, name = "vhost_blk", f"sma-{result['physical_id']}"
    if disk.interface == "nvme":
        section, name = "nbd", items.nbd_device(result["physical_id"], disk.ipu, nodes)
        if nodes["ipus"][disk.ipu].get("nvme") != "qemu_nvme":
            return []
    return [_edit(disk.id, disk.ipu, section, name, {"name": name, "bdev": result["serial"]})]


def _limits(disk: Disk, bdev: str, document: dict[str, Any] | None) -> Edit:
    """A limit that was lifted is not said: a bdev starts without any."""
    there = next((each for each in (document or {}).get("qos", []) if each["name"] == bdev), {})
    limits = {**there, "name": bdev, **shown_all(disk.qos)}
    limits = {name: limit for name, limit in limits.items() if limit != UNLIMITED}
    return _edit(disk.id, disk.ipu, "qos", bdev, limits if len(limits) > 1 else None)


def changed(
    kept: dict[str, dict[str, Any] | None], remember: list[Edit], stuck: list[str] | tuple[str, ...] = ()
) -> dict[str, dict[str, Any]]:
    """The declarations that differ from those ``kept``, by node. Edits of the disks that are ``stuck`` do not count."""
    after: dict[str, dict[str, Any]] = {}
    for edit in remember:
        if not {edit["disk"], *edit.get("needs", ())} & set(stuck):
            node = edit["node"]
            if node not in after:
                after[node] = {"version": VERSION, "node": node, **_copy(kept[node] or {})}
            _apply(after[node], edit)
    return {node: _tidy(document) for node, document in after.items() if _tidy(document) != (kept[node] or {})}


def _copy(value: Any) -> Any:
    """Plain containers of the same values. Those that Ansible passes to a filter know all its variables, and deepcopy
    would copy those too, in half a minute."""
    if isinstance(value, dict):
        return {key: _copy(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_copy(each) for each in value]
    return value


def _apply(document: dict[str, Any], edit: Edit) -> None:
    section, name, item = edit["section"], edit["name"], edit["item"]
    if section == "namespaces":
        subsystem = next((each for each in document.get("subsystems", []) if each["nqn"] == edit["nqn"]), None)
        if subsystem is not None:
            _put(subsystem.setdefault("namespaces", []), "bdev", name, item)
        return
    if section == "hosts":
        for subsystem in document.get("subsystems", []):
            if subsystem["nqn"] == edit["nqn"]:
                others = [host for host in subsystem.get("hosts", []) if host != name]
                subsystem["hosts"] = sorted([*others, item] if item else others)
        return
    listed = document.setdefault(section, [])
    identity = next(row.identity for row in SECTIONS if row.key == section)
    if section == "subsystems" and item is not None:
        there = next((each for each in listed if each["nqn"] == name), {})
        # Hosts that an item does not say are those of several items, in section hosts.
        item = {"hosts": there.get("hosts", []), **item, "namespaces": there.get("namespaces", [])}
    if section == "transports" and any(each["trtype"] == name for each in listed):
        return  # the one that the storage target was deployed with
    _put(listed, identity, name, item)


def _put(listed: list[dict[str, Any]], identity: str, name: str, item: dict[str, Any] | None) -> None:
    for index, there in enumerate(listed):
        if there[identity] == name:
            if item is None:
                del listed[index]
            else:
                listed[index] = item
            return
    if item is not None:
        listed.append(item)


def _tidy(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if value != []}


def _namespaces(document: dict[str, Any] | None, nqn: str) -> dict[int, str]:
    """NSID → bdev of a subsystem in a declaration."""
    return {namespace["nsid"]: namespace["bdev"] for namespace in _declared(document, nqn)}


def _declared(document: dict[str, Any] | None, nqn: str) -> list[dict[str, Any]]:
    for subsystem in (document or {}).get("subsystems", []):
        if subsystem["nqn"] == nqn:
            return list(subsystem.get("namespaces", []))
    return []


def declared_hosts(document: dict[str, Any] | None, nqn: str) -> list[str]:
    """The host NQNs that a declaration admits to a subsystem."""
    found = [each.get("hosts", []) for each in (document or {}).get("subsystems", []) if each["nqn"] == nqn]
    return list(found[0]) if found else []


def declared_slots(document: dict[str, Any] | None) -> dict[int, str]:
    """Physical id → bdev of the devices that an IPU's declaration promises: a guest waits for them there."""
    devices = [each for section in ("vhost_blk", "nbd") for each in (document or {}).get(section, [])]
    found = [(re.fullmatch(r"(?:.*/)?sma-([0-9]+)(?:\.nbd)?", each["name"]), each["bdev"]) for each in devices]
    return {int(match[1]): bdev for match, bdev in found if match}


def declared_nsids(document: dict[str, Any] | None, nqn: str) -> dict[int, str | None]:
    """NSID → UUID of the namespaces that a declaration promises; null where it does not say the UUID."""
    uuids = {bdev["name"]: bdev.get("uuid") for bdev in (document or {}).get("bdevs", [])}
    return {
        namespace["nsid"]: namespace.get("uuid") or uuids.get(namespace["bdev"])
        for namespace in _declared(document, nqn)
    }
