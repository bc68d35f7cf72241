#!/usr/bin/python

# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: spdk_nvme_controller
short_description: Attach an SPDK to NVMe-oF subsystems
version_added: 0.1.0
author:
  - ipdk.storage contributors (@ipdk-io)
description:
  - Brings a list of NVMe over Fabrics controllers of an SPDK (the initiator's side) to the wanted state, in one
    connection. Each namespace of an attached subsystem becomes a bdev called C(<controller>n<nsid>).
  - A controller that is not in the list is left alone, and so is a path that is not.
  - SPDK does not report a controller's timers, digests and keys. They count when a path is attached; to change them,
    make the controller absent first.
extends_documentation_fragment:
  - ipdk.storage.spdk
  - ipdk.storage.spdk.converges
options:
  controllers:
    description: The controllers.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the controller, unique in this SPDK.
        type: str
        required: true
      trtype:
        description: Type of the transport.
        type: str
        choices: [TCP, RDMA]
        default: TCP
      adrfam:
        description: Address family. Left out, it follows from the address.
        type: str
        choices: [IPv4, IPv6]
      traddr:
        description: IP address of the storage target. Required unless the controller is to be absent.
        type: str
      trsvcid:
        description: Port of the storage target.
        type: str
        default: "4420"
      paths:
        description: Further addresses of the same subsystem. They need O(controllers[].multipath).
        type: list
        elements: dict
        suboptions:
          adrfam:
            description: Address family. Left out, it follows from the address.
            type: str
            choices: [IPv4, IPv6]
          traddr:
            description: IP address.
            type: str
            required: true
          trsvcid:
            description: Port.
            type: str
            default: "4420"
      subnqn:
        description: NQN of the subsystem. Required unless the controller is to be absent.
        type: str
      hostnqn:
        description: NQN that this SPDK shows to the storage target.
        type: str
      ctrlr_loss_timeout_sec:
        description: Seconds after which a lost controller is given up; V(-1) for never.
        type: int
        default: -1
      reconnect_delay_sec:
        description: Seconds between attempts to reconnect.
        type: int
        default: 1
      fast_io_fail_timeout_sec:
        description: Seconds after which I/O to a lost controller fails. Left out, it waits as long as the controller.
        type: int
      num_io_queues:
        description: How many I/O queues to ask for.
        type: int
      multipath:
        description: What a second path is good for.
        type: str
        choices: [disable, failover, multipath]
      hdgst:
        description: Protect the headers of PDUs with a digest.
        type: bool
      ddgst:
        description: Protect the data of PDUs with a digest.
        type: bool
      dhchap_key:
        description: Name of the key in SPDK's keyring with which this host authenticates. Needs SPDK 24.05 or newer.
        type: str
      dhchap_ctrlr_key:
        description: Name of the key with which the controller has to. Needs SPDK 24.05 or newer.
        type: str
      bdevs:
        description: Wait until at least so many bdevs of this controller are there.
        type: int
      state:
        description: Whether the controller is attached. V(absent) takes its bdevs away; the data stays on the target.
        type: str
        choices: [present, absent]
        default: present
  wait_for_bdevs:
    description: Names of bdevs to wait for.
    type: list
    elements: str
    default: []
  wait_timeout:
    description: How many seconds to wait for bdevs. Those that are missing then are a failure.
    type: float
    default: 30.0
"""

EXAMPLES = r"""
- name: Attach the IPU to its storage target for good, and wait for the first disk's bdev
  ipdk.storage.spdk_nvme_controller:
    rpc_socket: /run/ipdk/ipu1/spdk/spdk.sock
    controllers:
      - name: st1
        traddr: 198.18.0.2
        subnqn: nqn.2022-06.io.ipdk:st1:ipu1
        hostnqn: nqn.2014-08.org.nvmexpress:uuid:6f3c0a52-1b1f-5d0e-9d4e-2f0f3f6b7a10
    wait_for_bdevs: [st1n1]
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
      sample: [{action: create, kind: controller, name: st1}]
    failed:
      description: The changes that failed, with C(reason).
      type: list
      elements: dict
    not_tried:
      description: The changes not tried because another one failed, with C(reason).
      type: list
      elements: dict
bdevs:
  description:
    - The bdevs of the controllers in the list, and those of O(wait_for_bdevs), as they are at the end.
    - In check mode those that are there already.
  returned: when SPDK answered
  type: list
  elements: dict
  sample:
    - {name: st1n1, controller: st1, uuid: 0c2f7f4e-3a5b-5d53-8d2a-3d8bb5f5a001, block_size: 512, size: 67108864}
"""

from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._checks import check_bdev
from ansible_collections.ipdk.storage.plugins.module_utils._module import CONNECTION, run
from ansible_collections.ipdk.storage.plugins.module_utils._nvme_controllers import (
    CONTROLLER,
    Controllers,
    wait_for_bdevs,
)
from ansible_collections.ipdk.storage.plugins.module_utils._reconcile import Outcome, Refused
from ansible_collections.ipdk.storage.plugins.module_utils._resources import converge

ARGUMENTS = {
    **CONNECTION,
    "controllers": {"type": "list", "elements": "dict", "required": True, "options": CONTROLLER},
    "wait_for_bdevs": {"type": "list", "elements": "str", "default": []},
    "wait_timeout": {"type": "float", "default": 30.0},
}


def work(given: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    def wanted() -> list[dict[str, Any]]:
        problems: list[str] = []
        for index, name in enumerate(given["wait_for_bdevs"]):
            check_bdev(name, f"wait_for_bdevs[{index}]", problems)
        if problems:
            raise Refused(problems)
        return Controllers.normalise(given["controllers"])

    def look(client: Any, outcome: Outcome, items: Any) -> dict[str, Any]:
        # What check mode has not attached will not show up, nor what could not be attached.
        seconds = 0.0 if check_mode or outcome.failed else given["wait_timeout"]
        bdevs, missing = wait_for_bdevs(client, items, given["wait_for_bdevs"], seconds)
        if seconds:
            outcome.failed += [
                {"action": "wait", "kind": "bdev", "name": "", "reason": f"{sentence} after {seconds:g} s"}
                for sentence in missing
            ]
        return {"bdevs": bdevs}

    return converge(Controllers(), wanted, given, check_mode, look)


def main() -> None:
    run(ARGUMENTS, work)


if __name__ == "__main__":
    main()
