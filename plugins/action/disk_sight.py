# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the planner has to know of a node, in one task for all nodes: they are asked side by side.

It does what spdk_info and host_disk_info do, where that is wanted, and hands on no more than the planner reads: Ansible
takes longer over all that SPDK says of 64 bdevs than SPDK does.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.ipdk.storage.plugins.plugin_utils.composed import ComposedAction
from ansible_collections.ipdk.storage.plugins.plugin_utils.observed import brief

ARGUMENTS: dict[str, dict[str, Any]] = {"spdk": {"type": "dict", "default": {}}, "host": {"type": "bool"}}


class ActionModule(ComposedAction):
    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _valid, given = self.validate_argument_spec(ARGUMENTS)
        task_vars = task_vars or {}
        observed: dict[str, Any] = {}
        if given["spdk"]:
            answer = self.part("spdk_info", given["spdk"], task_vars)
            if not answer.get("failed") and answer["unsupported"]:
                answer = {"failed": True, "msg": _lacks(task_vars["inventory_hostname"], answer["unsupported"])}
            if answer.get("failed"):
                return {**result, **answer}
            more = {key: answer[key] for key in ("declaration", "files") if key in answer}
            observed.update(brief(answer["spdk"]), **more)
        if given["host"]:
            answer = self.part("host_disk_info", {}, task_vars)
            if answer.get("failed"):
                return {**result, **answer}
            observed.update({key: answer[key] for key in ("disks", "nvme_controllers")})
        return {**result, "changed": False, "observed": observed}


def _lacks(node: str, sections: list[str]) -> str:
    return f"The SPDK of {node} cannot tell its {', '.join(sections)}: it was built or released without them."
