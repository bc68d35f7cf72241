"""DH-HMAC-CHAP between our two sides: who knows the keys gets in, nobody else."""

from __future__ import annotations

import base64
import random
import zlib
from collections.abc import Sequence

import pytest
from spdk_emulator.nvme_tcp.auth import (
    GROUPS,
    HASHES,
    AuthError,
    Controller,
    Host,
    Names,
    Secret,
    parse_secret,
    prime,
)

ALL_HASHES, ALL_GROUPS = tuple(HASHES.values()), tuple(GROUPS.values())
HOST_NQN, SUBSYSTEM_NQN = "nqn.2016-06.io.spdk:host", "nqn.2016-06.io.spdk:s1"
KEY, OTHER = Secret(0, bytes(range(32))), Secret(2, bytes(range(48)))


def names(host: Secret = KEY, controller: Secret | None = None) -> Names:
    return Names(HOST_NQN, SUBSYSTEM_NQN, host, controller)


def controller(known: Names, hashes: Sequence[str] = ALL_HASHES, groups: Sequence[str] = ALL_GROUPS) -> Controller:
    return Controller(lambda: known, list(hashes), list(groups))


def run(side: Controller, host: Host) -> None:
    """The whole conversation; raises AuthError if the host refuses."""
    side.send(host.negotiate())
    side.send(host.reply(side.receive()))
    last = host.finish(side.receive())
    if last is not None:
        side.send(last)


@pytest.mark.parametrize("hash_name", ALL_HASHES)
@pytest.mark.parametrize("group", ["null", "ffdhe2048", "ffdhe3072"])
@pytest.mark.parametrize("own", [None, OTHER])
def test_both_sides_come_to_terms(hash_name: str, group: str, own: Secret | None) -> None:
    side = controller(names(KEY, own), [hash_name], [group])
    run(side, Host(names(KEY, own), ALL_HASHES, ALL_GROUPS))
    assert side.completed
    assert (HASHES[side.hash_id], GROUPS[side.group]) == (hash_name, group)


def test_the_strongest_hash_is_taken_and_a_group_of_bearable_size() -> None:
    side = controller(names())
    run(side, Host(names(), ALL_HASHES, ALL_GROUPS))
    assert (HASHES[side.hash_id], GROUPS[side.group]) == ("sha512", "ffdhe3072")


@pytest.mark.parametrize(
    ("known", "claimed"),
    [
        (names(KEY), names(OTHER)),
        (names(Secret(0, OTHER.key)), names(OTHER)),
        (names(KEY, OTHER), names(KEY, KEY)),
        (names(KEY, None), names(KEY, OTHER)),
        (names(KEY), Names(HOST_NQN, "nqn.2016-06.io.spdk:s2", KEY)),
        (names(KEY), Names("nqn.2016-06.io.spdk:other", SUBSYSTEM_NQN, KEY)),
    ],
)
def test_who_does_not_know_the_keys_is_refused(known: Names, claimed: Names) -> None:
    side = controller(known, groups=["null"])
    with pytest.raises(AuthError):
        run(side, Host(claimed, ALL_HASHES, ALL_GROUPS))
    assert not side.completed


def test_nothing_in_common_is_no_agreement() -> None:
    for hashes, groups in ((["sha256"], ALL_GROUPS), (ALL_HASHES, ["null"])):
        with pytest.raises(AuthError):
            run(controller(names(), ["sha512"], ["ffdhe2048"]), Host(names(), hashes, groups))


def test_keys_that_cannot_be_read_let_nobody_in() -> None:
    def gone() -> Names:
        raise OSError(2, "No such file or directory")

    side = Controller(gone, ALL_HASHES, ["null"])
    with pytest.raises(AuthError):
        run(side, Host(names(), ALL_HASHES, ALL_GROUPS))
    assert side.state == "failure1"


def test_no_changed_or_random_message_gets_a_stranger_in() -> None:
    chance = random.Random(4)
    for _unused in range(300):
        side = controller(names(), groups=["null"])
        host = Host(names(OTHER), ALL_HASHES, ALL_GROUPS)
        side.send(host.negotiate())
        message = bytearray(host.reply(side.receive()))
        for _unused in range(chance.randint(1, 4)):
            message[chance.randrange(len(message))] = chance.randrange(256)
        side.send(bytes(message[: chance.randint(0, len(message))]))
        side.receive()
        side.send(chance.randbytes(chance.randint(0, 40)))
        side.send(b"\x01\x04\x00\x00\x01\x00" + bytes(10))
        assert not side.completed


@pytest.mark.parametrize("value", [0, 1, -1])
def test_degenerate_public_values_are_refused(value: int) -> None:
    side = controller(names(), groups=["ffdhe2048"])
    host = Host(names(), ALL_HASHES, ALL_GROUPS)
    side.send(host.negotiate())
    message = host.reply(side.receive())
    side.send(message[:-256] + (value % prime(1)).to_bytes(256, "big"))
    assert side.state == "failure1"


def test_the_primes_are_those_of_the_groups() -> None:
    for group, bits in ((1, 2048), (2, 3072), (3, 4096), (4, 6144), (5, 8192)):
        value = prime(group)
        assert value.bit_length() == bits
        assert hex(value).startswith("0xffffffffffffffffadf85458a2bb4a9aafdc5620")
        assert hex(value).endswith("ffffffffffffffff")
    assert pow(2, prime(1) - 1, prime(1)) == 1
    assert pow(2, (prime(1) - 1) // 2 - 1, (prime(1) - 1) // 2) == 1


def encoded(key: bytes, hash_id: str = "00", checksum: int | None = None) -> bytes:
    crc = zlib.crc32(key) if checksum is None else checksum
    return f"DHHC-1:{hash_id}:{base64.b64encode(key + crc.to_bytes(4, 'little')).decode()}:\n".encode()


def test_keys_are_read_and_bound_to_their_owner() -> None:
    assert parse_secret(encoded(KEY.key)) == KEY
    assert parse_secret(encoded(OTHER.key, "02")) == OTHER
    assert KEY.bound_to(HOST_NQN) == KEY.key
    assert OTHER.bound_to(HOST_NQN) != OTHER.bound_to(SUBSYSTEM_NQN)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"secret",
        b"DHHC-1:00:secret:",
        encoded(b"short"),
        encoded(KEY.key, "04"),
        encoded(KEY.key, checksum=1),
        encoded(KEY.key).replace(b"DHHC-1", b"DHHC-2"),
    ],
)
def test_what_is_no_key_is_refused_without_being_shown(text: bytes) -> None:
    with pytest.raises(ValueError, match="DH-HMAC-CHAP") as caught:
        parse_secret(text)
    assert caught.value.__cause__ is None
    assert b"secret" not in str(caught.value).encode()
