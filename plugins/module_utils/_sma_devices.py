# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The devices of an IPU: what SPDK says is there, and the family that SMA's calls bring to the wanted state.

SMA has no list call, and forgets with its process: the truth is in SPDK. A device of physical id N is the vhost
controller ``sma-N``; the volume behind it is the UUID of that controller's bdev.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils import _sma
from ansible_collections.ipdk.storage.plugins.module_utils._checks import check_range, check_uuid
from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import Client, Error
from ansible_collections.ipdk.storage.plugins.module_utils._progress import Progress
from ansible_collections.ipdk.storage.plugins.module_utils._reconcile import (
    Change,
    Plan,
    Refused,
    reconcile,
    refuse_duplicates,
)

HANDLE = re.compile(r"virtio_blk:sma-(0|[1-9][0-9]{0,8})")
CONTROLLER = re.compile(r"sma-(0|[1-9][0-9]{0,8})")
SERIAL_LENGTH = 20  # virtio-blk's; SPDK cuts the bdev's name
_POLL_SECONDS = 0.2

Item = dict  # physical_id (or None), volume (UUID or None), state


def handle_of(physical_id: int) -> str:
    """SMA's handle of the device in this slot."""
    return f"virtio_blk:sma-{physical_id}"


@dataclass(frozen=True)
class Device:
    """A device as SPDK has it. ``bdev`` and ``volume`` are None when the bdev is gone; ``connected``: some QEMU is."""

    physical_id: int
    bdev: str | None
    volume: str | None
    connected: bool
    limits: Mapping[str, int] = field(default_factory=dict)

    def as_data(self) -> dict[str, Any]:
        """For a module's result."""
        return {
            "physical_id": self.physical_id,
            "handle": handle_of(self.physical_id),
            "volume": self.volume,
            "bdev": self.bdev,
            "serial": serial_of(self.bdev),
            "connected": self.connected,
            "limits": dict(self.limits),
        }


@dataclass
class State:
    """``devices`` by physical id; ``bdevs``: names of all bdevs by UUID."""

    devices: dict[int, Device]
    bdevs: dict[str, str]


def serial_of(bdev: str | None) -> str | None:
    """The serial number that the guest sees."""
    return None if bdev is None else bdev[:SERIAL_LENGTH]


def read_state(spdk: Any) -> State:
    """What SPDK has, in one round trip. Raises ``_jsonrpc.Error``: no answer is unknown, never empty."""
    answers = spdk.pipeline([("vhost_get_controllers", None), ("bdev_get_bdevs", None)])
    for answer in answers:
        if isinstance(answer, Error):
            raise answer
    return state_of(*answers)


def state_of(controllers: Sequence[Any], bdevs: Sequence[Any]) -> State:
    """The state out of the answers of ``vhost_get_controllers`` and ``bdev_get_bdevs``."""
    by_name = {bdev["name"]: bdev for bdev in bdevs}
    devices = {}
    for controller in controllers:
        match = CONTROLLER.fullmatch(controller["ctrlr"])
        block = controller.get("backend_specific", {}).get("block")
        if match is None or block is None:
            continue
        bdev = by_name.get(block.get("bdev"), {})
        devices[int(match[1])] = Device(
            int(match[1]),
            block.get("bdev"),
            bdev.get("uuid"),
            bool(controller.get("sessions")),
            bdev.get("assigned_rate_limits", {}),
        )
    return State(devices, {bdev["uuid"]: bdev["name"] for bdev in bdevs if bdev.get("uuid")})


class Sides:
    """What the engine needs to make calls: SMA's by gRPC, all others by JSON-RPC."""

    def __init__(self, spdk: Client, sma: _sma.Client) -> None:
        self.spdk = spdk
        self.sma = sma

    def pipeline(self, calls: Sequence[Sequence[Any]]) -> list[Any]:
        """Results or Errors in the order of the calls; SPDK is asked first."""
        answers: dict[int, Any] = {}
        for side, mine in ((self.spdk, False), (self.sma, True)):
            indexes = [index for index, call in enumerate(calls) if (call[0] in _sma.METHODS) is mine]
            answers.update(zip(indexes, side.pipeline([calls[index] for index in indexes]) if indexes else []))
        return [answers[index] for index in range(len(calls))]


class Devices:
    """The family. ``slots``: how many devices the IPU can show; ``wait``: seconds for missing bdevs of ``wanted``.

    ``placed`` has, after plan(), the physical id of each wanted item; None for one that is not there and shall not be.
    """

    def __init__(self, wanted: Sequence[Item], slots: int, wait: float = 0.0) -> None:
        self.slots = slots
        self.placed: list[int | None] = []
        self.state = State({}, {})
        self._volumes = {item["volume"] for item in wanted if item["state"] == "present"}
        self._wait = wait

    def read(self, executor: Sides) -> State:
        """The state of SPDK, once the bdevs of the wanted volumes are there or the time for that is over."""
        deadline = time.monotonic() + self._wait
        self._wait = 0.0  # once: who looks again after a failure does not wait for the same bdevs again
        while True:
            self.state = read_state(executor.spdk)
            if self._volumes <= self.state.bdevs.keys() or time.monotonic() >= deadline:
                return self.state
            time.sleep(_POLL_SECONDS)

    def plan(self, wanted: Sequence[Item], current: State) -> Plan:
        """Deletes first, then creates in the order of the list, one a stage, because SMA serves one call at a time."""
        plan = Plan()
        self.placed = [self._find(item, current) for item in wanted]
        leaving: set[int] = set()
        for index, (item, there) in enumerate(zip(wanted, self.placed)):
            device = None if there is None else current.devices.get(there)
            if device is not None:
                plan.view[handle_of(device.physical_id)] = _view(device.physical_id, device.volume)
            if item["state"] == "absent" and device is not None:
                self._plan_delete(plan, index, item, device)
                leaving.add(device.physical_id)
        taken = (set(current.devices) - leaving) | {item["physical_id"] for item in wanted if _asks_for_slot(item)}
        free = [slot for slot in range(self.slots) if slot not in taken and slot not in leaving]
        free += sorted(leaving - taken)
        unplaced = [
            index for index, item in enumerate(wanted) if item["state"] == "present" and self._homeless(index, item)
        ]
        if len(unplaced) > len(free):
            problem = (
                f"devices: {len(unplaced)} more devices need a slot, and {len(free)} of {self.slots} are free "
                "(max_devices); delete devices first"
            )
            plan.refusals.append(((), problem))
            return plan
        for index, slot in zip(unplaced, free):
            self.placed[index] = slot
        for index, item in enumerate(wanted):
            if item["state"] == "present":
                self._plan_present(plan, index, item, current, leaving)
        return plan

    def _find(self, item: Item, current: State) -> int | None:
        """The slot that an item is about: where its volume is, else what it asks for."""
        if item["state"] == "absent" and item["physical_id"] is not None:
            return item["physical_id"]
        if item["volume"] is not None:
            for slot, device in sorted(current.devices.items()):
                if device.volume == item["volume"]:
                    return slot
        return None

    def _homeless(self, index: int, item: Item) -> bool:
        return self.placed[index] is None and item["physical_id"] is None

    def _plan_delete(self, plan: Plan, index: int, item: Item, device: Device) -> None:
        handle = handle_of(device.physical_id)
        if item["volume"] is not None and device.volume not in (None, item["volume"]):
            problem = (
                f"devices[{index}]: {handle} has the volume {device.volume}, not {item['volume']}; "
                "leave out the volume to delete the device whatever it has"
            )
            plan.refusals.append(((handle,), problem))
        calls = (("DeleteDevice", {"handle": handle}),)
        plan.changes.append(
            Change("delete", "device", f"sma-{device.physical_id}", (handle,), None, calls, len(plan.changes))
        )

    def _plan_present(self, plan: Plan, index: int, item: Item, current: State, leaving: set[int]) -> None:
        there, asked, volume = self.placed[index], item["physical_id"], item["volume"]
        if there in leaving and asked is not None:
            there = None
        if there in current.devices and asked not in (None, there):
            problem = (
                f"devices[{index}]: the volume {volume} is {handle_of(there)} already and is wanted with physical_id "
                f"{asked}; delete that device first"
            )
            plan.refusals.append(((handle_of(there),), problem))
            return
        slot: Any = there if asked is None else asked
        self.placed[index] = slot
        handle = handle_of(slot)
        device = None if slot in leaving else current.devices.get(slot)
        if device is not None and device.volume != volume:
            behind = device.volume or f"a bdev that is gone ({device.bdev})" if device.bdev else "a bdev that is gone"
            problem = (
                f"devices[{index}]: physical_id {slot} is taken by {behind}; choose another or delete {handle} first"
            )
            plan.refusals.append(((handle,), problem))
            return
        if device is not None and device.connected:
            return
        request = {"volume": {"volume_id": uuid.UUID(volume).bytes}, "virtio_blk": {"physical_id": slot}}
        calls: list[tuple[str, Mapping[str, Any] | None]] = [("CreateDevice", request)]
        if volume not in current.bdevs:
            # SMA would answer the same, a second later.
            calls.insert(0, ("bdev_get_bdevs", {"name": volume}))
        action = "create" if device is None else "replug"
        plan.changes.append(
            Change(action, "device", f"sma-{slot}", (handle,), _view(slot, volume), tuple(calls), len(plan.changes))
        )


def _asks_for_slot(item: Item) -> bool:
    return item["state"] == "present" and item["physical_id"] is not None


def _view(physical_id: int, volume: str | None) -> dict[str, Any]:
    return {"physical_id": physical_id, "volume": volume}


def normalise(items: Sequence[Mapping[str, Any]], slots: int) -> list[Item]:
    """The module's list in the form that Devices works with. Raises Refused with every problem that can be seen."""
    problems: list[str] = []
    if slots < 1:
        problems.append(f"max_devices: {slots} is not at least 1")
    wanted = [_item(item, f"devices[{index}]", slots, problems) for index, item in enumerate(items)]
    for key, what in (("physical_id", "physical_id"), ("volume", "volume")):
        try:
            refuse_duplicates(wanted, lambda item, key=key: item[key], "devices", what)  # type: ignore[misc]
        except Refused as refused:
            problems += refused.problems
    if problems:
        raise Refused(problems)
    present = sum(item["state"] == "present" for item in wanted)
    if present > slots:
        raise Refused([f"devices: {present} devices are wanted, and there are {slots} slots (max_devices)"])
    return wanted


def _item(item: Mapping[str, Any], where: str, slots: int, problems: list[str]) -> Item:
    state = item.get("state") or "present"
    physical_id = check_device(item, where, slots - 1, problems)
    volume = check_uuid(item.get("volume"), f"{where}.volume", problems)
    if state == "present" and item.get("volume") is None:
        problems.append(f"{where}: a device that shall be present needs its volume")
    if state == "absent" and physical_id is None and item.get("volume") is None and item.get("handle") is None:
        problems.append(f"{where}: say which device shall be absent: handle, physical_id or volume")
    return {"physical_id": physical_id, "volume": volume, "state": state}


def check_device(item: Mapping[str, Any], where: str, last: int, problems: list[str]) -> int | None:
    """The physical id of the device that an item names by ``physical_id`` or ``handle``; None where it names none."""
    physical_id = check_range(item.get("physical_id"), 0, last, f"{where}.physical_id", problems)
    if item.get("handle") is None:
        return physical_id
    match = HANDLE.fullmatch(item["handle"])
    if match is None:
        problems.append(f"{where}.handle: {item['handle']!r} is no handle of a virtio-blk device (virtio_blk:sma-<n>)")
    elif physical_id not in (None, int(match[1])):
        problems.append(f"{where}: {item['handle']} is not the device of physical_id {physical_id}")
    else:
        physical_id = check_range(int(match[1]), 0, last, f"{where}.handle", problems)
    return physical_id


def converge(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """From the parameters of ``sma_device`` to its result, with one connection and at most one channel.

    Errors are data here, ``failed`` and ``msg`` in the result; only MissingLibrary is raised.
    """
    try:
        wanted = normalise(params["devices"], params["max_devices"])
        family = Devices(wanted, params["max_devices"], 0.0 if check_mode else params["wait"])
        spdk = Client(params["rpc_socket"], params["rpc_timeout"])
        sma = _sma.Client(params["address"], params["timeout"])
        with spdk, sma:
            outcome = reconcile(family, wanted, Sides(spdk, sma), check_mode, Progress("devices"))
    except Refused as refused:
        return {"failed": True, "changed": False, "msg": "Nothing was changed. " + "; ".join(refused.problems)}
    except (Error, ValueError) as error:
        return {"failed": True, "changed": False, "msg": str(error)}
    if check_mode and outcome.changed:
        _sma.require()
    result = outcome.result()
    result["devices"] = _devices(wanted, family, outcome)
    result["counts"] = {
        "wanted": len(wanted),
        "applied": len(outcome.applied),
        "failed": len(outcome.failed),
        "not_tried": len(outcome.not_tried),
    }
    if outcome.notes:
        result["warnings"] = outcome.notes
    if outcome.failed:
        result.update(failed=True, msg=outcome.summary())
    return result


def _devices(wanted: Sequence[Item], family: Devices, outcome: Any) -> list[dict[str, Any]]:
    """One entry for each wanted item, in order: what it is now (in check mode: would be)."""
    applied = {entry["name"] for entry in outcome.applied}
    devices = []
    for item, slot in zip(wanted, family.placed):
        handle = None if slot is None else handle_of(slot)
        seen = outcome.after.get(handle)
        # Another device may still be in the slot that this one was to get.
        there = seen is not None and (item["state"] == "absent" or seen["volume"] == item["volume"])
        volume = item["volume"] or (seen or outcome.before.get(handle) or item)["volume"]
        bdev = family.state.bdevs.get(volume) if volume else None
        devices.append(
            {
                "physical_id": slot,
                "handle": handle,
                "volume": volume,
                "bdev": bdev,
                "serial": serial_of(bdev),
                "state": "present" if there else "absent",
                "changed": slot is not None and f"sma-{slot}" in applied,
            }
        )
    return devices


def look(params: Mapping[str, Any]) -> dict[str, Any]:
    """From the parameters of ``sma_info`` to its result. Raises ``_jsonrpc.Error``, ValueError, MissingLibrary."""
    with _sma.Client(params["address"], params["timeout"]) as sma:
        if params["wait"] > 0:
            sma.wait_ready(params["wait"])
        capabilities = sma.qos_capabilities()
    with Client(params["rpc_socket"], params["rpc_timeout"]) as spdk:
        state = read_state(spdk)
    devices = [device.as_data() for _slot, device in sorted(state.devices.items())]
    return {"devices": devices, "qos_capabilities": capabilities}
