"""Parameters are decoded as strictly as SPDK does."""

from __future__ import annotations

from typing import Any

import pytest
from spdk_emulator.jsonrpc.params import (
    Object,
    array,
    boolean,
    decode_object,
    enum,
    int32,
    obj,
    string,
    uint8,
    uint32,
    uint64,
    uuid,
)
from spdk_emulator.jsonrpc.registry import Param


@pytest.mark.parametrize(
    ("kind", "value", "decoded"),
    [
        (uint32, 8.0, 8),
        (uint64, 1e1, 10),
        (uint64, 2**64 - 1, 2**64 - 1),
        (int32, -(2**31), -(2**31)),
        (enum("a", "b"), "b", "b"),
        (array(str), ["a"], ["a"]),
        (obj({"a": Param(int)}), {}, {"a": None}),
    ],
)
def test_what_is_taken(kind: Any, value: Any, decoded: Any) -> None:
    assert kind(value) == decoded


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (uint8, 256), (uint32, -1), (uint32, 2**32), (uint32, 1.5), (uint32, "1"), (uint32, True), (uint32, None),
        (uint64, 2**64), (int32, 2**31), (boolean, 1), (boolean, "true"), (string, 1), (string, "a\0b"), (string, None),
        (uuid, "00000000000040008000000000000001"), (uuid, "xyz"), (uuid, "0000000g-0000-4000-8000-000000000001"),
        (enum("a"), "A"), (enum("a"), ["a"]), (array(str), "a"), (array(str, 1), ["a", "b"]), (array(str), [1]),
        (obj({"a": Param(int)}), {"b": 1}), (obj({"a": Param(int, required=True)}), {}), (obj({}), []),
    ],
)  # fmt: skip
def test_what_is_refused(kind: Any, value: Any) -> None:
    with pytest.raises(ValueError, match="."):
        kind(value)


def test_a_refusal_names_the_parameter_and_never_its_value() -> None:
    with pytest.raises(ValueError, match="key: no string") as refused:
        decode_object({"key": Param(string)}, {"key": ["secret"]})
    assert "secret" not in str(refused.value)


def test_a_repeated_key_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        decode_object({"a": Param(int)}, Object.from_pairs([("a", 1), ("a", 1)]))
