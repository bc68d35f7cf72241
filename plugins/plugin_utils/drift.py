# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What differs from the declaration: a plan read as differences, so that nothing is compared a second time."""

from __future__ import annotations

from typing import Any

FOUND = {
    "create": "missing",
    "add": "missing",
    "connect": "missing",
    "add paths to": "different",
    "attach": "missing",
    "open": "different",
    "grow": "different",
    "limit": "different",
    "unplug": "not wanted",
    "fence": "not wanted",
    "disconnect": "not wanted",
    "sever": "not wanted",
    "shut out": "not wanted",
    "remove": "not wanted",
    "destroy": "not wanted",
}
"""A step's action → what must have been found, so that the plan has the step."""

NOTHING = "nothing"


def differences(planned: dict[str, Any], silent: list[str]) -> list[dict[str, Any]]:
    """One row for each difference, in the plan's order; none where all is as declared.

    ``planned``: what ``planner.plan`` returned. ``silent``: the nodes that did not answer, which are unknown.

    Each row has ``node``; ``disk``, null where it is not about one disk; ``kind`` and ``name`` of what differs;
    ``found`` (``missing``, ``different``, ``not wanted``, ``not in the list``, ``refused``: it cannot become what is
    declared, or ``unknown``); ``detail``; and ``next_run``, what a run of disks.yml does about it.
    """
    rows = [
        _row(
            step["node"],
            step["disk"],
            step["kind"],
            step["name"],
            FOUND[step["action"]],
            step["detail"],
            step["action"],
        )
        for step in planned["steps"]
    ]
    rows += [
        _row(node, None, "declaration", node, "different", "what it comes back with at its next start", "keep")
        for node in sorted(planned["declarations"])
    ]
    rows += [_row(node, None, "node", node, "unknown", "it did not answer", NOTHING) for node in silent]
    rows += [
        _row(
            problem["node"],
            problem["disk"],
            "virtual disk",
            problem["disk"],
            "unknown" if problem["node"] in silent else "refused",
            problem["message"].partition(": ")[2],
            NOTHING,
        )
        for problem in planned["problems"]
    ]
    rows += [
        _row(other["node"], None, other["kind"], other["name"], "not in the list", "it is left alone", NOTHING)
        for other in planned["unmanaged"]
    ]
    return rows


def _row(
    node: str, disk: str | None, kind: str, name: str, found: str, detail: str, next_run: str
) -> dict[str, str | None]:
    return {
        "node": node,
        "disk": disk,
        "kind": kind,
        "name": name,
        "found": found,
        "detail": detail,
        "next_run": next_run,
    }
