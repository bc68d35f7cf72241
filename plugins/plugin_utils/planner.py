# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The planner: a list of virtual disks and the state of three sides in, ordered steps out.

Everything here is a pure function of plain data (what JSON can carry). Nothing talks to a node, nothing knows Ansible.

Shapes

``disks``: what the operator wrote; see :func:`validate`.

``nodes``: what the inventory declares::

    {"targets": {"st1": {"address": "198.18.0.2", "port": 4420, "volumes_dir": "/var/lib/ipdk/st1/volumes"}},
     "ipus":    {"ipu1": {"host_nqn": "nqn.2014-08.org.nvmexpress:uuid:…", "max_disks": 64}},
     "hosts":   {"host1": {"ipu": "ipu1", "access": "ssh"}}}

``port``, ``volumes_dir``, ``host_nqn`` and ``max_disks`` may be null for a node that is not observed.

``observed``: what is there, by node; a node that is left out, null or ``{}`` is *unknown*, never empty::

    {"st1":   {"bdevs": bdev_get_bdevs, "subsystems": nvmf_get_subsystems, "transports": nvmf_get_transports},
     "ipu1":  {"nvme_controllers": bdev_nvme_get_controllers, "bdevs": bdev_get_bdevs,
               "vhost_controllers": vhost_get_controllers},
     "host1": {"disks": what the module host_disk_info returns}}

``options``: ``safe_mode`` (default true: no data is destroyed), ``force`` (default false: no disk in use is unplugged),
``state`` (null, or the state that replaces the one of every item).
"""

from __future__ import annotations

import difflib
import re
import uuid as uuid_module
from dataclasses import asdict, dataclass
from typing import Any

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_.-]{0,30}")
NODE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
DIRECTORY_PATTERN = re.compile(r"(/[A-Za-z0-9][A-Za-z0-9_.-]*)+")
SIZE_PATTERN = re.compile(r"([0-9]+) ?(B|KiB|MiB|GiB|TiB)?")
UNITS = {None: 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}

STATES = ("attached", "detached", "absent")
INTERFACES = ("virtio-blk",)
BLOCK_SIZES = (512, 4096)
ACCESS = ("ssh", "none")
BACKINGS = {"malloc": "Malloc disk", "aio": "AIO disk", "null": "Null disk"}
"""Backing type → the ``product_name`` that SPDK gives such a bdev."""

ITEM_KEYS = ("name", "size", "backing", "target", "host", "interface", "physical_id", "state")
BACKING_KEYS = ("type", "block_size", "directory")

SERIAL_LENGTH = 20
"""A virtio-blk serial is 20 bytes (virtio 1.2, section 5.2.6.1: VIRTIO_BLK_T_GET_ID); the rest of a name is cut off."""
TARGET_NAME_LENGTH = 14
"""Leaves room for ``n`` and five digits of a namespace id in the serial."""
MAX_NAMESPACES = 1024
"""Of a subsystem; SPDK cannot change it later, and gateways with thousands of namespaces are known to suffer."""

STAGES = ("unplug", "release", "bdevs", "subsystems", "controllers", "attach")


class InvalidDisks(ValueError):
    """The declaration cannot be right, whatever the nodes look like. ``errors`` has one message for each mistake."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


@dataclass
class Disk:
    """One valid item of the declaration, defaults filled in."""

    name: str
    size: int
    backing: str
    block_size: int
    filename: str | None
    target: str
    ipu: str
    host: str
    physical_id: int | None
    state: str

    @property
    def uuid(self) -> str:
        return volume_uuid(self.name, self.target)

    @property
    def nqn(self) -> str:
        return subsystem_nqn(self.target, self.ipu)


def volume_uuid(name: str, target: str) -> str:
    """The UUID of the bdev behind a virtual disk; it is how a volume of ours is told from somebody else's."""
    return str(uuid_module.uuid5(uuid_module.NAMESPACE_DNS, f"{name}.{target}.ipdk.storage"))


def subsystem_nqn(target: str, ipu: str) -> str:
    """One subsystem for each pair of a storage target and an IPU, so that an IPU is admitted to its own disks only."""
    return f"nqn.2022-06.io.ipdk:{target}:{ipu}"


def subsystem_serial(nqn: str) -> str:
    """A stable serial number for the subsystem: 20 characters are what Identify Controller has room for."""
    return uuid_module.uuid5(uuid_module.NAMESPACE_DNS, nqn).hex[:SERIAL_LENGTH].upper()


def human_size(size: int) -> str:
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size % UNITS[unit] == 0:
            return f"{size // UNITS[unit]} {unit}"
    return f"{size} bytes"


# Validation


def validate(disks: Any, nodes: dict[str, Any], options: dict[str, Any] | None = None) -> list[Disk]:
    """Check the declaration against itself and the inventory and fill in its defaults.

    Raises :class:`InvalidDisks` with all mistakes found. What only the nodes' state can tell (a slot taken by
    somebody else, a size that differs) is left to :func:`plan`.
    """
    options = options or {}
    if not isinstance(disks, list):
        raise InvalidDisks([f"virtual_disks: wanted a list of disks, got {_type_name(disks)}."])
    errors: list[str] = []
    override = options.get("state")
    if override is not None and override not in STATES:
        errors.append(f"virtual_disks_state: wanted one of {_listed(STATES)}, got {override!r}.")
        override = None
    valid = [
        disk
        for index, item in enumerate(disks)
        for disk in [_Item(index, item, nodes, override, errors).disk()]
        if disk is not None
    ]
    if options.get("safe_mode", True):
        leave = (
            "destroys data, and ipdk_safe_mode is true. "
            "Set ipdk_safe_mode: false to allow it, or use detached to keep the data."
        )
        if override == "absent":
            errors.append(f"virtual_disks_state: absent {leave}")
        errors += [
            f"virtual_disks[{index}] ({item.get('name')!r}): state absent {leave}"
            for index, item in enumerate(disks)
            if override is None and isinstance(item, dict) and item.get("state") == "absent"
        ]
    errors += _duplicates(disks, nodes, override)
    errors += _too_many(valid, nodes)
    if errors:
        raise InvalidDisks(errors)
    return valid


class _Item:
    """The checks of one item; every mistake goes to ``errors``, naming the item by index and name."""

    def __init__(self, index: int, item: Any, nodes: dict[str, Any], override: str | None, errors: list[str]) -> None:
        self.item = item
        self.nodes = nodes
        self.override = override
        self.errors = errors
        name = item.get("name") if isinstance(item, dict) else None
        self.where = f"virtual_disks[{index}]" + (f" ({name!r})" if name is not None else "")
        self.ok = True

    def wrong(self, message: str) -> None:
        self.ok = False
        self.errors.append(f"{self.where}: {message}")

    def disk(self) -> Disk | None:
        if not isinstance(self.item, dict):
            self.wrong(f"wanted a dictionary with name, size and backing, got {_type_name(self.item)}.")
            return None
        self._unknown_keys(self.item, ITEM_KEYS, "key")
        name = self._name()
        backing, block_size, directory = self._backing()
        size = self._size(block_size)
        target = self._target()
        host, ipu = self._host()
        physical_id = self._physical_id(ipu)
        interface = self._choice(self.item, "interface", INTERFACES, "virtio-blk")
        if self.item.get("interface") == "nvme":
            self.errors.pop()
            self.wrong(
                "interface nvme is not supported yet: the IPU shows virtio-blk disks only. Use interface: virtio-blk."
            )
        state = self._choice(self.item, "state", STATES, "attached")
        if not self.ok or None in (name, backing, size, target, host, ipu, interface, state):
            return None
        filename = None
        if backing == "aio":
            directory = directory or self.nodes["targets"][target].get("volumes_dir")
            if not directory:
                self.wrong(f"backing aio wants a directory on {target}: set backing.directory.")
                return None
            filename = f"{directory}/{name}.img"
        return Disk(name, size, backing, block_size, filename, target, ipu, host, physical_id, self.override or state)

    def _unknown_keys(self, given: dict[str, Any], known: tuple[str, ...], what: str) -> None:
        for key in given:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.6)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                self.wrong(f"unknown {what} {key!r}.{hint} Known: {_listed(known)}.")

    def _choice(self, given: dict[str, Any], key: str, choices: tuple[str, ...], default: str | None) -> str | None:
        value = given.get(key, default)
        if value is None:
            self.wrong(f"{key} is missing: wanted one of {_listed(choices)}.")
            return None
        if not isinstance(value, str) or value not in choices:
            self.wrong(f"{key}: wanted one of {_listed(choices)}, got {value!r}.")
            return None
        return value

    def _name(self) -> str | None:
        name = self.item.get("name")
        if name is None:
            self.wrong("name is missing: wanted a unique name, such as vol00.")
        elif not isinstance(name, str):
            self.wrong(f"name: wanted a string, got {_type_name(name)}.")
        elif not NAME_PATTERN.fullmatch(name) or ".." in name:
            self.wrong(
                "name: wanted 1 to 31 characters of a-z, 0-9, '_', '.', '-', the first a letter or digit, without '..' "
                f"(it becomes a bdev and maybe a file), got {name!r}."
            )
        else:
            return name
        return None

    def _backing(self) -> tuple[str | None, int, str | None]:
        backing = self.item.get("backing")
        if not isinstance(backing, dict):
            got = "nothing" if backing is None else _type_name(backing)
            self.wrong(f"backing: wanted a dictionary such as {{type: malloc, block_size: 512}}, got {got}.")
            return None, 512, None
        self._unknown_keys(backing, BACKING_KEYS, "key in backing:")
        kind = self._choice(backing, "type", tuple(BACKINGS), None)
        block_size = backing.get("block_size", 512)
        if not _is_int(block_size) or block_size not in BLOCK_SIZES:
            self.wrong(f"backing.block_size: wanted {_listed(BLOCK_SIZES)} (bytes), got {block_size!r}.")
            block_size = 512
        directory = backing.get("directory")
        if directory is not None:
            if kind != "aio":
                self.wrong(f"backing.directory is for type aio, not for {kind}: leave it out.")
            elif not isinstance(directory, str) or not DIRECTORY_PATTERN.fullmatch(directory):
                self.wrong(f"backing.directory: wanted an absolute path without '..' or spaces, got {directory!r}.")
        return kind, block_size, directory

    def _size(self, block_size: int) -> int | None:
        given = self.item.get("size")
        match = SIZE_PATTERN.fullmatch(given) if isinstance(given, str) else None
        if _is_int(given):
            size = given
        elif match:
            size = int(match[1]) * UNITS[match[2]]
        else:
            got = "nothing" if given is None else repr(given)
            self.wrong(f"size: wanted bytes, or a number with KiB, MiB, GiB or TiB (64MiB), got {got}.")
            return None
        if size <= 0:
            self.wrong(f"size: wanted more than 0 bytes, got {given!r}.")
        elif size % block_size:
            lower = size - size % block_size
            self.wrong(
                f"size: {size} bytes is no multiple of the block size {block_size}; "
                f"the nearest are {lower} and {lower + block_size}."
            )
        else:
            return size
        return None

    def _target(self) -> str | None:
        name = self._node("target", "targets", "storage_targets", "storage target")
        if name is None:
            return None
        declared = self.nodes["targets"][name]
        if len(name) > TARGET_NAME_LENGTH or not NODE_PATTERN.fullmatch(name):
            self.wrong(
                f"target {name!r}: the disk's serial is '<target>n<namespace>' and has {SERIAL_LENGTH} characters, so "
                f"the name wants at most {TARGET_NAME_LENGTH} of letters, digits, '.', '_', '-', but has {len(name)}. "
                "Rename it in the inventory."
            )
            return None
        if not declared.get("address"):
            self.wrong(
                f"target {name!r} has no storage_target_address in the inventory: set the address it listens on."
            )
            return None
        return name

    def _host(self) -> tuple[str | None, str | None]:
        name = self._node("host", "hosts", "ipu_hosts", "host")
        if name is None:
            return None, None
        declared = self.nodes["hosts"][name]
        ipus = self.nodes.get("ipus") or {}
        ipu = declared.get("ipu")
        if not ipu:
            self.wrong(f"host {name!r} has no IPU: set host_ipu to one of {_listed(ipus) or 'the group ipus'}.")
            return name, None
        if ipu not in ipus:
            self.wrong(
                f"host {name!r}: host_ipu is {ipu!r}, which is not in the group ipus ({_listed(ipus) or 'empty'})."
            )
            return name, None
        if not NODE_PATTERN.fullmatch(ipu):
            self.wrong(f"IPU {ipu!r}: the name becomes part of an NQN; use letters, digits, '.', '_', '-'.")
            return name, None
        sharing = [other for other, other_declared in self.nodes["hosts"].items() if other_declared.get("ipu") == ipu]
        if len(sharing) > 1:
            self.wrong(f"IPU {ipu!r} stands behind several hosts ({_listed(sharing)}); its disks can have one only.")
            return name, None
        if declared.get("access", "ssh") not in ACCESS:
            self.wrong(f"host {name!r}: ipdk_host_access: wanted one of {_listed(ACCESS)}, got {declared['access']!r}.")
            return name, None
        return name, ipu

    def _node(self, key: str, kind: str, group: str, what: str) -> str | None:
        known = self.nodes.get(kind) or {}
        name = self.item.get(key)
        if name is None:
            if len(known) == 1:
                return next(iter(known))
            problem = f"there are {len(known)} ({_listed(known)})" if known else f"the group {group} is empty"
            self.wrong(f"{key} may be left out only where there is exactly one {what}; {problem}.")
            return None
        if not isinstance(name, str):
            self.wrong(f"{key}: wanted the name of a {what}, got {_type_name(name)}.")
            return None
        if name not in known:
            close = difflib.get_close_matches(name, list(known), n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            self.wrong(f"{key}: {name!r} is not in the group {group} ({_listed(known) or 'empty'}).{hint}")
            return None
        return name

    def _physical_id(self, ipu: str | None) -> int | None:
        value = self.item.get("physical_id")
        if value is None:
            return None
        if not _is_int(value):
            self.wrong(f"physical_id: wanted a whole number, got {_type_name(value)} {value!r}.")
            return None
        if ipu is not None:
            slots = self.nodes["ipus"][ipu]["max_disks"]
            if value < 0 or (slots is not None and value >= slots):
                self.wrong(f"physical_id: {ipu} has slots 0 to {slots - 1} (ipu_max_virtual_disks), got {value}.")
                return None
        return value


def _duplicates(disks: list[Any], nodes: dict[str, Any], override: str | None) -> list[str]:
    errors: list[str] = []
    names: dict[str, int] = {}
    slots: dict[tuple[str, int], int] = {}
    hosts = nodes.get("hosts") or {}
    for index, item in enumerate(disks):
        if not isinstance(item, dict):
            continue
        name = item.get("name")
        if isinstance(name, str) and names.setdefault(name, index) != index:
            errors.append(
                f"virtual_disks[{names[name]}] and virtual_disks[{index}] are both called {name!r}: rename one."
            )
        physical_id = item.get("physical_id")
        host = item.get("host", next(iter(hosts)) if len(hosts) == 1 else None)
        ipu = hosts[host].get("ipu") if isinstance(host, str) and host in hosts else None
        if not _is_int(physical_id) or ipu is None or (override or item.get("state")) == "absent":
            continue
        first = slots.setdefault((ipu, physical_id), index)
        if first != index:
            errors.append(
                f"virtual_disks[{first}] ({disks[first].get('name')!r}) and virtual_disks[{index}] ({name!r}) both "
                f"want physical_id {physical_id} on {ipu}: give one of them another, or leave it out."
            )
    return errors


def _too_many(disks: list[Disk], nodes: dict[str, Any]) -> list[str]:
    errors = []
    wanted: dict[str, int] = {}
    volumes: dict[tuple[str, str], int] = {}
    for disk in disks:
        if disk.state == "attached":
            wanted[disk.ipu] = wanted.get(disk.ipu, 0) + 1
        if disk.state != "absent":
            volumes[disk.target, disk.ipu] = volumes.get((disk.target, disk.ipu), 0) + 1
    for ipu, count in wanted.items():
        slots = nodes["ipus"][ipu]["max_disks"]
        if slots is not None and count > slots:
            errors.append(
                f"virtual_disks: {count} disks are to be attached through {ipu}, which has {slots} slots "
                "(ipu_max_virtual_disks). Raise it and deploy the IPU again, or detach some."
            )
    for (target, ipu), count in volumes.items():
        if count > MAX_NAMESPACES:
            errors.append(
                f"virtual_disks: {count} disks from {target} through {ipu}; "
                f"one subsystem carries {MAX_NAMESPACES} at most."
            )
    return errors


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _type_name(value: Any) -> str:
    for kind, name in (
        (bool, "a boolean"),
        (str, "a string"),
        (int, "a number"),
        (float, "a number with a fraction"),
        (dict, "a dictionary"),
        (list, "a list"),
    ):
        if isinstance(value, kind):
            return name
    return "nothing" if value is None else type(value).__name__


def _listed(names: Any) -> str:
    return ", ".join(str(name) for name in names)


# Reading what is there


@dataclass
class _Target:
    """A storage target as observed."""

    bdevs: dict[str, dict[str, Any]]
    subsystems: dict[str, dict[str, Any]]
    has_tcp: bool

    @classmethod
    def of(cls, state: dict[str, Any]) -> _Target:
        return cls(
            {bdev["name"]: bdev for bdev in state["bdevs"]},
            {subsystem["nqn"]: subsystem for subsystem in state["subsystems"]},
            any(transport["trtype"].upper() == "TCP" for transport in state["transports"]),
        )

    def places(self, bdev: str) -> list[tuple[str, int]]:
        """Where a bdev is a namespace: pairs of NQN and NSID."""
        return [
            (nqn, namespace["nsid"])
            for nqn, subsystem in self.subsystems.items()
            for namespace in subsystem.get("namespaces", [])
            if namespace["bdev_name"] == bdev
        ]


@dataclass
class _Ipu:
    """An IPU as observed. ``devices`` maps physical ids to the name of the bdev behind (null where it is gone).

    ``unplugged``: the physical ids of those that no QEMU is connected to, because the host was started anew.
    """

    controllers: dict[str, dict[str, Any]]
    devices: dict[int, str | None]
    unplugged: set[int]
    bdevs: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, state: dict[str, Any]) -> _Ipu:
        devices: dict[int, str | None] = {}
        unplugged = set()
        for controller in state["vhost_controllers"]:
            match = re.fullmatch(r"sma-([0-9]+)", controller["ctrlr"])
            if match:
                devices[int(match[1])] = controller.get("backend_specific", {}).get("block", {}).get("bdev")
                if not controller.get("sessions"):
                    unplugged.add(int(match[1]))
        return cls(
            {controller["name"]: controller for controller in state["nvme_controllers"]},
            devices,
            unplugged,
            {bdev["name"]: bdev for bdev in state["bdevs"]},
        )

    def remembered(self, controller: str) -> dict[int, str]:
        """NSID → UUID of a controller's bdevs."""
        matches = [(re.fullmatch(re.escape(controller) + "n([0-9]+)", name), bdev) for name, bdev in self.bdevs.items()]
        return {int(match[1]): bdev["uuid"] for match, bdev in matches if match}

    def physical_id(self, bdev: str) -> int | None:
        return next((physical_id for physical_id, behind in sorted(self.devices.items()) if behind == bdev), None)


def disk_uses(disk: dict[str, Any]) -> list[str]:
    """Why a disk of a host, as host_disk_info returns it, must not be unplugged now; empty if nothing uses it."""
    uses = [f"mounted on {mount}" for mount in disk.get("mounts") or []]
    uses += [f"used as swap ({swap})" for swap in disk.get("swaps") or []]
    uses += [f"held by {holder}" for holder in disk.get("holders") or []]
    if disk.get("open") and not uses:
        uses.append("open in a process")
    return uses


# Planning


@dataclass
class _Step:
    """One thing to do on one node. ``arguments`` is one entry of the list that the module of this stage takes.

    ``disk`` is null for what several disks share (a controller, an existing subsystem).
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
    """Where ``serial`` has to appear (attach) or to disappear (unplug); null where nobody looks."""
    serial: str | None = None


class _Refused(Exception):
    """This disk cannot be brought to its state; ``node`` is where the reason lies."""

    def __init__(self, node: str, message: str) -> None:
        super().__init__(message)
        self.node = node


class _Planner:
    def __init__(self, disks: list[Disk], nodes: dict[str, Any], observed: dict[str, Any], force: bool) -> None:
        self.disks = disks
        self.nodes = nodes
        self.force = force
        self.targets = {name: _Target.of(observed[name]) for name in nodes["targets"] if observed.get(name)}
        self.ipus = {name: _Ipu.of(observed[name]) for name in nodes["ipus"] if observed.get(name)}
        self.hosts = {
            name: {disk["serial"]: disk for disk in observed[name]["disks"] if disk.get("serial")}
            for name in nodes["hosts"]
            if observed.get(name)
        }
        self.ipu_host = {declared["ipu"]: name for name, declared in nodes["hosts"].items() if declared.get("ipu")}
        self.steps: list[_Step] = []
        self.results: dict[str, dict[str, Any]] = {}
        self.problems: list[dict[str, Any]] = []
        self.nsids = {
            nqn: {namespace["nsid"] for namespace in subsystem.get("namespaces", [])}
            for state in self.targets.values()
            for nqn, subsystem in state.subsystems.items()
        }
        self.freed: dict[str, set[int]] = {ipu: set() for ipu in self.ipus}
        self.claimed: dict[str, set[int]] = {ipu: set() for ipu in self.ipus}

    def run(self) -> None:
        # What frees a slot is planned before what wants one, and who names or has a slot before who takes any.
        for disk in sorted(
            self.disks, key=lambda disk: (disk.state == "attached") * (1 + (self._slot_wish(disk) is None))
        ):
            planned = len(self.steps)
            try:
                self._plan_disk(disk)
            except _Refused as refused:
                # A disk is planned as a whole or not at all.
                del self.steps[planned:]
                self.problems.append({"node": refused.node, "disk": disk.name, "message": f"{disk.name}: {refused}"})
                self.results[disk.name].update(action="none", converged=False, reason=str(refused))
            else:
                for step in self.steps[planned:]:
                    if step.stage == "unplug":
                        self.freed[step.node].add(step.arguments["physical_id"])
        listed = {disk.name: index for index, disk in enumerate(self.disks)}
        self.steps.sort(key=lambda step: (STAGES.index(step.stage), listed.get(step.disk or "", -1)))

    def _slot_wish(self, disk: Disk) -> int | None:
        """The slot that the item names, or the one that the disk has."""
        target, ipu = self.targets.get(disk.target), self.ipus.get(disk.ipu)
        if disk.physical_id is not None or target is None or ipu is None:
            return disk.physical_id
        slots = [ipu.physical_id(f"{disk.target}n{nsid}") for nqn, nsid in target.places(disk.name) if nqn == disk.nqn]
        return slots[0] if slots else None

    def _add(
        self,
        stage: str,
        node: str,
        action: str,
        kind: str,
        name: str,
        disk: Disk | None,
        detail: str,
        arguments: dict[str, Any],
        **more: Any,
    ) -> None:
        owner = disk.name if disk is not None else None
        self.steps.append(_Step(stage, node, action, kind, name, owner, detail, arguments, **more))

    def _planned(self, stage: str, node: str, name: str) -> bool:
        return any(step.stage == stage and step.node == node and step.name == name for step in self.steps)

    def _access(self, host: str) -> str:
        return self.nodes["hosts"][host].get("access", "ssh")

    def _plan_disk(self, disk: Disk) -> None:
        result = self.results[disk.name] = {
            "name": disk.name,
            "state": disk.state,
            "size": disk.size,
            "target": disk.target,
            "ipu": disk.ipu,
            "host": disk.host,
            "uuid": disk.uuid,
            "nqn": disk.nqn,
            "nsid": None,
            "serial": None,
            "physical_id": None,
            "handle": None,
            "volume": None,
            "action": "none",
            "converged": True,
            "reason": None,
        }
        for kind, node, known in (("storage target", disk.target, self.targets), ("IPU", disk.ipu, self.ipus)):
            if node not in known:
                raise _Refused(
                    node, f"the state of the {kind} {node} is unknown (no answer); nothing is changed for this disk."
                )
        if self._access(disk.host) == "ssh" and disk.host not in self.hosts:
            raise _Refused(
                disk.host,
                f"the state of the host {disk.host} is unknown (no answer); nothing is changed for this disk. "
                "If nobody may log in there, set ipdk_host_access: none.",
            )
        volume = self._volume(disk)
        places = self.targets[disk.target].places(disk.name) if volume else []
        result["volume"] = volume is not None
        here = next((nsid for nqn, nsid in places if nqn == disk.nqn), None)
        if here is not None:
            result.update(nsid=here, serial=f"{disk.target}n{here}")
        first = len(self.steps)
        if disk.state == "attached":
            self._attach(disk, result, volume, places)
        else:
            self._remove(disk, result, volume, places)
        if len(self.steps) > first:
            result["action"] = {"attached": "attach", "detached": "detach", "absent": "destroy"}[disk.state]

    def _volume(self, disk: Disk) -> dict[str, Any] | None:
        """The disk's bdev as observed. Refuses one that is not this disk's, or that cannot become what is wanted."""
        bdev = self.targets[disk.target].bdevs.get(disk.name)
        if bdev is None:
            return None
        if bdev["uuid"] != disk.uuid:
            raise _Refused(
                disk.target,
                f"{disk.target} has a bdev {disk.name} with UUID {bdev['uuid']}, where {disk.uuid} was wanted: it was "
                "not made for this virtual disk and is left alone. Rename the virtual disk, or remove that bdev.",
            )
        if disk.state != "attached":
            return bdev
        size = bdev["block_size"] * bdev["num_blocks"]
        for what, wanted, there in (
            (
                "backing",
                disk.backing,
                bdev["product_name"] if bdev["product_name"] != BACKINGS[disk.backing] else disk.backing,
            ),
            ("block size", disk.block_size, bdev["block_size"]),
        ):
            if wanted != there:
                raise _Refused(
                    disk.target,
                    f"{what}: {wanted} was wanted, but the volume on {disk.target} has {there}; that cannot be changed "
                    "without losing its data, so it is left as it is. Declare what it has, or make it absent first.",
                )
        if size != disk.size:
            raise _Refused(
                disk.target,
                f"size: {human_size(disk.size)} was wanted, but the volume on {disk.target} has {human_size(size)}; "
                f"a {disk.backing} bdev is not resized, so it is left as it is. "
                f"Declare size: {size}, or make it absent first, which destroys its data.",
            )
        return bdev

    # attached

    def _attach(
        self, disk: Disk, result: dict[str, Any], volume: dict[str, Any] | None, places: list[tuple[str, int]]
    ) -> None:
        if not self.targets[disk.target].has_tcp:
            raise _Refused(
                disk.target,
                f"{disk.target} has no NVMe/TCP transport; deploy the storage target first (playbook deploy).",
            )
        for nqn, nsid in places:
            if nqn != disk.nqn:
                self._take_back(disk, nqn, nsid)
        if volume is None:
            arguments = {
                "name": disk.name,
                "type": disk.backing,
                "size": disk.size,
                "block_size": disk.block_size,
                "uuid": disk.uuid,
                "state": "present",
            }
            if disk.filename:
                arguments["filename"] = disk.filename
            self._add(
                "bdevs",
                disk.target,
                "create",
                "bdev",
                disk.name,
                disk,
                f"{disk.backing}, {human_size(disk.size)}",
                arguments,
            )
            result["volume"] = True
        if result["serial"] is None:
            nsid = self._free_nsid(disk)
            result.update(nsid=nsid, serial=f"{disk.target}n{nsid}")
            self._add(
                "subsystems",
                disk.target,
                "add",
                "namespace",
                f"{disk.name} ({nsid})",
                disk,
                disk.nqn,
                {"bdev": disk.name, "nsid": nsid, "state": "present"},
                subsystem=self._subsystem(disk),
            )
        elif not self._admitted(disk) and not self._planned("subsystems", disk.target, disk.nqn):
            self._add(
                "subsystems",
                disk.target,
                "open",
                "subsystem",
                disk.nqn,
                None,
                f"to {disk.ipu}",
                {},
                subsystem=self._subsystem(disk),
            )
        self._connect(disk)
        self._plug(disk, result)

    def _take_back(self, disk: Disk, nqn: str, nsid: int) -> None:
        """The volume is another IPU's namespace (the item names another host now): unplug it there, and release it."""
        old = next((ipu for ipu in self.nodes["ipus"] if subsystem_nqn(disk.target, ipu) == nqn), None)
        if old is None:
            raise _Refused(
                disk.target,
                f"its volume is namespace {nsid} of {nqn}, which is none of this inventory; remove it there.",
            )
        if old not in self.ipus:
            raise _Refused(
                old,
                f"its volume still belongs to the IPU {old}, whose state is unknown; nothing is changed for this disk.",
            )
        slot = self.ipus[old].physical_id(f"{disk.target}n{nsid}")
        if slot is not None:
            self._unplug(disk, old, slot, f"{disk.target}n{nsid}")
        self._release(disk, nqn, nsid)

    def _free_nsid(self, disk: Disk) -> int:
        """The NSID by which the IPU still knows this volume, or else the lowest that nobody has.

        A storage target that was started anew may have lost its namespaces while the IPU waits for them: under their
        old NSIDs its devices go on where they were. One released in this run is not free yet: its serial may be seen.
        """
        taken = self.nsids.setdefault(disk.nqn, set())
        remembered = self.ipus[disk.ipu].remembered(disk.target)
        used = taken | remembered.keys()
        lowest = next(number for number in range(1, len(used) + 2) if number not in used)
        known = [number for number, uuid in remembered.items() if uuid == disk.uuid and number not in taken]
        nsid = known[0] if known else lowest
        if nsid > MAX_NAMESPACES:
            raise _Refused(
                disk.target, f"{disk.nqn} has all of its {MAX_NAMESPACES} namespaces; make some disks absent."
            )
        taken.add(nsid)
        return nsid

    def _admitted(self, disk: Disk) -> bool:
        """Is the subsystem, which exists, open to this IPU at the declared address?"""
        subsystem = self.targets[disk.target].subsystems[disk.nqn]
        declared = self.nodes["targets"][disk.target]
        return any(
            (listener["traddr"], str(listener["trsvcid"])) == (declared["address"], str(declared["port"]))
            for listener in subsystem["listen_addresses"]
        ) and any(host["nqn"] == self.nodes["ipus"][disk.ipu]["host_nqn"] for host in subsystem["hosts"])

    def _subsystem(self, disk: Disk) -> dict[str, Any]:
        declared = self.nodes["targets"][disk.target]
        return {
            "nqn": disk.nqn,
            "serial_number": subsystem_serial(disk.nqn),
            "model_number": "ipdk.storage",
            "max_namespaces": MAX_NAMESPACES,
            "hosts": [self.nodes["ipus"][disk.ipu]["host_nqn"]],
            "listeners": [{"trtype": "TCP", "traddr": declared["address"], "trsvcid": str(declared["port"])}],
        }

    def _connect(self, disk: Disk) -> None:
        declared = self.nodes["targets"][disk.target]
        address, port = declared["address"], str(declared["port"])
        there = self.ipus[disk.ipu].controllers.get(disk.target)
        if there is None:
            if not self._planned("controllers", disk.ipu, disk.target):
                self._add(
                    "controllers",
                    disk.ipu,
                    "connect",
                    "controller",
                    disk.target,
                    None,
                    disk.nqn,
                    {
                        "name": disk.target,
                        "traddr": address,
                        "trsvcid": port,
                        "subnqn": disk.nqn,
                        "hostnqn": self.nodes["ipus"][disk.ipu]["host_nqn"],
                        "state": "present",
                    },
                )
            return
        paths = [
            (path["trid"]["subnqn"], path["trid"]["traddr"], str(path["trid"]["trsvcid"])) for path in there["ctrlrs"]
        ]
        if (disk.nqn, address, port) not in paths:
            seen = ", ".join(f"{nqn} at {traddr}:{trsvcid}" for nqn, traddr, trsvcid in paths)
            raise _Refused(
                disk.ipu,
                f"{disk.ipu} has an NVMe controller {disk.target} connected to {seen or 'nothing'}, where {disk.nqn} "
                f"at {address}:{port} was wanted. Detach its disks, then that controller, and run again.",
            )

    def _plug(self, disk: Disk, result: dict[str, Any]) -> None:
        serial = result["serial"]
        looked_at = self._access(disk.host) == "ssh"
        slot = self.ipus[disk.ipu].physical_id(serial)
        if slot is not None and disk.physical_id not in (None, slot):
            self._unplug(disk, disk.ipu, slot, serial)
            slot = None
        if slot is None:
            slot = self._free_slot(disk)
            detail = serial
        elif slot in self.ipus[disk.ipu].unplugged or (looked_at and serial not in self.hosts[disk.host]):
            detail = f"{serial}: {disk.ipu} has the device, but {disk.host} does not"
        else:
            detail = ""
        if detail:
            self._add(
                "attach",
                disk.ipu,
                "attach",
                "device",
                f"{disk.name} (sma-{slot})",
                disk,
                detail,
                {"physical_id": slot, "volume": disk.uuid, "state": "present"},
                host=disk.host if looked_at else None,
                serial=serial,
            )
        result.update(physical_id=slot, handle=f"virtio_blk:sma-{slot}")

    def _free_slot(self, disk: Disk) -> int:
        slots = range(self.nodes["ipus"][disk.ipu]["max_disks"])
        devices, freed, claimed = self.ipus[disk.ipu].devices, self.freed[disk.ipu], self.claimed[disk.ipu]
        # A slot that is freed in this very run is the last choice: it is free only if the unplugging succeeds.
        free = [slot for slot in slots if slot not in devices and slot not in claimed]
        free += [slot for slot in slots if slot in freed and slot not in claimed]
        if disk.physical_id is None and not free:
            raise _Refused(
                disk.ipu, f"all {len(slots)} slots of {disk.ipu} are taken (ipu_max_virtual_disks); detach some disks."
            )
        if disk.physical_id is not None and disk.physical_id not in free:
            raise _Refused(
                disk.ipu,
                f"physical_id {disk.physical_id} of {disk.ipu} is taken by {self._behind(disk.ipu, disk.physical_id)}. "
                "Leave physical_id out, choose another, or detach that one first.",
            )
        slot = free[0] if disk.physical_id is None else disk.physical_id
        claimed.add(slot)
        return slot

    def _behind(self, ipu: str, slot: int) -> str:
        """What the device in a slot is, in the operator's words."""
        bdev = self.ipus[ipu].devices.get(slot)
        if bdev is None:
            return f"sma-{slot}, whose bdev is gone" if slot in self.ipus[ipu].devices else "another disk of this list"
        return self._volume_names(ipu).get(bdev, f"bdev {bdev}")

    def _volume_names(self, ipu: str) -> dict[str, str]:
        """The IPU's bdev names → the names of the volumes behind them on the storage targets."""
        return {
            f"{target}n{namespace['nsid']}": namespace["bdev_name"]
            for target, state in self.targets.items()
            for namespace in state.subsystems.get(subsystem_nqn(target, ipu), {}).get("namespaces", [])
        }

    # detached, absent

    def _remove(
        self, disk: Disk, result: dict[str, Any], volume: dict[str, Any] | None, places: list[tuple[str, int]]
    ) -> None:
        for ipu, state in self.ipus.items():
            serials = {f"{disk.target}n{nsid}" for nqn, nsid in places if nqn == subsystem_nqn(disk.target, ipu)}
            serials |= {bdev["name"] for bdev in state.bdevs.values() if bdev["uuid"] == disk.uuid}
            for slot, behind in sorted(state.devices.items()):
                if behind in serials:
                    self._unplug(disk, ipu, slot, behind)
        if disk.state == "detached":
            return
        for nqn, nsid in places:
            if nqn not in {subsystem_nqn(disk.target, ipu) for ipu in self.ipus}:
                raise _Refused(
                    disk.target,
                    f"its volume is namespace {nsid} of {nqn}, and the state of that IPU is unknown; it is left alone.",
                )
            self._release(disk, nqn, nsid)
        if volume is not None:
            arguments = {"name": disk.name, "type": disk.backing, "state": "absent"}
            if disk.filename:
                arguments["filename"] = disk.filename
            self._add(
                "bdevs", disk.target, "destroy", "bdev", disk.name, disk, f"{disk.backing}, its data is lost", arguments
            )
        result.update(volume=False, nsid=None, serial=None)

    def _unplug(self, disk: Disk, ipu: str, slot: int, serial: str) -> None:
        host = self.ipu_host.get(ipu)
        looked_at = host is not None and self._access(host) == "ssh"
        if not self.force:
            if not looked_at:
                raise _Refused(
                    ipu,
                    f"it is attached through {ipu}, and nobody may look whether {host or 'its host'} uses it "
                    "(ipdk_host_access: none). Set virtual_disks_force: true to unplug it all the same.",
                )
            if host not in self.hosts:
                raise _Refused(
                    host,
                    f"it is attached to {host}, whose state is unknown, so it may be in use there; it is left alone. "
                    "Set virtual_disks_force: true to unplug it all the same.",
                )
            uses = disk_uses(self.hosts[host].get(serial, {}))
            if uses:
                raise _Refused(
                    host,
                    f"it is in use on {host} ({', '.join(uses)}) and is not unplugged. Release it there, or set "
                    "virtual_disks_force: true.",
                )
        self._add(
            "unplug",
            ipu,
            "unplug",
            "device",
            f"{disk.name} (sma-{slot})",
            disk,
            serial,
            {"physical_id": slot, "volume": disk.uuid, "state": "absent"},
            host=host if looked_at and serial in self.hosts.get(host, {}) else None,
            serial=serial,
        )

    def _release(self, disk: Disk, nqn: str, nsid: int) -> None:
        self._add(
            "release",
            disk.target,
            "remove",
            "namespace",
            f"{disk.name} ({nsid})",
            disk,
            nqn,
            {"bdev": disk.name, "nsid": nsid, "state": "absent"},
            subsystem={"nqn": nqn},
        )

    # what is there and not in the list

    def unmanaged(self) -> list[dict[str, Any]]:
        """Volumes and devices that are ours by their names but not in the list. They are left alone."""
        listed = {(disk.target, disk.name) for disk in self.disks}
        volumes = [
            {"node": target, "kind": "volume", "name": name}
            for target, state in self.targets.items()
            for name, bdev in state.bdevs.items()
            if bdev["uuid"] == volume_uuid(name, target) and (target, name) not in listed
        ]
        devices = []
        for ipu, state in self.ipus.items():
            names = self._volume_names(ipu)
            uuids = {disk.uuid for disk in self.disks}
            for slot, behind in sorted(state.devices.items()):
                target = next((target for target in self.targets if (behind or "").startswith(f"{target}n")), None)
                ours = (target, names.get(behind or "")) in listed or state.bdevs.get(behind or "", {}).get(
                    "uuid"
                ) in uuids
                if not ours:
                    devices.append(
                        {
                            "node": ipu,
                            "kind": "device",
                            "name": f"sma-{slot} ({names.get(behind or '', behind) or 'its bdev is gone'})",
                        }
                    )
        return volumes + devices


def plan(
    disks: Any, nodes: dict[str, Any], observed: dict[str, Any], options: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What has to be done so that the disks are what the list says. Raises :class:`InvalidDisks`.

    Returns a dictionary with

    - ``steps``: in order, each with ``stage``, ``node``, ``action``, ``kind``, ``name``, ``disk``, ``detail``, and what
      its module is told (``arguments``, ``subsystem``) and where it shows (``host``, ``serial``)
    - ``nodes``: for each node with steps, the arguments of the modules that take them (see :func:`module_arguments`)
    - ``disks``: in the list's order, each with its names on all sides, ``action``, ``converged`` and ``reason``
    - ``unmanaged``: ``{node, kind, name}`` of what is ours and not in the list
    - ``problems``: ``{node, disk, message}`` of the disks that are left alone
    - ``summary``: how many disks are to ``attach``, ``detach``, ``destroy``, are ``unchanged``, ``not_converged``
    - ``text``: all of that for a human, a list of lines
    """
    options = options or {}
    valid = validate(disks, nodes, options)
    planner = _Planner(valid, nodes, observed, bool(options.get("force", False)))
    planner.run()
    results = [planner.results[disk.name] for disk in valid]
    summary = {
        "attach": sum(result["action"] == "attach" for result in results),
        "detach": sum(result["action"] == "detach" for result in results),
        "destroy": sum(result["action"] == "destroy" for result in results),
        "unchanged": sum(result["action"] == "none" and result["converged"] for result in results),
        "not_converged": sum(not result["converged"] for result in results),
    }
    unmanaged = planner.unmanaged()
    steps = [asdict(step) for step in planner.steps]
    listed = [disk.name for disk in valid]
    problems = sorted(planner.problems, key=lambda problem: listed.index(problem["disk"]))
    return {
        "steps": steps,
        "nodes": module_arguments(steps),
        "disks": results,
        "unmanaged": unmanaged,
        "problems": problems,
        "summary": summary,
        "text": _text(planner.steps, summary, problems, unmanaged),
    }


def module_arguments(steps: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Steps → module arguments, by node.

    Storage target: ``release`` and ``subsystems`` (for spdk_nvmf_subsystem), ``bdevs`` (for spdk_bdev),
    ``files_present`` (``{size, paths}``) and ``files_absent`` (paths). IPU: ``unplug`` and ``attach`` (for sma_device),
    ``controllers`` (for spdk_nvme_controller). Host: ``absent`` and ``present`` (serials, for host_disk_info).
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
        if step["host"] is not None:
            entry(step["host"], "absent" if stage == "unplug" else "present").append(step["serial"])
    return rendered


def after_unplug(
    planned: dict[str, Any], devices: dict[str, list[dict[str, Any]]], still_there: dict[str, list[str]]
) -> dict[str, Any]:
    """What is left to do once the unplugging has been tried: a disk that did not come off keeps all that is behind it.

    ``devices``: by IPU, what sma_device returned (``physical_id``, ``state``); nothing for an IPU that is left out.
    ``still_there``: by host, the serials that did not go. Returns ``nodes`` as in a plan, and ``stuck``, the disks for
    which nothing more is done: those that did not come off, and those that were to get their slots.
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
                stuck.add(step["disk"])
                slots.add(slot)
        elif step["stage"] == "attach" and slot in slots:
            stuck.add(step["disk"])
    left = [step for step in planned["steps"] if step["stage"] != "unplug" and step["disk"] not in stuck]
    return {"nodes": module_arguments(left), "stuck": sorted(stuck)}


def _text(
    steps: list[_Step], summary: dict[str, int], problems: list[dict[str, Any]], unmanaged: list[dict[str, Any]]
) -> list[str]:
    """The plan for a human: one line for all steps of one kind on one node, so that 64 disks stay readable."""
    lines = [
        f"{summary['attach']} to attach, {summary['detach']} to detach, {summary['destroy']} to destroy, "
        f"{summary['unchanged']} unchanged, {summary['not_converged']} not converged"
    ]
    groups: dict[tuple[str, str, str, str], list[str]] = {}
    for step in steps:
        groups.setdefault((step.stage, step.node, step.action, step.kind), []).append(step.name)
    lines += [
        f"{node}: {action} {len(names)} {kind}{'s' if len(names) > 1 else ''}: {_some(names)}"
        for (_stage, node, action, kind), names in groups.items()
    ]
    lines += [f"not converged: {problem['message']}" for problem in problems]
    others: dict[tuple[str, str], list[str]] = {}
    for item in unmanaged:
        others.setdefault((item["node"], item["kind"]), []).append(item["name"])
    lines += [
        f"{node}: left alone, not in the list: {len(names)} {kind}{'s' if len(names) > 1 else ''}: {_some(names)}"
        for (node, kind), names in others.items()
    ]
    return lines


def _some(names: list[str], limit: int = 6) -> str:
    if len(names) <= limit:
        return ", ".join(names)
    return ", ".join(names[: limit - 1]) + f", … {names[-1]}"


def report(
    planned: dict[str, Any], seen: dict[str, Any], failures: dict[str, list[str]] | None = None
) -> list[dict[str, Any]]:
    """The disks of a plan as they are afterwards.

    ``seen``: host_disk_info's ``disks`` by host (null or left out: nobody looked). ``failures``: by node, what went
    wrong there. Each disk gets ``visible`` (null: unknown), ``device`` (``/dev/vdb``), ``by_id`` and ``pci_address``. A
    disk that its host sees or misses against its state, or that had to be changed on a node with failures where nobody
    can look, is not converged.
    """
    failures = failures or {}
    reported = []
    for disk in planned["disks"]:
        host = seen.get(disk["host"])
        there = next((entry for entry in host or [] if entry.get("serial") and entry["serial"] == disk["serial"]), None)
        visible = None if host is None else there is not None
        after = dict(disk, visible=visible, device=None, by_id=None, pci_address=None)
        if there is not None:
            after.update(device=there["path"], by_id=there.get("by_id"), pci_address=there.get("pci_address"))
        if disk["converged"]:
            failed = [
                f"{node}: {text}"
                for node in (disk["target"], disk["ipu"], disk["host"])
                for text in failures.get(node, [])
            ]
            right = visible is None or disk["serial"] is None or visible == (disk["state"] == "attached")
            if not right:
                state = "does not see it" if disk["state"] == "attached" else "still sees it"
                after.update(converged=False, reason="; ".join([f"{disk['host']} {state}", *failed]))
            elif failed and disk["action"] != "none" and visible is None:
                after.update(converged=False, reason="; ".join(failed))
        reported.append(after)
    return reported
