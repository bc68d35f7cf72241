#!/usr/bin/python

# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: disk_unplug
short_description: Unplug virtual disks, and see them go
version_added: 0.1.0
author:
  - ipdk.storage contributors (@ipdk-io)
description:
  - On an IPU it does what M(ipdk.storage.sma_device) does, on a host what M(ipdk.storage.host_disk_info) does, in one
    task, so that the hosts look while the IPUs unplug.
  - Fails where a module would; it returns what that would return.
attributes:
  check_mode:
    support: full
    description: As of the modules.
  diff_mode:
    support: full
    description: As of M(ipdk.storage.sma_device).
  idempotent:
    support: full
    description: As of the modules.
options:
  device:
    description: The options of M(ipdk.storage.sma_device); empty where the node is no IPU that unplugs.
    type: dict
    default: {}
  python:
    description: The interpreter that has what SMA needs, for C(device); by default the node's own.
    type: str
  host:
    description: The options of M(ipdk.storage.host_disk_info); empty where nobody looks.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Unplug a disk, and see it gone
  ipdk.storage.disk_unplug:
    device: "{{ {'address': ipu_sma_address, 'devices': unplugged} if inventory_hostname == 'ipu1' else {} }}"
    host: "{{ {'absent': ['st1n1']} if inventory_hostname == 'host1' else {} }}"
  vars:
    unplugged: [{handle: "virtio_blk:sma-0", state: absent}]
"""

RETURN = r"""
devices:
  description: As M(ipdk.storage.sma_device) returns it.
  returned: on an IPU
  type: list
  elements: dict
still_there:
  description: As M(ipdk.storage.host_disk_info) returns it.
  returned: on a host
  type: list
  elements: str
"""
