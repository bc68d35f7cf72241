# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The planner for Jinja. Each filter is documented in the YAML file of its name beside this one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.ipdk.storage.plugins.plugin_utils import planner


def plan(
    disks: Any, nodes: dict[str, Any], observed: dict[str, Any], options: dict[str, Any] | None = None
) -> dict[str, Any]:
    try:
        return planner.plan(disks, nodes, observed, options)
    except planner.InvalidDisks as error:
        raise AnsibleFilterError(str(error)) from error


def invalid_disks(disks: Any, nodes: dict[str, Any], options: dict[str, Any] | None = None) -> list[str]:
    try:
        planner.validate(disks, nodes, options)
    except planner.InvalidDisks as error:
        return error.errors
    return []


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"plan": plan, "plan_report": planner.report, "invalid_disks": invalid_disks}
