"""spdk_bdev_crypto against a running SPDK."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from spdk_nodes import Node

KEYS = {"key": "00112233445566778899aabbccddeeff", "key2": "ffeeddccbbaa99887766554433221100"}
OTHER = {"key": "0f0e0d0c0b0a09080706050403020100", "key2": "101112131415161718191a1b1c1d1e1f"}


@pytest.fixture
def node(target: Node) -> Iterator[Node]:
    """With a bdev m0 to encrypt, and without encrypted ones afterwards."""
    target.module("spdk_bdev", bdevs=[{"name": "m0", "type": "malloc", "size": "8MiB"}])
    yield target
    for bdev in encrypted(target):
        target.call("bdev_crypto_delete", {"name": bdev})
    for key in target.call("accel_crypto_keys_get"):
        target.call("accel_crypto_key_destroy", {"key_name": key["name"]})


def encrypted(node: Node) -> dict[str, str]:
    """name → base"""
    return {
        bdev["name"]: bdev["driver_specific"]["crypto"]["base_bdev_name"]
        for bdev in node.call("bdev_get_bdevs")
        if bdev["product_name"] == "crypto"
    }


def keys_of(node: Node) -> list[tuple[str, str]]:
    return [(key["key"], key["key2"]) for key in node.call("accel_crypto_keys_get")]


def run(node: Node, *items: dict[str, Any], check: bool = False) -> dict[str, Any]:
    done = node.module("spdk_bdev_crypto", check=check, crypto=list(items), wait=0)
    told = json.dumps(done).lower()
    for keys in (KEYS, OTHER):
        assert not [text for text in keys.values() if text in told]
    return done


def test_a_bdev_is_encrypted_and_not_any_more(node: Node, tmp_path: Path) -> None:
    file = tmp_path / "vol00.json"
    item = {"name": "m0c", "base_bdev": "m0", "key_file": str(file)}
    predicted = run(node, {**item, **KEYS}, check=True)
    assert (predicted["rc"], predicted["changed"], encrypted(node), file.exists()) == (0, True, {}, False)
    done = run(node, {**item, **KEYS})
    assert (done["rc"], done["changed"]) == (0, True), done
    assert (done["outcome"], done["diff"], done["key_files"]) == (
        predicted["outcome"],
        predicted["diff"],
        predicted["key_files"],
    )
    assert encrypted(node) == {"m0c": "m0"}
    assert keys_of(node) == [(KEYS["key"], KEYS["key2"])]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text()) == {"cipher": "AES_XTS", **KEYS}
    for again in ({**item, **KEYS}, {**item, "key": KEYS["key"].upper(), "key2": KEYS["key2"]}, item):
        assert run(node, again)["changed"] is False

    refused = run(node, {**item, **OTHER})
    assert (refused["rc"], refused["changed"]) == (1, False)
    assert "encrypted bdev m0c is there with another key: delete it first" in refused["msg"]
    assert json.loads(file.read_text())["key"] == KEYS["key"]

    gone = {"name": "m0c", "key_file": str(file), "state": "absent"}
    assert run(node, gone, check=True)["key_files"]["removed"] == [str(file)]
    assert run(node, gone)["changed"] is True
    assert (encrypted(node), keys_of(node), file.exists()) == ({}, [], False)
    assert run(node, gone)["changed"] is False
    assert run(node, {**item, **OTHER})["rc"] == 0  # what it decrypts to is another matter
    assert keys_of(node) == [(OTHER["key"], OTHER["key2"])]


def test_a_node_comes_back_with_the_key_in_the_file(node: Node, tmp_path: Path) -> None:
    file = tmp_path / "vol00.json"
    item = {"name": "m0c", "base_bdev": "m0", "key_file": str(file)}
    run(node, {**item, **KEYS})
    node.call("bdev_crypto_delete", {"name": "m0c"})
    (key,) = node.call("accel_crypto_keys_get")  # left by somebody who got no further
    declaration = {"crypto": [item], "qos": [{"name": "m0c", "rw_iops": 1000}]}
    assert node.module("spdk_target", declaration=declaration)["rc"] == 0
    assert encrypted(node) == {"m0c": "m0"}
    assert node.call("accel_crypto_keys_get") == [key]
    assert node.call("bdev_get_bdevs", {"name": "m0c"})[0]["assigned_rate_limits"]["rw_ios_per_sec"] == 1000


def test_no_declaration_has_a_key_in_it(node: Node) -> None:
    done = node.module("spdk_target", declaration={"crypto": [{"name": "m0c", "base_bdev": "m0", **KEYS}]})
    assert done["rc"] == 1
    assert "there is no option key" in done["msg"]
    assert KEYS["key"] not in done["msg"]


@pytest.mark.parametrize(
    ("mode", "text", "reason"),
    [
        (0o644, json.dumps(KEYS), "is open to others than its owner"),
        (0o600, "no", "is no JSON"),
        (0o600, "{}", "key: wanted 32 or 64 hexadecimal digits"),
        (0o600, None, "cannot be read: No such file or directory"),
    ],
)
def test_a_key_file_that_is_none_stops_nothing_else(
    node: Node, tmp_path: Path, mode: int, text: str | None, reason: str
) -> None:
    node.module("spdk_bdev", bdevs=[{"name": "m1", "type": "malloc", "size": "8MiB"}])
    file = tmp_path / "vol00.json"
    if text is not None:
        file.write_text(text)
        file.chmod(mode)
    done = run(
        node,
        {"name": "m0c", "base_bdev": "m0", "key_file": str(file)},
        {"name": "m1c", "base_bdev": "m1", **KEYS},
    )
    assert (done["rc"], encrypted(node)) == (1, {"m1c": "m1"})
    assert reason in done["msg"]


def test_a_base_that_is_away_and_a_name_that_is_taken(node: Node) -> None:
    away = run(node, {"name": "m9c", "base_bdev": "m9", **KEYS})
    assert "its base bdev m9 is not there" in away["msg"]
    taken = run(node, {"name": "m0", "base_bdev": "m0", **KEYS})
    assert "bdev m0 is a Malloc disk, not an encrypted one" in taken["msg"]
    assert (encrypted(node), keys_of(node)) == ({}, [])


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"key": KEYS["key"]}, "key2: wanted 32 or 64 hexadecimal digits .*, got nothing"),
        ({**KEYS, "key": KEYS["key"][:-2]}, "key: wanted 32 or 64 hexadecimal digits .*, got 30"),
        ({**KEYS, "key": KEYS["key"] * 2}, "key has 64 digits and key2 32"),
        ({**KEYS, "key": "zz" + KEYS["key"][2:]}, "got other characters among its 32"),
        ({"key": KEYS["key"], "key2": KEYS["key"]}, "key and key2 are the same"),
        ({**KEYS, "cipher": "AES_CBC"}, "AES_CBC is not in SPDK's software accel module"),
        ({**KEYS, "cipher": KEYS["key"]}, r"cipher: wanted AES_XTS, got 32 characters \(not shown\)"),
        ({}, "key: wanted"),
    ],
)
def test_keys_that_are_none(node: Node, item: dict[str, Any], message: str) -> None:
    done = run(node, {"name": "m0c", "base_bdev": "m0", **item})
    assert (done["rc"], done["changed"]) == (1, False)
    assert re.search(message, done["msg"]), done["msg"]
    assert (encrypted(node), keys_of(node)) == ({}, [])
