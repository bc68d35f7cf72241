# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Steps: what a plan is made of, and what they tell the modules that take them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ansible_collections.ipdk.storage.plugins.plugin_utils import declaration

ORDER = (
    "sever",
    "unplug",
    "came_off",
    "declare",
    "crypto_absent",
    "disconnect",
    "release",
    "fence",
    "files_present",
    "bdevs",
    "lvols",
    "files_absent",
    "subsystems",
    "controllers",
    "crypto",
    "attach",
    "present",
    "limits",
)
"""The stages, as a plan is carried out: each is a file of tasks of the role virtual_disks. Most of them are of steps;
the others look whether those came true, or make and remove files."""

FENCING = ("fence", "shut out")
"""The actions that keep an old host away from a disk that moves. They are seen before the new one is let in."""


class Refused(Exception):
    """There are no steps that bring a disk to its state; ``node`` is where the reason lies."""

    def __init__(self, node: str, message: str) -> None:
        super().__init__(message)
        self.node = node


@dataclass
class Step:
    """One thing to do on one node. ``arguments`` is one entry of the list that the module of this stage takes.

    ``disk`` is the id of the one that it is about; null for what several disks share (a controller, an existing
    subsystem, the volume of a shared disk), and for what is no disk's any more.
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
    others: dict[str, str] = field(default_factory=dict)
    """Of a shared volume that grows: further hosts that see it, and the serial that it has there."""
    size: int | None = None
    """Bytes that what grows has then."""
    must_exist: bool = False
    """Whether the file of an aio bdev is one that was there before, so that none is made in its place."""
    needs: tuple[str, ...] = ()
    """Disks that have to come off before this may be done, where it is about what several share."""


def module_arguments(steps: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Steps → module arguments, by node.

    Storage target: ``release`` and ``subsystems`` (for spdk_nvmf_subsystem), ``bdevs`` (for spdk_bdev), ``lvols``
    (for spdk_lvol), ``files_present`` (``{size, paths}``) and ``files_absent`` (paths). IPU: ``unplug`` and ``attach``
    (for sma_device), ``limits`` (for sma_qos), ``controllers``, ``disconnect`` and ``sever`` (for
    spdk_nvme_controller), ``crypto`` and ``crypto_absent`` (for spdk_bdev_crypto, without keys). Host: ``absent`` and
    ``present`` (serials) and ``sizes`` (serial → bytes), all for host_disk_info.
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
                subsystem = {"namespaces": []}
                subsystems.append(subsystem)
            hosts = subsystem.get("hosts", [])
            subsystem.update(step["subsystem"])
            if "hosts" in subsystem:
                subsystem["hosts"] = hosts + [host for host in subsystem["hosts"] if host not in hosts]
            if arguments:
                subsystem["namespaces"].append(arguments)
        else:
            entry(node, stage).append(arguments)
        if stage == "bdevs" and "filename" in arguments:
            if arguments["state"] == "absent":
                entry(node, "files_absent").append(arguments["filename"])
            else:
                files = entry(node, "files_present")
                kind = {"size": arguments["size"], **({"must_exist": True} if step["must_exist"] else {})}
                same = next((group for group in files if {**group, "paths": []} == {**kind, "paths": []}), None)
                if same is None:
                    same = {**kind, "paths": []}
                    files.append(same)
                same["paths"].append(arguments["filename"])
        if step["host"] is not None and step["action"] == "grow":
            for host, serial in {step["host"]: step["serial"], **step["others"]}.items():
                rendered.setdefault(host, {}).setdefault("sizes", {})[serial] = step["size"]
        elif step["host"] is not None:
            entry(step["host"], "absent" if stage == "unplug" else "present").append(step["serial"])
    return rendered


def stages(nodes: dict[str, dict[str, Any]], declares: bool, fenced: bool) -> list[str]:
    """Those of ``ORDER`` that a plan needs. ``nodes``: what ``module_arguments`` returned; ``declares``: whether a
    declaration changes; ``fenced``: whether a storage target is to shut a host out."""
    needed = {stage for arguments in nodes.values() for stage in arguments}
    also = {"came_off": "unplug" in needed, "declare": declares, "fence": fenced, "present": "sizes" in needed}
    needed |= {stage for stage, wanted in also.items() if wanted}
    return [stage for stage in ORDER if stage in needed]


def after_unplug(
    planned: dict[str, Any], devices: dict[str, list[dict[str, Any]]], still_there: dict[str, list[str]]
) -> dict[str, Any]:
    """What is left to do once the unplugging has been tried: a disk that did not come off keeps all that is behind it.

    ``devices``: by IPU, what sma_device returned (``physical_id``, ``state``); nothing for an IPU that is left out.
    ``still_there``: by host, the serials that did not go. Returns ``nodes`` and ``declarations`` as in a plan, and
    ``stuck``, the disks for which nothing more is done: those that did not come off, and those that were to get their
    slots; and ``fences``, the storage targets that are now to shut a host out.
    """
    stuck: set[str] = set()
    slots: set[tuple[str, int]] = set()
    for step in planned["steps"]:
        slot = (step["node"], step["arguments"].get("physical_id"))
        if step["stage"] == "unplug":
            left = "absent" if step["arguments"]["state"] == "absent" else "present"
            gone = any(
                device["physical_id"] == slot[1] and device["state"] == left and not (device.get("volumes") or [])
                for device in devices.get(slot[0]) or []
            )
            if not gone or step["serial"] in (still_there.get(step["host"]) or []):
                slots.add(slot)
                if step["disk"] is not None:
                    stuck.add(step["disk"])
        elif step["stage"] == "attach" and slot in slots:
            stuck.add(step["disk"])
    left = _without(planned["steps"], ORDER.index("crypto_absent"), stuck)
    return {
        "nodes": module_arguments(left),
        "stuck": sorted(stuck),
        "declarations": declaration.changed(planned["kept"], planned["remember"], sorted(stuck)),
        "fences": fences(left),
    }


def fences(steps: list[dict[str, Any]]) -> list[str]:
    """The storage targets that are to shut a host out."""
    return sorted({step["node"] for step in steps if step["action"] in FENCING})


def after_fence(planned: dict[str, Any], left: dict[str, Any], subsystems: dict[str, Any]) -> dict[str, Any]:
    """What is left to do once the old hosts of disks that move have been shut out: nothing for a disk whose old host
    was not seen to be.

    ``left``: what ``after_unplug`` returned. ``subsystems``: by storage target, ``nvmf_get_subsystems`` as it is now;
    null or false where nobody answered. Returns ``nodes`` and ``stuck`` as there, and ``unfenced``: by storage target,
    a sentence for each disk.
    """
    stuck = set(left["stuck"])
    unfenced: dict[str, list[str]] = {}
    for step in planned["steps"]:
        if step["action"] not in FENCING or stuck & {step["disk"], *step["needs"]}:
            continue
        why = _open_door(step, subsystems.get(step["node"]))
        if why:
            held = [step["disk"]] if step["disk"] else step["needs"]
            unfenced.setdefault(step["node"], []).append(
                f"{', '.join(held) or step['name']}: {why}, so that no other host is let in. Look at {step['node']} "
                "and run again."
            )
            stuck.update(held)
    rest = _without(planned["steps"], ORDER.index("release") + 1, stuck)
    return {"nodes": module_arguments(rest), "stuck": sorted(stuck), "unfenced": unfenced}


def _without(steps: list[dict[str, Any]], first: int, stuck: set[str]) -> list[dict[str, Any]]:
    """The steps from a stage on that have nothing to do with the disks that are stuck."""
    return [
        step for step in steps if ORDER.index(step["stage"]) >= first and not stuck & {step["disk"], *step["needs"]}
    ]


def _open_door(step: dict[str, Any], subsystems: Any) -> str | None:
    """Why the old host may still get at what it had."""
    nqn = step["subsystem"]["nqn"]
    if not isinstance(subsystems, list):
        return f"nobody could see whether {step['node']} has taken it out of {nqn}"
    there = next((subsystem for subsystem in subsystems if subsystem["nqn"] == nqn), {})
    nsid = step["arguments"].get("nsid")
    if any(namespace["nsid"] == nsid for namespace in there.get("namespaces", [])):
        return f"it is still namespace {nsid} of {nqn}"
    hosts = {host["nqn"] for host in step["subsystem"].get("hosts", [])}
    if any(host["nqn"] in hosts for host in there.get("hosts", [])):
        return f"{nqn} still admits {', '.join(sorted(hosts))}"
    return None
