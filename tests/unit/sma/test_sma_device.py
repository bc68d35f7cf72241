# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""sma_device and sma_info through the real SMA, between a fake SPDK and a fake QEMU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
import venv
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.module_utils import _sma, _sma_devices
from sma_fakes import FakeQemu, FakeSpdk

ROOT = Path(__file__).resolve().parents[3]
READ = ["vhost_get_controllers", "bdev_get_bdevs", "nvmf_get_subsystems", "nbd_get_disks"]


class Module:
    """sma_device with its defaults, on one IPU."""

    def __init__(self, address: str, rpc_socket: str) -> None:
        self.connection = {"address": address, "rpc_socket": rpc_socket, "rpc_timeout": 10.0, "timeout": 20.0}

    def __call__(self, *devices: dict[str, Any], check: bool = False, **options: Any) -> dict[str, Any]:
        params = {**self.connection, "max_devices": 64, "wait": 0.0, "devices": list(devices), **options}
        return _sma_devices.converge(params, check)


@pytest.fixture
def module(sma: Any, spdk: FakeSpdk) -> Module:
    return Module(sma.address, str(spdk.path))


@pytest.fixture
def offline(spdk: FakeSpdk) -> Module:
    """Without SMA: a run that would call it fails."""
    return Module("unix:/nowhere/sma.sock:8080", str(spdk.path))


def fields(result: dict[str, Any], *names: str) -> list[tuple[Any, ...]]:
    assert not result.get("failed"), result
    return [tuple(device[name] for name in names) for device in result["devices"]]


def test_a_story(module: Module, offline: Module, spdk: FakeSpdk, qemu: FakeQemu) -> None:
    volumes = [spdk.add_bdev(f"st1n{nsid}") for nsid in range(1, 5)]
    wanted = [{"volume": volumes[0]}, {"volume": volumes[1], "physical_id": 0}, {"volume": volumes[2]}]

    foreseen = module(*wanted, check=True)
    assert spdk.controllers == {}
    done = module(*wanted)
    assert fields(done, "physical_id", "handle", "bdev", "serial", "state", "changed") == [
        (1, "virtio_blk:sma-1", "st1n1", "st1n1", "present", True),
        (0, "virtio_blk:sma-0", "st1n2", "st1n2", "present", True),
        (2, "virtio_blk:sma-2", "st1n3", "st1n3", "present", True),
    ]
    assert foreseen == done
    assert done["counts"] == {"wanted": 3, "applied": 3, "failed": 0, "not_tried": 0}
    assert done["diff"]["before"] == {}
    assert done["diff"]["after"]["virtio_blk:sma-1"] == {"physical_id": 1, "volume": volumes[0]}
    assert sorted(qemu.devices) == ["sma-0", "sma-1", "sma-2"]

    spdk.calls.clear()
    again = offline(*wanted)  # no call of SMA is needed to see that nothing is to be done
    assert (again["changed"], again["outcome"]["applied"]) == (False, [])
    assert fields(again, "physical_id", "changed") == [(1, False), (0, False), (2, False)]
    assert spdk.calls == READ

    change = [
        {"volume": volumes[0], "state": "absent"},
        {"handle": "virtio_blk:sma-2", "state": "absent"},
        {"physical_id": 9, "state": "absent"},
        {"volume": volumes[3], "state": "absent"},
    ]
    foreseen = module(*change, check=True)
    done = module(*change)
    assert foreseen == done
    assert fields(done, "physical_id", "state", "changed") == [
        (1, "absent", True),
        (2, "absent", True),
        (9, "absent", False),
        (None, "absent", False),
    ]
    assert done["devices"][1]["volume"] == volumes[2]
    assert [entry["action"] for entry in done["outcome"]["applied"]] == ["delete", "delete"]
    assert (list(qemu.devices), list(spdk.controllers)) == (["sma-0"], ["sma-0"])
    assert offline(*change)["changed"] is False


def test_a_slot_that_is_freed_in_the_same_run_comes_last(module: Module, spdk: FakeSpdk) -> None:
    volumes = [spdk.add_bdev(f"st1n{nsid}") for nsid in range(1, 4)]
    module({"volume": volumes[0]}, max_devices=2)
    freeing = {"physical_id": 0, "state": "absent"}
    assert fields(module(freeing, {"volume": volumes[1]}, {"volume": volumes[2]}, max_devices=2), "physical_id") == [
        (0,),
        (1,),
        (0,),
    ]
    assert spdk.controllers == {"sma-1": "st1n2", "sma-0": "st1n3"}


@pytest.mark.parametrize(
    ("devices", "options", "message"),
    [
        ([{"volume": 1}, {"volume": 2}, {"volume": 1}], {}, r"devices\[0\] and devices\[2\] have the same volume"),
        (
            [{"volume": 1, "physical_id": 3}, {"volume": 2, "physical_id": 3}],
            {},
            r"devices\[0\] and devices\[1\] have the same physical_id: 3",
        ),
        (
            [{"volume": 1, "physical_id": 3}, {"handle": "virtio_blk:sma-3", "state": "absent"}],
            {},
            r"devices\[0\] and devices\[1\] have the same physical_id: 3",
        ),
        (
            [{"volume": 1}, {"volume": 2}, {"volume": 3}],
            {"max_devices": 2},
            "3 devices are wanted, and there are 2 slots",
        ),
        ([{"volume": 1}], {"max_devices": 0}, "max_devices: 0 is not at least 1"),
        ([{"volume": 1, "physical_id": 64}], {}, r"devices\[0\].physical_id: 64 is not between 0 and 63"),
        ([{"volume": 1, "physical_id": -1}], {}, "-1 is not between 0 and 63"),
        ([{"handle": "virtio_blk:sma-64", "state": "absent"}], {}, r"devices\[0\].handle: 64 is not between 0 and 63"),
        ([{"handle": "virtio_blk:sma-1/../x", "state": "absent"}], {}, "is no handle of a device"),
        (
            [{"handle": "virtio_blk:sma-1", "physical_id": 2, "state": "absent"}],
            {},
            "virtio_blk:sma-1 is not the device of physical_id 2",
        ),
        ([{"volume": "vol00"}], {}, r"devices\[0\].volume: 'vol00' is no UUID"),
        ([{"physical_id": 1}], {}, r"devices\[0\]: a device that shall be present needs its volume"),
        ([{"state": "absent"}], {}, "say which device shall be absent"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_sent(
    offline: Module, spdk: FakeSpdk, devices: list[dict[str, Any]], options: dict[str, Any], message: str
) -> None:
    named = [
        {**device, "volume": str(uuid.UUID(int=device["volume"]))} if isinstance(device.get("volume"), int) else device
        for device in devices
    ]
    result = offline(*named, **options)
    assert result["failed"]
    assert not result["changed"]
    assert spdk.calls == []
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(result["msg"])


def test_what_the_state_forbids(offline: Module, spdk: FakeSpdk) -> None:
    """Refused after a look at SPDK, before SMA is asked for anything."""
    volumes = [spdk.add_bdev(f"st1n{nsid}") for nsid in range(1, 4)]
    spdk.controllers = {"sma-0": "st1n1", "sma-5": "gone", "other": "st1n3"}
    spdk.connected = {"sma-0", "sma-5"}

    def refused(*devices: dict[str, Any], **options: Any) -> str:
        spdk.calls.clear()
        result = offline(*devices, **options)
        assert result["failed"]
        assert spdk.calls == READ
        return result["msg"]

    assert "is virtio_blk:sma-0 already and is wanted with physical_id 4" in refused(
        {"volume": volumes[0], "physical_id": 4}
    )
    assert f"physical_id 0 is taken by {volumes[0]}" in refused({"volume": volumes[1], "physical_id": 0})
    assert "physical_id 5 is taken by a bdev that is gone (gone)" in refused({"volume": volumes[1], "physical_id": 5})
    assert f"virtio_blk:sma-0 has the volume {volumes[0]}, not {volumes[1]}" in refused(
        {"physical_id": 0, "volume": volumes[1], "state": "absent"}
    )
    assert "1 more devices need a slot, and 0 of 1 are free" in refused({"volume": volumes[1]}, max_devices=1)
    assert spdk.controllers == {"sma-0": "st1n1", "sma-5": "gone", "other": "st1n3"}


def test_one_failure_does_not_stop_the_others(module: Module, spdk: FakeSpdk, qemu: FakeQemu) -> None:
    good, bad, last = spdk.add_bdev("st1n1"), str(uuid.uuid4()), spdk.add_bdev("st1n3")
    result = module({"volume": good}, {"volume": bad}, {"volume": last})
    assert (result["failed"], result["changed"]) == (True, True)
    assert [device["state"] for device in result["devices"]] == ["present", "absent", "present"]
    (failure,) = result["outcome"]["failed"]
    assert failure["name"] == "sma-1"
    assert bad in failure["reason"]
    assert "2 applied, 1 failed, 0 not tried" in result["msg"]
    assert sorted(qemu.devices) == ["sma-0", "sma-2"]


def test_without_qemu_the_rest_is_not_tried(module: Module, spdk: FakeSpdk, qemu: FakeQemu) -> None:
    volumes = [spdk.add_bdev(f"st1n{nsid}") for nsid in range(1, 4)]
    qemu.close()
    result = module(*({"volume": volume} for volume in volumes))
    assert (result["failed"], result["changed"]) == (True, False)
    assert result["counts"] == {"wanted": 3, "applied": 0, "failed": 1, "not_tried": 2}
    assert "no QEMU listens" in result["outcome"]["failed"][0]["reason"]
    assert [device["state"] for device in result["devices"]] == ["absent"] * 3
    assert spdk.controllers == {}


def test_unplug_that_the_guest_ignores(module: Module, spdk: FakeSpdk, qemu: FakeQemu) -> None:
    volumes = [spdk.add_bdev(f"st1n{nsid}") for nsid in range(1, 3)]
    module(*({"volume": volume} for volume in volumes))
    qemu.guest = "ignore"
    result = module({"volume": volumes[0], "state": "absent"}, {"volume": volumes[1]})
    assert result["failed"]
    assert "has not released it within 0.5 s" in result["msg"]
    assert [device["state"] for device in result["devices"]] == ["present", "present"]


def test_spdk_and_sma_that_are_not_there(offline: Module, spdk: FakeSpdk) -> None:
    volume = spdk.add_bdev("st1n1")
    result = offline({"volume": volume})
    assert result["failed"]
    assert "SMA at unix:/nowhere/sma.sock:8080: CreateDevice: " in result["msg"]
    offline.connection["rpc_socket"] = "/nowhere/spdk.sock"
    result = offline({"volume": volume})
    assert (result["failed"], result["changed"]) == (True, False)
    assert "SPDK at /nowhere/spdk.sock: " in result["msg"]


def test_the_bdev_is_waited_for(module: Module, spdk: FakeSpdk) -> None:
    volume = str(uuid.uuid4())
    assert fields(module({"volume": volume}, check=True, wait=60.0), "physical_id", "bdev") == [(0, None)]
    spdk.calls.clear()

    def appear() -> None:
        deadline = time.monotonic() + 10
        while spdk.calls.count("bdev_get_bdevs") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        spdk.add_bdev("st1n1", volume)

    appearing = threading.Thread(target=appear)
    appearing.start()
    assert fields(module({"volume": volume}, wait=20.0), "bdev", "changed") == [("st1n1", True)]
    appearing.join()


def test_a_host_that_was_started_anew(module: Module, spdk: FakeSpdk, qemu: FakeQemu) -> None:
    wanted = {"volume": spdk.add_bdev("st1n1")}
    module(wanted)
    qemu.devices.clear()
    qemu.characters.clear()
    spdk.connected.clear()
    foreseen = module(wanted, check=True)
    done = module(wanted)
    assert foreseen == done
    assert done["outcome"]["applied"] == [{"action": "replug", "kind": "device", "name": "sma-0"}]
    assert list(qemu.devices) == ["sma-0"]
    assert module(wanted)["changed"] is False


def test_sixty_four(module: Module, offline: Module, spdk: FakeSpdk, qemu: FakeQemu) -> None:
    wanted = [{"volume": spdk.add_bdev(f"st1n{nsid}")} for nsid in range(1, 65)]
    assert module(*wanted)["counts"]["applied"] == 64
    assert qemu.devices["sma-63"]["bus"] == "pci.ipdk.1"
    spdk.calls.clear()
    assert offline(*wanted)["changed"] is False
    assert spdk.calls == READ
    assert module(*({**item, "state": "absent"} for item in wanted))["counts"]["applied"] == 64
    assert (spdk.controllers, qemu.devices, qemu.characters) == ({}, {}, {})


def test_sma_info(spdk: FakeSpdk, module: Module) -> None:
    volume = spdk.add_bdev("a-bdev-with-quite-a-long-name")
    module({"volume": volume, "physical_id": 7})
    spdk.controllers["sma-9"] = None
    looked = _sma_devices.look({**module.connection, "wait": 5.0})
    assert looked["devices"] == [
        {
            "physical_id": 7,
            "handle": "virtio_blk:sma-7",
            "interface": "virtio-blk",
            "volume": volume,
            "volumes": [],
            "bdev": "a-bdev-with-quite-a-long-name",
            "serial": "a-bdev-with-quite-a-",
            "connected": True,
            "limits": {},
        },
        {
            "physical_id": 9,
            "handle": "virtio_blk:sma-9",
            "interface": "virtio-blk",
            "volume": None,
            "volumes": [],
            "bdev": None,
            "serial": None,
            "connected": False,
            "limits": {},
        },
    ]
    assert "rw_iops" in looked["qos_capabilities"]["volume"]
    with pytest.raises(_sma.Unreachable):
        _sma_devices.look({**module.connection, "address": "unix:/nowhere/sma.sock:8080", "wait": 0.0})


def test_through_ansible(sma: Any, spdk: FakeSpdk, tmp_path: Path) -> None:
    """What only Ansible sees: options and their types, the diff, the missing library."""
    volume = spdk.add_bdev("st1n1")
    venv.create(tmp_path / "bare")
    tasks: list[dict[str, Any]] = [
        {"ipdk.storage.sma_device": {"devices": [{"volume": volume, "physical_id": "3"}]}},
        {"ipdk.storage.sma_info": {"wait": 5}},
        {"ipdk.storage.sma_device": {"devices": [{"volume": volume, "state": "gone"}]}},
        {
            "ipdk.storage.sma_device": {"devices": [{"handle": "virtio_blk:sma-3", "state": "absent"}]},
            "vars": {"ansible_python_interpreter": str(tmp_path / "bare" / "bin" / "python")},
        },
    ]
    for task in tasks:
        next(iter(task.values())).update(address=sma.address, rpc_socket=str(spdk.path))
        task.update(ignore_errors=True, diff=True)
    play = {"hosts": "localhost", "gather_facts": False, "tasks": tasks}
    (tmp_path / "play.json").write_text(json.dumps([play]))
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build" / "collections"),
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
    }
    command = [sys.executable, "-m", "ansible", "playbook", "play.json"]
    ended = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results = [task["hosts"]["localhost"] for task in json.loads(ended.stdout)["plays"][0]["tasks"]]
    done, looked, refused, without = results
    assert (done["changed"], done["devices"][0]["handle"]) == (True, "virtio_blk:sma-3")
    assert done["diff"]["after"] == {"virtio_blk:sma-3": {"physical_id": 3, "volume": volume}}
    assert [device["serial"] for device in looked["devices"]] == ["st1n1"]
    assert "value of state must be one of: present, absent, got: gone" in refused["msg"]
    assert "Failed to import the required Python library (protobuf)" in without["msg"]
    assert spdk.controllers == {"sma-3": "st1n1"}
