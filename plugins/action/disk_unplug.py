# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Both sides of an unplug in one task: the hosts look while the IPUs ask them to let go.

Under emulation it takes a guest longer to start a program that looks than to let the last disk go.
"""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

ARGUMENTS: dict[str, dict[str, Any]] = {
    "device": {"type": "dict", "default": {}},
    "python": {"type": "str"},
    "host": {"type": "dict", "default": {}},
}


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _valid, given = self.validate_argument_spec(ARGUMENTS)
        task_vars = dict(task_vars or {})
        sides = []
        if given["device"]:
            python = {"ansible_python_interpreter": given["python"]} if given["python"] else {}
            sides.append(self._run("sma_device", given["device"], {**task_vars, **python}))
        if given["host"]:
            sides.append(self._run("host_disk_info", given["host"], task_vars))
        for side in sides:
            result.update(side)
        result["changed"] = any(side.get("changed") for side in sides)
        if any(side.get("failed") for side in sides):
            result.update(failed=True, msg="; ".join(side["msg"] for side in sides if side.get("failed")))
        return result

    def _run(self, module: str, options: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """What a module of the collection returns, by the action that it has."""
        task = self._task.copy()
        task.action, task.args = f"ipdk.storage.{module}", options
        action = self._shared_loader_obj.action_loader.get(
            task.action,
            task=task,
            connection=self._connection,
            play_context=self._play_context,
            loader=self._loader,
            templar=self._templar,
            shared_loader_obj=self._shared_loader_obj,
        )
        return dict(action.run(task_vars=task_vars))
