"""What a guest reads is what was written, whatever happens to the lvols around it; and the space that takes."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Awaitable, Callable

import pytest
from lvol_node import BLOCK, CLUSTER, SIZE, Disk, Host, check_space
from spdk_emulator.bdev.models import BdevError, BdevEvent, Op, Status
from spdk_emulator.lvol.bdev import Lvol
from spdk_emulator.lvol.models import RefusedLate
from spdk_emulator.lvol.store import Store


def on_store(test: Callable[[Host, Store], Awaitable[None]], disk: Callable[[], Disk] = Disk) -> None:
    """Run it with a new store on a new disk."""

    async def run() -> None:
        host = await Host(disk()).examined()
        await test(host, await host.make_store())

    asyncio.run(run())


class _Model:
    """What each lvol should read as; a bdev that cannot unmap may leave what was unmapped as it is."""

    def __init__(self, host: Host, store: Store, seed: int) -> None:
        self.host, self.store = host, store
        self.random = random.Random(seed)
        self.data: dict[str, bytearray] = {}
        self.number = 0

    async def step(self) -> None:
        writable = [name for name in self.data if not self.host.lvol(name).read_only]
        choices = [self._create] if len(writable) < 2 else [self._io] * 8 + [self._change] * 3 + [self._create]
        await self.random.choice(choices)()

    def _name(self) -> str:
        self.number += 1
        return f"v{self.number}"

    async def _create(self) -> None:
        name, count, thin = self._name(), self.random.randint(1, 6), self.random.random() < 0.7
        try:
            await self.store.create(name, count * CLUSTER, thin, "write_zeroes")
        except BdevError:
            return
        # A thick lvol begins as what its clusters held before.
        self.data[name] = bytearray(await self.host.read(name))
        if thin:
            assert not any(self.data[name])

    async def _io(self) -> None:
        """Several at a time, each in a part of the lvol of its own."""
        name = self.random.choice([name for name in self.data if not self.host.lvol(name).read_only])
        data = self.data[name]
        blocks = len(data) // BLOCK
        cuts = sorted(self.random.sample(range(blocks + 1), min(6, blocks + 1)))
        await asyncio.gather(*(self._one(name, start * BLOCK, end * BLOCK) for start, end in zip(cuts, cuts[1:])))

    async def _one(self, name: str, start: int, end: int) -> None:
        op = self.random.choice([Op.WRITE, Op.WRITE, Op.READ, Op.WRITE_ZEROES, Op.UNMAP])
        buffer = bytearray(self.random.randbytes(end - start)) if op == Op.WRITE else bytearray(end - start)
        lvol = self.host.lvol(name)
        advice = lvol.parent is not None or not lvol.thin or Op.UNMAP not in self.host.disk.supported
        status = await self.host.io(name, op, start, end - start, buffer if op in (Op.READ, Op.WRITE) else None)
        if status != Status.SUCCESS:
            assert op in (Op.WRITE, Op.WRITE_ZEROES) and self.store.free_clusters == 0
            self.data[name][start:end] = (await self.host.read(name))[start:end]
        elif op == Op.READ:
            assert buffer == self.data[name][start:end]
        elif op == Op.UNMAP and advice:
            self.data[name][start:end] = (await self.host.read(name))[start:end]
        else:
            self.data[name][start:end] = buffer

    async def _change(self) -> None:
        name = self.random.choice(list(self.data))
        lvol = self.host.lvol(name)
        what = self.random.randrange(8)
        try:
            if what == 0:
                new = (await self.store.snapshot(lvol, self._name())).lvol_name
                self.data[new] = bytearray(self.data[name])
            elif what in (1, 2):
                new = (await self.store.clone(lvol, self._name())).lvol_name
                self.data[new] = bytearray(self.data[name])
            elif what in (3, 4):
                await self.store.delete(lvol)
                del self.data[name]
            elif what == 5:
                await self.store.inflate(lvol, everything=self.random.random() < 0.5)
            else:
                size = len(self.data[name]) + CLUSTER * self.random.randint(0, 2)
                await self.store.resize(lvol, size)
                self.data[name] += (await self.host.read(name))[len(self.data[name]) :]
        except BdevError:
            pass  # refused: a snapshot of what is read only, the deletion of what has two clones …

    async def check(self) -> None:
        check_space(self.store)
        for name, data in self.data.items():
            assert await self.host.read(name) == data, name


@pytest.mark.parametrize("seed", range(8))
def test_anything_goes(seed: int) -> None:
    """Also after a restart in between."""

    async def run() -> None:
        host = await Host(Disk(unmaps=seed % 2 == 0, later=seed % 4 < 2)).examined()
        model = _Model(host, await host.make_store(), seed)
        for number in range(150):
            await model.step()
            if number % 10 == 0:
                await model.check()
            if number % 50 == 49:
                old = host.disk
                image = bytes(old.memory)
                host = await Host(Disk(image, unmaps=Op.UNMAP in old.supported, later=old.later)).examined()
                model.host, model.store = host, next(iter(host.stores))
                await model.check()

    asyncio.run(run())


@pytest.mark.parametrize("unmaps", [True, False])
def test_what_others_left_is_not_read_in_a_thin_lvol(unmaps: bool) -> None:
    async def test(host: Host, store: Store) -> None:
        host.disk.memory[store.geometry.metadata_clusters * CLUSTER :] = bytes([0xEE]) * (
            SIZE - store.geometry.metadata_clusters * CLUSTER
        )
        await store.create("t", 4 * CLUSTER, True, "none")
        assert await host.write("t", CLUSTER + 512, b"x" * 512) == Status.SUCCESS
        assert await host.io("t", Op.WRITE_ZEROES, 2 * CLUSTER + 512, 512) == Status.SUCCESS
        wanted = bytearray(4 * CLUSTER)
        wanted[CLUSTER + 512 : CLUSTER + 1024] = b"x" * 512
        assert await host.read("t") == wanted

    on_store(test, lambda: Disk(unmaps=unmaps))


def test_a_full_store_refuses_writes_and_stays_whole() -> None:
    async def test(host: Host, store: Store) -> None:
        total = store.total_data_clusters
        await store.create("big", 2 * total * CLUSTER, True, "default")
        await store.create("other", CLUSTER, True, "default")
        for index in range(total):
            assert await host.write("big", index * CLUSTER, bytes([index + 1]) * 512) == Status.SUCCESS
        assert store.free_clusters == 0
        assert await host.write("big", total * CLUSTER, b"x" * 512) == Status.INTERNAL_ERROR
        assert await host.write("other", 0, b"x" * 512) == Status.INTERNAL_ERROR
        assert await host.write("big", 0, b"y" * 512) == Status.SUCCESS
        with pytest.raises(BdevError, match="No space left"):
            await store.create("thick", CLUSTER, False, "default")
        assert await host.io("big", Op.UNMAP, 5 * CLUSTER, 2 * CLUSTER) == Status.SUCCESS
        assert store.free_clusters == 2
        assert await host.write("other", 0, b"x" * 512) == Status.SUCCESS
        check_space(store)

    on_store(test)


def test_writes_to_one_new_cluster_at_the_same_time_take_one_cluster() -> None:
    async def test(host: Host, store: Store) -> None:
        await store.create("t", CLUSTER, True, "default")
        writes = [host.write("t", start, bytes([start // 512]) * 512) for start in range(0, CLUSTER, 512)]
        assert set(await asyncio.gather(*writes)) == {Status.SUCCESS}
        assert await host.read("t") == b"".join(bytes([number]) * 512 for number in range(CLUSTER // 512))
        assert len(host.lvol("t").clusters) == 1

    on_store(test, lambda: Disk(later=True))


def test_a_long_io_is_one_io_of_the_base() -> None:
    async def test(host: Host, store: Store) -> None:
        await store.create("v", 8 * CLUSTER, False, "default")
        host.disk.log.clear()
        assert await host.write("v", 512, b"x" * 6 * CLUSTER) == Status.SUCCESS
        assert len(await host.read("v")) == 8 * CLUSTER
        assert [(op, length) for op, _place, length in host.disk.log] == [
            (Op.WRITE, 6 * CLUSTER),
            (Op.READ, 8 * CLUSTER),
        ]

    on_store(test)


def test_an_unmapped_cluster_is_wiped_before_another_gets_it() -> None:
    async def test(host: Host, store: Store) -> None:
        await store.create("t", 2 * CLUSTER, True, "default")
        await host.write("t", 0, b"s" * CLUSTER)
        place = host.lvol("t").clusters[0]
        assert await host.io("t", Op.UNMAP, 0, CLUSTER) == Status.SUCCESS
        assert host.lvol("t").clusters == {}
        assert not any(host.disk.memory[place * CLUSTER : (place + 1) * CLUSTER])

    on_store(test)


@pytest.mark.parametrize(("method", "kept"), [("none", True), ("unmap", False), ("write_zeroes", False)])
def test_a_deleted_lvol_is_cleared_as_it_was_asked_for(method: str, kept: bool) -> None:
    async def test(host: Host, store: Store) -> None:
        lvol = await store.create("v", 2 * CLUSTER, False, method)
        await host.write("v", 0, b"s" * 2 * CLUSTER)
        place = lvol.clusters[0]
        await store.delete(lvol)
        assert any(host.disk.memory[place * CLUSTER : (place + 2) * CLUSTER]) == kept
        check_space(store)

    on_store(test)


def test_a_snapshot_is_taken_between_writes_not_during_one() -> None:
    """Writes of one block each go on; the snapshot holds exactly those that were answered before or not at all."""

    async def test(host: Host, store: Store) -> None:
        lvol = await store.create("v", 4 * CLUSTER, True, "default")
        writes = [asyncio.ensure_future(host.write("v", at * CLUSTER, b"x" * 2 * 512)) for at in range(4)]
        await asyncio.sleep(0)
        snapshot = await store.snapshot(lvol, "s")
        assert set(await asyncio.gather(*writes)) == {Status.SUCCESS}
        before = await host.read("s")
        for at in range(4):
            assert await host.write("v", at * CLUSTER, b"y" * 1024) == Status.SUCCESS
        assert await host.read("s") == before
        assert await host.write("s", 0, b"z" * 512) == Status.INVALID_OPCODE
        assert snapshot.read_only

    on_store(test, lambda: Disk(later=True))


def test_holders_learn_of_a_new_size_and_of_the_end() -> None:
    async def test(host: Host, store: Store) -> None:
        lvol = await store.create("v", 2 * CLUSTER, True, "default")
        events: list[tuple[BdevEvent, int]] = []
        descriptor = host.bdevs.open("lvs/v", True, lambda event, bdev: heard(event, bdev.size))

        def heard(event: BdevEvent, size: int) -> None:
            events.append((event, size))
            if event == BdevEvent.REMOVE:
                descriptor.close()

        await store.resize(lvol, 3 * CLUSTER + 1)
        with pytest.raises(BdevError, match="busy"):
            await store.resize(lvol, CLUSTER)
        assert lvol.size == 4 * CLUSTER
        await store.delete(lvol)
        assert events == [(BdevEvent.RESIZE, 4 * CLUSTER), (BdevEvent.REMOVE, 4 * CLUSTER)]
        assert host.bdevs.find("lvs/v") is None and host.bdevs.find(lvol.name) is None

    on_store(test)


def test_a_store_goes_with_its_base_and_comes_back_with_it() -> None:
    async def test(host: Host, store: Store) -> None:
        lvol = await store.create("v", 2 * CLUSTER, True, "default")
        await host.write("v", 0, b"x" * 512)
        descriptor = host.bdevs.open("lvs/v", True, lambda event, bdev: descriptor.close())
        gone = asyncio.Event()
        host.bdevs.unregister(host.disk, gone.set)
        assert gone.is_set() and not list(host.stores) and not list(host.bdevs)
        host.bdevs.register(Disk(bytes(host.disk.memory)))
        await host.bdevs.wait_for_examine()
        assert host.lvol("v").uuid == lvol.uuid
        assert (await host.read("v"))[:512] == b"x" * 512

    on_store(test)


def test_a_grown_base_gives_its_clusters_and_keeps_the_data() -> None:
    async def test(host: Host, store: Store) -> None:
        await store.create("v", 2 * CLUSTER, False, "default")
        await host.write("v", 0, b"x" * 2 * CLUSTER)
        before = store.free_clusters
        await store.grow()
        assert store.free_clusters == before
        image = bytes(host.disk.memory) + bytes(SIZE)
        host = await Host(Disk(image)).examined()
        store = next(iter(host.stores))
        assert store.free_clusters == before
        await store.grow()
        assert store.free_clusters == before + SIZE // CLUSTER
        await store.create("more", (before + 10) * CLUSTER, False, "default")
        host = await Host(Disk(bytes(host.disk.memory))).examined()
        check_space(next(iter(host.stores)))
        assert await host.read("v") == b"x" * 2 * CLUSTER
        assert len(host.lvol("more").clusters) == before + 10

    on_store(test)


def test_a_deleted_store_is_not_found_again() -> None:
    async def test(host: Host, store: Store) -> None:
        lvol = await store.create("v", 2 * CLUSTER, False, "default")
        await store.clone(await store.snapshot(lvol, "s"), "c")
        await store.destroy()
        assert not list(host.stores) and host.disk.claimed_by is None
        assert [bdev.name for bdev in host.bdevs] == ["base"]
        assert not list((await Host(Disk(bytes(host.disk.memory))).examined()).stores)
        again = await host.make_store()
        assert again.free_clusters == again.total_data_clusters
        assert again.geometry.uuid != store.geometry.uuid

    on_store(test)


def test_one_copy_of_a_volume_is_made_at_a_time_as_in_spdk() -> None:
    async def test(_host: Host, store: Store) -> None:
        lvol = await store.create("v", 2 * CLUSTER, False, "default")
        asked = [store.snapshot(lvol, name) for name in ("s", "t")]
        snapshot, refused = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(refused, BdevError) and refused.number == errno.EBUSY
        assert isinstance(snapshot, Lvol)
        clones = [store.clone(snapshot, name) for name in ("c", "d")]
        clone, refused = await asyncio.gather(*clones, return_exceptions=True)
        assert isinstance(refused, BdevError) and refused.number == errno.EBUSY
        assert isinstance(clone, Lvol)
        await store.clone(snapshot, "d")
        assert sorted(each.lvol_name for each in store.lvols) == ["c", "d", "s", "v"]

    on_store(test, lambda: Disk(later=True))


def test_one_base_is_of_one_store_and_a_name_of_one() -> None:
    async def test(host: Host, _store: Store) -> None:
        with pytest.raises(BdevError, match="not permitted"):
            await host.stores.create("base", "second", CLUSTER, "unmap", 0, 0)
        with pytest.raises(BdevError, match="No such device"):
            await host.stores.create("nope", "second", CLUSTER, "unmap", 0, 0)

    on_store(test)


@pytest.mark.parametrize(
    ("cluster_size", "ratio", "late", "text"),
    [
        (CLUSTER + 1, 0, False, "Invalid argument"),
        (CLUSTER + 512, 0, True, "Invalid argument"),
        (2 * SIZE, 0, True, "Invalid argument"),
        (4096, 0, True, "Cannot allocate memory"),
        (CLUSTER, 10**6, True, "Cannot allocate memory"),
    ],
)
def test_a_store_that_cannot_be_is_refused_as_by_spdk(cluster_size: int, ratio: int, late: bool, text: str) -> None:
    async def run() -> None:
        host = await Host(Disk()).examined()
        with pytest.raises(BdevError, match=text) as caught:
            await host.stores.create("base", "lvs", cluster_size, "unmap", ratio, 0)
        assert isinstance(caught.value, RefusedLate) == late
        assert not host.disk.descriptors and not host.disk.written

    asyncio.run(run())
