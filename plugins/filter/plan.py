# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The planner for Jinja. Each filter is documented in the YAML file of its name beside this one."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError


def _util(name: str) -> Any:
    """A module of plugin_utils, not read before a filter needs it.

    Ansible reads every filter file of a collection to find one filter, in each task's process anew, and keeps no
    compiled code of it.
    """
    return importlib.import_module(f"ansible_collections.ipdk.storage.plugins.plugin_utils.{name}")


def _of(module: str, function: str) -> Callable[..., Any]:
    def call(*arguments: Any, **more: Any) -> Any:
        return getattr(_util(module), function)(*arguments, **more)

    return call


def plan(
    disks: Any, nodes: dict[str, Any], observed: dict[str, Any], options: dict[str, Any] | None = None
) -> dict[str, Any]:
    try:
        return _util("planner").plan(disks, nodes, observed, options)
    except _util("validate").InvalidDisks as error:
        raise AnsibleFilterError(str(error)) from error


def invalid_disks(disks: Any, nodes: dict[str, Any], options: dict[str, Any] | None = None) -> list[str]:
    try:
        _util("validate").validate(disks, nodes, options)
    except _util("validate").InvalidDisks as error:
        return error.errors
    return []


def files_to_go(disks: Any, nodes: dict[str, Any], options: dict[str, Any] | None = None) -> dict[str, list[str]]:
    try:
        return _util("volumes").files_to_go(disks, nodes, options)
    except _util("validate").InvalidDisks as error:
        raise AnsibleFilterError(str(error)) from error


def target_mistakes(declared: dict[str, Any], name: str) -> list[str]:
    return _util("item_checks").target_name_mistakes(name) + _util("paths").mistakes(declared)


def fio_jobs_of_host(jobs: Any, host: str, disks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    try:
        return _util("fio_jobs").jobs_of_host(jobs, host, disks)
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error


def export_disks(nodes: dict[str, Any], observed: dict[str, Any]) -> dict[str, list[Any]]:
    try:
        return _util("export").virtual_disks(nodes, observed)
    except _util("export").Incomplete as error:
        raise AnsibleFilterError(str(error)) from error


def declared_nodes(groups: dict[str, list[str]], hostvars: dict[str, Any]) -> dict[str, Any]:
    """Each node's own declaration where the role has run there, else what its inventory variables say."""
    declared: dict[str, Any] = {"targets": {}, "ipus": {}, "hosts": {}}
    for name in groups.get("storage_targets", []):
        own = hostvars[name].get("virtual_disks_node") or {}
        declared["targets"][name] = {
            "address": own.get("address", hostvars[name].get("storage_target_address")),
            "port": own.get("port"),
            "volumes_dir": own.get("volumes_dir"),
            "lvol_stores": own.get("lvol_stores", hostvars[name].get("storage_target_lvol_stores")),
            "ana_state": own.get("ana_state", hostvars[name].get("storage_target_ana_state")),
            "paths": own.get("paths", hostvars[name].get("storage_target_paths")),
        }
    for name in groups.get("ipus", []):
        own = hostvars[name].get("virtual_disks_node") or {}
        keys = ("host_nqn", "max_disks", "keys_dir", "sockets_dir", "nvme", "nvme_stays")
        declared["ipus"][name] = {key: own.get(key) for key in keys}
    for name in groups.get("ipu_hosts", []):
        declared["hosts"][name] = {
            "ipu": hostvars[name].get("host_ipu"),
            "access": hostvars[name].get("ipdk_host_access", "ssh"),
            "qemu": (hostvars[name].get("virtual_disks_node") or {}).get("qemu") or None,
        }
    return declared


LOOKS = ("virtual_disks_appeared", "virtual_disks_unplugged")
"""What the role's stages register of a host's disks, the latest look first."""


def disk_answers(hosts: list[str], hostvars: dict[str, Any], outcomes: list[str]) -> dict[str, Any]:
    """What the role's stages have left in the variables of the nodes."""
    answers: dict[str, Any] = {"seen": {}, "failures": {}, "limited": {}}
    for host in hosts:
        variables = hostvars[host]
        told = [variables.get(name) or {} for name in outcomes]
        answers["failures"][host] = [each["msg"] for each in told if each.get("failed")]
        first = (variables.get("virtual_disks_seen") or {}).get("observed") or {}
        later = (variables.get(name) or {} for name in LOOKS)
        answers["seen"][host] = next((look["disks"] for look in (*later, first) if "disks" in look), None)
        answers["limited"][host] = variables.get("virtual_disks_limited") or {}
    return answers


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "declared_nodes": declared_nodes,
            "disk_answers": disk_answers,
            "disk_keys": _of("encryption", "with_keys"),
            "export_disks": export_disks,
            "files_to_go": files_to_go,
            "fio_jobs_of_host": fio_jobs_of_host,
            "invalid_disks": invalid_disks,
            "lvol_stores": _of("lvol_stores", "work"),
            "move_mistakes": _of("moves", "mistakes"),
            "moved_disks": _of("moves", "moved"),
            "plan": plan,
            "plan_after_fence": _of("steps", "after_fence"),
            "plan_after_unplug": _of("steps", "after_unplug"),
            "plan_drift": _of("drift", "differences"),
            "plan_report": _of("report", "report"),
            "snapshot_work": _of("snapshots", "work"),
            "target_mistakes": target_mistakes,
        }
