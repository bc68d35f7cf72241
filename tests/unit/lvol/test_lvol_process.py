"""Lvols as an initiator sees them over NVMe/TCP, on either engine: killed, restarted, resized."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

from spdk_emulator.bdev.models import Op, Status
from support.initiator import NQN, finished, initiator, io
from support.ports import free_port
from support.spdk import Spdk

MIB = 1024 * 1024
BLOCK = 4096
BASE_UUID = "00000000-0000-4000-8000-0000000000aa"


def _base(node: Spdk, file: Path) -> None:
    node.call("bdev_aio_create", name="base", filename=str(file), block_size=512, uuid=BASE_UUID)


def _serve(node: Spdk, bdev: str, port: int) -> None:
    node.call("nvmf_create_transport", trtype="TCP")
    node.call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True, serial_number="S1")
    node.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": bdev})
    place = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)}
    node.call("nvmf_subsystem_add_listener", nqn=NQN, listen_address=place)


def _namespace(node: Spdk) -> dict[str, Any]:
    """Its identity: NGUID, UUID."""
    subsystem = next(each for each in node.call("nvmf_get_subsystems") if each["nqn"] == NQN)
    return subsystem["namespaces"][0]


def _content(block: int) -> bytearray:
    return bytearray(random.Random(block).randbytes(BLOCK))


def test_what_was_answered_is_there_after_a_kill_and_the_disk_is_the_same(tmp_path: Path) -> None:
    file, port = tmp_path / "base.img", free_port()
    with file.open("wb") as image:
        image.truncate(64 * MIB)

    async def work(node: Spdk) -> None:
        _base(node, file)
        node.call("bdev_lvol_create_lvstore", bdev_name="base", lvs_name="lvs", cluster_sz=MIB)
        node.call("bdev_lvol_create", lvs_name="lvs", lvol_name="v", size_in_mib=32, thin_provision=True)
        _serve(node, "lvs/v", port)
        namespace = _namespace(node)
        blocks = random.Random(1).sample(range(32 * MIB // BLOCK), 400)
        async with initiator() as host:
            disk = host.open((await host.attach(port))[0])
            assert disk.bdev.size == 32 * MIB
            writes = {block: io(disk, Op.WRITE, block * BLOCK, _content(block)) for block in blocks}
            await host.until(lambda: sum(write.done() for write in writes.values()) > 100)
            node.kill()
            answered = [block for block in blocks if writes[block].done() and not writes[block].result()]
        assert len(answered) > 100
        node.start()
        _base(node, file)
        _serve(node, "lvs/v", port)
        assert _namespace(node) == namespace
        async with initiator() as host:
            disk = host.open((await host.attach(port))[0])
            for block in blocks:
                data = bytearray(BLOCK)
                assert await finished(io(disk, Op.READ, block * BLOCK, data)) == Status.SUCCESS
                assert data == _content(block) or (block not in answered and not any(data)), block

    with Spdk(tmp_path) as node:
        asyncio.run(work(node))


def test_an_initiator_sees_an_lvol_grow_and_keeps_its_data(tmp_path: Path) -> None:
    port = free_port()

    async def work(node: Spdk) -> None:
        node.call("bdev_malloc_create", name="base", num_blocks=64 * MIB // 512, block_size=512)
        node.call("bdev_lvol_create_lvstore", bdev_name="base", lvs_name="lvs", cluster_sz=MIB)
        node.call("bdev_lvol_create", lvs_name="lvs", lvol_name="v", size_in_mib=8)
        _serve(node, "lvs/v", port)
        async with initiator() as host:
            disk = host.open((await host.attach(port))[0])
            assert await finished(io(disk, Op.WRITE, 0, _content(1))) == Status.SUCCESS
            node.call("bdev_lvol_snapshot", lvol_name="lvs/v", snapshot_name="s")
            node.call("bdev_lvol_resize", name="lvs/v", size_in_mib=16)
            await host.until(lambda: disk.bdev.size == 16 * MIB)
            assert await finished(io(disk, Op.WRITE, 15 * MIB, _content(2))) == Status.SUCCESS
            assert await finished(io(disk, Op.FLUSH, 0, disk.bdev.size)) in (Status.SUCCESS, Status.INVALID_OPCODE)
            for place, content in ((0, 1), (15 * MIB, 2)):
                data = bytearray(BLOCK)
                assert await finished(io(disk, Op.READ, place, data)) == Status.SUCCESS
                assert data == _content(content)
            node.call("bdev_lvol_delete", name="lvs/v")
            await host.until(lambda: disk.closed)

    with Spdk(tmp_path) as node:
        asyncio.run(work(node))
