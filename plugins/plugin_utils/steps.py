# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Steps: what a plan is made of, and what they tell the modules that take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ansible_collections.ipdk.storage.plugins.plugin_utils import declaration

STAGES = (
    "unplug",
    "crypto_absent",
    "release",
    "bdevs",
    "lvols",
    "subsystems",
    "controllers",
    "crypto",
    "attach",
    "limits",
)


class Refused(Exception):
    """There are no steps that bring a disk to its state; ``node`` is where the reason lies."""

    def __init__(self, node: str, message: str) -> None:
        super().__init__(message)
        self.node = node


@dataclass
class Step:
    """One thing to do on one node. ``arguments`` is one entry of the list that the module of this stage takes.

    ``disk`` is null for what several disks share (a controller, an existing subsystem), and for what is no disk's any
    more.
    """

    stage: str
    node: str
    action: str
    kind: str
    name: str
    disk: str | None
    detail: str
    arguments: dict[str, Any]
    subsystem: dict[str, Any] | None = None
    """What ``arguments`` is a namespace of."""
    host: str | None = None
    """Where ``serial`` has to appear (attach), to disappear (unplug) or to grow; null where nobody looks."""
    serial: str | None = None
    size: int | None = None
    """Bytes that what grows has then."""


def module_arguments(steps: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Steps → module arguments, by node.

    Storage target: ``release`` and ``subsystems`` (for spdk_nvmf_subsystem), ``bdevs`` (for spdk_bdev), ``lvols``
    (for spdk_lvol), ``files_present`` (``{size, paths}``) and ``files_absent`` (paths). IPU: ``unplug`` and ``attach``
    (for sma_device), ``limits`` (for sma_qos), ``controllers`` (for spdk_nvme_controller), ``crypto`` and
    ``crypto_absent`` (for spdk_bdev_crypto, without keys). Host: ``absent`` and ``present`` (serials) and
    ``sizes`` (serial → bytes), all for host_disk_info.
    """
    rendered: dict[str, dict[str, Any]] = {}

    def entry(node: str, key: str) -> list[Any]:
        return rendered.setdefault(node, {}).setdefault(key, [])

    for step in steps:
        stage, node, arguments = step["stage"], step["node"], step["arguments"]
        if step["subsystem"]:
            subsystems = entry(node, stage)
            nqn = step["subsystem"]["nqn"]
            subsystem = next((known for known in subsystems if known["nqn"] == nqn), None)
            if subsystem is None:
                subsystem = {**step["subsystem"], "namespaces": []}
                subsystems.append(subsystem)
            if arguments:
                subsystem["namespaces"].append(arguments)
        else:
            entry(node, stage).append(arguments)
        if stage == "bdevs" and "filename" in arguments:
            if arguments["state"] == "absent":
                entry(node, "files_absent").append(arguments["filename"])
            else:
                files = entry(node, "files_present")
                same = next((group for group in files if group["size"] == arguments["size"]), None)
                if same is None:
                    same = {"size": arguments["size"], "paths": []}
                    files.append(same)
                same["paths"].append(arguments["filename"])
        if step["host"] is not None and step["action"] == "grow":
            rendered.setdefault(step["host"], {}).setdefault("sizes", {})[step["serial"]] = step["size"]
        elif step["host"] is not None:
            entry(step["host"], "absent" if stage == "unplug" else "present").append(step["serial"])
    return rendered


def after_unplug(
    planned: dict[str, Any], devices: dict[str, list[dict[str, Any]]], still_there: dict[str, list[str]]
) -> dict[str, Any]:
    """What is left to do once the unplugging has been tried: a disk that did not come off keeps all that is behind it.

    ``devices``: by IPU, what sma_device returned (``physical_id``, ``state``); nothing for an IPU that is left out.
    ``still_there``: by host, the serials that did not go. Returns ``nodes`` and ``declarations`` as in a plan, and
    ``stuck``, the disks for which nothing more is done: those that did not come off, and those that were to get their
    slots.
    """
    stuck: set[str] = set()
    slots: set[tuple[str, int]] = set()
    for step in planned["steps"]:
        slot = (step["node"], step["arguments"].get("physical_id"))
        if step["stage"] == "unplug":
            gone = any(
                device["physical_id"] == slot[1] and device["state"] == "absent"
                for device in devices.get(slot[0]) or []
            )
            if not gone or step["serial"] in (still_there.get(step["host"]) or []):
                slots.add(slot)
                if step["disk"] is not None:
                    stuck.add(step["disk"])
        elif step["stage"] == "attach" and slot in slots:
            stuck.add(step["disk"])
    left = [step for step in planned["steps"] if step["stage"] != "unplug" and step["disk"] not in stuck]
    return {
        "nodes": module_arguments(left),
        "stuck": sorted(stuck),
        "declarations": declaration.changed(planned["kept"], planned["remember"], sorted(stuck)),
    }
