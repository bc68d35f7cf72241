# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The real SMA between an SPDK and a real QEMU. The guest is only firmware: it never releases a disk."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.module_utils import _sma, _sma_devices
from support.ports import free_port
from support.spdk import Spdk


class Qemu:
    """A machine with two bridges; `ask` talks to a monitor that SMA does not use."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._monitor = directory / "monitor.sock"
        command = ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-m", "64", "-nodefaults", "-display", "none"]
        command += ["-object", "memory-backend-memfd,id=ram,size=64M,share=on", "-machine", "memory-backend=ram"]
        for number in range(2):
            command += ["-device", f"pci-bridge,chassis_nr={number + 1},id=pci.ipdk.{number}"]
        command += ["-qmp", f"tcp:127.0.0.1:{self.port},server=on,wait=off"]
        command += ["-qmp", f"unix:{self._monitor},server=on,wait=off"]
        self._process = subprocess.Popen(command)
        self.ask("query-status")

    def ask(self, command: str, **arguments: Any) -> Any:
        deadline = time.monotonic() + 20
        with socket.socket(socket.AF_UNIX) as monitor:
            while monitor.connect_ex(str(self._monitor)) != 0:
                assert self._process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            monitor.settimeout(20)
            stream = monitor.makefile("rw")
            stream.readline()  # the greeting
            for execute, given in (("qmp_capabilities", {}), (command, arguments)):
                stream.write(json.dumps({"execute": execute, "arguments": given}) + "\n")
                stream.flush()
                answer: dict[str, Any] = {}
                while "return" not in answer:
                    answer = json.loads(stream.readline())
                    assert "error" not in answer, answer
            return answer["return"]

    def devices(self) -> set[str]:
        return {entry["name"] for entry in self.ask("qom-list", path="/machine/peripheral")} - {"type"}

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[Qemu]:
    assert shutil.which("qemu-system-x86_64"), "install qemu-system-x86"
    machine = Qemu(tmp_path)
    yield machine
    machine.end()


@pytest.fixture
def ipu(tmp_path: Path) -> Iterator[Spdk]:
    with Spdk(tmp_path) as node:
        yield node


def test_the_chain(make_sma: Any, ipu: Spdk, qemu: Qemu) -> None:
    sma = make_sma(ipu.rpc_socket, qemu.port, unplug_timeout=0.5)
    sma.start()
    connection = {"address": sma.address, "rpc_socket": str(ipu.rpc_socket), "rpc_timeout": 10.0, "timeout": 20.0}

    def device(*devices: dict[str, Any]) -> dict[str, Any]:
        return _sma_devices.converge({**connection, "max_devices": 64, "wait": 0.0, "devices": list(devices)}, False)

    volumes = []
    for number in range(64):
        name = ipu.call("bdev_null_create", name=f"n{number}", num_blocks=2048, block_size=512)
        volumes.append(ipu.call("bdev_get_bdevs", name=name)[0]["uuid"])
    plugged = device(*({"volume": volume} for volume in volumes))
    assert plugged["counts"] == {"wanted": 64, "applied": 64, "failed": 0, "not_tried": 0}
    looked = _sma_devices.look({**connection, "wait": 0.0})["devices"]
    assert [(entry["volume"], entry["connected"]) for entry in looked] == [(volume, True) for volume in volumes]
    assert {f"sma-{number}" for number in range(64)} <= qemu.devices()
    assert device(*({"volume": volume} for volume in volumes))["changed"] is False

    keep = 2**64 - 1
    limits = {"rw_iops": 5, "rd_bandwidth": 7, "wr_bandwidth": keep, "rw_bandwidth": keep}
    with _sma.Client(sma.address) as client:
        client.call("SetQos", {"device_handle": "virtio_blk:sma-5", "maximum": limits})
    limited = _sma_devices.look({**connection, "wait": 0.0})["devices"][5]["limits"]
    assert (limited["rw_ios_per_sec"], limited["r_mbytes_per_sec"]) == (5000, 7)

    gone = {"volume": volumes[63], "state": "absent"}
    assert "has not released it within 0.5 s" in device(gone)["msg"]
    assert "sma-63" in qemu.devices()
    qemu.ask("system_reset")  # then QEMU itself takes what the guest was asked to release
    while "sma-63" in qemu.devices():
        time.sleep(0.02)
    unplugged = device(gone)
    assert (unplugged["changed"], unplugged["devices"][0]["state"]) == (True, "absent")
    assert "sma-63" not in {entry["label"] for entry in qemu.ask("query-chardev")}
    assert len(ipu.call("vhost_get_controllers")) == 63


def test_spdk_comes_back(make_sma: Any, ipu: Spdk, qemu: Qemu) -> None:
    """A disk that was plugged is connected again after its SPDK was killed, because its character device reconnects."""
    sma = make_sma(ipu.rpc_socket, qemu.port)
    sma.start()

    def serve() -> str:
        ipu.call(
            "bdev_null_create", name="n0", num_blocks=2048, block_size=512, uuid="6c3f1c3e-5a55-5f29-9e6c-8e3b2a1d4f01"
        )
        return ipu.call("bdev_get_bdevs", name="n0")[0]["uuid"]

    params = {
        "address": sma.address,
        "rpc_socket": str(ipu.rpc_socket),
        "rpc_timeout": 10.0,
        "timeout": 20.0,
        "max_devices": 64,
        "wait": 0.0,
        "devices": [{"volume": serve(), "physical_id": 40}],
    }
    assert _sma_devices.converge(params, False)["changed"] is True
    ipu.kill()
    ipu.start()
    serve()
    ipu.call("vhost_create_blk_controller", ctrlr="sma-40", dev_name="n0")
    deadline = time.monotonic() + 10
    while not ipu.call("vhost_get_controllers", name="sma-40")[0]["sessions"] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _sma_devices.converge(params, False)["changed"] is False
