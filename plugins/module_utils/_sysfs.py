# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Block disks as the kernel shows them: sysfs, procfs and /dev, read and never written.

``root`` is the directory that stands for ``/``; tests give a made-up one. Neither here nor in what this imports are
modules that are slow to import (json, re, enum, typing): an emulated guest needs 0.2 s for those.
"""

from __future__ import annotations

import os
import time
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils import _pci
from ansible_collections.ipdk.storage.plugins.module_utils._patient import PatientReader

VIRTUAL = ("loop", "ram", "zram", "dm-", "md", "nbd", "fd", "sr")
"""Block devices that are no disks of their own."""
UDEV = ("systemd-udevd", "(udev-worker)", "udevd")
"""They open every new disk for a moment; that is no use of it."""
DIGITS = "0123456789"
ESCAPED = {r"\040": " ", r"\011": "\t", r"\012": "\n", r"\043": "#", r"\134": "\\"}
"""What procfs writes as octal numbers in a path; the backslash last, which begins the others."""

POLL_SECONDS = 0.05


class _Uses:
    """Who uses which disk or partition: its links under by-id, its mount points, whether it is swap, its openers."""

    def __init__(self, sysfs: Sysfs) -> None:
        self.links = sysfs._links()
        self.mounts = sysfs._mounts()
        self.swaps = sysfs._swaps()
        self.opened = sysfs._open()


class Sysfs:
    def __init__(self, root: str = "/") -> None:
        self.root = root.rstrip("/")
        self._patient = PatientReader()
        self._known: dict[tuple[str, int], str] = {}
        """The serials read, by name and inode of the disk."""

    def path(self, *parts: str) -> str:
        return "/".join((self.root, *parts))

    def read(self, *parts: str) -> str | None:
        """A file's text without surrounding white space and NULs; null if it is not there or says nothing."""
        try:
            # Without a buffer and a codec of its own: a look at 64 disks reads some hundred files.
            with open(self.path(*parts), "rb", buffering=0) as file:
                return _text(file.read())
        except OSError:
            return None

    def _followed(self, *parts: str) -> str:
        """Where a link of sysfs leads whose directory is no link: one step, many times cheaper than realpath."""
        path = self.path(*parts)
        try:
            return os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
        except OSError:
            return path

    def list(self, *parts: str) -> list[str]:
        try:
            return sorted(os.listdir(self.path(*parts)))
        except OSError:
            return []

    def disk_names(self) -> list[str]:
        """Names of the disks, in the order in which they are named: vdb before vdaa."""
        return [name for name, _inode in self._disks()]

    def _disks(self) -> list[tuple[str, int]]:
        """The disks' names in that order, each with its inode: the kernel gives a name to the next disk, too."""
        try:
            with os.scandir(self.path("sys/block")) as entries:
                disks = [(entry.name, entry.inode()) for entry in entries]
        except OSError:
            return []
        disks = [disk for disk in disks if not disk[0].startswith(VIRTUAL) and not _is_path(disk[0])]
        return sorted(disks, key=lambda disk: (len(disk[0]), disk[0]))

    def serials(self) -> dict[str, str]:
        """Serial → name of the disks that have one."""
        return {serial: name for name, serial in self._named().items() if serial}

    def _named(self) -> dict[str, str | None]:
        """Name → serial of all disks. Who has answered is not asked again."""
        before, self._known = self._known, {}
        disks = self._disks()
        told = self._patient.read([self._virtio(name) for name, inode in disks if (name, inode) not in before])
        named = {}
        for disk in disks:
            name = disk[0]
            serial = named[name] = before.get(disk) or self._serial(name, told)
            if serial and self._virtio(name) not in self._patient.silent:
                self._known[disk] = serial
        return named

    def _virtio(self, name: str) -> str:
        """The file whose reading asks a virtio-blk device for its serial."""
        return self.path("sys/block", name, "serial")

    def _serial(self, name: str, told: dict[str, bytes | None]) -> str | None:
        """virtio-blk shows it at the disk, NVMe at the controller, SCSI in a page of vital product data.

        ``told``: what the devices of virtio-blk have answered, by file; null of one that does not answer.
        """
        answer = told.get(self._virtio(name), b"")
        serial = self._remembered(name) if answer is None else _text(answer)
        return serial or self.read("sys/block", name, "device/serial") or self._vpd_serial(name)

    def _remembered(self, name: str) -> str | None:
        """The serial of a virtio-blk disk, by the link that udev has made when it came."""
        links = (os.path.basename(link) for link in self._links().get(name, []))
        return next((link[len("virtio-") :] for link in links if link.startswith("virtio-")), None)

    def _vpd_serial(self, name: str) -> str | None:
        """Unit Serial Number page (SPC-4, section 7.8.15): four bytes of header, then ASCII."""
        try:
            with open(self.path("sys/block", name, "device/vpd_pg80"), "rb") as file:
                return file.read()[4:].decode("ascii", "replace").strip(" \0") or None
        except OSError:
            return None

    def usable(self, names: list[str]) -> set[str]:
        """Those that can be opened by their names: the node is there and, where udev runs, a link under by-id."""
        nodes = {name for name in names if os.path.exists(self.path("dev", name))}
        return nodes & self._links().keys() if os.path.exists(self.path("run/udev/control")) else nodes

    def size_bytes(self, name: str) -> int:
        """sysfs counts 512 byte sectors, whatever the disk's block size is."""
        return int(self.read("sys/block", name, "size") or 0) * 512

    def wait(
        self, present: list[str], absent: list[str], sizes: dict[str, int], timeout: float
    ) -> tuple[list[str], list[str], dict[str, int]]:
        """Wait until the disks of these serials are usable, gone, or at least as big.

        Gives up when for ``timeout`` seconds no further one was. A disk is seen first and usable later, and each one
        takes its time: udev needs a minute for 128 disks where a slow guest shares two cores with SPDKs that poll.

        Returns the serials that are still missing, those that are still there, and those that are too small with the
        bytes that they have.
        """
        if not (present or absent or sizes):
            return [], [], {}
        best: tuple[bool, int] | None = None
        deadline = 0.0
        while True:
            serials = self.serials()
            missing = [serial for serial in present if serial not in serials]
            still_there = [serial for serial in absent if serial in serials]
            unseen = bool(missing)
            if present and not unseen:
                usable = self.usable([serials[serial] for serial in present])
                missing = [serial for serial in present if serials[serial] not in usable]
            has = {serial: self.size_bytes(serials[serial]) if serial in serials else 0 for serial in sizes}
            too_small = {serial: size for serial, size in has.items() if size < sizes[serial]}
            left = (unseen, len(missing) + len(still_there) + len(too_small))
            if best is None or left < best:
                best, deadline = left, time.monotonic() + timeout
            if not left[1] or time.monotonic() >= deadline:
                return missing, still_there, too_small
            time.sleep(POLL_SECONDS)

    def disks(self, bridges: list[str]) -> list[dict[str, Any]]:
        """All disks with what is known of them and who uses them. ``bridges``: see :mod:`_pci`."""
        uses = _Uses(self)
        return [self._disk(name, serial, bridges, uses) for name, serial in self._named().items()]

    def nvme_controllers(self, bridges: list[str]) -> list[dict[str, Any]]:
        """The host's NVMe controllers on PCI, those without a namespace among them. ``bridges``: see :mod:`_pci`."""
        found = []
        for name in sorted(self.list("sys/class/nvme"), key=lambda name: [len(name), name]):
            device = self._followed("sys/class/nvme", name)
            addresses = _pci.addresses(device)
            place = _pci.place_of_path(device)
            if addresses:
                found.append(
                    {
                        "name": name,
                        "serial": self.read("sys/class/nvme", name, "serial"),
                        "pci_address": addresses[-1],
                        "handle": _pci.handle_of_place(place, bridges, "nvme") if place else None,
                    }
                )
        return found

    def _disk(self, name: str, serial: str | None, bridges: list[str], uses: _Uses) -> dict[str, Any]:
        device = self._followed("sys/block", name)
        partitions = [
            entry
            for entry in self.list("sys/block", name)
            if entry.startswith(name) and self.read("sys/block", name, entry, "partition")
        ]
        members = [name, *partitions]
        if not _pci.addresses(device):
            device = self._nvme_controller(name) or device
        addresses = _pci.addresses(device)
        place = _pci.place_of_path(device)
        protocol = "nvme" if name.startswith("nvme") else "virtio_blk"
        by_id = uses.links.get(name, [])
        return {
            "name": name,
            "path": f"/dev/{name}",
            "serial": serial,
            "size_bytes": self.size_bytes(name),
            "block_size": int(self.read("sys/block", name, "queue/logical_block_size") or 512),
            "pci_address": addresses[-1] if addresses else None,
            "handle": _pci.handle_of_place(place, bridges, protocol) if place else None,
            "driver": self._driver(self.path("sys/block", name, "device"), _pci.device_of_path(device)),
            "by_id": next((link for link in by_id if serial and link.endswith(serial)), by_id[0] if by_id else None),
            "wwid": self.read("sys/block", name, "wwid") or self.read("sys/block", name, "device/wwid"),
            "partitions": partitions,
            "mounts": [mount for member in members for mount in uses.mounts.get(member, [])],
            "swaps": [f"/dev/{member}" for member in members if member in uses.swaps],
            "holders": [
                holder
                for where in (["holders"], *([partition, "holders"] for partition in partitions))
                for holder in self.list("sys/block", name, *where)
            ],
            "open": None if uses.opened is None else any(member in uses.opened for member in members),
            "open_by": sorted({who for member in members for who in (uses.opened or {}).get(member, [])}),
        }

    @staticmethod
    def _driver(*devices: str) -> str | None:
        """The driver of the first of these devices that has one."""
        for device in devices:
            try:
                return os.path.basename(os.readlink(f"{device}/driver"))
            except OSError:
                pass
        return None

    def _nvme_controller(self, name: str) -> str | None:
        """The path of the controller of an NVMe namespace that the kernel has put behind the subsystem; the first one
        of several."""
        for entry in self.list("sys/block", name, "device"):
            if _is_controller(entry):
                return os.path.realpath(self.path("sys/block", name, "device", entry))
        return None

    def _links(self) -> dict[str, list[str]]:
        """Disk or partition → its links under /dev/disk/by-id."""
        links: dict[str, list[str]] = {}
        for link in self.list("dev/disk/by-id"):
            try:
                name = os.path.basename(os.readlink(self.path("dev/disk/by-id", link)))
            except OSError:
                continue
            links.setdefault(name, []).append(f"/dev/disk/by-id/{link}")
        return links

    def _mounts(self) -> dict[str, list[str]]:
        """Disk or partition → mount points. By device number, since the source may be any alias (/dev/root, a link)."""
        mounts: dict[str, list[str]] = {}
        for line in self._lines("proc/self/mountinfo"):
            fields = line.split(" ")
            if len(fields) < 6:
                continue
            try:
                device = os.readlink(self.path("sys/dev/block", fields[2]))
            except OSError:
                # A file system such as btrfs has a number of its own; its source names the disk.
                source = fields[fields.index("-") + 2] if "-" in fields[:-2] else ""
                if not source.startswith("/dev/"):
                    continue
                device = os.path.realpath(self.path(source.lstrip("/")))
            mounts.setdefault(os.path.basename(device), []).append(_unescaped(fields[4]))
        return mounts

    def _swaps(self) -> set[str]:
        paths = [line.split()[0] for line in self._lines("proc/swaps")[1:] if line.split()]
        return {os.path.basename(os.path.realpath(self.path(_unescaped(path).lstrip("/")))) for path in paths}

    def _lines(self, *parts: str) -> list[str]:
        return (self.read(*parts) or "").splitlines()

    def _open(self) -> dict[str, list[str]] | None:
        """Disk or partition → the processes that have it open, as ``name (pid)``; null if not all may be looked at."""
        if os.geteuid() != 0:
            return None
        opened: dict[str, list[str]] = {}
        for pid in self.list("proc"):
            if not pid.isdigit():
                continue
            for descriptor in self.list("proc", pid, "fd"):
                try:
                    target = os.readlink(self.path("proc", pid, "fd", descriptor))
                except OSError:
                    continue
                directory, name = os.path.split(target)
                if directory == "/dev":
                    who = self.read("proc", pid, "comm") or "?"
                    if who not in UDEV:
                        opened.setdefault(name, []).append(f"{who} ({pid})")
        return opened


def _text(data: bytes) -> str | None:
    """Without surrounding white space and NULs; null if nothing is left."""
    return data.decode("utf-8", "replace").strip(" \t\r\n\0") or None


def _unescaped(path: str) -> str:
    for octal, character in ESCAPED.items():
        path = path.replace(octal, character)
    return path


def _is_controller(name: str) -> bool:
    """``nvme<m>``"""
    return name.rstrip(DIGITS) == "nvme" != name


def _is_path(name: str) -> bool:
    """``nvme<m>c<l>n<k>``, one of several paths to a namespace: hidden behind the disk ``nvme<m>n<k>``, no disk."""
    return name.startswith("nvme") and "c" in name
