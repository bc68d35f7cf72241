"""The return of 64 disks after the death of their SPDKs: ipdk_node against a bare client."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from support.modules import COLLECTIONS
from support.rpc_relay import RpcRelay
from support.spdk import Spdk

from .lab import DISKS, ROOT
from .report import Pairs, Report
from .volumes import NQN, call

ROUNDS = 5
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT / 'roles/spdk/files/node'}:{COLLECTIONS}"}


def measure(report: Report) -> None:
    """Both sides of 64 disks; no lab is needed."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name, socket.create_server(("127.0.0.1", 0)) as probe:
        directory, port = Path(name), probe.getsockname()[1]
        probe.close()
        for node, document in declarations(directory, {"traddr": "127.0.0.1", "trsvcid": str(port)}).items():
            (directory / f"{node}.declaration").write_text(json.dumps(document), encoding="utf-8")
        record_restore(directory)
        ours, bare = [], []
        for _unused in range(ROUNDS):
            ours.append(after_death(directory, restorer))
            bare.append(after_death(directory, bare_client))
    pairs = Pairs(ours, bare)
    our_seconds, bare_seconds = pairs.medians()
    report.add(
        "restore_64_ratio",
        pairs.ratio,
        "ratio",
        "ipdk_node restore on a storage target that lost 64 aio volumes, their subsystem and listener, and on an "
        "IPU that lost its controller and 64 vhost controllers, against a bare client that makes the same calls; whole "
        "processes, on SPDKs just started; paired rounds, median",
        bare_seconds=bare_seconds,
        rounds={"restore": ours, "bare": bare},
    )
    report.add(
        "restore_seconds_per_64",
        our_seconds,
        "s",
        "ipdk_node restore of the same 64 disks, both nodes one after the other; whole processes; median of the rounds",
        rounds=ours,
    )


@contextmanager
def just_started(directory: Path) -> Iterator[dict[str, Path]]:
    """The RPC sockets of a storage target and an IPU, each on a core of its own where there are two."""
    with tempfile.TemporaryDirectory(dir=directory) as name:
        places = Path(name)
        cores = {"target": "0x1", "ipu": hex(1 << min(1, (os.cpu_count() or 1) - 1))}
        with ExitStack() as stack:
            yield {
                node: stack.enter_context(Spdk(places, node, ("-m", core))).rpc_socket for node, core in cores.items()
            }


def after_death(directory: Path, client: Callable[[Path, str, Path], list[str]]) -> float:
    """The seconds that a client takes for both nodes."""
    seconds = 0.0
    with just_started(directory) as nodes:
        for node, rpc_socket in nodes.items():
            started = time.monotonic()
            subprocess.run(client(directory, node, rpc_socket), env=ENVIRONMENT, check=True, timeout=120)
            seconds += time.monotonic() - started
    return round(seconds, 3)


def restorer(directory: Path, node: str, rpc_socket: Path) -> list[str]:
    command = [sys.executable, "-m", "ipdk_node", "restore", "--socket", str(rpc_socket)]
    return [*command, "--declaration", str(directory / f"{node}.declaration")]


def bare_client(directory: Path, node: str, rpc_socket: Path) -> list[str]:
    return [sys.executable, str(ROOT / "tests/bench/bare_calls.py"), str(rpc_socket), str(directory / f"{node}.calls")]


def record_restore(directory: Path) -> None:
    """Write down which calls of a restore change something: what a relay in front of each node saw."""
    with just_started(directory) as nodes:
        for node, rpc_socket in nodes.items():
            counted = rpc_socket.with_name(f"{node}-counted.sock")
            with RpcRelay(str(counted), str(rpc_socket)) as relay:
                subprocess.run(restorer(directory, node, counted), env=ENVIRONMENT, check=True, timeout=120)
            calls = [
                call(each["method"], **each.get("params", {}))
                for each in relay.requests
                if "_get_" not in each["method"] and not each["method"].startswith("framework_")
            ]
            assert len(calls) >= DISKS, f"{node}: a restore of {DISKS} disks made only {len(calls)} calls"
            (directory / f"{node}.calls").write_text(json.dumps(calls), encoding="utf-8")


def declarations(directory: Path, address: dict[str, str]) -> dict[str, dict[str, Any]]:
    host = "nqn.2014-08.org.nvmexpress:uuid:5ad1e2f3-0000-4000-8000-000000000001"
    volumes = [f"vol{number:02}" for number in range(DISKS)]
    for name in volumes:
        (directory / name).write_bytes(bytes(1 << 20))
    return {
        "target": {
            "version": 1,
            "node": "target",
            "transports": [{"trtype": "TCP"}],
            "bdevs": [
                {"name": name, "type": "aio", "filename": str(directory / name), "block_size": 512} for name in volumes
            ],
            "subsystems": [
                {
                    "nqn": NQN,
                    "serial_number": "bench",
                    "max_namespaces": DISKS,
                    "hosts": [host],
                    "namespaces": [{"bdev": name, "nsid": nsid} for nsid, name in enumerate(volumes, start=1)],
                    "listeners": [address],
                }
            ],
        },
        "ipu": {
            "version": 1,
            "node": "ipu",
            "controllers": [{"name": "target", "subnqn": NQN, "hostnqn": host, **address}],
            "vhost_blk": [{"name": f"sma-{number}", "bdev": f"targetn{number + 1}"} for number in range(DISKS)],
        },
    }
