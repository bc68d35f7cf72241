#!/usr/bin/python

# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: spdk_declaration
short_description: Keep the declaration that a node's SPDK comes back with
version_added: 0.1.0
author:
  - ipdk.storage contributors (@ipdk-io)
description:
  - Writes the document that says all that an SPDK shall have to a file on its node, whole or not at all, and on the
    disk before its name is. C(ipdk-restore) applies it when that SPDK starts.
  - The SPDK is not asked and not changed; M(ipdk.storage.spdk_target) does both.
attributes:
  check_mode:
    support: full
    description: Says whether the file would be written, and does not write it.
  diff_mode:
    support: full
    description: The document before and after.
  idempotent:
    support: full
    description: The same document is not written again.
options:
  path:
    description: >-
      The file. It belongs to the owner of the one that is there, else to that of its directory, and nobody else can
      read it.
    type: path
    required: true
  declaration:
    description: The document, as M(ipdk.storage.spdk_target) takes it. It takes the place of what is there.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Come back with one volume
  ipdk.storage.spdk_declaration:
    path: /var/lib/ipdk/st1/declaration.json
    declaration:
      version: 1
      node: st1
      bdevs:
        - {name: vol00, type: aio, filename: /var/lib/ipdk/st1/volumes/vol00, block_size: 512}
"""

RETURN = r"""# """

import os
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils import _declaration, _document
from ansible_collections.ipdk.storage.plugins.module_utils._module import run
from ansible_collections.ipdk.storage.plugins.module_utils._reconcile import Refused

ARGUMENTS: dict[str, dict[str, Any]] = {
    "path": {"type": "path", "required": True},
    "declaration": {"type": "dict", "required": True},
}


def work(given: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    path, document = given["path"], given["declaration"]
    directory = os.path.dirname(path)
    try:
        _declaration.check(document)
        if not os.path.isdir(directory):
            raise Refused([f"{path}: {directory or 'its directory'} is not there; deploy the node first"])
        there = _document.load(path)
        if document != there and not check_mode:
            _document.save(path, document)
    except (Refused, OSError) as error:
        return {"failed": True, "changed": False, "msg": f"Nothing was changed. {error}"}
    before = "" if there is None else _document.dump(there)
    diff = {"before_header": path, "before": before, "after_header": path, "after": _document.dump(document)}
    return {"changed": document != there, "diff": diff}


def main() -> None:
    run(ARGUMENTS, work)


if __name__ == "__main__":
    main()
