"""Encrypted bdevs: the ciphertext is SPDK's, and keys, bases and bdevs come and go as there."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from spdk_emulator.bdev.models import Op, Status
from spdk_emulator.jsonrpc.errors import RpcError
from support.emulator import FILES, CallFailed, Emulator
from support.initiator import Initiator, io

KNOWN = json.loads((Path(__file__).parent / "spdk-26.05-ciphertext.json").read_text(encoding="utf-8"))
"""What SPDK 26.05 (spdk_dd to a crypto bdev on an aio file) made of :data:`PLAIN`: digest, and beginnings of blocks."""
PLAIN = bytes(index * 7 % 251 for index in range(4 * 1024 * 1024))
KEYS = {"key": "00112233445566778899aabbccddeeff", "key2": "ffeeddccbbaa99887766554433221100"}
MIB = 1024 * 1024


def run(scenario: Callable[[Initiator], Awaitable[None]]) -> None:
    async def whole() -> None:
        await asyncio.wait_for(scenario(Initiator()), 120)

    asyncio.run(whole())


async def with_key(node: Initiator, name: str = "k", **changed: str) -> None:
    await node.call("accel_crypto_key_create", name=name, cipher="AES_XTS", **{**KEYS, **changed})


async def encrypted(node: Initiator, blocks: int = 2048) -> None:
    """c on the malloc bdev m, by the key k."""
    await node.call("bdev_malloc_create", name="m", num_blocks=blocks, block_size=512)
    await with_key(node)
    assert await node.call("bdev_crypto_create", base_bdev_name="m", name="c", key_name="k") == "c"


async def refusal(call: Awaitable[Any]) -> tuple[int, str]:
    try:
        answer = await call
    except RpcError as error:
        return error.code, error.message
    except OSError as error:
        return -(error.errno or 0), error.strerror or ""
    raise AssertionError(f"not refused: {answer}")


async def names(node: Initiator) -> list[str]:
    return [bdev["name"] for bdev in await node.call("bdev_get_bdevs")]


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: f"{len(known['key']) * 4}-{known['block_size']}")
def test_the_file_is_what_spdk_makes_of_it(known: dict[str, Any], tmp_path: Path) -> None:
    file, size = tmp_path / "file", known["block_size"]
    file.write_bytes(bytes(len(PLAIN)))

    async def scenario(node: Initiator) -> None:
        await with_key(node, key=known["key"], key2=known["key2"])
        await node.call("bdev_aio_create", name="a", filename=str(file), block_size=size)
        await node.call("bdev_crypto_create", base_bdev_name="a", name="c", key_name="k")
        disk = node.open("c")
        half = len(PLAIN) // 2
        assert await io(disk, Op.WRITE, half, bytearray(PLAIN[half:])) == Status.SUCCESS
        assert await io(disk, Op.WRITE, 0, bytearray(PLAIN[:half])) == Status.SUCCESS
        read = bytearray(len(PLAIN))
        assert await io(disk, Op.READ, 0, read) == Status.SUCCESS
        assert read == PLAIN

    run(scenario)
    there = file.read_bytes()
    assert {n: there[int(n) * size :][:64].hex() for n in known["beginnings"]} == known["beginnings"]
    assert hashlib.sha256(there).hexdigest() == known["sha256"]


def test_pieces_of_any_size_make_one_request() -> None:
    async def scenario(node: Initiator) -> None:
        await encrypted(node)
        disk, base = node.app.bdevs.open("c", True, lambda *_event: None), node.app.bdevs.get("m")
        pieces = [memoryview(bytearray(PLAIN[:100])), memoryview(bytearray(PLAIN[100:4096]))]
        done: list[int] = []
        disk.io(Op.WRITE, 512, 4096, pieces, done.append)
        left, right = bytearray(1000), bytearray(3096)
        disk.io(Op.READ, 512, 4096, [memoryview(left), memoryview(right)], done.append)
        assert done == [Status.SUCCESS] * 2
        assert left + right == PLAIN[:4096]
        raw = bytearray(4096)
        assert await io(node.app.bdevs.open("m", False, lambda *_event: None), Op.READ, 512, raw) == Status.SUCCESS
        assert raw != PLAIN[:4096]
        assert base.claimed_by == "crypto"

    run(scenario)


@pytest.mark.parametrize(("offset", "length"), [(512, 1024), (0, MIB), (512, 700 * 512)])
def test_zeroes_are_written_encrypted_and_nothing_beside_them(offset: int, length: int) -> None:
    async def scenario(node: Initiator) -> None:
        await encrypted(node)
        disk = node.open("c")
        assert await io(disk, Op.WRITE, 0, bytearray(PLAIN[:MIB])) == Status.SUCCESS
        assert await io(disk, Op.WRITE_ZEROES, offset, length) == Status.SUCCESS
        read = bytearray(MIB)
        assert await io(disk, Op.READ, 0, read) == Status.SUCCESS
        assert read == PLAIN[:offset] + bytes(length) + PLAIN[offset + length : MIB]
        raw = bytearray(512)
        assert await io(node.app.bdevs.open("m", False, lambda *_event: None), Op.READ, offset, raw) == Status.SUCCESS
        assert raw.count(0) < 64

    run(scenario)


def test_unmap_flush_and_reset_reach_the_base() -> None:
    async def scenario(node: Initiator) -> None:
        await encrypted(node)
        disk = node.open("c")
        assert await io(disk, Op.WRITE, 0, bytearray(b"\xaa" * 4096)) == Status.SUCCESS
        for op in (Op.UNMAP, Op.FLUSH, Op.RESET):
            assert await io(disk, op, 0, 0 if op == Op.RESET else 4096) == Status.SUCCESS
        raw = bytearray(4096)
        assert await io(node.app.bdevs.open("m", False, lambda *_event: None), Op.READ, 0, raw) == Status.SUCCESS
        assert raw == bytes(4096)

    run(scenario)


def test_a_wrong_key_reads_something_else() -> None:
    async def scenario(node: Initiator) -> None:
        await encrypted(node)
        disk = node.open("c")
        assert await io(disk, Op.WRITE, 0, bytearray(PLAIN[:4096])) == Status.SUCCESS
        await with_key(node, "other", key2="00" * 16)
        await node.call("bdev_crypto_delete", name="c")
        await node.call("bdev_crypto_create", base_bdev_name="m", name="c", key_name="other")
        read = bytearray(4096)
        assert await io(node.open("c"), Op.READ, 0, read) == Status.SUCCESS
        assert read != PLAIN[:4096]

    run(scenario)


@pytest.mark.parametrize(
    "params",
    [
        {"tweak_mode": "JOIN_NEG_LBA_WITH_LBA"},
        {"tweak_mode": "INCR_512_FULL_LBA"},
        {"tweak_mode": "INCR_512_UPPER_LBA"},
        {"cipher": "AES_CBC"},
        {"key2": KEYS["key"]},
        {"key2": KEYS["key2"] * 2},
        {"key": KEYS["key"][:-1]},
        {"key": " " + KEYS["key"][1:]},
        {"key": ""},
        {"key": "00" * 24, "key2": "11" * 24},
    ],
    ids=str,
)
def test_keys_that_the_software_module_refuses(params: dict[str, str]) -> None:
    async def scenario(node: Initiator) -> None:
        wanted = {"name": "k", "cipher": "AES_XTS", **KEYS, **params}
        refused = await refusal(node.call("accel_crypto_key_create", **wanted))
        assert refused == (-32602, "failed to create DEK, rc -22")
        assert await node.call("accel_crypto_keys_get") == []

    run(scenario)


def test_a_key_may_be_written_in_capitals_and_is_shown_as_it_came() -> None:
    async def scenario(node: Initiator) -> None:
        capitals = {half: text.upper() for half, text in KEYS.items()}
        await with_key(node, **capitals, tweak_mode="SIMPLE_LBA")
        wanted = {"name": "k", "cipher": "AES_XTS", **capitals, "tweak_mode": "SIMPLE_LBA"}
        assert await node.call("accel_crypto_keys_get", key_name="k") == [wanted]
        config = await node.call("framework_get_config", name="accel")
        assert config[1:] == [{"method": "accel_crypto_key_create", "params": wanted}]

    run(scenario)


def test_a_bdev_with_a_key_of_its_own_as_sma_makes_it() -> None:
    async def scenario(node: Initiator) -> None:
        await node.call("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)
        uuid = (await node.call("bdev_get_bdevs"))[0]["uuid"]
        create = {"base_bdev_name": uuid, "name": "c", **KEYS}
        assert await refusal(node.call("bdev_crypto_create", **create)) == (-32603, "No key was found")
        await node.call("bdev_crypto_create", **create, cipher="AES_XTS", crypto_pmd="ignored")
        found = (await node.call("bdev_get_bdevs", name="c"))[0]["driver_specific"]
        assert found == {"crypto": {"base_bdev_name": "m", "name": "c", "key_name": "c_AES_XTS"}}
        assert await node.call("accel_crypto_keys_get") == [{"name": "c_AES_XTS", "cipher": "AES_XTS", **KEYS}]
        await node.call("bdev_crypto_delete", name="c")
        assert await node.call("accel_crypto_keys_get") == []

    run(scenario)


def test_a_failed_create_takes_its_key_along() -> None:
    async def scenario(node: Initiator) -> None:
        await encrypted(node)
        create = {"base_bdev_name": "m", "name": "d", "cipher": "AES_XTS", **KEYS}
        assert await refusal(node.call("bdev_crypto_create", **create)) == (-errno.EPERM, "Operation not permitted")
        assert [key["name"] for key in await node.call("accel_crypto_keys_get")] == ["k"]
        await node.call("bdev_malloc_create", name="n", num_blocks=2048, block_size=512)
        taken = {**create, "base_bdev_name": "n", "name": "m"}
        assert await refusal(node.call("bdev_crypto_create", **taken)) == (-errno.EINVAL, "Invalid argument")
        assert node.app.bdevs.get("n").claimed_by is None
        assert not node.app.bdevs.get("n").descriptors

    run(scenario)


def test_delete_is_for_crypto_bdevs_only() -> None:
    async def scenario(node: Initiator) -> None:
        await encrypted(node)
        assert await refusal(node.call("bdev_crypto_delete", name="m")) == (-errno.ENODEV, "No such device")
        await node.call("bdev_crypto_delete", name="c")
        assert node.app.bdevs.get("m").claimed_by is None
        assert await names(node) == ["m"]

    run(scenario)


def test_it_waits_for_its_base_and_comes_back_with_it() -> None:
    async def scenario(node: Initiator) -> None:
        await with_key(node)
        assert await node.call("bdev_crypto_create", base_bdev_name="m", name="c", key_name="k") == "c"
        assert await names(node) == []
        for _time in range(2):
            await node.call("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)
            assert await names(node) == ["m", "c"]
            held = node.open("c")  # lets go when it is told
            await node.call("bdev_malloc_delete", name="m")
            assert held.closed
            assert await names(node) == []
        again = node.call("bdev_crypto_create", base_bdev_name="x", name="c", key_name="k")
        assert await refusal(again) == (-errno.EEXIST, "File exists")

    run(scenario)


def test_the_base_stays_until_the_last_holder_above_has_let_go() -> None:
    async def scenario(node: Initiator) -> None:
        await encrypted(node)
        held = node.app.bdevs.open("c", True, lambda *_event: None)
        deleting = asyncio.ensure_future(node.call("bdev_malloc_delete", name="m"))
        await asyncio.sleep(0)
        assert await io(held, Op.READ, 0, bytearray(512)) == Status.ABORTED
        assert not deleting.done()
        held.close()
        await deleting
        assert await names(node) == []

    run(scenario)


def test_it_grows_with_its_base() -> None:
    async def scenario(node: Initiator) -> None:
        await with_key(node)
        await node.call("bdev_null_create", name="n", num_blocks=2048, block_size=512)
        await node.call("bdev_crypto_create", base_bdev_name="n", name="c", key_name="k")
        told: list[str] = []
        node.app.bdevs.open("c", False, lambda event, bdev: told.append(f"{bdev.name} {event.name}"))
        await node.call("bdev_null_resize", name="n", new_size=4)
        assert node.app.bdevs.get("c").num_blocks == 8192
        assert told == ["c RESIZE"]

    run(scenario)


def test_a_destroyed_key_goes_on_in_the_bdev_that_has_it() -> None:
    async def scenario(node: Initiator) -> None:
        await encrypted(node)
        await node.call("accel_crypto_key_destroy", key_name="k")
        disk, read = node.open("c"), bytearray(512)
        assert await io(disk, Op.WRITE, 0, bytearray(PLAIN[:512])) == Status.SUCCESS
        assert await io(disk, Op.READ, 0, read) == Status.SUCCESS
        assert read == PLAIN[:512]

    run(scenario)


def test_the_configuration_makes_the_same_again(tmp_path: Path) -> None:
    calls: dict[str, Any] = {}

    async def scenario(node: Initiator) -> None:
        await encrypted(node)
        subsystems = ("accel", "bdev")
        calls["subsystems"] = [
            {"subsystem": name, "config": await node.call("framework_get_config", name=name)} for name in subsystems
        ]

    run(scenario)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(calls))
    with Emulator(tmp_path, arguments=("-c", str(config))) as node:
        found = node.call("bdev_get_bdevs", name="c")[0]["driver_specific"]
    assert found == {"crypto": {"base_bdev_name": "m", "name": "c", "key_name": "k"}}


def test_no_key_gets_into_the_log(tmp_path: Path) -> None:
    secret = "c0ffee" * 5 + "c0"
    requests: list[tuple[str, dict[str, Any]]] = [
        ("accel_crypto_key_create", {"name": "k", "cipher": "AES_XTS", "key": secret, "key2": secret}),
        ("accel_crypto_key_create", {"name": "k", "cipher": "AES_XTS", "key": secret + "zz", "key2": secret}),
        ("accel_crypto_key_create", {"name": "k", "cipher": secret, "key": secret}),
        ("accel_crypto_key_create", {"name": 1, "cipher": "AES_XTS", "key": [secret]}),
        ("bdev_crypto_create", {"name": "c", "base_bdev_name": "m", "cipher": "AES_CBC", "key": secret}),
        ("bdev_crypto_create", {"name": "c", "base_bdev_name": "m", "key": {"secret": secret}}),
    ]
    with Emulator(tmp_path, arguments=("-L", "all")) as node:
        for method, params in requests:
            with pytest.raises(CallFailed) as refused:
                node.call(method, **params)
            assert "c0ffee" not in str(refused.value)
        keys = {"key": secret, "key2": secret[::-1]}
        node.call("accel_crypto_key_create", name="k", cipher="AES_XTS", **keys)
        log = node.log.read_text()
    assert "key k" in log
    assert "c0ffee" not in log


def test_without_the_library_there_are_no_keys_and_all_else_works(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['cryptography'] = None\n"
        f"sys.path.insert(0, {str(FILES)!r})\n"
        "from spdk_emulator.accel.models import Accel\n"
        "try: Accel().create('k', 'AES_XTS', '00' * 16, '11' * 16)\n"
        "except OSError as error: print(error.errno)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert int(ended.stdout) == errno.ENOTSUP
    assert "without the Python library cryptography" in ended.stderr
