#!/usr/bin/python

# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: disk_sight
short_description: Look at what a node has to do with virtual disks
version_added: 0.1.0
author:
  - ipdk.storage contributors (@ipdk-io)
description:
  - Asks the node's SPDK as M(ipdk.storage.spdk_info) does, looks at its disks as M(ipdk.storage.host_disk_info) does,
    or both, and returns what M(ipdk.storage.disk_plan) reads of that.
  - Fails where a node does not answer, or its SPDK has no method for what is wanted. Unknown is not empty.
extends_documentation_fragment:
  - ipdk.storage.spdk.looks
options:
  spdk:
    description: The options of M(ipdk.storage.spdk_info); empty where the node has no SPDK.
    type: dict
    default: {}
  host:
    description: Whether to look at the node's disks.
    type: bool
"""

EXAMPLES = r"""
- name: See what the IPUs have, and what the hosts see
  ipdk.storage.disk_sight:
    spdk: "{{ ipu_question if inventory_hostname in groups.ipus else {} }}"
    host: "{{ inventory_hostname in groups.ipu_hosts }}"
  vars:
    ipu_question:
      rpc_socket: /run/ipdk/ipu1/spdk/spdk.sock
      gather: [bdevs, nvme_controllers, vhost_controllers]
  register: seen
"""

RETURN = r"""
observed:
  description: What the filter P(ipdk.storage.plan#filter) takes as C(observed) of this node.
  returned: success
  type: dict
"""
