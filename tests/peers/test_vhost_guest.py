"""Linux's virtio-blk driver and QEMU's vhost-user front end against an SPDK's vhost-user-blk."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from guests import CommandFailed, Disk, Guest
from support.ports import free_port
from support.spdk import Spdk

MIB = 1 << 20


@pytest.fixture(scope="module")
def spdk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spdk]:
    with Spdk(tmp_path_factory.mktemp("spdk")) as node:
        yield node


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    with Guest(tmp_path_factory.mktemp("guest"), vcpus=2) as guest:
        yield guest


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """32 MiB behind an aio bdev."""
    path = tmp_path / "disk.img"
    with open(path, "wb") as file:
        os.truncate(file.fileno(), 32 * MIB)
    return path


@contextlib.contextmanager
def plugged(spdk: Spdk, guest: Guest, bdev: str, slot: int = 0, **params: Any) -> Iterator[Disk]:
    """A bdev as a disk in the guest, for the length of a block."""
    name = f"sma-{slot}"
    spdk.call("vhost_create_blk_controller", ctrlr=name, dev_name=bdev, **params)
    guest.plug(name, spdk.directory / name, slot)
    try:
        yield guest.wait_disks(lambda disks: bdev in disks)[bdev]
    finally:
        guest.unplug(name)
        spdk.call("vhost_delete_controller", ctrlr=name)


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_the_guest_writes_is_in_the_file(spdk: Spdk, guest: Guest, image: Path) -> None:
    spdk.call("bdev_aio_create", name="st1n1", filename=str(image), block_size=512)
    with plugged(spdk, guest, "st1n1", slot=3) as disk:
        assert disk.size == 32 * MIB
        assert guest.sh(f"ls /sys/block/{disk.name}/mq").split() == ["0", "1"], "a queue for each vCPU"
        written = guest.sh(
            f"dd if=/dev/urandom of=/tmp/data bs=1M count=32; dd if=/tmp/data of=/dev/{disk.name} bs=1M conv=fsync;"
            " sha256sum < /tmp/data; rm /tmp/data"
        )
        assert written.splitlines()[-1].split()[0] == checksum(image)
        # The other way, past the guest's cache.
        data = os.urandom(MIB)
        with open(image, "r+b") as file:
            file.write(data)
        read = guest.sh(f"dd if=/dev/{disk.name} bs=1M count=1 iflag=direct | sha256sum")
        assert hashlib.sha256(data).hexdigest() in read
        sessions = spdk.call("vhost_get_controllers", name="sma-3")[0]["sessions"]
        assert [session["started"] for session in sessions] == [True]
    assert guest.disks() == {}
    assert spdk.call("vhost_get_controllers") == []
    spdk.call("bdev_aio_delete", name="st1n1")


def test_discard_zeroes_flush_and_block_size(spdk: Spdk, guest: Guest) -> None:
    spdk.call("bdev_malloc_create", name="m4k", num_blocks=4096, block_size=4096)
    with plugged(spdk, guest, "m4k") as (name, _size):
        queue = f"/sys/block/{name}/queue"
        seen = guest.sh(f"cat {queue}/logical_block_size {queue}/discard_max_bytes {queue}/write_cache")
        assert seen.splitlines() == ["4096", str(16 * MIB), "write back"]
        guest.sh(f"yes | dd of=/dev/{name} bs=1M count=3 iflag=fullblock oflag=direct")
        # With its path, for busybox has another of that name.
        guest.sh(f"/bin/blkdiscard -l {MIB} /dev/{name} && /bin/blkdiscard -z -o {MIB} -l {MIB} /dev/{name} && sync")
        read = guest.sh(f"dd if=/dev/{name} bs=1M count=3 iflag=direct 2>/dev/null | tr -d '\\0' | wc -c")
        assert read == str(MIB)
    spdk.call("bdev_malloc_delete", name="m4k")


def test_read_only(spdk: Spdk, guest: Guest) -> None:
    spdk.call("bdev_malloc_create", name="ro", num_blocks=2048, block_size=512)
    with plugged(spdk, guest, "ro", readonly=True) as (name, _size):
        assert guest.sh(f"cat /sys/block/{name}/ro") == "1"
        with pytest.raises(CommandFailed):
            guest.sh(f"dd if=/dev/zero of=/dev/{name} bs=4k count=1 oflag=direct")
    spdk.call("bdev_malloc_delete", name="ro")


def test_resize_while_attached(spdk: Spdk, guest: Guest) -> None:
    spdk.call("bdev_null_create", name="null0", num_blocks=16384, block_size=512)
    with plugged(spdk, guest, "null0") as disk:
        assert disk.size == 8 * MIB
        for size in (24, 64):
            assert spdk.call("bdev_null_resize", name="null0", new_size=size) is True
            guest.wait_disks(lambda disks, size=size: disks["null0"].size == size * MIB)
    spdk.call("bdev_null_delete", name="null0")


def test_bdev_goes_under_the_guest(spdk: Spdk, guest: Guest) -> None:
    spdk.call("bdev_malloc_create", name="gone", num_blocks=2048, block_size=512)
    with plugged(spdk, guest, "gone") as (name, _size):
        spdk.call("bdev_malloc_delete", name="gone")
        with pytest.raises(CommandFailed):
            guest.sh(f"dd if=/dev/{name} of=/dev/null bs=4k count=1 iflag=direct")
        assert spdk.call("vhost_get_controllers")[0]["backend_specific"]["block"]["bdev"] is None


def write_verified(guest: Guest, name: str) -> None:
    """Start fio in the guest's background; :func:`wait_verified` sees its end."""
    guest.sh(
        "rm -f /tmp/fio.*;"
        f" (fio --name=job --filename=/dev/{name} --rw=randwrite --size=16m --bs=4k --ioengine=libaio --direct=1"
        " --iodepth=16 --verify=crc32c --verify_fatal=1 --verify_state_save=0 --loops=2 --output-format=json"
        " --output=/tmp/fio.json; echo $? > /tmp/fio.status) > /dev/null 2>&1 &"
    )


def wait_progress(guest: Guest, name: str) -> None:
    """Until a thousand more writes are done."""
    writes = f"awk '{{print $5}}' /sys/block/{name}/stat"
    guest.sh(f"start=$({writes}); while [ $({writes}) -lt $((start + 1000)) ]; do usleep 20000; done")


def wait_verified(guest: Guest) -> None:
    guest.sh("while ! [ -e /tmp/fio.status ]; do usleep 50000; done", timeout=300)
    assert guest.sh("cat /tmp/fio.status") == "0", guest.sh("cat /tmp/fio.json")
    job = json.loads(guest.sh("cat /tmp/fio.json"))["jobs"][0]
    assert job["error"] == 0
    assert job["write"]["total_ios"] == 2 * 4096


def guest_checksum(guest: Guest, name: str) -> str:
    return guest.sh(f"sync; echo 3 > /proc/sys/vm/drop_caches; sha256sum < /dev/{name}").split()[0]


def test_killed_under_verified_io(guest: Guest, image: Path, tmp_path: Path) -> None:
    def start() -> None:
        node.start()
        node.call("bdev_aio_create", name="st1n1", filename=str(image), block_size=512)

    node = Spdk(tmp_path)
    try:
        start()
        with plugged(node, guest, "st1n1", slot=40) as (name, _size):
            write_verified(guest, name)
            wait_progress(guest, name)
            node.kill()
            start()
            node.call("vhost_create_blk_controller", ctrlr="sma-40", dev_name="st1n1")
            wait_verified(guest)
            assert guest_checksum(guest, name) == checksum(image)
    finally:
        node.kill()


def test_ipu_killed_between_guest_and_storage_target(guest: Guest, image: Path, tmp_path: Path) -> None:
    """The whole chain: requests complete out of order, and the next process finishes those that were under way."""
    address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(free_port())}
    nqn, host = "nqn.2022-06.io.ipdk:st1:ipu1", "nqn.2014-08.org.nvmexpress:uuid:5ad1e2f3-0000-4000-8000-000000000001"

    def start() -> None:
        ipu.start()
        names = ipu.call(
            "bdev_nvme_attach_controller",
            name="st1",
            subnqn=nqn,
            hostnqn=host,
            ctrlr_loss_timeout_sec=-1,
            reconnect_delay_sec=1,
            **address,
        )
        assert names == ["st1n1"]

    target, ipu = Spdk(tmp_path, "target"), Spdk(tmp_path, "ipu")
    try:
        target.start()
        target.call("bdev_aio_create", name="vol00", filename=str(image), block_size=512)
        target.call("nvmf_create_transport", trtype="TCP")
        target.call("nvmf_create_subsystem", nqn=nqn, serial_number="IPDK")
        target.call("nvmf_subsystem_add_host", nqn=nqn, host=host)
        target.call("nvmf_subsystem_add_ns", nqn=nqn, namespace={"bdev_name": "vol00", "nsid": 1})
        target.call("nvmf_subsystem_add_listener", nqn=nqn, listen_address=address)
        start()
        with plugged(ipu, guest, "st1n1", slot=41) as (name, _size):
            write_verified(guest, name)
            wait_progress(guest, name)
            target.pause()
            guest.sh(f"until awk '$2 != 16 {{ exit 1 }}' /sys/block/{name}/inflight; do usleep 20000; done")
            ipu.kill()
            target.resume()
            start()
            ipu.call("vhost_create_blk_controller", ctrlr="sma-41", dev_name="st1n1")
            wait_verified(guest)
            assert guest_checksum(guest, name) == checksum(image)
    finally:
        ipu.kill()
        target.kill()


def test_sixty_four_disks(spdk: Spdk, guest: Guest) -> None:
    before = spdk.memory_kib()
    for number in range(64):
        spdk.call("bdev_malloc_create", name=f"vol{number}", num_blocks=2048 + 8 * number, block_size=512)
        spdk.call("vhost_create_blk_controller", ctrlr=f"sma-{number}", dev_name=f"vol{number}")
        guest.plug(f"sma-{number}", spdk.directory / f"sma-{number}", slot=number)
    disks = guest.wait_disks(lambda disks: len(disks) == 64)

    assert {serial: disk.size for serial, disk in disks.items()} == {
        f"vol{number}": (2048 + 8 * number) * 512 for number in range(64)
    }
    pattern = "echo {} | dd of=/dev/{} bs=512 conv=sync 2>/dev/null;"
    script = "".join(pattern.format(serial, disk.name) for serial, disk in disks.items())
    guest.sh(f"{script} sync; echo 3 > /proc/sys/vm/drop_caches")
    read = guest.sh("".join(f"head -n 1 /dev/{disk.name};" for disk in disks.values()))
    assert read.split() == list(disks)
    # A MiB of data each, and about as much for its queues and buffers; tests/bench holds the emulator to far less.
    assert spdk.memory_kib() - before < 64 * 3 * 1024

    names = [f"sma-{number}" for number in range(64)]
    guest.unplug(*names)
    assert guest.disks() == {}
    for number, name in enumerate(names):
        spdk.call("vhost_delete_controller", ctrlr=name)
        spdk.call("bdev_malloc_delete", name=f"vol{number}")
