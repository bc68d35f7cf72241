# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a virtual disk is on each side, as the modules take it; in a plan's steps and in the nodes' declarations."""

from __future__ import annotations

from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._crypto import CIPHER
from ansible_collections.ipdk.storage.plugins.plugin_utils import paths
from ansible_collections.ipdk.storage.plugins.plugin_utils.virtual_disk import (
    MAX_NAMESPACES,
    Disk,
    encrypted_name,
    subsystem_serial,
)

Item = dict[str, Any]


def volume(disk: Disk) -> Item:
    """Of spdk_bdev, or of spdk_lvol where there is a store."""
    if disk.store:
        return {"name": disk.name, "store": disk.store, "size": disk.size, "thin": disk.thin}
    item = {
        "name": disk.name,
        "type": disk.backing,
        "size": disk.size,
        "block_size": disk.block_size,
        "uuid": disk.uuid,
    }
    return {**item, "filename": disk.filename} if disk.filename else item


def subsystem(disk: Disk, nodes: dict[str, Any]) -> Item:
    """Of spdk_nvmf_subsystem, without namespaces; that of a shared volume without hosts, of which each has an item."""
    declared = nodes["targets"][disk.target]
    return {
        "nqn": disk.nqn,
        "serial_number": subsystem_serial(disk.nqn),
        "model_number": "ipdk.storage",
        "max_namespaces": 1 if disk.shared else MAX_NAMESPACES,
        **({} if disk.shared else {"hosts": [nodes["ipus"][disk.ipu]["host_nqn"]]}),
        "listeners": paths.listeners(declared),
        **({"ana_reporting": True} if declared.get("paths") else {}),
    }


def namespace(disk: Disk, nsid: int) -> Item:
    """Of a subsystem. Its identity is said, so that it is the same whatever the bdev is made of, and stays so."""
    return {"bdev": disk.bdev, "nsid": nsid, "uuid": disk.uuid, "nguid": disk.uuid.replace("-", "")}


def encrypted(disk: Disk, bdev: str, nodes: dict[str, Any]) -> Item:
    """Of spdk_bdev_crypto, without keys: the file has them."""
    name = encrypted_name(bdev)
    return {"name": name, "base_bdev": bdev, "cipher": CIPHER, "key_file": key_file(name, disk.ipu, nodes)}


def key_file(name: str, ipu: str, nodes: dict[str, Any]) -> str:
    """Where an IPU keeps the key of an encrypted bdev."""
    return f"{nodes['ipus'][ipu]['keys_dir']}/{name}.json"


def nbd_device(physical_id: int, ipu: str, nodes: dict[str, Any]) -> str:
    """The NBD disk behind an NVMe device of QEMU's own; as the device manager calls it."""
    return f"{nodes['ipus'][ipu].get('sockets_dir') or ''}/sma-{physical_id}.nbd"


def controller(disk: Disk, nodes: dict[str, Any]) -> Item:
    """Of spdk_nvme_controller."""
    first, *others = (
        {key: path[key] for key in ("traddr", "trsvcid")} for path in paths.listeners(nodes["targets"][disk.target])
    )
    return {
        "name": disk.controller,
        **first,
        "subnqn": disk.nqn,
        "hostnqn": nodes["ipus"][disk.ipu]["host_nqn"],
        **({"paths": others, "multipath": "multipath"} if others else {}),
    }
