"""What an SPDK needs: the figures against those that a real SPDK 26.05 showed, and what a machine cannot."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.plugin_utils import needs, sizing

MACHINE = {"memory_mib": 8192, "cpus": "0-3", "files": 20000, "hugepage_kib": 2048, "hugepages_free": 0}


def size(carries: dict[str, Any], machine: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    return sizing.size(carries, options, {**MACHINE, **(machine or {})})


@pytest.mark.parametrize("disks", [1, 32, 64, 128])
def test_each_started_disk_finds_its_buffers(disks: int) -> None:
    """Measured: with 8192 small and 1024 large buffers 32 disks start and the next does not."""
    iobuf = size({"virtual_disks": disks})["iobuf"]
    assert iobuf["small_pool_count"] >= 256 * (disks + 1)
    assert iobuf["large_pool_count"] >= 32 * (disks + 1)


@pytest.mark.parametrize(
    ("program", "carries", "heap_mib"),
    [
        ("spdk_tgt", {}, 884),
        ("nvmf_tgt", {}, 386),
        ("nvmf_tgt", {"malloc_mib": 64 * 16, "subsystems": 1}, 1410),
        ("nvmf_tgt", {"malloc_mib": 64 * 25, "subsystems": 2, "connections": 33}, 1986 + 25),
    ],
)
def test_memory_is_more_than_measured_and_not_much_more(program: str, carries: dict[str, Any], heap_mib: int) -> None:
    """``heap_mib`` is what env_dpdk_get_mem_stats of that program called allocated."""
    assert heap_mib < size(carries, program=program)["memory_mib"] < heap_mib * 1.2


def test_the_lines_add_up() -> None:
    sized = size({"virtual_disks": 64, "controllers": 2})
    parts = [float(line.split("=")[1].split()[0]) for line in sized["lines"] if " x " in line]
    assert abs(sum(parts) - sized["memory_mib"]) < 2
    assert any(line.startswith("virtual disks (vhost)") and "64 x" in line for line in sized["lines"])


@pytest.mark.parametrize(("disks", "memory", "core_text"), [(64, 1385, "1 (-m 0x2"), (128, 1913, "1 (-m 0x2")])
def test_an_ipu_with_many_disks_on_two_cores(disks: int, memory: int, core_text: str) -> None:
    """The sums by hand: 688 + 8.02 / 1024 * (4096 + 256 * (disks + 1)) + 132.1 / 1024 * (512 + 32 * (disks + 1)) +
    1.5 * disks + 1, and 8 %. 64 disks were measured on one core with 1400 MiB, of which the heap had some left."""
    sized = size({"virtual_disks": disks, "controllers": 1}, {"cpus": "0-1"}, node="ipu1", program="spdk_tgt")
    assert sized["memory_mib"] == memory
    assert sized["cores"] == [1]
    assert any(line.startswith(f"cores {core_text}, computed)") for line in sized["lines"])
    assert sized["errors"] == []


def test_each_128_disks_get_a_core_where_there_is_one() -> None:
    sized = size({"virtual_disks": 300}, {"cpus": "0-7"})
    assert sized["cores"] == [5, 6, 7]
    assert sized["cpumask"] == "0xe0"
    assert any(line.startswith("further cores") and " 2 x" in line for line in sized["lines"])


def test_a_given_mask_stands_as_it_was_written() -> None:
    sized = size({"virtual_disks": 300}, {"cpus": "0-7"}, cpumask="[0,2]")
    assert sized["cores"] == [0, 2]
    assert sized["cpumask"] == "[0,2]"
    assert any(line.startswith("cores 0,2 (-m [0,2], given)") for line in sized["lines"])


def test_given_memory_stands_beside_the_computed_one() -> None:
    sized = size({"virtual_disks": 64}, memory_mib=4000)
    assert sized["memory_mib"] == 4000
    assert any("given; computed" in line for line in sized["lines"])


def test_files_follow_from_the_disks_and_their_queues() -> None:
    """Measured: 9 a disk with two queues, 17 by itself."""
    assert size({"virtual_disks": 64, "guest_queues": 2})["files"] > 17 + 64 * 9
    assert size({"virtual_disks": 64, "guest_queues": 16})["files"] > 17 + 64 * (5 + 32)


def test_the_emulator_needs_no_pools() -> None:
    assert size({"virtual_disks": 64}, engine="emulator")["memory_mib"] < 300


@pytest.mark.parametrize(
    ("carries", "machine", "options", "message"),
    [
        ({"malloc_mib": 9000}, {}, {}, r"not enough memory: \d+ MiB are needed .* has 8192 MiB"),
        ({"virtual_disks": 128}, {"files": 1024}, {}, r"too few open files: \d+ are needed, .* grants a process 1024"),
        ({}, {}, {"cpumask": "0x10"}, "wants the cores 4, which the machine does not have; it has 0-3"),
        ({}, {"cpus": "0,2"}, {"cpumask": "[1-2]"}, "wants the cores 1,"),
        ({}, {}, {"cpumask": "two"}, "no core mask: 'two'"),
        ({}, {}, {"cpumask": "0x0"}, "without a core"),
        ({}, {}, {"hugepages": True}, r"\d+ MiB are needed in hugepages of 2048 KiB, \d+ for this node; 0 are free"),
        ({}, {"hugepage_kib": 0}, {"hugepages": True}, "are needed in hugepages"),
    ],
)
def test_what_the_machine_cannot_is_one_error(
    carries: dict[str, Any], machine: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    errors = size(carries, machine, **options)["errors"]
    assert len(errors) == 1
    assert re.search(message, errors[0])


def test_hugepages_that_are_there() -> None:
    sized = size({}, {"hugepages_free": 1000}, hugepages=True)
    assert sized["errors"] == []
    assert sized["hugepages"] * 2 >= sized["memory_mib"]


def test_malloc_volumes_of_a_target() -> None:
    disks = [
        {"name": "a", "size": "64MiB", "backing": {"type": "malloc"}},
        {"name": "b", "size": 1000, "backing": {"type": "malloc"}, "target": "st1", "state": "detached"},
        {"name": "c", "size": "1GiB", "backing": {"type": "malloc"}, "target": "st2"},
        {"name": "d", "size": "1GiB", "backing": {"type": "aio"}, "target": "st1"},
        {"name": "e", "size": "1GiB", "backing": {"type": "malloc"}, "target": "st1", "state": "absent"},
        {"name": "f", "size": "x", "backing": {"type": "malloc"}, "target": "st1"},
        "g",
    ]
    assert needs.malloc_mib(disks, "st1", ["st1"]) == 65
    assert needs.malloc_mib(disks, "st1", ["st1", "st2"]) == 1
    assert needs.malloc_mib("none", "st1", ["st1"]) == 0
