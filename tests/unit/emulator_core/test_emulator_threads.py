"""SPDK's threads in the emulator: where they are, what they poll, what counts for which; and its tracepoints."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from emulator_node import SECONDS, Emulator
from spdk_emulator.framework import cores
from spdk_emulator.framework.threads import APP_THREAD, Poller, Thread, Threads, running
from spdk_emulator.framework.trace import Traces
from spdk_emulator.framework.tracepoints import ALL
from spdk_emulator.framework.turns import Selector, turns


def on_cores(emulator: Emulator) -> dict[int, list[str]]:
    reactors = emulator.call("framework_get_reactors")["reactors"]
    return {reactor["lcore"]: [thread["name"] for thread in reactor["lw_threads"]] for reactor in reactors}


def polled(emulator: Emulator, thread: str) -> list[tuple[str, int]]:
    """Names and periods in µs."""
    answer = emulator.call("thread_get_pollers")
    [found] = [each for each in answer["threads"] if each["name"] == thread]
    scale = answer["tick_rate"] // 1_000_000
    return [
        (poller["name"], poller.get("period_ticks", 0) // scale)
        for poller in found["active_pollers"] + found["timed_pollers"]
    ]


# Cores


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("0x3", {0, 1}), ("0XC", {2, 3}), ("5", {0, 2}), (" 0x1\t", {0}), ("[1]", {1}), ("[ 0 , 2-3 ]", {0, 2, 3})],
)
def test_masks(text: str, wanted: set[int]) -> None:
    assert cores.parse(text) == wanted


@pytest.mark.parametrize("text", ["", "0x", "zz", "-1", "+1", "1_0", "[1,]", "[2-1]", "[0-1", "[1024]", "[]"])
def test_what_is_no_mask(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        cores.parse(text)


def test_threads_go_to_the_cores_in_turn() -> None:
    threads = Threads("0x7", main_core=1)
    made = [threads.create(f"t{number}") for number in range(3)]
    assert [thread.core for thread in made] == [2, 0, 1]
    assert threads.create("bound", frozenset({2})).core == 2
    assert [thread.name for thread in threads.reactors[1].threads] == ["app_thread", "t2"]
    threads.exit(made[2])
    assert threads.get(made[2].number) is None
    assert threads.create("next").number == 6, "an identifier is given once"
    threads.move(made[0], frozenset({1}))
    assert [thread.name for thread in threads.reactors[1].threads][-1] == "t0"


@pytest.mark.parametrize(("mask", "main_core"), [("0x0", None), ("0x3", 2), ("x", None)])
def test_a_process_needs_its_cores(mask: str, main_core: int | None) -> None:
    with pytest.raises(ValueError, match=r"."):
        Threads(mask, main_core)


def test_pollers_keep_their_numbers() -> None:
    threads, there = Threads(), ["a", "b"]

    def pollers(_unused: Thread) -> list[Poller]:
        return [Poller(None, name) for name in there]

    threads.add_pollers(pollers)
    [thread] = threads
    assert [(polled.number, poller.name) for polled, poller in threads.pollers(thread)] == [(1, "a"), (2, "b")]
    there[:] = ["c", "b"]
    assert [(polled.number, poller.name) for polled, poller in threads.pollers(thread)] == [(2, "b"), (3, "c")]
    there[:] = ["a"]
    assert [(polled.number, poller.name) for polled, poller in threads.pollers(thread)] == [(4, "a")]


def counted(threads: Threads, thread: Thread) -> dict[str, tuple[int, int]]:
    return {poller.name: (polled.run_count, polled.busy_count) for polled, poller in threads.pollers(thread)}


def test_a_turn_of_the_loop_is_a_poll() -> None:
    threads, done = Threads(), [7, 0]
    there = ["polls", "works", "nvmf_tcp_accept"]

    def pollers(_unused: Thread) -> list[Poller]:
        periods = {"nvmf_tcp_accept": 10_000_000}
        made = [Poller(None, name, periods.get(name, 0)) for name in there]
        return [made[0], *(made[1]._replace(work=each) for each in done), *made[2:]]

    threads.add_pollers(pollers)
    [thread] = threads
    assert counted(threads, thread) == dict.fromkeys(there, (0, 0))
    turns.number += 5
    turns.accounts[APP_THREAD].turns += 3
    done[1] = 2
    assert counted(threads, thread) == {"polls": (5, 3), "works": (5, 2), "nvmf_tcp_accept": (0, 0)}
    done[:] = [90, 0]
    assert counted(threads, thread)["works"] == (5, 3), "once a turn, however much it did"
    done[:] = [0, 0]
    assert counted(threads, thread)["works"] == (5, 3), "what it worked for is gone"
    there.append("late")
    assert counted(threads, thread)["late"] == (0, 0)
    turns.number += 1
    assert counted(threads, thread) == {"polls": (6, 3), "works": (6, 3), "nvmf_tcp_accept": (0, 0), "late": (1, 0)}


def test_pollers_count_from_when_they_came() -> None:
    threads = Threads()
    threads.add_pollers(lambda _unused: [Poller(None, "a")])
    [thread] = threads

    async def look() -> None:
        threads.look_soon()
        async with asyncio.timeout(SECONDS):
            while not thread.polled:
                await asyncio.sleep(0.001)

    asyncio.run(look())
    turns.number += 4
    assert counted(threads, thread) == {"a": (4, 0)}


def test_time_is_that_of_the_threads_that_do_io() -> None:
    threads = Threads("0x3")
    group = threads.create("group", frozenset({0}))
    [app_thread, _unused] = threads
    long = 20_000_000
    loop = asyncio.SelectorEventLoop(Selector())
    busy: list[int] = []

    def work() -> None:
        end = time.perf_counter_ns() + long
        while time.perf_counter_ns() < end:
            pass

    def work_for_group() -> None:
        running.thread = group.number
        work()
        running.thread = APP_THREAD
        loop.call_soon(answer)

    def answer() -> None:
        work()
        loop.call_later(0.02, work_for_nobody)

    def work_for_nobody() -> None:
        threads.settle()
        busy.append(group.busy)
        work()
        loop.stop()

    try:
        loop.call_soon(work_for_group)
        loop.run_forever()
    finally:
        loop.close()
    threads.settle()
    assert busy[0] >= 2 * long, "what a turn leaves to the next one is of the same thread"
    assert app_thread.busy >= long
    assert group.busy == busy[0], "the timer was nobody's"
    reactor, other = threads.reactors[0], threads.reactors[1]
    assert reactor.busy == app_thread.busy + group.busy
    assert reactor.idle > 0, "it slept"
    assert (other.busy, other.idle) == (0, reactor.busy + reactor.idle)
    assert app_thread.idle == group.idle
    assert reactor.idle - 8 <= app_thread.idle + group.idle <= reactor.idle


# The process


def test_there_is_a_poll_group_for_each_core(start: Callable[..., Emulator]) -> None:
    emulator = start("-m", "0x3")
    assert on_cores(emulator) == {0: ["app_thread", "nvmf_tgt_poll_group_001"], 1: ["nvmf_tgt_poll_group_000"]}
    stats = emulator.call("thread_get_stats")["threads"]
    assert [(thread["name"], thread["id"], thread["cpumask"]) for thread in stats] == [
        ("app_thread", 1, "1"),
        ("nvmf_tgt_poll_group_000", 2, "3"),
        ("nvmf_tgt_poll_group_001", 3, "3"),
    ]


def test_the_first_thread_is_on_the_main_core(start: Callable[..., Emulator]) -> None:
    emulator = start("-m", "0x3", "-p", "1")
    assert on_cores(emulator)[1][0] == "app_thread"
    assert emulator.call("framework_get_scheduler")["scheduling_core"] == 1


@pytest.mark.parametrize("arguments", [("-m", "0x0"), ("-m", "zz"), ("-m", "0x1", "-p", "1")])
def test_a_wrong_mask_is_told_at_the_start(start: Callable[..., Emulator], arguments: tuple[str, ...]) -> None:
    emulator = start(*arguments)
    assert emulator.wait() == 2
    assert "core" in emulator.log()


def test_threads_are_moved(start: Callable[..., Emulator]) -> None:
    emulator = start("-m", "0x3")
    assert emulator.call("thread_set_cpumask", id=1, cpumask="0x6") is True
    assert emulator.call("thread_get_stats")["threads"][0]["cpumask"] == "2"
    assert on_cores(emulator) == {0: ["nvmf_tgt_poll_group_001"], 1: ["nvmf_tgt_poll_group_000", "app_thread"]}


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"id": 9, "cpumask": "0x1"}, "-32602.*Thread 9 does not exist"),
        ({"id": 1, "cpumask": "x"}, "-32603.*Invalid cpumask x"),
        ({"id": 1, "cpumask": "0x4"}, "-32603.*No CPU is selected from reactor mask 3"),
        ({"id": 1}, "-32602.*spdk_json_decode_object failed"),
        ({"id": "1", "cpumask": "0x1"}, "-32602.*spdk_json_decode_object failed"),
    ],
)
def test_threads_that_cannot_be_moved(start: Callable[..., Emulator], params: dict[str, Any], error: str) -> None:
    emulator = start("-m", "0x3")
    before = on_cores(emulator)
    with pytest.raises(AssertionError, match=error):
        emulator.call("thread_set_cpumask", **params)
    assert on_cores(emulator) == before


def test_a_vhost_controller_has_a_thread(start: Callable[..., Emulator], tmp_path: Path) -> None:
    emulator = start("-m", "0x3", "-S", str(tmp_path))
    emulator.call("bdev_null_create", name="n0", num_blocks=64, block_size=512)
    for name, mask in (("v0", {}), ("v1", {"cpumask": "0x2"})):
        emulator.call("vhost_create_blk_controller", ctrlr=name, dev_name="n0", **mask)
    assert on_cores(emulator)[1] == ["nvmf_tgt_poll_group_000", "v0", "v1"]
    assert [each["cpumask"] for each in emulator.call("vhost_get_controllers")] == ["0x3", "0x2"]
    emulator.call("thread_set_cpumask", id=4, cpumask="0x1")
    assert emulator.call("vhost_get_controllers", name="v0")[0]["cpumask"] == "0x1"
    assert [call["params"]["cpumask"] for call in emulator.call("framework_get_config", name="vhost_blk")] == ["1", "2"]
    emulator.call("vhost_delete_controller", ctrlr="v0")
    assert "v0" not in on_cores(emulator)[0]


def test_a_refused_vhost_controller_leaves_no_thread(start: Callable[..., Emulator], tmp_path: Path) -> None:
    emulator = start("-S", str(tmp_path))
    emulator.call("bdev_null_create", name="n0", num_blocks=64, block_size=512)
    (tmp_path / "v0").mkdir()
    before = on_cores(emulator)
    with pytest.raises(AssertionError, match="Input/output error"):
        emulator.call("vhost_create_blk_controller", ctrlr="v0", dev_name="n0")
    assert on_cores(emulator) == before


@pytest.mark.parametrize(
    ("arguments", "accept"), [((), ("nvmf_tcp_accept", 10000)), (("--interrupt-mode",), ("nvmf_tcp_accept", 0))]
)
def test_pollers_are_those_of_spdk(
    start: Callable[..., Emulator], arguments: tuple[str, ...], accept: tuple[str, int]
) -> None:
    emulator = start("-m", "0x3", *arguments)
    assert polled(emulator, "app_thread") == [("rpc_subsystem_poll_servers", 4000)]
    assert polled(emulator, "nvmf_tgt_poll_group_001") == []
    emulator.call("nvmf_create_transport", trtype="TCP")
    assert accept in polled(emulator, "app_thread")
    assert polled(emulator, "nvmf_tgt_poll_group_001") == [("nvmf_TCP", 0)]

    emulator.call("bdev_null_create", name="n0", num_blocks=64, block_size=512)
    emulator.call("bdev_passthru_create", name="p0", base_bdev_name="n0")
    delays = {f"{which}_{way}_latency": 1 for which in ("avg", "p99") for way in ("read", "write")}
    emulator.call("bdev_delay_create", name="d0", base_bdev_name="p0", **delays)
    emulator.call("bdev_set_qos_limit", name="d0", rw_ios_per_sec=1000)
    emulator.call("nvmf_create_subsystem", nqn="nqn.2016-06.io.spdk:a")
    emulator.call("nvmf_subsystem_add_ns", nqn="nqn.2016-06.io.spdk:a", namespace={"bdev_name": "d0"})
    channel = {("nvmf_TCP", 0), ("null_io_poll", 0), ("_delay_finish_io", 0)}
    assert set(polled(emulator, "nvmf_tgt_poll_group_000")) == channel | {("bdev_channel_poll_qos", 1000)}
    assert set(polled(emulator, "nvmf_tgt_poll_group_001")) == channel
    channels = emulator.call("bdev_get_iostat", names=["n0"], per_channel=True)["channels"]
    assert [each["thread_id"] for each in channels] == [2, 3]
    stats = {thread["name"]: thread for thread in emulator.call("thread_get_stats")["threads"]}
    group = stats["nvmf_tgt_poll_group_000"]
    assert (group["active_pollers_count"], group["timed_pollers_count"], group["paused_pollers_count"]) == (3, 1, 0)
    if arguments:
        assert (group["busy"], group["idle"]) == (0, 0)


def test_a_store_of_lvols_has_a_channel_of_its_own(start: Callable[..., Emulator]) -> None:
    emulator = start("-m", "0x3")
    emulator.call("bdev_malloc_create", name="m0", num_blocks=65536, block_size=512)
    emulator.call("bdev_lvol_create_lvstore", bdev_name="m0", lvs_name="s")
    emulator.call("bdev_lvol_create", lvs_name="s", lvol_name="l", size_in_mib=4)
    emulator.call("nvmf_create_subsystem", nqn="nqn.2016-06.io.spdk:a")
    emulator.call("nvmf_subsystem_add_ns", nqn="nqn.2016-06.io.spdk:a", namespace={"bdev_name": "s/l"})

    def threads(bdev: str) -> list[int]:
        channels = emulator.call("bdev_get_iostat", names=[bdev], per_channel=True)["channels"]
        return [each["thread_id"] for each in channels]

    assert (threads("s/l"), threads("m0")) == ([2, 3], [1, 2, 3])


def test_caches_of_buffers_are_those_of_threads(start: Callable[..., Emulator]) -> None:
    emulator = start("-m", "0x3")

    def caches() -> dict[str, tuple[int, int]]:
        pools = emulator.call("iobuf_get_stats")
        return {
            each["module"]: tuple(each[f"{size}_pool"]["cache_size"] for size in ("small", "large")) for each in pools
        }

    assert caches() == {"accel": (0, 0), "bdev": (0, 0)}
    emulator.call("nvmf_create_transport", trtype="TCP")
    assert caches() == {"accel": (256, 32), "bdev": (0, 0), "nvmf_TCP": (4096, 512)}
    emulator.call("bdev_null_create", name="n0", num_blocks=64, block_size=512)
    emulator.call("nvmf_create_subsystem", nqn="nqn.2016-06.io.spdk:a")
    emulator.call("nvmf_subsystem_add_ns", nqn="nqn.2016-06.io.spdk:a", namespace={"bdev_name": "n0"})
    assert caches() == {"accel": (256, 32), "bdev": (256, 32), "nvmf_TCP": (4096, 512)}


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        ({"iobuf_small_cache_size": 7, "iobuf_large_cache_size": 5}, (14, 10)),
        ({"buf_cache_size": 3}, (6, 512)),
        ({"iobuf_small_cache_size": 5000}, (4096, 512)),
    ],
)
def test_a_transport_says_how_many_buffers_it_keeps(
    start: Callable[..., Emulator], params: dict[str, int], kept: tuple[int, int]
) -> None:
    emulator = start("-m", "0x3")
    emulator.call("nvmf_create_transport", trtype="TCP", **params)
    pools = emulator.call("iobuf_get_stats")[2]
    assert (pools["small_pool"]["cache_size"], pools["large_pool"]["cache_size"]) == kept


# Tracepoints


@pytest.mark.parametrize(
    ("wanted", "masks"),
    [
        ("bdev", {3: ALL}),
        ("bdev:0x3", {3: 3}),
        ("0x408", {3: ALL, 10: ALL}),
        ("bdev,thread:1", {3: ALL, 10: 1}),
        ("bdev:bdev_io_start+BDEV_IO_DONE", {3: 3}),
        ("", {}),
    ],
)
def test_tracepoints_are_switched_on_at_the_start(wanted: str, masks: dict[int, int]) -> None:
    made = Traces(wanted)
    assert {bit: mask for bit, mask in enumerate(made.masks) if mask} == masks
    assert made.group_mask == sum(1 << bit for bit in masks)


@pytest.mark.parametrize("wanted", ["nope", "bdev:nope", "0x408:1", "all:1", "bdev,nope"])
def test_what_names_no_tracepoints_is_told_at_the_start(start: Callable[..., Emulator], wanted: str) -> None:
    emulator = start("-e", wanted)
    assert emulator.wait() == 2
    assert "tracepoint" in emulator.log()


def test_tracepoints_are_switched(start: Callable[..., Emulator]) -> None:
    emulator = start("-i", "3")

    def on() -> dict[str, Any]:
        info = emulator.call("trace_get_info")
        assert info["tpoint_shm_path"] == "/dev/shm/spdk_tgt_trace.3"
        return {name: each["tpoint_mask"] for name, each in list(info.items())[2:] if each["tpoint_mask"] != "0x0"}

    assert on() == {}
    emulator.call("trace_enable_tpoint_group", name="bdev")
    assert on() == {"bdev": "0xffffffffffffffff"}
    emulator.call("trace_clear_tpoint_mask", name="bdev", tpoint_mask=5)
    assert on() == {"bdev": "0xfffffffffffffffa"}
    emulator.call("trace_disable_tpoint_group", name="all")
    emulator.call("trace_set_tpoint_mask", name="all", tpoint_mask=3)
    assert on() == {"scheduler": "0x3"}, "as in SPDK, the last of all groups"
    [group] = [each for name, each in emulator.call("trace_get_tpoint_group_mask").items() if name == "scheduler"]
    assert [point["enabled"] for point in group["tpoints"]] == [True, True, False, False]
    assert emulator.call("trace_clear") is True
    for method in ("trace_enable_tpoint_group", "trace_disable_tpoint_group"):
        with pytest.raises(AssertionError, match="-32602.*Invalid parameters"):
            emulator.call(method, name="nope")
    for method in ("trace_set_tpoint_mask", "trace_clear_tpoint_mask"):
        with pytest.raises(AssertionError, match="-32602.*Invalid parameters"):
            emulator.call(method, name="nope", tpoint_mask=1)
    assert on() == {"scheduler": "0x3"}
    assert emulator.stop() == 0
    assert not Path("/dev/shm/spdk_tgt_trace.3").exists()


# The scheduler


def test_the_scheduler_has_its_cores(start: Callable[..., Emulator]) -> None:
    emulator = start("-m", "0x3", "--wait-for-rpc")

    def shown() -> tuple[str, int]:
        answer = emulator.call("framework_get_scheduler")
        return answer["isolated_core_mask"], answer["scheduling_core"]

    assert shown() == ("0", 0)
    emulator.call("scheduler_set_options", isolated_core_mask="0x2")
    assert shown() == ("2", 0)
    emulator.call("scheduler_set_options", isolated_core_mask="[0]", scheduling_core=1)
    assert shown() == ("1", 1)
    for params, error in (
        ({"isolated_core_mask": "0x2"}, "Scheduling core cannot be included in isolated core mask"),
        ({"isolated_core_mask": "0x4"}, "Invalid isolated core mask"),
        ({"isolated_core_mask": "x"}, "Invalid isolated core mask"),
        ({"scheduling_core": 5}, "Invalid scheduling core"),
    ):
        with pytest.raises(AssertionError, match=f"-32602.*{error}"):
            emulator.call("scheduler_set_options", **params)
        assert shown() == ("1", 1)
    emulator.call("framework_start_init")
    assert shown() == ("1", 1)


def test_a_period_of_the_scheduler_is_one_period_long(start: Callable[..., Emulator]) -> None:
    emulator = start()

    def period() -> int:
        return emulator.call("framework_get_scheduler")["scheduler_period"]

    for params, shown in (({"period": 10**9}, 10**9), ({}, 10**9), ({"period": 77}, 0)):
        with pytest.raises(AssertionError, match="Unknown error -22"):
            emulator.call("framework_set_scheduler", name="nope", **params)
        assert period() == shown
    emulator.call("framework_set_scheduler", name="static", period=100_000)
    emulator.until(lambda: period() == 0)
