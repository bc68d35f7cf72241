"""Mounts of a test's own on a machine whose hugepages it may count and change: they are the kernel's, for everybody."""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NUMBER = Path("/proc/sys/vm/nr_hugepages")
SETTINGS = Path("/etc/sysctl.d/60-ipdk-hugepages.conf")


def of_meminfo(name: str) -> int:
    """The number of a line of /proc/meminfo."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0


@contextmanager
def own_mounts(pages: int, *commands: str) -> Iterator[list[str]]:
    """The command that enters mounts of the test's own, where /etc/sysctl.d is empty and these commands have been run.

    Skips the test where so many more hugepages are not to be had. There are as many at the end as at the beginning.
    """
    if os.geteuid() != 0:
        pytest.skip("mounting and reserving hugepages need root")
    with open(Path(tempfile.gettempdir()) / "ipdk-hugepages.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other tests on this machine count its hugepages, too
        before = NUMBER.read_text()
        if of_meminfo("HugePages_Free"):
            pytest.skip("this machine has hugepages already, which others may take meanwhile")
        try:
            NUMBER.write_text(str(int(before) + pages))
            found = int(NUMBER.read_text())
            NUMBER.write_text(before)
            if found < int(before) + pages:
                pytest.skip(f"this kernel finds no {pages} hugepages")
            script = " && ".join([f"mount -t tmpfs tmpfs {SETTINGS.parent}", *commands, "echo ready", "cat"])
            with subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as first:
                assert first.stdout is not None and first.stdout.readline() == "ready\n"
                try:
                    yield ["nsenter", f"--target={first.pid}", "--mount"]
                finally:
                    first.kill()
        finally:
            NUMBER.write_text(before)
