# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Encrypted volumes: the real SMA and its crypto engine between the emulator and a fake QEMU."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.module_utils import _sma
from sma_fakes import FakeQemu, FakeSpdk
from support.emulator import Emulator

KEYS = {"key": b"00112233445566778899aabbccddeeff", "key2": b"ffeeddccbbaa99887766554433221100"}
XTS = {**KEYS, "cipher": "AES_XTS"}


@pytest.fixture
def ipu(tmp_path: Path) -> Iterator[Emulator]:
    with Emulator(tmp_path) as node:
        node.call("bdev_malloc_create", name="st1n1", num_blocks=2048, block_size=512)
        yield node


@pytest.fixture
def agent(make_sma: Any, ipu: Emulator, spdk: FakeSpdk) -> Iterator[tuple[_sma.Client, Any]]:
    """SMA with its crypto engine, and a QEMU. ``spdk`` is there for the fake QEMU to tell, which nobody asks."""
    qemu = FakeQemu(spdk)
    server = make_sma(ipu.rpc_socket, qemu.port, crypto="bdev_crypto")
    server.start()
    with _sma.Client(server.address, timeout=20) as client:
        yield client, server
    qemu.close()


def create(client: _sma.Client, node: Emulator, crypto: dict[str, Any] | None) -> str:
    volume = uuid.UUID(node.call("bdev_get_bdevs", name="st1n1")[0]["uuid"]).bytes
    request = {"volume_id": volume, **({"crypto": crypto} if crypto else {})}
    return client.call("CreateDevice", {"volume": request, "virtio_blk": {"physical_id": 0, "virtual_id": 0}}).handle


def served(node: Emulator) -> list[str]:
    return [each["backend_specific"]["block"]["bdev"] for each in node.call("vhost_get_controllers")]


def encrypted(node: Emulator) -> list[str]:
    return [bdev["name"] for bdev in node.call("bdev_get_bdevs") if bdev["product_name"] == "crypto"]


def test_an_encrypted_disk_is_made_and_unmade(agent: Any, ipu: Emulator) -> None:
    client, server = agent
    handle = create(client, ipu, XTS)
    (name,) = encrypted(ipu)
    assert served(ipu) == [name]
    (key,) = ipu.call("accel_crypto_keys_get")
    assert key == {"name": f"{name}_AES_XTS", "cipher": "AES_XTS", **{half: KEYS[half].decode() for half in KEYS}}
    assert create(client, ipu, XTS) == handle  # which asks for the key, to compare it
    client.call("DeleteDevice", {"handle": handle})
    assert (served(ipu), encrypted(ipu), ipu.call("accel_crypto_keys_get")) == ([], [], [])
    assert ipu.call("bdev_get_bdevs", name="st1n1")[0]["claimed"] is False
    for log in (server.log, ipu.log):
        assert not [text for text in KEYS.values() if text.decode() in log.read_text()]


def test_another_key_for_a_disk_that_is_there_is_refused(agent: Any, ipu: Emulator) -> None:
    client, _unused = agent
    create(client, ipu, XTS)
    with pytest.raises(_sma.InvalidRequest, match="bad key2"):
        create(client, ipu, {**XTS, "key2": b"00" * 16})
    with pytest.raises(_sma.InvalidRequest, match="Invalid volume crypto configuration"):
        create(client, ipu, None)
    assert served(ipu) == encrypted(ipu)


def test_a_cipher_that_spdk_does_not_have_leaves_nothing_behind(agent: Any, ipu: Emulator) -> None:
    client, _unused = agent
    with pytest.raises(_sma.Error, match="Failed to setup crypto"):
        create(client, ipu, {"key": KEYS["key"], "cipher": "AES_CBC"})
    assert (served(ipu), encrypted(ipu), ipu.call("accel_crypto_keys_get")) == ([], [], [])


def test_a_disk_without_encryption_beside_the_engine(agent: Any, ipu: Emulator) -> None:
    client, _unused = agent
    handle = create(client, ipu, None)
    assert served(ipu) == ["st1n1"]
    client.call("DeleteDevice", {"handle": handle})
    assert served(ipu) == []
