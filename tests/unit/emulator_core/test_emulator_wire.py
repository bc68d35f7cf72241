"""JSON-RPC on the socket: pipelining, batches, slow methods, big and broken requests."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import time

from emulator_node import Emulator, answers, ask

VERSION = {"jsonrpc": "2.0", "id": 1, "method": "spdk_get_version"}
SLOW = {"jsonrpc": "2.0", "id": "slow", "method": "bdev_get_bdevs", "params": {"name": "late", "timeout": 5000}}


def call(method: str, number: int, **params: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode()


def test_requests_may_follow_each_other_without_waiting(emulator: Emulator) -> None:
    with emulator.connect() as connection:
        connection.sendall(b"".join(json.dumps({**VERSION, "id": number}).encode() for number in range(200)))
        assert [answer["id"] for answer in answers(connection, 200)] == list(range(200))


def test_a_slow_method_holds_up_nobody(emulator: Emulator) -> None:
    with emulator.connect() as connection:
        connection.sendall(json.dumps(SLOW).encode() + json.dumps(VERSION).encode())
        assert answers(connection, 1)[0]["id"] == 1
        connection.sendall(call("bdev_null_create", 2, name="late", num_blocks=8, block_size=512))
        assert {answer["id"] for answer in answers(connection, 2)} == {2, "slow"}
        assert ask(connection, call("bdev_null_delete", 3, name="late"))["result"] is True


def test_an_answer_is_still_sent_to_a_client_that_has_finished_sending(emulator: Emulator) -> None:
    with emulator.connect() as connection:
        connection.sendall(json.dumps({**SLOW, "params": {"name": "never", "timeout": 50}}).encode())
        connection.shutdown(socket.SHUT_WR)
        assert answers(connection, 1)[0]["error"]["message"] == "Connection timed out"
        assert connection.recv(1) == b""


def test_a_client_that_goes_away_in_the_middle_is_no_trouble(emulator: Emulator) -> None:
    for request in (json.dumps(SLOW).encode(), b'{"jsonrpc":', b""):
        emulator.connect().close()
        with emulator.connect() as connection:
            connection.sendall(request)
    assert emulator.call("spdk_get_version")


def test_a_batch_is_answered_as_one_when_all_of_it_is_done(emulator: Emulator) -> None:
    batch = [
        SLOW,
        VERSION,
        {"method": "log_get_level"},
        5,
        json.loads(call("bdev_null_create", 2, name="late", num_blocks=8, block_size=512)),
    ]
    with emulator.connect() as connection:
        slow, version, invalid, created = ask(connection, json.dumps(batch).encode())
        assert slow["result"][0]["name"] == "late"
        assert version["result"]["version"].startswith("SPDK")
        assert invalid == {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "Invalid request"}}
        assert created["result"] == "late"
        assert ask(connection, call("bdev_null_delete", 3, name="late"))["result"] is True


def test_a_big_request_is_taken_and_a_bigger_one_is_not(emulator: Emulator) -> None:
    with emulator.connect() as connection:
        assert ask(connection, call("bdev_get_bdevs", 1, name="x" * 200_000))["error"]["message"] == "No such device"
    # It hangs up in the middle of the request; where there was more to read, the kernel calls that a reset.
    with emulator.connect() as connection, contextlib.suppress(ConnectionError):
        connection.sendall(call("bdev_get_bdevs", 1, name="x" * 300_000))
        assert connection.recv(1) == b""
    assert emulator.call("spdk_get_version")


def test_a_result_that_is_bigger_than_the_sockets_buffer_arrives(emulator: Emulator) -> None:
    names = [f"n{number}" for number in range(1000)]
    with emulator.connect() as connection:
        for request in (
            [json.loads(call("bdev_null_create", 1, name=name, num_blocks=8, block_size=512)) for name in names],
            [json.loads(call("bdev_null_delete", 1, name=name)) for name in names],
        ):
            for start in range(0, len(request), 100):
                assert all(
                    "result" in answer for answer in ask(connection, json.dumps(request[start : start + 100]).encode())
                )
            listed = ask(connection, json.dumps({**VERSION, "method": "bdev_get_bdevs"}).encode())["result"]
            assert [bdev["name"] for bdev in listed] in (names, [])


def test_broken_json_on_some_connections_disturbs_no_other(emulator: Emulator) -> None:
    """Random, mutated and truncated requests; between them somebody else is answered, quickly."""
    chance = random.Random(20260523)
    whole = call("bdev_get_bdevs", 1, name="nope", timeout=0)
    slowest = 0.0
    with emulator.connect() as good:
        for _unused in range(400):
            request = bytearray(whole)
            for _unused in range(chance.randrange(6)):
                request[chance.randrange(len(request))] = chance.choice(b'{}[]":,\\0-9eE.tfn \x00\xff\xc3')
            request = bytearray(chance.randbytes(40)) if chance.random() < 0.2 else request
            with emulator.connect() as bad:
                bad.sendall(request[: chance.randrange(len(request) + 1)])
                began = time.monotonic()
                assert ask(good, json.dumps(VERSION).encode())["result"]
                slowest = max(slowest, time.monotonic() - began)
    assert slowest < 2
    assert emulator.process.poll() is None
