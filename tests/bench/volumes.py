"""Creating and exporting 64 volumes: our tasks against a bare client."""

from __future__ import annotations

import json
import tempfile
import uuid
from pathlib import Path
from typing import Any

from .lab import DISKS, Lab
from .report import Report, task_pairs

NQN = "nqn.2022-06.io.ipdk:bench"
ROUNDS = 5


def measure(report: Report, lab: Lab) -> None:
    uuids = [str(uuid.uuid4()) for _unused in range(DISKS)]
    names = [f"benchvol{number}" for number in range(DISKS)]
    size = {"num_blocks": 32768, "block_size": 512}
    calls = {
        "create": [call("bdev_malloc_create", name=name, uuid=volume, **size) for name, volume in zip(names, uuids)],
        "export": [
            call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": name, "nsid": number})
            for number, name in enumerate(names, start=1)
        ],
        "delete": [call("bdev_malloc_delete", name=name) for name in names],
    }
    with tempfile.TemporaryDirectory() as directory:
        for name, some in calls.items():
            (Path(directory) / f"{name}.json").write_text(json.dumps(some), encoding="utf-8")
        variables = {"bench_volumes": uuids, "bench_nqn": NQN, "bench_calls": directory, "bench_rounds": ROUNDS}
        tasks = lab.playbook("tests/bench/volumes.yml", variables=variables, events=True)
    pairs, details = task_pairs(tasks, ["Ours creates", "Ours exports"], ["Bare creates", "Bare exports"])
    report.add(
        "create_64_volumes_ratio",
        pairs.ratio,
        "ratio",
        "two tasks (spdk_bdev creates 64 malloc bdevs, spdk_nvmf_subsystem exports them) against two command tasks in "
        "which a bare client makes the same 128 calls one by one; whole tasks as Ansible times them; paired, median",
        **details,
    )


def call(method: str, **params: Any) -> dict[str, Any]:
    """What the bare client shall ask."""
    return {"method": method, "params": params}
