#!/usr/bin/python

# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: sma_info
short_description: Show the virtio-blk devices that an IPU shows to its host
version_added: 0.1.0
author:
  - ipdk.storage contributors (@ipdk-io)
description:
  - Returns the devices, which are read from the IPU's SPDK, because SMA has no call that lists them, and what SMA says
    about the limits it can set.
  - Fails when SMA does not answer. With O(wait) it tells when a new SMA is ready.
extends_documentation_fragment:
  - ipdk.storage.sma
  - ipdk.storage.spdk
  - ipdk.storage.spdk.looks
options:
  wait:
    description: How many seconds SMA may take to answer for the first time.
    type: float
    default: 0.0
seealso:
  - module: ipdk.storage.sma_device
"""

EXAMPLES = r"""
- name: Wait for the agent and see its devices
  ipdk.storage.sma_info:
    address: unix:/run/ipdk/ipu1/sma/sma.sock:8080
    rpc_socket: /run/ipdk/ipu1/spdk/spdk.sock
    wait: 60
  register: ipu
"""

RETURN = r"""
devices:
  description: The devices, ordered by slot.
  returned: success
  type: list
  elements: dict
  contains:
    physical_id:
      description: The slot.
      type: int
      sample: 0
    handle:
      description: SMA's name of the device.
      type: str
      sample: virtio_blk:sma-0
    interface:
      description: V(virtio-blk) or V(nvme).
      type: str
      sample: virtio-blk
    volume:
      description: UUID of the bdev; null when the bdev is gone. Of an NVMe device with several, the first one.
      type: str
      sample: 6c3f1c3e-5a55-5f29-9e6c-8e3b2a1d4f01
    volumes:
      description: UUIDs of all volumes of an NVMe device.
      type: list
      elements: str
    bdev:
      description: Name of the bdev; null when it is gone.
      type: str
      sample: st1n1
    serial:
      description: The serial number that the host sees.
      type: str
      sample: st1n1
    connected:
      description: Whether a QEMU is connected to the device; null for an NVMe device, of which SPDK cannot tell.
      type: bool
      sample: true
    limits:
      description: The limits in force on the bdev, as SPDK names them; 0 is none.
      type: dict
      sample: {rw_ios_per_sec: 0, rw_mbytes_per_sec: 0, r_mbytes_per_sec: 0, w_mbytes_per_sec: 0}
qos_capabilities:
  description: The limits that SMA can set on a virtio-blk device and on its volume.
  returned: success
  type: dict
  sample: {device: [rw_iops, rw_bandwidth], volume: [rw_iops, rw_bandwidth]}
"""

from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import Error
from ansible_collections.ipdk.storage.plugins.module_utils._module import CONNECTION, run
from ansible_collections.ipdk.storage.plugins.module_utils._sma_devices import look

ARGUMENTS = {
    **CONNECTION,
    "address": {"type": "str", "required": True},
    "timeout": {"type": "float", "default": 60.0},
    "wait": {"type": "float", "default": 0.0},
}


def work(given: dict[str, Any], _check_mode: bool) -> dict[str, Any]:
    try:
        return {"changed": False, **look(given)}
    except (Error, ValueError) as error:
        return {"failed": True, "msg": str(error)}


def main() -> None:
    run(ARGUMENTS, work)


if __name__ == "__main__":
    main()
