#!/usr/bin/python

# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: spdk_info
short_description: Look at what an SPDK has
version_added: 0.1.0
author:
  - ipdk.storage contributors (@ipdk-io)
description:
  - Returns SPDK's own answers, unchanged, with one request for each section and one connection for all.
extends_documentation_fragment:
  - ipdk.storage.spdk
  - ipdk.storage.spdk.looks
options:
  gather:
    description:
      - The sections to return.
      - V(version) is the answer of C(spdk_get_version).
      - V(bdevs) is the answer of C(bdev_get_bdevs).
      - V(subsystems) is the answer of C(nvmf_get_subsystems).
      - V(transports) is the answer of C(nvmf_get_transports).
      - V(listeners) is the answer of C(nvmf_subsystem_get_listeners) by NQN, of the subsystems that report ANA, and
        of those without namespaces, which do not tell.
      - V(nvme_controllers) is the answer of C(bdev_nvme_get_controllers).
      - V(vhost_controllers) is the answer of C(vhost_get_controllers).
      - V(nbd_disks) is the answer of C(nbd_get_disks).
      - V(lvol_stores) is the answer of C(bdev_lvol_get_lvstores); the volumes in them are among V(bdevs).
      - V(iostat) is the answer of C(bdev_get_iostat).
      - V(methods) is the answer of C(rpc_get_methods), restricted to what may be called now.
    type: list
    elements: str
    choices:
      - version
      - bdevs
      - subsystems
      - transports
      - listeners
      - nvme_controllers
      - vhost_controllers
      - nbd_disks
      - lvol_stores
      - iostat
      - methods
    default: [version]
  declaration_file:
    description:
      - Return what is in this file, too. It is the declaration that the node keeps of its SPDK, see
        M(ipdk.storage.spdk_target).
    type: path
  files:
    description:
      - Return which of these files are there, too. Of a file whose bdev is gone SPDK knows nothing.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: What the IPU has
  ipdk.storage.spdk_info:
    rpc_socket: /run/ipdk/ipu1/spdk/spdk.sock
    gather: [bdevs, nvme_controllers, vhost_controllers]
  register: ipu
"""

RETURN = r"""
spdk:
  description: By the name of the section, the result of SPDK's method as it came.
  returned: success
  type: dict
  sample:
    version:
      version: SPDK v26.05 git sha1 d519b163cb
      fields: {major: 26, minor: 5, patch: 0, suffix: "", commit: d519b163cb}
declaration:
  description: The declaration that the node keeps; null where there is no such file.
  returned: when O(declaration_file) is given
  type: dict
files:
  description: Those of O(files) that are there.
  returned: when O(files) is given
  type: list
  elements: str
unsupported:
  description: Sections that this SPDK has no method for. They are not in RV(spdk). Unknown is not empty.
  returned: success
  type: list
  elements: str
"""

import os
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._document import load
from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import Client, Error, Unsupported
from ansible_collections.ipdk.storage.plugins.module_utils._module import CONNECTION, run
from ansible_collections.ipdk.storage.plugins.module_utils._nvmf_subsystems import listeners_with_ana
from ansible_collections.ipdk.storage.plugins.module_utils._reconcile import Refused

SECTIONS = {
    "version": ("spdk_get_version", None),
    "bdevs": ("bdev_get_bdevs", None),
    "subsystems": ("nvmf_get_subsystems", None),
    "transports": ("nvmf_get_transports", None),
    "nvme_controllers": ("bdev_nvme_get_controllers", None),
    "vhost_controllers": ("vhost_get_controllers", None),
    "nbd_disks": ("nbd_get_disks", None),
    "lvol_stores": ("bdev_lvol_get_lvstores", None),
    "iostat": ("bdev_get_iostat", None),
    "methods": ("rpc_get_methods", {"current": True}),
}
ARGUMENTS = {
    **CONNECTION,
    "gather": {"type": "list", "elements": "str", "choices": [*SECTIONS, "listeners"], "default": ["version"]},
    "declaration_file": {"type": "path"},
    "files": {"type": "list", "elements": "str"},
}


def work(given: dict[str, Any], _check_mode: bool) -> dict[str, Any]:
    sections = [section for section in dict.fromkeys(given["gather"]) if section != "listeners"]
    told = {}
    of_the_node = {}
    try:
        if given["declaration_file"]:
            of_the_node["declaration"] = load(given["declaration_file"])
        if given["files"] is not None:
            of_the_node["files"] = [path for path in given["files"] if os.path.isfile(path)]
        with Client(given["rpc_socket"], given["rpc_timeout"]) as client:
            answers = dict(zip(sections, client.pipeline([SECTIONS[section] for section in sections])))
            if "listeners" in given["gather"]:
                subsystems = answers.get("subsystems")
                if not isinstance(subsystems, list):
                    subsystems = client.call("nvmf_get_subsystems")
                told = {"listeners": listeners_with_ana(client, subsystems)}
    except (Error, Refused, ValueError) as error:
        return {"failed": True, "msg": str(error)}
    unsupported = [section for section, answer in answers.items() if isinstance(answer, Unsupported)]
    spdk = {section: answer for section, answer in answers.items() if section not in unsupported} | told
    broken = [str(answer) for answer in spdk.values() if isinstance(answer, Error)]
    if broken:
        return {"failed": True, "msg": "; ".join(dict.fromkeys(broken))}
    return {"changed": False, "spdk": spdk, "unsupported": unsupported, **of_the_node}


def main() -> None:
    run(ARGUMENTS, work)


if __name__ == "__main__":
    main()
