# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vhost-user-blk controllers of SPDK: what a virtual machine's disk connects to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._checks import check_bdev, check_name
from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import Error
from ansible_collections.ipdk.storage.plugins.module_utils._reconcile import (
    Change,
    Plan,
    Refused,
    refuse_duplicates,
)
from ansible_collections.ipdk.storage.plugins.module_utils._resources import STATE, Item, read_release

#: The options of an item, as Ansible's argument_spec has them.
VHOST_BLK = {
    "name": {"type": "str", "required": True},
    "bdev": {"type": "str"},
    "state": STATE,
}


class VhostControllers:
    """vhost-user-blk controllers. The name is a file's name too: SPDK takes ``../x`` and leaves its directory."""

    @staticmethod
    def normalise(items: Sequence[Mapping[str, Any]]) -> list[Item]:
        problems: list[str] = []
        wanted = []
        for index, item in enumerate(items):
            where = f"vhost_blk[{index}]"
            controller: Item = {
                "name": check_name(item["name"], f"{where}.name", problems),
                "state": item["state"],
                "bdev": None,
            }
            if item.get("bdev") is not None:
                controller["bdev"] = check_bdev(item["bdev"], f"{where}.bdev ({item['name']})", problems)
            elif item["state"] == "present":
                problems.append(f"{where} ({item['name']}): bdev is missing")
            wanted.append(controller)
        if problems:
            raise Refused(problems)
        refuse_duplicates(wanted, lambda item: item["name"], "vhost_blk", "name")
        return wanted

    def read(self, executor: Any) -> tuple[list[Any], list[Any]]:
        """The controllers, and all bdevs."""
        answers = executor.pipeline([("vhost_get_controllers", None), ("bdev_get_bdevs", None)])
        for answer in answers:
            if isinstance(answer, Error):
                raise answer
        return tuple(answers)

    def release(self, executor: Any) -> tuple[int, int]:
        return read_release(executor)

    def plan(self, wanted: Sequence[Item], current: tuple[Sequence[Any], Sequence[Any]]) -> Plan:
        controllers, bdevs = current
        there = {controller["ctrlr"]: controller for controller in controllers}
        real_name = {alias: bdev["name"] for bdev in bdevs for alias in (*bdev.get("aliases", ()), bdev["name"])}
        plan = Plan()
        for item in wanted:
            name, path = item["name"], (item["name"],)
            controller = there.get(name)
            block = {} if controller is None else controller.get("backend_specific", {}).get("block")
            if controller is not None:
                plan.view[name] = {"bdev": (block or {}).get("bdev")}
            if item["state"] == "absent":
                if controller is not None:
                    call = ("vhost_delete_controller", {"ctrlr": name})
                    plan.changes.append(Change("delete", "vhost controller", name, path, None, (call,), stage=0))
                continue
            bdev = real_name.get(item["bdev"], item["bdev"])
            blocked = "" if item["bdev"] in real_name else f"its bdev {bdev} is not there"
            create = ("vhost_create_blk_controller", {"ctrlr": name, "dev_name": bdev})
            after = {"bdev": bdev}
            if controller is None:
                change = Change("create", "vhost controller", name, path, after, (create,), 1, blocked=blocked)
                plan.changes.append(change)
            elif block is None:
                sentence = f"vhost controller {name} is there and is no block device: choose another name"
                plan.refusals.append((path, sentence))
            elif block.get("bdev") in real_name and block["bdev"] != bdev:
                sentence = f"vhost controller {name} is there with the bdev {block['bdev']}, wanted {bdev}"
                plan.refusals.append((path, sentence + ": unplug that disk first"))
            elif block.get("bdev") not in real_name:
                # It has lost its bdev, and does not take one that comes back.
                again = (("vhost_delete_controller", {"ctrlr": name}), create)
                if controller.get("sessions"):
                    blocked = "it has lost its bdev while a guest is connected: unplug that disk first"
                plan.changes.append(Change("update", "vhost controller", name, path, after, again, 1, blocked=blocked))
        return plan
