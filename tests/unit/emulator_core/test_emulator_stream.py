"""JSON values are found in a stream, however it is cut, and what cannot become JSON is refused at once."""

from __future__ import annotations

import json

import pytest
from spdk_emulator.jsonrpc.stream import MAX_BYTES, ParseError, Splitter

VALUES = [
    {"jsonrpc": "2.0", "id": -1.5e3, "method": 'a"\\é\n', "params": {"a": [1, [], {}, None, True, False, "}]"]}},
    [],
    [{"x": 0}],
    "text",
    {},
]
STREAM = " \n".join(json.dumps(value) for value in VALUES).encode()


def test_values_are_found_wherever_the_stream_is_cut() -> None:
    for cut in range(len(STREAM)):
        splitter = Splitter()
        assert splitter.feed(STREAM[:cut]) + splitter.feed(STREAM[cut:]) == VALUES


def test_values_are_found_byte_by_byte() -> None:
    splitter = Splitter()
    assert [value for byte in STREAM for value in splitter.feed(bytes([byte]))] == VALUES


@pytest.mark.parametrize(
    "garbage",
    [
        b"garbage", b"{garbage", b"{1:2}", b"[1,]", b"{,}", b'{"a" 1}', b'{"a":}', b"[1 2]", b"]", b"[}", b"{]",
        b'{"a":1,}', b"'a'", b"[01]", b"[1.]", b"[.5]", b"[+1]", b"[tru ", b"[nulL", b'["\x01"]', b'["\\x"]',
        b'["\\ud800"]', b'["\xff"]', b"[" * 65, b"[NaN]", b"[Infinity]", b"[" + b"0," * 9000, b"\xff\xfe{}",
    ],
)  # fmt: skip
def test_garbage_is_refused_without_waiting_for_more(garbage: bytes) -> None:
    with pytest.raises(ParseError):
        Splitter().feed(garbage)


@pytest.mark.parametrize(
    "beginning", [b"", b" ", b"{", b'{"a', b'{"a\\', b'{"a\\u12', b"[-", b"[1", b"[1.", b"[1e", b"[1e+", b"[tru", b"[n"]
)
def test_a_beginning_is_waited_for(beginning: bytes) -> None:
    assert Splitter().feed(beginning) == []


def test_a_request_that_never_ends_is_refused_at_the_limit() -> None:
    splitter = Splitter()
    assert splitter.feed(b'["' + b"x" * (MAX_BYTES - 10)) == []
    with pytest.raises(ParseError):
        splitter.feed(b"x" * 20)
