# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which cores of a machine its SPDKs get. Pure functions; a core is its number, a set of them a sorted list."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

DISKS_PER_CORE = 128
"""A core that polls looks at 2,048 virtqueues a round then, where each disk has 16; 64 disks on one were measured."""
_POLLED = 1 << 16
"""A core that is polled is busier than one with any number of SPDKs that sleep."""


@dataclass(frozen=True)
class Claim:
    """What one SPDK wants. ``polls``: it keeps its cores busy all the time; ``cpumask``: the operator's choice."""

    node: str
    disks: int = 0
    polls: bool = True
    cpumask: str = ""

    @property
    def wanted(self) -> int:
        return max(1, math.ceil(self.disks / DISKS_PER_CORE))


def parse_cpus(text: str) -> list[int]:
    """Cores of ``0-3,8`` or ``0,2``. Raises ValueError for anything else."""
    cores: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]+)(?:-([0-9]+))?\s*", part)
        if match is None:
            raise ValueError(f"no list of cores: {text!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        cores.update(range(first, last + 1))
    return sorted(cores)


def parse_cpumask(text: str) -> list[int]:
    """Cores of SPDK's ``-m``: ``0x3``, ``3``, ``[0,2-3]``. Raises ValueError for anything else, and for no core."""
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        cores = parse_cpus(text[1:-1])
    elif re.fullmatch(r"(0[xX])?[0-9a-fA-F]{1,256}", text):
        mask = int(text, 16)
        cores = [bit for bit in range(mask.bit_length()) if mask >> bit & 1]
    else:
        raise ValueError(f"no core mask: {text!r}; wanted a hexadecimal mask (0x3) or a list ([0,1])")
    if not cores:
        raise ValueError(f"a core mask without a core: {text!r}")
    return cores


def cpumask(cores: list[int]) -> str:
    """As SPDK's ``-m`` takes them: ``0x3``."""
    return hex(sum(1 << core for core in cores))


def cpus(cores: list[int]) -> str:
    """As Linux, systemd and Docker take them: ``0-3,8``."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and runs[-1][1] == core - 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def assign(claims: list[Claim], online: list[int]) -> dict[str, list[int]]:
    """The cores of each SPDK on a machine that has the cores ``online``, by node.

    A mask is what it says. The others get one core for each ``DISKS_PER_CORE`` disks, at least one, and no more than
    there are: those that poll from the last core back, never the first one unless there is no other, for the rest of
    the machine needs one; then those that sleep, from the first core on. Cores are shared when there are too few.
    """
    load = dict.fromkeys(online, 0)
    given: dict[str, list[int]] = {}
    for claim in claims:
        if claim.cpumask:
            try:
                given[claim.node] = parse_cpumask(claim.cpumask)
            except ValueError:
                given[claim.node] = []  # its own node refuses it
            for core in given[claim.node]:
                load[core] = load.get(core, 0) + (_POLLED if claim.polls else 1)
    for polls, pool in ((True, online[1:] or online), (False, online)):
        left = [claim for claim in claims if claim.polls == polls and not claim.cpumask]
        spare = max(0, sum(load[core] == 0 for core in pool) - len(left))
        for claim in left:
            more = min(claim.wanted - 1, spare)
            spare -= more
            ordered = sorted(pool, key=lambda core: (load[core], -core if polls else core))
            given[claim.node] = sorted(ordered[: 1 + more])
            for core in given[claim.node]:
                load[core] += _POLLED if polls else 1
    return given


def allowed(node: str, claims: list[Claim], given: dict[str, list[int]], online: list[int]) -> list[int]:
    """Where all threads of this node's SPDK may run: anywhere but on the cores that its neighbours poll.

    Not on its own cores alone: there it polls, and DPDK and the program that restores its state have threads of their
    own, which would wait for the poller.
    """
    polled = {core for claim in claims if claim.polls and claim.node != node for core in given[claim.node]}
    return sorted(set(online) - polled | set(given[node]) & set(online))
