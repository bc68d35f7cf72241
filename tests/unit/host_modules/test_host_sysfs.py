"""Disks of a host, found in a made-up sysfs."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.module_utils import _pci, _sysfs
from fake_root import FakeRoot

BRIDGES = _pci.default_bridges()


@pytest.fixture
def root(tmp_path: Path) -> FakeRoot:
    return FakeRoot(tmp_path)


@pytest.fixture
def sysfs(root: FakeRoot) -> _sysfs.Sysfs:
    return _sysfs.Sysfs(str(root.path))


def only(sysfs: _sysfs.Sysfs) -> dict[str, Any]:
    (disk,) = sysfs.disks(BRIDGES)
    return disk


def test_all_that_is_known_of_a_disk(root: FakeRoot, sysfs: _sysfs.Sysfs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sysfs.os, "geteuid", lambda: 0)
    root.add_disk("vdb", "st1n1", "0000:00:11.0/0000:02:05.0")
    assert only(sysfs) == {
        "name": "vdb",
        "path": "/dev/vdb",
        "serial": "st1n1",
        "size_bytes": 64 << 20,
        "block_size": 512,
        "pci_address": "0000:02:05.0",
        "handle": "virtio_blk:sma-37",
        "driver": "virtio_blk",
        "by_id": "/dev/disk/by-id/virtio-st1n1",
        "wwid": None,
        "partitions": [],
        "mounts": [],
        "swaps": [],
        "holders": [],
        "open": False,
        "open_by": [],
    }


@pytest.mark.parametrize("multipath", [False, True])
def test_nvme_namespaces(root: FakeRoot, sysfs: _sysfs.Sysfs, multipath: bool) -> None:
    """QEMU's own controller shows its namespace directly, one of SPDK's subsystems behind that subsystem."""
    root.add_nvme(3, "st1n1", "0000:00:10.0/0000:01:05.0", multipath=multipath)
    disk = only(sysfs)
    assert [disk[key] for key in ("name", "serial", "pci_address", "handle", "driver", "by_id", "size_bytes")] == [
        "nvme3n1",
        "st1n1",
        "0000:01:05.0",
        "nvme:sma-5",
        "nvme",
        "/dev/disk/by-id/nvme-Ctrl_st1n1",
        64 << 20,
    ]


def test_nvme_controllers_without_a_namespace_too(root: FakeRoot, sysfs: _sysfs.Sysfs) -> None:
    root.add_nvme(0, "st1n1", "0000:00:10.0/0000:01:05.0", namespaces=0)
    root.add_nvme(10, "own", "0000:00:04.0", multipath=True)
    assert sysfs.nvme_controllers(BRIDGES) == [
        {"name": "nvme0", "serial": "st1n1", "pci_address": "0000:01:05.0", "handle": "nvme:sma-5"},
        {"name": "nvme10", "serial": "own", "pci_address": "0000:00:04.0", "handle": None},
    ]


def test_namespaces_of_one_controller_have_its_serial(root: FakeRoot, sysfs: _sysfs.Sysfs) -> None:
    root.add_nvme(0, "sma-40", "0000:00:11.0/0000:02:08.0", namespaces=3, multipath=True)
    root.add_disk("vda", "root")
    disks = sysfs.disks(BRIDGES)
    assert [(disk["name"], disk["serial"], disk["handle"]) for disk in disks] == [
        ("vda", "root", None),
        *((f"nvme0n{nsid}", "sma-40", "nvme:sma-40") for nsid in (1, 2, 3)),
    ]


def test_a_root_disk_is_behind_no_bridge(root: FakeRoot, sysfs: _sysfs.Sysfs) -> None:
    root.add_disk("vda", None, "0000:00:03.0")
    disk = only(sysfs)
    assert (disk["serial"], disk["handle"], disk["pci_address"], disk["by_id"]) == (None, None, "0000:00:03.0", None)


def test_disks_are_in_the_kernels_order_and_virtual_ones_are_left_out(root: FakeRoot, sysfs: _sysfs.Sysfs) -> None:
    for number, name in enumerate(("vdaa", "vda", "vdz", "loop0", "dm-0", "zram0", "sr0", "md127")):
        root.add_disk(name, pci=f"0000:00:0{number}.0")
    assert sysfs.disk_names() == ["vda", "vdz", "vdaa"]


def test_a_path_to_a_namespace_is_no_disk(root: FakeRoot, sysfs: _sysfs.Sysfs) -> None:
    for number, name in enumerate(("nvme0n1", "nvme0c0n1", "nvme10c11n2", "nvme10n2")):
        root.add_disk(name, pci=f"0000:00:0{number}.0")
    assert sysfs.disk_names() == ["nvme0n1", "nvme10n2"]


def test_64_disks_have_the_handles_of_their_slots(root: FakeRoot, sysfs: _sysfs.Sysfs) -> None:
    for number in range(64):
        bus, slot = divmod(number, 32)
        root.add_disk(f"v{number:02}", f"st1n{number}", f"{BRIDGES[bus]}/0000:{bus + 1:02x}:{slot:02x}.0")
    handles = {disk["serial"]: disk["handle"] for disk in sysfs.disks(BRIDGES)}
    assert handles == {f"st1n{number}": f"virtio_blk:sma-{number}" for number in range(64)}


@pytest.mark.parametrize("where", ["device/serial", "serial"])
def test_serials_of_nvme_and_virtio(root: FakeRoot, sysfs: _sysfs.Sysfs, where: str) -> None:
    root.add_disk("nvme0n1", link=False)
    root.write(f"sys/block/nvme0n1/{where}", "  SN 1  \n")
    root.write("sys/block/nvme0n1/wwid", "uuid.1\n")
    assert (only(sysfs)["serial"], only(sysfs)["wwid"]) == ("SN 1", "uuid.1")


def test_serial_of_scsi(root: FakeRoot, sysfs: _sysfs.Sysfs) -> None:
    root.add_disk("sda", link=False)
    (root.path / "sys/block/sda/device/vpd_pg80").write_bytes(b"\0\x80\0\x06ABC  1")
    assert only(sysfs)["serial"] == "ABC  1"


# Uses


def test_mounts_are_found_by_device_number(root: FakeRoot, sysfs: _sysfs.Sysfs) -> None:
    root.add_disk("vdb", "s", partitions=("vdb1",))
    root.mount("vdb1", "/srv/my data")
    root.mount("vdb", "/mnt")
    assert only(sysfs)["mounts"] == ["/mnt", "/srv/my data"]
    assert only(sysfs)["partitions"] == ["vdb1"]


@pytest.mark.parametrize(
    ("shown", "path"),
    [(r"/a\040b", "/a b"), (r"/\011\012\043", "/\t\n#"), (r"/\134040", r"/\040"), ("/\u00e9", "/\u00e9")],
)
def test_what_procfs_escapes_of_a_path(root: FakeRoot, sysfs: _sysfs.Sysfs, shown: str, path: str) -> None:
    root.add_disk("vdb", "s")
    root.mount("vdb", shown)
    assert only(sysfs)["mounts"] == [path]


def test_mounts_with_a_number_of_their_own_are_found_by_source(root: FakeRoot, sysfs: _sysfs.Sysfs) -> None:
    root.add_disk("vdb", "s")
    root.mount("vdb", "/pool", source="/dev/disk/by-id/virtio-s", number="0:41")
    root.mount("vdb", "/tmp", source="tmpfs", number="0:42")
    assert only(sysfs)["mounts"] == ["/pool"]


def test_swaps_and_holders_of_partitions_count(root: FakeRoot, sysfs: _sysfs.Sysfs) -> None:
    root.add_disk("vdb", "s", partitions=("vdb1", "vdb2"))
    root.swap("/dev/vdb2")
    (root.path / "sys/block/vdb/vdb1/holders/dm-0").touch()
    (root.path / "sys/block/vdb/holders/md0").touch()
    assert only(sysfs)["swaps"] == ["/dev/vdb2"]
    assert only(sysfs)["holders"] == ["md0", "dm-0"]


def test_who_has_it_open(root: FakeRoot, sysfs: _sysfs.Sysfs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sysfs.os, "geteuid", lambda: 0)
    root.add_disk("vdb", "s", partitions=("vdb1",))
    root.open(7, "(udev-worker)", "/dev/vdb")
    assert (only(sysfs)["open"], only(sysfs)["open_by"]) == (False, []), "udev looks at every new disk"
    root.open(11, "fio", "/dev/vdb1")
    root.open(12, "cat", "/dev/vdb1 (deleted)")
    root.open(13, "sh", "/dev/null")
    assert (only(sysfs)["open"], only(sysfs)["open_by"]) == (True, ["fio (11)"])


def test_who_may_not_look_at_all_processes_does_not_know(
    root: FakeRoot, sysfs: _sysfs.Sysfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sysfs.os, "geteuid", lambda: 1000)
    root.add_disk("vdb", "s")
    assert (only(sysfs)["open"], only(sysfs)["open_by"]) == (None, [])


# Waiting


def test_waiting_ends_at_once_when_all_is_right(root: FakeRoot, sysfs: _sysfs.Sysfs) -> None:
    root.add_disk("vdb", "s1")
    started = time.monotonic()
    assert sysfs.wait(["s1"], ["s2"], {"s1": 1}, 30) == ([], [], {})
    assert time.monotonic() - started < 5


def test_waiting_names_what_is_missing_and_what_stays(root: FakeRoot, sysfs: _sysfs.Sysfs) -> None:
    root.add_disk("vdb", "s1")
    assert sysfs.wait(["s1", "s2", "s3"], ["s1"], {}, 0.1) == (["s2", "s3"], ["s1"], {})


def test_disks_that_come_and_go_while_waiting(root: FakeRoot, sysfs: _sysfs.Sysfs) -> None:
    root.add_disk("vdb", "old")

    def host() -> None:
        root.add_disk("vdc", "new")
        root.remove_disk("vdb")

    timer = threading.Timer(0.15, host)
    timer.start()
    assert sysfs.wait(["new"], ["old"], {}, 20) == ([], [], {})
    timer.join()


def test_a_disk_is_there_when_its_node_and_udevs_link_are(root: FakeRoot, sysfs: _sysfs.Sysfs) -> None:
    root.add_disk("vdb", "s1", node=False, link=False)
    assert sysfs.wait(["s1"], [], {}, 0) == (["s1"], [], {})
    (root.path / "dev/vdb").touch()
    assert sysfs.wait(["s1"], [], {}, 0) == ([], [], {}), "no udev, no link"
    root.write("run/udev/control", "")
    assert sysfs.wait(["s1"], [], {}, 0) == (["s1"], [], {})
    (root.path / "dev/disk/by-id/virtio-s1").symlink_to("../../vdb")
    assert sysfs.wait(["s1"], [], {}, 0) == ([], [], {})


def test_disks_that_grow_while_waiting(root: FakeRoot, sysfs: _sysfs.Sysfs) -> None:
    root.add_disk("vdb", "s1", mib=64)
    wanted = {"s1": 96 << 20}
    assert sysfs.wait([], [], {**wanted, "s2": 1}, 0.1) == ([], [], {"s1": 64 << 20, "s2": 0})
    timer = threading.Timer(0.15, root.write, ("sys/block/vdb/size", str(96 * 2048)))
    timer.start()
    assert sysfs.wait([], [], wanted, 20) == ([], [], {})
    timer.join()


# Places


@pytest.mark.parametrize(
    ("number", "place"), [(0, ("0000:00:10.0", 0)), (31, ("0000:00:10.0", 31)), (32, ("0000:00:11.0", 0))]
)
def test_handles_and_places(number: int, place: tuple[str, int]) -> None:
    handle = f"virtio_blk:sma-{number}"
    assert _pci.place_of_handle(handle, BRIDGES) == place
    assert _pci.handle_of_place(place, BRIDGES) == handle


@pytest.mark.parametrize(
    ("handle", "message"),
    [
        ("sma-1", "is no handle"),
        ("nvmf_tcp:sma-1", "is no handle"),
        ("virtio_blk:sma-", "is no handle"),
        ("virtio_blk:sma-1x", "is no handle"),
        ("virtio_blk:sma-\u0661", "is no handle"),
        ("virtio_blk:sma-64", "behind bridge 2, but bridges names 2"),
    ],
)
def test_no_place_for_a_handle(handle: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _pci.place_of_handle(handle, BRIDGES[:2])


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/sys/devices/pci0000:00/0000:00:10.0/0000:01:1f.0/virtio3/block/vda", ["0000:00:10.0", "0000:01:1f.0"]),
        ("/sys/devices/pci10000:e0/10000:e0:06.0/nvme/nvme0", ["10000:e0:06.0"]),
        ("/sys/devices/000:00:10.0/0000:00:10/0000:00:1g.0/0000-00:10.0", []),
    ],
)
def test_addresses_on_a_path(path: str, found: list[str]) -> None:
    assert _pci.addresses(path) == found


def test_a_disk_that_does_not_answer_is_known_by_what_udev_remembers(root: FakeRoot, sysfs: _sysfs.Sysfs) -> None:
    """Reading its serial never ends, as that of a virtio-blk disk whose other end is dead; a FIFO does the same."""
    for name, serial in (("vda", "st1n1"), ("vdb", "st1n2"), ("vdc", "st1n3")):
        root.add_disk(name, serial)
    silent = root.path / "sys/block/vdb/serial"
    silent.unlink()
    os.mkfifo(silent)
    sysfs._patient.seconds = 0.2
    assert sysfs.serials() == {"st1n1": "vda", "st1n2": "vdb", "st1n3": "vdc"}
    assert [disk["serial"] for disk in sysfs.disks(BRIDGES)] == ["st1n1", "st1n2", "st1n3"]
    (root.path / "dev/disk/by-id/virtio-st1n2").unlink()
    assert sysfs.serials() == {"st1n1": "vda", "st1n3": "vdc"}


def test_who_waits_reads_a_serial_once_and_sees_another_disk_of_the_same_name(
    root: FakeRoot, sysfs: _sysfs.Sysfs
) -> None:
    root.add_disk("vda", "st1n1")
    assert sysfs.serials() == {"st1n1": "vda"}
    (root.path / "sys/block/vda/serial").write_text("not read")
    assert sysfs.serials() == {"st1n1": "vda"}
    (root.path / "sys/block/vda").unlink()
    assert sysfs.serials() == {}
    root.add_disk("vda", "st1n2", link=False)
    assert sysfs.serials() == {"st1n2": "vda"}


class Clock:
    """Time that passes only where somebody sleeps; every ``pace`` seconds a disk comes, and then the link of one."""

    def __init__(self, root: FakeRoot, disks: int, pace: float) -> None:
        self.now = 0.0
        self.pace = pace
        (root.path / "run" / "udev").mkdir(parents=True)
        (root.path / "run" / "udev" / "control").touch()
        links = root.path / "dev" / "disk" / "by-id"
        self.events: list[Callable[[], None]] = []
        for number in range(disks):
            words = (f"vd{number}", f"s{number}", f"0000:01:{number:02x}.0")
            self.events.append(functools.partial(root.add_disk, *words, link=False))
        for number in range(disks):
            link = links / f"virtio-s{number}"
            self.events.append(functools.partial(link.symlink_to, f"../../vd{number}"))

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        before, self.now = self.now, self.now + seconds
        if self.events and before // self.pace < self.now // self.pace:
            self.events.pop(0)()


def test_who_waits_gives_up_when_nothing_happens_not_when_much_does(
    root: FakeRoot, sysfs: _sysfs.Sysfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(root, disks=6, pace=20)
    monkeypatch.setattr(_sysfs, "time", clock)
    serials = [f"s{number}" for number in range(6)]
    assert sysfs.wait(serials, [], {}, 30) == ([], [], {})
    assert 240 <= clock.now < 242, "all of them, one after the other"
    begun = clock.now
    assert sysfs.wait([*serials, "nobody"], [], {}, 30) == (["nobody"], [], {})
    assert 30 <= clock.now - begun < 32
