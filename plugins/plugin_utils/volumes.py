# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A disk's volume on its storage target: is it there, can it be what is wanted, and what makes or destroys it."""

from __future__ import annotations

from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._checks import human
from ansible_collections.ipdk.storage.plugins.plugin_utils import capacity, items
from ansible_collections.ipdk.storage.plugins.plugin_utils.observed import Sides
from ansible_collections.ipdk.storage.plugins.plugin_utils.steps import Refused, Step
from ansible_collections.ipdk.storage.plugins.plugin_utils.virtual_disk import BACKINGS, Disk, human_size


def find(disk: Disk, sides: Sides) -> dict[str, Any] | None:
    """The disk's bdev as observed. Refuses one that is not this disk's, or that cannot become what is wanted."""
    bdev = sides.targets[disk.target].bdevs.get(disk.bdev)
    if bdev is None:
        _refuse_elsewhere(disk, sides)
        return None
    if not disk.store and bdev["uuid"] != disk.uuid:
        raise Refused(
            disk.target,
            f"{disk.target} has a bdev {disk.name} with UUID {bdev['uuid']}, where {disk.uuid} was wanted: it was "
            "not made for this virtual disk and is left alone. Rename the virtual disk, or remove that bdev.",
        )
    if disk.state != "attached":
        return bdev
    size = _size(bdev)
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
            raise Refused(
                disk.target,
                f"{what}: {wanted} was wanted, but the volume on {disk.target} has {there}; that cannot be changed "
                "without losing its data, so it is left as it is. Declare what it has, or make it absent first.",
            )
    wanted_size = capacity.whole_size(disk, sides)
    if disk.store and size < wanted_size:
        return bdev  # it grows
    if size != wanted_size:
        how = "an lvol is never shrunk" if disk.store else f"backing {disk.backing} is not resized"
        raise Refused(
            disk.target,
            f"size: {human_size(disk.size)} was wanted, but the volume on {disk.target} has {human_size(size)}; "
            f"{how}, so it is left as it is. "
            f"Declare size: {size}, or make it absent first, which destroys its data.",
        )
    return bdev


def _refuse_elsewhere(disk: Disk, sides: Sides) -> None:
    """Refuse a disk whose volume is there, but of another backing or in another store."""
    bdevs = sides.targets[disk.target].bdevs
    names = [disk.name, *(f"{store}/{disk.name}" for store in sides.stores[disk.target])]
    for name in names:
        there = bdevs.get(name)
        if there is not None and ("/" in name or there["uuid"] == disk.uuid):
            wanted = f"{disk.backing} {disk.store}" if disk.store else disk.backing
            raise Refused(
                disk.target,
                f"backing: {wanted} was wanted, but {disk.target} has its volume as {there['product_name']} "
                f"{name}; it is left alone. Declare what it has, or make it absent first.",
            )


def provide(disk: Disk, volume: dict[str, Any] | None, sides: Sides, steps: list[Step]) -> list[Step]:
    """What makes the volume, or makes it grow; refused where its store cannot promise that."""
    arguments = {**items.volume(disk), "state": "present"}
    if not disk.store:
        if volume is not None:
            return []
        detail = f"{disk.backing}, {human_size(disk.size)}"
        return [Step("bdevs", disk.target, "create", "bdev", disk.name, disk.name, detail, arguments)]
    has = _size(volume) if volume else 0
    size = capacity.whole_size(disk, sides)
    if size <= has:
        return []
    capacity.check(disk, disk.store, has, sides, steps)
    detail = f"{'thin' if disk.thin else 'thick'}, {human_size(size)}"
    if volume is None:
        return [Step("lvols", disk.target, "create", "lvol", disk.bdev, disk.name, detail, arguments)]
    detail += f", {human(size - has)} more"
    return [Step("lvols", disk.target, "grow", "lvol", disk.bdev, disk.name, detail, arguments)]


def destroy(disk: Disk) -> Step:
    """What destroys the volume, which is there."""
    detail = f"{disk.backing}, its data is lost"
    arguments: dict[str, Any] = {"name": disk.name, "state": "absent"}
    if disk.store:
        arguments["store"] = disk.store
        return Step("lvols", disk.target, "destroy", "lvol", disk.bdev, disk.name, detail, arguments)
    arguments["type"] = disk.backing
    if disk.filename:
        arguments["filename"] = disk.filename
    return Step("bdevs", disk.target, "destroy", "bdev", disk.name, disk.name, detail, arguments)


def _size(bdev: dict[str, Any]) -> int:
    return int(bdev["block_size"] * bdev["num_blocks"])
