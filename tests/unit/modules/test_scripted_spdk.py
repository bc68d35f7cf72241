"""Modules against a scripted SPDK: races, old releases, cut connections, secrets, and how much is asked and held."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripted import Peer, serving, spdk
from support.modules import COLLECTIONS, run_module

NQN = "nqn.2022-06.io.ipdk:st1:ipu1"


def bdev_answer(name: str, blocks: int = 2048, block_size: int = 512) -> dict[str, Any]:
    return {
        "name": name,
        "aliases": [],
        "product_name": "Malloc disk",
        "block_size": block_size,
        "num_blocks": blocks,
        "uuid": "00000000-0000-4000-8000-000000000001",
        "claimed": False,
        "supported_io_types": {f"io_type_{i}": True for i in range(25)},
        "driver_specific": {},
    }


def version(major: int, minor: int) -> dict[str, Any]:
    return {"version": f"SPDK v{major}.{minor:02d}", "fields": {"major": major, "minor": minor, "patch": 0}}


def refuse(code: int, message: str) -> Any:
    raise LookupError(code, message)


MALLOC = {"name": "a", "type": "malloc", "size": "1MiB"}


def test_somebody_else_makes_the_same_bdev_meanwhile(tmp_path: Path) -> None:
    answers = iter([[], [bdev_answer("a")]])
    state = {
        "bdev_get_bdevs": lambda _unused: next(answers),
        "bdev_malloc_create": lambda _unused: refuse(-17, "File exists"),
    }
    with serving(tmp_path / "s", spdk(state)) as address:
        result = run_module("spdk_bdev", {"rpc_socket": address, "bdevs": [MALLOC]})
    assert (result["rc"], result["changed"]) == (0, False)
    assert "somebody else was faster" in str(result["warnings"])


def test_somebody_else_makes_another_bdev_of_that_name_meanwhile(tmp_path: Path) -> None:
    answers = iter([[], [bdev_answer("a", block_size=4096)]])
    state = {
        "bdev_get_bdevs": lambda _unused: next(answers),
        "bdev_malloc_create": lambda _unused: refuse(-17, "File exists"),
    }
    with serving(tmp_path / "s", spdk(state)) as address:
        result = run_module("spdk_bdev", {"rpc_socket": address, "bdevs": [{**MALLOC, "block_size": 512}]})
    assert (result["rc"], result["changed"]) == (1, False)
    assert "block_size 4096, wanted 512" in result["msg"]


def test_a_connection_that_breaks_in_the_middle(tmp_path: Path) -> None:
    """The first bdev is made and answered, the second is made without an answer, the third is not made."""

    def first(peer: Peer) -> None:
        peer.answer(peer.requests(1)[0], [])
        peer.answer(peer.requests(3)[0], "a")

    later = spdk({"bdev_get_bdevs": lambda _unused: [bdev_answer("a"), bdev_answer("b")]})
    with serving(tmp_path / "s", first, later) as address:
        bdevs = [{**MALLOC, "name": name} for name in "abc"]
        result = run_module("spdk_bdev", {"rpc_socket": address, "bdevs": bdevs})
    assert (result["rc"], result["changed"]) == (1, True)
    assert [entry["name"] for entry in result["outcome"]["applied"]] == ["a", "b"]
    assert [entry["name"] for entry in result["outcome"]["failed"]] == ["c"]
    assert sorted(result["diff"]["after"]) == ["a", "b"]


def test_what_was_done_is_told_when_spdk_is_gone_before_it_is_looked_at(tmp_path: Path) -> None:
    """The volume is made; the controller is attached and its bdevs are waited for."""
    store = {
        "name": "fast",
        "uuid": "00000000-0000-4000-8000-000000000002",
        "base_bdev": "base",
        "cluster_size": 2**20,
        "total_data_clusters": 63,
        "free_clusters": 63,
    }
    controller = {"name": "st1", "traddr": "127.0.0.1", "subnqn": NQN}
    for name, options, script, made in [
        (
            "spdk_lvol",
            {"lvols": [{"name": "v0", "store": "fast", "size": "1MiB"}]},
            [
                ("bdev_wait_for_examine", True),
                ("bdev_lvol_get_lvstores", [store]),
                ("bdev_get_bdevs", []),
                ("spdk_get_version", version(26, 5)),
                ("bdev_lvol_create", "00000000-0000-4000-8000-000000000003"),
            ],
            "fast/v0",
        ),
        (
            "spdk_nvme_controller",
            {"controllers": [controller], "wait_for_bdevs": ["st1n1"]},
            [("bdev_nvme_get_controllers", []), ("bdev_nvme_attach_controller", [])],
            "st1",
        ),
    ]:
        asked: list[str] = []
        with serving(tmp_path / f"{name}.s", in_order(script, asked, leave=True)) as address:
            result = run_module(name, {"rpc_socket": address, "rpc_timeout": 2, **options})
        assert asked == [method for method, _result in script]
        assert (result["rc"], result["changed"]) == (1, True), result
        assert [entry["name"] for entry in result["outcome"]["applied"]] == [made]
        assert result["msg"].startswith("what is there now could not be read: "), result["msg"]


def test_a_release_without_the_parameter_is_refused(tmp_path: Path) -> None:
    state = {"bdev_get_bdevs": lambda _unused: [], "spdk_get_version": lambda _unused: version(24, 5)}
    aio = {"name": "a", "type": "aio", "filename": "/x", "uuid": "00000000-0000-4000-8000-000000000001"}
    with serving(tmp_path / "s", spdk(state)) as address:
        result = run_module("spdk_bdev", {"rpc_socket": address, "bdevs": [aio]})
    assert result["rc"] == 1 and "uuid of aio bdevs needs release 24.09, this is 24.05" in result["msg"]


def test_an_info_section_that_is_not_there_is_named_and_not_empty(tmp_path: Path) -> None:
    with serving(tmp_path / "s", spdk({"bdev_get_bdevs": lambda _unused: []})) as address:
        result = run_module("spdk_info", {"rpc_socket": address, "gather": ["bdevs", "vhost_controllers"]})
    assert (result["spdk"], result["unsupported"]) == ({"bdevs": []}, ["vhost_controllers"])


def test_an_info_section_without_an_answer_is_a_failure(tmp_path: Path) -> None:
    state = {"bdev_get_bdevs": lambda _unused: [], "nvmf_get_subsystems": lambda _unused: refuse(-1, "not started")}
    with serving(tmp_path / "s", spdk(state)) as address:
        result = run_module("spdk_info", {"rpc_socket": address, "gather": ["bdevs", "subsystems"]})
    assert result["rc"] == 1 and "nvmf_get_subsystems: not started" in result["msg"]


def test_a_key_is_nowhere_in_what_a_module_prints(tmp_path: Path) -> None:
    params = {"name": "k", "cipher": "AES_XTS", "key": "00112233445566778899aabbccddeeff", "key2": "5ec2e75ec2e7"}
    state = {"accel_crypto_key_create": lambda p: refuse(-22, f"bad {p['key']} and {p['key2']}")}
    with serving(tmp_path / "s", spdk(state)) as address:
        result = run_module("spdk_rpc", {"rpc_socket": address, "method": "accel_crypto_key_create", "params": params})
    assert result["rc"] == 1 and "(name k)" in result["msg"]
    assert params["key"] not in json.dumps(result)
    assert params["key2"] not in json.dumps(result)


def subsystem_answer() -> dict[str, Any]:
    return {
        "nqn": NQN,
        "listen_addresses": [{"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": "4420"}],
        "allow_any_host": False,
        "hosts": [],
        "max_namespaces": 1024,
        "namespaces": [{"nsid": i + 1, "bdev_name": f"b{i}"} for i in range(64)],
    }


def in_order(script: list[tuple[str, Any]], asked: list[str], leave: bool = False) -> Callable[[Peer], None]:
    """Answer each request with what the script has next; ``asked`` gets the methods, also of one too many.

    ``leave``: close the connection at the end of the script.
    """

    def answer(peer: Peer) -> None:
        for _method, result in script:
            (request,) = peer.requests(1)
            asked.append(request["method"])
            peer.answer(request, result)
        if leave:
            return
        asked.extend(request["method"] for request in peer.requests(1))

    return answer


def test_a_second_run_asks_once(tmp_path: Path) -> None:
    """Whatever is asked more often than here has no answer, and the module fails."""
    address = subsystem_answer()["listen_addresses"][0]
    path = {"state": "enabled", "trid": {**address, "subnqn": NQN}, "host": {"nqn": ""}}
    controllers = [{"name": "c", "ctrlrs": [path]}]
    runs: list[tuple[str, dict[str, Any], list[tuple[str, Any]]]] = [
        (
            "spdk_bdev",
            {"bdevs": [{**MALLOC, "name": f"b{i}"} for i in range(64)]},
            [("bdev_get_bdevs", [bdev_answer(f"b{i}") for i in range(64)])],
        ),
        (
            "spdk_nvmf_transport",
            {"transports": [{"trtype": "TCP", "kas": 100}]},
            [("nvmf_get_transports", [{"trtype": "TCP", "kas": 100}])],
        ),
        (
            "spdk_nvmf_subsystem",
            {
                "subsystems": [
                    {
                        "nqn": NQN,
                        "namespaces": [{"bdev": f"b{i}"} for i in range(64)],
                        "listeners": [{"traddr": "127.0.0.1"}],
                    }
                ]
            },
            [("nvmf_get_subsystems", [subsystem_answer()])],
        ),
        (
            "spdk_nvme_controller",
            {"controllers": [{"name": "c", "traddr": "127.0.0.1", "subnqn": NQN}], "wait_for_bdevs": ["cn1"]},
            [("bdev_nvme_get_controllers", controllers), ("bdev_get_bdevs", [bdev_answer("cn1")])],
        ),
    ]
    for name, options, script in runs:
        asked: list[str] = []
        with serving(tmp_path / f"{name}.s", in_order(script, asked)) as address:
            result = run_module(name, {"rpc_socket": address, **options})
        assert (result["rc"], result["changed"]) == (0, False), result
        assert asked == [method for method, _result in script]


def test_a_thousand_volumes_in_bounded_memory(tmp_path: Path) -> None:
    """Both the answer and the arguments have a thousand items; the limit is that of the issue, 120 MB."""
    there = [bdev_answer(f"volume{i:04d}") for i in range(1000)]
    wanted = [{"name": f"volume{i:04d}", "type": "malloc", "size": "1MiB"} for i in range(1000)]
    run = """
import sys
from ansible_collections.ipdk.storage.plugins.modules import spdk_bdev
try:
    spdk_bdev.main()
finally:
    # Not ru_maxrss: that begins with what the parent had when it forked.
    print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")), file=sys.stderr)
"""
    arguments = {"ANSIBLE_MODULE_ARGS": {"bdevs": wanted, "_ansible_diff": True}}
    with serving(tmp_path / "s", spdk({"bdev_get_bdevs": lambda _unused: there})) as address:
        arguments["ANSIBLE_MODULE_ARGS"]["rpc_socket"] = address
        done = subprocess.run(
            [sys.executable, "-c", run],
            input=json.dumps(arguments),
            env={"PYTHONPATH": str(COLLECTIONS)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    assert json.loads(done.stdout)["changed"] is False
    assert int(done.stderr) < 120 * 1024  # KiB
