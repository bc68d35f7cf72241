# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The planner as a task.

Ansible keeps no compiled code of a collection, and a filter is read anew in each task's process. An action is read
once, before those are forked, and with it what the filters of the later tasks need.
"""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.plugins.loader import filter_loader, test_loader
from ansible_collections.ipdk.storage.plugins.plugin_utils import planner, validate

# The first of Ansible's own that is asked for loads them all; the processes of the later tasks find them loaded.
filter_loader.get("ansible.builtin.default")
test_loader.get("ansible.builtin.defined")

ARGUMENTS: dict[str, dict[str, Any]] = {
    "disks": {"type": "raw", "required": True},
    "nodes": {"type": "dict", "required": True},
    "observed": {"type": "dict"},
    "options": {"type": "dict", "default": {}},
}


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _valid, given = self.validate_argument_spec(ARGUMENTS)
        result["changed"] = False
        disks, nodes, options = given["disks"], given["nodes"], given["options"]
        try:
            if given["observed"] is None:
                validate.validate(disks, nodes, options)
                return result
            plan = planner.plan(disks, nodes, given["observed"], options)
        except validate.InvalidDisks as error:
            return {**result, "failed": True, "msg": "\n".join(error.errors)}
        if not any(step["stage"] == "unplug" for step in plan["steps"]):
            plan.update(kept={}, remember=[])
        return {**result, "plan": plan}
