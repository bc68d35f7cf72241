# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disks of the list that go to another host. Pure functions of plain data; how they get there is the planner's."""

from __future__ import annotations

from typing import Any

from ansible_collections.ipdk.storage.plugins.plugin_utils.item_checks import listed, type_name


def mistakes(disks: Any, names: Any, host: Any, hosts: list[str]) -> list[str]:
    """What is wrong with moving the disks of these names to this host, one sentence each.

    ``disks``: the list, of which only the names and the states are looked at. ``hosts``: the inventory's.
    """
    wrong = []
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        wrong.append(f"move_disks: wanted a list of names of disks, such as [vol00], got {_got(names)}.")
    else:
        states = {item.get("name"): item.get("state") for item in disks if isinstance(item, dict)}
        shared = {item.get("name") for item in disks if isinstance(item, dict) and item.get("shared") is True}
        wrong += [
            f"move_disks: no virtual disk is called {name!r}; virtual_disks has: {listed(states) or 'none'}."
            for name in names
            if name not in states
        ]
        wrong += [
            f"move_disks: {name} is declared absent; there is nothing to move."
            for name in names
            if states.get(name) == "absent"
        ]
        wrong += [
            f"move_disks: {name} is shared: its hosts have it at the same time. Write an item for the host that is to "
            "have it, and state: detached for the one that is not, and run disks.yml."
            for name in names
            if name in shared
        ]
    if not isinstance(host, str):
        wrong.append(f"move_to: wanted the name of one host, got {_got(host)}: a volume has one host at a time.")
    elif host not in hosts:
        wrong.append(f"move_to: {host!r} is not in the group ipu_hosts ({listed(hosts) or 'empty'}).")
    return wrong


def moved(disks: list[dict[str, Any]], names: list[str], host: str) -> list[dict[str, Any]]:
    """Those disks of the list, as they are to be on the host; the others are no matter of the move."""
    return [{**item, "host": host, "state": "attached"} for item in disks if item["name"] in names]


def _got(value: Any) -> str:
    return type_name(value) if value is None or isinstance(value, (list, dict)) else repr(value)
