"""Which cores the SPDKs of a machine get."""

from __future__ import annotations

import pytest
from ansible_collections.ipdk.storage.plugins.plugin_utils import cores
from ansible_collections.ipdk.storage.plugins.plugin_utils.cores import Claim

TARGET = Claim("st1", disks=64, polls=False)
IPU = Claim("ipu1", disks=64)


@pytest.mark.parametrize(
    ("text", "wanted"), [("0x3", [0, 1]), ("5", [0, 2]), ("[0,2-3]", [0, 2, 3]), ("0x100000000", [32])]
)
def test_core_masks_as_spdk_reads_them(text: str, wanted: list[int]) -> None:
    assert cores.parse_cpumask(text) == wanted


@pytest.mark.parametrize("some", [[0], [1], [0, 1, 2, 5], [3, 64]])
def test_both_notations_mean_the_same_cores(some: list[int]) -> None:
    assert cores.parse_cpumask(cores.cpumask(some)) == some
    assert cores.parse_cpus(cores.cpus(some)) == some


@pytest.mark.parametrize(
    ("claims", "online", "given"),
    [
        ([TARGET, IPU], 1, {"st1": [0], "ipu1": [0]}),
        ([TARGET, IPU], 2, {"st1": [0], "ipu1": [1]}),
        ([TARGET, IPU], 8, {"st1": [0], "ipu1": [7]}),
        # The first core is left to the rest of the machine: two that poll share the other.
        ([TARGET, IPU, Claim("ipu2", disks=64)], 2, {"st1": [0], "ipu1": [1], "ipu2": [1]}),
        ([Claim("st1"), IPU], 2, {"st1": [1], "ipu1": [1]}),
        ([TARGET, IPU, Claim("ipu2", disks=64)], 3, {"st1": [0], "ipu1": [2], "ipu2": [1]}),
        # Those that sleep keep off the cores that are polled, and get different ones.
        ([TARGET, Claim("st2", polls=False), IPU], 4, {"st1": [0], "st2": [1], "ipu1": [3]}),
        ([TARGET, Claim("st2", polls=False), IPU], 2, {"st1": [0], "st2": [0], "ipu1": [1]}),
        # A core for each 128 disks, as far as they go.
        ([Claim("ipu1", disks=128)], 4, {"ipu1": [3]}),
        ([Claim("ipu1", disks=129)], 4, {"ipu1": [2, 3]}),
        ([TARGET, Claim("ipu1", disks=512)], 8, {"st1": [0], "ipu1": [4, 5, 6, 7]}),
        ([TARGET, Claim("ipu1", disks=512)], 3, {"st1": [0], "ipu1": [1, 2]}),
        ([Claim("ipu1", disks=512), Claim("ipu2")], 1, {"ipu1": [0], "ipu2": [0]}),
        # The operator's choice stands, and others go round it.
        ([TARGET, Claim("ipu1", cpumask="0x1")], 2, {"st1": [1], "ipu1": [0]}),
        ([Claim("ipu1", cpumask="[2-3]"), Claim("ipu2")], 4, {"ipu1": [2, 3], "ipu2": [1]}),
        ([Claim("ipu1", cpumask="nonsense"), Claim("ipu2")], 2, {"ipu1": [], "ipu2": [1]}),
    ],
)
def test_each_gets_cores_of_its_own_while_there_are_some(
    claims: list[Claim], online: int, given: dict[str, list[int]]
) -> None:
    assert cores.assign(claims, list(range(online))) == given


def test_only_cores_that_are_online() -> None:
    assert cores.assign([TARGET, IPU], [2, 5]) == {"st1": [2], "ipu1": [5]}


def test_adding_a_storage_target_moves_no_ipu() -> None:
    before = cores.assign([TARGET, IPU], list(range(8)))
    after = cores.assign([TARGET, Claim("st2", polls=False), IPU], list(range(8)))
    assert after["ipu1"] == before["ipu1"]


def test_threads_keep_off_the_cores_that_neighbours_poll() -> None:
    claims = [TARGET, IPU, Claim("ipu2", disks=64)]
    online = [0, 1, 2, 3]
    given = cores.assign(claims, online)
    assert given == {"st1": [0], "ipu1": [3], "ipu2": [2]}
    assert cores.allowed("st1", claims, given, online) == [0, 1]
    assert cores.allowed("ipu1", claims, given, online) == [0, 1, 3]
    assert cores.allowed("ipu2", claims, given, online) == [0, 1, 2]


def test_a_core_that_is_shared_is_allowed_to_both() -> None:
    claims = [IPU, Claim("ipu2", disks=64)]
    given = cores.assign(claims, [0, 1])
    assert cores.allowed("ipu1", claims, given, [0, 1]) == cores.allowed("ipu2", claims, given, [0, 1]) == [0, 1]
