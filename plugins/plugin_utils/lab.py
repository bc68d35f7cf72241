# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A lab, from how many nodes it has to its inventory. Pure functions of plain data.

Addresses are computed, and a node keeps its own when the counts grow: the subnet is cut into steps of a 25th, ten
addresses of a /24. Storage targets begin at the first step, IPUs at the second, hosts at the third; each kind has one
step at most.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Mapping
from typing import Any

LAB_DIRECTORY = "{{ ipdk_state_dir | default('/var/lib/ipdk') }}/lab-{{ ipdk_lab_name }}"
"""ipdk_lab_dir of the role names, which a connection's variables cannot see."""
LAB_NETWORKS = ipaddress.IPv4Network("198.18.0.0/15")
"""RFC 2544: set aside for tests of networks, so a lab never covers an address that somebody needs."""
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_.-]{0,30}")
PREFIX_PATTERN = re.compile(r"([a-z][a-z0-9-]{0,7})?")
"""A storage target's name and an NSID are a disk's serial, which has 20 characters."""
STEPS = 25
LEAST_STEP = 2
"""The first address of a subnet is the gateway's, so a step of one would give it to the first storage target."""
LEAST = {"storage_targets": 1, "ipus": 1, "host_memory_mib": 128, "host_vcpus": 1, "storage_target_malloc_mib": 1}

Variables = dict[str, Any]


class InvalidLab(ValueError):
    """What was asked for is wrong; ``errors`` has a sentence for each mistake."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__(" ".join(errors))
        self.errors = errors


def check(given: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raise InvalidLab for all that is wrong.

    ``given``: the keys that the operator wrote. ``options``: all options with their values, defaults filled in.
    """
    errors = []
    for key in given:
        if key != "plugin" and key not in options:
            close = difflib.get_close_matches(str(key), options, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            errors.append(f"unknown key {key!r}.{hint} There are: {', '.join(sorted(options))}.")
    if not NAME_PATTERN.fullmatch(options["name"]) or ".." in options["name"]:
        errors.append(
            f"name: {options['name']!r} is no name of a lab: wanted 1 to 31 of a-z, 0-9, '_', '.', '-', the first a "
            "letter or digit, no two dots in a row."
        )
    if not PREFIX_PATTERN.fullmatch(options["node_prefix"]):
        errors.append(
            f"node_prefix: {options['node_prefix']!r} is no beginning of a node's name: wanted up to 8 of a-z, 0-9, "
            "'-', the first a letter."
        )
    for key, least in LEAST.items():
        # Ansible takes true for 1.
        value = given[key] if isinstance(given.get(key), bool) else options[key]
        if isinstance(value, bool) or (value is not None and value < least):
            errors.append(f"{key}: wanted a number from {least} on, got {value}.")
    if options["hosts"] is not None and options["hosts"] != options["ipus"]:
        errors.append(
            f"hosts: {options['hosts']}, and ipus: {options['ipus']}. Each IPU has one host: write the same number, or "
            "leave hosts out."
        )
    if options["host_access"] == "ssh" and options["host_guest"] == "minimal":
        errors.append(
            "host_access: nobody can log in to a minimal guest; write host_access: none, or host_guest: debian."
        )
    errors += _check_room(options)
    if errors:
        raise InvalidLab(errors)


def _check_room(options: Mapping[str, Any]) -> list[str]:
    given = options["subnet"]
    try:
        subnet = ipaddress.IPv4Network(given)
    except ValueError as error:
        return [f"subnet: {given!r} is no IPv4 subnet ({error}); wanted one like 198.18.0.0/24."]
    if not subnet.subnet_of(LAB_NETWORKS):
        return [f"subnet: {given} is not inside {LAB_NETWORKS}, the networks for labs; wanted one like 198.18.0.0/24."]
    room = subnet.num_addresses // STEPS
    if room < LEAST_STEP:
        return [f"subnet: {given} has no room for a lab; wanted a /26 or larger, like 198.18.0.0/24."]
    return [
        f"{key}: {options[key]} are beyond the room of subnet {given}, which has {room} addresses for them. Choose a "
        "larger subnet."
        for key in ("storage_targets", "ipus")
        if options[key] > room
    ]


def inventory(options: Mapping[str, Any]) -> tuple[dict[str, Variables], dict[str, dict[str, Variables]]]:
    """The lab of valid options: the variables of the groups, and by group the hosts with theirs."""
    subnet = ipaddress.IPv4Network(options["subnet"])
    step = subnet.num_addresses // STEPS
    prefix = options["node_prefix"]

    def address(kind: int, number: int) -> str:
        return str(subnet.network_address + kind * step + number)

    targets = {
        f"{prefix}st{number + 1}": {"storage_target_address": address(1, number)}
        for number in range(options["storage_targets"])
    }
    ipus = {f"{prefix}ipu{number + 1}": {"ipu_address": address(2, number)} for number in range(options["ipus"])}
    hosts: dict[str, Variables] = {
        f"{prefix}host{number + 1}": {
            "host_ipu": ipu,
            "host_address": address(3, number),
            "host_guest": options["host_guest"],
            # Where nobody logs in, they keep what all nodes of a lab have: the platform's own connection.
            **({"ansible_connection": "ssh"} if options["host_access"] == "ssh" else {}),
        }
        for number, ipu in enumerate(ipus)
    }
    groups = {
        "all": _all_variables(options),
        "storage_targets": _target_variables(options),
        "ipus": {},
        "ipu_hosts": _host_variables(options),
        "lab_platforms": {},
    }
    return groups, {"storage_targets": targets, "ipus": ipus, "ipu_hosts": hosts, "lab_platforms": {"localhost": {}}}


def _all_variables(options: Mapping[str, Any]) -> Variables:
    return {
        "ipdk_lab_name": options["name"],
        "ipdk_lab_network": "{{ ipdk_lab_name }}",
        "ipdk_lab_subnet": options["subnet"],
        "ipdk_engine": options["engine"],
        "ipdk_runtime": "container",
        # All platforms are this machine.
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
    }


def _target_variables(options: Mapping[str, Any]) -> Variables:
    # With engine spdk: nvmf_tgt has no iSCSI, whose poller keeps a core busy even in interrupt mode.
    variables: Variables = {"spdk_program": ["nvmf_tgt", "spdk_tgt"]}
    if options["storage_target_malloc_mib"] is not None:
        variables["storage_target_malloc_mib"] = options["storage_target_malloc_mib"]
    return variables


def _host_variables(options: Mapping[str, Any]) -> Variables:
    variables = {
        "ipdk_host_access": options["host_access"],
        "host_memory_mib": options["host_memory_mib"],
        "host_vcpus": options["host_vcpus"],
    }
    if options["host_access"] == "ssh":
        # The key and the guests' own keys are made with the lab.
        variables.update(
            ansible_host="{{ host_address }}",
            ansible_user="root",
            ansible_python_interpreter="/usr/bin/python3",
            ansible_ssh_private_key_file=f"{LAB_DIRECTORY}/id_ed25519",
            # A guest that stands still is unreachable after two minutes; by itself ssh would wait for ever.
            ansible_ssh_common_args=(
                f"-o UserKnownHostsFile={LAB_DIRECTORY}/known_hosts "
                "-o StrictHostKeyChecking=yes -o GlobalKnownHostsFile=/dev/null -o IdentitiesOnly=yes "
                "-o ServerAliveInterval=30 -o ServerAliveCountMax=4"
            ),
            # A connection that breaks before anything was done is opened again.
            ansible_ssh_retries=3,
        )
    return variables
