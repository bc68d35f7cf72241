# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""sma_device and sma_info as Ansible runs them, through the real SMA, between a fake SPDK and a fake QEMU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sma_fakes import FakeQemu, FakeSpdk
from support.modules import run_module

Module = Callable[..., dict[str, Any]]


@pytest.fixture
def module(sma: Any, spdk: FakeSpdk) -> Module:
    def run(*devices: dict[str, Any], check: bool = False, **options: Any) -> dict[str, Any]:
        connection = {"address": sma.address, "rpc_socket": str(spdk.path), "timeout": 20, "wait": 0}
        return run_module("sma_device", {**connection, "devices": list(devices), **options}, check)

    return run


def predicted(result: dict[str, Any]) -> dict[str, Any]:
    """All of a result that check mode has to foresee."""
    assert result["rc"] == 0, result
    return {key: result[key] for key in ("changed", "outcome", "diff", "devices", "counts")}


def names(result: dict[str, Any]) -> dict[str, list[str]]:
    """applied, failed, not_tried → ``create sma-0``."""
    return {
        fate: [f"{entry['action']} {entry['name']}" for entry in entries] for fate, entries in result["outcome"].items()
    }


def test_check_mode_predicts_the_run_and_a_second_run_changes_nothing(
    module: Module, spdk: FakeSpdk, qemu: FakeQemu
) -> None:
    volumes = [spdk.add_bdev(f"st1n{nsid}") for nsid in range(1, 4)]
    module({"volume": volumes[0], "physical_id": 3})
    wanted = [{"volume": volumes[1]}, {"physical_id": 3, "state": "absent"}, {"volume": volumes[2], "physical_id": 40}]
    before = dict(spdk.controllers), dict(qemu.devices)

    foreseen = module(*wanted, check=True)
    assert (spdk.controllers, qemu.devices) == before == ({"sma-3": "st1n1"}, before[1])
    done = module(*wanted)
    assert predicted(done) == predicted(foreseen)
    assert names(done)["applied"] == ["delete sma-3", "create sma-0", "create sma-40"]
    assert done["counts"] == {"wanted": 3, "applied": 3, "failed": 0, "not_tried": 0}
    assert done["diff"] == {
        "before": {"virtio_blk:sma-3": {"physical_id": 3, "volume": volumes[0]}},
        "after": {
            "virtio_blk:sma-0": {"physical_id": 0, "volume": volumes[1]},
            "virtio_blk:sma-40": {"physical_id": 40, "volume": volumes[2]},
        },
    }
    assert spdk.controllers == {"sma-0": "st1n2", "sma-40": "st1n3"}
    assert sorted(qemu.devices) == ["sma-0", "sma-40"]

    for check in (True, False):
        again = module(*wanted, check=check)
        assert (again["rc"], again["changed"], again["outcome"]["applied"]) == (0, False, [])
        assert again["diff"]["before"] == again["diff"]["after"] == done["diff"]["after"]


def test_check_mode_predicts_the_unplugging_and_what_is_gone_stays_gone(
    module: Module, spdk: FakeSpdk, qemu: FakeQemu
) -> None:
    volumes = [spdk.add_bdev(f"st1n{nsid}") for nsid in range(1, 4)]
    module(*({"volume": volume} for volume in volumes))
    leaving = [{"handle": "virtio_blk:sma-1", "state": "absent"}, {"volume": volumes[0], "state": "absent"}]
    foreseen = module(*leaving, check=True)
    assert sorted(qemu.devices) == ["sma-0", "sma-1", "sma-2"]
    done = module(*leaving)
    assert predicted(done) == predicted(foreseen)
    assert (sorted(done["diff"]["before"]), done["diff"]["after"]) == (["virtio_blk:sma-0", "virtio_blk:sma-1"], {})
    assert (list(spdk.controllers), list(qemu.devices)) == (["sma-2"], ["sma-2"])
    assert module(*leaving)["changed"] is False


def test_check_mode_predicts_that_a_device_is_plugged_again(module: Module, spdk: FakeSpdk, qemu: FakeQemu) -> None:
    wanted = {"volume": spdk.add_bdev("st1n1")}
    module(wanted)
    qemu.devices.clear()
    qemu.characters.clear()
    spdk.connected.clear()
    foreseen = module(wanted, check=True)
    assert qemu.devices == {}
    done = module(wanted)
    assert predicted(done) == predicted(foreseen)
    assert names(done)["applied"] == ["replug sma-0"]
    assert list(qemu.devices) == ["sma-0"]


def test_one_failing_item_is_data_and_the_next_run_does_the_rest(
    module: Module, spdk: FakeSpdk, qemu: FakeQemu
) -> None:
    """The guest keeps one disk: its slot, which another shall have, is not free, and a third has one of its own."""
    volumes = [spdk.add_bdev(f"st1n{nsid}") for nsid in range(1, 4)]
    module({"volume": volumes[0]}, max_devices=2)
    wanted = [{"physical_id": 0, "state": "absent"}, {"volume": volumes[1]}, {"volume": volumes[2]}]
    qemu.guest = "ignore"
    result = module(*wanted, max_devices=2)
    assert (result["rc"], result["failed"], result["changed"]) == (1, True, True)
    assert names(result) == {"applied": ["create sma-1"], "failed": ["delete sma-0"], "not_tried": ["create sma-0"]}
    assert "has not released it within 0.5 s" in result["outcome"]["failed"][0]["reason"]
    assert result["outcome"]["not_tried"][0]["reason"] == "device sma-0 failed"
    assert result["counts"] == {"wanted": 3, "applied": 1, "failed": 1, "not_tried": 1}
    assert result["msg"].startswith("1 applied, 1 failed, 1 not tried: delete device sma-0: ")
    assert [(device["volume"], device["state"], device["changed"]) for device in result["devices"]] == [
        (volumes[0], "present", False),
        (volumes[1], "present", True),
        (volumes[2], "absent", False),
    ]
    assert result["diff"]["after"] == {
        "virtio_blk:sma-0": {"physical_id": 0, "volume": volumes[0]},
        "virtio_blk:sma-1": {"physical_id": 1, "volume": volumes[1]},
    }
    assert spdk.controllers == {"sma-0": "st1n1", "sma-1": "st1n2"}

    qemu.guest = "release"
    qemu.release("sma-0")  # late, but it does
    foreseen = module(*wanted, check=True, max_devices=2)
    done = module(*wanted, max_devices=2)
    assert predicted(done) == predicted(foreseen)
    assert spdk.controllers == {"sma-0": "st1n3", "sma-1": "st1n2"}


def test_a_volume_that_is_not_there_does_not_stop_the_others(module: Module, spdk: FakeSpdk, qemu: FakeQemu) -> None:
    missing = "00000000-0000-4000-8000-00000000dead"
    result = module({"volume": spdk.add_bdev("st1n1")}, {"volume": missing}, {"volume": spdk.add_bdev("st1n3")})
    assert (result["rc"], result["changed"]) == (1, True)
    assert names(result) == {"applied": ["create sma-0", "create sma-2"], "failed": ["create sma-1"], "not_tried": []}
    assert missing in result["outcome"]["failed"][0]["reason"]
    assert [(device["physical_id"], device["state"]) for device in result["devices"]] == [
        (0, "present"),
        (1, "absent"),
        (2, "present"),
    ]
    assert sorted(result["diff"]["after"]) == ["virtio_blk:sma-0", "virtio_blk:sma-2"]
    assert sorted(qemu.devices) == ["sma-0", "sma-2"]


def test_without_qemu_the_rest_is_not_tried(module: Module, spdk: FakeSpdk, qemu: FakeQemu) -> None:
    wanted = [{"volume": spdk.add_bdev(f"st1n{nsid}")} for nsid in range(1, 4)]
    qemu.close()
    result = module(*wanted)
    assert (result["rc"], result["changed"]) == (1, False)
    assert names(result) == {
        "applied": [],
        "failed": ["create sma-0"],
        "not_tried": ["create sma-1", "create sma-2"],
    }
    assert all("no QEMU listens" in entry["reason"] for entry in result["outcome"]["not_tried"])
    assert result["diff"] == {"before": {}, "after": {}}


@pytest.mark.parametrize("check", [True, False])
def test_what_is_refused_changes_nothing(module: Module, spdk: FakeSpdk, qemu: FakeQemu, check: bool) -> None:
    volumes = [spdk.add_bdev(f"st1n{nsid}") for nsid in range(1, 3)]
    module({"volume": volumes[0]})
    result = module({"volume": volumes[1]}, {"volume": volumes[0], "physical_id": 4}, check=check)
    assert (result["rc"], result["changed"]) == (1, False)
    assert result["msg"].startswith("Nothing was changed. devices[1]: the volume ")
    assert list(qemu.devices) == ["sma-0"]


def test_looking_is_the_same_in_check_mode(module: Module, sma: Any, spdk: FakeSpdk) -> None:
    module({"volume": spdk.add_bdev("st1n1"), "physical_id": 7})
    options = {"address": sma.address, "rpc_socket": str(spdk.path)}
    looked = [run_module("sma_info", options, check) for check in (True, False)]
    assert looked[0] == looked[1]
    assert (looked[0]["rc"], looked[0]["changed"]) == (0, False)
    assert [device["handle"] for device in looked[0]["devices"]] == ["virtio_blk:sma-7"]
