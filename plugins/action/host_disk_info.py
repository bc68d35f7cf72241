# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Looks at a host's disks by a small program where the host's Python is known and takes it from its standard input.

Everywhere else, and where that program fails, the module does the same work and explains what hinders it.
"""

from __future__ import annotations

import shlex
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.ipdk.storage.plugins.module_utils._host_disks import ARGUMENTS
from ansible_collections.ipdk.storage.plugins.plugin_utils.light import answer, program


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        python = self._python(task_vars or {})
        if python and not self._task.async_val and self._is_pipelining_enabled("new"):
            _valid, wanted = self.validate_argument_spec(ARGUMENTS)
            text = program(("_pci", "_patient", "_sysfs", "_host_disks"), "look", wanted)
            command = self._low_level_execute_command(f"{shlex.quote(python)} -", in_data=text.encode())
            seen = answer(command["stdout"])
            if seen is not None:
                return {**result, **seen}
        wrap = bool(self._task.async_val) and not self._connection.has_native_async
        return {**result, **self._execute_module(task_vars=task_vars, wrap_async=wrap)}

    def _python(self, task_vars: dict[str, Any]) -> str:
        """The path of the host's interpreter; empty if Ansible has to look for it first."""
        path = str(self._templar.template(task_vars.get("ansible_python_interpreter", "")))
        return path if path.startswith("/") else ""
