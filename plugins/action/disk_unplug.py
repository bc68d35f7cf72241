# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Both sides of an unplug in one task: the hosts look while the IPUs ask them to let go.

Under emulation it takes a guest longer to start a program that looks than to let the last disk go.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.ipdk.storage.plugins.plugin_utils.composed import ComposedAction

ARGUMENTS: dict[str, dict[str, Any]] = {
    "device": {"type": "dict", "default": {}},
    "python": {"type": "str"},
    "host": {"type": "dict", "default": {}},
}


class ActionModule(ComposedAction):
    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _valid, given = self.validate_argument_spec(ARGUMENTS)
        task_vars = dict(task_vars or {})
        sides = []
        if given["device"]:
            python = {"ansible_python_interpreter": given["python"]} if given["python"] else {}
            sides.append(self.part("sma_device", given["device"], {**task_vars, **python}))
        if given["host"]:
            sides.append(self.part("host_disk_info", given["host"], task_vars))
        for side in sides:
            result.update(side)
        result["changed"] = any(side.get("changed") for side in sides)
        if any(side.get("failed") for side in sides):
            result.update(failed=True, msg="; ".join(side["msg"] for side in sides if side.get("failed")))
        return result
