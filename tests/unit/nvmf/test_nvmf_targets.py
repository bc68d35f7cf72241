"""Several targets in a process, and who serves the connections to them."""

from __future__ import annotations

import asyncio

import pytest
from nvmf_host import NQN, Queue, World, with_world
from spdk_emulator.bdev.models import Op
from spdk_emulator.framework.threads import Threads
from spdk_emulator.nvme_tcp.nvme import Io, Sc
from spdk_emulator.nvmf.models import Config, Nvmf, PollGroup, Targets, TransportOptions
from spdk_emulator.nvmf.subsystem import SubsystemOptions
from support.ports import free_port


def add_group(world: World) -> PollGroup:
    """A second poll group, on thread 7."""
    threads = Threads()
    for _unused in range(5):
        threads.create("another")
    world.target.groups.append(PollGroup(threads.create("second")))
    return world.target.groups[-1]


async def until(world: World, connections: list[int]) -> None:
    """Let the target work until its poll groups have so many connections."""
    async with asyncio.timeout(60):
        while [len(group.connections) for group in world.target.groups] != connections:
            await asyncio.sleep(0.01)


def test_poll_groups_get_connections_in_turn() -> None:
    async def test(world: World) -> None:
        second = add_group(world)
        first = world.target.groups[0]
        admin, io = await world.io()
        third = await world.queue()
        await until(world, [2, 1])
        assert (first.stats.current_admin_qpairs, first.stats.current_io_qpairs) == (1, 0)
        assert (second.stats.current_admin_qpairs, second.stats.current_io_qpairs) == (0, 1)
        for queue in (io, third, admin):
            queue.close()
        await until(world, [0, 0])
        assert (first.stats.admin_qpairs, first.stats.current_admin_qpairs) == (1, 0)
        assert (second.stats.io_qpairs, second.stats.current_io_qpairs) == (1, 0)

    with_world(test)


def test_io_counts_for_the_poll_group_and_for_its_thread() -> None:
    async def test(world: World) -> None:
        second = add_group(world)
        bdev = world.bdevs.get("m1")
        _unused, io = await world.io()
        connects = second.stats.io
        assert connects == 1, "the connect of an I/O queue is a command on it"
        for _unused in range(3):
            await io.read(0, 1)
        assert (await io.run(Io.READ, 77, (0, 0, 0), length=512))[0].status == Sc.INVALID_NAMESPACE | 0x4000
        assert (world.target.groups[0].stats.io, second.stats.io) == (0, connects + 4)
        counted = {thread: bdev.stats.of(thread).as_json()["num_read_ops"] for thread in (1, 2, 7)}
        assert counted == {1: 0, 2: 0, 7: 3}
        assert bdev.stats.as_json()["num_read_ops"] == 3 + 3, "three reads looked for a superblock"

    with_world(test)


def test_a_namespace_has_a_channel_on_every_poll_group() -> None:
    async def test(world: World) -> None:
        bdev = world.bdevs.get("m1")
        assert bdev.threads == [2]
        add_group(world)
        other = await world.add_subsystem("nqn.2016-06.io.spdk:s2")
        world.subsystem.remove_namespace(1)
        assert bdev.threads == []
        other.add_namespace("m1")
        assert bdev.threads == [2, 7]

    with_world(test)


def test_what_a_thread_has_counted_stays_when_its_channel_goes() -> None:
    async def test(world: World) -> None:
        bdev = world.bdevs.get("m1")
        _unused, io = await world.io()
        await io.read(0, 1)
        before = bdev.stats.as_json()
        assert bdev.stats.of(2).used
        world.subsystem.remove_namespace(1)
        assert not bdev.stats.of(2).used
        assert bdev.stats.as_json() == before

    with_world(test)


def test_pollers_are_those_of_spdk() -> None:
    async def test(world: World) -> None:
        threads, target = Threads(), world.target
        poll_group = target.groups[0].thread
        [app_thread] = threads

        def polled(thread, sleeps: bool = False) -> list[tuple[str, int]]:
            return [(poller.name, poller.period) for poller in target.pollers(thread, sleeps)]

        assert polled(app_thread) == [("nvmf_tcp_accept", 10000)]
        assert polled(app_thread, sleeps=True) == [("nvmf_tcp_accept", 0)]
        assert polled(poll_group) == [("nvmf_TCP", 0)]
        await world.admin(kato=30000)
        assert polled(poll_group) == [("nvmf_TCP", 0), ("nvmf_ctrlr_keep_alive_poll", 30_000_000)]
        malloc = world.bdevs.get("m1")
        assert [poller.name for poller in malloc.channel_pollers(2)] == ["malloc_completion_poller"]
        malloc.stats.of(2).count(Op.READ, 512, 1, 0)
        assert [poller.name for poller in malloc.channel_pollers(2)] == ["malloc_completion_poller", "accel_comp_poll"]

    with_world(test)


def test_a_target_without_poll_groups_closes_connections() -> None:
    async def test(world: World) -> None:
        target = Nvmf(world.bdevs, Config(), "other")
        target.create_transport(TransportOptions())
        made = target.create_subsystem(NQN, SubsystemOptions(), True)
        port = free_port()
        await target.add_listener(made, world.address(port))
        with pytest.raises((EOFError, ConnectionError)):
            await Queue.open(port)
        assert target.connections == []
        await target.shutdown()

    with_world(test)


def test_a_host_may_be_let_in_once_at_each_listener() -> None:
    async def test(world: World) -> None:
        world.target.config.dup_host_policy = "restrict_per_listener"
        second_port = free_port()
        await world.target.add_listener(world.subsystem, world.address(second_port))
        first = await world.admin()
        twice = await world.queue()
        assert (await twice.connect()).status == Sc.INTERNAL_ERROR
        assert (await (await world.queue(port=second_port)).connect()).status == 0
        first.close()
        async with asyncio.timeout(60):
            while (await (await world.queue()).connect()).status:
                await asyncio.sleep(0.01)

    with_world(test)


def test_targets_are_found_by_name_or_where_there_is_one() -> None:
    async def test(world: World) -> None:
        targets = Targets(world.bdevs, Threads("0x3"))
        await targets.start()
        assert targets.find(None) is targets.main
        assert [group.thread.name for group in targets.main.groups] == [
            "nvmf_tgt_poll_group_000",
            "nvmf_tgt_poll_group_001",
        ]
        other = targets.create("other", Config(max_subsystems=1))
        assert list(targets) == [other, targets.main]
        assert targets.find(None) is None
        assert targets.find("other") is other
        assert (other.groups, other.subsystems) == ([], {})
        await targets.delete(other)
        assert targets.find(None) is targets.main
        await targets.shutdown()

    with_world(test)


def test_poll_groups_are_on_the_cores_that_were_named() -> None:
    async def test(world: World) -> None:
        threads = Threads("0x7")
        targets = Targets(world.bdevs, threads)
        targets.config.poll_groups = frozenset({0, 2})
        await targets.start()
        made = [(thread.name, thread.core, thread.cpus) for thread in threads if thread.number > 1]
        assert made == [
            ("nvmf_tgt_poll_group_000", 2, frozenset({0, 2})),
            ("nvmf_tgt_poll_group_001", 0, frozenset({0, 2})),
        ]
        await targets.shutdown()

    with_world(test)
