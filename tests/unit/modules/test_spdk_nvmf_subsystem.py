"""spdk_nvmf_transport and spdk_nvmf_subsystem against a running SPDK."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from spdk_nodes import Node

NQN = "nqn.2022-06.io.ipdk:st1:ipu1"
HOST = "nqn.2014-08.org.nvmexpress:uuid:6f3c0a52-1b1f-5d0e-9d4e-2f0f3f6b7a10"
OTHER = "nqn.2014-08.org.nvmexpress:uuid:6f3c0a52-1b1f-5d0e-9d4e-2f0f3f6b7a11"


@pytest.fixture
def exporting(target: Node) -> Node:
    result = target.module("spdk_nvmf_transport", transports=[{"trtype": "TCP", "in_capsule_data_size": 8192}])
    assert result["rc"] == 0, result
    bdevs = [{"name": f"vol{i}", "type": "malloc", "size": "1MiB"} for i in range(4)]
    assert target.module("spdk_bdev", bdevs=bdevs)["rc"] == 0
    return target


def declare(port: int, **more: Any) -> dict[str, Any]:
    return {
        "nqn": NQN,
        "serial_number": "st1",
        "hosts": [HOST],
        "namespaces": [{"bdev": "vol0"}, {"bdev": "vol1", "nsid": 1}, {"bdev": "vol2", "nguid": "ab" * 16}],
        "listeners": [{"traddr": "127.0.0.1", "trsvcid": port}],
        **more,
    }


def actions(result: dict[str, Any], kind: str = "") -> list[str]:
    return [
        f"{entry['action']} {entry['kind']}"
        for entry in result["outcome"]["applied"]
        if not kind or entry["kind"] == kind
    ]


def live(node: Node) -> dict[str, Any]:
    return next(s for s in node.call("nvmf_get_subsystems") if s["nqn"] == NQN)


def test_check_mode_predicts_the_run_and_a_second_run_changes_nothing(exporting: Node, port: int) -> None:
    predicted = exporting.module("spdk_nvmf_subsystem", check=True, subsystems=[declare(port)])
    assert [s["nqn"] for s in exporting.call("nvmf_get_subsystems")] == ["nqn.2014-08.org.nvmexpress.discovery"]
    done = exporting.module("spdk_nvmf_subsystem", subsystems=[declare(port)])
    assert done["rc"] == 0, done
    assert done["outcome"] == predicted["outcome"]
    assert done["diff"] == predicted["diff"]
    again = exporting.module("spdk_nvmf_subsystem", subsystems=[declare(port)])
    assert again["changed"] is False
    there = again["diff"]["before"][NQN]
    assert {nsid: ns["bdev"] for nsid, ns in there["namespaces"].items()} == {"1": "vol1", "2": "vol0", "3": "vol2"}
    assert list(there["hosts"]) == [HOST]
    assert list(there["listeners"]) == [f"TCP IPv4 127.0.0.1 {port}"]
    assert there["allow_any_host"] is False


def test_everything_is_in_place_before_a_listener_is_and_listeners_go_first(exporting: Node, port: int) -> None:
    made = actions(exporting.module("spdk_nvmf_subsystem", subsystems=[declare(port)]))
    assert made == ["create subsystem", "create host"] + ["create namespace"] * 3 + ["create listener"]
    gone = exporting.module(
        "spdk_nvmf_subsystem",
        subsystems=[{"nqn": NQN, "namespaces": [], "hosts": [], "listeners": []}],
        purge=["hosts", "namespaces", "listeners"],
    )
    assert actions(gone) == ["delete listener"] + ["delete namespace"] * 3 + ["delete host"]
    assert live(exporting)["namespaces"] == []


def test_what_is_not_mentioned_is_left_alone(exporting: Node, port: int) -> None:
    exporting.module("spdk_nvmf_subsystem", subsystems=[declare(port)])
    result = exporting.module("spdk_nvmf_subsystem", subsystems=[{"nqn": NQN, "namespaces": [{"bdev": "vol3"}]}])
    assert actions(result) == ["create namespace"]
    assert len(live(exporting)["namespaces"]) == 4
    assert len(live(exporting)["hosts"]) == 1


def test_several_subsystems_share_an_address_from_the_beginning(exporting: Node, port: int) -> None:
    """One for each IPU, made in one run."""
    names = [f"nqn.2022-06.io.ipdk:st1:ipu{number}" for number in range(1, 5)]
    wanted = [{"nqn": nqn, "listeners": [{"traddr": "127.0.0.1", "trsvcid": port}]} for nqn in names]
    result = exporting.module("spdk_nvmf_subsystem", subsystems=wanted)
    assert result["rc"] == 0, result
    assert actions(result, "listener") == ["create listener"] * 4


def test_a_list_that_is_not_given_is_not_purged(exporting: Node, port: int) -> None:
    exporting.module("spdk_nvmf_subsystem", subsystems=[declare(port)])
    wanted = [{"nqn": NQN, "hosts": [OTHER]}]
    result = exporting.module("spdk_nvmf_subsystem", subsystems=wanted, purge=["hosts", "namespaces"])
    assert actions(result) == ["delete host", "create host"]
    assert len(live(exporting)["namespaces"]) == 3


def test_items_can_be_absent(exporting: Node, port: int) -> None:
    exporting.module("spdk_nvmf_subsystem", subsystems=[declare(port)])
    away = {
        "nqn": NQN,
        "namespaces": [{**ns, "state": "absent"} for ns in ({"bdev": "vol0"}, {"nsid": 1}, {"nsid": 9})],
        "hosts": [{"nqn": HOST, "state": "absent"}, {"nqn": OTHER, "state": "absent"}],
        "listeners": [{"traddr": "127.0.0.1", "trsvcid": port, "state": "absent"}],
    }
    predicted = exporting.module("spdk_nvmf_subsystem", check=True, subsystems=[away])
    done = exporting.module("spdk_nvmf_subsystem", subsystems=[away])
    assert done["diff"] == predicted["diff"]
    assert actions(done) == ["delete listener", "delete namespace", "delete namespace", "delete host"]
    assert [ns["bdev_name"] for ns in live(exporting)["namespaces"]] == ["vol2"]
    assert exporting.module("spdk_nvmf_subsystem", subsystems=[away])["changed"] is False


def test_a_namespace_can_move_to_another_bdev_when_the_list_is_complete(exporting: Node, port: int) -> None:
    exporting.module("spdk_nvmf_subsystem", subsystems=[declare(port)])
    moved = [{"nqn": NQN, "namespaces": [{"bdev": "vol3", "nsid": 1}, {"bdev": "vol0"}]}]
    refused = exporting.module("spdk_nvmf_subsystem", subsystems=moved)
    assert refused["rc"] == 1
    assert "NSID 1" in refused["msg"] and "vol1" in refused["msg"] and "vol3" in refused["msg"]
    done = exporting.module("spdk_nvmf_subsystem", subsystems=moved, purge=["namespaces"])
    assert done["rc"] == 0, done
    assert {ns["nsid"]: ns["bdev_name"] for ns in live(exporting)["namespaces"]} == {1: "vol3", 2: "vol0"}


def test_what_cannot_be_changed_is_refused_before_anything_is(exporting: Node, port: int) -> None:
    exporting.module("spdk_nvmf_subsystem", subsystems=[declare(port)])
    before = exporting.call("nvmf_get_subsystems")
    result = exporting.module("spdk_nvmf_subsystem", subsystems=[declare(port, serial_number="other", hosts=[OTHER])])
    assert result["rc"] == 1
    assert "serial_number st1, wanted other" in result["msg"]
    assert exporting.call("nvmf_get_subsystems") == before


def test_more_namespaces_than_fit_are_refused(exporting: Node, port: int) -> None:
    result = exporting.module("spdk_nvmf_subsystem", subsystems=[declare(port, max_namespaces=2)])
    assert result["rc"] == 1
    assert "vol2" in result["msg"] and "room for 2" in result["msg"]


def test_one_bad_namespace_does_not_stop_the_others(exporting: Node, port: int) -> None:
    namespaces = [{"bdev": "vol0"}, {"bdev": "nowhere"}, {"bdev": "vol1"}]
    result = exporting.module("spdk_nvmf_subsystem", subsystems=[declare(port, namespaces=namespaces)])
    assert result["rc"] == 1
    assert [entry["name"] for entry in result["outcome"]["failed"]] == [f"{NQN} nsid 2 (nowhere)"]
    assert "nowhere" in result["msg"]
    assert actions(result) == ["create subsystem", "create host"] + ["create namespace"] * 2 + ["create listener"]
    assert {ns["nsid"]: ns["bdev_name"] for ns in live(exporting)["namespaces"]} == {1: "vol0", 3: "vol1"}
    assert result["diff"]["after"][NQN]["namespaces"]["3"]["bdev"] == "vol1"


def test_admission_can_be_widened_and_narrowed(exporting: Node, port: int) -> None:
    exporting.module("spdk_nvmf_subsystem", subsystems=[declare(port)])
    for allow in (True, False):
        wanted = [{"nqn": NQN, "allow_any_host": allow}]
        predicted = exporting.module("spdk_nvmf_subsystem", check=True, subsystems=wanted)
        done = exporting.module("spdk_nvmf_subsystem", subsystems=wanted)
        assert (done["changed"], done["diff"]) == (True, predicted["diff"])
        assert live(exporting)["allow_any_host"] is allow


def test_the_discovery_subsystem_takes_listeners_and_nothing_else(exporting: Node, port: int) -> None:
    discovery = "nqn.2014-08.org.nvmexpress.discovery"
    listener = {"traddr": "127.0.0.1", "trsvcid": port}
    done = exporting.module("spdk_nvmf_subsystem", subsystems=[{"nqn": discovery, "listeners": [listener]}])
    assert actions(done) == ["create listener"]
    away = exporting.module(
        "spdk_nvmf_subsystem", subsystems=[{"nqn": discovery, "listeners": [{**listener, "state": "absent"}]}]
    )
    assert actions(away) == ["delete listener"]
    refused = exporting.module("spdk_nvmf_subsystem", subsystems=[{"nqn": discovery, "state": "absent"}])
    assert refused["rc"] == 1 and "SPDK's own" in refused["msg"]


def test_a_subsystem_goes_with_all_that_is_in_it_and_the_bdevs_stay(exporting: Node, port: int) -> None:
    """As check mode predicts it, beside another that comes in the same list."""
    exporting.module("spdk_nvmf_subsystem", subsystems=[declare(port)])
    other = {"nqn": NQN.replace("ipu1", "ipu2"), "namespaces": [{"bdev": "vol0"}]}
    wanted = [other, declare(port, state="absent")]
    before = exporting.call("nvmf_get_subsystems")
    predicted = exporting.module("spdk_nvmf_subsystem", check=True, subsystems=wanted)
    assert exporting.call("nvmf_get_subsystems") == before
    done = exporting.module("spdk_nvmf_subsystem", subsystems=wanted)
    assert (done["rc"], done["changed"]) == (0, predicted["changed"]), done
    assert (done["outcome"], done["diff"]) == (predicted["outcome"], predicted["diff"])
    assert actions(done) == ["delete subsystem", "create subsystem", "create namespace"]
    assert len(done["diff"]["before"][NQN]["namespaces"]) == 3
    assert list(done["diff"]["after"]) == [other["nqn"]]
    assert [found["nqn"] for found in exporting.call("nvmf_get_subsystems")[1:]] == [other["nqn"]]
    assert len(exporting.call("bdev_get_bdevs")) == 4
    for check in (True, False):
        again = exporting.module("spdk_nvmf_subsystem", check=check, subsystems=wanted)
        assert (again["rc"], again["changed"]) == (0, False)
        assert again["diff"]["before"] == again["diff"]["after"]


def test_a_bdev_in_use_is_not_deleted(exporting: Node, port: int) -> None:
    exporting.module("spdk_nvmf_subsystem", subsystems=[declare(port)])
    result = exporting.module("spdk_bdev", bdevs=[{"name": "vol0", "state": "absent"}])
    assert result["rc"] == 1 and "vol0 is in use" in result["msg"]
    assert exporting.module("spdk_bdev", bdevs=[{"name": "vol0", "state": "absent"}], force=True)["changed"] is True


def test_a_transport_is_set_once(exporting: Node) -> None:
    same = [{"trtype": "TCP", "in_capsule_data_size": 8192}]
    assert exporting.module("spdk_nvmf_transport", transports=same)["changed"] is False
    other = exporting.module("spdk_nvmf_transport", transports=[{"trtype": "TCP", "in_capsule_data_size": 4096}])
    assert other["rc"] == 1 and "in_capsule_data_size 8192, wanted 4096" in other["msg"]
    absent = exporting.module("spdk_nvmf_transport", transports=[{"trtype": "TCP", "state": "absent"}])
    assert absent["rc"] == 1 and "cannot delete" in absent["msg"]


def test_the_keys_of_a_host_are_changed_in_place(exporting: Node, port: int, tmp_path: Path) -> None:
    for name in ("key0", "key1"):
        (tmp_path / name).write_text("DHHC-1:00:MDAxMTIyMzM0NDU1NjY3Nzg4OTlhYWJiY2NkZGVlZmYwMDExMjIzM/kWm5A==:")
        (tmp_path / name).chmod(0o600)
        exporting.call("keyring_file_add_key", {"name": name, "path": str(tmp_path / name)})
    try:
        for key, action in (("key0", "create host"), ("key1", "update host")):
            wanted = [{"nqn": NQN, "hosts": [{"nqn": HOST, "dhchap_key": key}]}]
            predicted = exporting.module("spdk_nvmf_subsystem", check=True, subsystems=wanted)
            done = exporting.module("spdk_nvmf_subsystem", subsystems=wanted)
            assert done["rc"] == 0, done
            assert done["diff"] == predicted["diff"]
            assert action in actions(done)
            assert live(exporting)["hosts"] == [{"nqn": HOST, "dhchap_key": key}]
        # Left out, the key stays.
        assert exporting.module("spdk_nvmf_subsystem", subsystems=[{"nqn": NQN, "hosts": [HOST]}])["changed"] is False
        exporting.module("spdk_nvmf_subsystem", subsystems=[{"nqn": NQN, "state": "absent"}])
    finally:
        for name in ("key0", "key1"):
            exporting.call("keyring_file_remove_key", {"name": name})


def test_a_logical_volume_is_a_namespace_by_its_alias(target: Node) -> None:
    target.module("spdk_bdev", bdevs=[{"name": "base", "type": "malloc", "size": "16MiB"}])
    made = target.module(
        "spdk_lvol",
        stores=[{"name": "fast", "base_bdev": "base", "cluster_size": "1MiB"}],
        lvols=[{"name": "v0", "store": "fast", "size": "4MiB"}],
    )
    uuid = "6c3f1c3e-5a55-5f29-9e6c-8e3b2a1d4f01"
    nqn = "nqn.2022-06.io.ipdk:alias"
    item = {
        "nqn": nqn,
        "namespaces": [{"bdev": "fast/v0", "nsid": 3, "uuid": uuid, "nguid": uuid}],
    }
    predicted = target.module("spdk_nvmf_subsystem", check=True, subsystems=[item])
    done = target.module("spdk_nvmf_subsystem", subsystems=[item])
    assert (done["rc"], done["diff"]) == (0, predicted["diff"])
    again = target.module("spdk_nvmf_subsystem", subsystems=[item], purge=["namespaces"])
    assert (again["rc"], again["changed"]) == (0, False)
    assert again["diff"]["before"][nqn]["namespaces"] == done["diff"]["after"][nqn]["namespaces"]
    by_name = {"nqn": nqn, "namespaces": [{"bdev": made["lvols"][0]["bdev"]}]}
    assert target.module("spdk_nvmf_subsystem", subsystems=[by_name])["changed"] is False
    gone = {"nqn": nqn, "namespaces": [{"bdev": "fast/v0", "state": "absent"}]}
    assert target.module("spdk_nvmf_subsystem", subsystems=[gone])["changed"] is True
    assert target.module("spdk_nvmf_subsystem", subsystems=[gone])["changed"] is False


def ana(node: Node) -> dict[str, str]:
    """The listeners' ports → ANA states, as SPDK says."""
    return {
        listener["address"]["trsvcid"]: listener["ana_states"][0]["ana_state"]
        for listener in node.call("nvmf_subsystem_get_listeners", {"nqn": NQN})
    }


def two_ways(ports: tuple[int, int], first: str, second: str) -> dict[str, Any]:
    listeners = [
        {"traddr": "127.0.0.1", "trsvcid": ports[0], "ana_state": first},
        {"traddr": "127.0.0.1", "trsvcid": ports[1], "ana_state": second},
    ]
    return declare(ports[0], ana_reporting=True, listeners=listeners)


def test_each_way_has_an_ana_state_that_changes_in_place(exporting: Node, ports: tuple[int, int]) -> None:
    wanted = two_ways(ports, "optimized", "non_optimized")
    predicted = exporting.module("spdk_nvmf_subsystem", check=True, subsystems=[wanted])
    done = exporting.module("spdk_nvmf_subsystem", subsystems=[wanted])
    assert done["rc"] == 0 and done["diff"] == predicted["diff"], done
    assert ana(exporting) == {str(ports[0]): "optimized", str(ports[1]): "non_optimized"}
    assert exporting.module("spdk_nvmf_subsystem", subsystems=[wanted])["changed"] is False

    # The one that opens goes first: a host that has a way keeps one.
    other = exporting.module("spdk_nvmf_subsystem", subsystems=[two_ways(ports, "inaccessible", "optimized")])
    assert [entry["name"].split()[-1] for entry in other["outcome"]["applied"]] == [str(ports[1]), str(ports[0])]
    assert actions(other) == ["update listener"] * 2
    assert ana(exporting) == {str(ports[0]): "inaccessible", str(ports[1]): "optimized"}

    silent = declare(ports[0], listeners=[{"traddr": "127.0.0.1", "trsvcid": ports[0]}])
    assert exporting.module("spdk_nvmf_subsystem", subsystems=[silent])["changed"] is False


def test_a_subsystem_that_tells_no_ana_states_is_not_made_to(exporting: Node, ports: tuple[int, int]) -> None:
    exporting.module("spdk_nvmf_subsystem", subsystems=[declare(ports[0])])
    refused = exporting.module("spdk_nvmf_subsystem", subsystems=[two_ways(ports, "optimized", "non_optimized")])
    assert refused["failed"] and refused["changed"] is False
    assert "exists with ana_reporting False, wanted True: it cannot be changed, delete the subsystem" in refused["msg"]


def test_ana_states_of_a_subsystem_without_namespaces_are_known(exporting: Node, ports: tuple[int, int]) -> None:
    wanted = {**two_ways(ports, "optimized", "non_optimized"), "namespaces": []}
    assert exporting.module("spdk_nvmf_subsystem", subsystems=[wanted])["rc"] == 0
    assert exporting.module("spdk_nvmf_subsystem", subsystems=[wanted])["changed"] is False
    told = exporting.module("spdk_info", gather=["listeners"])["spdk"]
    states = {listener["ana_states"][0]["ana_state"] for listener in told["listeners"][NQN]}
    assert states == {"optimized", "non_optimized"}
