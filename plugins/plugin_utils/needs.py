# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What one SPDK needs for what it is asked to carry: memory, buffers, open files.

Pure functions. The figures are measured on SPDK 26.05 (its heap as ``env_dpdk_get_mem_stats`` tells it, and
``/proc/<pid>/fd``):

==========================  =================================================================================
program, without its pools   spdk_tgt 688 MiB, nvmf_tgt 190 MiB; each core beyond the first 3 MiB
small buffer, large buffer   8 KiB, 132 KiB (``iobuf_set_options``)
a disk that is started       a thread of its own, whose caches take 256 small and 32 large buffers: too few of
                             either, and the disk never starts; 1.3 MiB
a connection of NVMe/TCP     0.77 MiB on the target at queue depth 128. An IPU makes one for each disk (its
                             threads do), and one for administration
a malloc bdev                its size
open files                   a disk: 5, and two for each of its queues; a connection 1; an aio volume 2; each
                             hugepage 1 (added by sizing.py)
==========================  =================================================================================

``carries`` (all counts, all may be left out): ``virtual_disks`` vhost controllers; ``controllers`` NVMe controllers it
attaches; ``connections`` of NVMe/TCP that it accepts; ``subsystems``; ``queue_depth`` of a connection (128);
``guest_queues`` virtqueues of a disk, one for each of the guest's processors (16); ``volumes``; ``malloc_mib``.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from ansible_collections.ipdk.storage.plugins.plugin_utils.virtual_disk import UNITS

PROGRAM_MIB = {"spdk_tgt": 688, "nvmf_tgt": 190, "vhost": 190, "emulator": 64}
OTHER_PROGRAM_MIB = 688
CORE_MIB = 4
DISK_MIB = 1.5
CONTROLLER_MIB = 1
SUBSYSTEM_MIB = 0.1
CONNECTION_KIB_PER_DEPTH = 6.5
SMALL_BUFFER_KIB = 8.02
LARGE_BUFFER_KIB = 132.1
DEFAULT_POOLS = (8192, 1024)
"""SPDK's own: small, large."""
THREAD_CACHE = (256, 32)
"""Buffers that a thread's caches take: those of bdev and of accel."""
SHARED_BUFFERS = (4096, 512)
"""What is left for requests in flight."""
DEFAULT_QUEUE_DEPTH = 128
RESERVE = 0.08
"""Part of the heap for what is not counted, and for holes: a malloc bdev wants its memory in one piece."""


class Row(NamedTuple):
    """One line of the sum."""

    what: str
    count: int
    mib: float
    """Of each."""


def pools(carries: dict[str, Any], cores: int) -> tuple[int, int]:
    """Small and large buffers for all threads: one for each disk and each core."""
    threads = int(carries.get("virtual_disks") or 0) + cores
    small, large = (
        max(default, shared + cache * threads)
        for default, shared, cache in zip(DEFAULT_POOLS, SHARED_BUFFERS, THREAD_CACHE)
    )
    return small, large


def memory_rows(carries: dict[str, Any], program: str, cores: int) -> list[Row]:
    """What SPDK's heap has in it. ``program``: ``spdk_tgt`` or another; ``emulator`` has no pools."""
    small, large = (0, 0) if program == "emulator" else pools(carries, cores)
    count = {
        name: int(carries.get(name) or 0) for name in ("virtual_disks", "controllers", "connections", "subsystems")
    }
    depth = int(carries.get("queue_depth") or DEFAULT_QUEUE_DEPTH)
    rows = [
        Row(program, 1, PROGRAM_MIB.get(program, OTHER_PROGRAM_MIB)),
        Row("further cores", max(cores - 1, 0), CORE_MIB),
        Row("small buffers", small, SMALL_BUFFER_KIB / 1024),
        Row("large buffers", large, LARGE_BUFFER_KIB / 1024),
        Row("virtual disks (vhost)", count["virtual_disks"], DISK_MIB),
        Row("NVMe controllers", count["controllers"], CONTROLLER_MIB),
        Row("NVMe subsystems", count["subsystems"], SUBSYSTEM_MIB),
        Row(f"connections of depth {depth}", count["connections"], depth * CONNECTION_KIB_PER_DEPTH / 1024),
        Row("volumes in memory (malloc)", int(carries.get("malloc_mib") or 0), 1),
    ]
    rows = [row for row in rows if row.count]
    return [*rows, Row("reserve", 1, math.ceil(RESERVE * sum(row.count * row.mib for row in rows)))]


def memory_mib(rows: list[Row]) -> int:
    """The sum."""
    return math.ceil(sum(row.count * row.mib for row in rows))


def limit_mib(memory: int) -> int:
    """Of the whole process. Beside SPDK's heap: the program itself, its libraries, and what DPDK keeps of pages."""
    return memory + memory // 8 + 384


def files(carries: dict[str, Any]) -> int:
    """How many files it opens."""
    queues = int(carries.get("guest_queues") or 16)
    return (
        256
        + int(carries.get("virtual_disks") or 0) * (8 + 2 * queues)
        + 2 * int(carries.get("connections") or 0)
        + 4 * int(carries.get("volumes") or 0)
    )


def malloc_mib(disks: Any, target: str, targets: list[str]) -> int:
    """Memory in MiB of the volumes with backing malloc that a storage target has to keep.

    ``disks``: the operator's list. It is not checked here: what cannot be read is none of these volumes, and
    ``validate`` says so before anything is made.
    """
    sizes: dict[str, int] = {}
    for disk in _items(disks):
        backing = disk.get("backing")
        where = disk.get("target") or (targets[0] if len(targets) == 1 else None)
        if where == target and isinstance(backing, dict) and backing.get("type") == "malloc":
            # The items of a shared volume have one name.
            sizes[str(disk.get("name"))] = _bytes(disk.get("size"))
    return math.ceil(sum(sizes.values()) / (1 << 20))


def shared(disks: Any, target: str, targets: list[str]) -> dict[str, list[str | None]]:
    """The shared volumes of a storage target → the hosts that they are for. ``disks`` as above; a host is null where
    the item does not name it."""
    volumes: dict[str, list[str | None]] = {}
    for disk in _items(disks):
        where = disk.get("target") or (targets[0] if len(targets) == 1 else None)
        if where == target and disk.get("shared") is True:
            volumes.setdefault(str(disk.get("name")), []).append(disk.get("host"))
    return volumes


def _items(disks: Any) -> list[dict[str, Any]]:
    """The items that are not absent."""
    every = disks if isinstance(disks, list) else []
    return [disk for disk in every if isinstance(disk, dict) and disk.get("state") != "absent"]


def _bytes(value: Any) -> int:
    match = re.fullmatch(r"([0-9]+) ?(B|KiB|MiB|GiB|TiB)?", str(value))
    return int(match[1]) * UNITS[match[2]] if match else 0
