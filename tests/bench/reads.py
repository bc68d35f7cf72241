"""Random reads of the guest: through the whole chain against a disk of qemu-storage-daemon."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .lab import RUN_DIR, Lab, Monitor
from .report import Pairs, Report

ROUNDS = 5


def measure(report: Report, lab: Lab) -> None:
    """Both disks are 16 MiB in memory; the reads alternate, so that a slow minute hits both."""
    lab.disks("attached", but_last="detached")  # its slot is for the other disk
    rows = json.loads(lab.guest("lsblk --nodeps --json --output NAME,SERIAL"))["blockdevices"]
    virtual = next(row["name"] for row in rows if row["serial"] == "st1n1")
    with storage_daemon(lab) as other:
        ours, theirs = [], []
        for _unused in range(ROUNDS):
            ours.append(random_reads(lab, virtual))
            theirs.append(random_reads(lab, other))
    pairs = Pairs(ours, theirs)
    report.add(
        "guest_randread_ratio",
        pairs.ratio,
        "ratio",
        "fio in the guest, 4k random reads at queue depth 16: IOPS of a virtual disk (vhost-user, NVMe/TCP, malloc on "
        "the storage target) against a disk of qemu-storage-daemon (raw file in memory); paired rounds, median",
        rounds=pairs.ratios,
        iops={"virtual_disk": ours, "storage_daemon": theirs},
    )


def random_reads(lab: Lab, disk: str) -> float:
    text = lab.guest(
        f"fio --name=read --filename=/dev/{disk} --rw=randread --bs=4k --iodepth=16 --ioengine=libaio "
        "--direct=1 --time_based --runtime=5 --output-format=json"
    )
    return json.loads(text[text.index("{") :])["jobs"][0]["read"]["iops"]


@contextmanager
def storage_daemon(lab: Lab) -> Iterator[str]:
    """The name in the guest of a disk that qemu-storage-daemon serves, in a slot that no virtual disk uses."""
    vhost = RUN_DIR / "ipu1" / "vhost"
    owner = vhost.stat()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        image = Path(directory) / "image"
        image.write_bytes(os.urandom(16 << 20))
        path = vhost / "daemon.sock"
        daemon = subprocess.Popen(
            [
                "qemu-storage-daemon",
                "--blockdev", f"driver=file,node-name=disk,filename={image}",
                "--export",
                f"type=vhost-user-blk,id=disk,node-name=disk,addr.type=unix,addr.path={path},writable=on,num-queues=2",
            ]
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 20
            while not path.exists():
                assert time.monotonic() < deadline, "qemu-storage-daemon made no socket within 20 s"
                time.sleep(0.05)
            os.chown(path, owner.st_uid, owner.st_gid)
            with Monitor(RUN_DIR / "host1" / "qmp.sock") as qemu:
                address = {"type": "unix", "data": {"path": str(path)}}
                before = set(lab.guest("ls /sys/block").split())
                name = f"daemon{os.getpid()}"
                qemu("chardev-add", id=name, backend={"type": "socket", "data": {"addr": address, "server": False}})
                qemu("device_add", driver="vhost-user-blk-pci", chardev=name, id=name, bus="pci.ipdk.1", addr="0x1f")
                yield wait_for_disks(lab, lambda there: there - before)
                qemu("device_del", id=name)
                wait_for_disks(lab, lambda there: there == before)
                qemu("chardev-remove", id=name)
        finally:
            daemon.terminate()
            daemon.wait(20)
            path.unlink(missing_ok=True)


def wait_for_disks(lab: Lab, wanted: Callable[[set[str]], Any]) -> Any:
    """What ``wanted`` says of the guest's disks, as soon as it says something; the disk itself where that is a set."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = wanted(set(lab.guest("ls /sys/block").split()))
        if found:
            return found.pop() if isinstance(found, set) else found
        time.sleep(0.2)
    raise SystemExit("the guest does not see the disk of qemu-storage-daemon come, or go, within 30 s")
