"""Whatever parameters a method is called with, it answers, and with an error that it means."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from emulator_node import Emulator, answers
from spdk_emulator.app import load_methods
from spdk_emulator.jsonrpc.registry import METHODS, Method

CALLS = 25
VALUES = (
    0, 1, 2, 512, 4096, -1, 2**32 - 1, 2**32, 2**64 - 1, 1.5, 1e300, True, False, None, [], {}, [{}], [None], {"a": {}},
    "", "m0", "n0", "st1", "sma-0", "TCP", "tcp", "IPv4", "127.0.0.1", "nope", "../../x", "a/b", "a\nb", "x" * 300, "ü",
    "nqn.2016-06.io.spdk:a", "nqn.2014-08.org.nvmexpress.discovery", "00000000-0000-4000-8000-000000000001", "0x1",
)  # fmt: skip


def invented(method: Method, chance: random.Random) -> Any:
    """Parameters of which most are known by name, and few by value."""
    if chance.random() < 0.05:
        return chance.choice(VALUES)
    names = [name for name, param in (method.params or {}).items() if param.required or chance.random() < 0.5]
    names = [name for name in names if name != "timeout"]  # it would be waited for
    names += ["unknown"] if chance.random() < 0.1 else []
    return {name: value(chance) for name in names}


def value(chance: random.Random) -> Any:
    if chance.random() < 0.1:
        keys = ("bdev_name", "nsid", "trtype", "traddr", "adrfam", "trsvcid")
        return {key: value(chance) for key in keys if chance.random() < 0.7}
    return chance.choice(VALUES)


def test_odd_parameters_are_answered_and_never_by_an_exception(start: Callable[..., Emulator], tmp_path: Path) -> None:
    load_methods()
    chance = random.Random(20260523)
    emulator = start("-S", str(tmp_path))
    emulator.call("bdev_malloc_create", name="m0", num_blocks=64, block_size=512)
    emulator.call("bdev_null_create", name="n0", num_blocks=64, block_size=4096)
    requests = [
        {"jsonrpc": "2.0", "id": f"{name} {json.dumps(params)}", "method": name, "params": params}
        for name, method in METHODS.items()
        if name != "spdk_kill_instance"
        for params in (invented(method, chance) for _unused in range(CALLS))
        if params is None or isinstance(params, (dict, list))
    ]
    with emulator.connect() as connection:
        for request in requests:
            connection.sendall(json.dumps(request).encode())
            (answer,) = answers(connection, 1)
            assert answer["id"] == request["id"]
            # The answer alone does not tell: SPDK says "Internal error" of a host that cannot be removed, too.
            assert "Traceback" not in emulator.log(), request
    assert emulator.process.poll() is None


def test_the_discovery_subsystem_may_be_deleted(start: Callable[..., Emulator], tmp_path: Path) -> None:
    emulator = start("-S", str(tmp_path))
    emulator.call("nvmf_create_transport", trtype="TCP")
    emulator.call("nvmf_delete_subsystem", nqn="nqn.2014-08.org.nvmexpress.discovery")
    emulator.call("nvmf_create_subsystem", nqn="nqn.2022-06.io.ipdk:test", allow_any_host=True)
    assert [each["nqn"] for each in emulator.call("nvmf_get_subsystems")] == ["nqn.2022-06.io.ipdk:test"]


@pytest.mark.parametrize("field", ["serial_number", "model_number"])
def test_identifiers_have_no_control_characters(start: Callable[..., Emulator], tmp_path: Path, field: str) -> None:
    emulator = start("-S", str(tmp_path))
    emulator.call("nvmf_create_transport", trtype="TCP")
    with pytest.raises(AssertionError, match="-32602.*Invalid parameters"):
        emulator.call("nvmf_create_subsystem", nqn="nqn.2022-06.io.ipdk:test", **{field: "SPDK\x1f"})
    assert len(emulator.call("nvmf_get_subsystems")) == 1
