# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a node's SPDK needs for what it is asked to carry, and whether its machine has it.

Shapes

``carries``: see needs.py.

``options``: ``node``; ``engine`` (``spdk``, ``emulator``), ``program``, ``cpumask`` (as SPDK's ``-m``: a hexadecimal
mask or a list in brackets; empty: computed, see cores.py), ``interrupt_mode`` (bool), ``memory_mib`` and ``files`` (0:
computed), ``hugepages`` and ``hugepages_reserve`` (bools).

``machine``: ``memory_mib``, ``cpus`` (as ``/sys/devices/system/cpu/online``), ``files`` (the most that a process may
open), ``hugepage_kib``, ``hugepages_total``, ``hugepages_free`` (and those that the machine's own nodes hold).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ansible_collections.ipdk.storage.plugins.plugin_utils import cores, needs
from ansible_collections.ipdk.storage.plugins.plugin_utils.platforms import Platform, Service


def size(
    carries: dict[str, Any], options: dict[str, Any], machine: dict[str, Any], platform: Platform | None = None
) -> dict[str, Any]:
    """What the node needs, beside what else is on its ``platform``.

    Returns ``memory_mib`` (SPDK's ``-s``), ``limit_mib`` (of the whole process), ``cores`` (list), ``cpumask`` (SPDK's
    ``-m``), ``cpus`` (where its threads may run; empty: anywhere), ``iobuf`` (``small_pool_count``,
    ``large_pool_count``), ``files``, ``hugepages`` (pages; 0: none), ``hugepages_missing`` (for all nodes of the
    platform that want some), ``lines`` (the sum, for a human) and ``errors`` (why this machine cannot; empty: it can).
    """
    own = _service(carries, options)
    together = _together(own, machine, platform)
    mine = together.cores()[own.node]
    rows = needs.memory_rows(carries, own.program, len(mine))
    memory = together.memory()[own.node]
    small, large = needs.pools(carries, len(mine))
    mask = own.cpumask or cores.cpumask(mine)
    allowed = _cpus(own, together)

    errors = [*_wrong_mask(own, machine), *_too_little_memory(memory, rows, machine)]
    pages, missing, too_few_pages = _hugepages(own, together, options, machine)
    # Each hugepage is a file that DPDK opens.
    files = int(options.get("files") or 0) or needs.files(carries) + pages
    errors += too_few_pages
    if platform is not None and not errors:
        errors += _too_little_together(together, machine)
    most = int(machine.get("files") or 0)
    if most and files > most:
        errors.append(
            f"too few open files: {files} are needed, the machine grants a process {most} (ulimit -Hn). Raise the "
            "limit or let it carry less"
        )

    computed = needs.memory_mib(rows)
    lines = [
        f"{row.what:<34}{_number(row.count):>9} x {_number(row.mib):>9} MiB = {row.count * row.mib:>9.1f} MiB"
        for row in rows
    ]
    lines += [
        f"{'memory':<34}{'':>27}{memory:>9} MiB{'' if memory == computed else f', given; computed {computed} MiB'}",
        f"cores {cores.cpus(mine) or 'none'} (-m {mask}, {'given' if own.cpumask else 'computed'}); threads on "
        f"{allowed or 'any core'}; open files {files}; buffers {small} small, {large} large",
    ]
    if pages:
        lines.append(f"hugepages {pages} of {machine.get('hugepage_kib')} KiB")
    if platform is not None:
        lines.append(f"this machine: {_terms(together, machine)}, of {machine.get('memory_mib')} MiB")
    return {
        "memory_mib": memory,
        "limit_mib": needs.limit_mib(memory),
        "cores": mine,
        "cpumask": mask,
        "cpus": allowed,
        "iobuf": {"small_pool_count": small, "large_pool_count": large},
        "files": files,
        "hugepages": pages,
        "hugepages_missing": missing,
        "lines": lines,
        "errors": errors,
    }


def _service(carries: dict[str, Any], options: dict[str, Any]) -> Service:
    emulated = options.get("engine") == "emulator"
    return Service(
        node=str(options.get("node") or "this node"),
        carries=carries,
        program="emulator" if emulated else str(options.get("program") or "spdk_tgt"),
        polls=not emulated and not options.get("interrupt_mode"),
        cpumask=str(options.get("cpumask") or ""),
        memory_mib=int(options.get("memory_mib") or 0),
        hugepages=not emulated and bool(options.get("hugepages")),
    )


def _together(own: Service, machine: dict[str, Any], platform: Platform | None) -> Platform:
    """The platform with this service as it is asked for, which may not be as the inventory has it."""
    platform = platform or Platform([])
    services = [
        replace(own, group=service.group) if service.node == own.node else service for service in platform.services
    ]
    if own.node not in [service.node for service in services]:
        services.append(own)
    online = cores.parse_cpus(str(machine["cpus"])) if machine.get("cpus") else []
    return replace(platform, services=services, online=online)


def _cpus(own: Service, together: Platform) -> str:
    """Where its threads may run. The emulator polls nothing and is one process, that the kernel may put anywhere."""
    if own.program == "emulator" or not together.online:
        return ""
    claims = [service.claim for service in together.services]
    allowed = cores.allowed(own.node, claims, together.cores(), together.online)
    return "" if allowed == together.online else cores.cpus(allowed)


def _wrong_mask(own: Service, machine: dict[str, Any]) -> list[str]:
    if not own.cpumask:
        return []
    try:
        wanted = cores.parse_cpumask(own.cpumask)
    except ValueError as error:
        return [f"spdk_cpumask: {error}"]
    online = cores.parse_cpus(str(machine["cpus"])) if machine.get("cpus") else wanted
    beyond = [core for core in wanted if core not in online]
    if not beyond:
        return []
    return [
        f"spdk_cpumask {own.cpumask} wants the cores {', '.join(map(str, beyond))}, which the machine does not have; "
        f"it has {machine['cpus']}. Choose a mask of these"
    ]


def _too_little_memory(memory: int, rows: list[needs.Row], machine: dict[str, Any]) -> list[str]:
    have = int(machine.get("memory_mib") or 0)
    if not have or memory <= have:
        return []
    terms = "; ".join(f"{row.what} {row.count * row.mib:.0f} MiB" for row in rows)
    return [
        f"not enough memory: {memory} MiB are needed for what it is asked to carry, the machine has {have} MiB. "
        f"The sum: {terms}. Use a bigger machine or let it carry less"
    ]


def _too_little_together(together: Platform, machine: dict[str, Any]) -> list[str]:
    have = int(machine.get("memory_mib") or 0)
    needed = sum(mib for _what, mib in _rows(together, machine))
    if not have or needed <= have:
        return []
    return [
        f"not enough memory for all that this machine is asked to carry: {needed} MiB are needed, it has {have} MiB. "
        f"The sum: {_terms(together, machine)}. Use a bigger machine or let its nodes carry less"
    ]


def _rows(together: Platform, machine: dict[str, Any]) -> list[tuple[str, int]]:
    """The platform's, and hugepages that none of it uses: others cannot use their memory either."""
    kib = int(machine.get("hugepage_kib") or 0)
    unused = int(machine.get("hugepages_total") or 0) - (sum(together.hugepages(kib).values()) if kib else 0)
    return together.rows() + ([("other hugepages", unused * kib // 1024)] if unused > 0 else [])


def _terms(together: Platform, machine: dict[str, Any]) -> str:
    rows = _rows(together, machine)
    return f"{' + '.join(f'{what} {mib}' for what, mib in rows)} = {sum(mib for _what, mib in rows)} MiB"


def _hugepages(
    own: Service, together: Platform, options: dict[str, Any], machine: dict[str, Any]
) -> tuple[int, int, list[str]]:
    """This node's pages, those missing for all nodes together, and why the machine cannot."""
    if not own.hugepages:
        return 0, 0, []
    kib = int(machine.get("hugepage_kib") or 0)
    free = int(machine.get("hugepages_free") or 0)
    pages = together.hugepages(kib) if kib else {own.node: 0}
    missing = max(0, sum(pages.values()) - free)
    if kib and (not missing or options.get("hugepages_reserve")):
        return pages[own.node], missing, []
    shares = ", ".join(f"{count} for {node}" for node, count in pages.items())
    memory = together.memory()[own.node]
    return (
        pages[own.node],
        missing,
        [
            f"spdk_hugepages: {memory} MiB are needed in hugepages of {kib} KiB, {shares}; {free} are free. Reserve "
            "more (spdk_hugepages_reserve: true does it, over reboots too), or set spdk_hugepages to false"
        ],
    )


def _number(value: float) -> str:
    return f"{value:g}" if value == int(value) else f"{value:.3f}"
