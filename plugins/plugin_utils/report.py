# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plans and results for a human: a plan as lines, and what has become of its disks."""

from __future__ import annotations

from typing import Any

from ansible_collections.ipdk.storage.plugins.plugin_utils.steps import Step
from ansible_collections.ipdk.storage.plugins.plugin_utils.virtual_disk import human_size


def plan_text(
    steps: list[Step],
    summary: dict[str, int],
    problems: list[dict[str, Any]],
    unmanaged: list[dict[str, Any]],
    declarations: list[str],
    warnings: list[str],
) -> list[str]:
    """The plan for a human: one line for all steps of one kind on one node, so that 64 disks stay readable."""
    in_place = "".join(f"{summary[action]} to {action}, " for action in ("grow", "limit") if summary[action])
    lines = [
        f"{summary['attach']} to attach, {in_place}{summary['detach']} to detach, {summary['destroy']} to destroy, "
        f"{summary['unchanged']} unchanged, {summary['not_converged']} not converged"
    ]
    groups: dict[tuple[str, str, str, str], list[str]] = {}
    for step in steps:
        groups.setdefault((step.stage, step.node, step.action, step.kind), []).append(step.name)
    lines += [
        f"{node}: {action} {len(names)} {kind}{'s' if len(names) > 1 else ''}: {_some(names)}"
        for (_stage, node, action, kind), names in groups.items()
    ]
    lines += [f"{node}: keep another declaration, for its next start" for node in declarations]
    lines += [f"warning: {warning}" for warning in warnings]
    lines += [f"not converged: {problem['message']}" for problem in problems]
    others: dict[tuple[str, str], list[str]] = {}
    for item in unmanaged:
        others.setdefault((item["node"], item["kind"]), []).append(item["name"])
    lines += [
        f"{node}: left alone, not in the list: {len(names)} {kind}{'s' if len(names) > 1 else ''}: {_some(names)}"
        for (node, kind), names in others.items()
    ]
    return lines


def _some(names: list[str], limit: int = 6) -> str:
    if len(names) <= limit:
        return ", ".join(names)
    return ", ".join(names[: limit - 1]) + f", … {names[-1]}"


def report(
    planned: dict[str, Any],
    seen: dict[str, Any],
    failures: dict[str, list[str]] | None = None,
    limited: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """The disks of a plan as they are afterwards.

    ``seen``: host_disk_info's ``disks`` by host (null or left out: nobody looked). ``failures``: by node, what went
    wrong there. ``limited``: by IPU, what sma_qos returned.

    Each disk gets ``visible`` (null: unknown), ``device`` (``/dev/vdb``), ``by_id`` and ``pci_address``. A disk that
    its host sees or misses against its state, that had to be changed on a node with failures where nobody can look, or
    whose limits were not set, is not converged.
    """
    failures = failures or {}
    unlimited = _unlimited(planned, limited or {})
    reported = []
    by_serial = {
        host: {entry.get("serial"): entry for entry in reversed(list(disks or []))} for host, disks in seen.items()
    }
    for disk in planned["disks"]:
        there = by_serial.get(disk["host"], {}).get(disk["serial"]) if disk["serial"] else None
        visible = None if seen.get(disk["host"]) is None else there is not None
        after = dict(disk, visible=visible, device=None, by_id=None, pci_address=None)
        if there is not None:
            after.update(device=there["path"], by_id=there.get("by_id"), pci_address=there.get("pci_address"))
        if disk["converged"]:
            failed = [
                f"{node}: {text}"
                for node in (disk["target"], disk["ipu"], disk["host"])
                for text in failures.get(node, [])
            ]
            right = visible is None or disk["serial"] is None or visible == (disk["state"] == "attached")
            small = visible and disk["state"] == "attached" and there.get("size_bytes", disk["size"]) < disk["size"]
            if small:
                seen_size = human_size(there["size_bytes"])
                reason = f"{disk['host']} sees {seen_size} of it, where {human_size(disk['size'])} was wanted"
                after.update(converged=False, reason="; ".join([reason, *failed]))
            elif not right:
                state = "does not see it" if disk["state"] == "attached" else "still sees it"
                after.update(converged=False, reason="; ".join([f"{disk['host']} {state}", *failed]))
            elif failed and disk["action"] != "none" and visible is None:
                after.update(converged=False, reason="; ".join(failed))
            elif disk["id"] in unlimited:
                after.update(converged=False, reason=unlimited[disk["id"]])
        reported.append(after)
    return reported


def _unlimited(planned: dict[str, Any], limited: dict[str, Any]) -> dict[str, str]:
    """The ids of the disks whose limits could not be set → why."""
    reasons = {}
    stepped = {step["disk"] for step in planned["steps"] if step["stage"] == "limits"}
    for disk in planned["disks"]:
        answer = limited.get(disk["ipu"]) or {}
        if disk["id"] in stepped and answer.get("failed"):
            outcome = answer.get("outcome")
            said = [each for key in ("failed", "not_tried") for each in (outcome or {}).get(key, [])]
            mine = [each["reason"] for each in said if each["name"] == disk["handle"]]
            if mine or outcome is None:
                reasons[disk["id"]] = f"{disk['ipu']} did not set its limits: {(mine or [answer.get('msg')])[0]}"
    return reasons
