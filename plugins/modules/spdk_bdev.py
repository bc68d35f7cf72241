#!/usr/bin/python

# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: spdk_bdev
short_description: Create, grow and delete bdevs of an SPDK
version_added: 0.1.0
author:
  - ipdk.storage contributors (@ipdk-io)
description:
  - Brings a list of bdevs (SPDK's block devices) to the wanted state, in one connection.
  - A bdev that is not in the list is left alone. An option that is left out keeps what exists.
  - NVMe bdevs come and go with their controller, see M(ipdk.storage.spdk_nvme_controller).
extends_documentation_fragment:
  - ipdk.storage.spdk
  - ipdk.storage.spdk.converges
options:
  bdevs:
    description: The bdevs.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the bdev, unique in this SPDK.
        type: str
        required: true
      type:
        description:
          - What it is made of. V(malloc) is memory and loses its data with the process, V(aio) is a file or a block
            device, V(null) throws away what is written (in YAML it needs its quotes).
          - Required unless O(bdevs[].state=absent), where it protects against deleting something else of that name.
        type: str
        choices: [malloc, "null", aio]
      size:
        description:
          - Bytes, or a whole number with V(KiB), V(MiB), V(GiB) or V(TiB); a multiple of the block size.
          - A V(null) bdev grows to it. A V(malloc) bdev cannot grow. Nothing is ever shrunk.
          - Of an V(aio) bdev, the least that it has to have. Its file is not touched; when the file has grown, the
            bdev follows.
        type: str
      num_blocks:
        description: The size in blocks, instead of O(bdevs[].size).
        type: int
      block_size:
        description: Bytes in a block, V(512) when the bdev is created and nothing is said. Cannot be changed later.
        type: int
      uuid:
        description:
          - UUID of the bdev, chosen by SPDK when it is created and nothing is said. Cannot be changed later.
          - Of V(aio) bdevs it needs SPDK 24.09 or newer.
        type: str
      filename:
        description: Path of the file or block device of an V(aio) bdev, as SPDK sees it.
        type: path
      state:
        description: Whether the bdev is there. V(absent) destroys the data of a V(malloc) bdev.
        type: str
        choices: [present, absent]
        default: present
  force:
    description: Delete a bdev even while a namespace or another bdev holds it.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Two volumes in memory and one in a file
  ipdk.storage.spdk_bdev:
    rpc_socket: /run/ipdk/st1/spdk/spdk.sock
    bdevs:
      - {name: vol00, type: malloc, size: 64MiB}
      - {name: vol01, type: malloc, size: 64MiB, block_size: 4096}
      - {name: vol02, type: aio, filename: /var/lib/ipdk/st1/vol02.img, block_size: 4096}

- name: One of them away
  ipdk.storage.spdk_bdev:
    rpc_socket: /run/ipdk/st1/spdk/spdk.sock
    bdevs:
      - {name: vol01, state: absent}
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
      sample: [{action: create, kind: bdev, name: vol00}]
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

from ansible_collections.ipdk.storage.plugins.module_utils._bdevs import BDEV, Bdevs
from ansible_collections.ipdk.storage.plugins.module_utils._module import CONNECTION, run
from ansible_collections.ipdk.storage.plugins.module_utils._resources import converge

ARGUMENTS = {
    **CONNECTION,
    "bdevs": {"type": "list", "elements": "dict", "required": True, "options": BDEV},
    "force": {"type": "bool", "default": False},
}


def work(given: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    return converge(Bdevs(force=given["force"]), lambda: Bdevs.normalise(given["bdevs"]), given, check_mode)


def main() -> None:
    run(ARGUMENTS, work)


if __name__ == "__main__":
    main()
