"""A virtual disk is the same disk whatever happens to what is behind it: serial, UUID and NGUID.

Everything is real but the guest: planner, modules, a storage target and an IPU. What SMA would do with QEMU is done
here with SPDK's vhost controllers, whose bdev's name is the serial that a guest sees.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.plugin_utils import lvol_stores, planner, virtual_disk
from spdk_nodes import Node, start
from support.trace_reader import leave_nothing

MIB = 2**20
WAIT_SECONDS = 30


class Lab:
    """st1 and ipu1, which keep their declarations; ``kill`` ends one with SIGKILL, and it comes back with its own."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.nodes: dict[str, Node] = {}
        self.kept: dict[str, Any] = {"st1": None, "ipu1": None}
        self.inventory: dict[str, Any] = {
            "targets": {
                "st1": {
                    "address": "127.0.0.1",
                    "port": port,
                    "volumes_dir": str(directory),
                    "lvol_stores": [{"name": "fast", "size": "64MiB", "cluster_size": "1MiB", "overcommit": 2.0}],
                }
            },
            "ipus": {
                "ipu1": {"host_nqn": "nqn.2014-08.org.nvmexpress:uuid:" + "0" * 8 + "-0000-4000-8000-" + "0" * 12}
            },
            "hosts": {"host1": {"ipu": "ipu1", "access": "none"}},
        }
        self.inventory["ipus"]["ipu1"]["max_disks"] = 8

    def deploy(self) -> None:
        for name in self.kept:
            self.start(name)
        self.module("st1", "spdk_nvmf_transport", transports=[{"trtype": "TCP"}])
        self.deploy_store()

    def start(self, name: str) -> None:
        self.processes[name], self.nodes[name] = start(self.directory, name)

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait(timeout=20)
        leave_nothing(self.processes[name].pid)
        for socket in self.directory.glob("sma-*"):
            if name == "ipu1":
                socket.unlink()
        self.start(name)
        self.module(name, "spdk_target", declaration=self.kept[name])

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(timeout=20)

    def module(self, node: str, module: str, **options: Any) -> dict[str, Any]:
        done = self.nodes[node].module(module, **options)
        assert done["rc"] == 0, done
        return done

    def deploy_store(self) -> None:
        """What the role storage_target does."""
        target = self.inventory["targets"]["st1"]
        work = lvol_stores.work(target["lvol_stores"], target["volumes_dir"])
        assert work["problems"] == []
        for file in work["files"]:
            with Path(file["path"]).open("ab") as handle:
                handle.truncate(file["size"])
        self.kept["st1"] = {"version": 1, "node": "st1", "bdevs": work["bdevs"]}
        self.module("st1", "spdk_target", declaration=self.kept["st1"])
        self.module("st1", "spdk_lvol", stores=work["stores"])

    def observed(self) -> dict[str, Any]:
        gather = {
            "st1": ["bdevs", "subsystems", "transports", "lvol_stores"],
            "ipu1": ["bdevs", "nvme_controllers", "vhost_controllers"],
        }
        return {
            node: {**self.module(node, "spdk_info", gather=sections)["spdk"], "declaration": self.kept[node]}
            for node, sections in gather.items()
        }

    def plan(self, disks: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
        return planner.plan(disks, self.inventory, self.observed(), {"force": True, **options})

    def converge(self, disks: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
        planned = self.plan(disks, **options)
        assert planned["problems"] == [], planned["text"]
        self.kept.update(planned["declarations"])
        target, ipu = (planned["nodes"].get(node, {}) for node in ("st1", "ipu1"))
        for device in ipu.get("unplug", []):
            self.nodes["ipu1"].call("vhost_delete_controller", {"ctrlr": f"sma-{device['physical_id']}"})
        if "release" in target:
            self.module("st1", "spdk_nvmf_subsystem", subsystems=target["release"])
        for file in target.get("files_present", []):
            for path in file["paths"]:
                with Path(path).open("ab") as handle:
                    handle.truncate(file["size"])
        if "bdevs" in target:
            self.module("st1", "spdk_bdev", bdevs=target["bdevs"])
        if "lvols" in target:
            self.module("st1", "spdk_lvol", lvols=target["lvols"])
        if "subsystems" in target:
            self.module("st1", "spdk_nvmf_subsystem", subsystems=target["subsystems"])
        if "controllers" in ipu:
            self.module("ipu1", "spdk_nvme_controller", controllers=ipu["controllers"])
        shown = {each["ctrlr"] for each in self.nodes["ipu1"].call("vhost_get_controllers")}
        for device in ipu.get("attach", []):
            name = f"sma-{device['physical_id']}"
            if name not in shown:
                bdev = self.bdev_of(device["volume"])
                self.nodes["ipu1"].call("vhost_create_blk_controller", {"ctrlr": name, "dev_name": bdev["name"]})
        return planned

    def bdev_of(self, uuid: str) -> dict[str, Any]:
        """The IPU's bdev of that UUID, as soon as it is there."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            for bdev in self.nodes["ipu1"].call("bdev_get_bdevs"):
                if bdev["uuid"] == uuid:
                    return dict(bdev)
            assert time.monotonic() < deadline, f"ipu1 shows no bdev with UUID {uuid}"
            time.sleep(0.05)

    def identities(self) -> dict[str, tuple[Any, ...]]:
        """Disk → what its host, its IPU and its storage target know it by."""
        (subsystem,) = self.nodes["st1"].call("nvmf_get_subsystems")[1:]
        behind = {
            each["ctrlr"]: each["backend_specific"]["block"]["bdev"]
            for each in self.nodes["ipu1"].call("vhost_get_controllers")
        }
        found = {}
        for disk in DISKS:
            uuid = virtual_disk.volume_uuid(disk["name"], "st1")
            serial = self.bdev_of(uuid)["name"]
            (entry,) = [each for each in subsystem["namespaces"] if f"st1n{each['nsid']}" == serial]
            found[disk["name"]] = (
                serial,
                next((controller for controller, bdev in behind.items() if bdev == serial), None),
                entry["uuid"],
                entry["nguid"].replace("-", "").lower(),
            )
        return found


DISKS: list[dict[str, Any]] = [
    {"name": "mem", "size": "8MiB", "backing": {"type": "malloc"}},
    {"name": "file", "size": "8MiB", "backing": {"type": "aio", "block_size": 4096}},
    {"name": "thick", "size": "8MiB", "backing": {"type": "lvol"}},
    {"name": "thin", "size": "8MiB", "backing": {"type": "lvol", "thin": True}},
]


@pytest.fixture
def lab(port: int) -> Iterator[Lab]:
    with tempfile.TemporaryDirectory(prefix="ipdk-") as directory:  # a short path, for unix sockets
        lab = Lab(Path(directory), port)
        try:
            lab.deploy()
            yield lab
        finally:
            lab.stop()


def test_a_disk_keeps_its_identity(lab: Lab) -> None:
    lab.converge(DISKS)
    first = lab.identities()
    for name, (serial, controller, uuid, nguid) in first.items():
        assert uuid == virtual_disk.volume_uuid(name, "st1") and nguid == uuid.replace("-", "")
        assert serial.startswith("st1n") and controller is not None

    # The storage target dies: its namespaces come back as they were, the volume in memory made anew.
    lab.kill("st1")
    assert lab.identities() == first

    # All are detached, and the target dies while they are.
    lab.converge([{**disk, "state": "detached"} for disk in DISKS])
    gone = lab.identities()
    assert all(controller is None for _serial, controller, _uuid, _nguid in gone.values())
    lab.kill("st1")
    assert lab.identities() == gone

    # Attached again, and the IPU dies.
    lab.converge(list(reversed(DISKS)))
    again = lab.identities()
    assert {name: (entry[0], *entry[2:]) for name, entry in again.items()} == {
        name: (entry[0], *entry[2:]) for name, entry in first.items()
    }
    lab.kill("ipu1")
    assert lab.identities() == again
    assert [step["stage"] for step in lab.plan(DISKS)["steps"] if step["stage"] != "attach"] == []


def test_a_disk_in_an_lvol_store_grows_and_its_ipu_sees_it(lab: Lab) -> None:
    lab.converge(DISKS)
    first = lab.identities()
    larger = [{**disk, "size": "16MiB"} if disk["backing"]["type"] == "lvol" else disk for disk in DISKS]
    planned = lab.converge(larger)
    assert [(step["stage"], step["action"]) for step in planned["steps"] if step["stage"] != "attach"] == [
        ("lvols", "grow"),
        ("lvols", "grow"),
    ]
    assert lab.identities() == first
    deadline = time.monotonic() + WAIT_SECONDS
    for name in ("thick", "thin"):
        uuid = virtual_disk.volume_uuid(name, "st1")
        while (bdev := lab.bdev_of(uuid))["num_blocks"] * bdev["block_size"] != 16 * MIB:
            assert time.monotonic() < deadline, f"ipu1 does not see that {name} has grown: {bdev['num_blocks']} blocks"
            time.sleep(0.05)
