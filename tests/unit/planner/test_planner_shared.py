"""One volume that several hosts have at the same time: a subsystem of its own, and a controller for it on each IPU."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.plugin_utils import export, planner, steps, validate, virtual_disk
from world import HOST_NQN, World, disk, lvol_disk, nodes, with_store

NQN = "nqn.2022-06.io.ipdk:st1:shared:data"
CONTROLLER = virtual_disk.shared_controller("st1", "data")
SERIAL = f"{CONTROLLER}n1"
KEYS = {"key": "00112233445566778899aabbccddeeff", "key2": "ffeeddccbbaa99887766554433221100"}


def shared(host: int, make: Any = disk, **more: Any) -> dict[str, Any]:
    return make("data", host=f"host{host}", shared=True, **more)


def both(**more: Any) -> list[dict[str, Any]]:
    return [shared(1, **more), shared(2, **more)]


@pytest.fixture
def world() -> World:
    return World(nodes(hosts=3), keeps=True)


def admitted(world: World, nqn: str = NQN) -> list[str]:
    return [host["nqn"] for host in world.subsystems["st1"][nqn]["hosts"]]


def devices(world: World) -> dict[str, list[str]]:
    return {ipu: list(there.values()) for ipu, there in world.devices.items() if there}


def happens(planned: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(step["stage"], step["node"], step["action"]) for step in planned["steps"]]


def test_two_hosts_have_one_volume_by_the_same_serial(world: World) -> None:
    planned = world.run(*both())
    assert devices(world) == {"ipu1": [SERIAL], "ipu2": [SERIAL]}
    (subsystem,) = world.subsystems["st1"].values()
    (namespace,) = subsystem["namespaces"]
    assert (namespace["nsid"], namespace["uuid"]) == (1, virtual_disk.volume_uuid("data", "st1"))
    assert admitted(world) == [HOST_NQN.format(1), HOST_NQN.format(2)], "and nobody else"
    assert list(world.controllers["ipu1"]) == list(world.controllers["ipu2"]) == [CONTROLLER]
    assert planned["text"][:4] == [
        "2 to attach, 0 to detach, 0 to destroy, 0 unchanged, 0 not converged",
        "st1: create 1 bdev: data",
        "st1: add 1 namespace: data (1)",
        "st1: open 2 subsystems: data to ipu1, data to ipu2",
    ]
    assert [(result["id"], result["name"], result["serial"]) for result in planned["disks"]] == [
        ("data@host1", "data", SERIAL),
        ("data@host2", "data", SERIAL),
    ]
    world.settled(*both())


def test_a_serial_fits_whatever_the_name() -> None:
    item = disk("a" * 31, host="host1", shared=True, encryption=KEYS)
    planned = planner.plan([item], nodes(), World(nodes()).observed())
    (result,) = planned["disks"]
    assert len(result["serial"]) <= virtual_disk.SERIAL_LENGTH and len(result["nqn"]) < 223


def test_a_second_host_joins_while_the_first_one_goes_on(world: World) -> None:
    world.run(shared(1), disk("own", host="host1"))
    planned = world.run(*both(), disk("own", host="host1"))
    assert happens(planned) == [
        ("subsystems", "st1", "open"),
        ("controllers", "ipu2", "connect"),
        ("attach", "ipu2", "attach"),
    ]
    assert admitted(world) == [HOST_NQN.format(1), HOST_NQN.format(2)]
    world.settled(*both(), disk("own", host="host1"))


def test_one_host_that_detaches_is_shut_out_and_the_other_goes_on(world: World) -> None:
    world.run(*both())
    items = [shared(1), shared(2, state="detached")]
    planned = world.run(*items)
    assert happens(planned) == [
        ("unplug", "ipu2", "unplug"),
        ("disconnect", "ipu2", "disconnect"),
        ("release", "st1", "shut out"),
    ]
    assert [result["action"] for result in planned["disks"]] == ["none", "detach"]
    assert devices(world) == {"ipu1": [SERIAL]} and admitted(world) == [HOST_NQN.format(1)]
    world.settled(*items)
    world.run(*both())
    assert devices(world) == {"ipu1": [SERIAL], "ipu2": [SERIAL]}


def test_a_host_whose_disk_does_not_come_off_stays_admitted(world: World) -> None:
    world.run(shared(2))
    planned = world.plan(shared(1), shared(2, state="detached"))
    left = steps.after_unplug(planned, {"ipu2": []}, {})
    assert left["stuck"] == ["data@host2"] and left["fences"] == []
    assert "release" not in left["nodes"]["st1"] and "disconnect" not in left["nodes"].get("ipu2", {})
    assert left["nodes"]["ipu1"]["attach"], "the other one gets its disk"
    (subsystem,) = left["declarations"]["st1"]["subsystems"]
    assert subsystem["hosts"] == [HOST_NQN.format(1), HOST_NQN.format(2)]


def test_a_host_that_uses_it_keeps_it_and_the_other_one_loses_it(world: World) -> None:
    world.run(*both())
    observed = world.observed()
    observed["host1"]["disks"][1]["mounts"] = ["/mnt"]
    planned = planner.plan(both(state="detached"), world.inventory, observed)
    (problem,) = planned["problems"]
    assert problem["disk"] == "data@host1"
    assert "data@host1: it is in use on host1 (mounted on /mnt)" in problem["message"]
    assert {step["node"] for step in planned["steps"]} == {"ipu2", "st1"}


def test_absent_takes_it_from_all_hosts_and_then_destroys_it(world: World) -> None:
    world.run(*both())
    planned = world.run(*both(state="absent"), safe_mode=False)
    assert happens(planned) == [
        ("unplug", "ipu1", "unplug"),
        ("unplug", "ipu2", "unplug"),
        ("disconnect", "ipu1", "disconnect"),
        ("disconnect", "ipu2", "disconnect"),
        ("release", "st1", "remove"),
        ("bdevs", "st1", "destroy"),
    ]
    assert devices(world) == {} and world.bdevs["st1"] == {} == world.subsystems["st1"]
    kept = {node: set(document) - {"version", "node"} for node, document in world.kept.items() if document}
    assert kept == {"st1": {"transports"}, "ipu1": set(), "ipu2": set()}
    world.settled(*both(state="absent"), safe_mode=False)


def test_a_volume_that_one_host_uses_is_destroyed_for_none(world: World) -> None:
    world.run(*both())
    observed = world.observed()
    observed["host2"]["disks"][1]["mounts"] = ["/mnt"]
    planned = planner.plan(both(state="absent"), world.inventory, observed, {"safe_mode": False})
    assert planned["steps"] == []
    assert [problem["disk"] for problem in planned["problems"]] == ["data@host1", "data@host2"]


def test_a_volume_that_does_not_come_off_one_host_is_not_destroyed(world: World) -> None:
    world.run(*both())
    planned = world.plan(*both(state="absent"), safe_mode=False)
    left = steps.after_unplug(planned, {"ipu1": [{"physical_id": 0, "state": "absent"}]}, {})
    assert left["stuck"] == ["data@host2"]
    assert not set(left["nodes"].get("st1", {})) & {"release", "bdevs"}
    target = left["declarations"].get("st1") or world.kept["st1"]
    assert [bdev["name"] for bdev in target["bdevs"]] == ["data"]
    (subsystem,) = target["subsystems"]
    assert HOST_NQN.format(2) in subsystem["hosts"] and len(subsystem["namespaces"]) == 1


def test_a_volume_is_not_destroyed_under_a_host_that_is_not_in_the_list(world: World) -> None:
    world.run(*both())
    for dead in (set(), {"ipu2", "host2"}):
        world.dead = dead
        planned = world.plan(shared(1, state="absent"), safe_mode=False)
        assert planned["steps"] == []
        words = "host2 has its volume, too, or may have it, and there is no item for host2"
        assert words in planned["problems"][0]["message"]


def test_a_host_that_is_off_the_list_is_left_alone_and_purged_alone(world: World) -> None:
    world.run(*both())
    planned = world.plan(shared(1))
    assert planned["steps"] == []
    assert [(each["name"], each["host"], each["state"], each["action"]) for each in planned["unlisted"]] == [
        ("data", "host2", "attached", "none")
    ]
    assert planned["unmanaged"] == [{"node": "ipu2", "kind": "device", "name": "sma-0 (data)"}]
    assert planned["declarations"] == {}
    planned = world.run(shared(1), purge="detach")
    assert [step["node"] for step in planned["steps"]] == ["ipu2", "ipu2", "st1"]
    assert devices(world) == {"ipu1": [SERIAL]} and admitted(world) == [HOST_NQN.format(1)]
    assert world.plan(shared(1))["unlisted"] == []
    world.settled(shared(1))


def test_an_ipu_that_is_admitted_for_nothing_is_shut_out(world: World) -> None:
    """As after a run that ended half way."""
    world.run(*both())
    world.devices["ipu2"].clear()
    planned = world.run(shared(1))
    assert happens(planned) == [("disconnect", "ipu2", "disconnect"), ("release", "st1", "shut out")]
    assert admitted(world) == [HOST_NQN.format(1)]
    (subsystem,) = world.kept["st1"]["subsystems"]
    assert subsystem["hosts"] == [HOST_NQN.format(1)]
    assert "controllers" not in world.kept["ipu2"]


def test_each_node_comes_back_with_its_part(world: World) -> None:
    items = [shared(1, qos={"rw_iops": 2000}), shared(2, physical_id=5)]
    world.run(*items)
    (subsystem,) = world.kept["st1"]["subsystems"]
    assert (subsystem["nqn"], subsystem["max_namespaces"]) == (NQN, 1)
    assert subsystem["hosts"] == [HOST_NQN.format(1), HOST_NQN.format(2)]
    assert [namespace["bdev"] for namespace in subsystem["namespaces"]] == ["data"]
    (controller,) = world.kept["ipu2"]["controllers"]
    assert (controller["name"], controller["subnqn"], controller["hostnqn"]) == (CONTROLLER, NQN, HOST_NQN.format(2))
    assert world.kept["ipu2"]["vhost_blk"] == [{"name": "sma-5", "bdev": SERIAL}]
    assert [(each["name"], each["rw_iops"]) for each in world.kept["ipu1"]["qos"]] == [(SERIAL, 2000)]
    # The target comes back empty, and its IPUs wait.
    world.bdevs["st1"].clear()
    world.subsystems["st1"].clear()
    planned = world.run(*items)
    assert planned["problems"] == []
    assert admitted(world) == [HOST_NQN.format(1), HOST_NQN.format(2)]
    assert devices(world) == {"ipu1": [SERIAL], "ipu2": [SERIAL]}
    world.settled(*items)
    world.run(shared(1, state="detached"), items[1])
    (subsystem,) = world.kept["st1"]["subsystems"]
    assert subsystem["hosts"] == [HOST_NQN.format(2)]
    assert not {"controllers", "vhost_blk", "qos"} & set(world.kept["ipu1"])


def test_what_a_target_lost_is_forgotten_when_it_is_not_wanted_any_more(world: World) -> None:
    world.run(*both())
    world.bdevs["st1"].clear()
    world.subsystems["st1"].clear()
    world.run(shared(2, state="detached"))
    (subsystem,) = world.kept["st1"]["subsystems"]
    assert subsystem["hosts"] == [HOST_NQN.format(1)]
    world.run(*both(state="absent"), safe_mode=False)
    assert set(world.kept["st1"]) == {"version", "node", "transports"}


def test_a_dead_ipu_leaves_the_other_host_in_peace(world: World) -> None:
    world.run(*both())
    world.dead = {"ipu2", "host2"}
    planned = world.plan(*both())
    assert planned["steps"] == []
    assert [problem["disk"] for problem in planned["problems"]] == ["data@host2"]
    planned = world.plan(shared(1), shared(2, state="detached"))
    assert planned["steps"] == []
    assert "virtual_disks_force: true to shut it out all the same: st1 then" in planned["problems"][0]["message"]
    assert admitted(world) == [HOST_NQN.format(1), HOST_NQN.format(2)]


@pytest.mark.parametrize("use", [{}, {"mounts": ["/mnt"]}])
def test_a_dead_ipu_is_shut_out_by_force_and_cleared_when_it_answers(world: World, use: dict[str, Any]) -> None:
    world.run(*both())
    world.dead = {"ipu2", "host2"}
    items = [shared(1), shared(2, state="detached")]
    planned = world.run(*items, force=True)
    assert happens(planned) == [("release", "st1", "shut out")]
    assert admitted(world) == [HOST_NQN.format(1)]
    assert world.plan(*items, force=True)["steps"] == []
    world.dead = set()
    world.uses[SERIAL] = use
    planned = world.run(shared(1), shared(2, state="detached"))
    assert happens(planned)[0] == ("sever", "ipu2", "sever")
    assert devices(world) == {"ipu1": [SERIAL], **({"ipu2": [SERIAL]} if use else {})}
    assert world.controllers["ipu2"] == {}


def test_an_ipu_that_was_shut_out_joins_again_with_nothing_on_the_way(world: World) -> None:
    world.run(*both())
    world.dead = {"ipu2", "host2"}
    world.run(shared(1), shared(2, state="detached"), force=True)
    world.dead = set()
    planned = world.run(*both())
    order = [(stage, node) for stage, node, _action in happens(planned)]
    assert order == [
        ("sever", "ipu2"),
        ("unplug", "ipu2"),
        ("subsystems", "st1"),
        ("controllers", "ipu2"),
        ("attach", "ipu2"),
    ]
    world.settled(*both())


@pytest.mark.parametrize("then", ["absent", "alone"])
def test_an_ipu_that_was_shut_out_of_what_is_gone_is_cleared_of_it(world: World, then: str) -> None:
    world.run(*both())
    world.dead = {"ipu2", "host2"}
    world.run(shared(1), shared(2, state="detached"), force=True)
    world.run(shared(1, state="detached"))
    items = [shared(1, state="absent")] if then == "absent" else [disk("data", host="host1")]
    world.run(*items, safe_mode=False)
    assert NQN not in world.subsystems["st1"]
    world.dead = set()
    world.uses[SERIAL] = {"mounts": ["/mnt"]}
    planned = world.run(*items, safe_mode=False)
    assert happens(planned) == [("sever", "ipu2", "sever")]
    assert world.controllers["ipu2"] == {} and devices(world)["ipu2"] == [SERIAL]
    world.uses.clear()
    planned = world.run(*items, safe_mode=False)
    assert happens(planned) == [("unplug", "ipu2", "remove")]
    assert "ipu2" not in devices(world) and not world.kept["ipu2"].get("vhost_blk")


def test_a_target_that_lost_whom_it_admits_severs_nobody(world: World) -> None:
    world.run(*both())
    world.subsystems["st1"][NQN]["hosts"].clear()
    assert happens(world.plan(*both())) == [("subsystems", "st1", "open")] * 2


@pytest.mark.parametrize("other", [[], [disk("other", host="host1")]])
def test_a_disk_of_one_host_becomes_shared_and_one_of_one_host_again(world: World, other: list[Any]) -> None:
    own, pair = disk("data", host="host1"), "nqn.2022-06.io.ipdk:st1:ipu1"
    world.run(own, *other)
    planned = world.plan(*both(), *other)
    assert planned["steps"] == [] and len(planned["problems"]) == 2
    words = "it is attached to host1 (st1n1) as a disk of one host, and is wanted as shared"
    assert words in planned["problems"][0]["message"]
    world.run(*both(state="detached"), *other)
    assert "data" in str(world.subsystems["st1"][pair]), "as after any other detaching"
    world.run(*both(), *other)
    assert devices(world)["ipu2"] == [SERIAL] and SERIAL in devices(world)["ipu1"]
    assert [namespace["nsid"] for namespace in world.subsystems["st1"][pair]["namespaces"]] == [2] * len(other)
    world.settled(*both(), *other)

    words = f"it is attached to host1 ({SERIAL}) as shared, and is wanted as a disk of one host"
    for state in ("attached", "detached", "absent"):
        planned = world.plan({**own, "state": state}, *other, safe_mode=False)
        assert planned["steps"] == [] and words in planned["problems"][0]["message"]
    world.run(*both(state="detached"), *other)
    world.run(own, *other)
    assert set(world.subsystems["st1"]) == {pair} == {each["nqn"] for each in world.kept["st1"]["subsystems"]}
    assert sorted(devices(world)["ipu1"]) == ["st1n1", "st1n2"][: 1 + len(other)]
    world.settled(own, *other)


def test_a_shared_volume_grows_under_all_of_its_hosts() -> None:
    world = World(with_store(nodes(hosts=3)), keeps=True)
    world.run(shared(1, lvol_disk), shared(2, lvol_disk))
    grown = [shared(host, lvol_disk, size="128MiB") for host in (1, 2)]
    planned = world.run(*grown)
    assert happens(planned) == [("lvols", "st1", "grow")]
    assert planned["nodes"]["host1"] == planned["nodes"]["host2"] == {"sizes": {SERIAL: 128 << 20}}
    assert planned["summary"]["grow"] == 2
    world.settled(*grown)
    # Who comes while it grows sees it in its new size, and is not waited for.
    more = [shared(host, lvol_disk, size="192MiB") for host in (1, 2, 3)]
    planned = world.run(*more)
    assert planned["nodes"]["host3"] == {"present": [SERIAL]}
    assert [result["action"] for result in planned["disks"]] == ["grow", "grow", "attach"]


def test_each_host_has_limits_of_its_own(world: World) -> None:
    world.run(*both())
    items = [shared(1, qos={"rw_iops": 2000}), shared(2, qos={"rd_bandwidth": "8MiB"})]
    world.run(*items)
    assert world.limits["ipu1"][SERIAL] == {"rw_ios_per_sec": 2000}
    assert world.limits["ipu2"][SERIAL] == {"r_mbytes_per_sec": 8}
    world.settled(*items)


def test_a_store_promises_a_shared_volume_once() -> None:
    world = World(with_store(nodes(hosts=2), clusters=20), keeps=True)
    items = [shared(1, lvol_disk), shared(2, lvol_disk)]
    assert world.run(*items)["problems"] == []
    world.settled(*items)


def test_what_is_exported_changes_nothing(world: World) -> None:
    world.run(shared(1, qos={"rw_iops": 2000}), shared(2, physical_id=9), disk("own", host="host3"))
    written = export.virtual_disks(world.inventory, world.observed())
    assert written["left_out"] == []
    assert [(item["name"], item["host"], item.get("shared")) for item in written["virtual_disks"]] == [
        ("data", "host1", True),
        ("data", "host2", True),
        ("own", "host3", None),
    ]
    assert written["virtual_disks"][0]["qos"] == {"rw_iops": 2000}
    planned = planner.plan(written["virtual_disks"], world.inventory, world.observed())
    assert (planned["steps"], planned["unlisted"], planned["unmanaged"]) == ([], [], [])
    world.run(*both(state="detached"), disk("own", host="host3"))
    written = export.virtual_disks(world.inventory, world.observed())
    assert [item["name"] for item in written["virtual_disks"]] == ["own"]
    assert written["left_out"] == [
        "st1: volume data: no IPU knows it, and there are several hosts: declare it with its host"
    ]


def test_several_paths() -> None:
    inventory = nodes(hosts=2)
    world = World(inventory, keeps=True)
    world.run(*both())
    inventory["targets"]["st1"]["paths"] = [{"address": "198.18.1.1", "ana_state": "non_optimized"}]
    planned = world.plan(*both())
    assert planned["steps"] == [] and "was made for one path" in planned["problems"][0]["message"]
    world.run(*both(state="detached"))
    planned = world.run(*both())
    assert happens(planned)[0] == ("release", "st1", "remove")
    assert len(world.controllers["ipu2"][CONTROLLER]["ctrlrs"]) == 2
    world.settled(*both())


BAD: list[tuple[str, list[dict[str, Any]], str]] = [
    ("not said of one", [shared(1), disk("data", host="host2")], "virtual_disks[1] does not say shared: true"),
    ("not said of the first", [disk("data", host="host2"), shared(1)], "virtual_disks[0] does not say shared: true"),
    ("size", [shared(1), shared(2, size="32MiB")], "one shared volume, 'data': wanted the same size in both."),
    ("backing", [shared(1), shared(2, backing={"type": "null"})], "wanted the same backing in both."),
    ("target", [shared(1, target="st1"), shared(2, target="st2")], "wanted the same target in both."),
    ("encryption", [shared(1, encryption=KEYS), shared(2)], "wanted the same encryption in both."),
    (
        "key",
        [shared(1, encryption=KEYS), shared(2, encryption={"key": KEYS["key2"], "key2": KEYS["key"]})],
        "wanted the same encryption in both.",
    ),
    ("host", [shared(1), shared(1)], "and both for host1: a host has it once. Remove one."),
    (
        "absent",
        [shared(1), shared(2, state="absent")],
        "wanted it for all or for none, got host1 attached, host2 absent. Use detached",
    ),
    ("no boolean", [disk("data", host="host1", shared="yes")], "shared: wanted true or false, got 'yes'."),
    ("no host", [disk("data", shared=True)], "host may be left out only where there is exactly one host"),
]


@pytest.mark.parametrize(("items", "words"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_items_that_do_not_fit(items: list[dict[str, Any]], words: str) -> None:
    inventory = nodes(targets=2, hosts=2)
    with pytest.raises(validate.InvalidDisks) as refused:
        validate.validate([{"target": "st1", **item} for item in items], inventory, {"safe_mode": False})
    (error,) = refused.value.errors
    assert words in error
    assert not any(key in error for key in KEYS.values())


def test_controllers_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    inventory = nodes()
    inventory["targets"][CONTROLLER] = inventory["targets"]["st1"]
    with pytest.raises(validate.InvalidDisks, match=f"call its controller {CONTROLLER}, and so they do with a storage"):
        validate.validate([shared(1, target="st1")], inventory)
    monkeypatch.setattr(virtual_disk, "shared_controller", lambda target, name: "shared-0")
    with pytest.raises(validate.InvalidDisks, match=r"'other'.*and so they do with the shared volume 'data'"):
        validate.validate([shared(1), disk("other", shared=True)], nodes())


def test_one_host_alone_may_have_a_shared_volume(world: World) -> None:
    world.run(shared(1))
    assert devices(world) == {"ipu1": [SERIAL]}
    world.settled(shared(1))
