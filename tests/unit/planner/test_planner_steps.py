"""From the state of three sides to steps, and back: every plan is carried out on a model and planned again."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.filter.plan import LOOKS, disk_answers
from ansible_collections.ipdk.storage.plugins.plugin_utils import planner, report, steps, virtual_disk
from world import WITHOUT_STEPS, World, disk, lvol_disk, nodes, with_store

NOTHING = {"attach": 0, "grow": 0, "limit": 0, "detach": 0, "destroy": 0, "not_converged": 0}


def stages(planned: dict[str, Any]) -> list[tuple[str, str]]:
    """The stages in order, each with its node, runs of equals folded."""
    return [key for key, _group in itertools.groupby((step["stage"], step["node"]) for step in planned["steps"])]


def test_the_first_disk_takes_every_step_in_order() -> None:
    world = World(nodes())
    planned = world.converge(disk())
    assert stages(planned) == [("bdevs", "st1"), ("subsystems", "st1"), ("controllers", "ipu1"), ("attach", "ipu1")]
    uuid = virtual_disk.volume_uuid("vol00", "st1")
    nqn = "nqn.2022-06.io.ipdk:st1:ipu1"
    host_nqn = world.inventory["ipus"]["ipu1"]["host_nqn"]
    assert planned["nodes"] == {
        "st1": {
            "bdevs": [
                {
                    "name": "vol00",
                    "type": "malloc",
                    "size": 64 << 20,
                    "block_size": 512,
                    "uuid": uuid,
                    "state": "present",
                }
            ],
            "subsystems": [
                {
                    "nqn": nqn,
                    "serial_number": virtual_disk.subsystem_serial(nqn),
                    "model_number": "ipdk.storage",
                    "max_namespaces": 1024,
                    "hosts": [host_nqn],
                    "listeners": [{"trtype": "TCP", "traddr": "198.18.0.1", "trsvcid": "4420"}],
                    "namespaces": [
                        {
                            "bdev": "vol00",
                            "nsid": 1,
                            "uuid": uuid,
                            "nguid": uuid.replace("-", ""),
                            "state": "present",
                        }
                    ],
                }
            ],
        },
        "ipu1": {
            "controllers": [
                {
                    "name": "st1",
                    "traddr": "198.18.0.1",
                    "trsvcid": "4420",
                    "subnqn": nqn,
                    "hostnqn": host_nqn,
                    "state": "present",
                }
            ],
            "attach": [{"physical_id": 0, "volume": uuid, "state": "present"}],
        },
        "host1": {"present": ["st1n1"]},
    }
    (result,) = planned["disks"]
    assert result == {
        "id": "vol00",
        "name": "vol00",
        "shared": False,
        "state": "attached",
        "size": 64 << 20,
        "target": "st1",
        "ipu": "ipu1",
        "host": "host1",
        "bdev": "vol00",
        "uuid": uuid,
        "nqn": nqn,
        "nsid": 1,
        "serial": "st1n1",
        "physical_id": 0,
        "handle": "virtio_blk:sma-0",
        "volume": True,
        "qos": dict.fromkeys(("rw_iops", "rw_bandwidth", "rd_bandwidth", "wr_bandwidth"), "unlimited"),
        "action": "attach",
        "converged": True,
        "reason": None,
    }


def test_what_a_host_sees_is_its_latest_look() -> None:
    tasks = Path(__file__).parents[3] / "roles/virtual_disks/tasks/stages"
    registered = {
        line.split()[-1] for file in tasks.iterdir() for line in file.read_text().splitlines() if "register:" in line
    }
    assert set(LOOKS) <= registered, "a stage of the role leaves it"
    first = {"virtual_disks_seen": {"observed": {"disks": ["before"]}}}
    assert disk_answers(["host1"], {"host1": first}, [])["seen"] == {"host1": ["before"]}
    after = {**first, "virtual_disks_unplugged": {"disks": []}, "virtual_disks_appeared": {}}
    assert disk_answers(["host1"], {"host1": after}, [])["seen"] == {"host1": []}
    ipu = {"virtual_disks_unplugged": {"devices": []}}
    assert disk_answers(["ipu1"], {"ipu1": ipu}, [])["seen"] == {"ipu1": None}


def test_every_stage_has_its_tasks_and_is_named_where_it_is_needed() -> None:
    tasks = Path(__file__).parents[3] / "roles/virtual_disks/tasks/stages"
    assert {file.stem for file in tasks.iterdir()} == {*steps.ORDER, "steps"}
    assert [stage for stage in steps.ORDER if not hasattr(World, f"_{stage}")] == sorted(
        WITHOUT_STEPS, key=steps.ORDER.index
    )
    world, null = World(nodes()), {"type": "null"}
    assert world.plan(disk(backing=null))["stages"] == ["bdevs", "subsystems", "controllers", "attach", "present"]
    world.carry_out(world.plan(disk(backing=null)))
    assert world.plan(disk(backing=null))["stages"] == []
    assert world.plan(disk(backing=null, size="128MiB"))["stages"] == ["bdevs", "present"], "its host sees it grow"
    gone = ["unplug", "came_off", "release", "bdevs"]
    assert world.plan(disk(backing=null, state="absent"), safe_mode=False)["stages"] == gone
    assert World(nodes(), keeps=True).plan(disk())["stages"][0] == "declare"


def test_64_disks_are_one_list_a_stage_and_readable() -> None:
    world = World(nodes())
    planned = world.converge(*([disk(f"vol{n:02}") for n in range(64)]))
    assert len(planned["nodes"]["ipu1"]["attach"]) == 64
    assert len(planned["nodes"]["ipu1"]["controllers"]) == 1
    assert len(planned["nodes"]["st1"]["subsystems"]) == 1
    assert planned["nodes"]["host1"]["present"] == [f"st1n{n}" for n in range(1, 65)]
    assert planned["text"] == [
        "64 to attach, 0 to detach, 0 to destroy, 0 unchanged, 0 not converged",
        "st1: create 64 bdevs: vol00, vol01, vol02, vol03, vol04, … vol63",
        "st1: add 64 namespaces: vol00 (1), vol01 (2), vol02 (3), vol03 (4), vol04 (5), … vol63 (64)",
        "ipu1: connect 1 controller: st1",
        "ipu1: attach 64 devices: vol00 (sma-0), vol01 (sma-1), vol02 (sma-2), vol03 (sma-3), vol04 (sma-4), "
        "… vol63 (sma-63)",
    ]
    assert world.plan(*([disk(f"vol{n:02}") for n in range(64)]))["summary"] == {**NOTHING, "unchanged": 64}


def test_detach_keeps_everything_but_the_device() -> None:
    world = World(nodes())
    world.converge(disk("a"), disk("b"))
    planned = world.converge(disk("a", state="detached"), disk("b"))
    assert stages(planned) == [("unplug", "ipu1")]
    assert planned["nodes"] == {
        "ipu1": {"unplug": [{"physical_id": 0, "volume": virtual_disk.volume_uuid("a", "st1"), "state": "absent"}]},
        "host1": {"absent": ["st1n1"]},
    }
    assert planned["disks"][0]["serial"] == "st1n1" and planned["disks"][0]["handle"] is None
    assert planned["summary"] == {**NOTHING, "detach": 1, "unchanged": 1}
    back = world.converge(disk("a"), disk("b"))
    assert stages(back) == [("attach", "ipu1")]
    assert back["disks"][0]["serial"] == "st1n1"


def test_detaching_what_was_never_there_makes_nothing() -> None:
    planned = World(nodes()).plan(disk(state="detached"))
    assert planned["steps"] == [] and planned["disks"][0]["volume"] is False
    assert planned["summary"] == {**NOTHING, "unchanged": 1}


def test_absent_takes_device_namespace_and_bdev_in_that_order() -> None:
    world = World(nodes())
    world.converge(disk("a"), disk("b"))
    planned = world.converge(disk("a", state="absent"), disk("b"), safe_mode=False)
    assert stages(planned) == [("unplug", "ipu1"), ("release", "st1"), ("bdevs", "st1")]
    assert planned["nodes"]["st1"] == {
        "release": [
            {"nqn": "nqn.2022-06.io.ipdk:st1:ipu1", "namespaces": [{"bdev": "a", "nsid": 1, "state": "absent"}]}
        ],
        "bdevs": [{"name": "a", "type": "malloc", "state": "absent"}],
    }
    assert planned["summary"] == {**NOTHING, "destroy": 1, "unchanged": 1}
    assert set(world.bdevs["st1"]) == {"b"}


def test_an_aio_file_comes_first_and_goes_last() -> None:
    world = World(nodes())
    aio = {"type": "aio", "block_size": 4096}
    disks = [disk("a", backing=aio), disk("b", backing=aio), disk("c", backing=aio, size="1MiB")]
    volumes = "/var/lib/ipdk/st1/volumes"
    assert world.converge(*disks)["nodes"]["st1"]["files_present"] == [
        {"size": 64 << 20, "paths": [f"{volumes}/a.img", f"{volumes}/b.img"]},
        {"size": 1 << 20, "paths": [f"{volumes}/c.img"]},
    ]
    planned = world.converge({**disks[0], "state": "absent"}, *disks[1:], safe_mode=False)
    assert planned["nodes"]["st1"]["files_absent"] == [f"{volumes}/a.img"]
    assert planned["nodes"]["st1"]["bdevs"][0]["filename"] == f"{volumes}/a.img"


def test_both_directions_in_one_run() -> None:
    world = World(nodes())
    world.converge(disk("a"), disk("b"))
    planned = world.converge(disk("a", state="absent"), disk("b", state="detached"), disk("c"), safe_mode=False)
    assert stages(planned) == [
        ("unplug", "ipu1"),
        ("release", "st1"),
        ("bdevs", "st1"),
        ("subsystems", "st1"),
        ("attach", "ipu1"),
    ]
    # Neither the serial nor the slot of what goes is given to what comes in the same run.
    assert planned["disks"][2]["serial"] == "st1n3" and planned["disks"][2]["physical_id"] == 2
    assert planned["nodes"]["host1"] == {"absent": ["st1n1", "st1n2"], "present": ["st1n3"]}


def test_a_freed_slot_is_reused_when_there_is_no_other() -> None:
    world = World(nodes(slots=2))
    world.converge(disk("a"), disk("b"))
    planned = world.converge(disk("a"), disk("b", state="detached"), disk("c"))
    assert planned["disks"][2]["physical_id"] == 1


def test_physical_ids() -> None:
    world = World(nodes())
    planned = world.converge(disk("a"), disk("b", physical_id=0), disk("c", physical_id=10), disk("d"))
    assert [result["physical_id"] for result in planned["disks"]] == [1, 0, 10, 2]
    # A new disk that comes first in the list takes nobody's place.
    planned = world.converge(disk("z"), disk("a"), disk("b", physical_id=0), disk("c", physical_id=10), disk("d"))
    assert [result["physical_id"] for result in planned["disks"]] == [3, 1, 0, 10, 2]


def test_another_physical_id_replugs_the_disk() -> None:
    world = World(nodes())
    world.converge(disk("a"))
    planned = world.converge(disk("a", physical_id=5))
    assert stages(planned) == [("unplug", "ipu1"), ("attach", "ipu1")]
    assert planned["disks"][0]["handle"] == "virtio_blk:sma-5" and planned["disks"][0]["serial"] == "st1n1"


@pytest.mark.parametrize("same_run", [False, True])
def test_a_physical_id_that_somebody_has(same_run: bool) -> None:
    world = World(nodes())
    world.converge(disk("a"))
    planned = world.plan(*([disk("a"), disk("b", physical_id=0)] if same_run else [disk("b", physical_id=0)]))
    assert planned["steps"] == []
    assert [problem["node"] for problem in planned["problems"]] == ["ipu1"]
    assert planned["problems"][0]["message"].startswith("b: physical_id 0 of ipu1 is taken by a. Leave physical_id out")


def test_a_physical_id_that_is_freed_in_the_same_run() -> None:
    world = World(nodes())
    world.converge(disk("a"))
    planned = world.converge(disk("b", physical_id=0), disk("a", state="detached"))
    assert planned["problems"] == [] and planned["disks"][0]["physical_id"] == 0


def test_no_slot_is_left() -> None:
    world = World(nodes(slots=2))
    world.converge(disk("a"), disk("b"))
    planned = world.plan(disk("c"))
    assert planned["problems"][0]["message"].startswith("c: all 2 slots of ipu1 are taken")
    assert planned["summary"] == {**NOTHING, "unchanged": 0, "not_converged": 1}


def test_what_is_not_in_the_list_is_left_alone_and_reported() -> None:
    world = World(nodes())
    world.converge(disk("a"), disk("b"))
    world.bdevs["st1"]["alien"] = {
        "name": "alien",
        "uuid": "0" * 8,
        "product_name": "Malloc disk",
        "block_size": 512,
        "num_blocks": 8,
    }
    planned = world.plan(disk("b"))
    assert planned["steps"] == []
    assert planned["unmanaged"] == [
        {"node": "st1", "kind": "volume", "name": "a"},
        {"node": "ipu1", "kind": "device", "name": "sma-0 (a)"},
    ]
    assert "st1: left alone, not in the list: 1 volume: a" in planned["text"]


def test_a_device_whose_bdev_is_gone_keeps_its_slot_and_is_reported() -> None:
    world = World(nodes())
    observed = world.observed()
    observed["ipu1"]["vhost_controllers"] = [
        {"ctrlr": "sma-0", "backend_specific": {"block": {"readonly": False}}, "sessions": [{"vid": 0}]}
    ]
    planned = planner.plan([disk(), disk("b", physical_id=0)], world.inventory, observed)
    assert planned["disks"][0]["physical_id"] == 1
    assert "taken by sma-0, whose bdev is gone" in planned["problems"][0]["message"]
    assert planned["unmanaged"] == [{"node": "ipu1", "kind": "device", "name": "sma-0 (its bdev is gone)"}]


def test_the_nsid_is_kept_and_new_ones_are_the_lowest_free() -> None:
    world = World(nodes())
    world.converge(*([disk(name) for name in "abc"]))
    world.converge(disk("a"), disk("b", state="absent"), disk("c"), safe_mode=False)
    planned = world.converge(disk("d"), disk("a"), disk("c"), disk("e"))
    assert [result["nsid"] for result in planned["disks"]] == [2, 1, 3, 4]


# Refusals that only the state can tell


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            [disk(size="128MiB")],
            "size: 128 MiB was wanted, but the volume on st1 has 64 MiB; backing malloc is not resized",
        ),
        ([disk(size="32MiB")], "size: 32 MiB was wanted, but the volume on st1 has 64 MiB"),
        ([disk(backing={"type": "null"})], "backing: null was wanted, but the volume on st1 has Malloc disk"),
        (
            [disk(backing={"type": "malloc", "block_size": 4096})],
            "block size: 4096 was wanted, but the volume on st1 has 512",
        ),
    ],
)
def test_what_would_lose_data_is_refused(items: list[dict[str, Any]], message: str) -> None:
    world = World(nodes())
    world.converge(disk())
    planned = world.plan(*items)
    assert planned["steps"] == []
    assert planned["problems"][0]["node"] == "st1"
    assert planned["problems"][0]["message"].startswith(f"vol00: {message}"), planned["problems"][0]["message"]
    assert world.plan(dict(items[0], state="detached"))["summary"]["detach"] == 1, "but it may be detached"


def test_a_bdev_of_somebody_else_is_left_alone() -> None:
    world = World(nodes())
    world.bdevs["st1"]["vol00"] = {
        "name": "vol00",
        "uuid": "11111111-1111-4111-8111-111111111111",
        "product_name": "Malloc disk",
        "block_size": 512,
        "num_blocks": 131072,
    }
    for state in virtual_disk.STATES:
        planned = world.plan(disk(state=state), safe_mode=False)
        assert planned["steps"] == []
        assert "it was not made for this virtual disk and is left alone" in planned["problems"][0]["message"]


@pytest.mark.parametrize(
    ("use", "words"),
    [
        ({"mounts": ["/mnt"]}, "mounted on /mnt"),
        ({"swaps": ["/dev/vdb"]}, "used as swap (/dev/vdb)"),
        ({"holders": ["dm-0"]}, "held by dm-0"),
        ({"open": True}, "open in a process"),
        ({"mounts": ["/a", "/b"], "open": True}, "mounted on /a, mounted on /b"),
    ],
)
@pytest.mark.parametrize("state", ["detached", "absent"])
def test_a_disk_in_use_is_not_unplugged(use: dict[str, Any], words: str, state: str) -> None:
    world = World(nodes())
    world.converge(disk("a"), disk("b"))
    world.uses["st1n1"] = use
    wanted = [disk("a", state=state), disk("b", state=state)]
    planned = world.plan(*wanted, safe_mode=False)
    assert planned["problems"] == [
        {
            "node": "host1",
            "disk": "a",
            "message": f"a: it is in use on host1 ({words}) and is not unplugged. Release it there, or set "
            "virtual_disks_force: true.",
        }
    ]
    assert {step["disk"] for step in planned["steps"]} == {"b"}
    assert world.plan(*wanted, safe_mode=False, force=True)["problems"] == []


def test_without_access_to_the_host_everything_converges_but_unplugging_wants_force() -> None:
    world = World(nodes(access="none"))
    planned = world.converge(disk("a"), disk("b"))
    assert "host1" not in planned["nodes"]
    refused = world.plan(disk("a", state="detached"), disk("b"))
    assert refused["steps"] == []
    assert refused["problems"][0]["node"] == "ipu1"
    assert "nobody may look whether host1 uses it (ipdk_host_access: none)" in refused["problems"][0]["message"]
    forced = world.converge(disk("a", state="detached"), disk("b"), force=True)
    assert stages(forced) == [("unplug", "ipu1")] and "host1" not in forced["nodes"]


@pytest.mark.parametrize("dead", ["st1", "ipu1", "host1"])
@pytest.mark.parametrize("state", ["attached", "detached", "absent"])
def test_an_unknown_node_holds_back_its_disks_only(dead: str, state: str) -> None:
    world = World(nodes(targets=2, hosts=2))
    disks = [disk("a", target="st1", host="host1"), disk("b", target="st2", host="host2")]
    if state != "attached":
        world.converge(*disks)
    world.dead.add(dead)
    wanted = [dict(item, state=state) for item in disks]
    planned = world.run(*wanted, safe_mode=False)
    assert {step["disk"] for step in planned["steps"]} - {None} == {"b"}
    assert world.plan(*wanted, safe_mode=False)["nodes"] == {}
    assert [result["converged"] for result in planned["disks"]] == [False, True]
    assert planned["problems"][0]["node"] == dead
    assert f"{dead} is unknown (no answer)" in planned["problems"][0]["message"]
    assert planned["disks"][0]["volume"] is None, "unknown is not: no volume"


def test_null_is_unknown_too() -> None:
    world = World(nodes())
    planned = planner.plan([disk()], world.inventory, {**world.observed(), "st1": None})
    assert planned["steps"] == [] and planned["summary"]["not_converged"] == 1


def test_a_target_without_transport_was_not_deployed() -> None:
    world = World(nodes())
    observed = world.observed()
    observed["st1"]["transports"] = []
    planned = planner.plan([disk()], world.inventory, observed)
    assert planned["steps"] == []
    assert planned["problems"][0]["message"].startswith(
        "vol00: st1 has no NVMe/TCP transport; deploy the storage target"
    )


def test_a_controller_that_is_connected_elsewhere() -> None:
    world = World(nodes())
    world.converge(disk("a"))
    world.inventory["targets"]["st1"]["address"] = "198.18.9.9"
    planned = world.plan(disk("a"), disk("b"))
    assert planned["steps"] == []
    assert "connected to nqn.2022-06.io.ipdk:st1:ipu1 at 198.18.0.1:4420, where" in planned["problems"][0]["message"]


@pytest.mark.parametrize("lost", ["hosts", "listen_addresses"])
def test_a_subsystem_that_no_longer_admits_its_ipu_is_opened_once(lost: str) -> None:
    world = World(nodes())
    world.converge(disk("a"), disk("b"))
    subsystem = world.subsystems["st1"]["nqn.2022-06.io.ipdk:st1:ipu1"]
    subsystem[lost] = []
    planned = world.converge(disk("a"), disk("b"))
    assert [(step["stage"], step["action"]) for step in planned["steps"]] == [("subsystems", "open")]
    assert len(subsystem["namespaces"]) == 2


@pytest.mark.parametrize("access", ["ssh", "none"])
def test_a_device_that_a_restarted_host_lost_is_attached_again(access: str) -> None:
    world = World(nodes(access=access))
    world.converge(disk("a"), disk("b"))
    world.unplugged["ipu1"].add(1)
    planned = world.converge(disk("a"), disk("b"))
    assert planned["nodes"]["ipu1"]["attach"] == [
        {"physical_id": 1, "volume": virtual_disk.volume_uuid("b", "st1"), "state": "present"}
    ]
    assert planned["nodes"].get("host1") == ({"present": ["st1n2"]} if access == "ssh" else None)
    assert planned["steps"][0]["detail"] == "st1n2: ipu1 has the device, but host1 does not"


def test_what_outlived_its_host_and_is_in_no_list_is_removed() -> None:
    world = World(nodes())
    world.converge(disk("a"), disk("b"), disk("c"))
    world.unplugged["ipu1"] = {0, 1, 2}
    planned = world.plan(disk("b"), disk("d"))
    assert [(step["stage"], step["action"], step["name"]) for step in planned["steps"][:2]] == [
        ("unplug", "remove", "sma-0 (a)"),
        ("unplug", "remove", "sma-2 (c)"),
    ]
    assert "ipu1: remove 2 orphans: sma-0 (a), sma-2 (c)" in planned["text"]
    world.converge(disk("b"), disk("d"))
    # b has its own slot again, d the lowest that was free without the orphans going first; a's and c's data is there.
    assert world.devices["ipu1"] == {1: "st1n2", 3: "st1n4"}
    assert set(world.bdevs["st1"]) == {"a", "b", "c", "d"}
    assert world.plan(disk("b"), disk("d"))["steps"] == []


def test_a_full_ipu_gets_the_slots_of_orphans() -> None:
    world = World(nodes(slots=1))
    world.converge(disk("a"))
    world.unplugged["ipu1"] = {0}
    world.converge(disk("b"))
    assert world.devices["ipu1"] == {0: "st1n2"}


def test_an_orphan_that_does_not_go_keeps_only_who_wants_its_slot() -> None:
    world = World(nodes(slots=2))
    world.converge(disk("a"))
    world.unplugged["ipu1"] = {0}
    planned = world.plan(disk("b", physical_id=0), disk("c"))
    left = steps.after_unplug(planned, {"ipu1": []}, {})
    assert left["stuck"] == ["b"]
    assert [item["physical_id"] for item in left["nodes"]["ipu1"]["attach"]] == [1]


@pytest.mark.parametrize("why", ["nobody looks", "the host sees it", "a target is silent", "someone is connected"])
def test_what_may_be_alive_is_no_orphan(why: str) -> None:
    world = World(nodes(targets=2, access="none" if why == "nobody looks" else "ssh"))
    world.converge(disk("a", target="st1"))
    observed = world.observed()
    if why != "someone is connected":
        observed["ipu1"]["vhost_controllers"][0]["sessions"] = []
    if why == "someone is connected":
        observed["host1"]["disks"] = []
    if why == "a target is silent":
        observed["host1"]["disks"] = []
        del observed["st2"]
    assert planner.plan([], world.inventory, observed)["steps"] == []


def test_a_device_that_the_host_does_not_see_is_attached_again() -> None:
    world = World(nodes())
    world.converge(disk())
    observed = world.observed()
    observed["host1"]["disks"] = []
    planned = planner.plan([disk()], world.inventory, observed)
    assert planned["nodes"] == {
        "ipu1": {
            "attach": [{"physical_id": 0, "volume": virtual_disk.volume_uuid("vol00", "st1"), "state": "present"}]
        },
        "host1": {"present": ["st1n1"]},
    }


def test_a_target_that_lost_its_volumes_gets_them_again_for_the_same_devices() -> None:
    world = World(nodes())
    world.converge(disk("a"), disk("b"))
    world.bdevs["st1"].clear()
    world.subsystems["st1"].clear()
    planned = world.converge(disk("a"), disk("b"))
    assert stages(planned) == [("bdevs", "st1"), ("subsystems", "st1")]
    assert [result["physical_id"] for result in planned["disks"]] == [0, 1]


def test_a_target_that_came_back_empty_gets_its_namespaces_under_the_nsids_that_the_ipu_remembers() -> None:
    world = World(nodes())
    world.converge(disk("a"), disk("b"), disk("c"))
    observed = world.observed()
    observed["st1"]["bdevs"] = []
    observed["st1"]["subsystems"] = []
    planned = planner.plan([disk("new"), disk("c"), disk("b")], world.inventory, observed)
    assert [result["nsid"] for result in planned["disks"]] == [4, 3, 2], "1 is still a's"
    assert [result["physical_id"] for result in planned["disks"]] == [3, 2, 1]
    assert [step["disk"] for step in planned["steps"] if step["stage"] == "attach"] == ["new"]


def test_a_disk_moves_to_another_host() -> None:
    world = World(nodes(hosts=2))
    world.converge(disk("a", host="host1"), disk("b", host="host1"))
    world.uses["st1n2"] = {"mounts": ["/mnt"]}
    planned = world.plan(disk("a", host="host2"), disk("b", host="host2"))
    assert [problem["disk"] for problem in planned["problems"]] == ["b"]
    assert stages(planned) == [
        ("unplug", "ipu1"),
        ("release", "st1"),
        ("subsystems", "st1"),
        ("controllers", "ipu2"),
        ("attach", "ipu2"),
    ]
    world.carry_out(planned)
    assert world.devices == {"ipu1": {1: "st1n2"}, "ipu2": {0: "st1n1"}}


@pytest.mark.parametrize("seed", range(12))
def test_any_declaration_follows_any_other(seed: int) -> None:
    """Random declarations in a row, with random slots: each converges, and its disks are where they are said to be."""
    generator = random.Random(seed)
    world = World(with_store(nodes(targets=2, hosts=2, slots=12)))
    for _round in range(12):
        disks = [
            (lvol_disk if number in (0, 4, 8) else disk)(
                f"v{number}",
                target=f"st{number % 2 + 1}",
                host=generator.choice(["host1", "host2"]),
                state=generator.choice(["attached", "attached", "detached", "absent"]),
            )
            for number in range(10)
        ]
        planned = world.converge(*generator.sample(disks, 10), safe_mode=False)
        assert planned["problems"] == []
        for result in planned["disks"]:
            devices = world.devices[result["ipu"]]
            if result["state"] == "attached":
                assert devices[result["physical_id"]] == result["serial"]
            names = {result["name"], f"fast/{result['name']}"}
            assert bool(names & world.bdevs[result["target"]].keys()) == result["volume"]
        attached = sum(result["state"] == "attached" for result in planned["disks"])
        assert attached == sum(len(devices) for devices in world.devices.values())


# When unplugging fails


def test_a_disk_that_did_not_come_off_keeps_what_is_behind_it() -> None:
    world = World(nodes(slots=3))
    world.converge(disk("a"), disk("b"), disk("c"))
    planned = world.plan(
        disk("a", state="absent"),
        disk("b", state="absent"),
        disk("c"),
        disk("d"),
        disk("e", physical_id=0),
        safe_mode=False,
    )
    assert planned["problems"] == []
    gone, there = {"physical_id": 0, "state": "absent"}, {"physical_id": 1, "state": "present"}

    everything = steps.after_unplug(planned, {"ipu1": [gone, {**there, "state": "absent"}]}, {})
    assert everything["stuck"] == []
    assert [bdev["name"] for bdev in everything["nodes"]["st1"]["bdevs"]] == ["a", "b", "d", "e"]
    assert "unplug" not in everything["nodes"]["ipu1"]

    one = steps.after_unplug(planned, {"ipu1": [gone, there]}, {})
    assert one["stuck"] == ["b", "d"], "d was to get the slot of b"
    assert [bdev["name"] for bdev in one["nodes"]["st1"]["bdevs"]] == ["a", "e"]
    assert [namespace["bdev"] for namespace in one["nodes"]["st1"]["release"][0]["namespaces"]] == ["a"]
    assert [device["physical_id"] for device in one["nodes"]["ipu1"]["attach"]] == [0]

    seen = steps.after_unplug(planned, {"ipu1": [gone, {**there, "state": "absent"}]}, {"host1": ["st1n1"]})
    assert seen["stuck"] == ["a", "e"]

    none = steps.after_unplug(planned, {}, {})
    assert none["stuck"] == ["a", "b", "d", "e"]
    assert none["nodes"] == {}


# The report


def test_the_report_is_what_the_host_sees() -> None:
    world = World(nodes(hosts=2))
    world.inventory["hosts"]["host2"]["access"] = "none"
    disks = [disk("a", host="host1"), disk("b", host="host1"), disk("c", host="host2")]
    planned = world.converge(*disks)
    seen = [
        {"serial": "st1n1", "path": "/dev/vdb", "by_id": "/dev/disk/by-id/virtio-st1n1", "pci_address": "0000:01:00.0"}
    ]
    a, b, c = report.report(planned, {"host1": seen})
    assert (a["converged"], a["visible"], a["device"], a["pci_address"]) == (True, True, "/dev/vdb", "0000:01:00.0")
    assert a["by_id"] == "/dev/disk/by-id/virtio-st1n1"
    assert (b["converged"], b["visible"], b["reason"]) == (False, False, "host1 does not see it")
    assert (c["converged"], c["visible"], c["device"]) == (True, None, None)


def test_the_report_of_a_detached_disk_and_of_failures() -> None:
    world = World(nodes(hosts=2, access="none"))
    disks = [disk("a", host="host1"), disk("b", host="host2")]
    planned = world.plan(*disks)
    a, b = report.report(planned, {}, {"ipu1": ["SMA does not answer"]})
    assert (a["converged"], a["reason"]) == (False, "ipu1: SMA does not answer")
    assert b["converged"] is True
    world = World(nodes())
    world.converge(disk("a"))
    planned = world.plan(disk("a", state="detached"))
    (a,) = report.report(planned, {"host1": [{"serial": "st1n1", "path": "/dev/vdb"}]})
    assert (a["converged"], a["reason"]) == (False, "host1 still sees it")
    (a,) = report.report(planned, {"host1": []})
    assert (a["converged"], a["visible"]) == (True, False)
