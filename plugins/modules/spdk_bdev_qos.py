#!/usr/bin/python

# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: spdk_bdev_qos
short_description: Limit the I/O of SPDK's bdevs
version_added: 0.2.0
author:
  - ipdk.storage contributors (@ipdk-io)
description:
  - Brings the rate limits (QoS) of a list of bdevs to the wanted values, in one connection, under I/O, too.
  - A bdev that is not in the list, and a limit that is not named, keep what they have.
  - SPDK refuses to change the limits of a bdev that nobody has used yet. Then the bdev becomes a namespace of a
    subsystem that nobody can reach, for the moment of the change.
  - The limits go with the bdev, and with the process. M(ipdk.storage.spdk_target) makes a node remember them.
extends_documentation_fragment:
  - ipdk.storage.spdk
  - ipdk.storage.spdk.converges
options:
  qos:
    description: The bdevs and their limits. No two may have the same name.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the bdev.
        type: str
        required: true
      rw_iops:
        description:
          - I/Os a second, reads and writes together, a multiple of 1000 because SPDK rounds up to it.
          - V(0) or V(unlimited) lifts the limit. Left out, it stays as it is. So do the other limits.
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
  - module: ipdk.storage.sma_qos
"""

EXAMPLES = r"""
- name: Read at most 16 MiB a second, write without a limit
  ipdk.storage.spdk_bdev_qos:
    rpc_socket: /run/ipdk/ipu1/spdk/spdk.sock
    qos:
      - {name: st1n1, rd_bandwidth: 16MiB, wr_bandwidth: unlimited}
"""

RETURN = r"""
outcome:
  description: What was done, or in check mode would be; each entry with C(action), C(kind), C(name).
  returned: when the wanted state could be compared with the current one
  type: dict
  contains:
    applied:
      description: The changes made.
      type: list
      elements: dict
      sample: [{action: update, kind: limits, name: st1n1}]
    failed:
      description: The changes that failed, with C(reason).
      type: list
      elements: dict
    not_tried:
      description: The changes not tried because another one failed, with C(reason).
      type: list
      elements: dict
"""

from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._module import CONNECTION, run
from ansible_collections.ipdk.storage.plugins.module_utils._qos import BDEV_QOS, BdevLimits
from ansible_collections.ipdk.storage.plugins.module_utils._resources import converge

ARGUMENTS = {
    **CONNECTION,
    "qos": {"type": "list", "elements": "dict", "required": True, "options": BDEV_QOS},
}


def work(given: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    return converge(BdevLimits(), lambda: BdevLimits.normalise(given["qos"]), given, check_mode)


def main() -> None:
    run(ARGUMENTS, work)


if __name__ == "__main__":
    main()
