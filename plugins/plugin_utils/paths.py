# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The addresses of a storage target, as the inventory declares them: one, or several that are paths to the same disks.

A target with ``paths`` (a list of ``{address, port, ana_state}``) has its own address as the first path, with
``ana_state``. Each path is a listener of every subsystem, with an ANA state of its own.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._nvmf_subsystems import ANA_STATES

PATH_KEYS = ("address", "port", "ana_state")
USABLE = ("optimized", "non_optimized")

Listener = dict[str, str]


def listeners(declared: dict[str, Any]) -> list[Listener]:
    """The listeners of a target's subsystems, as spdk_nvmf_subsystem takes them; several have ANA states."""
    first = {"address": declared["address"], "port": declared["port"], "ana_state": declared.get("ana_state")}
    several = declared.get("paths") or []
    return [
        {
            "trtype": "TCP",
            "traddr": str(path["address"]),
            "trsvcid": str(path.get("port") or declared["port"]),
            **({"ana_state": str(path.get("ana_state") or "optimized")} if several else {}),
        }
        for path in (first, *several)
    ]


def _is_address(value: Any) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def mistakes(declared: dict[str, Any]) -> list[str]:
    """What is wrong with the address and the paths that a target declares, one sentence each."""
    several = declared.get("paths") or []
    state = declared.get("ana_state") or "optimized"
    if declared.get("address") and not _is_address(declared["address"]):
        wanted = "wanted an IP address, for SPDK asks no name server"
        return [f"storage_target_address: {wanted}, got {declared['address']!r}"]
    if state not in ANA_STATES:
        return [f"storage_target_ana_state: wanted one of {', '.join(ANA_STATES)}, got {state!r}"]
    if not isinstance(several, list):
        return [f"storage_target_paths: wanted a list such as [{{address: 198.18.1.10}}], got {several!r}"]
    wrong = []
    for index, path in enumerate(several):
        where = f"storage_target_paths[{index}]"
        if not isinstance(path, dict) or not set(path) <= set(PATH_KEYS) or "address" not in path:
            wrong.append(f"{where}: wanted a dictionary with address and maybe port and ana_state, got {path!r}")
            continue
        if not _is_address(path["address"]):
            wrong.append(f"{where}.address: wanted an IP address, got {path['address']!r}")
        port = path.get("port")
        if port is not None and not (str(port).isdecimal() and 0 < int(port) < 65536):
            wrong.append(f"{where}.port: wanted 1 to 65535, got {port!r}")
        if path.get("ana_state", "optimized") not in ANA_STATES:
            wrong.append(f"{where}.ana_state: wanted one of {', '.join(ANA_STATES)}, got {path['ana_state']!r}")
    if wrong or not several:
        return wrong
    found = listeners({**declared, "port": declared.get("port") or 4420})
    places = [(path["traddr"], path["trsvcid"]) for path in found]
    twice = sorted({f"{address}:{port}" for address, port in places if places.count((address, port)) > 1})
    if twice:
        wrong.append(
            f"storage_target_paths: {', '.join(twice)} is there twice; each path wants an address or port of its own"
        )
    if not any(path["ana_state"] in USABLE for path in found):
        wrong.append(
            "storage_target_paths: all paths are inaccessible, so no host could read or write; leave one "
            f"{' or '.join(USABLE)}"
        )
    return wrong
