# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: lab
short_description: A simulated lab, from how many nodes it shall have
version_added: 0.1.0
author:
  - ipdk.storage contributors (@ipdk-io)
description:
  - Counts in, hosts and variables out. All nodes are containers and QEMU guests of the machine that runs the playbooks.
  - Storage targets are called C(st1), C(st2), …, IPUs C(ipu1), …, their hosts C(host1), …. They are in the groups
    C(storage_targets), C(ipus) and C(ipu_hosts); the group C(lab_platforms) has C(localhost).
  - The file's name ends with C(.ipdk.yml) or C(.ipdk.yaml). Directories C(group_vars) and C(host_vars) beside it work
    as with every inventory.
  - Addresses are computed. In a subnet of 256 addresses, storage targets have those from 10 on, IPUs from 20, hosts
    from 30, ten of each at most. A larger subnet has room for more.
notes:
  - Ansible only warns when it cannot read an inventory, tries its other plugins, and goes on without.
    C(ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED=true) makes it stop.
options:
  plugin:
    description: Says that the file is for this plugin.
    type: str
    required: true
    choices: [ipdk.storage.lab]
  name:
    description:
      - Name of the lab, the prefix of its containers and networks.
      - Two labs on one machine need two names, two subnets, and nodes of other names (O(node_prefix)).
    type: str
    default: ipdk
  node_prefix:
    description:
      - What the names of all nodes begin with. V(b) makes C(bst1), C(bipu1), C(bhost1).
      - Nodes of one name share directories on their machine, whatever lab they belong to.
    type: str
    default: ""
  storage_targets:
    description: How many storage targets.
    type: int
    default: 1
  ipus:
    description: How many IPUs.
    type: int
    default: 1
  hosts:
    description: How many hosts. Each IPU has one, so it is the number of O(ipus) or left out.
    type: int
  subnet:
    description: The lab's subnet, inside 198.18.0.0/15, a /26 or larger.
    type: str
    default: 198.18.0.0/24
  engine:
    description: The SPDK of storage targets and IPUs. V(spdk) also needs the variables that say where it comes from.
    type: str
    choices: [emulator, spdk]
    default: emulator
  storage_target_malloc_mib:
    description: >-
      Room of each storage target for volumes in memory, in MiB. When left out, what those of the inventory's
      C(virtual_disks) need.
    type: int
  host_guest:
    description: The guest that stands for a host. V(minimal) has neither ssh nor Python.
    type: str
    choices: [debian, minimal]
    default: debian
  host_access:
    description: V(none) leaves the guests alone as if they were a tenant's. V(ssh) needs O(host_guest=debian).
    type: str
    choices: [ssh, none]
    default: ssh
  host_memory_mib:
    description: Memory of each guest in MiB.
    type: int
    default: 1024
  host_vcpus:
    description: Virtual processors of each guest. More than one is for KVM, for an emulated guest may then stand still.
    type: int
    default: 1
"""

EXAMPLES = r"""
# lab.ipdk.yml: two of each
plugin: ipdk.storage.lab
storage_targets: 2
ipus: 2

---
# Another lab on the same machine, with smaller guests
plugin: ipdk.storage.lab
name: small
node_prefix: s
subnet: 198.18.4.0/24
ipus: 4
host_memory_mib: 512
host_vcpus: 1
"""

from typing import Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin
from ansible.template import trust_as_template
from ansible_collections.ipdk.storage.plugins.plugin_utils import lab


class InventoryModule(BaseInventoryPlugin):
    NAME = "ipdk.storage.lab"

    def verify_file(self, path: str) -> bool:
        return bool(super().verify_file(path)) and path.endswith((".ipdk.yml", ".ipdk.yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        super().parse(inventory, loader, path, cache)
        given = self._read_config_data(path)
        options = {key: value for key, value in self.get_options().items() if key != "plugin"}
        try:
            lab.check(given, options)
        except lab.InvalidLab as error:
            raise AnsibleParserError(f"{path}: {error}") from error
        groups, hosts = lab.inventory(options)
        for group, variables in groups.items():
            inventory.add_group(group)
            for key, value in variables.items():
                inventory.set_variable(group, key, _trusted(value))
        for group, members in hosts.items():
            for host, variables in members.items():
                inventory.add_host(host, group=group)
                for key, value in variables.items():
                    inventory.set_variable(host, key, _trusted(value))


def _trusted(value: Any) -> Any:
    """Its templates are its own: what the operator wrote is checked against patterns.

    Said of each, for ``trusted_by_default`` has no effect behind another source (ansible-core 2.19).
    """
    if isinstance(value, list):
        return [_trusted(element) for element in value]
    return trust_as_template(value) if isinstance(value, str) else value
