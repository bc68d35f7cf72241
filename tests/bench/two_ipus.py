"""Two IPUs that get 64 disks each at once, against one of them that gets its 64 alone."""

from __future__ import annotations

import os
from typing import Any

from .lab import DISKS, Lab, seconds
from .report import Pairs, Report

ROUNDS = 3
INVENTORIES = ("tests/bench/two_ipus.ipdk.yml",)
NODES = {"bhost1": "bst1", "bhost2": "bst2"}
"""The hosts, each behind an IPU of its own, and the storage targets of their disks."""


def measure(report: Report) -> None:
    """In a lab of its own, which is made and removed here."""
    lab = Lab({}, INVENTORIES)
    lab.set_up()
    one, two = [], []
    for _unused in range(ROUNDS):
        for hosts, times in ((["bhost1"], one), (list(NODES), two)):
            times.append(seconds(lambda hosts=hosts: converge(lab, hosts, "attached")))
            converge(lab, hosts, "absent")
    lab.tear_down()
    pairs = Pairs(two, one)
    two_seconds, one_seconds = pairs.medians()
    report.add(
        "two_ipus_ratio",
        pairs.ratio,
        "ratio",
        "disks.yml that attaches 64 disks to each of two hosts against one that attaches 64 to one of them, all from "
        "nothing; whole commands, paired rounds, median. Two of each need cores: the IPUs' SPDKs, their SMAs and the "
        "guests work at the same time",
        two_seconds=two_seconds,
        one_seconds=one_seconds,
        rounds=pairs.ratios,
        cores=os.cpu_count(),
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
