#!/usr/bin/python

# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: sma_device
short_description: Create and delete the virtio-blk and NVMe devices that an IPU shows to its host
version_added: 0.1.0
author:
  - ipdk.storage contributors (@ipdk-io)
description:
  - Brings a list of virtio-blk and NVMe devices to the wanted state through SPDK's Storage Management Agent (SMA), with
    one channel.
  - SMA has no call that lists devices, so the current state is read from the SPDK of the same IPU. A run that finds
    everything as wanted asks SMA nothing.
  - A device that is not in the list is left alone.
  - A device that SPDK has and to which no QEMU is connected, because the host was started anew, is plugged again.
  - The devices come and go on the running host. Whether a disk is in use there is not looked at, see
    M(ipdk.storage.host_disk_info).
extends_documentation_fragment:
  - ipdk.storage.progress
  - ipdk.storage.sma
  - ipdk.storage.spdk
  - ipdk.storage.spdk.converges
options:
  devices:
    description:
      - The devices. No two may have the same O(devices[].physical_id) or O(devices[].volume).
    type: list
    elements: dict
    required: true
    suboptions:
      physical_id:
        description:
          - The slot, from 0. The lowest free one is taken when it is left out and the volume is no device yet.
          - A device is not moved to another slot. Delete it first.
        type: int
      volume:
        description:
          - UUID of the bdev behind the device. Required unless O(devices[].state=absent), where it only selects the
            device, or protects against deleting another one.
        type: str
      handle:
        description: >-
          SMA's name of a device, C(virtio_blk:sma-<physical_id>) or C(nvme:sma-<physical_id>), instead of
          O(devices[].physical_id) and O(devices[].interface).
        type: str
      interface:
        description:
          - What the host sees, a virtio-blk disk or an NVMe controller with namespaces. Slots are for both of them.
          - V(nvme) needs a device manager of SMA that has NVMe devices, see the variable C(ipu_nvme) of the role
            C(ipu). V(virtio-blk) is the default, except where O(devices[].handle) says it.
        type: str
        choices: [virtio-blk, nvme]
      volumes:
        description:
          - UUIDs of the bdevs of an NVMe device that has several, or none yet. They are all that it shall have; each is
            attached and detached while the device stays.
          - Its serial number is then C(sma-<physical_id>). That of a device with O(devices[].volume) is its bdev's
            name.
          - Of an V(absent) device, those that are detached with it. An NVMe device with others is not deleted.
          - Only by vfio-user. QEMU's own NVMe controller has the one volume that it was plugged with.
        type: list
        elements: str
      replug:
        description:
          - Plug the device into its host again although SPDK has it. SPDK cannot tell whether a host is connected to an
            NVMe device; of a virtio-blk device it can, and that is plugged again anyway.
        type: bool
        default: false
      state:
        description:
          - Whether the device is there. V(absent) unplugs it from the host and leaves the volume alone.
          - An V(absent) device is gone from the host and from SPDK when the module returns, or the module fails.
        type: str
        choices: [present, absent]
        default: present
  max_devices:
    description: How many slots the host has. Physical ids are below it.
    type: int
    default: 64
  wait:
    description:
      - How many seconds to wait for the bdevs of the volumes to appear, all together, before anything is changed.
      - In check mode nothing is waited for.
    type: float
    default: 10.0
seealso:
  - module: ipdk.storage.sma_info
  - module: ipdk.storage.spdk_nvme_controller
"""

EXAMPLES = r"""
- name: Two disks for the host, one in a given slot
  ipdk.storage.sma_device:
    address: unix:/run/ipdk/ipu1/sma/sma.sock:8080
    rpc_socket: /run/ipdk/ipu1/spdk/spdk.sock
    devices:
      - volume: 6c3f1c3e-5a55-5f29-9e6c-8e3b2a1d4f01
      - volume: 6c3f1c3e-5a55-5f29-9e6c-8e3b2a1d4f02
        physical_id: 10

- name: Unplug one of them
  ipdk.storage.sma_device:
    address: unix:/run/ipdk/ipu1/sma/sma.sock:8080
    rpc_socket: /run/ipdk/ipu1/spdk/spdk.sock
    devices:
      - handle: virtio_blk:sma-10
        state: absent

- name: An NVMe controller with two namespaces
  ipdk.storage.sma_device:
    address: unix:/run/ipdk/ipu1/sma/sma.sock:8080
    rpc_socket: /run/ipdk/ipu1/spdk/spdk.sock
    devices:
      - interface: nvme
        physical_id: 11
        volumes: [6c3f1c3e-5a55-5f29-9e6c-8e3b2a1d4f03, 6c3f1c3e-5a55-5f29-9e6c-8e3b2a1d4f04]
"""

RETURN = r"""
devices:
  description: One entry for each item of O(devices), in their order; in check mode, what it would be.
  returned: when the wanted state could be compared with the current one
  type: list
  elements: dict
  contains:
    physical_id:
      description: The slot; null for a volume that is no device and shall be none.
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
      description: UUID of the bdev; of an NVMe device with several, the first one.
      type: str
      sample: 6c3f1c3e-5a55-5f29-9e6c-8e3b2a1d4f01
    volumes:
      description: UUIDs of all volumes of an NVMe device.
      type: list
      elements: str
    bdev:
      description: Name of the bdev; null while there is none with that UUID.
      type: str
      sample: st1n1
    serial:
      description: >-
        The serial number that the host sees, the first 20 characters of the bdev's name, or see O(devices[].volumes).
      type: str
      sample: st1n1
    state:
      description: V(present) or V(absent), as it is now.
      type: str
      sample: present
    changed:
      description: Whether this device was changed.
      type: bool
counts:
  description: How many devices were wanted, and how many changes were applied, failed and not tried.
  returned: when the wanted state could be compared with the current one
  type: dict
  sample: {wanted: 2, applied: 2, failed: 0, not_tried: 0}
outcome:
  description: What was done, or in check mode would be; each entry with C(action), C(kind), C(name).
  returned: when the wanted state could be compared with the current one
  type: dict
  contains:
    applied:
      description: The changes made. The action is V(create), V(update) (volumes), V(replug) or V(delete).
      type: list
      elements: dict
      sample: [{action: create, kind: device, name: sma-0}]
    failed:
      description: The changes that failed, with C(reason).
      type: list
      elements: dict
    not_tried:
      description: The changes not tried because another one failed, with C(reason).
      type: list
      elements: dict
"""

from ansible_collections.ipdk.storage.plugins.module_utils._module import CONNECTION, run
from ansible_collections.ipdk.storage.plugins.module_utils._resources import STATE
from ansible_collections.ipdk.storage.plugins.module_utils._sma_devices import converge

DEVICE = {
    "physical_id": {"type": "int"},
    "volume": {"type": "str"},
    "handle": {"type": "str"},
    "interface": {"type": "str", "choices": ["virtio-blk", "nvme"]},
    "volumes": {"type": "list", "elements": "str"},
    "replug": {"type": "bool", "default": False},
    "state": STATE,
}
ARGUMENTS = {
    **CONNECTION,
    "address": {"type": "str", "required": True},
    "timeout": {"type": "float", "default": 60.0},
    "devices": {"type": "list", "elements": "dict", "required": True, "options": DEVICE},
    "max_devices": {"type": "int", "default": 64},
    "wait": {"type": "float", "default": 10.0},
    "progress": {"type": "bool", "default": False},
}
work = converge


def main() -> None:
    run(ARGUMENTS, work)


if __name__ == "__main__":
    main()
