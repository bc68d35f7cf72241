# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The declaration that says what is there: a list of virtual disks out of the state of storage targets and IPUs."""

from __future__ import annotations

from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._checks import human
from ansible_collections.ipdk.storage.plugins.module_utils._crypto import CIPHER
from ansible_collections.ipdk.storage.plugins.module_utils._lvols import is_snapshot
from ansible_collections.ipdk.storage.plugins.module_utils._qos import limits_of, shown_all
from ansible_collections.ipdk.storage.plugins.plugin_utils import leftovers
from ansible_collections.ipdk.storage.plugins.plugin_utils.item_checks import NAME_PATTERN
from ansible_collections.ipdk.storage.plugins.plugin_utils.observed import Sides
from ansible_collections.ipdk.storage.plugins.plugin_utils.virtual_disk import (
    BACKINGS,
    INTERFACES,
    Disk,
    bdev_name,
)

KEYS_VARIABLE = "virtual_disk_keys"
"""No SPDK tells its keys: the items of encrypted disks refer to this dictionary, name → ``{key, key2}``."""


class Incomplete(ValueError):
    """A node is unknown: a list without its disks would say that they are not wanted."""


def virtual_disks(nodes: dict[str, Any], observed: dict[str, Any]) -> dict[str, list[Any]]:
    """The list with which a run of disks.yml changes nothing, and what cannot be in it.

    ``nodes`` and ``observed``: those of the planner. Returns ``virtual_disks``, items sorted by name, and ``left_out``,
    a sentence for each volume that is no virtual disk. Raises Incomplete.
    """
    sides = Sides(nodes, observed)
    unknown = sorted({*nodes["targets"], *nodes["ipus"]} - {*sides.targets, *sides.ipus})
    if unknown:
        raise Incomplete(
            f"wanted the state of all storage targets and IPUs, got no answer of {', '.join(unknown)}: the list would "
            "lack their disks. See why they are silent, or leave out --limit."
        )
    disks: dict[str, list[Disk]] = {}
    left_out: list[str] = []
    for disk in sorted(leftovers.unlisted([], sides), key=lambda disk: (disk.name, disk.target)):
        where = f"{disk.target}: volume {disk.bdev}"
        if not disk.host and len(nodes["hosts"]) == 1:
            disk.host = next(iter(nodes["hosts"]))
        if not NAME_PATTERN.fullmatch(disk.name) or ".." in disk.name:
            left_out.append(f"{where}: no virtual disk can have its name")
        elif not disk.host:
            left_out.append(f"{where}: no IPU knows it, and there are several hosts: declare it with its host")
        elif disk.name in disks and disks[disk.name][0].target != disk.target:
            left_out.append(f"{where}: the disk from {disks[disk.name][0].target} has the same name")
        else:
            # A shared volume has an item for each host.
            disks.setdefault(disk.name, []).append(disk)
    return {
        "virtual_disks": [_item(disk, sides) for items in disks.values() for disk in items],
        "left_out": left_out + _others(sides),
    }


def _item(disk: Disk, sides: Sides) -> dict[str, Any]:
    bdev = sides.targets[disk.target].bdevs[disk.bdev]
    backing: dict[str, Any] = {"type": disk.backing}
    if disk.store:
        backing.update(store=disk.store, thin=disk.thin)
    else:
        backing.update(block_size=disk.block_size)
    if disk.backing == "aio":
        directory = bdev["driver_specific"]["aio"]["filename"].rpartition("/")[0]
        if directory != sides.nodes["targets"][disk.target].get("volumes_dir"):
            backing.update(directory=directory)
    item = {
        "name": disk.name,
        "size": human(disk.size) if "bytes" not in human(disk.size) else disk.size,
        "backing": backing,
        "target": disk.target,
        "host": disk.host,
    }
    if disk.shared:
        item.update(shared=True)
    if disk.interface != INTERFACES[0]:
        item.update(interface=disk.interface)
    if disk.physical_id is not None:
        item.update(physical_id=disk.physical_id)
    served, encrypted = _served(disk, sides)
    limits = {name: limit for name, limit in limits_of(served).items() if limit}
    if limits:
        item.update(qos=shown_all(limits))
    if encrypted:
        keys = {half: f"{{{{ {KEYS_VARIABLE}['{disk.name}'].{half} }}}}" for half in ("key", "key2")}
        item.update(encryption={"cipher": CIPHER, **keys})
    return {**item, "state": disk.state}


def _served(disk: Disk, sides: Sides) -> tuple[dict[str, Any], bool]:
    """The bdev of the IPU that is the disk's device or would be (empty where there is none); whether it encrypts."""
    nsid = next((nsid for nqn, nsid in sides.places(disk) if nqn == disk.nqn), None)
    if not disk.ipu or nsid is None:
        return {}, False
    ipu, below = sides.ipus[disk.ipu], bdev_name(disk.controller, nsid)
    name = below if disk.physical_id is None else ipu.served[disk.physical_id]
    return ipu.bdevs.get(name or "", {}), name != below


def _others(sides: Sides) -> list[str]:
    """The volumes of storage targets that are no virtual disks."""
    sentences = []
    for target, state in sides.targets.items():
        bases = {store["base_bdev"] for store in state.lvol_stores.values()}
        for called, bdev in state.bdevs.items():
            if bdev["name"] in sides.volumes[target] or bdev["name"] in bases:
                continue
            store = called.partition("/")[0] if "/" in called else None
            if store is not None and is_snapshot(bdev):
                why = "a snapshot is no virtual disk, and stays"
            elif store is not None and store not in sides.stores[target]:
                why = f"lvol store {store} is not in storage_target_lvol_stores"
            elif bdev["product_name"] not in BACKINGS.values():
                why = f"{bdev['product_name']} is no backing of a virtual disk"
            else:
                why = "it was not made for a virtual disk (its UUID is another)"
            sentences.append(f"{target}: bdev {called}: {why}")
    return sentences
