"""disks.yml as an operator runs it, 64 disks from nothing to the guest's kernel and back, against a bare client."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .lab import COUNTED, DISKS, RUN_DIR, Lab, seconds, virtual_disks
from .report import Pairs, Report

ROUNDS = 5
APPEARED = f"until [ $(ls /dev/disk/by-id | grep -c ^virtio-st1n) = {DISKS} ]; do sleep 0.05; done"
"""In the guest: all are there, to be opened by their names, which is what disks.yml waits for."""
GONE = "while grep -qs ^st1n /sys/block/vd*/serial; do sleep 0.05; done"
"""In the guest: its kernel has none of them any more."""


def measure(report: Report, lab: Lab) -> None:
    # Once before: subsystem and connection stay when the last disk goes, so no later run makes them.
    lab.disks("attached")
    lab.disks("absent")
    up, volumes = recorded(lab, "attached"), volumes_of(lab)
    down = recorded(lab, "absent")
    there, none = lab.guest_command(APPEARED), lab.guest_command(GONE)
    work = {
        # The storage target first, and the IPU's SPDK; the other way round when they go, once the guest has let go.
        "up": {"action": "create", "before": [up["st1"], up["ipu1"]], "after": [], "guest": there},
        "down": {"action": "delete", "before": [], "after": [down["ipu1"], down["st1"]], "guest": none},
    }
    sma = {"sma": f"unix:{RUN_DIR}/ipu1/sma/sma.sock:8080", "volumes": volumes}
    states = {"up": "attached", "down": "absent"}
    ours: dict[str, list[float]] = {way: [] for way in states}
    bare: dict[str, list[float]] = {way: [] for way in states}
    for _unused in range(ROUNDS):
        for way, state in states.items():
            ours[way].append(seconds(lambda state=state: lab.disks(state)))
        for way in states:
            bare[way].append(seconds(lambda way=way: client({**work[way], **sma})))
    for way, what in (("up", "from nothing to 64 disks in the guest's kernel"), ("down", "and back to nothing")):
        pairs = Pairs(ours[way], bare[way])
        our_seconds, bare_seconds = pairs.medians()
        report.add(
            f"disks_64_{way}_ratio",
            pairs.ratio,
            "ratio",
            f"disks.yml {what}, the whole command, against one bare client that makes the same calls to both SPDKs and "
            "SMA, one by one, and waits for the same of the guest's kernel; paired rounds, median",
            our_seconds=our_seconds,
            bare_seconds=bare_seconds,
            rounds=pairs.ratios,
        )


def recorded(lab: Lab, state: str) -> dict[str, dict[str, Any]]:
    """By node, what disks.yml asks it to change on the way to a state."""
    with lab.relay("st1") as target, lab.relay("ipu1") as ipu:
        lab.playbook("playbooks/disks.yml", variables={**virtual_disks(state), **COUNTED})
        asked = {"st1": target.requests, "ipu1": ipu.requests}
    calls = {
        node: [
            {"method": one["method"], "params": one.get("params")} for one in requests if "_get_" not in one["method"]
        ]
        for node, requests in asked.items()
    }
    assert len(calls["st1"]) == 2 * DISKS, f"a volume and its namespace are two calls: {calls['st1']}"
    return {node: {"socket": str(lab.rpc_socket(node)), "calls": some} for node, some in calls.items()}


def volumes_of(lab: Lab) -> list[str]:
    """The UUIDs of what the IPU has of its storage target, as SMA knows them."""
    volumes = [bdev["uuid"] for bdev in lab.rpc("ipu1", "bdev_get_bdevs") if bdev["name"].startswith("st1n")]
    assert len(volumes) == DISKS, f"the IPU has {len(volumes)} volumes, wanted {DISKS}"
    return volumes


def client(work: dict[str, Any]) -> None:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        json.dump(work, file)
        file.flush()
        subprocess.run([sys.executable, Path(__file__).with_name("bare_disks.py"), file.name], check=True, timeout=300)
