# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A disk's volume on its storage target: is it there, can it be what is wanted, and what makes or destroys it."""

from __future__ import annotations

from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils import _lvols
from ansible_collections.ipdk.storage.plugins.module_utils._bdevs import aio_file
from ansible_collections.ipdk.storage.plugins.module_utils._checks import human
from ansible_collections.ipdk.storage.plugins.plugin_utils import capacity, items
from ansible_collections.ipdk.storage.plugins.plugin_utils.observed import Sides
from ansible_collections.ipdk.storage.plugins.plugin_utils.steps import Refused, Step
from ansible_collections.ipdk.storage.plugins.plugin_utils.validate import validate
from ansible_collections.ipdk.storage.plugins.plugin_utils.virtual_disk import BACKINGS, Disk, human_size

MIB = 1 << 20


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
    if disk.store and _lvols.is_snapshot(bdev):
        raise Refused(
            disk.target,
            f"{disk.bdev} on {disk.target} is a snapshot, which no virtual disk can be. Rename the virtual disk, or "
            "make it a clone of that snapshot (backing.clone_of).",
        )
    if disk.state == "absent" and bdev["product_name"] != BACKINGS[disk.backing]:
        raise Refused(
            disk.target,
            f"backing: {disk.backing} was wanted, but the volume on {disk.target} has {bdev['product_name']}; it is "
            "not destroyed. Declare what it has.",
        )
    if disk.state != "attached":
        disk.filename = aio_file(bdev) or disk.filename
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
            # What is thin can become thick.
            "thin",
            disk.thin,
            bdev["driver_specific"]["lvol"]["thin_provision"] if disk.thin else False,
        ),
    ):
        if wanted != there:
            raise Refused(
                disk.target,
                f"{what}: {wanted} was wanted, but the volume on {disk.target} has {there}; that cannot be changed "
                "without losing its data, so it is left as it is. Declare what it has, or make it absent first.",
            )
    why = _why_not_this_size(disk, bdev, size, capacity.whole_size(disk, sides))
    if why:
        raise Refused(
            disk.target,
            f"size: {human_size(disk.size)} was wanted, but the volume on {disk.target} has {human_size(size)}; "
            f"{why}, so it is left as it is. "
            f"Declare size: {size}, or make it absent first, which destroys its data.",
        )
    # The file that it is on, wherever new ones would be: it comes back with that one.
    disk.filename = aio_file(bdev) or disk.filename
    return bdev


def _why_not_this_size(disk: Disk, bdev: dict[str, Any], size: int, wanted: int) -> str | None:
    """Why a volume of ``size`` bytes cannot become as big as is ``wanted``; null where it can, or is."""
    if size > wanted:
        return "an lvol is never shrunk" if disk.store else f"backing {disk.backing} is never shrunk"
    if size < wanted and disk.backing == "malloc":
        return "backing malloc is not resized"
    if size < wanted and disk.backing == "null" and wanted % MIB:
        return "SPDK resizes backing null to whole MiB only"
    there = aio_file(bdev) or disk.filename
    if size < wanted and there != disk.filename:
        return f"its file is {there}, where {disk.filename} was wanted"
    return None


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
    has = _size(volume) if volume else 0
    size = capacity.whole_size(disk, sides)
    thicken = volume is not None and _is_to_become_thick(disk, volume)
    if size <= has and not thicken:
        return []
    if disk.clone_of and volume is None:
        _refuse_clone(disk, size, sides)
        arguments.update(clone_of=disk.clone_of)
    if disk.store:
        capacity.check(disk, disk.store, sides, steps)
    stage, kind = ("lvols", "lvol") if disk.store else ("bdevs", "bdev")
    how = ("thin" if disk.thin else "thick") if disk.store else disk.backing
    detail = f"{how}, {human_size(size)}"
    if volume is None:
        detail += f", clone of {disk.clone_of}" if disk.clone_of else ""
        # An IPU that knows the volume has a guest on it, who must not go on with an empty file.
        known = any(bdev["uuid"] == disk.uuid for ipu in sides.ipus.values() for bdev in ipu.bdevs.values())
        known = known and disk.filename is not None
        return [Step(stage, disk.target, "create", kind, disk.bdev, disk.owner, detail, arguments, must_exist=known)]
    detail += f", {human(size - has)} more" if size > has else ""
    detail += ", is thin now" if thicken else ""
    return [Step(stage, disk.target, "grow", kind, disk.bdev, disk.owner, detail, arguments, size=size)]


def _is_to_become_thick(disk: Disk, volume: dict[str, Any]) -> bool:
    """A volume that had a snapshot stays thin; as long as it stands on one, it has to be."""
    lvol = volume["driver_specific"]["lvol"] if disk.store else {}
    return bool(not disk.thin and lvol.get("thin_provision") and not lvol.get("clone"))


def _refuse_clone(disk: Disk, size: int, sides: Sides) -> None:
    """Refuse a clone of what is no snapshot, or smaller than it."""
    source = f"{disk.store}/{disk.clone_of}"
    bdev = sides.targets[disk.target].bdevs.get(source)
    if bdev is None or not _lvols.is_snapshot(bdev):
        there = f"has {source}, which is no snapshot" if bdev else f"has no {source}"
        raise Refused(
            disk.target,
            f"backing.clone_of: a snapshot was wanted, but {disk.target} {there}. Take it first "
            "(playbooks/recipes/snapshot.yml), or correct the name.",
        )
    if size < _size(bdev):
        raise Refused(
            disk.target,
            f"size: {human_size(disk.size)} was wanted, but the snapshot {source} on {disk.target} has "
            f"{human_size(_size(bdev))}; a clone is never smaller. Declare size: {_size(bdev)}, or more.",
        )


def destroy(disk: Disk, volume: dict[str, Any] | None, sides: Sides) -> list[Step]:
    """What destroys the volume, and its file; the file alone where the bdev is gone."""
    if volume is None and not _is_left(disk, sides):
        return []
    detail = f"{disk.backing}, its data is lost"
    arguments: dict[str, Any] = {"name": disk.name, "state": "absent"}
    if disk.store:
        arguments["store"] = disk.store
        stage, kind, name = "lvols", "lvol", disk.bdev
    else:
        arguments["type"] = disk.backing
        if disk.filename:
            arguments["filename"] = disk.filename
        stage, kind, name = "bdevs", "bdev" if volume else "file", disk.name if volume else str(disk.filename)
    return [Step(stage, disk.target, "destroy", kind, name, disk.owner, detail, arguments, needs=disk.sharers)]


def files_to_go(disks: Any, nodes: dict[str, Any], options: dict[str, Any] | None = None) -> dict[str, list[str]]:
    """By storage target, the files that are to go with their disks, whether they are there or not.

    Somebody has to look for them there: of a file whose bdev is gone SPDK knows nothing. Raises InvalidDisks.
    """
    files: dict[str, list[str]] = {}
    for disk in validate(disks, nodes, options):
        if disk.state == "absent" and disk.filename:
            files.setdefault(disk.target, []).append(disk.filename)
    return files


def _is_left(disk: Disk, sides: Sides) -> bool:
    """The disk's file is there without its bdev, and no other bdev is on it."""
    target = sides.targets[disk.target]
    return disk.filename in target.files - {aio_file(bdev) for bdev in target.bdevs.values()}


def _size(bdev: dict[str, Any]) -> int:
    return int(bdev["block_size"] * bdev["num_blocks"])
