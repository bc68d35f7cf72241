"""NBD disks of the emulator, with QEMU's own NBD client and with one that misbehaves."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from spdk_emulator.nbd.protocol import INIT_MAGIC, OPTION_MAGIC
from support.spdk import CallFailed, Spdk

MIB = 1 << 20


@pytest.fixture
def spdk(tmp_path: Path) -> Iterator[Spdk]:
    with Spdk(tmp_path) as node:
        node.call("bdev_malloc_create", name="st1n1", num_blocks=8192, block_size=512)
        yield node


@pytest.fixture
def disk(spdk: Spdk, tmp_path: Path) -> Path:
    path = tmp_path / "sma-0.nbd"
    assert spdk.call("nbd_start_disk", bdev_name="st1n1", nbd_device=str(path)) == str(path)
    return path


def qemu_io(disk: Path, *commands: str) -> str:
    arguments = [part for command in commands for part in ("-c", command)]
    target = f"nbd+unix:///?socket={disk}"
    command = ["qemu-io", "-f", "raw", target, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def error_of(spdk: Spdk, method: str, **params: str) -> str:
    with pytest.raises(CallFailed) as refused:
        spdk.call(method, **params)
    return str(refused.value)


def test_what_qemu_writes_is_in_the_bdev(spdk: Spdk, disk: Path, tmp_path: Path) -> None:
    data = os.urandom(4 * MIB)
    (tmp_path / "data").write_bytes(data)
    target = f"nbd+unix:///?socket={disk}"
    convert = ["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw"]
    subprocess.run([*convert, str(tmp_path / "data"), target], check=True, timeout=60)
    back = [part for part in convert if part != "-n"]
    subprocess.run([*back, target, str(tmp_path / "back")], check=True, timeout=60)
    assert (tmp_path / "back").read_bytes() == data
    written = {each["name"]: each["bytes_written"] for each in spdk.call("bdev_get_iostat")["bdevs"]}
    assert written["st1n1"] >= 4 * MIB


def test_zeroes_discards_and_flushes(disk: Path) -> None:
    qemu_io(
        disk,
        "write -P 0xa5 0 1M",
        "write -z 64k 64k",
        "discard 256k 64k",
        "flush",
        "read -P 0xa5 0 64k",
        "read -P 0 64k 64k",
        "read -P 0 256k 64k",
        "read -P 0xa5 320k 704k",
    )


def test_two_clients_see_the_same(disk: Path) -> None:
    with connected(disk) as client:
        client.sendall(struct.pack(">I8sII", 3, OPTION_MAGIC, 1, 0))
        receive(client, 10)
        qemu_io(disk, "write -P 7 4k 4k", "flush")
        client.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, 1, 4096, 4096))
        assert receive(client, 16 + 4096)[16:] == b"\7" * 4096


def test_disks_are_listed_and_stopped(spdk: Spdk, disk: Path) -> None:
    there = {"nbd_device": str(disk), "bdev_name": "st1n1"}
    assert spdk.call("nbd_get_disks") == [there]
    assert spdk.call("nbd_get_disks", nbd_device=str(disk)) == [there]
    assert "Device or resource busy" in error_of(spdk, "nbd_start_disk", bdev_name="st1n1", nbd_device=str(disk))
    assert spdk.call("nbd_stop_disk", nbd_device=str(disk)) is True
    assert not disk.exists()
    assert spdk.call("nbd_get_disks") == []
    assert "No such device" in error_of(spdk, "nbd_stop_disk", nbd_device=str(disk))
    assert "No such device" in error_of(spdk, "nbd_get_disks", nbd_device=str(disk))


def test_what_cannot_be_a_disk_is_refused(spdk: Spdk, tmp_path: Path) -> None:
    path = str(tmp_path / "other.nbd")
    assert "No such device" in error_of(spdk, "nbd_start_disk", bdev_name="none", nbd_device=path)
    assert "illegal nbd device nbd0" in error_of(spdk, "nbd_start_disk", bdev_name="st1n1", nbd_device="nbd0")
    assert "nbd device not found" in error_of(spdk, "nbd_start_disk", bdev_name="st1n1")
    missing = str(tmp_path / "none" / "x")
    assert "No such file" in error_of(spdk, "nbd_start_disk", bdev_name="st1n1", nbd_device=missing)
    assert spdk.call("nbd_get_disks") == []


def test_a_bdev_that_goes_takes_its_disk_and_clients_along(spdk: Spdk, disk: Path) -> None:
    with connected(disk) as client:
        spdk.call("bdev_malloc_delete", name="st1n1")
        assert receive(client, 1) == b""
    assert spdk.call("nbd_get_disks") == []


def test_a_socket_that_a_dead_process_left_is_taken_over(spdk: Spdk, tmp_path: Path) -> None:
    path = tmp_path / "sma-1.nbd"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    spdk.call("nbd_start_disk", bdev_name="st1n1", nbd_device=str(path))
    qemu_io(path, "read 0 4k")


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff\xff\xff\xff",
        struct.pack(">I8sII", 3, b"NOOPTION", 7, 0),
        struct.pack(">I8sII", 3, OPTION_MAGIC, 7, 1 << 31),
        struct.pack(">I8sII", 3, OPTION_MAGIC, 1, 4) + b"none",
        struct.pack(">I8sII", 3, OPTION_MAGIC, 1, 0) + bytes(28),
        struct.pack(">I8sII", 3, OPTION_MAGIC, 1, 0) + struct.pack(">IHHQQI", 0x25609513, 0, 1, 1, 0, 1 << 30),
    ],
)
def test_a_client_that_speaks_something_else_is_let_go(spdk: Spdk, disk: Path, sent: bytes) -> None:
    with connected(disk) as client:
        client.sendall(sent)
        while receive(client, 4096):
            pass
    qemu_io(disk, "read 0 4k")


def test_requests_that_cannot_be_are_answered(spdk: Spdk, disk: Path) -> None:
    """Beyond the end, no whole blocks, nothing, an unknown command, more than a request may have."""
    with connected(disk) as client:
        client.sendall(struct.pack(">I8sII", 3, OPTION_MAGIC, 1, 0))
        size, _flags = struct.unpack(">QH", receive(client, 10))
        assert size == 4 * MIB
        for command, offset, length, error in (
            (0, 4 * MIB, 512, 28),
            (0, 0, 100, 22),
            (0, 0, 0, 22),
            (99, 0, 512, 22),
            (0, 0, 1 << 30, 22),
        ):
            client.sendall(struct.pack(">IHHQQI", 0x25609513, 0, command, 77, offset, length))
            assert struct.unpack(">IIQ", receive(client, 16)) == (0x67446698, error, 77)
        client.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 2, 0, 0, 0))
        assert receive(client, 1) == b""


def test_options_of_other_servers_are_refused_and_those_of_ours_answered(spdk: Spdk, disk: Path) -> None:
    with connected(disk) as client:
        client.sendall(struct.pack(">I", 3))
        for option, data, kinds in (
            (8, b"", [0x80000001]),
            (3, b"", [2, 1]),
            (3, b"x", [0x80000003]),
            (7, b"x", [0x80000003]),
            (6, struct.pack(">I", 4) + b"none" + struct.pack(">H", 0), [0x80000006]),
            (6, struct.pack(">IH", 0, 0), [3, 3, 1]),
            (2, b"", [1]),
        ):
            client.sendall(struct.pack(">8sII", OPTION_MAGIC, option, len(data)) + data)
            for kind in kinds:
                _magic, answered, got, length = struct.unpack(">QIII", receive(client, 20))
                receive(client, length)
                assert (answered, got) == (option, kind)
        assert receive(client, 1) == b""


def test_a_killed_process_leaves_a_disk_that_comes_back(spdk: Spdk, disk: Path, tmp_path: Path) -> None:
    assert disk.exists()
    spdk.kill()
    assert disk.exists(), "nobody was left to remove it"
    again = tmp_path / "again"
    again.mkdir()
    with Spdk(again) as node:
        node.call("bdev_malloc_create", name="st1n1", num_blocks=8192, block_size=512)
        node.call("nbd_start_disk", bdev_name="st1n1", nbd_device=str(disk))
        qemu_io(disk, "read 0 4k")


def connected(disk: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(60)
    client.connect(str(disk))
    assert receive(client, 18) == INIT_MAGIC + OPTION_MAGIC + b"\0\3"
    return client


def receive(client: socket.socket, length: int) -> bytes:
    """So many bytes, fewer where the other end has closed."""
    data = b""
    while len(data) < length:
        try:
            part = client.recv(length - len(data))
        except ConnectionResetError:
            return data
        if not part:
            return data
        data += part
    return data
