"""JSON-RPC with several NVMe-oF targets: which there are, and of which one a method is."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from emulator_node import Emulator, ask
from support.ports import free_port

A = "nqn.2016-06.io.spdk:a"
HOST = "nqn.2016-06.io.spdk:h"
UNKNOWN = {
    "nvmf_get_subsystems": {},
    "nvmf_delete_subsystem": {"nqn": A},
    "nvmf_subsystem_add_ns": {"nqn": A, "namespace": {"bdev_name": "n0"}},
    "nvmf_subsystem_remove_ns": {"nqn": A, "nsid": 1},
    "nvmf_subsystem_set_ns_ana_group": {"nqn": A, "nsid": 1, "anagrpid": 1},
    "nvmf_ns_add_host": {"nqn": A, "nsid": 1, "host": HOST},
    "nvmf_ns_remove_host": {"nqn": A, "nsid": 1, "host": HOST},
    "nvmf_subsystem_add_host": {"nqn": A, "host": HOST},
    "nvmf_subsystem_remove_host": {"nqn": A, "host": HOST},
    "nvmf_subsystem_allow_any_host": {"nqn": A, "allow_any_host": True},
    "nvmf_create_transport": {"trtype": "TCP"},
    "nvmf_get_transports": {},
    "nvmf_get_stats": {},
}


def refused(emulator: Emulator, method: str, **params: Any) -> tuple[int, str]:
    with emulator.connect() as connection:
        answer = ask(connection, json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode())
    return answer["error"]["code"], answer["error"]["message"]


def address(port: int) -> dict[str, str]:
    return {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)}


def test_targets_come_and_go(start: Callable[..., Emulator]) -> None:
    emulator = start()
    assert emulator.call("nvmf_get_targets") == ["nvmf_tgt"]
    assert emulator.call("nvmf_create_target", name="t1", max_subsystems=32) == "t1"
    assert emulator.call("nvmf_create_target", name="x" * 300, discovery_filter="transport,svcid") == "x" * 255
    assert emulator.call("nvmf_get_targets") == ["x" * 255, "t1", "nvmf_tgt"]
    assert refused(emulator, "nvmf_create_target", name="t1") == (-32602, "Target already exists.")
    assert emulator.call("nvmf_delete_target", name="t1") is True
    gone = (-32602, "The specified target doesn't exist, cannot delete it.")
    assert refused(emulator, "nvmf_delete_target", name="t1") == gone
    assert emulator.call("nvmf_get_targets") == ["x" * 255, "nvmf_tgt"]


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({}, "Invalid parameters"),
        ({"name": "t", "x": 1}, "Invalid parameters"),
        ({"name": "t", "discovery_filter": "match_any,transport"}, "Invalid parameters"),
        ({"name": "t", "discovery_filter": "foo"}, "Invalid parameters"),
        ({"name": "t", "dup_host_policy": "deny"}, "Invalid parameters"),
        ({"name": "t", "max_subsystems": 2**32 - 1}, "Unable to create the requested target."),
    ],
)
def test_targets_that_cannot_be_made(start: Callable[..., Emulator], params: dict[str, Any], error: str) -> None:
    emulator = start()
    assert refused(emulator, "nvmf_create_target", **params)[1] == error
    assert emulator.call("nvmf_get_targets") == ["nvmf_tgt"]


def test_a_method_needs_the_name_where_there_are_several(start: Callable[..., Emulator]) -> None:
    emulator = start()
    for given, name in (({}, "(null)"), ({"tgt_name": "nope"}, "nope")):
        if not given:
            emulator.call("nvmf_create_target", name="t1")
        for method, params in UNKNOWN.items():
            assert refused(emulator, method, **params, **given) == (-32603, "Unable to find a target."), method
        for method in ("nvmf_subsystem_get_controllers", "nvmf_subsystem_get_qpairs", "nvmf_subsystem_get_listeners"):
            assert refused(emulator, method, nqn=A, **given) == (-32603, "Unable to find a target")
        assert refused(emulator, "nvmf_discovery_get_referrals", **given) == (-32603, "Unable to find a target")
        assert refused(emulator, "nvmf_create_subsystem", nqn=A, **given) == (-32603, f"Unable to find target {name}")
        assert refused(emulator, "nvmf_subsystem_set_keys", nqn=A, host=HOST, **given) == (-32603, "Invalid parameters")


def test_each_target_has_its_own(start: Callable[..., Emulator]) -> None:
    emulator, port = start(), free_port()
    other, main = {"tgt_name": "t1"}, {"tgt_name": "nvmf_tgt"}
    emulator.call("nvmf_create_target", name="t1", max_subsystems=1)
    assert emulator.call("nvmf_get_subsystems", **other) == [], "no discovery subsystem either"
    emulator.call("nvmf_create_subsystem", nqn=A, allow_any_host=True, **other)
    assert refused(emulator, "nvmf_create_subsystem", nqn=HOST, **other)[1] == f"Unable to create subsystem {HOST}"
    emulator.call("nvmf_create_subsystem", nqn=A, **main)
    emulator.call("nvmf_create_transport", trtype="TCP", max_io_size=65536, **other)
    assert emulator.call("nvmf_get_transports", **main) == []
    emulator.call("nvmf_create_transport", trtype="TCP", **main)
    assert [each["max_io_size"] for each in emulator.call("nvmf_get_transports", **other)] == [65536]

    emulator.call("nvmf_subsystem_add_listener", nqn=A, listen_address=address(port), **other)
    taken = refused(emulator, "nvmf_subsystem_add_listener", nqn=A, listen_address=address(port), **main)
    assert taken == (-32602, "Invalid parameters")
    emulator.call("nvmf_discovery_add_referral", address=address(4420), **other)
    assert emulator.call("nvmf_discovery_get_referrals", **main) == []
    assert emulator.call("nvmf_get_stats", **other)["poll_groups"] == []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        assert connection.recv(1) == b"", "nobody serves it"

    saved = [call["method"] for call in emulator.call("framework_get_config", name="nvmf")]
    assert "nvmf_discovery_add_referral" not in saved, "the configuration is the main target's"
    assert saved.count("nvmf_create_subsystem") == 1

    emulator.call("nvmf_delete_target", name="t1")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    emulator.call("nvmf_subsystem_add_listener", nqn=A, listen_address=address(port))


def test_a_deleted_target_keeps_its_bdevs_as_in_spdk(start: Callable[..., Emulator]) -> None:
    emulator = start()
    emulator.call("bdev_null_create", name="n0", num_blocks=64, block_size=512)
    emulator.call("nvmf_create_target", name="t1")
    emulator.call("nvmf_create_subsystem", nqn=A, tgt_name="t1")
    emulator.call("nvmf_subsystem_add_ns", nqn=A, namespace={"bdev_name": "n0"}, tgt_name="t1")
    emulator.call("nvmf_delete_target", name="t1")
    assert emulator.call("bdev_get_bdevs", name="n0")[0]["claimed"] is True
    assert emulator.stop() == 0


def test_the_main_target_is_deleted_but_never_gone(start: Callable[..., Emulator]) -> None:
    emulator = start()
    with emulator.connect() as waiting:
        waiting.sendall(b'{"jsonrpc":"2.0","id":1,"method":"nvmf_delete_target","params":{"name":"nvmf_tgt"}}')
        emulator.until(lambda: emulator.call("nvmf_get_targets") == [])
        assert refused(emulator, "nvmf_get_stats") == (-32603, "Unable to find a target.")
        saved = emulator.call("framework_get_config", name="nvmf")
        assert saved[0]["method"] == "nvmf_set_config"
        assert emulator.call("nvmf_create_target", name="nvmf_tgt") == "nvmf_tgt"
        assert emulator.call("nvmf_get_stats")["poll_groups"] == []
        waiting.setblocking(False)
        with pytest.raises(BlockingIOError):
            waiting.recv(1)
    assert emulator.stop() == 0


def test_a_discovery_subsystem_is_one_that_the_target_began_with(start: Callable[..., Emulator]) -> None:
    emulator, nqn = start(), "nqn.2014-08.org.nvmexpress.discovery"
    emulator.call("nvmf_delete_subsystem", nqn=nqn)
    emulator.call("nvmf_create_subsystem", nqn=nqn)
    assert [each["subtype"] for each in emulator.call("nvmf_get_subsystems")] == ["NVMe"]


@pytest.mark.parametrize("mask", ["0x4", "zz", "", "[0-3]"])
def test_poll_groups_need_cores_of_the_process(start: Callable[..., Emulator], tmp_path: Path, mask: str) -> None:
    emulator = start("-m", "0x3", "--wait-for-rpc")
    before = refused(emulator, "nvmf_set_config", poll_groups_mask=mask, discovery_filter="address")
    assert before == (-32602, "Invalid parameters")
    emulator.call("framework_start_init")
    groups = emulator.call("nvmf_get_stats")["poll_groups"]
    assert [group["name"] for group in groups] == ["nvmf_tgt_poll_group_000", "nvmf_tgt_poll_group_001"]
    config = emulator.call("framework_get_config", name="nvmf")[0]["params"]
    assert config["discovery_filter"] == "match_any"
    assert "poll_groups_mask" not in config


def test_poll_groups_of_some_cores(start: Callable[..., Emulator]) -> None:
    emulator = start("-m", "0x3", "--wait-for-rpc")
    emulator.call("nvmf_set_config", poll_groups_mask="[1]", dup_host_policy="restrict_per_listener")
    emulator.call("framework_start_init")
    [group] = emulator.call("nvmf_get_stats")["poll_groups"]
    assert group["name"] == "nvmf_tgt_poll_group_000"
    config = emulator.call("framework_get_config", name="nvmf")[0]["params"]
    assert (config["poll_groups_mask"], config["dup_host_policy"]) == ("2", "restrict_per_listener")
