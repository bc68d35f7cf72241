"""A target that dies and comes back: no I/O is lost, none is completed twice, and the data is right."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from nvme_initiator import Initiator, Target, finished, initiator, io
from spdk_emulator.bdev.models import Descriptor, Op, Status

FOREVER = {"ctrlr_loss_timeout_sec": -1, "reconnect_delay_sec": 1}
BLOCK = 4096
BLOCKS = 256


class Load:
    """Writes that go on until :meth:`stop`; remembers what has to be where."""

    def __init__(self, disk: Descriptor, depth: int = 16) -> None:
        self.disk = disk
        self.completions = 0
        self.wanted: dict[int, bytes] = {}
        self.failed: list[int] = []
        self._busy: set[int] = set()
        self._random = random.Random(7)
        self._stopping = False
        self._idle = asyncio.get_running_loop().create_future()
        for _unused in range(depth):
            self._write()

    def _write(self) -> None:
        block = self._random.choice([block for block in range(BLOCKS) if block not in self._busy])
        self._busy.add(block)
        data = bytearray(self._random.randbytes(BLOCK))
        calls = 0

        def done(status: int) -> None:
            nonlocal calls
            calls += 1
            assert calls == 1, "completed twice"
            self.completions += 1
            self._busy.discard(block)
            if status:
                self.failed.append(status)
            else:
                self.wanted[block] = bytes(data)
            if not self._stopping:
                # Not from within: a bdev may complete before its submission returns.
                asyncio.get_running_loop().call_soon(self._write_unless_stopping)
            self._maybe_idle()

        self.disk.io(Op.WRITE, block * BLOCK, BLOCK, [memoryview(data)], done)

    def _write_unless_stopping(self) -> None:
        if not self._stopping:
            self._write()

    def _maybe_idle(self) -> None:
        if self._stopping and not self._busy and not self._idle.done():
            self._idle.set_result(None)

    async def stop(self) -> None:
        """No further writes; wait for those under way."""
        self._stopping = True
        self._maybe_idle()
        async with asyncio.timeout(60):
            await self._idle

    async def verify(self) -> None:
        for block, data in self.wanted.items():
            back = bytearray(BLOCK)
            assert await finished(io(self.disk, Op.READ, block * BLOCK, back)) == 0
            assert back == data, f"block {block}"


async def _more(node: Initiator, load: Load, count: int = 200) -> None:
    goal = load.completions + count
    await node.until(lambda: load.completions >= goal)


def test_a_killed_target_comes_back_under_verified_writes(target: Callable[..., Target]) -> None:
    async def work() -> None:
        place = target()
        async with initiator() as node:
            await node.attach(place.port, **FOREVER)
            load = Load(node.open("nn1"))
            for _unused in range(2):
                await _more(node, load)
                place.kill()
                await node.until(lambda: not node.app.nvme.groups["n"].controllers[0].live)
                await asyncio.to_thread(place.start)
                await _more(node, load)
            await load.stop()
            assert not load.failed
            await load.verify()
            assert place.file.read_bytes()[: BLOCKS * BLOCK] == b"".join(
                load.wanted.get(block, bytes(BLOCK)) for block in range(BLOCKS)
            )

    asyncio.run(work())


def test_a_broken_path_hands_its_io_to_the_other(target: Callable[..., Target]) -> None:
    async def work() -> None:
        place = target(paths=2)
        async with initiator() as node:
            for port in place.ports:
                await node.attach(port, **FOREVER)
            load = Load(node.open("nn1"))
            for port in place.ports:
                await _more(node, load)
                place.listen(port, "nvmf_subsystem_remove_listener")
                await _more(node, load)
                place.listen(port)
                await node.until(lambda: all(each.live for each in node.app.nvme.groups["n"].controllers))
            await load.stop()
            assert not load.failed
            await load.verify()

    asyncio.run(work())


@pytest.mark.parametrize("stay", [False, True])
def test_the_first_path_takes_over_again_unless_told_otherwise(target: Callable[..., Target], stay: bool) -> None:
    async def work() -> None:
        place = target(paths=2)
        async with initiator() as node:
            await node.call("bdev_nvme_set_options", disable_auto_failback=stay)
            for port in place.ports:
                await node.attach(port, **FOREVER)
            first, second = node.app.nvme.groups["n"].controllers
            bdev = node.app.nvme.bdev("nn1")
            place.listen(place.ports[0], "nvmf_subsystem_remove_listener")
            await node.until(lambda: bdev.path is second)
            place.listen(place.ports[0])
            await node.until(lambda: first.live)
            assert bdev.path is (second if stay else first)

    asyncio.run(work())


def test_resets_under_io_lose_nothing(target: Callable[..., Target]) -> None:
    async def work() -> None:
        place = target()
        async with initiator() as node:
            await node.attach(place.port, **FOREVER)
            load = Load(node.open("nn1"))
            for _unused in range(5):
                await _more(node, load, 50)
                assert await node.call("bdev_nvme_reset_controller", name="n")
            await load.stop()
            assert not load.failed
            await load.verify()

    asyncio.run(work())


def test_io_waits_no_longer_than_the_fast_fail_timeout(target: Callable[..., Target]) -> None:
    async def work() -> None:
        place = target()
        async with initiator() as node:
            await node.attach(place.port, fast_io_fail_timeout_sec=1, **FOREVER)
            disk = node.open("nn1")
            place.kill()
            started = asyncio.get_running_loop().time()
            assert await finished(io(disk, Op.READ, 0, bytearray(BLOCK))) == Status.INTERNAL_ERROR
            assert 0.5 < asyncio.get_running_loop().time() - started < 3
            assert (await node.call("bdev_nvme_get_controllers"))[0]["ctrlrs"][0]["state"] != "enabled"
            await asyncio.to_thread(place.start)
            await node.until(lambda: node.app.nvme.groups["n"].controllers[0].live)
            assert await finished(io(disk, Op.READ, 0, bytearray(BLOCK))) == 0

    asyncio.run(work())


def test_a_controller_that_is_lost_too_long_is_deleted(target: Callable[..., Target]) -> None:
    async def work() -> None:
        place = target()
        async with initiator() as node:
            await node.attach(place.port, ctrlr_loss_timeout_sec=1, reconnect_delay_sec=1)
            disk = node.open("nn1")
            place.kill()
            waiting = io(disk, Op.READ, 0, bytearray(BLOCK))
            assert await finished(waiting) != 0
            await node.until(lambda: not node.app.nvme.groups)
            assert node.app.bdevs.find("nn1") is None

    asyncio.run(work())


def test_without_timeouts_io_fails_at_once_and_works_again_later(target: Callable[..., Target]) -> None:
    async def work() -> None:
        place = target()
        async with initiator() as node:
            await node.attach(place.port)
            disk = node.open("nn1")
            place.kill()
            assert await finished(io(disk, Op.READ, 0, bytearray(BLOCK))) == Status.INTERNAL_ERROR
            assert (await node.call("bdev_nvme_get_controllers"))[0]["ctrlrs"][0]["state"] == "failed"
            await asyncio.to_thread(place.start)
            await node.until(lambda: node.app.nvme.groups["n"].controllers[0].live)
            assert await finished(io(disk, Op.READ, 0, bytearray(BLOCK))) == 0

    asyncio.run(work())


def test_a_detach_while_the_target_is_away_ends(target: Callable[..., Target]) -> None:
    async def work() -> None:
        place = target()
        async with initiator() as node:
            await node.attach(place.port, **FOREVER)
            disk = node.open("nn1")
            place.kill()
            await node.until(lambda: not node.app.nvme.groups["n"].controllers[0].live)
            waiting = io(disk, Op.READ, 0, bytearray(BLOCK))
            assert await node.call("bdev_nvme_detach_controller", name="n")
            assert await finished(waiting) == Status.ABORTED
            assert await node.call("bdev_nvme_get_controllers") == []

    asyncio.run(work())
