# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A device manager reaches a QEMU whose monitor is a unix socket, whichever of the two was started first or anew."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.ipdk.storage.plugins.module_utils import _jsonrpc, _sma
from conftest import Sma
from sma_fakes import FakeQemu, FakeSpdk
from support.ports import free_port


def test_qemu_comes_goes_and_comes_again(make_sma: Callable[..., Sma], tmp_path: Path, spdk: FakeSpdk) -> None:
    path = tmp_path / "qmp.sock"
    sma = make_sma(spdk.path, free_port(), monitor=path)
    sma.start()
    volumes = [uuid.UUID(spdk.add_bdev(f"st1n{number}")).bytes for number in range(2)]

    with _sma.Client(sma.address, timeout=20) as client:

        def create(number: int) -> str:
            request = {"volume": {"volume_id": volumes[number]}, "virtio_blk": {"physical_id": number}}
            return client.call("CreateDevice", request).handle

        with pytest.raises(_jsonrpc.Error, match="no QEMU listens"):
            create(0)
        assert spdk.controllers == {}, "the failed call has left its controller"

        qemu = FakeQemu(spdk, path)
        assert create(0) == "virtio_blk:sma-0"
        assert "sma-0" in qemu.devices

        # It dies, its devices go with it, and its socket stays. What SPDK still has of them can be deleted.
        qemu.close()
        assert path.is_socket()
        spdk.connected.clear()
        client.call("DeleteDevice", {"handle": "virtio_blk:sma-0"})
        assert spdk.controllers == {}

        qemu = FakeQemu(spdk, path)
        assert create(1) == "virtio_blk:sma-1"
        assert list(qemu.devices) == ["sma-1"]
        qemu.close()


def test_a_port_that_is_taken_ends_sma(make_sma: Callable[..., Sma], tmp_path: Path, spdk: FakeSpdk) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sma = make_sma(spdk.path, port, monitor=tmp_path / "qmp.sock")
        assert sma.start(wait=False).wait(30) == 1
    assert f"cannot bring {tmp_path}/qmp.sock to 127.0.0.1:{port}: Address already in use" in sma.log.read_text()
