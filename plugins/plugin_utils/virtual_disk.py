# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A virtual disk and how it is called on each side; nothing else computes these names."""

from __future__ import annotations

import functools
import hashlib
import uuid as uuid_module
from dataclasses import dataclass, field

UNITS = {None: 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
STATES = ("attached", "detached", "absent")

INTERFACES = ("virtio-blk", "nvme")

BACKINGS = {"malloc": "Malloc disk", "aio": "AIO disk", "null": "Null disk", "lvol": "Logical Volume"}
"""Backing type → the ``product_name`` that SPDK gives such a bdev."""
SERIAL_LENGTH = 20
"""A virtio-blk serial is 20 bytes (virtio 1.2, section 5.2.6.1: VIRTIO_BLK_T_GET_ID), and so is an NVMe controller's
(NVMe base specification, Identify Controller); the rest of a name is cut off."""
MAX_NAMESPACES = 1024
"""Of a subsystem; SPDK cannot change it later, and gateways with thousands of namespaces are known to suffer."""
SHARED = "shared-"
"""How an IPU's controller for a shared volume begins; with seven digits more as long as a target's name can be."""
CRYPTO_NAMESPACE = uuid_module.UUID("078e3cf7-f4b4-4545-b2c3-d40045a64ae2")
"""From it and the UUID of the bdev below, SPDK (23.05 and newer) makes the UUID of an encrypted one."""


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
    store: str | None = None
    """The lvol store, and whether its clusters are taken only when they are written; of backing lvol."""
    thin: bool = False
    clone_of: str | None = None
    """The snapshot in the same store that an lvol starts as, where it is not there yet."""
    qos: dict[str, int] = field(default_factory=dict)
    """The limits that the item names, see ``_qos.py``; the others keep what they are."""

    key_mark: str | None = None
    """Of an encrypted disk, the fingerprint of its key; the key itself is in no plan."""

    interface: str = "virtio-blk"
    """What the host sees: one of INTERFACES."""

    shared: bool = False
    """Whether other hosts have the volume, too; then each of them has an item of its own for it."""
    sharers: tuple[str, ...] = ()
    """The ids of all items of a shared volume."""

    @property
    def id(self) -> str:
        """What tells it from the other disks of a plan. No name has an ``@``."""
        return f"{self.name}@{self.host}" if self.shared else self.name

    @property
    def owner(self) -> str | None:
        """Whose the volume is: that of a shared one is no single item's."""
        return None if self.shared else self.id

    @property
    def encrypted(self) -> bool:
        return self.key_mark is not None

    @property
    def served_uuid(self) -> str:
        """The UUID of the bdev that is the device: the namespace's, or the one that encrypts it."""
        return encrypted_uuid(self.uuid) if self.encrypted else self.uuid

    @property
    def bdev(self) -> str:
        """What the volume is called on the storage target; SPDK names a logical volume by a UUID of its own."""
        return f"{self.store}/{self.name}" if self.store else self.name

    @property
    def uuid(self) -> str:
        return volume_uuid(self.name, self.target)

    @property
    def nqn(self) -> str:
        return shared_nqn(self.target, self.name) if self.shared else subsystem_nqn(self.target, self.ipu)

    @property
    def controller(self) -> str:
        """What the IPU calls its NVMe controller for the disk's subsystem."""
        return shared_controller(self.target, self.name) if self.shared else self.target


@functools.cache  # each disk is compared with every other one
def volume_uuid(name: str, target: str) -> str:
    """The UUID of a virtual disk's namespace, and of its bdev unless that is a logical volume.

    It is how a volume of ours is told from somebody else's. A logical volume is ours by its store.
    """
    return str(uuid_module.uuid5(uuid_module.NAMESPACE_DNS, f"{name}.{target}.ipdk.storage"))


def subsystem_nqn(target: str, ipu: str) -> str:
    """One subsystem for each pair of a storage target and an IPU, so that an IPU is admitted to its own disks only."""
    return f"nqn.2022-06.io.ipdk:{target}:{ipu}"


def shared_nqn(target: str, name: str) -> str:
    """A subsystem for one shared volume: it admits the IPUs of several hosts, and to nothing else. No IPU's name has
    a colon."""
    return f"nqn.2022-06.io.ipdk:{target}:shared:{name}"


def shared_controller(target: str, name: str) -> str:
    """Each IPU has a controller of its own for each shared volume; the same name everywhere, and a short one, so that
    the serial fits. It begins as the volume's UUID does."""
    return f"{SHARED}{volume_uuid(name, target)[:7]}"


def is_shared(controller: str) -> bool:
    """Is an IPU's controller for a shared volume, as far as its name tells?"""
    return controller.startswith(SHARED)


def shared_volume(nqn: str, target: str) -> str | None:
    """The virtual disk that a subsystem of a target is for; null where it is none for a shared volume."""
    first = shared_nqn(target, "")
    return nqn[len(first) :] if nqn.startswith(first) else None


def controller_of(nqn: str, target: str, ipu: str) -> str | None:
    """What an IPU calls its controller for a subsystem of a target; null for one that is not for this IPU."""
    name = shared_volume(nqn, target)
    if name is not None:
        return shared_controller(target, name)
    return target if nqn == subsystem_nqn(target, ipu) else None


def subsystem_serial(nqn: str) -> str:
    """A stable serial number for the subsystem: 20 characters are what Identify Controller has room for."""
    return uuid_module.uuid5(uuid_module.NAMESPACE_DNS, nqn).hex[:SERIAL_LENGTH].upper()


def bdev_name(controller: str, nsid: int) -> str:
    """A namespace's bdev on the IPU, by the name of its NVMe controller there; the host's serial, too."""
    return f"{controller}n{nsid}"


def encrypted_name(bdev: str) -> str:
    """The bdev that encrypts one of the IPU's: with 14 characters of a target, ``n`` and four digits still a serial."""
    return f"{bdev}c"


def encrypted_uuid(uuid: str) -> str:
    digest = hashlib.sha1(CRYPTO_NAMESPACE.bytes + uuid_module.UUID(uuid).bytes, usedforsecurity=False).digest()
    return str(uuid_module.UUID(bytes=digest[:16], version=5))


def human_size(size: int) -> str:
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size % UNITS[unit] == 0:
            return f"{size // UNITS[unit]} {unit}"
    return f"{size} bytes"
