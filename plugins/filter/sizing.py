# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sizes of an SPDK for Jinja. Each filter is documented in the YAML file of its name beside this one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.ipdk.storage.plugins.plugin_utils import needs, platforms, sizing


def spdk_sizing(
    carries: dict[str, Any],
    options: dict[str, Any],
    machine: dict[str, Any],
    groups: dict[str, list[str]] | None = None,
    hostvars: Any = None,
) -> dict[str, Any]:
    try:
        beside = None if groups is None else platforms.platform_of(options["node"], groups, hostvars)
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error
    return sizing.size(carries, options, machine, beside)


def spdk_carries(own: dict[str, Any], group: str, node: str, groups: dict[str, list[str]], hostvars: Any) -> Any:
    try:
        return platforms.carries(group, node, own, groups, hostvars)
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error


def spdk_platform(groups: dict[str, list[str]], hostvars: Any, node: str) -> dict[str, Any]:
    try:
        platform = platforms.platform_of(node, groups, hostvars)
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error
    rows = platform.rows()
    together = sum(mib for _what, mib in rows)
    return {
        "services": [{"node": service.node, "group": service.group} for service in platform.services],
        "memory_mib": together,
        "lines": [f"{what:<34}{mib:>9} MiB" for what, mib in [*rows, ("memory", together)]],
    }


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "spdk_carries": spdk_carries,
            "spdk_malloc_mib": needs.malloc_mib,
            "spdk_platform": spdk_platform,
            "spdk_sizing": spdk_sizing,
        }
