# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""fio jobs that name virtual disks, turned into jobs that name what the host has. Pure functions of plain data."""

from __future__ import annotations

from typing import Any


def jobs_of_host(jobs: Any, host: str, disks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The jobs for the disks of one host, as the module ``fio`` takes them; ``disk`` has become ``serial``.

    ``disks``: as ``report.report`` returns them. A job for a shared disk says ``host``, too. Raises ValueError for a
    job without a known disk, for one whose disk the host does not show, and for one whose host is not said or wrong.
    """
    if not isinstance(jobs, list):
        raise ValueError(f"fio_jobs: wanted a list of jobs, got {type(jobs).__name__}.")
    by_name: dict[str, list[dict[str, Any]]] = {}
    for disk in disks:
        by_name.setdefault(disk["name"], []).append(disk)
    found = []
    for index, job in enumerate(jobs):
        name = job.get("disk") if isinstance(job, dict) else None
        if not isinstance(name, str):
            raise ValueError(
                f"fio_jobs[{index}]: wanted a dictionary with disk, the name of a virtual disk, got {job!r}."
            )
        if name not in by_name:
            known = ", ".join(by_name) or "none"
            raise ValueError(f"fio_jobs[{index}]: no virtual disk is called {name!r}; virtual_disks has: {known}.")
        owners = {disk["host"]: disk for disk in by_name[name]}
        if "host" not in job and len(owners) > 1:
            raise ValueError(
                f"fio_jobs[{index}]: {name} is shared by {', '.join(owners)}: wanted host, one of them that runs it."
            )
        wanted = job.get("host", next(iter(owners)))
        if wanted not in owners:
            raise ValueError(f"fio_jobs[{index}]: {name} is a disk of {', '.join(owners)}, not of {wanted!r}.")
        if wanted != host:
            continue
        disk = owners[host]
        if not disk["visible"]:
            raise ValueError(
                f"fio_jobs[{index}]: {host} does not show the disk {name} (serial {disk['serial'] or 'none yet'}). "
                "Attach it with the playbook disks, and use fio where ipdk_host_access is ssh."
            )
        plain = {key: value for key, value in job.items() if key not in ("disk", "host")}
        found.append({"name": name, **plain, "serial": disk["serial"]})
    return found
