# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an SPDK needs for what it is asked to carry, and whether a machine has it: memory, buffers, cores, open files.

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
open files                   a disk: 5, and two for each of its queues; a connection 1; an aio volume 2
==========================  =================================================================================

Shapes

``carries`` (all counts, all may be left out): ``virtual_disks`` vhost controllers; ``controllers`` NVMe controllers it
attaches; ``connections`` of NVMe/TCP that it accepts; ``subsystems``; ``queue_depth`` of a connection (128);
``guest_queues`` virtqueues of a disk, one for each of the guest's processors (16); ``volumes``; ``malloc_mib``.

``options``: ``engine`` (``spdk``, ``emulator``), ``program``, ``cpumask`` (as SPDK's ``-m``: a hexadecimal mask or a
list in brackets), ``memory_mib`` and ``files`` (0: computed), ``hugepages`` (bool).

``machine``: ``memory_mib``, ``cpus`` (as ``/sys/devices/system/cpu/online``), ``files`` (the most that a process may
open), ``hugepage_kib``, ``hugepages_free``.
"""

from __future__ import annotations

import math
import re
from typing import Any

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


def size(carries: dict[str, Any], options: dict[str, Any], machine: dict[str, Any]) -> dict[str, Any]:
    """What the node needs.

    Returns ``memory_mib`` (SPDK's ``-s``), ``limit_mib`` (of the whole process), ``cores`` (list), ``iobuf``
    (``small_pool_count``, ``large_pool_count``), ``files``, ``hugepages`` (pages;
    0: none), ``lines`` (the sum, for a human) and ``errors`` (why this machine cannot; empty: it can).
    """
    errors: list[str] = []
    cores = _cores(str(options.get("cpumask") or "0x1"), machine, errors)
    pools = _pools(carries, len(cores))
    rows = _memory_rows(carries, options, len(cores), pools)
    needed = math.ceil(sum(row[1] * row[2] for row in rows))
    memory = int(options.get("memory_mib") or 0) or needed
    # Beside SPDK's heap: the program itself, its libraries, and what DPDK keeps of pages.
    limit = memory + memory // 8 + 384
    lines = [
        f"{what:<34}{_number(count):>9} x {_number(mib):>9} MiB = {count * mib:>9.1f} MiB" for what, count, mib in rows
    ]
    given = "" if memory == needed else f", given; computed {needed} MiB"
    lines.append(f"{'memory':<34}{'':>27}{memory:>9} MiB{given}")
    files = int(options.get("files") or 0) or _files(carries)
    hugepages = _hugepages(memory, options, machine, errors)
    named = ", ".join(map(str, cores)) or "none"
    lines.append(f"cores {named}; open files {files}; buffers {pools[0]} small, {pools[1]} large")
    if hugepages:
        lines.append(f"hugepages {hugepages} of {machine.get('hugepage_kib')} KiB")
    have = int(machine.get("memory_mib") or 0)
    if have and memory > have:
        errors.append(
            f"not enough memory: {memory} MiB are needed for what it is asked to carry, the machine has {have} MiB. "
            f"The sum: {'; '.join(_short(row) for row in rows)}. Use a bigger machine or let it carry less"
        )
    most = int(machine.get("files") or 0)
    if most and files > most:
        errors.append(
            f"too few open files: {files} are needed, the machine grants a process {most} (ulimit -Hn). Raise the "
            "limit or let it carry less"
        )
    return {
        "memory_mib": memory,
        "limit_mib": limit,
        "cores": cores,
        "iobuf": {"small_pool_count": pools[0], "large_pool_count": pools[1]},
        "files": files,
        "hugepages": hugepages,
        "lines": lines,
        "errors": errors,
    }


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


def malloc_mib(disks: Any, target: str, targets: list[str]) -> int:
    """Memory in MiB of the volumes with backing malloc that a storage target has to keep.

    ``disks``: the operator's list. It is not checked here: what cannot be read is none of these volumes, and
    ``validate`` says so before anything is made.
    """
    total = 0
    for disk in disks if isinstance(disks, list) else []:
        if not isinstance(disk, dict) or disk.get("state") == "absent":
            continue
        backing = disk.get("backing")
        where = disk.get("target") or (targets[0] if len(targets) == 1 else None)
        if where == target and isinstance(backing, dict) and backing.get("type") == "malloc":
            total += _bytes(disk.get("size"))
    return math.ceil(total / (1 << 20))


def _bytes(value: Any) -> int:
    match = re.fullmatch(r"([0-9]+) ?(B|KiB|MiB|GiB|TiB)?", str(value))
    return int(match[1]) * UNITS[match[2]] if match else 0


def _cores(mask: str, machine: dict[str, Any], errors: list[str]) -> list[int]:
    try:
        cores = parse_cpumask(mask)
    except ValueError as error:
        errors.append(f"spdk_cpumask: {error}")
        return []
    online = parse_cpus(str(machine["cpus"])) if machine.get("cpus") else cores
    beyond = [core for core in cores if core not in online]
    if beyond:
        errors.append(
            f"spdk_cpumask {mask} wants the cores {', '.join(map(str, beyond))}, which the machine does not have; it "
            f"has {machine['cpus']}. Choose a mask of these"
        )
    return cores


def _pools(carries: dict[str, Any], cores: int) -> tuple[int, int]:
    threads = int(carries.get("virtual_disks") or 0) + cores
    small, large = (
        max(default, shared + cache * threads)
        for default, shared, cache in zip(DEFAULT_POOLS, SHARED_BUFFERS, THREAD_CACHE)
    )
    return small, large


def _memory_rows(
    carries: dict[str, Any], options: dict[str, Any], cores: int, pools: tuple[int, int]
) -> list[tuple[str, int, float]]:
    """What, how many, MiB of each."""
    emulated = options.get("engine") == "emulator"
    program = "emulator" if emulated else str(options.get("program") or "spdk_tgt")
    names = ("virtual_disks", "controllers", "connections", "subsystems")
    count = {name: int(carries.get(name) or 0) for name in names}
    depth = int(carries.get("queue_depth") or DEFAULT_QUEUE_DEPTH)
    rows: list[tuple[str, int, float]] = [
        (program, 1, PROGRAM_MIB.get(program, OTHER_PROGRAM_MIB)),
        ("further cores", max(cores - 1, 0), CORE_MIB),
        ("small buffers", 0 if emulated else pools[0], SMALL_BUFFER_KIB / 1024),
        ("large buffers", 0 if emulated else pools[1], LARGE_BUFFER_KIB / 1024),
        ("virtual disks (vhost)", count["virtual_disks"], DISK_MIB),
        ("NVMe controllers", count["controllers"], CONTROLLER_MIB),
        ("NVMe subsystems", count["subsystems"], SUBSYSTEM_MIB),
        (f"connections of depth {depth}", count["connections"], depth * CONNECTION_KIB_PER_DEPTH / 1024),
        ("volumes in memory (malloc)", int(carries.get("malloc_mib") or 0), 1),
    ]
    rows = [row for row in rows if row[1]]
    return [*rows, ("reserve", 1, math.ceil(RESERVE * sum(row[1] * row[2] for row in rows)))]


def _files(carries: dict[str, Any]) -> int:
    queues = int(carries.get("guest_queues") or 16)
    return (
        256
        + int(carries.get("virtual_disks") or 0) * (8 + 2 * queues)
        + 2 * int(carries.get("connections") or 0)
        + 4 * int(carries.get("volumes") or 0)
    )


def _hugepages(memory: int, options: dict[str, Any], machine: dict[str, Any], errors: list[str]) -> int:
    if not options.get("hugepages"):
        return 0
    kib = int(machine.get("hugepage_kib") or 0)
    free = int(machine.get("hugepages_free") or 0)
    pages = math.ceil(memory * 1024 / kib) if kib else 0
    if not kib or pages > free:
        errors.append(
            f"spdk_hugepages: {memory} MiB are needed in hugepages, {pages} of {kib} KiB; {free} are free. Reserve "
            "more (spdk_hugepages_reserve: true does it, over reboots too), or set spdk_hugepages to false"
        )
    return pages


def _number(value: float) -> str:
    return f"{value:g}" if value == int(value) else f"{value:.3f}"


def _short(row: tuple[str, int, float]) -> str:
    return f"{row[0]} {row[1] * row[2]:.0f} MiB"
