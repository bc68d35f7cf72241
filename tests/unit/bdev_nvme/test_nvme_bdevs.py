"""Bdevs of namespaces of our own target: I/O of every kind, namespaces that come, change and go, paths."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest
from nvme_initiator import NQN, Initiator, Target, finished, initiator, io
from spdk_emulator.bdev.models import Op, Status
from spdk_emulator.bdev_nvme.controller import Controller
from spdk_emulator.framework.threads import APP_THREAD
from spdk_emulator.jsonrpc.errors import RpcError
from spdk_emulator.nvme_tcp import digests as crc
from support.ports import free_port


@pytest.mark.parametrize("digests", [False, True])
def test_data_of_every_size_comes_back(target: Callable[..., Target], digests: bool) -> None:
    async def work() -> None:
        async with initiator() as node:
            assert await node.attach(target().port, hdgst=digests, ddgst=digests) == ["nn1"]
            disk = node.open("nn1")
            # In the capsule; more than fits it; exactly one transfer; several commands.
            for size in (512, 4096, 8192, 16384, 128 << 10, 300 << 10):
                data = bytearray(os.urandom(size))
                assert await finished(io(disk, Op.WRITE, 512, data)) == 0
                back = bytearray(size)
                assert await finished(io(disk, Op.READ, 512, back)) == 0
                assert back == data, size

    asyncio.run(work())


def test_without_the_library_there_are_no_digests(
    target: Callable[..., Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crc, "_library", lambda: None)
    port = target().port

    async def work() -> None:
        async with initiator() as node:
            for option in ("hdgst", "ddgst"):
                with pytest.raises(RpcError, match="no digests without the Python library crc32c"):
                    await node.attach(port, **{option: True})
            assert await node.attach(port) == ["nn1"]

    asyncio.run(work())


def test_zeroes_unmap_compare_and_reset(target: Callable[..., Target]) -> None:
    async def work() -> None:
        place = target()
        place.call("bdev_malloc_create", name="m", num_blocks=8192, block_size=512)
        place.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=1)  # aio cannot unmap, and what one lacks none has
        place.add_namespace("m", 2)
        async with initiator() as node:
            assert await node.attach(place.port) == ["nn2"]
            disk = node.open("nn2")
            data = bytearray(os.urandom(1 << 20))
            assert await finished(io(disk, Op.WRITE, 0, data)) == 0
            assert await finished(io(disk, Op.COMPARE, 0, data)) == 0
            assert await finished(io(disk, Op.WRITE_ZEROES, 0, 256 << 10)) == 0
            assert await finished(io(disk, Op.UNMAP, 512 << 10, 256 << 10)) == 0
            assert await finished(io(disk, Op.COMPARE, 0, data)) == Status.COMPARE_FAILURE
            assert await finished(io(disk, Op.FLUSH, 0, 0)) == 0
            assert await finished(io(disk, Op.RESET, 0, 0)) == 0
            back = bytearray(1 << 20)
            assert await finished(io(disk, Op.READ, 0, back)) == 0
            data[: 256 << 10] = bytes(256 << 10)
            data[512 << 10 : 768 << 10] = bytes(256 << 10)
            assert back == data

    asyncio.run(work())


def test_namespaces_come_grow_and_go_while_connected(target: Callable[..., Target]) -> None:
    async def work() -> None:
        place = target()
        async with initiator() as node:
            await node.attach(place.port)
            disk = node.open("nn1")
            place.call("bdev_null_create", name="null0", num_blocks=2048, block_size=4096)
            place.add_namespace("null0", 7)
            await node.until(lambda: node.app.bdevs.find("nn7"))
            assert node.app.bdevs.get("nn7").num_blocks == 2048
            place.call("bdev_null_resize", name="null0", new_size=16)
            await node.until(lambda: node.app.bdevs.get("nn7").num_blocks == 4096)
            second = node.open("nn7")
            running = [io(second, Op.READ, 0, bytearray(4096)) for _unused in range(300)]
            place.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=7)
            await node.until(lambda: node.app.bdevs.find("nn7") is None)
            # Every I/O has ended, one way or the other; the other namespace does not care.
            await asyncio.wait_for(asyncio.gather(*running), 60)
            assert await finished(io(disk, Op.READ, 0, bytearray(4096))) == 0

    asyncio.run(work())


def test_a_namespace_that_is_another_one_now_becomes_another_bdev(target: Callable[..., Target]) -> None:
    async def work() -> None:
        place = target()
        async with initiator() as node:
            await node.attach(place.port)
            before = node.app.bdevs.get("nn1")
            place.call("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)
            place.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=1)
            place.add_namespace("m", 1)
            await node.until(lambda: node.app.bdevs.find("nn1") not in (None, before))
            assert node.app.bdevs.get("nn1").uuid != before.uuid

    asyncio.run(work())


async def _two_paths(node: Initiator, place: Target, **params: Any) -> None:
    params = {"ctrlr_loss_timeout_sec": -1, "reconnect_delay_sec": 1, **params}
    assert await node.attach(place.ports[0], **params) == ["nn1"]
    assert await node.attach(place.ports[1], **params) == ["nn1"]


def _path(node: Initiator) -> str:
    return node.app.nvme.bdev("nn1").path.trid.trsvcid


def test_io_moves_to_the_other_path_with_its_access_state(target: Callable[..., Target]) -> None:
    async def work() -> None:
        place = target(paths=2)
        async with initiator() as node:
            await _two_paths(node, place)
            first, second = map(str, place.ports)
            assert _path(node) == first
            place.listen(place.ports[0], "nvmf_subsystem_listener_set_ana_state", ana_state="inaccessible")
            await node.until(lambda: _path(node) == second)
            disk = node.open("nn1")
            data = bytearray(os.urandom(65536))
            assert await finished(io(disk, Op.WRITE, 0, data)) == 0
            told = await node.call("bdev_nvme_get_io_paths")
            [group] = told["poll_groups"]
            assert group["thread"] == "app_thread"
            paths = [(path["transport"]["trsvcid"], path["current"], path["accessible"]) for path in group["io_paths"]]
            assert paths == [(first, False, False), (second, True, True)]
            told = await node.call("bdev_nvme_get_transport_statistics")
            assert [group["thread"] for group in told["poll_groups"]] == ["app_thread"]
            assert told["poll_groups"][0]["transports"][0]["submitted_requests"] > 0
            disk.close()
            for method in ("bdev_nvme_get_io_paths", "bdev_nvme_get_transport_statistics"):
                assert await node.call(method) == {"poll_groups": []}

    asyncio.run(work())


def test_io_waits_for_an_inaccessible_namespace_as_long_as_the_target_says(target: Callable[..., Target]) -> None:
    async def work() -> None:
        place = target()
        async with initiator() as node:
            await node.attach(place.port)
            disk, bdev = node.open("nn1"), node.app.nvme.bdev("nn1")

            async def become(state: str) -> None:
                place.listen(place.port, "nvmf_subsystem_listener_set_ana_state", ana_state=state)
                await node.until(lambda: bdev.namespace(bdev.controllers[0]).ana.name.lower() == state)

            await become("inaccessible")
            reading = io(disk, Op.READ, 0, bytearray(4096))
            assert await finished(io(disk, Op.FLUSH, 0, 0)) == 0
            assert not reading.done()
            await become("optimized")
            assert await finished(reading) == 0
            # The target's word for how long a change may take is over: nothing is left to wait for.
            bdev.controllers[0].data["anatt"] = 0
            await become("inaccessible")
            assert await finished(io(disk, Op.READ, 0, bytearray(4096))) == Status.INTERNAL_ERROR

    asyncio.run(work())


def test_active_active_uses_both_paths(target: Callable[..., Target]) -> None:
    async def work() -> None:
        place = target(paths=2)
        async with initiator() as node:
            await _two_paths(node, place)
            await node.call("bdev_nvme_set_multipath_policy", name="nn1", policy="active_active", rr_min_io=2)
            disk = node.open("nn1")
            for _unused in range(8):
                assert await finished(io(disk, Op.READ, 0, bytearray(4096))) == 0
            controllers = node.app.nvme.bdev("nn1").controllers
            queues = [each.io_queues.connected[APP_THREAD] for each in controllers]
            assert [each.submitted - 1 for each in queues] == [4, 4]  # Connect is one of them

    asyncio.run(work())


def test_detaching_one_path_leaves_the_other(target: Callable[..., Target]) -> None:
    async def work() -> None:
        place = target(paths=2)
        async with initiator() as node:
            await _two_paths(node, place)
            disk = node.open("nn1")
            await node.call("bdev_nvme_detach_controller", name="n", trsvcid=str(place.ports[0]))
            assert await finished(io(disk, Op.READ, 0, bytearray(4096))) == 0
            assert len(place.call("nvmf_subsystem_get_controllers", nqn=NQN)) == 1
            await node.call("bdev_nvme_detach_controller", name="n")
            assert node.app.bdevs.find("nn1") is None
            assert disk.closed

    asyncio.run(work())


def test_failover_mode_keeps_an_alternative(target: Callable[..., Target]) -> None:
    async def work() -> None:
        place = target(paths=2)
        async with initiator() as node:
            await _two_paths(node, place, multipath="failover")
            [described] = await node.call("bdev_nvme_get_controllers")
            [controller] = described["ctrlrs"]
            assert [each["trsvcid"] for each in controller["alternate_trids"]] == [str(place.ports[1])]
            disk = node.open("nn1")
            assert await finished(io(disk, Op.READ, 0, bytearray(4096))) == 0
            place.listen(place.ports[0], "nvmf_subsystem_remove_listener")
            assert await finished(io(disk, Op.READ, 0, bytearray(4096))) == 0
            await node.until(lambda: node.app.nvme.groups["n"].controllers[0].trid.trsvcid == str(place.ports[1]))

    asyncio.run(work())


def test_what_cannot_be_attached_is_refused_and_leaves_nothing(target: Callable[..., Target]) -> None:
    async def work() -> None:
        place = target()
        async with initiator() as node:
            with pytest.raises(OSError, match="Input/output error"):
                await node.attach(free_port())
            with pytest.raises(OSError, match="Input/output error"):
                await node.attach(place.port, subnqn="nqn.2016-06.io.spdk:other")
            with pytest.raises(OSError, match="Invalid argument"):
                await node.attach(place.port, ctrlr_loss_timeout_sec=5, reconnect_delay_sec=9)
            with pytest.raises(RpcError, match="Required key not available"):
                await node.attach(place.port, dhchap_key="none")
            with pytest.raises(RpcError, match="traddr too long"):
                await node.call(
                    "bdev_nvme_attach_controller", name="n", trtype="TCP", traddr="1" * 257, trsvcid="4420", subnqn=NQN
                )
            assert await node.call("bdev_nvme_get_controllers") == []
            await node.attach(place.port)
            with pytest.raises(RpcError, match="RPC not permitted with nvme controllers already attached"):
                await node.call("bdev_nvme_set_options", bdev_retry_count=1)

    asyncio.run(work())


def test_discovery_attaches_and_detaches_as_the_log_page_says(target: Callable[..., Target]) -> None:
    async def work() -> None:
        place = target()
        port = free_port()
        discovery = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)}
        place.call("nvmf_subsystem_add_listener", nqn="nqn.2014-08.org.nvmexpress.discovery", listen_address=discovery)
        async with initiator() as node:
            await node.call("bdev_nvme_start_discovery", name="d", wait_for_attach=True, **discovery)
            assert [bdev.name for bdev in node.app.bdevs] == ["d0n1"]
            place.call("nvmf_create_subsystem", nqn=NQN + "2", allow_any_host=True)
            place.call("bdev_null_create", name="null0", num_blocks=2048, block_size=512)
            place.call("nvmf_subsystem_add_ns", nqn=NQN + "2", namespace={"bdev_name": "null0"})
            listener = {**discovery, "trsvcid": str(place.port)}
            place.call("nvmf_subsystem_add_listener", nqn=NQN + "2", listen_address=listener)
            await node.until(lambda: node.app.bdevs.find("d1n1"))
            place.call("nvmf_delete_subsystem", nqn=NQN + "2")
            await node.until(lambda: node.app.bdevs.find("d1n1") is None)
            await node.call("bdev_nvme_stop_discovery", name="d")
            assert list(node.app.bdevs) == []
            assert await node.call("bdev_nvme_get_controllers") == []

    asyncio.run(work())


def test_paths_that_are_discovered_are_in_the_order_of_the_log_page(
    target: Callable[..., Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long each of them takes to connect."""
    attach = Controller.attach
    attached: list[str] = []

    async def work(slow: int) -> list[str]:
        async def attach_late(controller: Controller) -> None:
            await attach(controller)
            if not controller.is_discovery:
                attached.append(controller.trid.trsvcid)
                if len(attached) == slow:
                    await asyncio.sleep(0.2)

        monkeypatch.setattr(Controller, "attach", attach_late)
        async with initiator() as node:
            await node.call("bdev_nvme_start_discovery", name="d", wait_for_attach=True, **discovery)
            [told] = await node.call("bdev_nvme_get_controllers")
            return [path["trid"]["trsvcid"] for path in told["ctrlrs"]]

    place = target(paths=2)
    discovery = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(free_port())}
    place.call("nvmf_subsystem_add_listener", nqn="nqn.2014-08.org.nvmexpress.discovery", listen_address=discovery)
    first = asyncio.run(work(slow=1))
    assert sorted(first) == sorted(map(str, place.ports))
    attached.clear()
    assert asyncio.run(work(slow=2)) == first
