"""host_disk_info as Ansible runs it, on a made-up host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_root import FakeRoot
from support.modules import run_module


@pytest.fixture
def root(tmp_path: Path) -> FakeRoot:
    """The root disk and three virtual ones, the last behind the second bridge."""
    made = FakeRoot(tmp_path)
    made.add_disk("vda", "root", "0000:00:03.0")
    made.add_disk("vdb", "st1n1", "0000:00:10.0/0000:01:00.0")
    made.add_disk("vdc", "st1n2", "0000:00:10.0/0000:01:05.0", mib=32)
    made.add_disk("vdd", "st1n3", "0000:00:11.0/0000:02:08.0")
    return made


def look(root: FakeRoot, check: bool = False, **options: Any) -> dict[str, Any]:
    return run_module("host_disk_info", options, check, root=root.path)


def names(result: dict[str, Any]) -> list[str]:
    assert (result["rc"], result["changed"], result["missing"], result["still_there"]) == (0, False, [], []), result
    return [disk["name"] for disk in result["disks"]]


def test_check_mode_sees_the_same(root: FakeRoot) -> None:
    looked = look(root)
    assert names(looked) == ["vda", "vdb", "vdc", "vdd"]
    assert look(root, check=True) == looked
    disk = looked["disks"][2]
    assert (disk["path"], disk["serial"], disk["size_bytes"], disk["pci_address"], disk["handle"], disk["by_id"]) == (
        "/dev/vdc",
        "st1n2",
        32 << 20,
        "0000:01:05.0",
        "virtio_blk:sma-5",
        "/dev/disk/by-id/virtio-st1n2",
    )


def test_filters(root: FakeRoot) -> None:
    assert names(look(root, handles=["virtio_blk:sma-40", "virtio_blk:sma-5", "virtio_blk:sma-6"])) == ["vdc", "vdd"]
    assert names(look(root, serials=["st1n1", "nobody"])) == ["vdb"]
    assert names(look(root, handles=["virtio_blk:sma-5"], serials=["st1n1"])) == [], "both count"
    assert names(look(root, handles=[])) == [], "an empty list is not the same as none"


def test_handles_follow_the_bridges_that_are_named(root: FakeRoot) -> None:
    bridges = ["0000:00:11.0", "0000:00:10.0"]
    assert names(look(root, handles=["virtio_blk:sma-8", "virtio_blk:sma-32"], bridges=bridges)) == ["vdb", "vdd"]
    result = look(root, handles=["virtio_blk:sma-64"], bridges=bridges)
    assert result["rc"] == 1
    assert "'virtio_blk:sma-64' is behind bridge 2, but bridges names 2 of 32 devices each" in result["msg"]


def test_what_is_no_handle_is_refused(root: FakeRoot) -> None:
    result = look(root, handles=["virtio_blk:sma-5", "sma-1"])
    assert result["rc"] == 1 and "'sma-1' is no handle of a device" in result["msg"]


def test_present_and_absent_at_once(root: FakeRoot) -> None:
    found = look(root, present=["st1n1", "st1n2"], absent=["st1n9"], serials=["st1n2"], timeout=0)
    assert names(found) == ["vdc"]
    both = look(root, present=["st1n1", "st1n2", "x"], absent=["x", "st1n2"])
    assert both["rc"] == 1
    assert both["msg"] == "st1n2, x: wanted present and absent at once"


@pytest.mark.parametrize("check", [True, False])
def test_what_is_missing_and_what_stays_are_data_beside_what_was_found(root: FakeRoot, check: bool) -> None:
    result = look(root, check, present=["st1n1", "st1n8", "st1n9"], absent=["st1n3", "st1n7"], timeout=0.1)
    assert (result["rc"], result["failed"], result["changed"]) == (1, True, False)
    assert (result["missing"], result["still_there"]) == (["st1n8", "st1n9"], ["st1n3"])
    assert (
        result["msg"] == "disks not there: st1n8, st1n9; not gone: st1n3 (no further one came, went or grew for 0.1 s)"
    )
    assert [disk["name"] for disk in result["disks"]] == ["vda", "vdb", "vdc", "vdd"]


def test_a_host_without_disks(tmp_path: Path) -> None:
    assert names(look(FakeRoot(tmp_path))) == []


def test_disks_that_do_not_grow_are_named_with_what_they_have(root: FakeRoot) -> None:
    assert names(look(root, sizes={"st1n2": 32 << 20}, serials=["st1n2"])) == ["vdc"]
    result = look(root, sizes={"st1n1": 64 << 20, "st1n2": 33 << 20, "st1n9": 1}, timeout=0.1)
    assert (result["rc"], result["too_small"]) == (1, {"st1n2": 32 << 20, "st1n9": 0})
    assert "not grown: st1n2 (has 33554432 bytes, wanted 34603008), st1n9 (has 0 bytes, wanted 1)" in result["msg"]
    for size in ("64MiB", -1, 0):
        assert "sizes: wanted bytes, a whole number above 0, for st1n1" in look(root, sizes={"st1n1": size})["msg"]
