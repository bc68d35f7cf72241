# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""NBD disks of SPDK: what a QEMU connects to for an NVMe device of its own. The name is SPDK's ``nbd_device``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._checks import check_bdev
from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import Error
from ansible_collections.ipdk.storage.plugins.module_utils._reconcile import (
    Change,
    Plan,
    Refused,
    refuse_duplicates,
)
from ansible_collections.ipdk.storage.plugins.module_utils._resources import STATE, Item, read_release

#: The options of an item, as Ansible's argument_spec has them.
NBD = {
    "name": {"type": "path", "required": True},
    "bdev": {"type": "str"},
    "state": STATE,
}


class NbdDisks:
    """NBD disks, by their paths."""

    @staticmethod
    def normalise(items: Sequence[Mapping[str, Any]]) -> list[Item]:
        problems: list[str] = []
        wanted = []
        for index, item in enumerate(items):
            where = f"nbd[{index}]"
            if not os.path.isabs(item["name"]) or os.path.normpath(item["name"]) != item["name"]:
                problems.append(f"{where}.name: {item['name']!r} is no absolute path without '..'")
            disk: Item = {"name": item["name"], "state": item["state"], "bdev": None}
            if item.get("bdev") is not None:
                disk["bdev"] = check_bdev(item["bdev"], f"{where}.bdev ({item['name']})", problems)
            elif item["state"] == "present":
                problems.append(f"{where} ({item['name']}): bdev is missing")
            wanted.append(disk)
        if problems:
            raise Refused(problems)
        refuse_duplicates(wanted, lambda item: item["name"], "nbd", "name")
        return wanted

    def read(self, executor: Any) -> tuple[list[Any], list[Any]]:
        """The disks, and all bdevs."""
        answers = executor.pipeline([("nbd_get_disks", None), ("bdev_get_bdevs", None)])
        for answer in answers:
            if isinstance(answer, Error):
                raise answer
        return tuple(answers)

    def release(self, executor: Any) -> tuple[int, int]:
        return read_release(executor)

    def plan(self, wanted: Sequence[Item], current: tuple[Sequence[Any], Sequence[Any]]) -> Plan:
        disks, bdevs = current
        there = {disk["nbd_device"]: disk["bdev_name"] for disk in disks}
        real_name = {alias: bdev["name"] for bdev in bdevs for alias in (*bdev.get("aliases", ()), bdev["name"])}
        plan = Plan()
        for item in wanted:
            name, path = item["name"], (item["name"],)
            if name in there:
                plan.view[name] = {"bdev": there[name]}
            if item["state"] == "absent":
                if name in there:
                    call = ("nbd_stop_disk", {"nbd_device": name})
                    plan.changes.append(Change("delete", "NBD disk", name, path, None, (call,), stage=0))
                continue
            bdev = real_name.get(item["bdev"], item["bdev"])
            if name not in there:
                blocked = "" if item["bdev"] in real_name else f"its bdev {bdev} is not there"
                call = ("nbd_start_disk", {"nbd_device": name, "bdev_name": bdev})
                plan.changes.append(
                    Change("create", "NBD disk", name, path, {"bdev": bdev}, (call,), 1, blocked=blocked)
                )
            elif there[name] != bdev:
                sentence = (
                    f"NBD disk {name} is there with the bdev {there[name]}, wanted {bdev}: unplug that disk first"
                )
                plan.refusals.append((path, sentence))
        return plan
