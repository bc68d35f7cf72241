"""Every mistake in a declaration gets one clear error, before anybody looks at a node."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.plugin_utils import validate, virtual_disk
from world import disk, nodes

TWO = nodes(targets=2, hosts=2)

BAD_ITEMS: list[tuple[str, Any, str]] = [
    ("no dictionary", "vol00", r"virtual_disks\[0\]: wanted a dictionary with name, size and backing, got a string"),
    ("unknown key", disk(sise="1MiB"), r"virtual_disks\[0\] \('vol00'\): unknown key 'sise'\. Did you mean 'size'\?"),
    ("unknown key, no idea", disk(zzz=1), r"unknown key 'zzz'\. Known: name, size,"),
    ("key that is no string", {**disk(), 5: 1}, r"unknown key 5\."),
    ("no name", {key: value for key, value in disk().items() if key != "name"}, r"virtual_disks\[0\]: name is missing"),
    ("name a number", disk(7), r"name: wanted a string, got a number"),
    ("name with a slash", disk("a/b"), r"name: wanted 1 to 31 characters .* got 'a/b'"),
    ("name with dots", disk("a..b"), r"without '\.\.'.* got 'a\.\.b'"),
    ("name that leaves", disk("../x"), r"name: .* got '\.\./x'"),
    ("name with a space", disk("a b"), r"name: .* got 'a b'"),
    ("name with a newline", disk("vol\n"), r"name: .* got 'vol\\n'"),
    ("name empty", disk(""), r"name: .* got ''"),
    ("name in capitals", disk("Vol"), r"name: .* got 'Vol'"),
    ("name too long", disk("a" * 32), r"name: wanted 1 to 31"),
    ("no size", disk(size=None), r"size: wanted bytes, or a number with KiB, MiB, GiB or TiB \(64MiB\), got nothing"),
    ("size in decimal units", disk(size="64MB"), r"size: wanted bytes, .* got '64MB'"),
    ("size with a fraction", disk(size="1.5GiB"), r"size: wanted bytes, .* got '1\.5GiB'"),
    ("size a float", disk(size=1048576.0), r"size: wanted bytes, .* got 1048576\.0"),
    ("size a boolean", disk(size=True), r"size: wanted bytes, .* got True"),
    ("size negative", disk(size=-512), r"size: wanted more than 0 bytes, got -512"),
    ("size zero", disk(size="0MiB"), r"size: wanted more than 0 bytes, got '0MiB'"),
    ("size no multiple", disk(size=1000), r"size: 1000 bytes is no multiple of the block size 512; .* 512 and 1024"),
    (
        "size no multiple of 4096",
        disk(size=4608, backing={"type": "malloc", "block_size": 4096}),
        r"no multiple of the block size 4096; the nearest are 4096 and 8192",
    ),
    ("no backing", disk(backing=None), r"backing: wanted a dictionary such as \{type: malloc.* got nothing"),
    ("backing a string", disk(backing="malloc"), r"backing: wanted a dictionary .* got a string"),
    ("backing without type", disk(backing={}), r"type is missing: wanted one of malloc, aio, null"),
    ("unknown backing", disk(backing={"type": "zfs"}), r"type: wanted one of malloc, aio, null, lvol, got 'zfs'"),
    (
        "typo in backing",
        disk(backing={"type": "null", "blocksize": 512}),
        r"key in backing: 'blocksize'\. Did you mean 'block_size'",
    ),
    (
        "block size",
        disk(backing={"type": "null", "block_size": 520}),
        r"block_size: wanted 512, 4096 \(bytes\), got 520",
    ),
    ("block size a string", disk(backing={"type": "null", "block_size": "512"}), r"block_size: wanted .* got '512'"),
    (
        "directory for malloc",
        disk(backing={"type": "malloc", "directory": "/x"}),
        r"directory is for type aio, not for malloc",
    ),
    (
        "relative directory",
        disk(backing={"type": "aio", "directory": "x"}),
        r"directory: wanted an absolute path .* got 'x'",
    ),
    (
        "directory that leaves",
        disk(backing={"type": "aio", "directory": "/a/../b"}),
        r"directory: wanted an absolute path",
    ),
    (
        "directory with newline",
        disk(backing={"type": "aio", "directory": "/a\n"}),
        r"directory: wanted an absolute path",
    ),
    ("interface nvme", disk(interface="nvme"), r"ipu1 shows no NVMe disks: .* \(ipu_nvme\)"),
    ("interface", disk(interface="scsi"), r"interface: wanted one of virtio-blk, nvme, got 'scsi'"),
    ("state", disk(state="present"), r"state: wanted one of attached, detached, absent, got 'present'"),
    ("state a list", disk(state=["attached"]), r"state: wanted one of attached, detached, absent, got \['attached'\]"),
    ("physical id a string", disk(physical_id="0"), r"physical_id: wanted a whole number, got a string '0'"),
    ("physical id a boolean", disk(physical_id=True), r"physical_id: wanted a whole number, got a boolean"),
    ("physical id too high", disk(physical_id=64), r"physical_id: ipu1 has slots 0 to 63 .* got 64"),
    ("physical id negative", disk(physical_id=-1), r"physical_id: ipu1 has slots 0 to 63 .* got -1"),
    (
        "unknown target",
        disk(target="st9"),
        r"target: 'st9' is not in the group storage_targets \(st1\)\. Did you mean 'st1'",
    ),
    (
        "unknown host",
        disk(host="hosd1"),
        r"host: 'hosd1' is not in the group ipu_hosts \(host1\)\. Did you mean 'host1'",
    ),
    ("host a list", disk(host=["host1"]), r"host: wanted the name of a host, got a list"),
    ("absent in safe mode", disk(state="absent"), r"'vol00'\): state absent destroys data, and ipdk_safe_mode is true"),
]


def errors(disks: Any, inventory: dict[str, Any] | None = None, **options: Any) -> list[str]:
    with pytest.raises(validate.InvalidDisks) as caught:
        validate.validate(disks, inventory or nodes(), options)
    return caught.value.errors


@pytest.mark.parametrize(("item", "message"), [row[1:] for row in BAD_ITEMS], ids=[row[0] for row in BAD_ITEMS])
def test_a_bad_item_gets_one_error_that_names_it(item: Any, message: str) -> None:
    found = errors([item])
    assert len(found) == 1, found
    assert found[0].startswith("virtual_disks[0]")
    assert re.search(message, found[0]), found[0]
    assert "\n" not in found[0]


@pytest.mark.parametrize("given", [None, "vol00", {"name": "vol00"}, 3])
def test_the_list_is_a_list(given: Any) -> None:
    assert re.fullmatch(r"virtual_disks: wanted a list of disks, got .*\.", errors(given)[0])


def test_all_mistakes_are_named_at_once() -> None:
    found = errors([disk("a/b"), disk("ok"), disk("vol01", size="x")])
    assert [message.split(" ")[0] for message in found] == ["virtual_disks[0]", "virtual_disks[2]"]


def test_two_of_one_name() -> None:
    found = errors([disk("a"), disk("b"), disk("a")])
    assert found == ["virtual_disks[0] and virtual_disks[2] are both called 'a': rename one."]


def test_two_at_one_physical_id_on_one_ipu() -> None:
    found = errors([disk("a", physical_id=3), disk("b"), disk("c", physical_id=3, host="host1")])
    assert len(found) == 1
    assert re.match(
        r"virtual_disks\[0\] \('a'\) and virtual_disks\[2\] \('c'\) both want physical_id 3 on ipu1", found[0]
    )


def test_one_physical_id_on_two_ipus_is_fine() -> None:
    disks = [disk("a", physical_id=3, host="host1", target="st1"), disk("b", physical_id=3, host="host2", target="st1")]
    assert [valid.ipu for valid in validate.validate(disks, TWO)] == ["ipu1", "ipu2"]


def test_more_disks_than_slots() -> None:
    found = errors([disk(f"v{n}") for n in range(5)], nodes(slots=4))
    assert found == [
        "virtual_disks: 5 disks are to be attached through ipu1, which has 4 slots (ipu_max_virtual_disks). "
        "Raise it and deploy the IPU again, or detach some."
    ]
    detached = [disk(f"v{n}", state="detached" if n == 0 else "attached") for n in range(5)]
    assert len(validate.validate(detached, nodes(slots=4))) == 5


def test_more_volumes_than_namespaces() -> None:
    count = virtual_disk.MAX_NAMESPACES + 1
    found = errors([disk(f"v{n}", state="detached") for n in range(count)], nodes(slots=4))
    assert found == [f"virtual_disks: {count} disks from st1 through ipu1; one subsystem carries 1024 at most."]


def test_target_and_host_may_be_left_out_only_where_there_is_one() -> None:
    found = errors([disk()], TWO)
    assert found == [
        "virtual_disks[0] ('vol00'): target may be left out only where there is exactly one storage target; there "
        "are 2 (st1, st2).",
        "virtual_disks[0] ('vol00'): host may be left out only where there is exactly one host; there "
        "are 2 (host1, host2).",
    ]
    assert "the group storage_targets is empty" in errors([disk()], {**nodes(), "targets": {}})[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hosts": {"host1": {"access": "ssh"}}}, r"host 'host1' has no IPU: set host_ipu to one of ipu1\."),
        ({"hosts": {"host1": {"ipu": "ipu7"}}}, r"host_ipu is 'ipu7', which is not in the group ipus \(ipu1\)"),
        (
            {"hosts": {"host1": {"ipu": "ipu1", "access": "telnet"}}},
            r"ipdk_host_access: wanted one of ssh, none, got 'telnet'",
        ),
        (
            {"targets": {"st1": {"address": None, "port": 4420}}},
            r"target 'st1' has no storage_target_address in the inventory",
        ),
        (
            {"targets": {"storage-target-1": {"address": "198.18.0.1", "port": 4420}}},
            r"wanted a name of at most 14 .*, which has 16\.",
        ),
        ({"targets": {"a b": {"address": "198.18.0.1", "port": 4420}}}, r"target: the serial of a disk .* got 'a b'"),
        (
            {"ipus": {"i u": {"host_nqn": "x", "max_disks": 4}}, "hosts": {"host1": {"ipu": "i u"}}},
            r"IPU 'i u': the name becomes part of an NQN",
        ),
    ],
)
def test_an_inventory_that_cannot_carry_the_disk(change: dict[str, Any], message: str) -> None:
    found = errors([disk()], {**nodes(), **change})
    assert len(found) == 1
    assert re.search(message, found[0]), found[0]


def test_one_ipu_behind_two_hosts() -> None:
    inventory = nodes(hosts=2)
    inventory["hosts"]["host2"]["ipu"] = "ipu1"
    found = errors([disk(host="host2")], inventory)
    assert len(found) == 1
    assert "IPU 'ipu1' stands behind several hosts (host1, host2)" in found[0]


def test_aio_wants_a_directory() -> None:
    inventory = nodes()
    del inventory["targets"]["st1"]["volumes_dir"]
    assert errors([disk(backing={"type": "aio"})], inventory) == [
        "virtual_disks[0] ('vol00'): backing aio wants a directory on st1: set backing.directory."
    ]


def test_defaults() -> None:
    (valid,) = validate.validate([{"name": "v", "size": 512, "backing": {"type": "null"}}], nodes())
    assert (valid.target, valid.host, valid.ipu, valid.block_size) == ("st1", "host1", "ipu1", 512)
    assert (valid.state, valid.physical_id, valid.filename) == ("attached", None, None)


def test_an_aio_volume_is_a_file_named_after_the_disk() -> None:
    items = [disk("a", backing={"type": "aio"}), disk("b", backing={"type": "aio", "directory": "/srv/vol"})]
    assert [valid.filename for valid in validate.validate(items, nodes())] == [
        "/var/lib/ipdk/st1/volumes/a.img",
        "/srv/vol/b.img",
    ]


@pytest.mark.parametrize(
    ("given", "size"),
    [
        (512, 512),
        ("512", 512),
        ("1024B", 1024),
        ("1KiB", 1024),
        ("64MiB", 64 << 20),
        ("2 GiB", 2 << 30),
        ("1TiB", 1 << 40),
    ],
)
def test_sizes(given: Any, size: int) -> None:
    assert validate.validate([disk(size=given)], nodes())[0].size == size


def test_one_state_for_all() -> None:
    disks = [disk("a"), disk("b", state="absent")]
    assert {valid.state for valid in validate.validate(disks, nodes(), {"state": "detached"})} == {"detached"}
    assert errors(disks, state="absent") == [
        "virtual_disks_state: absent destroys data, and ipdk_safe_mode is true. Set ipdk_safe_mode: false to allow it, "
        "or use detached to keep the data."
    ]
    assert errors(disks, state="gone", safe_mode=False) == [
        "virtual_disks_state: wanted one of attached, detached, absent, got 'gone'."
    ]
    valid = validate.validate(disks, nodes(), {"state": "absent", "safe_mode": False})
    assert {item.state for item in valid} == {"absent"}


def test_names_are_those_of_the_architecture() -> None:
    (valid,) = validate.validate([disk()], nodes())
    assert valid.uuid == virtual_disk.volume_uuid("vol00", "st1") == "47d87672-66b1-551c-9cb7-a5dfe2961466"
    assert valid.nqn == "nqn.2022-06.io.ipdk:st1:ipu1"
    assert len(virtual_disk.subsystem_serial(valid.nqn)) == 20
