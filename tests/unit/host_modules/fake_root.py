"""A made-up / for Sysfs: PCI devices, virtio disks, links, mounts, processes."""

from __future__ import annotations

import os
from pathlib import Path


class FakeRoot:
    def __init__(self, path: Path) -> None:
        self.path = path
        for directory in ("sys/block", "sys/dev/block", "dev/disk/by-id", "proc/self", "sys/bus/drivers/virtio_blk"):
            (path / directory).mkdir(parents=True)
        self._minor = 0
        self._mounts: list[str] = []

    def write(self, path: str, text: str) -> None:
        file = self.path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def add_disk(
        self,
        name: str,
        serial: str | None = None,
        pci: str = "0000:00:05.0",
        mib: int = 64,
        partitions: tuple[str, ...] = (),
        node: bool = True,
        link: bool = True,
    ) -> None:
        """``pci``: the path of PCI addresses below the root bus, such as ``0000:00:10.0/0000:01:05.0``."""
        device = self.path / "sys/devices/pci0000:00" / pci / f"virtio{self._minor}"
        block = device / "block" / name
        block.mkdir(parents=True)
        (self.path / "sys/block" / name).symlink_to(os.path.relpath(block, self.path / "sys/block"))
        (block / "device").symlink_to(os.path.relpath(device, block))
        (device / "driver").symlink_to(self.path / "sys/bus/drivers/virtio_blk")
        (block / "queue").mkdir()
        (block / "queue/logical_block_size").write_text("512\n")
        (block / "size").write_text(f"{mib * 2048}\n")
        if serial is not None:
            (block / "serial").write_text(serial)
        for member in (name, *partitions):
            directory = block if member == name else block / member
            (directory / "holders").mkdir(parents=True)
            self._number(directory, 253)
            if member != name:
                (directory / "partition").write_text("1\n")
            if node:
                (self.path / "dev" / member).touch()
        if serial is not None and link:
            (self.path / f"dev/disk/by-id/virtio-{serial}").symlink_to(f"../../{name}")

    def add_nvme(self, number: int, serial: str, pci: str, namespaces: int = 1, multipath: bool = False) -> None:
        """A controller with namespaces, of 64 MiB. ``multipath``: the kernel puts them behind a subsystem, as it does
        where the controller says that its subsystem may have others."""
        function = self.path / "sys/devices/pci0000:00" / pci
        controller = function / "nvme" / f"nvme{number}"
        controller.mkdir(parents=True)
        (controller / "serial").write_text(f"{serial:<20}\n")
        (self.path / "sys/class/nvme").mkdir(parents=True, exist_ok=True)
        (self.path / f"sys/class/nvme/nvme{number}").symlink_to(controller)
        drivers = self.path / "sys/bus/pci/drivers/nvme"
        drivers.mkdir(parents=True, exist_ok=True)
        (function / "driver").symlink_to(drivers)
        holder = controller
        if multipath:
            holder = self.path / f"sys/devices/virtual/nvme-subsystem/nvme-subsys{number}"
            holder.mkdir(parents=True)
            (holder / f"nvme{number}").symlink_to(controller)
            (holder / "serial").write_text(f"{serial:<20}\n")
        for nsid in range(1, namespaces + 1):
            name = f"nvme{number}n{nsid}"
            self._add_block(holder, name, device=holder)
            (self.path / "dev" / name).touch()
            if multipath:
                self._add_block(controller, f"nvme{number}c{number}n{nsid}", device=controller)
        (self.path / f"dev/disk/by-id/nvme-Ctrl_{serial}").symlink_to(f"../../nvme{number}n1")

    def _add_block(self, parent: Path, name: str, device: Path) -> None:
        block = parent / name
        (block / "queue").mkdir(parents=True)
        (block / "queue/logical_block_size").write_text("512\n")
        (block / "size").write_text(f"{64 * 2048}\n")
        self._number(block, 259)
        (block / "device").symlink_to(device)
        (self.path / "sys/block" / name).symlink_to(block)

    def _number(self, directory: Path, major: int) -> None:
        """Give a disk or partition the next device number."""
        number = f"{major}:{self._minor}"
        (directory / "dev").write_text(f"{number}\n")
        (self.path / "sys/dev/block" / number).symlink_to(directory)
        self._minor += 1

    def remove_disk(self, name: str) -> None:
        (self.path / "sys/block" / name).unlink()

    def number(self, name: str) -> str:
        (found,) = self.path.glob(f"sys/devices/pci0000:00/**/{name}/dev")
        return found.read_text().strip()

    def mount(self, name: str, where: str, source: str | None = None, number: str | None = None) -> None:
        where = where.replace(" ", "\\040")
        number = number or self.number(name)
        self._mounts.append(f"25 1 {number} / {where} rw,relatime shared:1 - ext4 {source or '/dev/root'} rw")
        self.write("proc/self/mountinfo", "\n".join(self._mounts) + "\n")

    def swap(self, path: str) -> None:
        self.write("proc/swaps", f"Filename\t\t\t\tType\t\tSize\n{path} partition 8388604 0 -2\n")

    def open(self, pid: int, comm: str, path: str) -> None:
        self.write(f"proc/{pid}/comm", f"{comm}\n")
        descriptors = self.path / f"proc/{pid}/fd"
        descriptors.mkdir(exist_ok=True)
        (descriptors / str(3 + len(list(descriptors.iterdir())))).symlink_to(path)
