# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""NVMe controllers: the initiator's side of SPDK."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._checks import (
    check_name,
    check_nqn,
    check_range,
    check_transport_address,
)
from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import Client
from ansible_collections.ipdk.storage.plugins.module_utils._reconcile import (
    Change,
    Plan,
    Refused,
    refuse_duplicates,
)
from ansible_collections.ipdk.storage.plugins.module_utils._resources import (
    STATE,
    Item,
    address_name,
    given,
    read_release,
)

#: The options of an item, as Ansible's argument_spec has them.
ADDRESS = {
    "adrfam": {"type": "str", "choices": ["IPv4", "IPv6"]},
    "trsvcid": {"type": "str", "default": "4420"},
}
CONTROLLER = {
    **ADDRESS,
    "name": {"type": "str", "required": True},
    "trtype": {"type": "str", "choices": ["TCP", "RDMA"], "default": "TCP"},
    "traddr": {"type": "str"},
    "paths": {
        "type": "list",
        "elements": "dict",
        "options": {**ADDRESS, "traddr": {"type": "str", "required": True}},
    },
    "subnqn": {"type": "str"},
    "hostnqn": {"type": "str"},
    "ctrlr_loss_timeout_sec": {"type": "int", "default": -1},
    "reconnect_delay_sec": {"type": "int", "default": 1},
    "fast_io_fail_timeout_sec": {"type": "int"},
    "num_io_queues": {"type": "int"},
    "multipath": {"type": "str", "choices": ["disable", "failover", "multipath"]},
    "hdgst": {"type": "bool"},
    "ddgst": {"type": "bool"},
    # Names of keys, no keys.
    "dhchap_key": {"type": "str", "no_log": False},
    "dhchap_ctrlr_key": {"type": "str", "no_log": False},
    "bdevs": {"type": "int"},
    "state": STATE,
}

#: Options of bdev_nvme_attach_controller -> first release that takes them ("" = all). SPDK reports none of them, so
#: that they count when a path is attached and cannot be compared later.
CONTROLLER_OPTIONS = {
    "ctrlr_loss_timeout_sec": "",
    "reconnect_delay_sec": "",
    "fast_io_fail_timeout_sec": "",
    "num_io_queues": "",
    "multipath": "",
    "hdgst": "",
    "ddgst": "",
    "dhchap_key": "24.05",
    "dhchap_ctrlr_key": "24.05",
}


class Controllers:
    """NVMe over Fabrics controllers, each with one path or several to one subsystem."""

    @staticmethod
    def normalise(items: Sequence[Mapping[str, Any]]) -> list[Item]:
        problems: list[str] = []
        wanted = []
        for index, item in enumerate(items):
            where = f"controllers[{index}]"
            name = check_name(item["name"], f"{where}.name", problems)
            controller: Item = {"name": name, "state": item["state"], "bdevs": item.get("bdevs") or 0}
            check_range(item.get("bdevs"), 0, 2**32 - 2, f"{where}.bdevs ({name})", problems)
            if item["state"] == "present":
                for option in ("traddr", "subnqn"):
                    if not item.get(option):
                        problems.append(f"{where} ({name}): {option} is missing")
                addresses = [item, *(item.get("paths") or ())] if item.get("traddr") else []
                controller["paths"] = [
                    check_transport_address({"trtype": item["trtype"], **address}, f"{where} ({name})", problems)
                    for address in addresses
                ]
                for option in ("subnqn", "hostnqn"):
                    if item.get(option):
                        controller[option] = check_nqn(item[option], f"{where}.{option} ({name})", problems)
                for option in ("dhchap_key", "dhchap_ctrlr_key"):
                    if item.get(option) is not None:
                        check_name(item[option], f"{where}.{option} ({name})", problems)
                controller["options"] = given(item, *CONTROLLER_OPTIONS)
                problems += [f"{where} ({name}): {sentence}" for sentence in _timers(controller["options"])]
                if len(addresses) > 1 and item.get("multipath") in (None, "disable"):
                    problems.append(f"{where} ({name}): several paths need multipath to be multipath or failover")
            wanted.append(controller)
        if problems:
            raise Refused(problems)
        refuse_duplicates(wanted, lambda item: item["name"], "controllers", "name")
        for index, controller in enumerate(wanted):
            refuse_duplicates(controller.get("paths", ()), address_name, f"controllers[{index}].paths", "address")
        return wanted

    def read(self, executor: Any) -> Any:
        return executor.call("bdev_nvme_get_controllers")

    def release(self, executor: Any) -> tuple[int, int]:
        return read_release(executor)

    def plan(self, wanted: Sequence[Item], current: Sequence[Mapping[str, Any]]) -> Plan:
        there = {controller["name"]: controller for controller in current}
        plan = Plan()
        for item in wanted:
            name = item["name"]
            controller = there.get(name)
            if controller is not None:
                plan.view[name] = self._view(controller)
            if item["state"] == "absent":
                if controller is not None:
                    call = ("bdev_nvme_detach_controller", {"name": name})
                    plan.changes.append(Change("delete", "controller", name, (name,), None, (call,), stage=0))
                continue
            self._plan_paths(item, plan.view.get(name), plan)
        return plan

    @staticmethod
    def _view(controller: Mapping[str, Any]) -> Item:
        paths = controller["ctrlrs"]
        first = paths[0] if paths else {"trid": {}}
        view = {"subnqn": first["trid"].get("subnqn"), "hostnqn": first.get("host", {}).get("nqn")}
        view = {key: value for key, value in view.items() if value}
        return {**view, "paths": {_path_name(path["trid"]): {} for path in paths}}

    @staticmethod
    def _plan_paths(item: Item, view: Item | None, plan: Plan) -> None:
        name = item["name"]
        identity = given(item, "subnqn", "hostnqn")
        if view is not None:
            for option, value in identity.items():
                if view.get(option) not in (None, value):
                    sentence = f"controller {name} exists with {option} {view[option]}, wanted {value}"
                    plan.refusals.append(((name,), sentence + ": make it absent first"))
        missing = [path for path in item["paths"] if view is None or _path_name(path) not in view["paths"]]
        if view is not None and missing and item["options"].get("multipath") in (None, "disable"):
            sentence = f"controller {name} exists with path {', '.join(view['paths'])}, wanted {_path_name(missing[0])}"
            plan.refusals.append(((name,), sentence + ": name both with multipath, or make it absent first"))
        if missing:
            plan.since += [
                (f"{option} of controllers", CONTROLLER_OPTIONS[option])
                for option in item["options"]
                if CONTROLLER_OPTIONS[option]
            ]
        for number, path in enumerate(missing):
            params = {"name": name, **path, **identity, **item["options"]}
            call = ("bdev_nvme_attach_controller", params)
            label = _path_name(path)
            hint = f"usually nobody listens at {label}, or there is no such subsystem, or it does not admit this host"
            if view is None and number == 0:
                after = {**identity, "paths": {label: {}}}
                change = Change("create", "controller", name, (name,), after, (call,), 1, hint=hint)
            else:
                # One after another: SPDK attaches the paths of one controller in turn.
                place = (name, "paths", label)
                change = Change("create", "path", f"{name} {label}", place, {}, (call,), 1 + number, hint=hint)
            plan.changes.append(change)


def _path_name(address: Mapping[str, Any]) -> str:
    return address_name({"trtype": "", "adrfam": "", "traddr": "", "trsvcid": "", **address})


def _timers(options: Mapping[str, Any]) -> list[str]:
    """The rules that SPDK has for a controller's timers; it answers a violation with a bare `Invalid argument`."""
    loss = options.get("ctrlr_loss_timeout_sec", 0)
    delay = options.get("reconnect_delay_sec", 0)
    fast = options.get("fast_io_fail_timeout_sec", 0)
    problems = []
    if loss < -1:
        problems.append(f"ctrlr_loss_timeout_sec {loss} is less than -1 (for ever)")
    elif loss == 0 and (delay or fast):
        problems.append("reconnect_delay_sec and fast_io_fail_timeout_sec need a ctrlr_loss_timeout_sec other than 0")
    elif loss != 0 and delay < 1:
        problems.append("a ctrlr_loss_timeout_sec other than 0 needs a reconnect_delay_sec of 1 at least")
    elif loss > 0 and delay > loss:
        problems.append(f"reconnect_delay_sec {delay} is more than ctrlr_loss_timeout_sec {loss}")
    elif fast and fast < delay:
        problems.append(f"fast_io_fail_timeout_sec {fast} is less than reconnect_delay_sec {delay}")
    elif loss > 0 and fast > loss:
        problems.append(f"fast_io_fail_timeout_sec {fast} is more than ctrlr_loss_timeout_sec {loss}")
    return problems


def wait_for_bdevs(
    client: Client, controllers: Sequence[Item], names: Sequence[str], seconds: float
) -> tuple[list[Item], list[str]]:
    """The bdevs of these controllers and of these names, and sentences about what is still missing.

    Namespaces show up a little after their controller is attached, so that this looks again until all is there or
    ``seconds`` have passed. One call where nothing is missing.
    """
    deadline = time.monotonic() + seconds
    pause = 0.05
    while True:
        seen = []
        count: dict[str, int] = {item["name"]: 0 for item in controllers if item["state"] == "present"}
        for bdev in client.call("bdev_get_bdevs"):
            owner = controller_of(bdev)
            if owner in count:
                count[owner] += 1
            if owner in count or bdev["name"] in names:
                seen.append(
                    {
                        "name": bdev["name"],
                        "controller": owner,
                        "uuid": bdev.get("uuid"),
                        "block_size": bdev["block_size"],
                        "size": bdev["block_size"] * bdev["num_blocks"],
                    }
                )
        there = {bdev["name"] for bdev in seen}
        missing = [f"bdev {name} is not there" for name in names if name not in there]
        missing += [
            f"controller {item['name']} has {count[item['name']]} bdevs, wanted {item['bdevs']}"
            for item in controllers
            if item["name"] in count and count[item["name"]] < item["bdevs"]
        ]
        left = deadline - time.monotonic()
        if not missing or left <= 0:
            return seen, missing
        time.sleep(min(pause, left))
        pause = min(pause * 2, 0.5)


def controller_of(bdev: Mapping[str, Any]) -> str | None:
    """The controller that an NVMe bdev belongs to, from its name (``<controller>n<nsid>``); None for other bdevs."""
    match = re.fullmatch(r"(.+)n([0-9]+)", bdev["name"])
    return match[1] if match and bdev["product_name"] == "NVMe disk" else None
