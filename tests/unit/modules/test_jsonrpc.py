"""The client against servers that do what real ones sometimes do."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import (
    WINDOW_BYTES,
    WINDOW_CALLS,
    Client,
    ConnectionFailed,
    Exists,
    InUse,
    NotFound,
    RpcError,
    Timeout,
    Unsupported,
    parse_address,
)
from scripted import Peer, serving


def numbered(count: int, size: int = 0) -> list[tuple[str, dict[str, object]]]:
    return [("echo", {"name": f"n{i}", "pad": "x" * size}) for i in range(count)]


def test_answers_are_matched_by_id_whatever_their_order(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        for request in reversed(peer.requests(20)):
            peer.answer(request, request["params"]["name"])

    with serving(tmp_path / "s", script) as address, Client(address) as client:
        assert client.pipeline(numbered(20)) == [f"n{i}" for i in range(20)]
        assert client.calls == 20


def test_errors_are_typed_and_name_the_method_and_the_object(tmp_path: Path) -> None:
    errors = [
        (-17, "File exists", Exists),
        (-114, "A controller named c1 already exists with the specified network path", Exists),
        (-32603, "Transport type 'TCP' already exists", Exists),
        (-19, "No such device", NotFound),
        (-22, "Controller nope does not exist", NotFound),
        (-16, "Device or resource busy", InUse),
        (-32601, "Method not found", Unsupported),
        (-32602, "Invalid parameters", RpcError),
    ]

    def script(peer: Peer) -> None:
        for request, (code, message, _kind) in zip(peer.requests(len(errors)), errors):
            peer.refuse(request, code, message)

    with serving(tmp_path / "s", script) as address, Client(address) as client:
        answers = client.pipeline(numbered(len(errors)))
    assert [type(answer) for answer in answers] == [kind for _code, _message, kind in errors]
    assert str(answers[0]) == "echo (name n0): File exists (code -17)"


def test_key_material_is_in_no_error(tmp_path: Path) -> None:
    params = {"name": "k", "key": "5ec2e7", "nested": [{"psk": "al50 5ec2e7"}]}

    def script(peer: Peer) -> None:
        (request,) = peer.requests(1)
        assert request["params"] == params
        peer.refuse(request, -22, "bad key 5ec2e7 for k")

    with serving(tmp_path / "s", script) as address, Client(address) as client, pytest.raises(RpcError) as caught:
        client.call("accel_crypto_key_create", params)
    text = f"{caught.value} {caught.value!r} {vars(caught.value)}"
    assert "5ec2e7" not in text
    assert "(name k)" in text


def test_it_does_not_run_further_ahead_than_the_smallest_buffer(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        received = b""
        peer.connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            while True:
                received += peer.connection.recv(65536)
        assert len(received) <= WINDOW_BYTES
        peer._text = received.decode()
        peer.connection.settimeout(None)
        for _number in range(200):
            (request,) = peer.requests(1)
            peer.answer(request)

    with serving(tmp_path / "s", script) as address, Client(address) as client:
        assert client.pipeline(numbered(200, size=500)) == [True] * 200


def test_it_does_not_have_more_calls_open_than_the_window(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        first = peer.requests(WINDOW_CALLS)
        peer.connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            peer.requests(1)
        peer.connection.settimeout(None)
        for request in first:
            peer.answer(request)
        for request in peer.requests(6):
            peer.answer(request)

    with serving(tmp_path / "s", script) as address, Client(address) as client:
        assert client.pipeline(numbered(WINDOW_CALLS + 6)) == [True] * (WINDOW_CALLS + 6)


def test_a_request_larger_than_any_buffer_does_not_deadlock(tmp_path: Path) -> None:
    """Requests and answers are far larger than the sockets' buffers, so that each side has to read while it writes."""

    def script(peer: Peer) -> None:
        peer.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        for _number in range(3):
            (request,) = peer.requests(1)
            peer.answer(request, request["params"]["pad"])

    with serving(tmp_path / "s", script) as address, Client(address) as client:
        answers = client.pipeline(numbered(3, size=1_000_000))
    assert [len(answer) for answer in answers] == [1_000_000] * 3


def test_an_answer_in_pieces_with_braces_at_their_ends(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        (request,) = peer.requests(1)
        text = f'{{"jsonrpc":"2.0","id":{request["id"]},"result":[{{"a":{{}}}},{{"ü":"}}"}}]}}\n'
        for byte in text.encode():
            peer.connection.sendall(bytes([byte]))

    with serving(tmp_path / "s", script) as address, Client(address) as client:
        assert client.call("x") == [{"a": {}}, {"ü": "}"}]


def test_a_connection_that_breaks_says_which_calls_have_no_answer(tmp_path: Path) -> None:
    def first(peer: Peer) -> None:
        peer.answer(peer.requests(3)[1])

    def second(peer: Peer) -> None:
        peer.answer(peer.requests(1)[0], "back")

    with serving(tmp_path / "s", first, second) as address, Client(address) as client:
        answers = client.pipeline(numbered(3))
        assert answers[1] is True
        assert [type(answer) for answer in answers] == [ConnectionFailed, bool, ConnectionFailed]
        assert address in str(answers[0]) and "echo" in str(answers[0])
        assert client.call("again") == "back"


def test_a_server_that_does_not_answer_is_left_in_time(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.answer(peer.requests(2)[0])
        peer.connection.recv(1)  # until the client goes

    with serving(tmp_path / "s", script) as address, Client(address, timeout=0.2) as client:
        begin = time.monotonic()
        answers = client.pipeline(numbered(2))
        assert 0.1 < time.monotonic() - begin < 5
    assert answers[0] is True
    assert isinstance(answers[1], Timeout)
    assert "0.2 s" in str(answers[1]) and address in str(answers[1])


def test_each_answer_gives_the_next_one_time(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        for request in peer.requests(4):
            time.sleep(0.15)  # the pace is what is tested: four of these are more than one timeout
            peer.answer(request)

    with serving(tmp_path / "s", script) as address, Client(address, timeout=0.4) as client:
        assert client.pipeline(numbered(4)) == [True] * 4


@pytest.mark.parametrize(
    "nonsense", [b"garbage\n}", b'{"jsonrpc":"2.0","id":99,"result":1}\n', b'{"id":null,"error":{}}']
)
def test_nonsense_is_no_answer(tmp_path: Path, nonsense: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.requests(1)
        peer.connection.sendall(nonsense)

    with serving(tmp_path / "s", script) as address, Client(address) as client, pytest.raises(ConnectionFailed):
        client.call("x")


def test_no_socket_and_nobody_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with pytest.raises(ConnectionFailed, match=f"{path}: No such file or directory \\(ENOENT\\): .*is SPDK running"):
        Client(str(path)).call("x")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        with pytest.raises(ConnectionFailed, match="ECONNREFUSED"):
            Client(str(path)).call("x")


def test_host_and_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with Client(f"127.0.0.1:{port}", timeout=0.1) as client, pytest.raises(Timeout):
            client.call("x")
    with pytest.raises(ConnectionFailed, match=f"127.0.0.1:{port}"):
        Client(f"127.0.0.1:{port}").connect()


@pytest.mark.parametrize("address", ["", "spdk.sock", "host:", "host:0", "host:99999", ":1", "/" + "x" * 108])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ValueError):
        parse_address(address)
