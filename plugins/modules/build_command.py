#!/usr/bin/python

# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: build_command
short_description: Run a command that builds an image, and say how far it is
version_added: 0.1.0
author:
  - ipdk.storage contributors (@ipdk-io)
description:
  - Runs a command as M(ansible.builtin.command) does, without a shell.
  - With O(progress) it reads what C(docker build), C(mmdebstrap) and C(apt-get) print, and tells steps and packages.
extends_documentation_fragment:
  - ipdk.storage.progress
attributes:
  check_mode:
    support: full
    description: Runs nothing, and says whether a run would.
  diff_mode:
    support: none
    description: What a command changes is unknown.
  idempotent:
    support: partial
    description: With O(creates), or where the command itself prints O(unchanged).
options:
  argv:
    description: The program and its arguments.
    type: list
    elements: str
    required: true
  creates:
    description: A path; where it is there, nothing is run.
    type: path
  unchanged:
    description: The last line of a command that found nothing to do.
    type: str
    default: there
  what:
    description: What is built, for those who read how far it is.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Build an image
  ipdk.storage.build_command:
    what: image example/qemu
    argv: [docker, build, --tag, example/qemu, /var/cache/example]
    progress: true
"""

RETURN = r"""
rc:
  description: The command's exit status.
  returned: when it ran
  type: int
lines:
  description: The last lines of what it printed, errors included.
  returned: when it ran
  type: list
  elements: str
"""

import os
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils import _builds
from ansible_collections.ipdk.storage.plugins.module_utils._module import run
from ansible_collections.ipdk.storage.plugins.module_utils._progress import Progress

ARGUMENTS = {
    "argv": {"type": "list", "elements": "str", "required": True},
    "creates": {"type": "path"},
    "unchanged": {"type": "str", "default": "there"},
    "what": {"type": "str", "required": True},
    "progress": {"type": "bool", "default": False},
}


def work(given: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    what, argv = given["what"], given["argv"]
    if not argv:
        return {"failed": True, "msg": f"{what}: argv is empty: name a program"}
    if given["creates"] and os.path.exists(given["creates"]):
        return {"changed": False}
    if check_mode:
        return {"changed": True}
    progress = Progress(what)
    try:
        status, lines = _builds.run(argv, _builds.BuildLog(), lambda state: progress(*state))
    except OSError as error:
        return {"failed": True, "msg": f"{what}: {argv[0]} cannot be run: {error.strerror}"}
    if status:
        text = f"{what}: {argv[0]} ended with status {status}: {' | '.join(lines[-5:])}"
        return {"failed": True, "msg": text, "rc": status, "lines": lines}
    return {"changed": lines[-1:] != [given["unchanged"]], "rc": status, "lines": lines}


def main() -> None:
    run(ARGUMENTS, work)


if __name__ == "__main__":
    main()
