# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the volumes of an lvol store take at most, with what a plan adds and takes away so far."""

from __future__ import annotations

from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._checks import human
from ansible_collections.ipdk.storage.plugins.module_utils._lvols import whole_clusters
from ansible_collections.ipdk.storage.plugins.plugin_utils.observed import Sides
from ansible_collections.ipdk.storage.plugins.plugin_utils.steps import Refused, Step
from ansible_collections.ipdk.storage.plugins.plugin_utils.virtual_disk import Disk


def whole_size(disk: Disk, sides: Sides) -> int:
    """The disk's size as its store can have it."""
    store = sides.targets[disk.target].lvol_stores.get(disk.store or "")
    return whole_clusters(disk.size, store["cluster_size"]) if store else disk.size


def check(disk: Disk, store: str, sides: Sides, steps: list[Step]) -> None:
    """Raises Refused where the store cannot promise that the disk's volume gets its size."""
    there = sides.targets[disk.target].lvol_stores.get(store)
    if there is None:
        raise Refused(
            disk.target,
            f"{disk.target} has no lvol store {store}; deploy the storage target first (playbook deploy).",
        )
    size = whole_size(disk, sides)
    total = sum({**_promised(disk.target, store, sides, steps), disk.name: size}.values())
    limit = sides.stores[disk.target][store].overcommit
    if total > limit * there["capacity"]:
        raise Refused(
            disk.target,
            f"with it the volumes of lvol store {store} on {disk.target} would be {human(total)}, its capacity is "
            f"{human(there['capacity'])} (over-commit {total / there['capacity']:.2f}), above the limit {limit:g}. "
            "Make disks smaller or absent, or raise the store's overcommit.",
        )
    free = _free(disk.target, store, sides, steps)
    needs = _takes(next((volume for volume in there["lvols"] if volume["name"] == disk.name), None), disk.thin, size)
    if needs > free:
        raise Refused(
            disk.target,
            f"lvol store {store} on {disk.target} has {human(free)} free, and it needs {human(needs)}. Make disks "
            "smaller or absent, or make it thin.",
        )


def warnings(sides: Sides, steps: list[Step]) -> list[str]:
    """Stores whose thin volumes promise more than there is."""
    lines = []
    for target, state in sides.targets.items():
        for name, store in state.lvol_stores.items():
            capacity, total = store["capacity"], sum(_promised(target, name, sides, steps).values())
            if total > capacity:
                lines.append(
                    f"{target}: lvol store {name} promises {human(total)} and can hold {human(capacity)} "
                    f"(over-commit {total / capacity:.2f}): once it is written full, writes to thin volumes fail"
                )
    return lines


def _takes(volume: dict[str, Any] | None, thin: bool, size: int) -> int:
    """What a volume takes at once that is made with this size, or gets it."""
    if thin or (volume and volume["clone"]):
        return 0  # it is thin as long as it stands on a snapshot
    has = (volume["allocated"] if volume["thin"] else volume["size"]) if volume else 0
    return int(size - has)


def _lvol_steps(target: str, store: str, steps: list[Step]) -> list[Step]:
    return [
        step for step in steps if step.stage == "lvols" and step.node == target and step.arguments["store"] == store
    ]


def _promised(target: str, name: str, sides: Sides, steps: list[Step]) -> dict[str, int]:
    """By name, what the volumes of a store take at most."""
    store = sides.targets[target].lvol_stores[name]
    volumes = {volume["name"]: volume["promised"] for volume in store["lvols"]}
    for step in _lvol_steps(target, name, steps):
        if step.arguments["state"] == "absent":
            volumes.pop(step.arguments["name"], None)
        else:
            volumes[step.arguments["name"]] = whole_clusters(step.arguments["size"], store["cluster_size"])
    return volumes


def _free(target: str, name: str, sides: Sides, steps: list[Step]) -> int:
    """What is free in a store once this run's volumes have gone, and its thick ones have taken theirs."""
    store = sides.targets[target].lvol_stores[name]
    there = {volume["name"]: volume for volume in store["lvols"]}
    free = store["free"]
    for step in _lvol_steps(target, name, steps):
        arguments = step.arguments
        volume = there.get(arguments["name"])
        if arguments["state"] == "absent":
            free += volume["allocated"] if volume else 0
        else:
            free -= _takes(volume, arguments["thin"], whole_clusters(arguments["size"], store["cluster_size"]))
    return int(free)
