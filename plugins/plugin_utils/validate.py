# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The declaration checked against itself and the inventory, before anything is looked at.

Shapes

``disks``: what the operator wrote, a list of dictionaries with the keys of ``item_checks.ITEM_KEYS``.

``nodes``: what the inventory declares::

    {"targets": {"st1": {"address": "198.18.0.2", "port": 4420, "volumes_dir": "/var/lib/ipdk/st1/volumes",
                         "lvol_stores": [{"name": "fast", "size": "1GiB"}],
                         "ana_state": "optimized", "paths": [{"address": "198.18.1.2", "ana_state": "non_optimized"}]}},
     "ipus":    {"ipu1": {"host_nqn": "nqn.2014-08.org.nvmexpress:uuid:…", "max_disks": 64,
                          "keys_dir": "/var/lib/ipdk/ipu1/keys"}},
     "hosts":   {"host1": {"ipu": "ipu1", "access": "ssh"}}}

``lvol_stores`` is the target's ``storage_target_lvol_stores``; ``ana_state`` and ``paths`` likewise, see ``paths.py``.
``port``, ``volumes_dir``, ``host_nqn``, ``max_disks`` and ``keys_dir`` may be null for a node that is not observed.

``options``: ``safe_mode`` (default true: no data is destroyed), ``state`` (null, or the state that replaces the one of
every item), ``purge`` (null, or ``detach``: what becomes of disks of ours that are not in the list).
"""

from __future__ import annotations

from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._checks import human
from ansible_collections.ipdk.storage.plugins.plugin_utils import paths
from ansible_collections.ipdk.storage.plugins.plugin_utils.item_checks import (
    ONE_HOST,
    Item,
    is_int,
    listed,
    type_name,
)
from ansible_collections.ipdk.storage.plugins.plugin_utils.lvol_stores import Store, parse
from ansible_collections.ipdk.storage.plugins.plugin_utils.virtual_disk import MAX_NAMESPACES, STATES, Disk


class InvalidDisks(ValueError):
    """The declaration cannot be right, whatever the nodes look like. ``errors`` has one message for each mistake."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


def validate(disks: Any, nodes: dict[str, Any], options: dict[str, Any] | None = None) -> list[Disk]:
    """Check the declaration against itself and the inventory and fill in its defaults.

    Raises :class:`InvalidDisks` with all mistakes found. What only the nodes' state can tell (a slot taken by
    somebody else, a size that differs) is left to the planner.
    """
    options = options or {}
    if not isinstance(disks, list):
        raise InvalidDisks([f"virtual_disks: wanted a list of disks, got {type_name(disks)}."])
    errors: list[str] = []
    override = options.get("state")
    if override is not None and override not in STATES:
        errors.append(f"virtual_disks_state: wanted one of {listed(STATES)}, got {override!r}.")
        override = None
    if options.get("purge") not in (None, "", "detach"):
        errors.append(f"ipdk_purge: wanted detach, or nothing, got {options['purge']!r}.")
    stores: dict[str, dict[str, Store]] = {}
    for target, declared in (nodes.get("targets") or {}).items():
        stores[target], wrong = parse(declared.get("lvol_stores") or [], declared.get("volumes_dir"))
        errors += [f"{target}: {problem}." for problem in wrong + paths.mistakes(declared)]
    found = {
        index: disk
        for index, item in enumerate(disks)
        for disk in [Item(index, item, nodes, stores, override, errors).disk()]
        if disk is not None
    }
    valid = list(found.values())
    if options.get("safe_mode", True):
        leave = (
            "destroys data, and ipdk_safe_mode is true. "
            "Set ipdk_safe_mode: false to allow it, or use detached to keep the data."
        )
        if override == "absent":
            errors.append(f"virtual_disks_state: absent {leave}")
        errors += [
            f"virtual_disks[{index}] ({item.get('name')!r}): state absent {leave}"
            for index, item in enumerate(disks)
            if override is None and isinstance(item, dict) and item.get("state") == "absent"
        ]
    errors += _duplicates(disks, nodes, override)
    errors += _sharing(found, nodes)
    errors += _too_many(valid, nodes)
    errors += _overcommitted(valid, stores)
    if errors:
        raise InvalidDisks(errors)
    return valid


def _duplicates(disks: list[Any], nodes: dict[str, Any], override: str | None) -> list[str]:
    errors: list[str] = []
    names: dict[str, int] = {}
    slots: dict[tuple[str, int], int] = {}
    hosts = nodes.get("hosts") or {}
    for index, item in enumerate(disks):
        if not isinstance(item, dict):
            continue
        name = item.get("name")
        first = disks[names.setdefault(name, index)] if isinstance(name, str) else item
        shared = [each.get("shared") is True for each in (first, item)]
        if isinstance(name, str) and names[name] != index and not all(shared):
            both = f"virtual_disks[{names[name]}] and virtual_disks[{index}] are both called {name!r}"
            wanting = [first.get("host"), item.get("host")]
            if any(shared):
                other = index if shared[0] else names[name]
                errors.append(
                    f"{both}, and virtual_disks[{other}] does not say shared: true: wanted it in the item of each "
                    "host, or another name."
                )
            elif wanting[0] != wanting[1]:
                errors.append(f"{both}, for {wanting[0]} and for {wanting[1]}: {ONE_HOST}. Keep one, or rename one.")
            else:
                errors.append(f"{both}: rename one.")
        physical_id = item.get("physical_id")
        host = item.get("host", next(iter(hosts)) if len(hosts) == 1 else None)
        ipu = hosts[host].get("ipu") if isinstance(host, str) and host in hosts else None
        if not is_int(physical_id) or ipu is None or (override or item.get("state")) == "absent":
            continue
        taken = slots.setdefault((ipu, physical_id), index)
        if taken != index:
            errors.append(
                f"virtual_disks[{taken}] ({disks[taken].get('name')!r}) and virtual_disks[{index}] ({name!r}) both "
                f"want physical_id {physical_id} on {ipu}: give one of them another, or leave it out."
            )
    return errors


SAME = {
    "target": ("target",),
    "size": ("size",),
    "backing": ("backing", "block_size", "filename", "store", "thin", "clone_of"),
    "encryption": ("key_mark",),
}
"""What the items of a shared volume say alike: key → fields of the disk."""


def _sharing(found: dict[int, Disk], nodes: dict[str, Any]) -> list[str]:
    """What does not fit among the items of each shared volume, which learn of each other. ``found``: by index."""
    errors = []
    volumes: dict[str, list[int]] = {}
    names: dict[str, str] = {}
    for index, disk in found.items():
        if disk.shared:
            volumes.setdefault(disk.name, []).append(index)
    for name, indices in volumes.items():
        first = found[indices[0]]
        hosts: dict[str, int] = {}
        states = {found[index].host: found[index].state for index in indices}
        for index in indices:
            disk = found[index]
            disk.sharers = tuple(found[other].id for other in indices)
            both = f"virtual_disks[{indices[0]}] and virtual_disks[{index}] are one shared volume, {name!r}"
            errors += [
                f"{both}: wanted the same {key} in both."
                for key, fields in SAME.items()
                if any(getattr(disk, field) != getattr(first, field) for field in fields)
            ]
            if hosts.setdefault(disk.host, index) != index:
                errors.append(
                    f"virtual_disks[{hosts[disk.host]}] and virtual_disks[{index}] are one shared volume, {name!r}, "
                    f"and both for {disk.host}: a host has it once. Remove one."
                )
        if "absent" in states.values() and set(states.values()) != {"absent"}:
            said = listed(f"{host} {state}" for host, state in states.items())
            errors.append(
                f"virtual_disks: {name!r} is one shared volume for {listed(states)}: absent destroys it for all of "
                f"them, so wanted it for all or for none, got {said}. Use detached for a host that is to lose "
                "its disk only."
            )
        other = names.setdefault(first.controller, name)
        if other != name or first.controller in nodes["targets"]:
            what = f"the shared volume {other!r}" if other != name else "a storage target"
            errors.append(
                f"virtual_disks[{indices[0]}] ({name!r}): its IPUs would call its controller {first.controller}, and "
                f"so they do with {what}. Rename one."
            )
    return errors


def _too_many(disks: list[Disk], nodes: dict[str, Any]) -> list[str]:
    errors = []
    wanted: dict[str, int] = {}
    volumes: dict[tuple[str, str], int] = {}
    for disk in disks:
        if disk.state == "attached":
            wanted[disk.ipu] = wanted.get(disk.ipu, 0) + 1
        if disk.state != "absent" and not disk.shared:
            volumes[disk.target, disk.ipu] = volumes.get((disk.target, disk.ipu), 0) + 1
    for ipu, count in wanted.items():
        slots = nodes["ipus"][ipu]["max_disks"]
        if slots is not None and count > slots:
            errors.append(
                f"virtual_disks: {count} disks are to be attached through {ipu}, which has {slots} slots "
                "(ipu_max_virtual_disks). Raise it and deploy the IPU again, or detach some."
            )
    for (target, ipu), count in volumes.items():
        if count > MAX_NAMESPACES:
            errors.append(
                f"virtual_disks: {count} disks from {target} through {ipu}; "
                f"one subsystem carries {MAX_NAMESPACES} at most."
            )
    return errors


def _overcommitted(disks: list[Disk], stores: dict[str, dict[str, Store]]) -> list[str]:
    """The list against the stores as they are declared; what else is in them only the planner sees."""
    errors = []
    for target, known in stores.items():
        for store in known.values():
            # By name, for the items of a shared volume are one.
            by_name = {
                disk.name: disk
                for disk in disks
                if (disk.target, disk.store) == (target, store.name) and disk.state != "absent"
            }
            disks_of = by_name.values()
            total = sum(disk.size for disk in disks_of)
            thick = sum(disk.size for disk in disks_of if not disk.thin)
            capacity = store.capacity
            if not capacity:
                continue
            said = f"virtual_disks: {len(disks_of)} disks in lvol store {store.name} of {target}"
            if total > store.overcommit * capacity:
                errors.append(
                    f"{said} are {human(total)} together, its capacity is {human(capacity)} (over-commit "
                    f"{total / capacity:.2f}), above the limit {store.overcommit:g}. Make them smaller or fewer, or "
                    "raise the store's overcommit."
                )
            elif thick > capacity:
                errors.append(
                    f"{said}: those that are not thin are {human(thick)} together, its capacity is {human(capacity)}. "
                    "Make them smaller, fewer or thin."
                )
    return errors
