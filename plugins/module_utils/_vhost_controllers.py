# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""vhost-user-blk controllers of SPDK: what a virtual machine's disk connects to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._checks import check_name
from ansible_collections.ipdk.storage.plugins.module_utils._frontends import Frontends
from ansible_collections.ipdk.storage.plugins.module_utils._reconcile import Change, Plan
from ansible_collections.ipdk.storage.plugins.module_utils._resources import STATE, Item, real_names

#: The options of an item, as Ansible's argument_spec has them.
VHOST_BLK = {
    "name": {"type": "str", "required": True},
    "bdev": {"type": "str"},
    "state": STATE,
}


class VhostControllers(Frontends):
    """vhost-user-blk controllers. The name is a file's name too: SPDK takes ``../x`` and leaves its directory."""

    option = "vhost_blk"
    lister = "vhost_get_controllers"
    check_name = staticmethod(check_name)

    def plan(self, wanted: Sequence[Item], current: tuple[Sequence[Any], Sequence[Any]]) -> Plan:
        controllers, bdevs = current
        there = {controller["ctrlr"]: controller for controller in controllers}
        real_name = real_names(bdevs)
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
