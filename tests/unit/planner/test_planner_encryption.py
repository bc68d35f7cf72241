"""Encrypted disks: what is planned for them, and that no key is in a plan."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.plugin_utils import encryption, planner, validate, virtual_disk
from ansible_collections.ipdk.storage.plugins.plugin_utils.steps import after_unplug
from world import World, disk, nodes

KEYS = {"key": "00112233445566778899aabbccddeeff", "key2": "ffeeddccbbaa99887766554433221100"}
OTHER = {"key": "0f0e0d0c0b0a09080706050403020100", "key2": "101112131415161718191a1b1c1d1e1f"}
SECRET = {"cipher": "AES_XTS", **KEYS}


def test_two_ipus_have_keys_of_their_own_under_one_name() -> None:
    planned = planner.plan(
        [disk("a", host="host1", encryption=KEYS), disk("b", host="host2", encryption=OTHER)],
        nodes(hosts=2),
        World(nodes(hosts=2)).observed(),
    )
    given = [{"name": "a", "encryption": KEYS}, {"name": "b", "encryption": OTHER}]
    for ipu, keys in (("ipu1", KEYS), ("ipu2", OTHER)):
        (item,) = encryption.with_keys(planned["nodes"][ipu]["crypto"], planned, given)
        assert item["name"] == "st1n1c" and {half: item[half] for half in keys} == keys


@pytest.mark.parametrize("detached", ["host1", "host2"])
def test_the_hosts_of_a_shared_volume_have_one_key(detached: str) -> None:
    world = World(nodes(hosts=2), keeps=True)
    items = [disk(host=host, shared=True, encryption=SECRET) for host in ("host1", "host2")]
    world.converge(*items)
    assert list(world.crypto["ipu1"]) == list(world.crypto["ipu2"]) and len(world.keys) == 1
    world.converge(*({**item, "state": "detached" if item["host"] == detached else "attached"} for item in items))
    assert sorted(len(there) for there in world.crypto.values()) == [0, 1]
    world.converge(*items)
    (problem, _other) = world.plan(*(disk(host=host, shared=True) for host in ("host1", "host2")))["problems"]
    assert "is attached through ipu1 with encryption, and is wanted without" in problem["message"]


def test_an_encrypted_disk_comes_and_goes() -> None:
    world = World(nodes(), keeps=True)
    planned = world.converge(disk(encryption=SECRET), disk("vol01"))
    assert [step["stage"] for step in planned["steps"] if step["node"] == "ipu1"] == [
        "controllers",
        "crypto",
        "attach",
        "attach",
    ]
    assert "ipu1: create 1 encrypted bdev: vol00 (st1n1c)" in planned["text"]
    uuid = virtual_disk.encrypted_uuid(virtual_disk.volume_uuid("vol00", "st1"))
    item = {"name": "st1n1c", "base_bdev": "st1n1", "cipher": "AES_XTS", "key_file": "/k1/st1n1c.json"}
    assert planned["nodes"]["ipu1"]["crypto"] == [{**item, "state": "present"}]
    assert planned["nodes"]["ipu1"]["attach"][0] == {"physical_id": 0, "volume": uuid, "state": "present"}
    assert planned["nodes"]["host1"]["present"] == ["st1n1c", "st1n2"]
    assert [result["serial"] for result in planned["disks"]] == ["st1n1c", "st1n2"]
    assert world.kept["ipu1"]["crypto"] == [item]
    assert world.kept["ipu1"]["vhost_blk"][0] == {"name": "sma-0", "bdev": "st1n1c"}

    planned = world.converge(disk(encryption=SECRET, state="detached"), disk("vol01"))
    assert planned["nodes"] == {
        "ipu1": {
            "unplug": [{"physical_id": 0, "volume": uuid, "state": "absent"}],
            "crypto_absent": [{"name": "st1n1c", "key_file": "/k1/st1n1c.json", "state": "absent"}],
        },
        "host1": {"absent": ["st1n1c"]},
    }
    assert "crypto" not in world.kept["ipu1"]
    world.converge(disk(encryption={**SECRET, **OTHER}), disk("vol01"))
    world.converge(disk(encryption={**SECRET, **OTHER}, state="absent"), disk("vol01"), safe_mode=False)
    assert (world.crypto["ipu1"], "crypto" in world.kept["ipu1"]) == ({}, False)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (SECRET, None, "it is attached through ipu1 with encryption, and is wanted without."),
        (None, SECRET, "it is attached through ipu1 without encryption, and is wanted with it."),
        (SECRET, OTHER, "it is attached through ipu1 with another key, and is wanted with this one."),
    ],
)
def test_an_attached_disk_is_refused_another_key(before: Any, after: Any, reason: str) -> None:
    world = World(nodes(), keeps=True)
    world.converge(disk(encryption=before), disk("vol01"))
    planned = world.plan(disk(encryption=after), disk("vol01"))
    assert planned["steps"] == []
    (problem,) = planned["problems"]
    assert (problem["node"], problem["disk"]) == ("ipu1", "vol00")
    assert reason in problem["message"] and "Detach it first" in problem["message"]


def test_the_case_of_digits_and_the_way_of_writing_change_nothing() -> None:
    world = World(nodes(), keeps=True)
    world.converge(disk(encryption=SECRET))
    upper = {half: key.upper() for half, key in KEYS.items()}
    assert world.plan(disk(encryption=upper))["steps"] == []


def test_an_encrypted_bdev_without_a_device_is_made_what_it_has_to_be() -> None:
    world = World(nodes(), keeps=True)
    world.converge(disk(encryption=SECRET))
    world.devices["ipu1"].clear()  # the unplugging was the last thing that worked
    planned = world.converge(disk(encryption=OTHER))
    assert [step["stage"] for step in planned["steps"]] == ["crypto_absent", "crypto", "attach"]
    world.devices["ipu1"].clear()
    planned = world.converge(disk())
    assert [step["stage"] for step in planned["steps"]] == ["crypto_absent", "attach"]


def test_an_encrypted_disk_that_moves_leaves_no_key_behind() -> None:
    world = World(nodes(hosts=2), keeps=True)
    world.converge(disk(host="host1", encryption=SECRET, qos={"rw_iops": 1000}))
    assert world.kept["ipu1"]["qos"] == [{"name": "st1n1c", "rw_iops": 1000}]
    world.converge(disk(host="host2", encryption=SECRET, qos={"rw_iops": 1000}))
    assert world.crypto["ipu1"] == {}
    assert not {"crypto", "qos", "vhost_blk"} & set(world.kept["ipu1"])
    assert world.kept["ipu2"]["qos"] == [{"name": "st1n1c", "rw_iops": 1000}]


def test_an_encrypted_disk_that_is_off_the_list_is_purged_without_its_key() -> None:
    world = World(nodes(), keeps=True)
    world.converge(disk(encryption=SECRET), disk("vol01"))
    planned = world.converge(disk("vol01"), purge="detach")
    assert planned["summary"]["detach"] == 1
    assert world.crypto["ipu1"] == {}


def test_a_disk_that_does_not_come_off_keeps_its_key() -> None:
    world = World(nodes(), keeps=True)
    world.converge(disk(encryption=SECRET))
    planned = world.plan(disk(encryption=SECRET, state="detached"))
    left = after_unplug(planned, {"ipu1": []}, {})
    assert (left["stuck"], left["nodes"], left["declarations"]) == (["vol00"], {}, {})


def test_an_orphan_takes_its_key_along() -> None:
    world = World(nodes(), keeps=True)
    world.converge(disk(encryption=SECRET))
    world.unplugged["ipu1"] = {0}
    planned = world.plan()
    assert planned["nodes"]["ipu1"]["unplug"] == [{"physical_id": 0, "state": "absent"}]
    assert [item["name"] for item in planned["nodes"]["ipu1"]["crypto_absent"]] == ["st1n1c"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (KEYS["key"], "encryption: wanted a dictionary such as {cipher: AES_XTS, key: …, key2: …}, got a string."),
        ({**SECRET, "cipher": "AES_CBC"}, "AES_CBC is not in SPDK's software accel module, which has AES_XTS only."),
        ({**SECRET, "cipher": "DES"}, "encryption.cipher: wanted AES_XTS, got 'DES'."),
        ({**SECRET, "cipher": KEYS["key"]}, "encryption.cipher: wanted AES_XTS, got 32 characters (not shown)."),
        ({**SECRET, "keys": "x"}, "unknown key in encryption: 'keys'. Known: cipher, key, key2."),
        ({**SECRET, KEYS["key"]: ""}, "unknown key in encryption: 32 characters (not shown). Known:"),
        (
            {"key": KEYS["key"]},
            "encryption.key2: wanted 32 or 64 hexadecimal digits (AES-128 or AES-256), got nothing.",
        ),
        ({**SECRET, "key": KEYS["key"][1:]}, "(AES-128 or AES-256), got 31."),
        ({**SECRET, "key": KEYS["key"] * 2}, "encryption: key has 64 digits and key2 32, both want as many."),
        ({**SECRET, "key2": KEYS["key2"][:-1] + "g"}, "encryption.key2: wanted 32 or 64 hexadecimal digits"),
        ({**SECRET, "key": 112233445566778899}, "as text, got a value of another type: put it in quotes."),
        ({"key": KEYS["key"], "key2": KEYS["key"].upper()}, "key and key2 are the same, which is not secure"),
    ],
)
def test_what_is_no_key_is_said_without_showing_it(given: Any, message: str) -> None:
    with pytest.raises(validate.InvalidDisks) as refused:
        validate.validate([disk(encryption=given)], nodes())
    assert any(message in error for error in refused.value.errors), refused.value.errors
    for part in (KEYS["key"][:16], KEYS["key2"][:16], "112233445566778899"):
        assert part not in str(refused.value).lower()


def test_a_key_at_a_wrong_place_is_not_shown() -> None:
    with pytest.raises(validate.InvalidDisks) as refused:
        validate.validate([{**disk(), **SECRET}], nodes())
    assert KEYS["key"] not in str(refused.value)


def test_a_serial_of_the_longest_target_fits() -> None:
    name = virtual_disk.encrypted_name(virtual_disk.bdev_name("t" * 14, virtual_disk.MAX_NAMESPACES))
    assert len(name) == virtual_disk.SERIAL_LENGTH
