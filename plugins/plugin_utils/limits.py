# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rate limits of a disk: those that its bdev on the IPU has, and what makes them those of the list."""

from __future__ import annotations

from ansible_collections.ipdk.storage.plugins.module_utils._qos import LIMITS, differing, limits_of, shown, shown_all
from ansible_collections.ipdk.storage.plugins.plugin_utils.observed import Sides
from ansible_collections.ipdk.storage.plugins.plugin_utils.steps import Step
from ansible_collections.ipdk.storage.plugins.plugin_utils.virtual_disk import Disk


def current(disk: Disk, bdev: str, sides: Sides) -> dict[str, int]:
    """The limits of the disk's bdev on the IPU; one that is not there yet will have none."""
    there = sides.ipus[disk.ipu].bdevs.get(bdev, {})
    return limits_of(there) if there.get("uuid") == disk.served_uuid else dict.fromkeys(LIMITS, 0)


def change(disk: Disk, bdev: str, slot: int, sides: Sides) -> list[Step]:
    """What sets the limits that differ; nothing where none does."""
    there = current(disk, bdev, sides)
    different = differing(disk.qos, there)
    if not different:
        return []
    detail = ", ".join(
        f"{name} {shown(name, limit)} (was {shown(name, there[name])})" for name, limit in different.items()
    )
    arguments = {"physical_id": slot, **shown_all(disk.qos)}
    return [Step("limits", disk.ipu, "limit", "device", f"{disk.name} (sma-{slot})", disk.id, detail, arguments)]
