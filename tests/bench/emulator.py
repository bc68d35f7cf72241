"""Memory of the emulators that carry 64 disks."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .lab import NAME, Lab
from .report import Report


def measure(report: Report, lab: Lab) -> None:
    """With 64 disks attached: what is private to the process, less what its bdevs hold."""
    lab.disks("attached")
    found = {}
    for node in ("st1", "ipu1"):
        name = f"{NAME}-{node}-spdk"
        pid = int(subprocess.check_output(["docker", "inspect", "-f", "{{.State.Pid}}", name], text=True))
        pid = python_child(pid)
        resident = memory(pid)
        held = 0
        if node == "st1":
            # Only touched pages are resident: count what the malloc bdevs' mappings hold.
            held = malloc_resident(pid)
        own = resident["RssAnon"] + resident["RssFile"] + resident["RssShmem"] * (node == "st1") - held
        found[node] = round(own * 1024 / 1e6, 1)
    report.add(
        "emulator_rss_mb",
        max(found.values()),
        "MB",
        "resident memory of each emulator with 64 disks attached, less the pages of its malloc bdevs (storage target) "
        "and the guest's memory that it maps (IPU); the larger",
        nodes=found,
    )


def python_child(pid: int) -> int:
    """The engine itself where the container's first process is only an init."""
    if b"spdk_emulator" in Path(f"/proc/{pid}/cmdline").read_bytes():
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
        return python_child(int(children[0])) if children else pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    return int(children[0]) if children else pid


def malloc_resident(pid: int) -> int:
    """KiB that are resident in the process's anonymous mappings of a disk's size (16 MiB)."""
    total = size = 0
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        if line.startswith("Size:"):
            size = int(line.split()[1])
        elif line.startswith("Rss:") and size >= 16 << 10 and size % (16 << 10) == 0:
            total += int(line.split()[1])
    return total


def memory(pid: int) -> dict[str, int]:
    """KiB: RssAnon, RssShmem … of a process."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    pairs = (line.split(":", 1) for line in lines)
    return {key: int(value.split()[0]) for key, value in pairs if key.startswith("Rss")}
