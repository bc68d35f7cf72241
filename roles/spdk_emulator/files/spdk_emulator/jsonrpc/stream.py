"""Finds the JSON values in a stream of bytes, one after another, with nothing between them but white space.

SPDK answers a request as soon as its last byte is there and closes a connection as soon as what came cannot become JSON
any more. So this looks at each token once, keeps its place between reads, and knows "not yet" from "never".
"""

from __future__ import annotations

import json
import re
from typing import Any

from .params import Object

MAX_BYTES = 256 * 1024
MAX_VALUES = 8192
MAX_DEPTH = 64

# Only single characters are repeated possessively: Python before 3.11.5, which is Debian 12's, does so wrongly with
# groups.
_SPACE = re.compile(rb"[ \t\n\r]*")
_TOKEN = re.compile(
    rb"(?P<punctuation>[{}\[\]:,])"
    rb'|(?P<string>"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*")'
    rb"|(?P<number>-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?)(?=[ \t\n\r,\]}])"
    rb"|(?P<literal>true|false|null)"
)
_PART_OF_A_TOKEN = re.compile(
    rb'"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*(?:\\(?:u[0-9a-fA-F]{0,3})?)?'
    rb"|-?(?:(?:0|[1-9][0-9]*+)(?:\.[0-9]*+)?(?:(?<=[0-9])[eE][+-]?[0-9]*+)?)?"
    rb"|t(?:ru?)?|f(?:a(?:ls?)?)?|n(?:ul?)?"
)

_VALUE, _FIRST_VALUE, _KEY, _FIRST_KEY, _COLON, _AFTER = range(6)


class ParseError(ValueError):
    """What came is no JSON, or more of it than SPDK takes (256 KiB, 8192 values, 64 levels)."""


class Splitter:
    """``feed`` it what arrives; it returns the values that are complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._start_value()

    def _start_value(self) -> None:
        self._position = 0
        self._nesting: list[int] = []
        self._expected = _VALUE
        self._values = 0

    def feed(self, data: bytes) -> list[Any]:
        """Raises :class:`ParseError`; the values before the error are then lost, as in SPDK."""
        self._buffer += data
        complete = []
        while self._advance():
            self._check_size(self._position)
            complete.append(_decode(bytes(self._buffer[: self._position])))
            del self._buffer[: self._position]
            self._start_value()
        self._check_size(len(self._buffer))
        return complete

    @staticmethod
    def _check_size(size: int) -> None:
        if size >= MAX_BYTES:
            raise ParseError(f"a request has {MAX_BYTES} bytes or more")

    def _advance(self) -> bool:
        """Take tokens up to the end of the value (True) or of the buffer (False)."""
        while True:
            self._position = _SPACE.match(self._buffer, self._position).end()
            token = _TOKEN.match(self._buffer, self._position)
            if token is None:
                if _PART_OF_A_TOKEN.fullmatch(self._buffer, self._position) or self._position == len(self._buffer):
                    return False
                raise ParseError(f"no JSON at byte {self._position}")
            self._position = token.end()
            self._take(token)
            if not self._nesting and self._expected == _AFTER:
                return True

    def _take(self, token: re.Match[bytes]) -> None:
        kind, text, expected = token.lastgroup, token.group(), self._expected
        wants_value = expected in (_VALUE, _FIRST_VALUE)
        if kind == "string" and expected in (_KEY, _FIRST_KEY):
            self._expected = _COLON
            self._count()
        elif kind != "punctuation":
            self._require(wants_value)
            self._expected = _AFTER
            self._count()
        elif text in (b"{", b"["):
            self._require(wants_value)
            if len(self._nesting) == MAX_DEPTH:
                raise ParseError(f"more than {MAX_DEPTH} levels")
            self._nesting.append(text[0])
            self._expected = _FIRST_KEY if text == b"{" else _FIRST_VALUE
            self._count(2)
        elif text in (b"}", b"]"):
            empty = _FIRST_KEY if text == b"}" else _FIRST_VALUE
            opening = ord("{") if text == b"}" else ord("[")
            self._require(bool(self._nesting) and self._nesting[-1] == opening and expected in (empty, _AFTER))
            self._nesting.pop()
            self._expected = _AFTER
        elif text == b",":
            self._require(expected == _AFTER)
            self._expected = _KEY if self._nesting[-1] == ord("{") else _VALUE
        else:
            self._require(expected == _COLON)
            self._expected = _VALUE

    def _require(self, allowed: bool) -> None:
        if not allowed:
            raise ParseError(f"JSON is wrong before byte {self._position}")

    def _count(self, values: int = 1) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            raise ParseError(f"a request has more than {MAX_VALUES} values")


def _decode(text: bytes) -> Any:
    try:
        value = json.loads(text, object_pairs_hook=Object.from_pairs)
        if b"\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except ValueError as error:  # bytes that are no UTF-8, half a surrogate pair
        raise ParseError(str(error)) from error
    return value
