"""Disks with interface nvme: a device of another kind in the same slots, of QEMU's own or by vfio-user."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.plugin_utils import export, steps, validate
from world import World, disk, nodes

NVME = {"interface": "nvme"}


def inventory(manager: str = "qemu_nvme", stays: bool = False, qemu: str | None = None, **more: Any) -> dict[str, Any]:
    made = nodes(**more)
    for name, ipu in made["ipus"].items():
        ipu.update(nvme=manager, nvme_stays=stays, sockets_dir=f"/run/{name}")
    for host in made["hosts"].values():
        host["qemu"] = qemu
    return made


@pytest.mark.parametrize("manager", ["qemu_nvme", "vfiouser"])
def test_a_disk_comes_and_goes(manager: str) -> None:
    world = World(inventory(manager))
    planned = world.converge(disk(**NVME))
    (attach,) = planned["nodes"]["ipu1"]["attach"]
    assert (attach["interface"], attach["physical_id"], attach["state"]) == ("nvme", 0, "present")
    (result,) = planned["disks"]
    assert (result["handle"], result["serial"]) == ("nvme:sma-0", "st1n1")
    assert planned["nodes"]["host1"] == {"present": ["st1n1"]}
    world.converge(disk(**NVME, state="detached"))
    assert world.devices["ipu1"] == {}


def test_64_of_them_and_no_more() -> None:
    world = World(inventory())
    disks = [disk(f"n{number:02}", **NVME) for number in range(64)]
    planned = world.converge(*disks)
    assert [item["physical_id"] for item in planned["nodes"]["ipu1"]["attach"]] == list(range(64))
    with pytest.raises(validate.InvalidDisks, match="65 disks are to be attached through ipu1, which has 64 slots"):
        world.plan(*disks, disk("n64", **NVME))


def test_both_interfaces_share_the_slots() -> None:
    world = World(inventory())
    planned = world.converge(disk("a"), disk("b", **NVME), disk("c"))
    assert [result["handle"] for result in planned["disks"]] == ["virtio_blk:sma-0", "nvme:sma-1", "virtio_blk:sma-2"]


def test_another_interface_replugs_the_disk() -> None:
    world = World(inventory())
    world.converge(disk())
    planned = world.converge(disk(**NVME))
    assert [(step["stage"], step["arguments"]["physical_id"]) for step in planned["steps"]] == [
        ("unplug", 0),
        ("attach", 1),
    ]
    world.uses["st1n1"] = {"mounts": ["/mnt"]}
    planned = world.plan(disk())
    assert "is in use on host1 (mounted on /mnt)" in planned["problems"][0]["message"]


def test_a_host_that_was_started_anew_gets_its_disk_again() -> None:
    """SPDK does not know that nobody is connected; the host does not see the disk."""
    world = World(inventory())
    world.converge(disk(**NVME), disk("b"))
    world.unplugged["ipu1"] = {0, 1}
    planned = world.converge(disk(**NVME), disk("b"))
    again, virtio = planned["nodes"]["ipu1"]["attach"]
    assert (again["physical_id"], again["replug"]) == (0, True)
    assert "replug" not in virtio


def test_what_outlived_its_host_and_is_in_no_list_is_removed() -> None:
    world = World(inventory())
    world.converge(disk(**NVME), disk("b", **NVME))
    world.unplugged["ipu1"] = {0}
    planned = world.plan(disk("b", **NVME))
    (gone,) = planned["nodes"]["ipu1"]["unplug"]
    assert (gone["physical_id"], gone["state"]) == (0, "absent")
    assert world.plan(disk(**NVME), disk("b", **NVME))["nodes"]["ipu1"].keys() == {"attach"}


class TestWhereTheDeviceStays:
    """QEMU cannot unplug it: what is detached is the volume."""

    def test_a_disk_comes_back_to_its_own_device(self) -> None:
        world = World(inventory("vfiouser", stays=True))
        world.converge(disk("a", **NVME), disk("b", **NVME))
        planned = world.converge(disk("a", **NVME, state="detached"), disk("b", **NVME, state="detached"))
        assert planned["nodes"]["ipu1"]["unplug"][0] == {
            "physical_id": 0,
            "interface": "nvme",
            "volumes": [],
            "state": "present",
        }
        assert planned["nodes"]["host1"] == {"absent": ["st1n1", "st1n2"]}
        assert world.empty["ipu1"] == {0: "st1n1", 1: "st1n2"}
        assert world.converge(disk("c"))["disks"][0]["physical_id"] == 2
        assert world.converge(disk("b", **NVME))["disks"][0]["physical_id"] == 1

    def test_what_a_guest_that_was_started_anew_left_is_removed(self) -> None:
        world = World(inventory("vfiouser", stays=True))
        disks = [disk("a", **NVME, state="detached"), disk("b", **NVME)]
        world.converge(disk("a", **NVME), disk("b", **NVME))
        world.converge(*disks)
        assert world.plan(*disks)["steps"] == [], "the running guest has the controller"
        world.unplugged["ipu1"] = {0, 1}
        planned = world.converge(*disks)
        assert [(step["stage"], step["arguments"]["physical_id"]) for step in planned["steps"]] == [
            ("unplug", 0),
            ("attach", 1),
        ]
        assert (world.empty["ipu1"], world.devices["ipu1"]) == ({}, {1: "st1n2"})

    def test_slots_of_others_are_taken(self) -> None:
        world = World(inventory("vfiouser", stays=True, slots=1))
        world.converge(disk("a", **NVME))
        world.converge(disk("a", **NVME, state="detached"))
        planned = world.plan(disk("b", **NVME, physical_id=0))
        assert "is taken by sma-0, an NVMe device without a volume" in planned["problems"][0]["message"]

    def test_what_did_not_come_off_is_known_by_its_volumes(self) -> None:
        world = World(inventory("vfiouser", stays=True))
        world.converge(disk(**NVME))
        planned = world.plan(disk(**NVME, state="absent"), safe_mode=False)
        device = {"physical_id": 0, "state": "present", "volumes": ["x"]}
        assert steps.after_unplug(planned, {"ipu1": [device]}, {})["stuck"] == ["vol00"]
        assert steps.after_unplug(planned, {"ipu1": [{**device, "volumes": []}]}, {})["stuck"] == []


def test_a_node_keeps_the_disk_behind_qemus_own_device() -> None:
    world = World(inventory(), keeps=True)
    world.converge(disk(**NVME))
    assert world.kept["ipu1"]["nbd"] == [{"name": "/run/ipu1/sma-0.nbd", "bdev": "st1n1"}]
    world.converge(disk())
    assert "nbd" not in world.kept["ipu1"]
    world.converge(disk(**NVME))
    world.converge(disk(**NVME, state="detached"))
    assert not {"nbd", "vhost_blk"} & world.kept["ipu1"].keys()


def test_by_vfio_user_nothing_is_kept() -> None:
    world = World(inventory("vfiouser"), keeps=True)
    world.converge(disk(**NVME))
    assert not {"nbd", "vhost_blk"} & world.kept["ipu1"].keys()


def test_what_is_exported_says_the_interface() -> None:
    world = World(inventory())
    world.converge(disk(**NVME), disk("b"))
    exported = export.virtual_disks(world.inventory, world.observed())["virtual_disks"]
    assert [(item["name"], item.get("interface")) for item in exported] == [("b", None), ("vol00", "nvme")]
    assert world.plan(*exported)["steps"] == []


@pytest.mark.parametrize(
    ("made", "item", "message"),
    [
        (
            inventory(""),
            NVME,
            r"interface: ipu1 shows no NVMe disks: no device manager of its SMA has them \(ipu_nvme\)",
        ),
        (
            inventory("vfiouser", qemu="bookworm"),
            NVME,
            r"with vfio-user-pci \(10\.1 or newer\), and that of host1 is from Debian bookworm\. Set host_qemu_suite",
        ),
        (inventory(), {**NVME, "qos": {"rd_bandwidth": "16MiB"}}, "qos: an NVMe disk takes no limits"),
    ],
)
def test_what_cannot_be_is_refused_before_anybody_is_asked(
    made: dict[str, Any], item: dict[str, Any], message: str
) -> None:
    with pytest.raises(validate.InvalidDisks, match=message):
        validate.validate([disk(**item)], made)
    validate.validate([disk()], made)


@pytest.mark.parametrize("qemu", ["trixie-backports", None])
def test_a_qemu_that_can_or_that_nobody_knows_is_admitted(qemu: str | None) -> None:
    validate.validate([disk(**NVME)], inventory("vfiouser", qemu=qemu))
