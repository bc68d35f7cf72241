"""What SPDK's threads, pollers and reactors say of their work, on either engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spdk_emulator.bdev.models import Op
from support.initiator import NQN, finished, initiator, io
from support.ports import free_port
from support.spdk import Spdk

SECONDS = 60.0
"""The longest that anything here may take."""


def counts(node: Spdk) -> dict[tuple[str, str], tuple[int, int]]:
    """Runs and busy runs of all pollers, by thread and name."""
    return {
        (thread["name"], poller["name"]): (poller["run_count"], poller["busy_count"])
        for thread in node.call("thread_get_pollers")["threads"]
        for poller in thread["active_pollers"] + thread["timed_pollers"]
    }


def never_fall(before: dict[Any, tuple[int, int]], after: dict[Any, tuple[int, int]]) -> bool:
    return all(old <= new for key, old in before.items() for old, new in zip(old, after[key]))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def make_lvstore(node: Spdk) -> None:
    """From then on, the first thread does I/O where an lvol is made."""
    node.call("bdev_malloc_create", name="m0", num_blocks=131072, block_size=512)
    node.call("bdev_lvol_create_lvstore", bdev_name="m0", lvs_name="s")


def test_pollers_run_and_are_busy_with_io(tmp_path: Path) -> None:
    """Copies of a malloc bdev are accel's."""
    malloc, accel = (("app_thread", name) for name in ("malloc_completion_poller", "accel_comp_poll"))
    with Spdk(tmp_path) as node:
        make_lvstore(node)
        first = counts(node)
        node.call("bdev_lvol_create", lvs_name="s", lvol_name="l", size_in_mib=4)
        second = counts(node)
        assert never_fall(first, second)
        assert all(second[key][0] > first[key][0] for key in (malloc, accel))
        assert second[accel][1] > first[accel][1]
        node.call("bdev_reset_iostat")
        node.call("bdev_lvol_delete", name="s/l")
        third = counts(node)
        assert never_fall(second, third)
        assert third[accel][1] > second[accel][1]
        assert third[malloc][1] == 0
        assert all(busy <= run for run, busy in third.values())


def test_pollers_with_a_period_run_as_it_passes(tmp_path: Path) -> None:
    rpc, accept = (("app_thread", name) for name in ("rpc_subsystem_poll_servers", "nvmf_tcp_accept"))
    with Spdk(tmp_path) as node:
        before = time.monotonic()
        node.call("nvmf_create_transport", trtype="TCP", acceptor_poll_rate=20_000)
        first = counts(node)
        assert first[accept][0] <= (time.monotonic() - before) / 0.02
        assert first[accept][1] == 0
        assert first[rpc][0] == first[rpc][1], "it says that it was busy, always"
        until(lambda: counts(node)[accept][0] >= first[accept][0] + 10)
        second = counts(node)
        assert never_fall(first, second)
        assert second[rpc][0] >= first[rpc][0] + 20, "its period is 4 ms"
        assert second[accept][0] <= (time.monotonic() - before) / 0.02


def test_reactors_and_threads_say_how_busy_they_are(tmp_path: Path) -> None:
    def seconds(method: str, which: str) -> list[tuple[float, float]]:
        answer = node.call(method)
        return [(each["busy"] / answer["tick_rate"], each["idle"] / answer["tick_rate"]) for each in answer[which]]

    with Spdk(tmp_path) as node:
        began = time.monotonic()
        [first] = seconds("framework_get_reactors", "reactors")
        inner = time.monotonic()
        threads = seconds("thread_get_stats", "threads")
        until(lambda: seconds("framework_get_reactors", "reactors")[0][1] > first[1] + 0.5)
        make_lvstore(node)
        end = time.monotonic()
        [second] = seconds("framework_get_reactors", "reactors")
        passed = sum(second) - sum(first)
        assert end - inner - 0.05 < passed < time.monotonic() - began + 0.05
        assert second[0] > first[0]
        later = seconds("thread_get_stats", "threads")
        assert all(new >= old for before, after in zip(threads, later) for old, new in zip(before, after))
        assert later[0][0] > threads[0][0], "the first thread made the store"
        assert all(idle > 0 for _busy, idle in later)


def test_interrupt_mode_counts_nothing(tmp_path: Path) -> None:
    with Spdk(tmp_path, arguments=("--interrupt-mode",)) as node:
        make_lvstore(node)
        node.call("nvmf_create_transport", trtype="TCP")
        [first] = node.call("framework_get_reactors")["reactors"]
        node.call("bdev_lvol_create", lvs_name="s", lvol_name="l", size_in_mib=4)
        [second] = node.call("framework_get_reactors")["reactors"]
        assert (second["busy"], second["idle"], second["in_interrupt"]) == (0, 0, True)
        assert second["lw_threads"][0]["elapsed"] > first["lw_threads"][0]["elapsed"]
        assert {(each["busy"], each["idle"]) for each in node.call("thread_get_stats")["threads"]} == {(0, 0)}
        assert ("app_thread", "accel_comp_poll") in counts(node)
        assert set(counts(node).values()) == {(0, 0)}


def test_io_of_a_host_is_its_poll_group_s(tmp_path: Path) -> None:
    group = "nvmf_tgt_poll_group_000"
    nvmf, accel, null = ((group, name) for name in ("nvmf_TCP", "accel_comp_poll", "null_io_poll"))
    port = free_port()

    async def run(node: Spdk) -> None:
        def busy() -> int:
            return next(each["busy"] for each in node.call("thread_get_stats")["threads"] if each["name"] == group)

        node.call("bdev_malloc_create", name="m0", num_blocks=8192, block_size=512)
        node.call("bdev_null_create", name="n0", num_blocks=8192, block_size=512)
        node.call("nvmf_create_transport", trtype="TCP")
        node.call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True, serial_number="S1")
        for bdev in ("m0", "n0"):
            node.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": bdev})
        place = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)}
        node.call("nvmf_subsystem_add_listener", nqn=NQN, listen_address=place)
        async with initiator() as host:
            await host.attach(port)
            disk = host.open("nn1")
            assert await finished(io(disk, Op.WRITE, 0, bytearray(4096))) == 0
            first, busy_before = counts(node), busy()
            for _unused in range(20):
                assert await finished(io(disk, Op.WRITE, 0, bytearray(4096))) == 0
            second = counts(node)
            assert never_fall(first, second)
            assert second[nvmf][1] >= first[nvmf][1] + 20
            assert 20 <= second[accel][1] - first[accel][1] <= 40
            assert second[null][1] == first[null][1], "nobody used it"
            assert busy() > busy_before
            # It runs every 10 ms, which all of this may not have taken.
            until(lambda: counts(node)["app_thread", "nvmf_tcp_accept"][1] > 0)
            accepted = counts(node)["app_thread", "nvmf_tcp_accept"]
            assert accepted[1] <= accepted[0]

    with Spdk(tmp_path) as node:
        asyncio.run(run(node))
