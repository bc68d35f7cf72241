#!/usr/bin/python

# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: spdk_nvmf_transport
short_description: Create NVMe-oF transports of an SPDK
version_added: 0.1.0
author:
  - ipdk.storage contributors (@ipdk-io)
description:
  - Brings a list of NVMe over Fabrics transports of a storage target to the wanted state, in one connection.
  - SPDK can neither change nor delete a transport; a difference is an error before anything is changed.
extends_documentation_fragment:
  - ipdk.storage.spdk
  - ipdk.storage.spdk.converges
options:
  transports:
    description: The transports. An option that is left out is chosen by SPDK, or keeps what exists.
    type: list
    elements: dict
    required: true
    suboptions:
      trtype:
        description: Type of the transport.
        type: str
        choices: [TCP, RDMA]
        required: true
      max_queue_depth:
        description: Outstanding I/O commands in a queue.
        type: int
      max_io_qpairs_per_ctrlr:
        description: I/O queue pairs of a controller.
        type: int
      in_capsule_data_size:
        description: Bytes of data that may come within a command.
        type: int
      max_io_size:
        description: Largest I/O in bytes.
        type: int
      io_unit_size:
        description: Bytes of an I/O buffer. SPDK 26.05 does not report it, so a difference cannot be seen later.
        type: int
      max_aq_depth:
        description: Outstanding admin commands of a controller.
        type: int
      num_shared_buffers:
        description: Pooled data buffers.
        type: int
      buf_cache_size:
        description: Data buffers kept by each poll group.
        type: int
      c2h_success:
        description: Let the last data packet stand for the response.
        type: bool
      zcopy:
        description: Use zero-copy operations where the bdev has them.
        type: bool
      dif_insert_or_strip:
        description: Insert and strip protection information.
        type: bool
      sock_priority:
        description: Priority of the sockets.
        type: int
      acceptor_backlog:
        description: Connections that may wait to be accepted.
        type: int
      abort_timeout_sec:
        description: Seconds to wait for a command that is to be aborted.
        type: int
      ack_timeout:
        description: Acknowledgement timeout. Needs SPDK 24.05 or newer.
        type: int
      data_wr_pool_size:
        description: Requests in the pool for data. Needs SPDK 24.05 or newer.
        type: int
      disable_command_passthru:
        description: Do not pass vendor commands on. Needs SPDK 24.09 or newer.
        type: bool
      kas:
        description: Granularity of the keep-alive timer, in units of 100 ms. Needs SPDK 25.05 or newer.
        type: int
      min_kato:
        description: Smallest keep-alive timeout in milliseconds. Needs SPDK 25.05 or newer.
        type: int
      state:
        description: Whether the transport is there. V(absent) is refused where it exists, SPDK cannot do it.
        type: str
        choices: [present, absent]
        default: present
"""

EXAMPLES = r"""
- name: NVMe/TCP with SPDK's own values, but for the data within a command
  ipdk.storage.spdk_nvmf_transport:
    rpc_socket: /run/ipdk/st1/spdk/spdk.sock
    transports:
      - {trtype: TCP, in_capsule_data_size: 8192}
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
      sample: [{action: create, kind: transport, name: TCP}]
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
from ansible_collections.ipdk.storage.plugins.module_utils._nvmf_transports import TRANSPORT, Transports
from ansible_collections.ipdk.storage.plugins.module_utils._resources import converge

ARGUMENTS = {
    **CONNECTION,
    "transports": {"type": "list", "elements": "dict", "required": True, "options": TRANSPORT},
}


def work(given: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    return converge(Transports(), lambda: Transports.normalise(given["transports"]), given, check_mode)


def main() -> None:
    run(ARGUMENTS, work)


if __name__ == "__main__":
    main()
