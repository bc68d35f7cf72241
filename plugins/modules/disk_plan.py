#!/usr/bin/python

# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: disk_plan
short_description: Check a list of virtual disks, and plan what brings them to their states
version_added: 0.1.0
author:
  - ipdk.storage contributors (@ipdk-io)
description:
  - What the filter P(ipdk.storage.plan#filter) computes, as a task. It runs on the controller, asks nobody and changes
    nothing.
  - Fails with one message for each mistake if the list cannot be right. Without O(observed) that is all it does.
extends_documentation_fragment:
  - ipdk.storage.spdk.looks
options:
  disks:
    description: The virtual disks, as the role P(ipdk.storage.virtual_disks#role) describes them.
    type: raw
    required: true
  nodes:
    description: What the inventory declares, as for the filter P(ipdk.storage.plan#filter).
    type: dict
    required: true
  observed:
    description: The state of the nodes, as for the filter P(ipdk.storage.plan#filter).
    type: dict
  options:
    description: The options of the filter P(ipdk.storage.plan#filter).
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Check the list before anybody is asked
  ipdk.storage.disk_plan:
    disks: "{{ virtual_disks }}"
    nodes: "{{ groups | ipdk.storage.declared_nodes(hostvars) }}"
  run_once: true
"""

RETURN = r"""
plan:
  description:
    - The plan, as the filter P(ipdk.storage.plan#filter) returns it.
    - Where nothing is unplugged, C(kept) and C(remember) are empty. They say what stays as it is where that fails.
  returned: with O(observed)
  type: dict
"""
