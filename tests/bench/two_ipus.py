"""Two IPUs that get 64 disks each at once, against one of them that gets its 64 alone."""

from __future__ import annotations

import os
import statistics
from typing import Any

from .lab import DISKS, Lab, busy_seconds, seconds
from .report import LIMITS, Pairs, Report

NAME = "two_ipus_ratio"
ROUNDS = 3
INVENTORIES = ("tests/bench/two_ipus.ipdk.yml",)
NODES = {"bhost1": "bst1", "bhost2": "bst2"}
"""The hosts, each behind an IPU of its own, and the storage targets of their disks."""


def measure(report: Report) -> None:
    """In a lab of its own, which is made and removed here."""
    lab = Lab({}, INVENTORIES)
    lab.set_up()
    one, two, floors = [], [], []
    cores = os.cpu_count() or 1
    for _unused in range(ROUNDS):
        one.append(seconds(lambda: converge(lab, ["bhost1"], "attached")))
        converge(lab, ["bhost1"], "absent")
        before = busy_seconds()
        two.append(seconds(lambda: converge(lab, list(NODES), "attached")))
        floors.append((busy_seconds() - before) / cores / one[-1])
        converge(lab, list(NODES), "absent")
    lab.tear_down()
    pairs = Pairs(two, one)
    two_seconds, one_seconds = pairs.medians()
    floor = round(statistics.median(floors), 3)
    bound_by = f"the cores: {cores} need {floor} for that work if none ever idles" if floor > LIMITS[NAME] else ""
    report.add(
        NAME,
        pairs.ratio,
        "ratio",
        "disks.yml that attaches 64 disks to each of two hosts against one that attaches 64 to one of them, all from "
        "nothing; whole commands, paired rounds, median. The IPUs' SPDKs, their SMAs and the guests work at the same "
        "time: cores_ratio is what the two would still take of the one's time if no core of this machine ever idled, "
        "and where that is above the bound, the cores are what bounds it",
        bound_by=bound_by,
        two_seconds=two_seconds,
        one_seconds=one_seconds,
        rounds=pairs.ratios,
        cores=cores,
        cores_ratio=floor,
    )


def converge(lab: Lab, hosts: list[str], state: str) -> None:
    disks: list[dict[str, Any]] = [
        {
            "name": f"{host}-{number:02}",
            "size": "4MiB",
            "backing": {"type": "malloc"},
            "target": NODES[host],
            "host": host,
            "state": state,
        }
        for host in hosts
        for number in range(DISKS)
    ]
    lab.playbook("playbooks/disks.yml", variables={"virtual_disks": disks, "ipdk_safe_mode": False})
