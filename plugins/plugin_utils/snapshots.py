# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A snapshot of a virtual disk that is to be taken or removed: can it be, and what spdk_lvol is told.

A snapshot is no part of the declaration: it is of one moment. What is made of it, a clone, is a virtual disk.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._checks import check_name, human
from ansible_collections.ipdk.storage.plugins.plugin_utils.item_checks import listed
from ansible_collections.ipdk.storage.plugins.plugin_utils.observed import Sides
from ansible_collections.ipdk.storage.plugins.plugin_utils.validate import InvalidDisks, validate
from ansible_collections.ipdk.storage.plugins.plugin_utils.virtual_disk import Disk

STATES = ("present", "absent")


def work(
    disks: Any,
    nodes: dict[str, Any],
    request: dict[str, Any],
    observed: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What takes or removes a snapshot.

    ``disks``, ``nodes``, ``observed``, ``options``: those of the planner; ``observed`` is null as long as nobody was
    asked. ``request``: ``disk`` and ``name``, of the virtual disk and the snapshot; ``state``.

    Returns ``problems``, sentences: where there is one, nothing may be done. ``node`` is the storage target, ``store``
    the lvol store, ``lvols`` what spdk_lvol is to be given (empty where there is nothing to do), ``clones`` the disks
    of the list that are made of the snapshot.
    """
    options = options or {}
    problems: list[str] = []
    try:
        valid = validate(disks, nodes, options)
    except InvalidDisks as error:
        return {"problems": error.errors}
    disk = _checked(valid, request, options, problems)
    if disk is None or problems:
        return {"problems": problems}
    name, state = request["name"], request.get("state") or "present"
    item = {"name": name, "store": disk.store}
    item = {**item, "snapshot_of": disk.name} if state == "present" else {**item, "state": "absent"}
    is_there = None
    if observed is not None:
        going = [other.name for other in valid if other.store == disk.store and other.state == "absent"]
        is_there = _look(disk, name, state, Sides(nodes, observed), going, problems)
    # Once, though a shared volume has several items.
    clones = list(dict.fromkeys(other.name for other in valid if other.clone_of == name and other.store == disk.store))
    lvols = [] if state == "absent" and is_there is False else [item]
    return {"problems": problems, "node": disk.target, "store": disk.store, "lvols": lvols, "clones": clones}


def _checked(valid: list[Disk], request: dict[str, Any], options: dict[str, Any], problems: list[str]) -> Disk | None:
    """The disk, and what the request's own words have wrong."""
    for key in ("disk", "name"):
        if not request.get(key):
            problems.append(f"snapshot_{key} is missing: say of which virtual disk, and what the snapshot is called.")
    if request.get("name"):
        mistakes: list[str] = []
        check_name(request["name"], "snapshot_name", mistakes)
        problems += [f"{mistake}." for mistake in mistakes]
    state = request.get("state") or "present"
    if state not in STATES:
        problems.append(f"snapshot_state: wanted one of {listed(STATES)}, got {state!r}.")
    elif state == "absent" and options.get("safe_mode", True):
        problems.append(
            "snapshot_state: absent destroys data, and ipdk_safe_mode is true. Set ipdk_safe_mode: false to allow it."
        )
    if problems:
        return None
    disk = next((each for each in valid if each.name == request["disk"]), None)
    if disk is None:
        names = listed(each.name for each in valid) or "none"
        problems.append(f"snapshot_disk: {request['disk']!r} is not in virtual_disks ({names}).")
    elif not disk.store:
        problems.append(
            f"snapshot_disk: {disk.name} is on backing {disk.backing}; snapshots are of lvols only (backing lvol)."
        )
    return disk


def _look(disk: Disk, name: str, state: str, sides: Sides, going: list[str], problems: list[str]) -> bool | None:
    """Is the snapshot there? Null where that is unknown. ``going``: the disks that are absent by then."""
    target = sides.targets.get(disk.target)
    store = target.lvol_stores.get(disk.store or "") if target else None
    if store is None:
        why = f"has no lvol store {disk.store}; deploy it first" if target else "did not answer"
        problems.append(f"{disk.target} {why}.")
        return None
    there = {volume["name"]: volume for volume in store["lvols"]}
    other = there.get(name)
    where = f"{disk.store}/{name} on {disk.target}"
    if other is not None and not other["snapshot"]:
        problems.append(f"snapshot_name: {where} is a volume, not a snapshot. Choose another name.")
    elif state == "present" and other is not None:
        problems.append(
            f"snapshot_name: {where} is there already, a snapshot of {human(other['size'])}. Choose another name, or "
            "remove it first (snapshot_state: absent)."
        )
    elif state == "present" and (disk.name not in there or there[disk.name]["snapshot"]):
        problems.append(f"snapshot_disk: {disk.name} has no volume {disk.bdev} on {disk.target}; attach it first.")
    elif state == "absent" and other is not None:
        clones = [clone for clone in other["clones"] if clone not in going]
        if len(clones) > 1:
            problems.append(
                f"snapshot_name: {where} has {len(clones)} clones ({listed(clones)}), and SPDK deletes a snapshot of "
                "one at most. Make clones absent first."
            )
    return other is not None
