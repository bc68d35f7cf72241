"""The emulator's file of traces: its layout, when it cannot be had, and what SPDK's own client reads in it.

What is in it, and when, is tested on both engines: ``tests/conformance/test_trace.py``.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from emulator_node import Emulator
from spdk_emulator.framework import trace_file
from spdk_emulator.framework.threads import Threads
from spdk_emulator.framework.trace import Traces, tracing
from spdk_emulator.framework.trace_file import TraceFile
from spdk_emulator.framework.tracepoints import GROUPS, OBJECT_PREFIXES, OWNER_PREFIXES, Owner
from support.spdk import prefix
from support.trace_reader import TraceReader

SUBMIT = 13 * 64
"""Its arguments fill three slots."""
ARGS = struct.pack("<Q6I", 1, 2, 3, 4, 5, 6, 7)


def made(path: Path, slots: int = 8, cores: tuple[int, ...] = (0,)) -> TraceFile:
    file = TraceFile(str(path), slots, list(cores), 1_000_000_000)
    file.define_kinds(OWNER_PREFIXES, OBJECT_PREFIXES)
    for group in GROUPS:
        for bit, tpoint in group.tpoints.items():
            file.define(group.bit * 64 + bit, tpoint)
    return file


@pytest.fixture
def shared() -> Iterator[Path]:
    """Where an emulator with ``-i`` has its file."""
    path = Path(f"/dev/shm/spdk_tgt_trace.{os.getpid()}")
    assert not path.exists()
    yield path
    path.unlink(missing_ok=True)


# The layout


def test_arguments_go_on_in_the_next_slots_around_the_end_too(tmp_path: Path) -> None:
    file = made(tmp_path / "trace")
    file.reserve()
    for number in range(5):
        file.record(0, 100 + number, SUBMIT, 9, number, 1000 + number, ARGS)
    reader = TraceReader(tmp_path / "trace")
    assert reader.history(0) == (8, 15, {SUBMIT: 5})
    entries = reader.entries(0)
    assert [(entry.tsc, entry.size, entry.object) for entry in entries] == [(103, 3, 1003), (104, 4, 1004)]
    wanted = {"ctx": 1, "cid": 2, "opc": 3, "dw10": 4, "dw11": 5, "dw12": 6, "qd": 7}
    assert [entry.args for entry in entries] == [wanted, wanted]
    file.close()
    assert (tmp_path / "trace").exists()


def test_each_core_has_its_history(tmp_path: Path) -> None:
    file = made(tmp_path / "trace", cores=(1, 4))
    file.reserve()
    file.record(4, 100, 192, 0, 0x1_2345_6789, 1, bytes(28))
    reader = TraceReader(tmp_path / "trace")
    assert list(reader.cores) == [1, 4]
    assert (reader.entries(1), [entry.size for entry in reader.entries(4)]) == ([], [0x2345_6789]), "as SPDK cuts it"
    assert reader.history(1)[1] == 0
    file.close()


def test_owners_are_given_again_after_all_others(tmp_path: Path) -> None:
    file = made(tmp_path / "trace")
    first = file.add_owner(1, Owner.BDEV, "bdev_é" + "x" * 200)
    file.remove_owner(first)
    numbers = [file.add_owner(2, Owner.BDEV, "y") for _unused in range(16384 - 256)]
    assert (first, numbers[0], numbers[-1]) == (256, 257, 256)
    assert file.add_owner(3, Owner.BDEV, "z") == 0, "there are no more"
    file.describe_owner(300, "z")
    owners = TraceReader(tmp_path / "trace").owners
    assert (owners[256], owners[300]) == ((2, "y", 2), (2, "z", 2))
    file.close()


def test_a_description_ends_in_the_room_for_it(tmp_path: Path) -> None:
    file = made(tmp_path / "trace")
    file.add_owner(1, Owner.BDEV, "x" * 200)
    assert TraceReader(tmp_path / "trace").owners == {256: (2, "x" * 118, 1)}
    file.close()


def test_what_is_not_recorded_takes_no_memory(start: Callable[..., Emulator]) -> None:
    emulator = start("-m", "0x3")
    path = Path(emulator.call("trace_get_info")["tpoint_shm_path"])
    status = path.stat()
    assert status.st_size > 4_000_000
    assert status.st_blocks * 512 < 200_000
    emulator.call("trace_enable_tpoint_group", name="sock")
    assert path.stat().st_blocks == status.st_blocks, "nothing of it is recorded"
    emulator.call("trace_enable_tpoint_group", name="bdev")
    assert path.stat().st_blocks * 512 > 2_000_000, "no entry is to be one too many"


# What cannot be had


def test_without_a_file_it_does_not_start(start: Callable[..., Emulator], shared: Path) -> None:
    shared.mkdir()
    try:
        emulator = start("-i", str(os.getpid()))
        assert emulator.wait() == 1
        assert f"the file of traces {shared} cannot be made: Is a directory" in emulator.log()
    finally:
        shared.rmdir()


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have no room left where ``os`` has this function."""

    def refuse(*_unused: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return lambda name: monkeypatch.setattr(trace_file.os, name, refuse)


def test_no_room_for_the_file(tmp_path: Path, full: Callable[[str], None]) -> None:
    traces = Traces()
    traces.path = str(tmp_path / "trace")
    full("pwrite")
    with pytest.raises(OSError, match="trace cannot be made: No space left on device"):
        traces.open(Threads())
    assert not (tmp_path / "trace").exists()
    assert tracing.traces is None


def test_no_room_for_entries(tmp_path: Path, full: Callable[[str], None], caplog: pytest.LogCaptureFixture) -> None:
    traces = Traces()
    traces.path = str(tmp_path / "trace")
    traces.open(Threads())
    try:
        full("posix_fallocate")
        traces.switch("bdev", True)
        assert "nothing is recorded in" in caplog.text
        assert (tracing.bdev, tracing.bdev_io) == (None, False)
        assert TraceReader(tmp_path / "trace").masks[3] == 2**64 - 1
    finally:
        traces.close()


def test_no_file_is_left_by_one_that_does_not_start(start: Callable[..., Emulator], shared: Path) -> None:
    first = start()
    first.call("spdk_get_version")
    assert start("-i", str(os.getpid())).wait() == 1, "the socket is in use"
    assert not shared.exists()


@pytest.mark.parametrize("number", ["3", "-1", "x", str(1 << 40)])
def test_the_number_of_entries_is_a_power_of_2(start: Callable[..., Emulator], number: str) -> None:
    emulator = start("--num-trace-entries", number)
    assert emulator.wait() == 2
    assert "--num-trace-entries" in emulator.log()


def test_a_file_of_that_name_is_whose_it_was_last(start: Callable[..., Emulator], shared: Path, tmp_path: Path) -> None:
    first = start("-i", str(os.getpid()))
    first.call("spdk_get_version")
    second = start("-i", str(os.getpid()), "-e", "bdev", path=tmp_path / "second.sock")
    for emulator in (second, first):
        emulator.call("bdev_null_create", name=f"n{emulator.path.stem}", num_blocks=2048, block_size=512)
    assert first.stop() == 0
    assert {entry.owner for entry in TraceReader(shared).entries(0)} == {"bdev_nsecond"}


# SPDK's client


# It is built with SPDK and not to be had without: what it reads, the reader of the tests above checks on every run.
@pytest.mark.skipif(prefix() is None, reason="needs SPDK_PREFIX, where spdk_trace was built")
def test_spdk_trace_reads_it(start: Callable[..., Emulator]) -> None:
    emulator = start("-e", "all")
    path = emulator.call("trace_get_info")["tpoint_shm_path"]
    emulator.call("bdev_malloc_create", name="m1", num_blocks=2048, block_size=512)
    emulator.call("bdev_wait_for_examine")

    def shown(*options: str) -> str:
        command = [f"{prefix()}/build/bin/spdk_trace", *options, "-f", path]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert answer.stderr == ""
        return answer.stdout

    rate, slots, *lines = shown().splitlines()
    assert rate == "TSC Rate: 1000000000"
    assert slots == "Trace Size of lcore (0): 32768"
    starts = [line.split() for line in lines if "BDEV_IO_START" in line]
    assert [line[2:6] for line in starts] == [["bdev_m1", "BDEV_IO_START", "size:", size] for size in ("1", "64", "8")]
    assert [line.split()[5] for line in lines if "BDEV_IO_DONE" in line] == ["i0", "i1", "i2"]
    told = json.loads(shown("-j"))
    assert "bdev_m1" in told["owners"].values()
    entries = [entry for entry in told["entries"] if entry["tpoint"] == 193]
    assert [entry["object"]["id"] for entry in entries] == ["i0", "i1", "i2"]
    assert all(entry["owner"] == "bdev_m1" and entry["object"]["time"] > 0 for entry in entries)
