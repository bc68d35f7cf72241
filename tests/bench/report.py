"""Figures, what bounds them, and ratios of what was measured in pairs."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

LIMITS = {
    "create_64_volumes_ratio": 1.5,
    "attach_64_disks_ratio": 1.5,
    "noop_rpc_per_node": 8,
    "noop_module_runs_per_host": 2,
    "module_rss_mb_1000_volumes": 120,
    "emulator_rss_mb": 150,
    "disks_64_up_ratio": 1.3,
    "disks_64_down_ratio": 1.3,
    "noop_playbook_ratio": 4,
    "two_ipus_ratio": 1.2,
    "create_64_volumes_ratio_spdk": 1.3,
    "attach_64_disks_ratio_spdk": 1.3,
    "restore_64_ratio_spdk": 1.5,
}
LEAST = {"guest_randread_ratio": 0.5}


class Report:
    """The figures of a run. Each name ends with ``suffix``, which says what was measured if not the emulator."""

    def __init__(self, suffix: str = "") -> None:
        self.suffix = suffix
        self.figures: list[dict[str, Any]] = []

    def add(self, name: str, value: float, unit: str, how: str, bound_by: str = "", **details: Any) -> None:
        """Note a figure and print it. One that is neither in LIMITS nor in LEAST has no bound.

        ``bound_by``: what of this machine keeps the figure from its bound, measured in the same run; the figure is told
        then, and not held to it.
        """
        name += self.suffix
        row = {"name": name, "value": round(value, 3), "unit": unit, "how": how, **details}
        self.figures.append({**row, "bound_by": bound_by} if bound_by else row)
        wanted = "".join(
            f"wanted {sign} {bounds[name]}" for sign, bounds in (("≤", LIMITS), ("≥", LEAST)) if name in bounds
        )
        missed = "" if is_within(name, value) else f"  bound by {bound_by}" if bound_by else "  MISSED"
        print(f"{name:<30}{value:>10.2f} {unit:<8} {wanted}{missed}".rstrip(), flush=True)

    def missed(self) -> list[str]:
        """Names of the figures that are not within their bounds, though nothing of this machine keeps them from it."""
        return [
            row["name"] for row in self.figures if not is_within(row["name"], row["value"]) and not row.get("bound_by")
        ]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps({"figures": self.figures}, indent=2) + "\n", encoding="utf-8")


def is_within(name: str, value: float) -> bool:
    return value <= LIMITS.get(name, value) and value >= LEAST.get(name, value)


class Pairs:
    """Ours against another's, in turn: machines are shared and noisy, and a slow minute hits both of a round."""

    def __init__(self, ours: list[float], other: list[float]) -> None:
        assert ours and len(ours) == len(other), f"{len(ours)} rounds of ours, {len(other)} of the other"
        self.ours = ours
        self.other = other
        self.ratios = [round(one / two, 3) for one, two in zip(ours, other)]

    @property
    def ratio(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.ratios)

    def medians(self) -> tuple[float, float]:
        """Of ours and of the other's."""
        return round(statistics.median(self.ours), 3), round(statistics.median(self.other), 3)


def task_pairs(tasks: list[dict[str, Any]], ours: list[str], bare: list[str]) -> tuple[Pairs, dict[str, float]]:
    """The seconds of tasks, by their names, and the details of a figure that is their ratio.

    A round's time is the sum of its tasks. ``bare_process_seconds`` is what the bare client's own processes took, as
    the command module says, without Ansible's part of the task.
    """

    def times(names: list[str], key: str) -> list[float]:
        columns = [[task[key] for task in tasks if task["name"].split(" : ")[-1] == name] for name in names]
        return [sum(row) for row in zip(*columns)]

    pairs = Pairs(times(ours, "seconds"), times(bare, "seconds"))
    our_seconds, bare_seconds = pairs.medians()
    return pairs, {
        "our_seconds": our_seconds,
        "bare_seconds": bare_seconds,
        "bare_process_seconds": round(statistics.median(times(bare, "process_seconds")), 3),
        "rounds": pairs.ratios,
    }
