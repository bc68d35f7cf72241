# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""NBD disks of SPDK: what a QEMU connects to for an NVMe device of its own. The name is SPDK's ``nbd_device``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._frontends import Frontends
from ansible_collections.ipdk.storage.plugins.module_utils._reconcile import Change, Plan
from ansible_collections.ipdk.storage.plugins.module_utils._resources import STATE, Item, real_names

#: The options of an item, as Ansible's argument_spec has them.
NBD = {
    "name": {"type": "path", "required": True},
    "bdev": {"type": "str"},
    "state": STATE,
}


class NbdDisks(Frontends):
    """NBD disks, by their paths."""

    option = "nbd"
    lister = "nbd_get_disks"

    @staticmethod
    def check_name(name: str, where: str, problems: list[str]) -> str:
        if not os.path.isabs(name) or os.path.normpath(name) != name:
            problems.append(f"{where}: {name!r} is no absolute path without '..'")
        return name

    def plan(self, wanted: Sequence[Item], current: tuple[Sequence[Any], Sequence[Any]]) -> Plan:
        disks, bdevs = current
        there = {disk["nbd_device"]: disk["bdev_name"] for disk in disks}
        real_name = real_names(bdevs)
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
