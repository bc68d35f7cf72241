# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a machine has to carry together: its SPDKs and guests, as the inventory says; their cores and memory.

Pure functions. ``hostvars`` are what Ansible knows of each node; a variable that nobody has set has its role's default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.ipdk.storage.plugins.plugin_utils import cores, needs

SYSTEM_MIB = 512
"""What the machine itself needs."""
SMA_MIB = 256
"""SMA of an IPU, with its gRPC."""
QEMU_MIB = 256
"""A guest's QEMU, beside the guest's memory."""

DEFAULTS: dict[str, Any] = {
    "ipdk_engine": "emulator",
    "ipu_max_virtual_disks": 64,
    "ipu_spdk_memory_mib": 0,
    "host_memory_mib": 1024,
    "spdk_cpumask": "",
    "spdk_hugepages": False,
    "spdk_memory_mib": 0,
    "spdk_program": "spdk_tgt",
    "storage_target_disks": 0,
    "storage_target_interrupt_mode": True,
    "storage_target_queue_depth": needs.DEFAULT_QUEUE_DEPTH,
}
"""Those of the roles; a test compares them."""
GUEST_QUEUES = 16
"""Virtqueues of a disk where nobody says how many processors the host has."""


@dataclass(frozen=True)
class Service:
    """An SPDK. ``group``: ``storage_targets`` or ``ipus``; ``memory_mib`` and ``cpumask`` are what was given, or 0 and
    empty; ``polls``: it keeps its cores busy."""

    node: str
    group: str = ""
    carries: dict[str, Any] = field(default_factory=dict)
    program: str = "spdk_tgt"
    polls: bool = True
    cpumask: str = ""
    memory_mib: int = 0
    hugepages: bool = False

    @property
    def claim(self) -> cores.Claim:
        disks = max(int(self.carries.get("virtual_disks") or 0), int(self.carries.get("volumes") or 0))
        return cores.Claim(self.node, disks, self.polls, self.cpumask)

    def needs_mib(self, core_count: int) -> int:
        return self.memory_mib or needs.memory_mib(needs.memory_rows(self.carries, self.program, core_count))


@dataclass(frozen=True)
class Platform:
    """A machine. ``guests``: node and MiB of memory of each."""

    services: list[Service]
    guests: list[tuple[str, int]] = field(default_factory=list)
    online: list[int] = field(default_factory=list)
    """Its cores; empty: not known."""

    def cores(self) -> dict[str, list[int]]:
        """Of each service, by node."""
        claims = [service.claim for service in self.services]
        online = self.online or list(range(1 + sum(claim.wanted for claim in claims)))
        return cores.assign(claims, online)

    def memory(self) -> dict[str, int]:
        """MiB of each service, by node."""
        given = self.cores()
        return {service.node: service.needs_mib(len(given[service.node])) for service in self.services}

    def rows(self) -> list[tuple[str, int]]:
        """What needs memory, and how many MiB."""
        memory = self.memory()
        rows = [("system", SYSTEM_MIB)]
        for service in self.services:
            rows.append((service.node, memory[service.node]))
            if service.group == "ipus":
                rows.append((f"SMA of {service.node}", SMA_MIB))
        return rows + [(f"guest {node}", mib + QEMU_MIB) for node, mib in self.guests]

    def hugepages(self, kib: int) -> dict[str, int]:
        """Pages of ``kib`` for each service that wants some, by node."""
        memory = self.memory()
        return {
            service.node: math.ceil(memory[service.node] * 1024 / kib) for service in self.services if service.hugepages
        }


def carries(
    group: str, node: str, own: Mapping[str, Any], groups: Mapping[str, list[str]], hostvars: Mapping[str, Any]
) -> dict[str, Any]:
    """What the SPDK of a node of this group is asked to carry, as needs.py takes it. ``own``: the node's variables.

    Raises ValueError that names the node and the variable whose value is no number.
    """
    targets, ipus = groups.get("storage_targets") or [], groups.get("ipus") or []
    # A shared volume has a subsystem of its own, and each of its IPUs a controller.
    shared = {target: needs.shared(own.get("virtual_disks"), target, targets) for target in targets}
    if group == "ipus":
        host = own.get("ipu_host") or _host_of(node, groups, hostvars)
        return {
            "virtual_disks": _number(node, own, "ipu_max_virtual_disks"),
            "guest_queues": _number(host, _known(host, hostvars), "host_vcpus", GUEST_QUEUES),
            "controllers": len(targets)
            + sum(names.count(host) + names.count(None) for each in shared.values() for names in each.values()),
        }
    disks = _number(node, own, "storage_target_disks") or sum(
        _number(ipu, hostvars[ipu], "ipu_max_virtual_disks") for ipu in ipus
    )
    malloc = needs.malloc_mib(own.get("virtual_disks"), node, targets)
    return {
        # Each IPU has a queue for each of its disks and one for administration, in each of its subsystems.
        "connections": disks + len(ipus) + sum(map(len, shared.get(node, {}).values())),
        "queue_depth": _queue_depth(node, own),
        "subsystems": len(ipus) + len(shared.get(node, {})),
        "volumes": disks,
        "malloc_mib": _number(node, own, "storage_target_malloc_mib", malloc),
    }


def platform_of(node: str, groups: Mapping[str, list[str]], hostvars: Mapping[str, Any]) -> Platform:
    """The machine of a node: every SPDK and guest of the inventory that is on the same one."""
    place = _place(node, hostvars)
    services = [
        _service(group, other, groups, hostvars)
        for group in ("storage_targets", "ipus")
        for other in groups.get(group) or []
        if _place(other, hostvars) == place
    ]
    guests = [
        (host, _number(host, hostvars[host], "host_memory_mib"))
        for host in groups.get("ipu_hosts") or []
        if hostvars[host].get("host_guest")
        and _place(hostvars[host].get("host_platform") or hostvars[host].get("host_ipu"), hostvars) == place
    ]
    return Platform(services, guests)


def _place(node: str, hostvars: Mapping[str, Any]) -> str:
    """Equal for nodes of one machine: this one, or how it is reached."""
    variables = _known(node, hostvars)
    local = variables.get("ansible_connection") == "local"
    return "" if local else str(variables.get("ansible_host") or node)


def _known(node: str, hostvars: Mapping[str, Any]) -> Mapping[str, Any]:
    """Asked first: Ansible's hostvars have an answer of their own for a node that is in no inventory."""
    if node not in hostvars:
        return {}
    return hostvars[node]


def _service(group: str, node: str, groups: Mapping[str, list[str]], hostvars: Mapping[str, Any]) -> Service:
    own = hostvars[node]
    engine = own.get("spdk_engine") or _value(own, "ipdk_engine")
    sleeps = engine == "emulator" or (group == "storage_targets" and _flag(own, "storage_target_interrupt_mode"))
    return Service(
        node=node,
        group=group,
        carries=carries(group, node, own, groups, hostvars),
        program="emulator" if engine == "emulator" else _program(own),
        polls=not sleeps,
        cpumask=str(_value(own, "spdk_cpumask")),
        memory_mib=(group == "ipus" and _number(node, own, "ipu_spdk_memory_mib"))
        or _number(node, own, "spdk_memory_mib"),
        hugepages=engine != "emulator" and _flag(own, "spdk_hugepages"),
    )


def _queue_depth(node: str, own: Mapping[str, Any]) -> int:
    """The deepest of its transports', which may say their own."""
    depth = _number(node, own, "storage_target_queue_depth")
    transports = own.get("storage_target_transports") or [{}]
    return max(_number(node, transport, "max_queue_depth", depth) for transport in transports)


def _host_of(ipu: str, groups: Mapping[str, list[str]], hostvars: Mapping[str, Any]) -> str:
    hosts = groups.get("ipu_hosts") or []
    return next((host for host in hosts if hostvars[host].get("host_ipu") == ipu), "")


def _value(variables: Mapping[str, Any], name: str) -> Any:
    value = variables.get(name)
    return DEFAULTS[name] if value is None else value


def _program(variables: Mapping[str, Any]) -> str:
    """Of a list the first, which is there as a rule."""
    program = _value(variables, "spdk_program")
    return str(program if isinstance(program, str) else program[0])


def _flag(variables: Mapping[str, Any], name: str) -> bool:
    """As Ansible's filter ``bool`` reads it."""
    return str(_value(variables, name)).lower() in ("true", "yes", "on", "1", "y", "t")


def _number(node: str, variables: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = variables.get(name)
    if value is None:
        value = DEFAULTS[name] if default is None else default
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ValueError(f"{node}: {name}: wanted a whole number, got {value!r}") from None
