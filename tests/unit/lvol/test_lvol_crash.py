"""The power is cut at each write to the base: what was answered is there afterwards, what was not is done or not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from lvol_node import CLUSTER, Disk, Host, PowerCut, check_space
from spdk_emulator.bdev.models import Op, Status

Step = Callable[[Host], Awaitable[Any]]


def _data(fill: int, length: int) -> bytes:
    return bytes([fill]) * length


def _write(name: str, offset: int, fill: int, length: int) -> Step:
    async def step(host: Host) -> None:
        assert await host.write(name, offset, _data(fill, length)) == Status.SUCCESS

    return step


def _unmap(name: str, offset: int, length: int) -> Step:
    async def step(host: Host) -> None:
        assert await host.io(name, Op.UNMAP, offset, length) == Status.SUCCESS

    return step


def _change(method: str, *names: str, **more: Any) -> Step:
    """A method of the store; the first name is of an lvol that is there."""

    async def step(host: Host) -> None:
        store = next(iter(host.stores))
        await getattr(store, method)(host.lvol(names[0]), *names[1:], **more)

    return step


def _create(name: str, clusters: int, thin: bool) -> Step:
    async def step(host: Host) -> None:
        await next(iter(host.stores)).create(name, clusters * CLUSTER, thin, "default")

    return step


def _grow(name: str, clusters: int) -> Step:
    return _change("resize", name, size=clusters * CLUSTER)


STORY: list[Step] = [
    lambda host: host.make_store(),
    _create("low", 2, True),
    _write("low", 0, 10, 2 * CLUSTER),
    _create("a", 6, True),
    _write("a", 1024, 1, 512),
    _write("a", CLUSTER - 512, 2, 2 * CLUSTER),
    _change("snapshot", "a", "s1"),
    _write("a", 0, 3, 512),
    _write("a", 4 * CLUSTER, 4, CLUSTER),
    _change("snapshot", "a", "s2"),
    _change("delete", "low"),
    _write("a", CLUSTER, 5, 1024),
    _write("a", 4 * CLUSTER, 11, 512),
    _change("clone", "s1", "c"),
    _write("c", 2 * CLUSTER + 512, 6, 512),
    _create("thick", 5, False),
    _write("thick", 0, 7, 5 * CLUSTER),
    _grow("thick", 8),
    _grow("thick", 2),
    _grow("thick", 4),
    _change("delete", "s2"),
    _change("inflate", "c", everything=False),
    _change("delete", "s1"),
    _write("a", 5 * CLUSTER, 8, CLUSTER),
    _grow("a", 3),
    _grow("a", 6),
    _write("a", 5 * CLUSTER, 8, CLUSTER),
    _unmap("a", 0, 6 * CLUSTER),
    _write("a", CLUSTER, 13, 512),
    _change("snapshot", "a", "s3"),
    _write("a", CLUSTER, 14, 512),
    _change("delete", "s3"),
    _unmap("a", 0, 6 * CLUSTER),
    _write("a", 0, 9, 512),
    _change("inflate", "a", everything=True),
    _change("rename_lvol", "a", "b"),
    _change("set_read_only", "c"),
    _change("delete", "thick"),
    _change("delete", "c"),
]


async def _state(host: Host) -> dict[str, Any]:
    """Everything that an operator or a guest can see."""
    stores = list(host.stores)
    if not stores:
        return {}
    check_space(stores[0])
    return {
        lvol.lvol_name: (
            str(lvol.uuid),
            lvol.thin,
            lvol.read_only,
            lvol.parent.lvol_name if lvol.parent else None,
            len(lvol.clusters),
            await host.read(lvol.lvol_name),
        )
        for lvol in stores[0].lvols
    } | {"(store)": (stores[0].geometry.uuid, stores[0].free_clusters)}


def _without_uuid(state: dict[str, Any]) -> dict[str, Any]:
    """A lvol's UUID is not the same in two runs of the story."""
    return {name: values[1:] for name, values in state.items()}


def _torn_by_design(state: dict[str, Any]) -> dict[str, Any]:
    """Without space and data: a write of several clusters, and an inflation, is done cluster by cluster."""
    return {name: values[:3] for name, values in state.items() if name != "(store)"}


async def _written_by_story(unmaps: bool) -> tuple[int, list[dict[str, Any]], list[int]]:
    """How many writes it takes, what is there after each step and after how many writes that is."""
    disk = Disk(unmaps=unmaps)
    host = await Host(disk).examined()
    states, written = [{}], [0]
    for step in STORY:
        await step(host)
        states.append(_without_uuid(await _state(host)))
        written.append(disk.written)
    return disk.written, states, written


async def _run_until(writes: int, torn: bool, unmaps: bool) -> tuple[Disk, int]:
    """The disk as it is after the cut, and how many steps were answered."""
    disk = Disk(unmaps=unmaps)
    disk.writes, disk.torn = writes, torn
    host = await Host(disk).examined()
    for number, step in enumerate(STORY):
        try:
            await host.until_cut(step(host))
        except PowerCut:
            return disk, number
    raise AssertionError("the power was not cut")


def _agrees(found: dict[str, Any], before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Either; where a step is done cluster by cluster, each cluster is as before or as after."""
    if found in (before, after):
        return True
    if not before or _torn_by_design(found) not in (_torn_by_design(before), _torn_by_design(after)):
        return False
    if before.keys() != after.keys():
        return False
    for name in before.keys() - {"(store)"}:
        old, new, data = before[name][-1], after[name][-1], found[name][-1]
        if len(data) not in (len(old), len(new)):
            return False
        for start in range(0, len(data), 512):
            block = slice(start, start + 512)
            if data[block] not in (old[block], new[block]):
                return False
    return True


@pytest.mark.parametrize("unmaps", [True, False], ids=["unmaps", "cannot unmap"])
@pytest.mark.parametrize("torn", [False, True], ids=["whole writes", "torn writes"])
def test_nothing_that_was_answered_is_lost_wherever_the_power_is_cut(torn: bool, unmaps: bool) -> None:
    async def run() -> None:
        writes, states, _written = await _written_by_story(unmaps)
        assert writes > 60
        seen = set()
        for cut in range(writes):
            disk, steps = await _run_until(cut, torn, unmaps)
            seen.add(steps)
            again = Disk(bytes(disk.memory), unmaps)
            host = await Host(again).examined()
            found = _without_uuid(await _state(host))
            assert _agrees(found, states[steps], states[steps + 1]), f"cut at write {cut}, in step {steps}"
            await _cut_recovery(bytes(disk.memory), again.written, found, unmaps)
            await _go_on(host)
        assert len(seen) > len(STORY) * 3 // 4

    asyncio.run(run())


async def _cut_recovery(image: bytes, writes: int, wanted: dict[str, Any], unmaps: bool) -> None:
    """The power is cut again, at each write of the recovery."""
    for cut in range(writes):
        disk = Disk(image, unmaps)
        disk.writes = cut
        with pytest.raises(PowerCut):
            await Host(disk).examined()
        host = await Host(Disk(bytes(disk.memory), unmaps)).examined()
        assert _without_uuid(await _state(host)) == wanted


async def _go_on(host: Host) -> None:
    """What was left on the disk does not come back when it is used further."""
    for store in host.stores:
        for lvol in store.lvols:
            if lvol.thin and not lvol.read_only:
                assert await host.io(lvol.lvol_name, Op.UNMAP, 0, lvol.size) == Status.SUCCESS
        await store.create("later", 6 * CLUSTER, True, "default")
    host = await _restarted(host)
    for store in host.stores:
        for lvol in store.lvols:
            if not lvol.read_only:
                await store.resize(lvol, lvol.size + 3 * CLUSTER)
    host = await _restarted(host)
    for store in host.stores:
        assert not any(await host.read("later"))
        for lvol in store.lvols:
            if not lvol.read_only:
                assert await host.write(lvol.lvol_name, lvol.size - 512, _data(12, 512)) == Status.SUCCESS
    await _restarted(host)


async def _restarted(host: Host) -> Host:
    wanted = await _state(host)
    again = await Host(Disk(bytes(host.disk.memory))).examined()
    assert await _state(again) == wanted
    return again


def test_identity_survives_a_restart() -> None:
    async def run() -> None:
        disk = Disk()
        host = await Host(disk).examined()
        for step in STORY[:16]:
            await step(host)
        await _restarted(host)

    asyncio.run(run())


def test_a_failed_write_of_metadata_stops_changes_and_loses_nothing() -> None:
    async def run() -> None:
        disk = Disk()
        host = await Host(disk).examined()
        for step in STORY[:7]:
            await step(host)
        wanted = await _state(host)
        disk.broken = True
        assert await host.write("a", 3 * CLUSTER, b"x" * 512) == Status.INTERNAL_ERROR
        disk.broken = False
        host = await Host(Disk(bytes(disk.memory))).examined()
        assert await _state(host) == wanted

    asyncio.run(run())
