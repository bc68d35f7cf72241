# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One item of the declaration, checked by itself and against the inventory."""

from __future__ import annotations

import difflib
import re
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._checks import check_name, human
from ansible_collections.ipdk.storage.plugins.module_utils._crypto import (
    CIPHER,
    check_cipher,
    check_keys,
    fingerprint,
    hidden,
)
from ansible_collections.ipdk.storage.plugins.module_utils._qos import LIMITS, check_limits
from ansible_collections.ipdk.storage.plugins.plugin_utils.lvol_stores import Store
from ansible_collections.ipdk.storage.plugins.plugin_utils.virtual_disk import (
    BACKINGS,
    INTERFACES,
    SERIAL_LENGTH,
    STATES,
    UNITS,
    Disk,
)

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_.-]{0,30}")
NODE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
DIRECTORY_PATTERN = re.compile(r"(/[A-Za-z0-9][A-Za-z0-9_.-]*)+")
SIZE_PATTERN = re.compile(r"([0-9]+) ?(B|KiB|MiB|GiB|TiB)?")

BLOCK_SIZES = (512, 4096)
ACCESS = ("ssh", "none")
VFIO_USER_SUITES = ("trixie-backports",)
"""Where Debian has a QEMU with vfio-user-pci."""

ITEM_KEYS = (
    "name",
    "size",
    "backing",
    "target",
    "host",
    "shared",
    "interface",
    "physical_id",
    "state",
    "qos",
    "encryption",
)
ENCRYPTION_KEYS = ("cipher", "key", "key2")
BACKING_KEYS = ("type", "block_size", "directory", "store", "thin", "clone_of")

ONE_HOST = (
    "two hosts that write to one volume destroy what is on it, unless they know of each other (then: an item for each "
    "host, with shared: true)"
)
"""Why a volume has one host, unless the operator says more."""

TARGET_NAME_LENGTH = 14
"""Leaves room for ``n`` and five digits of a namespace id in the serial."""


def target_name_mistakes(name: str) -> list[str]:
    """What is wrong with a storage target's name in the inventory, one sentence at most."""
    if len(name) <= TARGET_NAME_LENGTH and NODE_PATTERN.fullmatch(name):
        return []
    return [
        f"the serial of a disk is '<storage target>n<namespace>' and has {SERIAL_LENGTH} characters: wanted a name of "
        f"at most {TARGET_NAME_LENGTH} letters, digits, '.', '_' and '-' in the inventory, got {name!r}, which has "
        f"{len(name)}. Its address goes into ansible_host"
    ]


class Item:
    """The checks of one item; every mistake goes to ``errors``, naming the item by index and name."""

    def __init__(
        self,
        index: int,
        item: Any,
        nodes: dict[str, Any],
        stores: dict[str, dict[str, Store]],
        override: str | None,
        errors: list[str],
    ) -> None:
        self.item = item
        self.nodes = nodes
        self.stores = stores
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
            self.wrong(f"wanted a dictionary with name, size and backing, got {type_name(self.item)}.")
            return None
        self._unknown_keys(self.item, ITEM_KEYS, "key")
        name = self._name()
        backing, block_size, directory = self._backing()
        size = self._size(block_size)
        target = self._target()
        shared = self._shared()
        host, ipu = self._host()
        physical_id = self._physical_id(ipu)
        interface = self._choice(self.item, "interface", INTERFACES, "virtio-blk")
        if interface == "nvme" and ipu is not None:
            self._nvme(host, ipu)
        state = self._choice(self.item, "state", STATES, "attached")
        qos = self._qos()
        key_mark = self._encryption()
        if not self.ok or None in (name, backing, size, target, host, ipu, interface, state):
            return None
        store, thin = self._store(target, size) if backing == "lvol" else (None, False)
        clone_of = self._clone_of() if store else None
        if backing == "lvol" and store is None:
            return None
        filename = None
        if backing == "aio":
            directory = directory or self.nodes["targets"][target].get("volumes_dir")
            if not directory:
                self.wrong(f"backing aio wants a directory on {target}: set backing.directory.")
                return None
            filename = f"{directory}/{name}.img"
        state = self.override or state
        block_size = 0 if backing == "lvol" else block_size  # that of its store
        if not self.ok:
            return None
        return Disk(
            name,
            size,
            backing,
            block_size,
            filename,
            target,
            ipu,
            host,
            physical_id,
            state,
            store,
            thin,
            clone_of,
            qos,
            key_mark,
            interface,
            shared,
        )

    def _shared(self) -> bool:
        shared = self.item.get("shared", False)
        if not isinstance(shared, bool):
            self.wrong(f"shared: wanted true or false, got {shared!r}.")
        return shared is True

    def _nvme(self, host: str, ipu: str) -> None:
        """What an NVMe disk needs of its IPU and of its host's QEMU."""
        manager, qemu = self.nodes["ipus"][ipu].get("nvme"), self.nodes["hosts"][host].get("qemu")
        if not manager:
            self.wrong(
                f"interface: {ipu} shows no NVMe disks: no device manager of its SMA has them (ipu_nvme). "
                "Use interface: virtio-blk."
            )
        elif manager == "vfiouser" and qemu is not None and qemu not in VFIO_USER_SUITES:
            self.wrong(
                f"interface: an NVMe disk of {ipu} needs a QEMU with vfio-user-pci (10.1 or newer), and that of {host} "
                f"is from Debian {qemu}. Set host_qemu_suite: {VFIO_USER_SUITES[0]} and make the lab anew, or use "
                "interface: virtio-blk."
            )
        if self.item.get("qos"):
            self.wrong("qos: an NVMe disk takes no limits. Leave them out, or use interface: virtio-blk.")

    def _store(self, target: str, size: int) -> tuple[str | None, bool]:
        """The lvol store of a disk, and whether the disk is thin."""
        backing = self.item["backing"]
        known = self.stores[target]
        name = backing.get("store")
        if name is None and len(known) == 1:
            name = next(iter(known))
        if not isinstance(name, str) or name not in known:
            got = "nothing" if name is None else repr(name)
            close = difflib.get_close_matches(str(name), list(known), n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            self.wrong(
                f"backing.store: wanted an lvol store of {target} (storage_target_lvol_stores: "
                f"{listed(known) or 'empty'}), got {got}.{hint}"
            )
            return None, False
        thin = backing.get("thin", "clone_of" in backing)
        if not isinstance(thin, bool):
            self.wrong(f"backing.thin: wanted true or false, got {thin!r}.")
            return None, False
        cluster = known[name].cluster_size
        if size % cluster:
            lower = size - size % cluster
            self.wrong(
                f"size: {size} bytes is no multiple of the cluster size of lvol store {name} ({human(cluster)}); "
                f"the nearest are {lower} and {lower + cluster}."
            )
            return None, False
        return name, thin

    def _clone_of(self) -> str | None:
        """The snapshot that the disk's volume starts as."""
        backing = self.item["backing"]
        name = backing.get("clone_of")
        if name is None:
            return None
        problems: list[str] = []
        check_name(name, "backing.clone_of", problems)
        if name == self.item["name"]:
            problems.append(f"backing.clone_of: {name} is the disk's own name, wanted that of a snapshot")
        if backing.get("thin") is False:
            problems.append("backing.thin: a clone is thin, leave it out")
        for problem in problems:
            self.wrong(f"{problem}.")
        return None if problems else str(name)

    def _unknown_keys(self, given: dict[str, Any], known: tuple[str, ...], what: str) -> None:
        for key in given:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.6)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                self.wrong(f"unknown {what} {key!r}.{hint} Known: {listed(known)}.")

    def _choice(self, given: dict[str, Any], key: str, choices: tuple[str, ...], default: str | None) -> str | None:
        value = given.get(key, default)
        if value is None:
            self.wrong(f"{key} is missing: wanted one of {listed(choices)}.")
            return None
        if not isinstance(value, str) or value not in choices:
            self.wrong(f"{key}: wanted one of {listed(choices)}, got {value!r}.")
            return None
        return value

    def _name(self) -> str | None:
        name = self.item.get("name")
        if name is None:
            self.wrong("name is missing: wanted a unique name, such as vol00.")
        elif not isinstance(name, str):
            self.wrong(f"name: wanted a string, got {type_name(name)}.")
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
            got = "nothing" if backing is None else type_name(backing)
            self.wrong(f"backing: wanted a dictionary such as {{type: malloc, block_size: 512}}, got {got}.")
            return None, 512, None
        self._unknown_keys(backing, BACKING_KEYS, "key in backing:")
        kind = self._choice(backing, "type", tuple(BACKINGS), None)
        block_size = backing.get("block_size", 512)
        if not is_int(block_size) or block_size not in BLOCK_SIZES:
            self.wrong(f"backing.block_size: wanted {listed(BLOCK_SIZES)} (bytes), got {block_size!r}.")
            block_size = 512
        if kind == "lvol" and "block_size" in backing:
            self.wrong("backing.block_size is for malloc, aio and null; an lvol has that of its store: leave it out.")
        self._only_lvol(backing, kind)
        directory = backing.get("directory")
        if directory is not None:
            if kind != "aio":
                self.wrong(f"backing.directory is for type aio, not for {kind}: leave it out.")
            elif not isinstance(directory, str) or not DIRECTORY_PATTERN.fullmatch(directory):
                self.wrong(f"backing.directory: wanted an absolute path without '..' or spaces, got {directory!r}.")
        return kind, block_size, directory

    def _only_lvol(self, backing: dict[str, Any], kind: str | None) -> None:
        for key in ("store", "thin", "clone_of"):
            if key in backing and kind not in (None, "lvol"):
                self.wrong(f"backing.{key} is for type lvol, not for {kind}: leave it out.")

    def _size(self, block_size: int) -> int | None:
        given = self.item.get("size")
        match = SIZE_PATTERN.fullmatch(given) if isinstance(given, str) else None
        if is_int(given):
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

    def _qos(self) -> dict[str, int]:
        given = self.item.get("qos")
        if given is None:
            return {}
        if not isinstance(given, dict):
            self.wrong(f"qos: wanted a dictionary such as {{rd_bandwidth: 16MiB}}, got {type_name(given)}.")
            return {}
        self._unknown_keys(given, tuple(LIMITS), "key in qos:")
        problems: list[str] = []
        limits = check_limits(given, tuple(LIMITS), "qos", problems)
        for problem in problems:
            self.wrong(f"{problem}.")
        return limits

    def _encryption(self) -> str | None:
        """The fingerprint of the key. No message shows what may be a key, be it at a wrong place."""
        given = self.item.get("encryption")
        if given is None:
            return None
        if not isinstance(given, dict):
            wanted = "{cipher: AES_XTS, key: …, key2: …}"
            self.wrong(f"encryption: wanted a dictionary such as {wanted}, got {type_name(given)}.")
            return None
        problems = [
            f"unknown key in encryption: {hidden(key)}. Known: {listed(ENCRYPTION_KEYS)}"
            for key in given
            if key not in ENCRYPTION_KEYS
        ]
        check_cipher(given.get("cipher", CIPHER), "encryption.cipher", problems)
        keys = check_keys(given, "encryption", problems)
        for problem in problems:
            self.wrong(f"{problem}.")
        return fingerprint(keys) if keys else None

    def _target(self) -> str | None:
        name = self._node("target", "targets", "storage_targets", "storage target")
        if name is None:
            return None
        declared = self.nodes["targets"][name]
        mistakes = target_name_mistakes(name)
        if mistakes:
            self.wrong(f"target: {mistakes[0]}.")
            return None
        if not declared.get("address"):
            self.wrong(
                f"target {name!r} has no storage_target_address in the inventory: set the address it listens on."
            )
            return None
        return name

    def _host(self) -> tuple[str | None, str | None]:
        several = self.item.get("host")
        if isinstance(several, list) and len(several) > 1:
            self.wrong(f"host: wanted one host, got {listed(several)}: {ONE_HOST}. Name one of them.")
            return None, None
        name = self._node("host", "hosts", "ipu_hosts", "host")
        if name is None:
            return None, None
        declared = self.nodes["hosts"][name]
        ipus = self.nodes.get("ipus") or {}
        ipu = declared.get("ipu")
        if not ipu:
            self.wrong(f"host {name!r} has no IPU: set host_ipu to one of {listed(ipus) or 'the group ipus'}.")
            return name, None
        if ipu not in ipus:
            self.wrong(
                f"host {name!r}: host_ipu is {ipu!r}, which is not in the group ipus ({listed(ipus) or 'empty'})."
            )
            return name, None
        if not NODE_PATTERN.fullmatch(ipu):
            self.wrong(f"IPU {ipu!r}: the name becomes part of an NQN; use letters, digits, '.', '_', '-'.")
            return name, None
        sharing = [other for other, other_declared in self.nodes["hosts"].items() if other_declared.get("ipu") == ipu]
        if len(sharing) > 1:
            self.wrong(f"IPU {ipu!r} stands behind several hosts ({listed(sharing)}); its disks can have one only.")
            return name, None
        if declared.get("access", "ssh") not in ACCESS:
            self.wrong(f"host {name!r}: ipdk_host_access: wanted one of {listed(ACCESS)}, got {declared['access']!r}.")
            return name, None
        return name, ipu

    def _node(self, key: str, kind: str, group: str, what: str) -> str | None:
        known = self.nodes.get(kind) or {}
        name = self.item.get(key)
        if name is None:
            if len(known) == 1:
                return next(iter(known))
            problem = f"there are {len(known)} ({listed(known)})" if known else f"the group {group} is empty"
            self.wrong(f"{key} may be left out only where there is exactly one {what}; {problem}.")
            return None
        if not isinstance(name, str):
            self.wrong(f"{key}: wanted the name of a {what}, got {type_name(name)}.")
            return None
        if name not in known:
            close = difflib.get_close_matches(name, list(known), n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            self.wrong(f"{key}: {name!r} is not in the group {group} ({listed(known) or 'empty'}).{hint}")
            return None
        return name

    def _physical_id(self, ipu: str | None) -> int | None:
        value = self.item.get("physical_id")
        if value is None:
            return None
        if not is_int(value):
            self.wrong(f"physical_id: wanted a whole number, got {type_name(value)} {value!r}.")
            return None
        if ipu is not None:
            slots = self.nodes["ipus"][ipu]["max_disks"]
            if value < 0 or (slots is not None and value >= slots):
                self.wrong(f"physical_id: {ipu} has slots 0 to {slots - 1} (ipu_max_virtual_disks), got {value}.")
                return None
        return value


def is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def type_name(value: Any) -> str:
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


def listed(names: Any) -> str:
    return ", ".join(str(name) for name in names)
