# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The devices of an IPU: what SPDK says is there, and the family that SMA's calls bring to the wanted state.

SMA has no list call, and forgets with its process: the truth is in SPDK. A device of physical id N is there called
``sma-N``, and is one of

- a virtio-blk device: a vhost controller; its volume is the UUID of the controller's bdev;
- an NVMe device by vfio-user: a subsystem of the NVMe-oF target; its volumes are the UUIDs of the namespaces;
- an NVMe device of QEMU's own: an NBD disk, ``sma-N.nbd``, with one volume.
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
from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import Client, Error, RpcError
from ansible_collections.ipdk.storage.plugins.module_utils._progress import Progress
from ansible_collections.ipdk.storage.plugins.module_utils._reconcile import (
    Change,
    Plan,
    Refused,
    reconcile,
    refuse_duplicates,
)

VIRTIO_BLK, NVME = "virtio-blk", "nvme"
PROTOCOLS = {VIRTIO_BLK: "virtio_blk", NVME: "nvme"}
"""Interface → SMA's word for it, in handles and requests."""
_NAME = r"sma-(0|[1-9][0-9]{0,8})"
HANDLE = re.compile(rf"(virtio_blk|nvme):{_NAME}")
CONTROLLER = re.compile(_NAME)
SUBSYSTEM = re.compile(rf"nqn\.2022-06\.io\.ipdk:device:{_NAME}")
NBD_DISK = re.compile(rf"(?:.*/)?{_NAME}\.nbd")
NO_METHOD = -32601
SERIAL_LENGTH = 20  # virtio-blk's, and NVMe's; the bdev's name is cut
_POLL_SECONDS = 0.2

Item = dict  # physical_id (or None), volume (UUID or None), volumes (UUIDs or None), interface, state, replug


def handle_of(physical_id: int, interface: str = VIRTIO_BLK) -> str:
    """SMA's handle of the device in this slot."""
    return f"{PROTOCOLS[interface]}:sma-{physical_id}"


@dataclass(frozen=True)
class Device:
    """A device as SPDK has it. ``bdev`` and ``volume`` are None when the bdev is gone, or where there is none yet.

    ``connected``: some QEMU is; None where SPDK cannot tell. ``volumes``: all of an NVMe device; ``resident``: they
    stay for as long as the device is plugged.
    """

    physical_id: int
    bdev: str | None
    volume: str | None
    connected: bool | None
    limits: Mapping[str, int] = field(default_factory=dict)
    interface: str = VIRTIO_BLK
    volumes: tuple[str, ...] = ()
    resident: bool = True
    serial_number: str | None = None

    @property
    def handle(self) -> str:
        return handle_of(self.physical_id, self.interface)

    def as_data(self) -> dict[str, Any]:
        """For a module's result."""
        return {
            "physical_id": self.physical_id,
            "handle": self.handle,
            "interface": self.interface,
            "volume": self.volume,
            "volumes": list(self.volumes),
            "bdev": self.bdev,
            "serial": self.serial_number or serial_of(self.bdev),
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
    methods = ("vhost_get_controllers", "bdev_get_bdevs", "nvmf_get_subsystems", "nbd_get_disks")
    answers = spdk.pipeline([(method, None) for method in methods])
    for index, answer in enumerate(answers):
        # An SPDK that was built without NVMe-oF, or without NBD, has no such devices.
        if index > 1 and isinstance(answer, RpcError) and answer.code == NO_METHOD:
            answers[index] = []
        elif isinstance(answer, Error):
            raise answer
    return state_of(*answers)


def state_of(
    controllers: Sequence[Any], bdevs: Sequence[Any], subsystems: Sequence[Any] = (), disks: Sequence[Any] = ()
) -> State:
    """The state out of the answers of ``vhost_get_controllers``, ``bdev_get_bdevs``, ``nvmf_get_subsystems`` and
    ``nbd_get_disks``."""
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
    for subsystem in subsystems:
        match = SUBSYSTEM.fullmatch(subsystem["nqn"])
        if match is not None:
            served = [namespace["bdev_name"] for namespace in subsystem["namespaces"]]
            devices[int(match[1])] = _nvme(int(match[1]), served, by_name, False, subsystem["serial_number"])
    for disk in disks:
        match = NBD_DISK.fullmatch(disk["nbd_device"])
        if match is not None:
            devices[int(match[1])] = _nvme(int(match[1]), [disk["bdev_name"]], by_name, True, None)
    return State(devices, {bdev["uuid"]: bdev["name"] for bdev in bdevs if bdev.get("uuid")})


def _nvme(
    physical_id: int, served: Sequence[str], bdevs: Mapping[str, Any], resident: bool, serial: str | None
) -> Device:
    volumes = tuple(bdevs[name]["uuid"] for name in served if name in bdevs)
    first = bdevs.get(served[0], {}) if served else {}
    return Device(
        physical_id,
        served[0] if served else None,
        first.get("uuid"),
        None,
        first.get("assigned_rate_limits", {}),
        NVME,
        volumes,
        resident,
        serial,
    )


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
        self._volumes = {volume for item in wanted if item["state"] == "present" for volume in _wanted_volumes(item)}
        self._wait = wait
        self._going: dict[int, int] = {}

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
        for index, item in enumerate(wanted):
            # Its volume may have been detached before the deletion failed; then it is still that device that has to go.
            if item["state"] == "absent" and self.placed[index] is None:
                self.placed[index] = self._going.get(index)
        self._going = {index: slot for index, slot in enumerate(self.placed) if slot is not None}
        leaving: set[int] = set()
        for index, (item, there) in enumerate(zip(wanted, self.placed)):
            device = None if there is None else current.devices.get(there)
            if device is not None:
                plan.view[device.handle] = _view(device.physical_id, device.volume, device.volumes)
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
                if item["volume"] in (device.volume, *device.volumes):
                    return slot
        return None

    def _homeless(self, index: int, item: Item) -> bool:
        return self.placed[index] is None and item["physical_id"] is None

    def _plan_delete(self, plan: Plan, index: int, item: Item, device: Device) -> None:
        handle = device.handle
        left = [volume for volume in device.volumes if volume not in _wanted_volumes(item)]
        if left and (item["volume"] is None or len(device.volumes) > 1):
            some = ", ".join(left[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")
            problem = (
                f"devices[{index}]: {handle} has volumes still attached ({some}); name them in volumes, or detach them "
                "first"
            )
            plan.refusals.append(((handle,), problem))
        elif item["volume"] is not None and device.volume not in (None, item["volume"]):
            problem = (
                f"devices[{index}]: {handle} has the volume {device.volume}, not {item['volume']}; "
                "leave out the volume to delete the device whatever it has"
            )
            plan.refusals.append(((handle,), problem))
        calls = [] if device.resident else [_detach(handle, volume) for volume in device.volumes]
        calls.append(("DeleteDevice", {"handle": handle}))
        plan.changes.append(
            Change("delete", "device", f"sma-{device.physical_id}", (handle,), None, tuple(calls), len(plan.changes))
        )

    def _plan_present(self, plan: Plan, index: int, item: Item, current: State, leaving: set[int]) -> None:
        there, asked, volume = self.placed[index], item["physical_id"], item["volume"]
        if there in leaving and asked is not None:
            there = None
        if there in current.devices and asked not in (None, there):
            problem = (
                f"devices[{index}]: the volume {volume} is {current.devices[there].handle} already and is wanted with "
                f"physical_id {asked}; delete that device first"
            )
            plan.refusals.append(((current.devices[there].handle,), problem))
            return
        slot: Any = there if asked is None else asked
        self.placed[index] = slot
        handle = handle_of(slot, item["interface"])
        device = None if slot in leaving else current.devices.get(slot)
        if device is not None and device.interface != item["interface"]:
            problem = (
                f"devices[{index}]: physical_id {slot} is {device.handle}; choose another or delete that one first"
            )
            plan.refusals.append(((handle,), problem))
            return
        if item["interface"] == NVME and (item["volumes"] is not None or (device and not device.volumes)):
            self._plan_volumes(plan, item, slot, device, current)
            return
        if device is not None and device.volume != volume:
            behind = device.volume or f"a bdev that is gone ({device.bdev})" if device.bdev else "a bdev that is gone"
            problem = (
                f"devices[{index}]: physical_id {slot} is taken by {behind}; choose another or delete {handle} first"
            )
            plan.refusals.append(((handle,), problem))
            return
        if device is not None and device.connected is not False and not item["replug"]:
            return
        request = {
            "volume": {"volume_id": uuid.UUID(volume).bytes},
            PROTOCOLS[item["interface"]]: {"physical_id": slot},
        }
        calls: list[tuple[str, Mapping[str, Any] | None]] = [("CreateDevice", request)]
        if volume not in current.bdevs:
            # SMA would answer the same, a second later.
            calls.insert(0, ("bdev_get_bdevs", {"name": volume}))
        action = "create" if device is None else "replug"
        plan.changes.append(
            Change(
                action,
                "device",
                f"sma-{slot}",
                (handle,),
                _view(slot, volume, [volume] if item["interface"] == NVME else []),
                tuple(calls),
                len(plan.changes),
            )
        )

    def _plan_volumes(self, plan: Plan, item: Item, slot: int, device: Device | None, current: State) -> None:
        """An NVMe device with exactly these volumes, each attached and detached by itself."""
        handle = handle_of(slot, NVME)
        wanted, there = _wanted_volumes(item), [] if device is None else list(device.volumes)
        calls: list[tuple[str, Mapping[str, Any] | None]] = [
            ("bdev_get_bdevs", {"name": volume}) for volume in wanted if volume not in current.bdevs
        ]
        if device is None or item["replug"] or item["volume"] is not None:
            volume = {"volume": {"volume_id": uuid.UUID(item["volume"]).bytes}} if item["volume"] else {}
            calls.append(("CreateDevice", {"nvme": {"physical_id": slot}, **volume}))
        calls += [_detach(handle, volume) for volume in there if volume not in wanted]
        if item["volume"] is None:
            calls += [_attach(handle, volume) for volume in wanted if volume not in there]
        if calls:
            action = "create" if device is None else "replug" if wanted == there else "update"
            after = _view(slot, wanted[0] if wanted else None, wanted)
            plan.changes.append(
                Change(action, "device", f"sma-{slot}", (handle,), after, tuple(calls), len(plan.changes))
            )


def _attach(handle: str, volume: str) -> tuple[str, Mapping[str, Any]]:
    return "AttachVolume", {"device_handle": handle, "volume": {"volume_id": uuid.UUID(volume).bytes}}


def _detach(handle: str, volume: str) -> tuple[str, Mapping[str, Any]]:
    return "DetachVolume", {"device_handle": handle, "volume_id": uuid.UUID(volume).bytes}


def _wanted_volumes(item: Item) -> list[str]:
    return [item["volume"]] if item["volume"] is not None else list(item["volumes"] or [])


def _asks_for_slot(item: Item) -> bool:
    return item["state"] == "present" and item["physical_id"] is not None


def _view(physical_id: int, volume: str | None, volumes: Sequence[str] = ()) -> dict[str, Any]:
    more = {"volumes": list(volumes)} if len(volumes) > 1 else {}
    return {"physical_id": physical_id, "volume": volume, **more}


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
    several = [volume for item in wanted for volume in item["volumes"] or []]
    several += [item["volume"] for item in wanted if item["volume"] is not None and several]
    twice = sorted({volume for volume in several if several.count(volume) > 1})
    if twice:
        problems.append(f"devices: the volume {', '.join(twice)} is wanted more than once")
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
    volumes = item.get("volumes")
    if volumes is not None:
        volumes = [check_uuid(each, f"{where}.volumes[{at}]", problems) for at, each in enumerate(volumes)]
    interface = _interface(item, where, problems)
    if volumes is not None and interface == VIRTIO_BLK:
        problems.append(f"{where}.volumes: a virtio-blk device has one volume; an NVMe device (interface) has several")
    if volumes is not None and item.get("volume") is not None:
        problems.append(f"{where}: volume and volumes: say one of them")
    if volumes is not None and state == "present" and physical_id is None and item.get("handle") is None:
        problems.append(f"{where}: a device with volumes needs its physical_id or handle")
    if state == "present" and item.get("volume") is None and volumes is None:
        problems.append(f"{where}: a device that shall be present needs its volume")
    if state == "absent" and physical_id is None and item.get("volume") is None and item.get("handle") is None:
        problems.append(f"{where}: say which device shall be absent: handle, physical_id or volume")
    return {
        "physical_id": physical_id,
        "volume": volume,
        "volumes": volumes,
        "interface": interface,
        "state": state,
        "replug": bool(item.get("replug")),
    }


def _interface(item: Mapping[str, Any], where: str, problems: list[str]) -> str:
    """What the item names, or what its handle is of."""
    match = HANDLE.fullmatch(item.get("handle") or "")
    named = item.get("interface")
    if match is None:
        return named or VIRTIO_BLK
    of_handle = next(interface for interface, protocol in PROTOCOLS.items() if protocol == match[1])
    if named not in (None, of_handle):
        problems.append(f"{where}: {item['handle']} is no handle of a device with interface {named}")
    return of_handle


def check_device(item: Mapping[str, Any], where: str, last: int, problems: list[str]) -> int | None:
    """The physical id of the device that an item names by ``physical_id`` or ``handle``; None where it names none."""
    physical_id = check_range(item.get("physical_id"), 0, last, f"{where}.physical_id", problems)
    if item.get("handle") is None:
        return physical_id
    match = HANDLE.fullmatch(item["handle"])
    if match is None:
        wanted = "virtio_blk:sma-<n> or nvme:sma-<n>"
        problems.append(f"{where}.handle: {item['handle']!r} is no handle of a device ({wanted})")
    elif physical_id not in (None, int(match[2])):
        problems.append(f"{where}: {item['handle']} is not the device of physical_id {physical_id}")
    else:
        physical_id = check_range(int(match[2]), 0, last, f"{where}.handle", problems)
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
        interface = item["interface"]
        if item["state"] == "absent" and slot is not None:
            # Of what was there, whatever it was called: who deletes by volume need not say the interface.
            interface = next((each for each in PROTOCOLS if handle_of(slot, each) in outcome.before), interface)
        handle = None if slot is None else handle_of(slot, interface)
        seen = outcome.after.get(handle)
        # Another device may still be in the slot that this one was to get.
        there = seen is not None and (
            item["state"] == "absent" or item["volumes"] is not None or seen["volume"] == item["volume"]
        )
        volume = item["volume"] or (seen or outcome.before.get(handle) or item)["volume"]
        volumes = (seen or {}).get("volumes") or ([volume] if volume and interface == NVME else [])
        bdev = family.state.bdevs.get(volume) if volume else None
        devices.append(
            {
                "physical_id": slot,
                "handle": handle,
                "interface": interface,
                "volume": volume,
                "volumes": volumes if interface == NVME else [],
                "bdev": bdev,
                "serial": f"sma-{slot}" if item["volumes"] is not None else serial_of(bdev),
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
