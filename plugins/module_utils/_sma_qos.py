# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rate limits of an IPU's devices: read from SPDK, set by SMA, which has no call that tells them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils import _qos, _sma
from ansible_collections.ipdk.storage.plugins.module_utils._checks import check_uuid
from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import Client, Error
from ansible_collections.ipdk.storage.plugins.module_utils._reconcile import (
    Change,
    Plan,
    Refused,
    reconcile,
    refuse_duplicates,
)
from ansible_collections.ipdk.storage.plugins.module_utils._sma_devices import (
    Device,
    Sides,
    check_device,
    handle_of,
    state_of,
)

#: The limits of SMA's interface; which of them an SMA has, it says in GetQosCapabilities.
FIELDS = _sma.QOS_FIELDS
KEEP = 2**64 - 1  # as a limit in SetQos: leave this one as it is
_LAST_ID = 2**31 - 1

Item = dict  # physical_id, volume (UUID or None), limits


@dataclass
class State:
    """``devices`` by physical id; ``capabilities``: by ``device`` and ``volume``, the limits that SMA has."""

    devices: dict[int, Device]
    qos: _qos.State
    capabilities: dict[str, list[str]]

    def bdev(self, item: Item) -> str:
        """The bdev that an item's limits are those of: the device's own, or that of the volume it names, which may be
        the one below an encrypted bdev."""
        device = self.devices[item["physical_id"]]
        return device.bdev if item["volume"] is None else self.qos.names.get(item["volume"], device.bdev)

    def volumes(self, device: Device) -> set[str]:
        """The UUIDs by which SMA knows the volume of a device."""
        bdev = self.qos.bdevs.get(device.bdev, {})
        base = (bdev.get("driver_specific") or {}).get("crypto", {}).get("base_bdev_name")
        return {device.volume, self.qos.bdevs.get(base, {}).get("uuid")} - {None}


class DeviceLimits:
    """The family. ``state`` has, after reading, what was there."""

    def __init__(self) -> None:
        self.state: State | None = None

    def read(self, executor: Sides) -> State:
        capabilities = executor.sma.qos_capabilities()
        qos = _qos.read(executor.spdk)
        self.state = State(state_of(qos.controllers, list(qos.bdevs.values())).devices, qos, capabilities)
        return self.state

    def plan(self, wanted: Sequence[Item], current: State) -> Plan:
        plan = Plan()
        for index, item in enumerate(wanted):
            handle, where = handle_of(item["physical_id"]), f"devices[{index}]"
            path = (handle,)
            kind = "device" if item["volume"] is None else "volume"
            known = current.capabilities[kind]
            for name in item["limits"]:
                if item["limits"][name] and name not in known:
                    plan.refusals.append((path, f"{where}: SMA has no {name} of a {kind}, only {_listed(known)}"))
            device = current.devices.get(item["physical_id"])
            if device is None or device.bdev not in current.qos.bdevs:
                what = "there is no such device" if device is None else "its bdev is gone"
                plan.changes.append(Change("update", "limits", handle, path, None, (), blocked=what))
                continue
            if item["volume"] not in (None, *current.volumes(device)):
                problem = f"{where}: {handle} has the volume {device.volume}, not {item['volume']}"
                plan.refusals.append((path, problem))
                continue
            limited = current.bdev(item)
            there = _qos.limits_of(current.qos.bdevs[limited])
            plan.view[handle] = _qos.shown_all(there)
            change = _qos.differing({n: v for n, v in item["limits"].items() if v or n in there}, there)
            if change:
                call = ("SetQos", _request(item, change))
                calls = _qos.with_channel(call, limited, device.bdev, current.qos)
                after = _qos.shown_all({**there, **change})
                plan.changes.append(Change("update", "limits", handle, path, after, calls))
        return plan


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none at all"


def _request(item: Item, limits: Mapping[str, int]) -> dict[str, Any]:
    volume = {} if item["volume"] is None else {"volume_id": uuid.UUID(item["volume"]).bytes}
    maximum = {name: limits[name] // _qos.step_of(name) if name in limits else KEEP for name in FIELDS}
    return {"device_handle": handle_of(item["physical_id"]), "maximum": maximum, **volume}


def normalise(items: Sequence[Mapping[str, Any]]) -> list[Item]:
    """The module's list in the form that DeviceLimits works with. Raises Refused with every problem."""
    problems: list[str] = []
    wanted = []
    for index, item in enumerate(items):
        where = f"devices[{index}]"
        physical_id = check_device(item, where, _LAST_ID, problems)
        if str(item.get("handle")).startswith("nvme:"):
            problems.append(f"{where}.handle: an NVMe device has no limits here, only a virtio-blk device")
        if item.get("physical_id") is None and item.get("handle") is None:
            problems.append(f"{where}: say which device: physical_id or handle")
        if not any(item.get(name) is not None for name in FIELDS):
            problems.append(f"{where}: no limit is named, wanted one of {', '.join(FIELDS)}")
        wanted.append(
            {
                "physical_id": physical_id,
                "volume": check_uuid(item.get("volume"), f"{where}.volume", problems),
                "limits": _qos.check_limits(item, FIELDS, where, problems),
            }
        )
    try:
        refuse_duplicates(wanted, lambda item: item["physical_id"], "devices", "physical_id")
    except Refused as refused:
        problems += refused.problems
    if problems:
        raise Refused(problems)
    return wanted


def converge(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """From the parameters of ``sma_qos`` to its result, with one connection and one channel.

    Errors are data here, ``failed`` and ``msg`` in the result; only MissingLibrary is raised.
    """
    family = DeviceLimits()
    try:
        wanted = normalise(params["devices"])
        spdk = Client(params["rpc_socket"], params["rpc_timeout"])
        sma = _sma.Client(params["address"], params["timeout"])
        with spdk, sma:
            outcome = reconcile(family, wanted, Sides(spdk, sma), check_mode)
    except Refused as refused:
        return {"failed": True, "changed": False, "msg": "Nothing was changed. " + "; ".join(refused.problems)}
    except (Error, ValueError) as error:
        return {"failed": True, "changed": False, "msg": str(error)}
    result = outcome.result()
    result["devices"] = [_device(item, family.state, outcome) for item in wanted]
    result["capabilities"] = family.state.capabilities if family.state else {}
    if outcome.notes:
        result["warnings"] = outcome.notes
    if outcome.failed:
        result.update(failed=True, msg=outcome.summary())
    return result


def _device(item: Item, state: State | None, outcome: Any) -> dict[str, Any]:
    """What an item's device is now (in check mode: would be)."""
    handle = handle_of(item["physical_id"])
    device = state.devices.get(item["physical_id"]) if state else None
    return {
        "physical_id": item["physical_id"],
        "handle": handle,
        "volume": item["volume"] or (device.volume if device else None),
        "bdev": device.bdev if device else None,
        "limits": outcome.after.get(handle),
        "changed": handle in {entry["name"] for entry in outcome.applied},
    }
