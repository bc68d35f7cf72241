"""Passthru and delay bdevs: the base under another name, and as if it were slow."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable

import pytest
from spdk_emulator.bdev.models import BdevError, Op, Status
from spdk_emulator.jsonrpc.errors import RpcError
from support.initiator import Initiator, io

SLOW = 50_000
"""Microseconds."""


def run(scenario: Callable[[Initiator], Awaitable[None]]) -> None:
    async def whole() -> None:
        node = Initiator()
        await node.call("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)
        await asyncio.wait_for(scenario(node), 120)

    asyncio.run(whole())


async def slow(node: Initiator, read: int = 0, write: int = 0) -> None:
    latencies = {"avg_read_latency": read, "p99_read_latency": read}
    latencies |= {"avg_write_latency": write, "p99_write_latency": write}
    assert await node.call("bdev_delay_create", base_bdev_name="m", name="d", **latencies) == "d"


def test_a_passthru_bdev_is_its_base() -> None:
    async def scenario(node: Initiator) -> None:
        await node.call("bdev_passthru_create", base_bdev_name="m", name="p")
        disk, base = node.open("p"), node.app.bdevs.open("m", False, lambda *_event: None)
        data, read = bytearray(b"abcd" * 1024), bytearray(4096)
        assert await io(disk, Op.WRITE, 512, data) == Status.SUCCESS
        assert await io(base, Op.READ, 512, read) == Status.SUCCESS
        assert read == data
        for op in (Op.UNMAP, Op.FLUSH):
            assert await io(disk, op, 512, 4096) == Status.SUCCESS
        assert await io(disk, Op.COMPARE, 512, bytearray(4096)) == Status.SUCCESS
        assert await io(disk, Op.COMPARE, 512, data) == Status.COMPARE_FAILURE

    run(scenario)


def test_a_refused_one_stays_wanted_as_in_spdk() -> None:
    async def scenario(node: Initiator) -> None:
        await node.call("bdev_passthru_create", base_bdev_name="m", name="p")
        for number in (errno.EPERM, errno.EEXIST):
            with pytest.raises(BdevError) as refused:
                await node.call("bdev_passthru_create", base_bdev_name="m", name="q")
            assert refused.value.number == number
        await node.call("bdev_passthru_delete", name="p")
        await node.call("bdev_malloc_delete", name="m")
        await node.call("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)
        assert [bdev.name for bdev in node.app.bdevs] == ["m", "q"]

    run(scenario)


def test_it_has_the_uuid_that_was_asked_for_and_keeps_its_size() -> None:
    async def scenario(node: Initiator) -> None:
        await node.call("bdev_null_create", name="n", num_blocks=2048, block_size=512)
        uuid = "00000000-0000-4000-8000-000000000099"
        await node.call("bdev_passthru_create", base_bdev_name="n", name="p", uuid=uuid)
        await node.call("bdev_null_resize", name="n", new_size=4)
        bdev = (await node.call("bdev_get_bdevs", name="p"))[0]
        assert (bdev["uuid"], bdev["num_blocks"]) == (uuid, 2048)
        config = await node.call("framework_get_config", name="bdev")
        params = {"base_bdev_name": "n", "name": "p", "uuid": uuid}
        assert {"method": "bdev_passthru_create", "params": params} in config

    run(scenario)


@pytest.mark.parametrize("op", [Op.READ, Op.WRITE])
def test_only_what_is_slow_takes_long(op: Op) -> None:
    async def scenario(node: Initiator) -> None:
        await slow(node, read=SLOW if op == Op.READ else 0, write=SLOW if op == Op.WRITE else 0)
        disk = node.open("d")
        started = time.monotonic()
        assert await asyncio.gather(*(io(disk, op, 0, bytearray(512)) for _each in range(8))) == [Status.SUCCESS] * 8
        assert SLOW / 1e6 <= time.monotonic() - started < 8 * SLOW / 1e6
        other = io(disk, Op.WRITE if op == Op.READ else Op.READ, 0, bytearray(512))
        assert other.done()

    run(scenario)


def test_latencies_change_while_it_is_used() -> None:
    async def scenario(node: Initiator) -> None:
        await slow(node)
        disk = node.open("d")
        assert io(disk, Op.READ, 0, bytearray(512)).done()
        for which in ("avg_read", "p99_read"):
            await node.call("bdev_delay_update_latency", delay_bdev_name="d", latency_type=which, latency_us=SLOW)
        late = io(disk, Op.READ, 0, bytearray(512))
        assert not late.done()
        assert await late == Status.SUCCESS
        described = (await node.call("bdev_get_bdevs", name="d"))[0]["driver_specific"]["delay"]
        assert (described["avg_read_latency"], described["avg_write_latency"]) == (SLOW, 0)

    run(scenario)


def test_a_reset_and_the_end_abort_what_is_delayed() -> None:
    async def scenario(node: Initiator) -> None:
        await slow(node, read=60_000_000)
        disk = node.open("d")
        late = io(disk, Op.READ, 0, bytearray(512))
        assert await io(disk, Op.RESET, 0, 0) == Status.SUCCESS
        assert await late == Status.ABORTED
        late = io(disk, Op.READ, 0, bytearray(512))
        await node.call("bdev_malloc_delete", name="m")
        assert await late == Status.ABORTED

    run(scenario)


def test_latencies_that_cannot_be_and_bdevs_that_are_not_there() -> None:
    async def scenario(node: Initiator) -> None:
        wrong = {"avg_read_latency": 2, "p99_read_latency": 1, "avg_write_latency": 0, "p99_write_latency": 0}
        with pytest.raises(BdevError) as refused:
            await node.call("bdev_delay_create", base_bdev_name="m", name="d", **wrong)
        assert refused.value.number == errno.EINVAL
        for name in ("m", "nope"):
            with pytest.raises(RpcError, match="The requested bdev does not exist"):
                await node.call(
                    "bdev_delay_update_latency", delay_bdev_name=name, latency_type="avg_read", latency_us=1
                )
        with pytest.raises(BdevError):
            await node.call("bdev_delay_delete", name="m")

    run(scenario)


def test_a_tower_falls_from_the_top_and_is_built_again_from_its_configuration() -> None:
    async def scenario(node: Initiator) -> None:
        await slow(node)
        await node.call("bdev_passthru_create", base_bdev_name="d", name="p")
        await node.call("accel_crypto_key_create", name="k", cipher="AES_XTS", key="00" * 16, key2="11" * 16)
        await node.call("bdev_crypto_create", base_bdev_name="p", name="c", key_name="k")
        config = (await node.call("framework_get_config", name="bdev"))[1:5]
        assert [call["method"].split("_")[1] for call in config] == ["crypto", "delay", "passthru", "malloc"]
        last = (await node.call("notify_get_notifications"))[-1]["id"]
        await node.call("bdev_malloc_delete", name="m")
        events = await node.call("notify_get_notifications", id=last + 1)
        assert [event["ctx"] for event in events] == ["c", "p", "d", "m"]
        other = Initiator()
        await other.call("accel_crypto_key_create", name="k", cipher="AES_XTS", key="00" * 16, key2="11" * 16)
        for call in config:
            await other.call(call["method"], **call["params"])
        assert [bdev.name for bdev in other.app.bdevs] == ["m", "d", "p", "c"]

    run(scenario)


def test_a_base_is_in_use_while_what_stands_on_it_is() -> None:
    async def scenario(node: Initiator) -> None:
        await node.call("bdev_passthru_create", base_bdev_name="m", name="p")
        await node.call("bdev_set_qos_limit", name="m", rw_ios_per_sec=100000)
        with pytest.raises(RpcError, match="Resource temporarily unavailable"):
            await node.call("bdev_set_qos_limit", name="m", rw_ios_per_sec=200000)
        node.open("p")
        assert await node.call("bdev_set_qos_limit", name="m", rw_ios_per_sec=200000)

    run(scenario)
