# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A task of several modules of the collection: where each was a task of its own, Ansible would take longer over them
than they do."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase


class ComposedAction(ActionBase):
    _supports_check_mode = True
    _supports_async = False

    def part(self, module: str, options: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
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
