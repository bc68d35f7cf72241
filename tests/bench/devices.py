"""Attaching 64 disks to the running guest: our task against a bare client."""

from __future__ import annotations

from .lab import DISKS, Lab
from .report import Report, task_pairs

ROUNDS = 3


def measure(report: Report, lab: Lab) -> None:
    lab.disks("attached")
    lab.disks("detached")
    volumes = [bdev["uuid"] for bdev in lab.rpc("ipu1", "bdev_get_bdevs") if bdev["name"].startswith("st1n")]
    assert len(volumes) == DISKS, f"the IPU has {len(volumes)} volumes, wanted {DISKS}"
    variables = {"bench_volumes": volumes, "bench_rounds": ROUNDS}
    tasks = lab.playbook("tests/bench/devices.yml", variables=variables, events=True)
    pairs, details = task_pairs(tasks, ["Ours attaches"], ["Bare attaches"])
    report.add(
        "attach_64_disks_ratio",
        pairs.ratio,
        "ratio",
        "one sma_device task for 64 volumes against one command task in which a bare gRPC client makes the same 64 "
        "CreateDevice calls; whole tasks as Ansible times them; paired rounds, median",
        **details,
    )
