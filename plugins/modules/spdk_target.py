#!/usr/bin/python

# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: spdk_target
short_description: Bring an SPDK to a whole node's declaration
version_added: 0.2.0
author:
  - ipdk.storage contributors (@ipdk-io)
description:
  - Applies a document that says all that an SPDK shall have, in one connection and in an order in which it works.
    Transports come first, then bdevs, subsystems with their namespaces and only then their listeners, NVMe
    controllers, encrypted bdevs, limits of bdevs, and last vhost controllers.
  - What is there and not in the document is left alone.
  - With O(remember) the node keeps the document. Its SPDK then comes back with what is in it, without Ansible.
extends_documentation_fragment:
  - ipdk.storage.spdk
  - ipdk.storage.spdk.converges
options:
  declaration:
    description:
      - The document. Every section is optional.
      - C(transports), C(bdevs), C(subsystems), C(controllers), C(crypto) and C(qos) are lists of what
        M(ipdk.storage.spdk_nvmf_transport), M(ipdk.storage.spdk_bdev), M(ipdk.storage.spdk_nvmf_subsystem),
        M(ipdk.storage.spdk_nvme_controller), M(ipdk.storage.spdk_bdev_crypto) and M(ipdk.storage.spdk_bdev_qos) take in
        their options of these names, without C(state).
      - The keys of C(crypto) are in files on the node, C(key_file). A document with a key in it is refused.
      - C(vhost_blk) is a list of vhost-user-blk controllers, each with its C(name), which is also the name of its
        socket, and its C(bdev).
      - C(nbd) is a list of NBD disks, each with its C(name), which is SPDK's C(nbd_device), and its C(bdev).
      - C(version) is V(1), and C(node) is the name of the node, for whoever reads it.
    type: dict
    required: true
  remember:
    description:
      - A file on the node. It gets the document, atomically and readable by its owner only, before anything is changed.
      - What the file has and O(declaration) does not name stays in it.
    type: path
"""

EXAMPLES = r"""
- name: A storage target with one volume that comes back by itself
  ipdk.storage.spdk_target:
    rpc_socket: /run/ipdk/st1/spdk/spdk.sock
    remember: /var/lib/ipdk/st1/declaration.json
    declaration:
      version: 1
      node: st1
      transports:
        - trtype: TCP
      bdevs:
        - name: vol00
          type: aio
          filename: /var/lib/ipdk/st1/volumes/vol00
          block_size: 512
      subsystems:
        - nqn: nqn.2022-06.io.ipdk:st1:ipu1
          hosts: ["nqn.2014-08.org.nvmexpress:uuid:6f3c0a52-1b1f-5d0e-9d4e-2f0f3f6b7a10"]
          namespaces:
            - {bdev: vol00, nsid: 1}
          listeners:
            - {traddr: 198.18.0.10}
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
remembered:
  description: Whether the file of O(remember) was written, or in check mode would be.
  returned: when O(remember) is given and the declaration is right
  type: bool
"""

from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils import _declaration, _document
from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import Client, Error
from ansible_collections.ipdk.storage.plugins.module_utils._module import CONNECTION, run
from ansible_collections.ipdk.storage.plugins.module_utils._reconcile import Refused

ARGUMENTS = {
    **CONNECTION,
    "declaration": {"type": "dict", "required": True},
    "remember": {"type": "path"},
}


def work(given: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    remembered: dict[str, Any] = {}
    try:
        items = _declaration.check(given["declaration"])
        with Client(given["rpc_socket"], given["rpc_timeout"]) as client:
            outcome = _declaration.predict(items, client)
            if given["remember"]:
                there = _document.load(given["remember"])
                document = _declaration.merge(there, given["declaration"])
                remembered = {"remembered": document != there}
                if document != there and not check_mode:
                    _document.save(given["remember"], document)
            if outcome.changed and not check_mode:
                outcome = _declaration.apply(items, client)
    except Refused as refused:
        return {"failed": True, "changed": False, "msg": f"Nothing was changed. {refused}"}
    except (Error, OSError, ValueError) as error:
        changed = remembered.get("remembered", False)
        return {"failed": True, "changed": changed, "msg": str(error), **remembered}
    result = {**outcome.result(), **remembered}
    result["changed"] = outcome.changed or remembered.get("remembered", False)
    if outcome.notes:
        result["warnings"] = outcome.notes
    if outcome.failed:
        result.update(failed=True, msg=outcome.summary())
    return result


def main() -> None:
    run(ARGUMENTS, work)


if __name__ == "__main__":
    main()
