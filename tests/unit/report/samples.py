"""Results as the playbooks write them. demo.json has the numbers that README.md shows; the rest is made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TEMPLATE = (HERE.parents[2] / "roles" / "report" / "templates" / "report.html.j2").read_text(encoding="utf-8")
DEMO = json.loads((HERE / "demo.json").read_text(encoding="utf-8"))
KEYS = ("p50", "p95", "p99", "p99_9", "p99_99")


def job(name: str, serial: str, iops: float, milliseconds: tuple[float, ...], **more: Any) -> dict[str, Any]:
    """What the module fio returns for a job that only writes, 4 KiB a request."""
    side = {
        "ios": round(iops * 2),
        "iops": iops,
        "bw_bytes": round(iops * 4096),
        "lat_ns": {
            "mean": round(sum(milliseconds[:1]) * 1e6),
            **{key: round(number * 1e6) for key, number in zip(KEYS, milliseconds)},
        },
    }
    nothing = {"ios": 0, "iops": 0.0, "bw_bytes": 0, "lat_ns": {"mean": 0}}
    return {
        "name": name,
        "disk": serial,
        "filename": f"/dev/disk/by-id/virtio-{serial}",
        **side,
        "read": nothing,
        "write": side,
        "runtime_ms": 2000,
        "verify_errors": 0,
        "error": None,
        **more,
    }


QOS_BEFORE = [
    job("vol00", "st1n1", 9821.4, (1.42, 2.67, 4.11, 9.37, 14.2)),
    job("vol01", "st2n1", 9544.0, (1.51, 2.83, 4.42, 9.9, 15.1)),
]
QOS_LIMITED = [
    job("vol00", "st1n1", 4093.7, (3.69, 5.14, 8.36, 21.6, 30.8)),
    job("vol01", "st2n1", 4088.2, (3.75, 5.21, 8.59, 22.4, 31.9)),
]
QOS_AFTER = [
    job("vol00", "st1n1", 9790.8, (1.44, 2.7, 4.18, 9.5, 14.5)),
    job("vol01", "st2n1", 9601.3, (1.5, 2.8, 4.4, 9.8, 15.0)),
]
DIRECT = [job("randread", "st1n1", 11872.0, (1.21, 2.02, 3.1, 6.9, 11.0))]
VIRTUAL = [job("randread", "st1n1", 9904.5, (1.45, 2.61, 4.05, 9.1, 13.9))]

NODES = {
    "targets": {
        "st1": {"address": "198.18.0.10", "port": 4420, "volumes_dir": None, "lvol_stores": []},
        "st2": {"address": "198.18.0.11", "port": 4420, "volumes_dir": None, "lvol_stores": []},
    },
    "ipus": {
        "ipu1": {"host_nqn": "nqn.2014-08.org.nvmexpress:uuid:1", "max_disks": 64},
        "ipu2": {"host_nqn": "nqn.2014-08.org.nvmexpress:uuid:2", "max_disks": 64},
    },
    "hosts": {"host1": {"ipu": "ipu1", "access": "ssh"}, "host2": {"ipu": "ipu2", "access": "none"}},
}


def disk(name: str, target: str, ipu: str, host: str, nsid: int, slot: int, **more: Any) -> dict[str, Any]:
    """A disk of virtual_disks_result that is attached and seen."""
    return {
        "name": name,
        "state": "attached",
        "size": 64 << 20,
        "target": target,
        "ipu": ipu,
        "host": host,
        "uuid": "c2b2a3a6-3a3d-5f0d-8f6a-000000000000",
        "nqn": f"nqn.2022-06.io.ipdk:{target}:{ipu}",
        "nsid": nsid,
        "serial": f"{target}n{nsid}",
        "physical_id": slot,
        "handle": f"virtio_blk:sma-{slot}",
        "volume": True,
        "action": "none",
        "converged": True,
        "reason": None,
        "visible": True,
        "device": f"/dev/vd{chr(ord('b') + slot)}",
        "by_id": f"/dev/disk/by-id/virtio-{target}n{nsid}",
        "pci_address": f"0000:01:{slot:02x}.0",
        **more,
    }


UNSEEN = {"visible": None, "device": None, "by_id": None, "pci_address": None}
DETACHED = {"state": "detached", "physical_id": None, "handle": None, **UNSEEN, "visible": False}
DISKS = [
    disk("vol00", "st1", "ipu1", "host1", 1, 0),
    disk("vol01", "st2", "ipu1", "host1", 1, 1),
    disk("vol02", "st1", "ipu1", "host1", 2, 2),
    disk("vol03", "st2", "ipu1", "host1", 2, 3, **DETACHED),
    *(disk(f"data{number:02d}", "st1", "ipu2", "host2", number + 1, number, **UNSEEN) for number in range(12)),
    disk(
        "log00",
        "st2",
        "ipu2",
        "host2",
        1,
        12,
        **UNSEEN,
        converged=False,
        reason="size: 64 MiB was wanted, but the volume on st2 has 32 MiB; backing malloc is not resized",
    ),
]
UNLISTED = [
    {
        "name": "old00",
        "target": "st1",
        "host": "host1",
        "size": 16 << 20,
        "backing": "aio",
        "state": "detached",
        "action": "none",
    }
]
BENCH = {
    "figures": [
        {
            "name": "create_64_volumes_ratio",
            "value": 1.214,
            "unit": "times",
            "how": "64 volumes by the module, against a bare client that makes the same calls; median of 5 rounds",
        },
        {"name": "noop_rpc_per_node", "value": 6, "unit": "calls", "how": "an unchanged run with 64 disks"},
        {"name": "emulator_rss_mb", "value": 61.3, "unit": "MB", "how": "with 64 disks attached", "nodes": {"st1": 1}},
    ]
}
DRIFT = [
    {"node": "st1", "disk": "vol02", "wanted": "attached", "found": "no namespace"},
    {"node": "ipu2", "disk": "data03", "wanted": "QoS 16 MiB/s", "found": None},
]


def known(**given: Any) -> dict[str, Any]:
    """The input of the filter report_page with nothing but nodes, and what is given."""
    return {
        "title": "Virtual disks behind IPUs",
        "date": "",
        "nodes": NODES,
        "disks": None,
        "unlisted": None,
        "silent": [],
        "demo": "",
        "bench": "",
        "drift": "",
        "fio": [],
        "files": {},
        **given,
    }


def everything() -> dict[str, Any]:
    """All that a report can be made of."""
    data = {
        "demo.json": DEMO,
        "bench.json": BENCH,
        "drift.json": DRIFT,
        "before.json": QOS_BEFORE,
        "limited.json": QOS_LIMITED,
        "after.json": QOS_AFTER,
        "direct.json": DIRECT,
        "virtual.json": VIRTUAL,
    }
    return known(
        date="2026-11-25 21:04 UTC",
        disks=DISKS,
        unlisted=UNLISTED,
        demo="demo.json",
        bench="bench.json",
        drift="drift.json",
        fio=[
            {
                "title": "QoS: 16 MiB/s by device",
                "runs": {"before": "before.json", "limited": "limited.json", "after": "after.json"},
            },
            {"title": "Virtual against direct", "runs": {"direct": "direct.json", "virtual": "virtual.json"}},
        ],
        files={path: json.dumps(content) for path, content in data.items()},
    )
