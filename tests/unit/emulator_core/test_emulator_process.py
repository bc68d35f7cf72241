"""The process: its command line, its socket, its start with a configuration and its end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from emulator_node import FILES, SECONDS, Emulator, ask

Start = Callable[..., Emulator]
MALLOC = {"method": "bdev_malloc_create", "params": {"name": "m", "num_blocks": 8, "block_size": 512}}
POOL = {"method": "iobuf_set_options", "params": {"small_pool_count": 20480}}


def config(tmp_path: Path, *calls: dict[str, Any]) -> str:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"subsystems": [{"subsystem": "any", "config": list(calls)}]}), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_removes_its_files(start: Start, tmp_path: Path, number: int) -> None:
    emulator = start("-f", str(tmp_path / "pid"))
    emulator.call("spdk_get_version")
    assert (tmp_path / "pid").read_text(encoding="ascii") == f"{emulator.process.pid}\n"
    assert emulator.stop(number) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pid", "spdk.log"]


def test_a_stale_socket_is_taken_over(start: Start) -> None:
    first = start()
    first.call("spdk_get_version")
    first.stop(signal.SIGKILL)
    assert first.path.exists()
    assert start().call("spdk_get_version")["version"].startswith("SPDK v26.05")


def test_a_socket_that_somebody_serves_is_left_alone(start: Start) -> None:
    first = start()
    first.call("spdk_get_version")
    second = start()
    assert second.wait() == 1
    assert f"RPC Unix domain socket path {first.path} in use" in second.log()
    assert first.call("spdk_get_version")


def test_all_options_of_spdk_tgt_are_taken(start: Start, tmp_path: Path) -> None:
    emulator = start(
        *("-S", str(tmp_path), "-m", "0x3", "-s", "1200", "--no-huge", "--interrupt-mode", "--disable-cpumask-locks"),
        *("-L", "nvmf", "-e", "0xf", "-i", "3", "-u", "-g", "-d", "-R", "-n", "2", "-p", "0", "--silence-noticelog"),
    )
    assert emulator.call("log_get_flags")["nvmf"] is True
    assert emulator.call("log_get_print_level") == "WARNING"


@pytest.mark.parametrize("arguments", [["--nope"], ["-Z"], ["stray"], ["-L", "nope"], ["-m", "1", "--lcores"]])
def test_what_spdk_tgt_does_not_take_is_an_error(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "spdk_emulator", *arguments]
    ended = subprocess.run(command, cwd=FILES, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ended.returncode != 0
    assert arguments[-1] in ended.stderr


def test_a_configuration_is_loaded_before_anybody_is_answered(start: Start, tmp_path: Path) -> None:
    emulator = start("--json", config(tmp_path, MALLOC, POOL))
    assert [bdev["name"] for bdev in emulator.call("bdev_get_bdevs")] == ["m"]
    (pool,) = emulator.call("framework_get_config", name="iobuf")
    assert pool["params"]["small_pool_count"] == 20480


def test_a_configuration_waits_for_the_framework(start: Start, tmp_path: Path) -> None:
    emulator = start("--wait-for-rpc", "-c", config(tmp_path, MALLOC, POOL))
    with pytest.raises(AssertionError, match="after framework is initialized"):
        emulator.call("bdev_get_bdevs")
    assert emulator.call("framework_start_init") is True
    assert [bdev["name"] for bdev in emulator.call("bdev_get_bdevs")] == ["m"]
    with pytest.raises(AssertionError, match="before framework is initialized"):
        emulator.call("iobuf_set_options", small_pool_count=8192)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"method": "nope"}, "nope failed: Method not found"),
        ({**MALLOC, "params": {}}, "bdev_malloc_create failed: spdk_json_decode_object failed"),
        ({"metod": "x"}, "cannot read the configuration"),
    ],
)
def test_a_configuration_that_fails_ends_the_start(
    start: Start, tmp_path: Path, call: dict[str, Any], message: str
) -> None:
    emulator = start("--json", config(tmp_path, MALLOC, call))
    assert emulator.wait() == 1
    assert message in emulator.log()


def test_errors_of_a_configuration_can_be_ignored(start: Start, tmp_path: Path) -> None:
    emulator = start("--json-ignore-init-errors", "--json", config(tmp_path, {"method": "nope"}, MALLOC))
    assert [bdev["name"] for bdev in emulator.call("bdev_get_bdevs")] == ["m"]


def test_what_framework_get_config_says_makes_the_same_bdevs_again(start: Start, tmp_path: Path) -> None:
    first = start(path=tmp_path / "first.sock")
    (tmp_path / "file").write_bytes(bytes(4096))
    first.call("bdev_malloc_create", num_blocks=8, block_size=512)
    first.call("bdev_null_create", name="n", num_blocks=8, block_size=4096)
    first.call("bdev_aio_create", name="a", filename=str(tmp_path / "file"), block_size=512)
    first.call("bdev_set_qos_limit", name="n", rw_ios_per_sec=1500)
    calls = first.call("framework_get_config", name="bdev")
    second = start("--json", config(tmp_path, *calls))
    assert second.call("bdev_get_bdevs") == first.call("bdev_get_bdevs")

    # The order of SPDK 26.05: modules first, then the other bdevs; malloc and null bdevs are batches.
    batches = first.call("framework_get_config", name="bdev", with_batches=True)
    methods = [[call["method"] for call in each] if isinstance(each, list) else each["method"] for each in batches]
    assert methods == [
        "bdev_set_options",
        ["bdev_malloc_create"],
        ["bdev_null_create"],
        "bdev_nvme_set_options",
        [],
        "bdev_nvme_set_hotplug",
        "bdev_set_qos_limit",
        "bdev_aio_create",
        "bdev_wait_for_examine",
    ]
    assert calls == [call for each in batches for call in (each if isinstance(each, list) else [each])]


def test_only_allowed_methods_can_be_called(start: Start) -> None:
    emulator = start("--rpcs-allowed", "rpc_get_methods,spdk_get_version")
    assert emulator.call("rpc_get_methods") == ["spdk_get_version", "rpc_get_methods"]
    with pytest.raises(AssertionError, match="Method not found"):
        emulator.call("bdev_get_bdevs")


def test_it_ends_itself_when_asked(start: Start) -> None:
    emulator = start()
    with emulator.connect() as connection:
        request = b'{"id":1,"method":"spdk_kill_instance","params":{"sig_name":"SIGTERM"}}'
        assert ask(connection, request)["result"] is True
    assert emulator.wait() == 0
    assert not emulator.path.exists()


def test_an_untouched_malloc_bdev_costs_no_memory(start: Start) -> None:
    emulator = start()
    emulator.call("spdk_get_version")
    before = emulator.rss()
    emulator.call("bdev_malloc_create", num_blocks=2 * 1024 * 1024, block_size=512)
    assert emulator.rss() - before < 4 * 1024 * 1024
    assert emulator.rss() < 60 * 1024 * 1024
