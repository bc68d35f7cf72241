#!/usr/bin/python

# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_disk_info
short_description: Find the disks of a host and say who uses them
version_added: 0.1.0
author:
  - ipdk.storage contributors (@ipdk-io)
description:
  - Reads the host's block disks, NVMe namespaces among them, from sysfs, with serial, PCI address, links and uses. No
    other program is run.
  - Can wait until disks have appeared, disappeared or grown.
extends_documentation_fragment:
  - ipdk.storage.spdk.looks
options:
  serials:
    description: Return only disks with one of these serials.
    type: list
    elements: str
  handles:
    description:
      - Return only disks with one of these device handles (C(virtio_blk:sma-<physical id>) or
        C(nvme:sma-<physical id>), as M(ipdk.storage.sma_device) returns them).
    type: list
    elements: str
  present:
    description:
      - Serials of disks that have to be there. Waits until each has its device node and, where udev runs, its link
        under C(/dev/disk/by-id).
    type: list
    elements: str
    default: []
  absent:
    description: Serials of disks that must not be there. Waits until they are gone.
    type: list
    elements: str
    default: []
  sizes:
    description: Bytes that disks have to have at least, by serial. Waits until they have grown so far.
    type: dict
    default: {}
  timeout:
    description:
      - How many seconds may pass in which no further disk comes, goes or grows. The module fails and names the disks
        when they are over.
    type: float
    default: 30.0
  bridges:
    description:
      - PCI addresses of the bridges behind which the IPU's devices appear, 32 devices each.
      - When left out, those that the simulated host has, C(0000:00:10.0), C(0000:00:11.0) and so on.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Wait for two disks and find them
  ipdk.storage.host_disk_info:
    present: [st1n1, st1n2]
    serials: [st1n1, st1n2]
  register: found

- name: Find the disk behind a device handle
  ipdk.storage.host_disk_info:
    handles: ["virtio_blk:sma-40"]
"""

RETURN = r"""
disks:
  description: The disks, in the kernel's order.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The kernel's name.
      type: str
      sample: vdb
    path:
      description: Path of the device node.
      type: str
      sample: /dev/vdb
    serial:
      description: The serial, or null. Of an NVMe namespace, that of its controller.
      type: str
      sample: st1n1
    size_bytes:
      description: The size in bytes.
      type: int
    block_size:
      description: Bytes in a logical block.
      type: int
    pci_address:
      description: Address of the PCI device, or null.
      type: str
      sample: "0000:01:00.0"
    handle:
      description: The device handle that belongs to this place on the PCI bus, or null.
      type: str
      sample: virtio_blk:sma-0
    driver:
      description: The kernel's driver.
      type: str
      sample: virtio_blk
    by_id:
      description: A stable link to the disk, or null.
      type: str
      sample: /dev/disk/by-id/virtio-st1n1
    wwid:
      description: World wide identifier, or null.
      type: str
    partitions:
      description: Names of its partitions.
      type: list
      elements: str
    mounts:
      description: Where the disk or one of its partitions is mounted.
      type: list
      elements: str
    swaps:
      description: Which of its device nodes are used as swap.
      type: list
      elements: str
    holders:
      description: Devices that are built on it or its partitions (device-mapper, md).
      type: list
      elements: str
    open:
      description: Whether a process has it open; null if the module may not look at all processes.
      type: bool
    open_by:
      description: Which processes those are.
      type: list
      elements: str
      sample: ["fio (811)"]
nvme_controllers:
  description: >-
    The NVMe controllers on PCI, those without a namespace among them, whatever O(serials) and O(handles) say.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The kernel's name.
      type: str
      sample: nvme0
    serial:
      description: The serial, or null.
      type: str
      sample: st1n1
    pci_address:
      description: Address of the PCI device.
      type: str
      sample: "0000:01:00.0"
    handle:
      description: The device handle that belongs to this place on the PCI bus, or null.
      type: str
      sample: nvme:sma-0
missing:
  description: Serials of O(present) that did not appear in time.
  returned: always
  type: list
  elements: str
still_there:
  description: Serials of O(absent) that did not disappear in time.
  returned: always
  type: list
  elements: str
too_small:
  description: Serials of O(sizes) that did not grow in time, with the bytes that they have; 0 of one that is not there.
  returned: always
  type: dict
"""

from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._host_disks import ARGUMENTS, look
from ansible_collections.ipdk.storage.plugins.module_utils._module import run


def work(given: dict[str, Any], _check_mode: bool) -> dict[str, Any]:
    return look(given)


def main() -> None:
    run(ARGUMENTS, work)


if __name__ == "__main__":
    main()
