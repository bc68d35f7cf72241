# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The recipes about volumes, from playbooks to the bytes that a guest reads: two SPDKs, the real SMA, a front end of
vhost-user-blk. What a guest's kernel makes of it is in molecule/."""

from __future__ import annotations

import json
import os
import struct
from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.plugin_utils import virtual_disk
from test_virtual_disks_role import TEXT, Lab, lab

from front_end import IN, OUT, FrontEnd, Ring  # isort: skip  (the path to it is made by the module above)

__all__ = ["lab"]

MIB = 1 << 20
STORE = {"name": "fast", "size": "64MiB", "cluster_size": "1MiB"}
LVOL = {"name": "vol00", "size": "8MiB", "backing": {"type": "lvol", "store": "fast"}}


class Operator:
    """Runs playbooks on a lab, whose storage target has the lvol store that the variables declare."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        path = lab.state / "st1" / "volumes" / "fast.lvs"
        path.write_bytes(b"")
        os.truncate(path, 64 * MIB)
        lab.target.call("bdev_aio_create", name="Store-fast", filename=str(path), block_size=512)
        lab.target.call("bdev_lvol_create_lvstore", bdev_name="Store-fast", lvs_name="fast", cluster_sz=MIB)

    def run(self, playbook: str, *disks: dict[str, Any], ends: int = 0, check: bool = False, **more: Any) -> str:
        more = {"storage_target_lvol_stores": [STORE], **more}
        done = self.lab.run_playbook(playbook, list(disks), *(["--check"] if check else []), **more)
        assert done.returncode == ends, (done.stdout + done.stderr)[-8000:]
        return done.stdout

    def guest(self, slot: int = 0) -> tuple[FrontEnd, Ring]:
        front_end = FrontEnd(str(self.lab.ipu.directory / f"sma-{slot}"))
        front_end.negotiate()
        ring = Ring(front_end.memory)
        front_end.start(ring)
        assert ring.interrupted()
        return front_end, ring


@pytest.fixture
def operator(lab: Lab) -> Operator:
    return Operator(lab)


def capacity(front_end: FrontEnd) -> int:
    """Bytes; the first field of virtio-blk's configuration is in sectors of 512 bytes."""
    return struct.unpack_from("<Q", front_end.config())[0] * 512


def changed(said: str) -> bool:
    return any("changed=0" not in line for line in said.rpartition("PLAY RECAP")[2].splitlines() if "changed=" in line)


def test_a_disk_grows_under_its_guest_and_is_not_shrunk(operator: Operator) -> None:
    disk = {"name": "vol00", "size": "8MiB", "backing": {"type": "aio"}}
    operator.run("disks.yml", disk)
    front_end, guest = operator.guest()
    assert guest.do(OUT, 0, TEXT).status == 0
    assert capacity(front_end) == 8 * MIB
    bigger = {**disk, "size": "16MiB"}
    operator.run("recipes/resize.yml", bigger)
    assert capacity(front_end) == 16 * MIB, "the same front end, which was never disconnected"
    assert guest.do(IN, 0, room=len(TEXT)).data == TEXT
    end = (16 * MIB - len(TEXT)) // 512
    assert guest.do(OUT, end, TEXT).status == 0 and guest.do(IN, end, room=len(TEXT)).data == TEXT
    assert not changed(operator.run("recipes/resize.yml", bigger))

    new = {"name": "new", "size": "1MiB", "backing": {"type": "malloc"}}
    said = operator.run("recipes/resize.yml", new, disk, ends=2)
    assert "size: 8 MiB was wanted, but the volume on st1 has 16 MiB" in said
    assert [bdev["name"] for bdev in operator.lab.target.call("bdev_get_bdevs") if bdev["name"] == "new"] == []
    assert capacity(front_end) == 16 * MIB
    front_end.close()


def test_a_snapshot_is_cloned_and_each_goes_its_way(operator: Operator) -> None:
    operator.run("disks.yml", LVOL)
    front_end, guest = operator.guest()
    assert guest.do(OUT, 0, TEXT).status == 0
    copy = {"name": "copy", "size": "8MiB", "backing": {"type": "lvol", "clone_of": "monday"}}
    taken = {"snapshot_disk": "vol00", "snapshot_name": "monday"}
    said = operator.run("recipes/snapshot.yml", LVOL, copy, **taken)
    assert "fast/monday: 8.00 MB (8.00 MB of its own)" in said
    assert "fast/copy: 8.00 MB (0.00 Bytes of its own)" in said
    assert guest.do(OUT, 0, TEXT[::-1]).status == 0
    other, copied = operator.guest(1)
    assert copied.do(IN, 0, room=len(TEXT)).data == TEXT
    assert copied.do(OUT, 0, bytes(len(TEXT))).status == 0
    assert guest.do(IN, 0, room=len(TEXT)).data == TEXT[::-1]

    assert "fast/monday on st1 is there already" in operator.run("recipes/snapshot.yml", LVOL, copy, ends=2, **taken)
    assert not changed(operator.run("disks.yml", LVOL, copy))
    other.close()
    gone = {**taken, "snapshot_state": "absent"}
    refused = operator.run("recipes/snapshot.yml", LVOL, copy, ends=2, ipdk_safe_mode=False, **gone)
    assert "fast/monday on st1 has 2 clones (vol00, copy)" in refused
    operator.run("recipes/snapshot.yml", LVOL, {**copy, "state": "absent"}, ipdk_safe_mode=False, **gone)
    (lvol,) = operator.lab.target.call("bdev_lvol_get_lvols")
    assert (lvol["name"], lvol["num_allocated_clusters"]) == ("vol00", 8)
    assert guest.do(IN, 0, room=len(TEXT)).data == TEXT[::-1]
    # It is declared thick.
    assert lvol["is_thin_provisioned"] is True
    operator.run("disks.yml", LVOL)
    assert operator.lab.target.call("bdev_lvol_get_lvols")[0]["is_thin_provisioned"] is False
    assert guest.do(IN, 0, room=len(TEXT)).data == TEXT[::-1]
    front_end.close()


def attach_by_hand(operator: Operator, ipu: str, host_nqn: str) -> str:
    """Give a disk vol00 with TEXT to an IPU that is not there, as a run would have; the NQN of its subsystem."""
    path = operator.lab.state / "st1" / "volumes" / "vol00.img"
    path.write_bytes(TEXT.ljust(MIB, b"\0"))
    uuid, nqn = virtual_disk.volume_uuid("vol00", "st1"), virtual_disk.subsystem_nqn("st1", ipu)
    call = operator.lab.target.call
    call("bdev_aio_create", name="vol00", filename=str(path), block_size=512, uuid=uuid)
    call("nvmf_create_subsystem", nqn=nqn, serial_number=virtual_disk.subsystem_serial(nqn))
    call("nvmf_subsystem_add_host", nqn=nqn, host=host_nqn)
    namespace = {"bdev_name": "vol00", "nsid": 1, "uuid": uuid, "nguid": uuid.replace("-", "")}
    call("nvmf_subsystem_add_ns", nqn=nqn, namespace=namespace)
    return nqn


def test_a_disk_of_a_host_that_is_down_moves_by_force_and_that_is_no_failure(operator: Operator) -> None:
    """The old IPU does not answer, and its host is unreachable."""
    inventory = json.loads(operator.lab.inventory.read_text())
    groups = inventory["all"]["children"]
    old_nqn = "nqn.2014-08.org.nvmexpress:uuid:5f0f6bd2-9b0c-5c68-9d5e-0d6f8a1f7c11"
    groups["ipus"]["hosts"]["ipu0"] = {"spdk_rpc_socket": "/nowhere/spdk.sock", "ipu_host_nqn": old_nqn}
    down = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9, "ansible_ssh_retries": 0}
    groups["ipu_hosts"]["hosts"]["host0"] = {"host_ipu": "ipu0", "ipdk_host_access": "ssh", **down}
    operator.lab.inventory.write_text(json.dumps(inventory))
    nqn = attach_by_hand(operator, "ipu0", old_nqn)
    disk = {"name": "vol00", "size": "1MiB", "backing": {"type": "aio"}, "host": "host0"}
    move = {"move_disks": ["vol00"], "move_to": "host1"}

    def door() -> dict[str, Any]:
        subsystems = operator.lab.target.call("nvmf_get_subsystems")
        return next(subsystem for subsystem in subsystems if subsystem["nqn"] == nqn)

    before = door()
    said = operator.run("recipes/move.yml", disk, ends=4, **{**move, "virtual_disks_force": False})
    assert "still belongs to the IPU ipu0, whose state is unknown" in said and door() == before
    said = operator.run("recipes/move.yml", disk, ends=2, **{**move, "move_to": "host0"})
    assert "Nothing is changed. vol00: the state of the IPU ipu0 is unknown" in said and door() == before

    said = operator.run("recipes/move.yml", disk, **move)
    for node in ("ipu0", "host0"):
        assert f"WARNING: {node} could not be reached, and nothing was done there: " in said
    assert (door()["hosts"], door()["namespaces"]) == ([], [])
    front_end, guest = operator.guest()
    assert guest.do(IN, 0, room=len(TEXT)).data == TEXT
    front_end.close()


def test_the_file_of_an_absent_disk_goes_though_its_bdev_is_gone(operator: Operator) -> None:
    """As where an operator has removed the bdev by hand, or a run was ended between the two."""
    directory = operator.lab.state / "st1" / "volumes"
    for name in ("left.img", "other.img"):
        (directory / name).write_bytes(bytes(4096))
    disk = {"name": "left", "size": "1MiB", "backing": {"type": "aio"}, "state": "absent"}
    said = operator.run("disks.yml", disk, check=True, ipdk_safe_mode=False)
    assert f"st1: destroy 1 file: {directory}/left.img" in said and changed(said)
    assert (directory / "left.img").exists()
    assert changed(operator.run("disks.yml", disk, ipdk_safe_mode=False))
    assert sorted(path.name for path in directory.iterdir()) == ["fast.lvs", "other.img"]
    assert not changed(operator.run("disks.yml", disk, ipdk_safe_mode=False))
