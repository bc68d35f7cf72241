"""Linux's NVMe driver and QEMU's own NVMe controller against the NBD disk behind it, which is the emulator's own: SPDK
has NVMe devices by vfio-user, and its NBD disks are those of its machine's kernel."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from guests import Guest
from support.spdk import Spdk

MIB = 1 << 20


def plug(guest: Guest, path: Path) -> None:
    """As the device manager ipdk_qemu_nvme does."""
    server = {"type": "unix", "path": str(path)}
    node = {"node-name": "sma-0", "driver": "nbd", "server": server, "reconnect-delay": 86400, "discard": "unmap"}
    guest.qmp("blockdev-add", **node)
    guest.qmp("device_add", driver="nvme", id="sma-0", serial="st1n1", drive="sma-0", bus="pci.ipdk.0", addr="0x5")


def serve(spdk: Spdk, image: Path, path: Path) -> None:
    spdk.call("bdev_aio_create", name="st1n1", filename=str(image), block_size=512)
    spdk.call("nbd_start_disk", bdev_name="st1n1", nbd_device=str(path))


def test_a_disk_goes_on_after_kill_9(tmp_path: Path) -> None:
    image, path = tmp_path / "disk.img", tmp_path / "sma-0.nbd"
    with open(image, "wb") as file:
        os.truncate(file.fileno(), 64 * MIB)
    with Spdk(tmp_path) as spdk, Guest(tmp_path, vcpus=2) as guest:
        guest.load("nvme")
        serve(spdk, image, path)
        plug(guest, path)
        guest.sh("until [ -b /dev/nvme0n1 ]; do sleep 0.1; done")
        assert guest.sh("cat /sys/class/nvme/nvme0/serial").strip() == "st1n1"
        guest.sh(
            "dd if=/dev/urandom of=/tmp/data bs=1M count=64; sha256sum < /tmp/data > /tmp/sum;"
            " (dd if=/tmp/data of=/dev/nvme0n1 bs=64k oflag=direct; echo $? > /tmp/status) > /tmp/log 2>&1 &"
        )
        while not image.stat().st_blocks:
            time.sleep(0.01)
        spdk.kill()
        assert guest.sh("ls /tmp/status 2> /dev/null || true") == "", "it was done before its disk was gone"
        spdk.start()
        serve(spdk, image, path)
        guest.sh("until [ -s /tmp/status ]; do sleep 0.1; done; cat /tmp/log; exit $(cat /tmp/status)")
        written = guest.sh("dd if=/dev/nvme0n1 bs=1M iflag=direct 2>/dev/null | sha256sum; cat /tmp/sum").split()
        assert written[0] == written[2] == hashlib.sha256(image.read_bytes()).hexdigest()
