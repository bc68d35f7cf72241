"""What is wrong in a module's arguments is one clear error, and SPDK hears nothing of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.modules import run_module

NQN = "nqn.2022-06.io.ipdk:st1:ipu1"
MALLOC = {"name": "a", "type": "malloc", "size": "1MiB"}
CONTROLLER = {"name": "st1", "traddr": "198.18.0.2", "subnqn": NQN}


@pytest.fixture
def deaf(tmp_path: Path) -> Iterator[str]:
    """A socket that notices any attempt to connect."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        listener.setblocking(False)
        yield str(tmp_path / "s")
        with pytest.raises(BlockingIOError):
            listener.accept()


def bdev(**more: Any) -> dict[str, Any]:
    return {"bdevs": [{**MALLOC, **more}]}


def subsystem(**more: Any) -> dict[str, Any]:
    return {"subsystems": [{"nqn": NQN, **more}]}


def controller(**more: Any) -> dict[str, Any]:
    return {"controllers": [{**CONTROLLER, **more}]}


BAD_NAMES = ("a/b", "..", "a..b", "a b", "a\nb", "", "-a", "a\n", "x" * 64, "ä")

CASES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("spdk_bdev", {"bdevs": "a"}, ["dictionary requested"]),
    ("spdk_bdev", {"bdevs": [MALLOC], "nope": 1}, ["nope"]),
    ("spdk_bdev", bdev(nope=1), ["nope"]),
    ("spdk_bdev", bdev(block_size="many"), ["block_size", "many"]),
    ("spdk_bdev", bdev(type="floppy"), ["floppy"]),
    ("spdk_bdev", bdev(state="gone"), ["gone"]),
    ("spdk_bdev", {"bdevs": [{"type": "malloc"}]}, ["name"]),
    ("spdk_bdev", {"bdevs": [MALLOC, {**MALLOC, "name": "b"}, MALLOC]}, ["bdevs[0] and bdevs[2]", "same name: a"]),
    *[("spdk_bdev", bdev(name=name), ["bdevs[0].name", "no valid name"]) for name in BAD_NAMES],
    ("spdk_bdev", bdev(size="1000"), ["bdevs[0].size (a)", "1000 bytes are no multiple of the block size 512"]),
    ("spdk_bdev", bdev(size="1MiB", block_size=2**21), ["no multiple of the block size 2097152"]),
    ("spdk_bdev", bdev(size="64MB"), ["bdevs[0].size", "'64MB' is no size"]),
    ("spdk_bdev", bdev(size="-1"), ["'-1' is no size"]),
    ("spdk_bdev", bdev(size="0"), ["'0' is no size"]),
    ("spdk_bdev", bdev(size="1.5GiB"), ["'1.5GiB' is no size"]),
    ("spdk_bdev", bdev(block_size=500), ["500 is no power of two"]),
    ("spdk_bdev", bdev(num_blocks=8), ["exclude each other"]),
    ("spdk_bdev", bdev(size=None), ["needs size or num_blocks"]),
    ("spdk_bdev", bdev(size=None, num_blocks=0), ["0 is less than 1"]),
    ("spdk_bdev", bdev(uuid="xyz"), ["bdevs[0].uuid (a): 'xyz' is no UUID"]),
    ("spdk_bdev", bdev(filename="/x"), ["filename is for aio"]),
    ("spdk_bdev", {"bdevs": [{"name": "a", "type": "aio"}]}, ["filename"]),
    ("spdk_bdev", {"bdevs": [{"name": "a", "size": "1MiB"}]}, ["type is missing"]),
    ("spdk_bdev", {"bdevs": [MALLOC], "rpc_socket": "nowhere"}, ["nowhere is neither the path"]),
    ("spdk_bdev", {"bdevs": [MALLOC], "rpc_timeout": 0}, ["timeout", "more than 0"]),
    ("spdk_bdev", {"bdevs": [{"name": "a", "type": None, "size": "1MiB"}]}, ["malloc, null, aio, got: None"]),
    ("spdk_nvmf_transport", {"transports": [{"trtype": "PIGEON"}]}, ["PIGEON"]),
    ("spdk_nvmf_transport", {"transports": [{"trtype": "TCP"}] * 2}, ["transports[0] and transports[1]"]),
    ("spdk_nvmf_subsystem", {"subsystems": [{"nqn": "bad nqn"}]}, ["subsystems[0].nqn", "'bad nqn' is no valid NQN"]),
    ("spdk_nvmf_subsystem", {"subsystems": [{"nqn": NQN + "/x"}]}, ["no valid NQN"]),
    ("spdk_nvmf_subsystem", {"subsystems": [{"nqn": NQN + "x" * 223}]}, ["no valid NQN"]),
    ("spdk_nvmf_subsystem", {"subsystems": [{"nqn": NQN}] * 2}, ["subsystems[0] and subsystems[1]", NQN]),
    ("spdk_nvmf_subsystem", subsystem(serial_number="x" * 21), ["serial_number", "1 to 20"]),
    ("spdk_nvmf_subsystem", subsystem(model_number="ä"), ["model_number", "1 to 40"]),
    ("spdk_nvmf_subsystem", subsystem(max_namespaces=0), ["max_namespaces", "0"]),
    ("spdk_nvmf_subsystem", subsystem(hosts=["bad"]), ["hosts[0].nqn", "'bad'"]),
    ("spdk_nvmf_subsystem", subsystem(hosts=[7]), ["hosts[0]", "neither an NQN nor a dictionary"]),
    ("spdk_nvmf_subsystem", subsystem(hosts=[{"nqn": NQN, "key": 1}]), ["hosts[0]", "unknown options: key"]),
    ("spdk_nvmf_subsystem", subsystem(hosts=[NQN, {"nqn": NQN}]), ["hosts[0] and subsystems[0].hosts[1]"]),
    ("spdk_nvmf_subsystem", subsystem(namespaces=[{"bdev": "a"}, {"bdev": "a"}]), ["namespaces[0]", "same bdev: a"]),
    ("spdk_nvmf_subsystem", subsystem(namespaces=[{"bdev": b, "nsid": 1} for b in "ab"]), ["same nsid: 1"]),
    ("spdk_nvmf_subsystem", subsystem(namespaces=[{"bdev": "../a"}]), ["namespaces[0].bdev", "'../a'"]),
    ("spdk_nvmf_subsystem", subsystem(namespaces=[{"nsid": 1}]), ["namespaces[0]: bdev is missing"]),
    ("spdk_nvmf_subsystem", subsystem(namespaces=[{"bdev": "a", "nguid": "zz"}]), ["nguid", "32 hexadecimal"]),
    ("spdk_nvmf_subsystem", subsystem(listeners=[{"traddr": "storage.example"}]), ["traddr", "resolves no host names"]),
    ("spdk_nvmf_subsystem", subsystem(listeners=[{"traddr": "::1", "adrfam": "IPv4"}]), ["::1 is no IPv4 address"]),
    ("spdk_nvmf_subsystem", subsystem(listeners=[{"traddr": "127.0.0.1", "trsvcid": 99999}]), ["'99999' is no port"]),
    ("spdk_nvmf_subsystem", subsystem(listeners=[{"traddr": "127.0.0.1"}] * 2), ["listeners[0]", "same address"]),
    ("spdk_nvmf_subsystem", {**subsystem(), "purge": ["everything"]}, ["everything"]),
    ("spdk_nvme_controller", controller(name="a b"), ["controllers[0].name", "no valid name"]),
    ("spdk_nvme_controller", controller(traddr=None), ["controllers[0] (st1): traddr is missing"]),
    ("spdk_nvme_controller", controller(subnqn=None), ["subnqn is missing"]),
    ("spdk_nvme_controller", controller(hostnqn="x"), ["controllers[0].hostnqn (st1)", "'x'"]),
    ("spdk_nvme_controller", controller(reconnect_delay_sec=0), ["reconnect_delay_sec of 1 at least"]),
    ("spdk_nvme_controller", controller(ctrlr_loss_timeout_sec=0), ["ctrlr_loss_timeout_sec other than 0"]),
    ("spdk_nvme_controller", controller(paths=[{"traddr": "198.18.0.3"}]), ["several paths need multipath"]),
    ("spdk_nvme_controller", {"controllers": [CONTROLLER] * 2}, ["controllers[0] and controllers[1]", "st1"]),
    ("spdk_nvme_controller", {**controller(), "wait_for_bdevs": ["a b"]}, ["wait_for_bdevs[0]", "'a b'"]),
    ("spdk_info", {"gather": ["secrets"]}, ["secrets"]),
    ("spdk_rpc", {}, ["method", "calls"]),
    ("spdk_rpc", {"method": "a", "calls": []}, ["mutually exclusive"]),
    ("spdk_rpc", {"calls": [{"params": {}}]}, ["method"]),
    ("spdk_rpc", {"calls": [{"method": "a", "parameters": {}}]}, ["parameters"]),
]


@pytest.mark.parametrize(("name", "options", "said"), CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)])
def test_bad_input(deaf: str, name: str, options: dict[str, Any], said: list[str]) -> None:
    result = run_module(name, {"rpc_socket": deaf, **options})
    assert (result["rc"], result["failed"]) == (1, True)
    assert all(words in result["msg"] for words in said), result["msg"]


@pytest.mark.parametrize("name", ["spdk_bdev", "spdk_info", "spdk_rpc"])
def test_an_unreachable_spdk(tmp_path: Path, name: str) -> None:
    options = {"spdk_bdev": bdev(), "spdk_info": {}, "spdk_rpc": {"method": "spdk_get_version"}}[name]
    result = run_module(name, {"rpc_socket": str(tmp_path / "none"), **options})
    assert result["rc"] == 1
    assert str(tmp_path / "none") in result["msg"] and "is SPDK running" in result["msg"]
