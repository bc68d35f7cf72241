# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Encrypted disks: the bdev on the IPU that encrypts a disk's own. Keys are no part of a plan; what is compared are
their fingerprints, which SPDK's names of the keys have."""

from __future__ import annotations

from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._crypto import CIPHER, key_name
from ansible_collections.ipdk.storage.plugins.plugin_utils import items
from ansible_collections.ipdk.storage.plugins.plugin_utils.observed import Sides
from ansible_collections.ipdk.storage.plugins.plugin_utils.steps import Refused, Step
from ansible_collections.ipdk.storage.plugins.plugin_utils.virtual_disk import Disk, encrypted_name

Item = dict[str, Any]


def check(disk: Disk, bdev: str, slot: int, sides: Sides) -> None:
    """Refuse a disk that is attached in another way than it is to be: data would be written that nobody can read."""
    ipu = sides.ipus[disk.ipu]
    served = ipu.served[slot]
    if not disk.encrypted:
        if served != bdev:
            raise Refused(disk.ipu, _sentence(disk, "with encryption", "without"))
    elif served == bdev:
        raise Refused(disk.ipu, _sentence(disk, "without encryption", "with it"))
    elif _key(ipu.bdevs[served or ""]) != _wanted_key(disk, bdev):
        raise Refused(disk.ipu, _sentence(disk, "with another key", "with this one"))


def _sentence(disk: Disk, there: str, wanted: str) -> str:
    return (
        f"it is attached through {disk.ipu} {there}, and is wanted {wanted}. Detach it first (state: detached); what "
        "was written in one way cannot be read in the other."
    )


def give(disk: Disk, bdev: str, sides: Sides) -> list[Step]:
    """What makes the bdev of the IPU encrypted, or not, as the disk is to be; nothing where it is so."""
    ipu = sides.ipus[disk.ipu]
    there = ipu.encrypted.get(bdev)
    if there is not None and disk.encrypted and _key(ipu.bdevs[there]) == _wanted_key(disk, bdev):
        return []
    steps = take(disk.ipu, bdev, disk, sides)
    if disk.encrypted:
        name = encrypted_name(bdev)
        arguments = {**items.encrypted(disk, bdev, sides.nodes), "state": "present"}
        steps.append(
            Step("crypto", disk.ipu, "create", "encrypted bdev", f"{disk.name} ({name})", disk.id, CIPHER, arguments)
        )
    return steps


def take(ipu: str, bdev: str, disk: Disk | None, sides: Sides) -> list[Step]:
    """What takes encryption and key away from a bdev of the IPU. The data stays as it is. One that we did not make is
    left alone: then the bdev is in use."""
    name = sides.ipus[ipu].encrypted.get(bdev)
    if name != encrypted_name(bdev):
        return []
    arguments = {"name": name, "key_file": items.key_file(name, ipu, sides.nodes), "state": "absent"}
    shown, owner = (f"{disk.name} ({name})", disk.id) if disk else (name, None)
    return [Step("crypto_absent", ipu, "remove", "encrypted bdev", shown, owner, "its data stays", arguments)]


def _key(bdev: dict[str, Any]) -> str:
    return str(bdev["driver_specific"]["crypto"]["key_name"])


def _wanted_key(disk: Disk, bdev: str) -> str:
    return key_name(encrypted_name(bdev), disk.key_mark or "")


def with_keys(crypto: list[Item], planned: dict[str, Any], disks: list[dict[str, Any]]) -> list[Item]:
    """The items of a plan's stage ``crypto`` with the keys that the list has for their disks."""
    name_of = {disk["id"]: disk["name"] for disk in planned["disks"]}
    # By the file that the key gets: two IPUs may have bdevs of one name.
    disk_of = {
        step["arguments"]["key_file"]: name_of[step["disk"]] for step in planned["steps"] if step["stage"] == "crypto"
    }
    # The items of a shared volume have the same keys.
    given = {disk["name"]: disk.get("encryption") for disk in disks}
    return [{**item, **{half: given[disk_of[item["key_file"]]][half] for half in ("key", "key2")}} for item in crypto]
