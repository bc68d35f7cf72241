"""What a second run asks and does that finds everything as it is wanted."""

from __future__ import annotations

from support.rpc_relay import RpcRelay

from .lab import Lab, virtual_disks
from .report import Report


def measure(report: Report, lab: Lab) -> None:
    lab.disks("attached")
    with relay(lab, "st1") as target, relay(lab, "ipu1") as ipu:
        counted = {"spdk_rpc_socket": "{{ ipdk_node_run_dir }}/spdk/counted.sock"}
        tasks = lab.playbook("playbooks/disks.yml", variables={**virtual_disks("attached"), **counted}, events=True)
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


def relay(lab: Lab, node: str) -> RpcRelay:
    """In front of a node's RPC socket, beside it."""
    rpc_socket = lab.rpc_socket(node)
    return RpcRelay(str(rpc_socket.with_name("counted.sock")), str(rpc_socket))
