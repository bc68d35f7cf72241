"""What a machine has to carry together: found in the inventory, summed up, and refused where it is too much."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.ipdk.storage.plugins.plugin_utils import platforms, sizing

ROOT = Path(__file__).resolve().parents[3]
GROUPS = {"storage_targets": ["st1"], "ipus": ["ipu1"], "ipu_hosts": ["host1"]}


def lab(**changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """One machine that simulates a storage target, an IPU with 64 disks and its host, on real SPDK."""
    hostvars: dict[str, dict[str, Any]] = {
        "localhost": {"ansible_connection": "local"},
        "st1": {"ansible_connection": "local", "spdk_program": "nvmf_tgt"},
        "ipu1": {"ansible_connection": "local"},
        "host1": {"ansible_host": "198.18.0.30", "host_ipu": "ipu1", "host_guest": "debian", "host_vcpus": 2},
    }
    return {node: {"ipdk_engine": "spdk", **variables, **changes.get(node, {})} for node, variables in hostvars.items()}


def size(node: str, machine: dict[str, Any], hostvars: dict[str, dict[str, Any]], **options: Any) -> dict[str, Any]:
    """As the roles do it."""
    group = next(group for group, nodes in GROUPS.items() if node in nodes)
    carries = platforms.carries(group, node, hostvars[node], GROUPS, hostvars)
    given = {"node": node, "interrupt_mode": group == "storage_targets", **options}
    given.setdefault("program", hostvars[node].get("spdk_program"))
    return sizing.size(carries, given, machine, platforms.platform_of(node, GROUPS, hostvars))


def test_the_defaults_are_those_of_the_roles() -> None:
    defaults: dict[str, Any] = {}
    for role in ("names", "spdk", "storage_target", "ipu", "host"):
        defaults.update(yaml.safe_load((ROOT / "roles" / role / "defaults" / "main.yml").read_text(encoding="utf-8")))
    assert {name: defaults[name] for name in platforms.DEFAULTS} == platforms.DEFAULTS


@pytest.mark.parametrize("disks", [64, 128])
def test_what_the_nodes_of_a_lab_carry(disks: int) -> None:
    hostvars = lab(ipu1={"ipu_max_virtual_disks": disks})
    of_target = platforms.carries("storage_targets", "st1", hostvars["st1"], GROUPS, hostvars)
    assert of_target == {
        "connections": disks + 1, "queue_depth": 128, "subsystems": 1, "volumes": disks, "malloc_mib": 0
    }  # fmt: skip
    of_ipu = platforms.carries("ipus", "ipu1", hostvars["ipu1"], GROUPS, hostvars)
    assert of_ipu == {"virtual_disks": disks, "guest_queues": 2, "controllers": 1}


def test_a_target_carries_what_its_variables_say() -> None:
    disk = {"name": "a", "size": "1GiB", "backing": {"type": "malloc"}, "target": "st1"}
    own = {"storage_target_disks": 10, "storage_target_queue_depth": 256, "virtual_disks": [disk]}
    carries = platforms.carries("storage_targets", "st1", own, GROUPS, lab())
    assert (carries["connections"], carries["queue_depth"], carries["malloc_mib"]) == (11, 256, 1024)


def test_a_shared_volume_has_a_subsystem_and_controllers_of_its_own() -> None:
    disk = {"name": "a", "size": "1GiB", "backing": {"type": "malloc"}, "shared": True, "target": "st1"}
    items = [{**disk, "host": host} for host in ("host1", "host2")]
    own = {"storage_target_disks": 10, "virtual_disks": [*items, {**disk, "name": "b", "state": "absent"}]}
    carries = platforms.carries("storage_targets", "st1", own, GROUPS, lab())
    assert (carries["subsystems"], carries["connections"], carries["malloc_mib"]) == (2, 13, 1024)
    assert platforms.carries("ipus", "ipu1", own, GROUPS, lab())["controllers"] == 2


def test_the_deepest_transport_counts() -> None:
    own = {"storage_target_queue_depth": 64, "storage_target_transports": [{"trtype": "TCP"}]}
    assert platforms.carries("storage_targets", "st1", own, GROUPS, lab())["queue_depth"] == 64
    own["storage_target_transports"] = [{"trtype": "TCP"}, {"trtype": "RDMA", "max_queue_depth": 256}]
    assert platforms.carries("storage_targets", "st1", own, GROUPS, lab())["queue_depth"] == 256


@pytest.mark.parametrize(
    ("disks", "together"), [(64, 512 + 476 + 1385 + 256 + 1280), (128, 512 + 532 + 1913 + 256 + 1280)]
)
def test_both_nodes_of_a_machine_show_the_same_sum_and_have_different_cores(disks: int, together: int) -> None:
    machine = {"memory_mib": together, "cpus": "0-1", "files": 20000}
    hostvars = lab(ipu1={"ipu_max_virtual_disks": disks})
    target, ipu = size("st1", machine, hostvars), size("ipu1", machine, hostvars)
    assert (target["cores"], ipu["cores"]) == ([0], [1])
    assert (target["cpus"], ipu["cpus"]) == ("0", "")
    assert target["lines"][-1] == ipu["lines"][-1]
    assert target["lines"][-1].endswith(f" = {together} MiB, of {together} MiB")
    assert target["errors"] == ipu["errors"] == []
    too_small = {**machine, "memory_mib": together - 1}
    for node in ("st1", "ipu1"):
        (error,) = size(node, too_small, hostvars)["errors"]
        assert error.startswith(f"not enough memory for all that this machine is asked to carry: {together} MiB")
        assert "SMA of ipu1 256 + guest host1 1280" in error


def test_one_node_that_is_too_big_is_one_error() -> None:
    (error,) = size("ipu1", {"memory_mib": 1000, "cpus": "0-1"}, lab())["errors"]
    assert error.startswith("not enough memory: 1385 MiB are needed for what it is asked to carry")


def test_nodes_of_other_machines_do_not_count() -> None:
    elsewhere = {"ansible_connection": "ssh", "ansible_host": "198.18.10.11"}
    hostvars = lab(st1=elsewhere, ipu1={"ansible_connection": "ssh", "ansible_host": "198.18.10.12"})
    sized = size("ipu1", {"memory_mib": 8192, "cpus": "0-1"}, hostvars)
    assert sized["lines"][-1].startswith("this machine: system 512 + ipu1 1385 + SMA of ipu1 256 + guest host1 1280 = ")
    both = lab(st1=elsewhere, ipu1=elsewhere)
    assert [service.node for service in platforms.platform_of("st1", GROUPS, both).services] == ["st1", "ipu1"]


def test_a_physical_host_needs_nothing_here() -> None:
    assert platforms.platform_of("ipu1", GROUPS, lab(host1={"host_guest": ""})).guests == []


def test_the_emulator_polls_nothing_and_is_not_pinned() -> None:
    machine = {"memory_mib": 8192, "cpus": "0-1"}
    hostvars = lab(st1={"ipdk_engine": "emulator"})
    target = size("st1", machine, hostvars, engine="emulator")
    assert target["cpus"] == ""
    assert platforms.platform_of("st1", GROUPS, hostvars).cores() == {"st1": [0], "ipu1": [2]}


def test_hugepages_are_summed_up_and_named() -> None:
    hostvars = lab(st1={"spdk_hugepages": True}, ipu1={"spdk_hugepages": "yes"})
    machine = {"memory_mib": 8192, "cpus": "0-1", "hugepage_kib": 2048, "hugepages_total": 930, "hugepages_free": 930}
    enough = size("ipu1", {**machine, "hugepages_free": 931}, hostvars, hugepages=True)
    assert (enough["errors"], enough["hugepages"], enough["hugepages_missing"]) == ([], 693, 0)
    assert enough["files"] == size("ipu1", {**machine, "hugepages_free": 931}, hostvars)["files"] + 693, "one for each"
    (error,) = size("ipu1", machine, hostvars, hugepages=True)["errors"]
    assert "1385 MiB are needed in hugepages of 2048 KiB, 238 for st1, 693 for ipu1; 930 are free" in error
    reserving = size("ipu1", machine, hostvars, hugepages=True, hugepages_reserve=True)
    assert (reserving["errors"], reserving["hugepages_missing"]) == ([], 1)


def test_hugepages_of_others_are_no_memory_for_the_nodes() -> None:
    machine = {"memory_mib": 8192, "cpus": "0-1", "hugepage_kib": 2048, "hugepages_total": 3000}
    (error,) = size("ipu1", machine, lab())["errors"]
    assert "other hugepages 6000" in error


def test_a_value_that_is_no_number_names_node_and_variable() -> None:
    with pytest.raises(ValueError, match="ipu1: ipu_max_virtual_disks: wanted a whole number, got 'many'"):
        size("st1", {}, lab(ipu1={"ipu_max_virtual_disks": "many"}))
