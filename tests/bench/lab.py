"""The lab that is measured: playbooks, SPDK's RPC, the guest over ssh, QEMU's monitor."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from support.rpc_relay import RpcRelay

ROOT = Path(__file__).resolve().parents[2]
NAME = "ipdk-test"
"""As molecule/inventory names it: the beginning of its containers' names, too."""
RUN_DIR = Path(f"/run/{NAME}")
INVENTORIES = ("inventories/simulation", "molecule/inventory")
"""The lab of the scenarios: one of the tests' own."""
DISKS = 64
COUNTED = {"spdk_rpc_socket": "{{ ipdk_node_run_dir }}/spdk/counted.sock"}
"""Variables with which modules go through :meth:`Lab.relay`."""
SSH_KEY = f"/var/lib/{NAME}/lab-{NAME}/id_ed25519"
KNOWN_HOSTS = f"/var/lib/{NAME}/lab-{NAME}/known_hosts"


class Lab:
    """The lab of some inventories. ``engine``: variables of every playbook that say which SPDK it runs."""

    def __init__(self, engine: Mapping[str, Any], inventories: Sequence[str] = INVENTORIES) -> None:
        self.engine = dict(engine)
        self.inventories = [word for inventory in inventories for word in ("-i", inventory)]

    def set_up(self) -> None:
        """Make it anew: a run that was interrupted leaves its lab, with disks in it."""
        self.tear_down()
        self.playbook("playbooks/lab.yml", "playbooks/deploy.yml")

    def tear_down(self) -> None:
        self.playbook("playbooks/teardown.yml")

    def playbook(
        self, *names: str, variables: dict[str, Any] | None = None, events: bool = False
    ) -> list[dict[str, Any]]:
        """Run playbooks; with ``events`` return every task: name, host, seconds, module, skipped, changed.

        ``process_seconds``: of a command task, what its process took.
        """
        command = ["ansible-playbook", *self.inventories, *names]
        if self.engine or variables:
            command += ["--extra-vars", json.dumps({**self.engine, **(variables or {})})]
        env = {**os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"} if events else dict(os.environ)
        done = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(names)} failed:\n{done.stdout[-6000:]}\n{done.stderr[-2000:]}")
        return _tasks(json.loads(done.stdout[done.stdout.index("{") :])) if events else []

    def disks(self, state: str, but_last: str = "") -> None:
        """Bring 64 virtual disks of 16 MiB to a state; the last of them to ``but_last`` if that is given."""
        self.playbook("playbooks/disks.yml", variables=virtual_disks(state, but_last))

    def rpc_socket(self, node: str) -> Path:
        return RUN_DIR / node / "spdk" / "spdk.sock"

    def relay(self, node: str) -> RpcRelay:
        """In front of a node's RPC socket, beside it."""
        rpc_socket = self.rpc_socket(node)
        return RpcRelay(str(rpc_socket.with_name("counted.sock")), str(rpc_socket))

    def rpc(self, node: str, method: str, **params: Any) -> Any:
        """The result of a method of a node's SPDK."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.rpc_socket(node)))
            request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or None}
            connection.sendall(json.dumps(request).encode())
            text = ""
            while True:
                text += connection.recv(1 << 20).decode()
                try:
                    answer = json.loads(text)
                except ValueError:
                    continue
                if "error" in answer:
                    raise SystemExit(f"{node}: {method}: {answer['error']}")
                return answer["result"]

    def guest(self, command: str) -> str:
        """What a command prints in the guest."""
        return subprocess.check_output(self.guest_command(command), text=True)

    def guest_command(self, command: str) -> list[str]:
        options = ["-i", SSH_KEY, "-o", f"UserKnownHostsFile={KNOWN_HOSTS}", "-o", "BatchMode=yes"]
        return ["ssh", *options, "root@198.18.5.30", command]


def virtual_disks(state: str, but_last: str = "") -> dict[str, Any]:
    """Variables of playbooks/disks.yml."""
    items = [
        {"name": f"bench{number:02}", "size": "16MiB", "backing": {"type": "malloc"}, "state": state}
        for number in range(DISKS)
    ]
    items[-1]["state"] = but_last or state
    return {"virtual_disks": items, "ipdk_safe_mode": False}


def seconds(work: Callable[[], object]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


def busy_seconds() -> float:
    """What this machine's cores have worked since it started, all together (proc(5), /proc/stat)."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _idle, _iowait, irq, softirq, *_rest = map(int, file.readline().split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _tasks(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    tasks = []
    for play in record["plays"]:
        for task in play["tasks"]:
            times = task["task"]["duration"]
            for host, result in task["hosts"].items():
                tasks.append(
                    {
                        "name": task["task"]["name"],
                        "host": host,
                        "seconds": _stamp(times.get("end")) - _stamp(times.get("start")),
                        "process_seconds": _delta(result.get("delta")),
                        "module": result.get("action", ""),
                        "skipped": result.get("skipped", False),
                        "changed": result.get("changed", False),
                    }
                )
    return tasks


def _stamp(text: str | None) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() if text else 0.0


def _delta(text: str | None) -> float:
    """The seconds of ``0:00:01.234567``, as the command module writes them."""
    hours, minutes, seconds = (text or "0:0:0").split(":")
    return timedelta(hours=int(hours), minutes=int(minutes), seconds=float(seconds)).total_seconds()


class Monitor:
    """QEMU's monitor for observers."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.file = self.socket.makefile("r")

    def __enter__(self) -> Monitor:
        self.file.readline()
        self("qmp_capabilities")
        return self

    def __exit__(self, *_unused: object) -> None:
        self.socket.close()

    def __call__(self, command: str, **arguments: Any) -> Any:
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            answer = json.loads(self.file.readline())
            if "error" in answer:
                raise SystemExit(f"QEMU: {command}: {answer['error']}")
            if "return" in answer:
                return answer["return"]
