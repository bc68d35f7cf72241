"""Linux's NVMe/TCP against ours, in a guest: its host driver with our target, our initiator with its ``nvmet``."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from guests import Guest
from support.initiator import Initiator, Op, finished, initiator, io
from support.ports import free_port
from support.spdk import Spdk

MIB = 1 << 20
HERE = "198.18.100.2"
"""127.0.0.1, as the guest sees it."""
NQN = "nqn.2022-06.io.ipdk:st1:ipu1"
HOST_NQN = "nqn.2014-08.org.nvmexpress:uuid:11111111-1111-4111-8111-111111111111"
LINUX_NQN = "nqn.2022-06.io.ipdk:linux"
LINUX_PORT = 4420

CONFIG = "/sys/kernel/config/nvmet"
SUBSYSTEM = f"{CONFIG}/subsystems/{LINUX_NQN}"
NVMET = f"""
set -e
grep -q " /sys/kernel/config " /proc/mounts || mount -t configfs config /sys/kernel/config
mkdir {SUBSYSTEM}
echo 1 > {SUBSYSTEM}/attr_allow_any_host
mkdir {SUBSYSTEM}/namespaces/1
echo /dev/ram0 > {SUBSYSTEM}/namespaces/1/device_path
echo 1 > {SUBSYSTEM}/namespaces/1/enable
mkdir {CONFIG}/ports/1
cd {CONFIG}/ports/1
echo ipv4 > addr_adrfam
echo tcp > addr_trtype
echo 0.0.0.0 > addr_traddr
echo {LINUX_PORT} > addr_trsvcid
ln -s {SUBSYSTEM} subsystems/{LINUX_NQN}
"""
NVMET_GONE = f"""
set -e
rm {CONFIG}/ports/1/subsystems/{LINUX_NQN}
rmdir {CONFIG}/ports/1
echo 0 > {SUBSYSTEM}/namespaces/1/enable
rmdir {SUBSYSTEM}/namespaces/1 {SUBSYSTEM}
"""


@pytest.fixture(scope="module")
def linux_port() -> int:
    """Where the guest's own target can be reached."""
    return free_port()


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory, linux_port: int) -> Iterator[Guest]:
    with Guest(tmp_path_factory.mktemp("guest"), forward={LINUX_PORT: linux_port}) as guest:
        guest.load("nvme-tcp", "nvmet-tcp", "null_blk", "brd")
        yield guest


@pytest.fixture
def target(tmp_path: Path) -> Iterator[tuple[Spdk, int, int]]:
    """A storage target with one disk of 32 MiB, the port of its subsystem, and that of its discovery service."""
    disk = tmp_path / "disk.img"
    with open(disk, "wb") as file:
        os.truncate(file.fileno(), 32 * MIB)
    port, discovery = free_port(), free_port()
    with Spdk(tmp_path) as node:
        node.call("nvmf_create_transport", trtype="TCP")
        node.call("bdev_aio_create", name="vol00", filename=str(disk), block_size=512)
        node.call("nvmf_create_subsystem", nqn=NQN, serial_number="ST1", allow_any_host=False)
        node.call("nvmf_subsystem_add_host", nqn=NQN, host=HOST_NQN)
        node.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "vol00", "nsid": 1})
        for nqn, number in ((NQN, port), ("nqn.2014-08.org.nvmexpress.discovery", discovery)):
            place = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(number)}
            node.call("nvmf_subsystem_add_listener", nqn=nqn, listen_address=place)
        yield node, port, discovery


def until(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (seen := condition()):
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.05)
    return seen


def namespaces(guest: Guest) -> dict[int, tuple[str, int]]:
    """The guest's NVMe namespaces: name and size in bytes by NSID."""
    lines = guest.sh(
        # One that is just going has no files any more.
        "for d in /sys/block/nvme*; do"
        " nsid=$(cat $d/nsid 2>&-) && size=$(cat $d/size 2>&-) && echo $nsid ${d##*/} $size;"
        " done; true"
    ).splitlines()
    return {int(nsid): (name, int(size) * 512) for nsid, name, size in map(str.split, lines)}


def write_and_verify(guest: Guest, name: str) -> None:
    """Random blocks of many sizes, written and read by the guest's fio, each with a checksum."""
    answer = guest.sh(
        f"fio --name=v --filename=/dev/{name} --rw=randrw --bsrange=512-256k --size=32m --io_size=16m --iodepth=16"
        " --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 --randseed=1 --output-format=json",
        timeout=300,
    )
    [job] = json.loads(answer[answer.index("{") :])["jobs"]
    assert job["error"] == 0
    assert job["read"]["io_bytes"] >= 8 * MIB
    assert job["write"]["io_bytes"] >= 4 * MIB


def test_linux_finds_connects_and_uses_our_target(guest: Guest, target: tuple[Spdk, int, int]) -> None:
    node, port, discovery = target
    found = json.loads(guest.sh(f"nvme discover -t tcp -a {HERE} -s {discovery} -q {HOST_NQN} -o json"))
    assert [record["subnqn"] for record in found["records"] if record["trsvcid"] == str(port)] == [NQN]

    guest.sh(f"nvme connect -t tcp -a {HERE} -s {port} -n {NQN} -q {HOST_NQN} -i 1")
    (name, size) = until(lambda: namespaces(guest), "namespace 1")[1]
    assert size == 32 * MIB
    write_and_verify(guest, name)

    node.call("bdev_null_create", name="n0", num_blocks=4096, block_size=512)
    node.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "n0", "nsid": 5})
    until(lambda: namespaces(guest).get(5, ("", 0))[1] == 2 * MIB, "namespace 5")
    node.call("bdev_null_resize", name="n0", new_size=8)
    until(lambda: namespaces(guest)[5][1] == 8 * MIB, "the new size of namespace 5")
    node.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=5)
    until(lambda: sorted(namespaces(guest)) == [1], "namespace 5 to go")

    assert len(node.call("nvmf_subsystem_get_controllers", nqn=NQN)) == 1
    guest.sh(f"nvme disconnect -n {NQN}")
    until(lambda: not namespaces(guest), "all namespaces to go")
    until(lambda: node.call("nvmf_subsystem_get_controllers", nqn=NQN) == [], "the controller to go")


def test_linux_uses_our_target_with_digests(guest: Guest, target: tuple[Spdk, int, int]) -> None:
    """Linux gives up a connection whose other side does not agree to the digests that it wants."""
    node, port, _unused = target
    guest.sh(f"nvme connect -t tcp -a {HERE} -s {port} -n {NQN} -q {HOST_NQN} -i 1 --hdr-digest --data-digest")
    (name, _size) = until(lambda: namespaces(guest), "namespace 1")[1]
    write_and_verify(guest, name)
    guest.sh(f"nvme disconnect -n {NQN}")
    until(lambda: not namespaces(guest), "the namespace to go")
    until(lambda: node.call("nvmf_subsystem_get_controllers", nqn=NQN) == [], "the controller to go")


def test_linux_is_refused_where_its_nqn_is_not_admitted(guest: Guest, target: tuple[Spdk, int, int]) -> None:
    _unused, port, _unused = target
    answer = guest.sh(f"nvme connect -t tcp -a {HERE} -s {port} -n {NQN} -q {HOST_NQN[:-1]}2 -i 1 2>&1; echo status $?")
    assert "status 0" not in answer
    assert namespaces(guest) == {}


async def use_a_second_namespace(guest: Guest, node: Initiator) -> None:
    """Linux tells when another namespace comes, grows and goes."""
    namespace, file = f"{SUBSYSTEM}/namespaces/2", "/tmp/second"
    guest.sh(
        f"truncate -s 4M {file}; mkdir {namespace}; cd {namespace};"
        f" echo 1 > buffered_io; echo {file} > device_path; echo 1 > enable"
    )
    await node.until(lambda: node.app.bdevs.find("ln2"))
    assert node.app.bdevs.get("ln2").size == 4 * MIB
    disk = node.open("ln2")
    guest.sh(f"truncate -s 12M {file}; echo 1 > {namespace}/revalidate_size")
    await node.until(lambda: node.app.bdevs.get("ln2").size == 12 * MIB)
    data = bytearray(os.urandom(64 << 10))
    offset = 12 * MIB - len(data)
    assert await finished(io(disk, Op.WRITE, offset, data)) == 0
    there = guest.sh(f"dd if={file} bs=64k skip={offset >> 16} 2>/dev/null | sha256sum").split()[0]
    assert there == hashlib.sha256(data).hexdigest(), "what was written to the new part is in Linux's file"
    guest.sh(f"echo 0 > {namespace}/enable; rmdir {namespace}; rm {file}")
    await node.until(lambda: node.app.bdevs.find("ln2") is None)


@pytest.mark.parametrize("digests", [False, True])
def test_our_initiator_uses_linux_as_a_target(guest: Guest, linux_port: int, digests: bool) -> None:
    guest.sh(NVMET)

    async def work() -> None:
        async with initiator() as node:
            names = await node.attach(linux_port, "l", LINUX_NQN, hdgst=digests, ddgst=digests)
            assert names == ["ln1"]
            disk = node.open("ln1")
            size = node.app.bdevs.get("ln1").size
            written: dict[int, bytearray] = {}
            for number, length in enumerate((512, 4096, 16384, 65536, 128 << 10, 300 << 10)):
                offset = number * 512 << 10
                written[offset] = bytearray(os.urandom(length))
                assert await finished(io(disk, Op.WRITE, offset, written[offset])) == 0
            for offset, data in written.items():
                back = bytearray(len(data))
                assert await finished(io(disk, Op.READ, offset, back)) == 0
                assert back == data, (offset, len(data))
            assert size >= 4 * MIB
            await use_a_second_namespace(guest, node)
            first = guest.sh("dd if=/dev/ram0 bs=512 count=1 2>/dev/null | sha256sum").split()[0]
            assert first == hashlib.sha256(written[0]).hexdigest()
            assert await node.call("bdev_nvme_detach_controller", name="l")
            assert node.app.bdevs.find("ln1") is None

    asyncio.run(work())
    guest.sh(NVMET_GONE)
