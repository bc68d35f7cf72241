# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sizes of an SPDK for Jinja. Each filter is documented in the YAML file of its name beside this one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.ipdk.storage.plugins.plugin_utils import sizing


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"spdk_malloc_mib": sizing.malloc_mib, "spdk_sizing": sizing.size}
