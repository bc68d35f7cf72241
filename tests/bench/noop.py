"""What a second run asks, does and takes that finds everything as it is wanted."""

from __future__ import annotations

import subprocess

from .lab import COUNTED, ROOT, Lab, seconds, virtual_disks
from .report import Pairs, Report

ROUNDS = 3


def measure(report: Report, lab: Lab) -> None:
    lab.disks("attached")
    with lab.relay("st1") as target, lab.relay("ipu1") as ipu:
        tasks = lab.playbook("playbooks/disks.yml", variables={**virtual_disks("attached"), **COUNTED}, events=True)
        calls = {"st1": target.methods, "ipu1": ipu.methods}
    changed = [task["name"] for task in tasks if task["changed"]]
    assert not changed, f"a second run changed something: {changed}"
    assert all(calls.values()), f"the relays saw no request: {calls}"
    report.add(
        "noop_rpc_per_node",
        max(map(len, calls.values())),
        "calls",
        "requests that a relay in front of each node's RPC socket counts during a second disks.yml with 64 disks; the "
        "node with the most",
        calls=calls,
    )
    local = ("set_fact", "assert", "include", "import", "debug", "meta", "fail", "validate_argument_spec")
    runs = [
        task["name"]
        for task in tasks
        if task["host"] == "host1" and not task["skipped"] and not any(word in task["module"] for word in local)
    ]
    report.add(
        "noop_module_runs_per_host",
        len(runs),
        "runs",
        "tasks of a second disks.yml with 64 disks that ran a module on the host (ssh), from Ansible's own record",
        tasks=runs,
    )

    measure_whole(report, lab)


def measure_whole(report: Report, lab: Lab) -> None:
    ping = ["ansible", *lab.inventories, "storage_targets:ipus:ipu_hosts", "-m", "ansible.builtin.ping"]
    ours, theirs = [], []
    for _unused in range(ROUNDS):
        ours.append(seconds(lambda: lab.disks("attached")))
        theirs.append(seconds(lambda: subprocess.run(ping, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)))
    pairs = Pairs(ours, theirs)
    our_seconds, ping_seconds = pairs.medians()
    report.add(
        "noop_playbook_ratio",
        pairs.ratio,
        "ratio",
        "an unchanged disks.yml with 64 disks against `ansible -m ping` on the same three nodes; whole commands, "
        "paired rounds, median",
        our_seconds=our_seconds,
        ping_seconds=ping_seconds,
        rounds=pairs.ratios,
    )
