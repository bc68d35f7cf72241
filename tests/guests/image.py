"""Builds the guest's kernel and initramfs from Debian packages, without installing them and without root."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

CACHE = Path(__file__).resolve().parents[2] / "build" / "guests"
INIT = Path(__file__).with_name("init")
FIO = Path("/usr/bin/fio")
PACKAGES = ("busybox-static", "nvme-cli", "libnvme1", "libjson-c5")
"""Beside the kernel. fio and blkdiscard come from this machine, with their libraries."""
MODULES = (
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "virtio_net",
    "nvme",
    "nvme-tcp",
    "nvmet",
    "nvmet-tcp",
    "loop",
    "null_blk",
    "brd",
)
"""What can be loaded in the guest, with what these depend on."""


class Image(NamedTuple):
    kernel: Path
    initramfs: Path


def build() -> Image:
    """The image, made if it is not in the cache. Several processes may ask at once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not FIO.exists():
            raise RuntimeError(f"{FIO}, which the guest gets, is not there: run make setup-test")
        debs = _download()
        key = hashlib.sha256()
        for source in (INIT, Path(__file__)):
            key.update(source.read_bytes())
        key.update("\n".join(sorted(deb.name for deb in debs)).encode())
        key.update(str(FIO.stat().st_mtime_ns).encode())
        initramfs = CACHE / f"initramfs-{key.hexdigest()[:16]}.cpio"
        root = CACHE / "root"
        if not initramfs.exists() or not root.exists():
            for old in CACHE.glob("initramfs-*"):
                old.unlink()
            shutil.rmtree(root, ignore_errors=True)
            for deb in debs:
                subprocess.run(["dpkg-deb", "-x", deb, root], check=True)
            partial = initramfs.with_suffix(".partial")
            _write_initramfs(partial, root)
            partial.rename(initramfs)
        return Image(next((root / "boot").glob("vmlinuz-*")), initramfs)


def _download() -> list[Path]:
    """The packages' files; apt is only asked for what is not there."""
    folder = CACHE / "packages"
    folder.mkdir(exist_ok=True)
    have = {deb.name.split("_")[0]: deb for deb in folder.glob("*.deb")}
    missing = [name for name in PACKAGES if name not in have]
    if not any(name.startswith("linux-image-") for name in have):
        missing.append(_kernel_package())
    if missing:
        subprocess.run(["apt-get", "download", *missing], cwd=folder, check=True, capture_output=True)
    return sorted(folder.glob("*.deb"))


def _kernel_package() -> str:
    """The package behind ``linux-image-cloud-amd64``."""
    answer = subprocess.run(
        ["apt-cache", "depends", "--important", "linux-image-cloud-amd64"], check=True, capture_output=True, text=True
    ).stdout
    found = re.search(r"Depends: (linux-image-\S+)", answer)
    if found is None:
        raise RuntimeError("apt knows no package linux-image-cloud-amd64: the guest's kernel; run apt-get update")
    return found[1]


def _write_initramfs(path: Path, root: Path) -> None:
    with open(path, "wb") as file:
        archive = _Cpio(file)
        for folder in ("bin", "dev", "etc", "lib", "lib64", "modules", "proc", "run", "sys", "tmp"):
            archive.directory(folder)
        archive.device("dev/console", 5, 1)
        archive.file("init", INIT.read_bytes(), 0o755)
        archive.file("bin/busybox", (root / "bin/busybox").read_bytes(), 0o755)
        archive.link("bin/sh", "busybox")
        programs = {
            "fio": FIO,
            "blkdiscard": Path("/usr/sbin/blkdiscard"),
            "nvme": root / "usr/sbin/nvme",
        }
        library_folders = [root / "usr/lib/x86_64-linux-gnu", root / "lib/x86_64-linux-gnu"]
        for name, program in programs.items():
            archive.file(f"bin/{name}", program.read_bytes(), 0o755)
        for library in sorted(_libraries(programs.values(), library_folders)):
            name = "lib64/" + library.name if library.name.startswith("ld-linux") else "lib/" + library.name
            archive.file(name, library.read_bytes(), 0o755)
        for name, module in _modules(root).items():
            archive.file(f"modules/{name}.ko", module.read_bytes(), 0o644)
        for name in MODULES:
            order = "".join(f"{dependency}\n" for dependency in _load_order(name, _modules(root)))
            archive.file(f"modules/{name}.order", order.encode(), 0o644)
        archive.end()


def _libraries(programs: Iterable[Path], folders: list[Path]) -> set[Path]:
    """All shared libraries that the programs need, named by the names they are asked for."""
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(str(folder) for folder in folders)}
    found = set()
    for program in programs:
        answer = subprocess.run(["ldd", program], check=True, capture_output=True, text=True, env=environment).stdout
        if "not found" in answer:
            raise RuntimeError(f"{program} lacks libraries:\n{answer}")
        found |= {Path(name) for name in re.findall(r"(/\S+) \(0x", answer)}
    return found


def _modules(root: Path) -> dict[str, Path]:
    """The kernel modules that :data:`MODULES` come to."""
    everything = {_plain(module.stem): module for module in root.glob("lib/modules/*/kernel/**/*.ko")}
    wanted: dict[str, Path] = {}
    waiting = [_plain(name) for name in MODULES]
    while waiting:
        name = waiting.pop()
        if name in everything and name not in wanted:
            wanted[name] = everything[name]
            waiting += _depends(everything[name])
    return wanted


def _load_order(name: str, modules: dict[str, Path]) -> list[str]:
    """A module behind all that it depends on; what is built into the kernel is in no list."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name in modules and name not in order:
            for dependency in _depends(modules[name]):
                visit(dependency)
            order.append(name)

    visit(_plain(name))
    return order


def _depends(module: Path) -> list[str]:
    found = re.search(rb"\0depends=([^\0]*)\0", module.read_bytes())
    return [_plain(name) for name in found[1].decode().split(",") if name] if found else []


def _plain(name: str) -> str:
    return name.replace("-", "_")


class _Cpio:
    """Writes a "newc" archive, the format of an initramfs (kernel documentation, early-userspace/buffer-format)."""

    def __init__(self, file) -> None:
        self._file = file
        self._inode = 0

    def directory(self, name: str) -> None:
        self._entry(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name: str, data: bytes, mode: int) -> None:
        self._entry(name, stat.S_IFREG | mode, data)

    def link(self, name: str, to: str) -> None:
        self._entry(name, stat.S_IFLNK | 0o777, to.encode())

    def device(self, name: str, major: int, minor: int) -> None:
        self._entry(name, stat.S_IFCHR | 0o600, b"", major, minor)

    def end(self) -> None:
        self._entry("TRAILER!!!", 0, b"")

    def _entry(self, name: str, mode: int, data: bytes, major: int = 0, minor: int = 0) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        numbers = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(encoded), 0)
        header = b"070701" + b"".join(b"%08X" % number for number in numbers) + encoded
        self._file.write(_padded(header) + _padded(data))


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
