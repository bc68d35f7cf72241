#!/usr/bin/python

# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: spdk_nvmf_subsystem
short_description: Export bdevs of an SPDK as NVMe-oF subsystems
version_added: 0.1.0
author:
  - ipdk.storage contributors (@ipdk-io)
description:
  - Brings a list of NVMe over Fabrics subsystems, each with its namespaces, hosts and listeners, to the wanted state,
    in one connection.
  - What is not in a list is left alone unless O(purge) says otherwise. An option that is left out keeps what exists.
  - Nobody gets in early. Listeners are added last and removed first, and a new subsystem admits the named hosts only.
extends_documentation_fragment:
  - ipdk.storage.spdk
  - ipdk.storage.spdk.converges
options:
  subsystems:
    description: The subsystems.
    type: list
    elements: dict
    required: true
    suboptions:
      nqn:
        description:
          - NQN of the subsystem.
          - Of the discovery subsystem, V(nqn.2014-08.org.nvmexpress.discovery), only the listeners can be set.
        type: str
        required: true
      serial_number:
        description: At most 20 printable ASCII characters. Cannot be changed later.
        type: str
      model_number:
        description: At most 40 printable ASCII characters. Cannot be changed later.
        type: str
      allow_any_host:
        description: Admit every host. When the subsystem is created and nothing is said, it does not.
        type: bool
      ana_reporting:
        description:
          - Tell hosts the state of each way to the subsystem (Asymmetric Namespace Access), as several paths need.
          - Cannot be changed later. When the subsystem is created and nothing is said, it does not.
        type: bool
      max_namespaces:
        description: The highest NSID. Cannot be changed later; SPDK's own value is 32.
        type: int
      namespaces:
        description: The namespaces.
        type: list
        elements: dict
        suboptions:
          bdev:
            description: The bdev that is exported. Required unless the namespace is to be absent.
            type: str
          nsid:
            description: Namespace identifier. Left out, it is the one that the bdev has, else the lowest free one.
            type: int
          uuid:
            description: UUID of the namespace. Left out, it is the bdev's.
            type: str
          nguid:
            description: NGUID of the namespace, 32 hexadecimal digits. Left out, it follows from the UUID.
            type: str
          state:
            description: Whether the namespace is there. The bdev stays in any case.
            type: str
            choices: [present, absent]
            default: present
      hosts:
        description:
          - The hosts that are admitted. Each is an NQN, or a dictionary with C(nqn) and any of C(dhchap_key) (the name
            of a key in SPDK's keyring with which the host has to authenticate, SPDK 24.05 or newer),
            C(dhchap_ctrlr_key) (the name of the key with which the controller does) and C(state) (C(present) or
            C(absent)).
          - The keys of a host that is there are changed in place, with SPDK 24.09 or newer.
        type: list
        elements: raw
      listeners:
        description: The addresses at which the subsystem can be reached.
        type: list
        elements: dict
        suboptions:
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
            description: IP address.
            type: str
            required: true
          trsvcid:
            description: Port.
            type: str
            default: "4420"
          ana_state:
            description:
              - What hosts are told of the way through this listener. Needs O(subsystems[].ana_reporting).
              - Hosts take V(optimized) ways, V(non_optimized) ones where there is no other, never V(inaccessible) ones.
              - Left out, it stays as it is; that of a new listener is V(optimized).
            type: str
            choices: [optimized, non_optimized, inaccessible]
          state:
            description: Whether the listener is there.
            type: str
            choices: [present, absent]
            default: present
      state:
        description: Whether the subsystem is there. V(absent) disconnects its hosts; the bdevs stay.
        type: str
        choices: [present, absent]
        default: present
  purge:
    description:
      - Which of the lists are complete. What a subsystem has and a given list of that kind has not, is removed.
    type: list
    elements: str
    choices: [namespaces, hosts, listeners]
    default: []
"""

EXAMPLES = r"""
- name: Export a volume to one host
  ipdk.storage.spdk_nvmf_subsystem:
    rpc_socket: /run/ipdk/st1/spdk/spdk.sock
    subsystems:
      - nqn: nqn.2022-06.io.ipdk:st1:ipu1
        serial_number: st1-ipu1
        max_namespaces: 256
        hosts:
          - nqn.2014-08.org.nvmexpress:uuid:6f3c0a52-1b1f-5d0e-9d4e-2f0f3f6b7a10
        namespaces:
          - {bdev: vol00, nsid: 1}
        listeners:
          - {traddr: 198.18.0.2}

- name: Take the namespace away again, and keep the rest
  ipdk.storage.spdk_nvmf_subsystem:
    rpc_socket: /run/ipdk/st1/spdk/spdk.sock
    subsystems:
      - nqn: nqn.2022-06.io.ipdk:st1:ipu1
        namespaces:
          - {bdev: vol00, state: absent}
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
      sample: [{action: create, kind: subsystem, name: "nqn.2022-06.io.ipdk:st1:ipu1"}]
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
from ansible_collections.ipdk.storage.plugins.module_utils._nvmf_subsystems import PURGEABLE, SUBSYSTEM, Subsystems
from ansible_collections.ipdk.storage.plugins.module_utils._resources import converge

ARGUMENTS = {
    **CONNECTION,
    "subsystems": {"type": "list", "elements": "dict", "required": True, "options": SUBSYSTEM},
    "purge": {"type": "list", "elements": "str", "choices": list(PURGEABLE), "default": []},
}


def work(given: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    family = Subsystems(purge=given["purge"])
    return converge(family, lambda: Subsystems.normalise(given["subsystems"]), given, check_mode)


def main() -> None:
    run(ARGUMENTS, work)


if __name__ == "__main__":
    main()
