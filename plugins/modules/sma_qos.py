#!/usr/bin/python

# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: sma_qos
short_description: Limit the I/O of the devices that an IPU shows to its host
version_added: 0.2.0
author:
  - ipdk.storage contributors (@ipdk-io)
description:
  - Brings the rate limits (QoS) of a list of virtio-blk devices to the wanted values through SPDK's Storage Management
    Agent (SMA), with one channel, while the host does I/O.
  - SMA is asked first which limits it has. Another one is refused, and nothing is changed.
  - SMA has no call that tells the limits, so the current ones are read from the SPDK of the same IPU.
  - A device that is not in the list, and a limit that is not named, keep what they have.
  - SPDK refuses to change the limits of a bdev that nobody has used yet. Then the bdev becomes a namespace of a
    subsystem that nobody can reach, for the moment of the change.
extends_documentation_fragment:
  - ipdk.storage.sma
  - ipdk.storage.spdk
  - ipdk.storage.spdk.converges
options:
  devices:
    description: The devices and their limits. No two may be the same device.
    type: list
    elements: dict
    required: true
    suboptions:
      physical_id:
        description: The slot of the device, from 0.
        type: int
      handle:
        description: SMA's name of the device, C(virtio_blk:sma-<physical_id>), instead of O(devices[].physical_id).
        type: str
      volume:
        description:
          - UUID of the volume that the limits are for. Left out, they are for the device.
          - It has to be the device's. A virtio-blk device has one volume, and the two differ for a volume only that SMA
            encrypts. Then the limits of the volume are those of the bdev below.
        type: str
      rw_iops:
        description:
          - I/Os a second, reads and writes together, a multiple of 1000 because SPDK rounds up to it.
          - V(0) or V(unlimited) lifts the limit. Left out, it stays as it is. So do the other limits.
        type: str
      rd_iops:
        description:
          - I/Os a second that read, a multiple of 1000.
          - SPDK has no such limit. With an SMA that has it, it is set in each run, for SPDK cannot tell it.
        type: str
      wr_iops:
        description: I/Os a second that write, a multiple of 1000. See O(devices[].rd_iops).
        type: str
      rd_bandwidth:
        description:
          - Bytes read a second, or a whole number with V(KiB), V(MiB), V(GiB) or V(TiB); a multiple of 1 MiB.
          - What SPDK and SMA call MB are MiB.
        type: str
      wr_bandwidth:
        description: Bytes written a second, in the same form.
        type: str
      rw_bandwidth:
        description: Bytes a second, reads and writes together, in the same form.
        type: str
seealso:
  - module: ipdk.storage.sma_device
  - module: ipdk.storage.sma_info
  - module: ipdk.storage.spdk_bdev_qos
"""

EXAMPLES = r"""
- name: Limit what a host reads from its first disk
  ipdk.storage.sma_qos:
    address: unix:/run/ipdk/ipu1/sma/sma.sock:8080
    rpc_socket: /run/ipdk/ipu1/spdk/spdk.sock
    devices:
      - physical_id: 0
        rd_bandwidth: 16MiB

- name: Lift all limits of that disk
  ipdk.storage.sma_qos:
    address: unix:/run/ipdk/ipu1/sma/sma.sock:8080
    rpc_socket: /run/ipdk/ipu1/spdk/spdk.sock
    devices:
      - handle: virtio_blk:sma-0
        rw_iops: unlimited
        rd_bandwidth: unlimited
        wr_bandwidth: unlimited
        rw_bandwidth: unlimited
"""

RETURN = r"""
devices:
  description: One entry for each item of O(devices), in their order; in check mode, what it would be.
  returned: when the wanted state could be compared with the current one
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
    volume:
      description: UUID of the volume.
      type: str
      sample: 6c3f1c3e-5a55-5f29-9e6c-8e3b2a1d4f01
    bdev:
      description: Name of the device's bdev; null while there is none.
      type: str
      sample: st1n1
    limits:
      description: All limits as they are now, in the form of the options; null for a device that is not there.
      type: dict
      sample: {rw_iops: unlimited, rw_bandwidth: unlimited, rd_bandwidth: 16MiB, wr_bandwidth: unlimited}
    changed:
      description: Whether the limits of this device were changed.
      type: bool
capabilities:
  description: The limits that SMA has, of a C(device) and of a C(volume).
  returned: when the wanted state could be compared with the current one
  type: dict
  sample:
    device: [rw_iops, rd_bandwidth, wr_bandwidth, rw_bandwidth]
    volume: [rw_iops, rd_bandwidth, wr_bandwidth, rw_bandwidth]
outcome:
  description: What was done, or in check mode would be; each entry with C(action), C(kind), C(name).
  returned: when the wanted state could be compared with the current one
  type: dict
  contains:
    applied:
      description: The changes made.
      type: list
      elements: dict
      sample: [{action: update, kind: limits, name: 'virtio_blk:sma-0'}]
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
from ansible_collections.ipdk.storage.plugins.module_utils._sma_qos import FIELDS, converge

DEVICE = {
    "physical_id": {"type": "int"},
    "handle": {"type": "str"},
    "volume": {"type": "str"},
    **{name: {"type": "str"} for name in FIELDS},
}
ARGUMENTS = {
    **CONNECTION,
    "address": {"type": "str", "required": True},
    "timeout": {"type": "float", "default": 60.0},
    "devices": {"type": "list", "elements": "dict", "required": True, "options": DEVICE},
}
work = converge


def main() -> None:
    run(ARGUMENTS, work)


if __name__ == "__main__":
    main()
