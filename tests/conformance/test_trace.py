"""What is recorded in the file of traces, and how: on the emulator and, with ``SPDK_PREFIX``, on a real SPDK."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nvme_target import BLOCK, MALLOC_NSID, Host, Target, with_target
from spdk_emulator.nvme_tcp.nvme import Io
from support.host_queue import NQN
from support.spdk import Spdk
from support.trace_reader import Entry, TraceReader

SECONDS = 20.0
RECORDED = Path(__file__).parent / "recordings" / "spdk-26.05-tracepoints.json"
READ, WRITE = 1, 2
SLOTS = 16


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Spdk]]:
    """Start SPDKs; what they leave goes when the test is over."""
    started: list[tuple[Spdk, Path]] = []

    def run(*arguments: str, name: str = "spdk") -> Spdk:
        directory = tmp_path / name
        directory.mkdir()
        node = Spdk(directory, arguments=arguments)
        node.start()
        started.append((node, path(node)))
        return node

    yield run
    for node, file in started:
        node.stop()
        if file.is_file():
            file.unlink()


def path(node: Spdk) -> Path:
    return Path(node.call("trace_get_info")["tpoint_shm_path"])


def read(node: Spdk) -> TraceReader:
    return TraceReader(path(node))


def traced(node: Spdk, *names: str) -> list[Entry]:
    """Entries of the first core, of these tracepoints if any are named."""
    return [entry for entry in read(node).entries(0) if not names or entry.name in names]


def on(node: Spdk, *groups: str) -> None:
    for group in groups:
        node.call("trace_enable_tpoint_group", name=group)


def until(condition: Callable[[], Any]) -> None:
    """Ask again and again."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"it did not come about within {SECONDS:g} s"
        time.sleep(0.02)


def assert_rising(entries: list[Entry]) -> None:
    times = [entry.tsc for entry in entries]
    assert times == sorted(times)


def test_the_file_says_what_entries_mean(start: Callable[..., Spdk]) -> None:
    node = start()
    file = read(node)
    found = {point.pop("name"): {"id": number, **point} for number, point in file.tpoints.items()}
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    for point in recorded.values():
        point["args"] = [tuple(each) for each in point["args"]]
        point["related"] = {tuple(each) for each in point["related"]}
    assert found == recorded
    kinds = {1: "c", 2: "b", 3: "q", 4: "q", 5: "s", 6: "r", 7: "t", 0x10: "d", 0x30: "t"}
    assert file.owner_types == kinds
    kinds = {1: "p", 2: "i", 3: "p", 4: "p", 5: "N", 6: "s", 0x10: "t", 0x80: "r", 0xB0: "a", 0xC0: "R"}
    assert file.objects == kinds
    assert file.tsc_rate == node.call("framework_get_reactors")["tick_rate"]
    assert list(file.cores) == [0]
    assert file.history(0) == (32768, 0, {})
    assert len(file.data) == 3401760
    assert [owner[:2] for owner in file.owners.values()][:2] == [(7, "app_thread"), (6, "reactor_0")]
    node.call("bdev_null_create", name="n0", num_blocks=2048, block_size=512)
    assert (2, "bdev_n0") in [owner[:2] for owner in read(node).owners.values()]


def test_masks_are_in_the_file(start: Callable[..., Spdk]) -> None:
    node = start("-e", "thread:0x2")
    assert {bit: mask for bit, mask in enumerate(read(node).masks) if mask} == {10: 2}
    node.call("trace_set_tpoint_mask", name="bdev", tpoint_mask=3)
    node.call("trace_clear_tpoint_mask", name="thread", tpoint_mask=2)
    on(node, "blob")
    assert {bit: mask for bit, mask in enumerate(read(node).masks) if mask} == {3: 3, 16: 2**64 - 1}


async def write_and_read(host: Host) -> None:
    assert await host.write(8, b"w" * 2 * BLOCK) == 0
    assert await host.read(9) == b"w" * BLOCK
    done, _data = await host.io.run(Io.WRITE, MALLOC_NSID, (0, 0, 31), payload=b"p" * 32 * BLOCK)
    assert done.status == 0


def test_io_of_a_bdev(start: Callable[..., Spdk]) -> None:
    node = start()
    node.call("nvmf_create_transport", trtype="TCP", in_capsule_data_size=8192)

    async def test(target: Target) -> None:
        host = await target.host(1)
        await write_and_read(host)
        assert traced(node) == []
        node.call("trace_set_tpoint_mask", name="bdev", tpoint_mask=3)
        await write_and_read(host)
        entries = traced(node)
        assert_rising(entries)
        assert {entry.owner for entry in entries} == {"bdev_m1"}
        starts = [entry for entry in entries if entry.name == "BDEV_IO_START"]
        assert [(entry.args["type"], entry.args["offset"], entry.size) for entry in starts] == [
            (WRITE, 8, 2),
            (READ, 9, 1),
            (WRITE, 0, 32),
        ]
        for first, last in zip(entries[::2], entries[1::2], strict=True):
            assert (first.name, last.name) == ("BDEV_IO_START", "BDEV_IO_DONE")
            assert (first.object, first.args["ctx"]) == (last.object, last.args["ctx"])
            assert (first.args["qd"], last.args["qd"]) == (1, 0)
            assert first.object and first.args["ctx"]
        assert read(node).history(0)[1:] == (12, {192: 3, 193: 3})
        node.call("trace_disable_tpoint_group", name="bdev")
        await write_and_read(host)
        assert traced(node) == entries
        node.call("trace_clear")
        assert traced(node) == []
        on(node, "bdev")
        await host.read(0)
        assert [entry.name for entry in traced(node)] == ["BDEV_IO_START", "BDEV_IO_DONE"]

    with_target(node, test)


def test_requests_of_the_target(start: Callable[..., Spdk]) -> None:
    node = start()
    node.call("nvmf_create_transport", trtype="TCP", in_capsule_data_size=8192)

    async def test(target: Target) -> None:
        on(node, "bdev", "nvmf_tcp")
        host = await target.host(1)
        await write_and_read(host)
        until(lambda: len(traced(node, "TCP_REQ_NEW")) == len(traced(node, "TCP_REQ_COMPLETED")))
        entries = traced(node)
        assert_rising(entries)
        name = host.io.writer.get_extra_info("sockname")
        owner = f"{name[0]}:{name[1]} {NQN} 127.0.0.1:{target.port} qid:1"
        ios = [entry for entry in entries if entry.name == "BDEV_IO_START" and entry.owner == "bdev_m1"][-3:]
        assert [entry.args["type"] for entry in ios] == [WRITE, READ, WRITE]
        buffers = ("TCP_REQ_NEED_BUFFER", "TCP_REQ_HAVE_BUFFER")
        for io, passed in zip(
            ios, [(*buffers, "TCP_REQ_TX_H_TO_C"), buffers, (*buffers, "TCP_REQ_AWAIT_R2T_ACK")], strict=True
        ):
            states = [entry for entry in entries if entry.object == io.args["ctx"]]
            # The slot of a request is another one's before and after.
            [first] = [each for each in states if each.name == "TCP_REQ_NEW" and each.tsc < io.tsc][-1:]
            [last] = [each for each in states if each.name == "TCP_REQ_COMPLETED" and each.tsc > io.tsc][:1]
            names = [each.name for each in states if first.tsc <= each.tsc <= last.tsc]
            assert "TCP_REQ_EXECUTING" in names
            assert [each for each in names if each != "TCP_REQ_EXECUTING"] == [
                "TCP_REQ_NEW",
                *passed,
                "TCP_REQ_RDY_TO_EXECUTE",
                "TCP_REQ_EXECUTED",
                "TCP_REQ_RDY_TO_COMPLETE",
                "TCP_REQ_TRANSFER_C2H",
                "TCP_REQ_COMPLETED",
            ]
            assert {each.owner for each in states} == {owner}
            assert (first.args["qd"], last.args["qd"]) == (1, 1)
        queue = [entry for entry in entries if entry.owner == owner and entry.name.startswith("TCP_QP")]
        assert [(entry.name, *entry.args.values()) for entry in queue if "RCV" not in entry.name] == [
            ("TCP_QP_SOCK_INIT",),
            ("TCP_QP_CREATE",),
            *(("TCP_QP_STATE_CHANGE", state) for state in range(3)),
        ]
        host.io.writer.close()
        await host.io.writer.wait_closed()
        until(lambda: traced(node, "TCP_QP_DESTROY"))
        ended = [entry for entry in traced(node) if entry.owner == owner and entry.tsc > entries[-1].tsc]
        assert [(entry.name, *entry.args.values()) for entry in ended if "RCV" not in entry.name] == [
            ("TCP_QP_DISCONNECT",),
            ("TCP_QP_STATE_CHANGE", 3),
            ("TCP_QP_STATE_CHANGE", 4),
            ("TCP_QP_DESTROY",),
        ]

    with_target(node, test)


def test_commands_of_an_initiator(start: Callable[..., Spdk]) -> None:
    """It is its own target, of a namespace that looks like no bdev of its. Examining its new disk is I/O on it."""
    node = start()
    node.call("nvmf_create_transport", trtype="TCP")
    on(node, "bdev", "bdev_nvme", "nvme_tcp")

    async def test(target: Target) -> None:
        node.call("bdev_nvme_attach_controller", name="n", subnqn=NQN, **target.address)
        node.call("bdev_wait_for_examine")
        entries = traced(node)
        assert_rising(entries)
        starts = [entry for entry in entries if entry.name == "BDEV_IO_START" and entry.owner == "bdev_nn1"]
        assert starts
        for io in starts:
            above = [
                entry for entry in entries if entry.name.startswith("BDEV_NVME") and entry.args["ctx"] == io.object
            ]
            begun = [entry for entry in above if entry.tsc > io.tsc][:2]
            assert [entry.name for entry in begun] == ["BDEV_NVME_IO_START", "BDEV_NVME_IO_DONE"]
            assert begun[0].object == begun[1].object
            commands = [
                entry
                for entry in entries
                if begun[0].tsc < entry.tsc < begun[1].tsc and entry.args.get("ctx") == begun[0].object
            ]
            assert [entry.name for entry in commands if entry.name.startswith("NVME_TCP")] == [
                "NVME_TCP_SUBMIT",
                "NVME_TCP_COMPLETE",
            ]
            submitted, completed = (entry for entry in commands if entry.name.startswith("NVME_TCP"))
            assert (submitted.object, submitted.args["cid"]) == (completed.object, completed.args["cid"])
            assert (submitted.args["opc"], submitted.args["dw10"]) == (Io.READ, 0)
            assert (submitted.args["dw12"] & 0xFFFF, completed.args["cpl"]) == (io.size - 1, 0)
        node.call("bdev_nvme_detach_controller", name="n")

    other = uuid.uuid4()
    with_target(node, test, uuid=str(other), nguid=other.hex)


def test_channels(start: Callable[..., Spdk]) -> None:
    node = start()
    node.call("bdev_null_create", name="n0", num_blocks=2048, block_size=512)
    node.call("nvmf_create_transport", trtype="TCP")
    node.call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True)
    on(node, "bdev", "thread")
    node.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "n0", "nsid": 1})
    until(lambda: traced(node, "BDEV_IOCH_CREATE"))
    [created] = traced(node, "BDEV_IOCH_CREATE")
    threads = node.call("thread_get_stats")["threads"]
    [number] = [thread["id"] for thread in threads if thread["name"].startswith("nvmf_tgt_poll_group")]
    assert (created.owner, created.args) == ("bdev_n0", {"tid": number})
    node.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=1)
    until(lambda: traced(node, "BDEV_IOCH_DESTROY"))
    [destroyed] = traced(node, "BDEV_IOCH_DESTROY")
    assert (destroyed.owner, destroyed.args) == ("bdev_n0", {"tid": number})
    got = {
        each.object for each in traced(node, "THREAD_IOCH_GET") if each.args["refcnt"] == 1 and each.tsc > created.tsc
    }
    put = {
        each.object for each in traced(node, "THREAD_IOCH_PUT") if each.args["refcnt"] == 1 and each.tsc < destroyed.tsc
    }
    assert got & put


def test_io_of_an_lvol(start: Callable[..., Spdk]) -> None:
    """Examining it reads its beginning."""
    node = start()
    image = node.directory / "base.img"
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    node.call("bdev_aio_create", name="a1", filename=str(image), block_size=4096)
    node.call("bdev_lvol_create_lvstore", bdev_name="a1", lvs_name="l", cluster_sz=1 << 20)
    on(node, "bdev", "blob")
    uuid_of_lvol = node.call("bdev_lvol_create", lvs_name="l", lvol_name="v", size_in_mib=4)
    node.call("bdev_wait_for_examine")
    entries = traced(node)
    ios = [entry for entry in entries if (entry.name, entry.owner) == ("BDEV_IO_START", f"bdev_{uuid_of_lvol}")]
    assert ios
    for io in ios:
        [ended] = [
            each for each in entries if each.name == "BDEV_IO_DONE" and each.object == io.object and each.tsc > io.tsc
        ][:1]
        within = [entry for entry in entries if io.tsc < entry.tsc < ended.tsc]
        requests = [entry for entry in within if entry.name.startswith("BLOB") and entry.args["ctx"] == io.object]
        assert [entry.name for entry in requests] == ["BLOB_REQ_SET_START", "BLOB_REQ_SET_COMPLETE"]
        [below] = [entry for entry in within if entry.owner == "bdev_a1" and entry.args["ctx"] == requests[0].object][
            :1
        ]
        assert (below.name, below.size) == ("BDEV_IO_START", io.size)


def test_threads_that_move(start: Callable[..., Spdk]) -> None:
    node = start("-m", "0x3", "-e", "scheduler:SCHEDULER_MOVE_THREAD")
    name = "nvmf_tgt_poll_group_000"
    [number] = [thread["id"] for thread in node.call("thread_get_stats")["threads"] if thread["name"] == name]

    def moves() -> list[tuple[int, dict[str, int | str]]]:
        file = read(node)
        entries = [entry for core in file.cores for entry in file.entries(core) if entry.owner == name]
        return [(entry.core, entry.args) for entry in sorted(entries, key=lambda entry: entry.tsc)]

    wanted = moves()
    source = wanted[-1][1]["dst"] if wanted else 0
    for core in (1 - source, source):
        wanted.append((1 - core, {"src": 1 - core, "dst": core}))
        node.call("thread_set_cpumask", id=number, cpumask=hex(1 << core))
        until(lambda: len(moves()) == len(wanted))
    assert moves() == wanted


def test_the_ring_holds_the_last(start: Callable[..., Spdk]) -> None:
    node = start("--num-trace-entries", str(SLOTS), "-e", "bdev:0x3")
    node.call("nvmf_create_transport", trtype="TCP", in_capsule_data_size=8192)

    async def test(target: Target) -> None:
        host = await target.host(1)
        before = read(node).history(0)[1]
        for lba in range(SLOTS):
            assert await host.write(lba, b"w" * BLOCK) == 0
        slots, filled, counts = read(node).history(0)
        assert (slots, filled - before) == (SLOTS, 4 * SLOTS), "3 slots for a start, 1 more for the rest of an end"
        assert counts[192] == counts[193]
        entries = traced(node)
        assert_rising(entries)
        assert [entry.args["offset"] for entry in entries if entry.name == "BDEV_IO_START"] == list(
            range(SLOTS - SLOTS // 4, SLOTS)
        )

    with_target(node, test)


def test_the_file_is_each_process_s_own_and_stays_if_there_is_something_in_it(start: Callable[..., Spdk]) -> None:
    number = str(os.getpid())
    idle, busy = start(name="idle"), start("-i", number, name="busy")
    files = path(idle), path(busy)
    assert files[0].name.startswith("spdk_tgt_trace.pid")
    assert files[1].name == f"spdk_tgt_trace.{number}"
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)
    on(busy, "bdev")
    for node in (idle, busy):
        node.call("bdev_malloc_create", name="m0", num_blocks=2048, block_size=512)
        node.call("bdev_wait_for_examine")
    assert (idle.stop(), busy.stop()) == (0, 0)
    assert [file.exists() for file in files] == [False, True]
    assert {entry.owner for entry in TraceReader(files[1]).entries(0)} == {"bdev_m0"}


def test_without_entries_there_is_no_file(start: Callable[..., Spdk]) -> None:
    node = start("--num-trace-entries", "0")
    info = node.call("trace_get_info")
    assert (info["tpoint_shm_path"], info["tpoint_group_mask"]) == ("/dev/shm", "0x0")
    assert node.call("trace_set_tpoint_mask", name="bdev", tpoint_mask=1) is True
    assert node.call("trace_get_info") == info
    with pytest.raises(Exception, match=r"Invalid parameters \(-32602\)"):
        on(node, "bdev")
