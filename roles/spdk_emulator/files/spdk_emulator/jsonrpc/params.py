"""Decoders of parameters: as strict as SPDK's, which never converts a string to a number or a number to a boolean.

A decoder is a callable that takes what ``json`` parsed and returns the decoded value or raises ``ValueError``, whose
message never tells the value: it may be a secret.
"""

from __future__ import annotations

import uuid as uuid_module
from collections.abc import Callable
from typing import Any

from .registry import Method, Param

Decoder = Callable[[Any], Any]


class Object(dict[str, Any]):
    """A parsed JSON object that remembers whether a key came twice (SPDK refuses that where it decodes parameters)."""

    repeated = False

    @classmethod
    def from_pairs(cls, pairs: list[tuple[str, Any]]) -> Object:
        made = cls(pairs)
        made.repeated = len(made) != len(pairs)
        return made


def _integer(value: Any, low: int, high: int) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"no integer from {low} to {high}")
    return value


def uint8(value: Any) -> int:
    return _integer(value, 0, 2**8 - 1)


def uint16(value: Any) -> int:
    return _integer(value, 0, 2**16 - 1)


def uint32(value: Any) -> int:
    return _integer(value, 0, 2**32 - 1)


def uint64(value: Any) -> int:
    return _integer(value, 0, 2**64 - 1)


def int32(value: Any) -> int:
    return _integer(value, -(2**31), 2**31 - 1)


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("no boolean")
    return value


def string(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("no string")
    return value


def uuid(value: Any) -> uuid_module.UUID:
    """A UUID in its usual notation. The nil UUID counts as none given, as in SPDK: callers get ``UUID(int=0)``."""
    text = string(value)
    if len(text) != 36:
        raise ValueError("no UUID")
    try:
        return uuid_module.UUID(text)
    except ValueError:
        raise ValueError("no UUID") from None


def enum(*allowed: str) -> Decoder:
    """One of the given strings."""

    def decode(value: Any) -> str:
        if value not in allowed or not isinstance(value, str):
            raise ValueError(f"none of {', '.join(allowed)}")
        return value

    return decode


def array(kind: Any, most: int = 2**32) -> Decoder:
    """A list with at most ``most`` items of one kind."""
    decode_item = decoder(kind)

    def decode(value: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) > most:
            raise ValueError(f"no array of at most {most} items")
        return [decode_item(item) for item in value]

    return decode


def obj(params: dict[str, Param], relaxed: bool = False) -> Decoder:
    """A nested object; the result is a dict with every key of ``params``."""

    def decode(value: Any) -> dict[str, Any]:
        return decode_object(params, value, relaxed)

    return decode


def raw(value: Any) -> Any:
    """Whatever JSON there is; the method looks at it itself."""
    return value


_BY_TYPE: dict[Any, Decoder] = {str: string, bool: boolean, int: uint64}


def decoder(kind: Any) -> Decoder:
    """The decoder that ``Param.kind`` names: ``str``, ``bool`` and ``int`` (an uint64) have a short form."""
    return _BY_TYPE.get(kind, kind)


def decode_object(params: dict[str, Param], given: Any, relaxed: bool = False) -> dict[str, Any]:
    """Decode an object key by key. Unknown keys are an error unless ``relaxed``; keys left out get their default."""
    if not isinstance(given, dict):
        raise ValueError("no object")
    if getattr(given, "repeated", False):
        raise ValueError("a key came twice")
    if not relaxed:
        for key in given:
            if key not in params:
                raise ValueError(f"unknown key {key!r}")
    decoded = {}
    for key, param in params.items():
        if key in given:
            try:
                decoded[key] = decoder(param.kind)(given[key])
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None
        elif param.required:
            raise ValueError(f"{key!r} is missing")
        else:
            decoded[key] = param.default
    return decoded


def decode_call(method: Method, given: Any) -> dict[str, Any]:
    """The keyword arguments of a call. ``given`` is the request's ``params``, None where there are none."""
    params = method.params or {}
    if given is None and not method.needs_object and not any(param.required for param in params.values()):
        return {key: param.default if param.absent is None else param.absent for key, param in params.items()}
    return decode_object(params, given, method.relaxed)
