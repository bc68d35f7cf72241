"""The table of methods: which there are, when each may be called and what parameters it takes.

A family's ``rpc.py`` fills it by decorating functions::

    @method("bdev_null_delete", params={"name": Param(str, required=True)})
    def bdev_null_delete(app, name):
        ...

The function gets the :class:`~spdk_emulator.app.App` and the decoded parameters as keyword arguments (those left out of
the request arrive as their ``default``). It returns the result, or an awaitable of it, or raises
:class:`~spdk_emulator.jsonrpc.errors.RpcError`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable

from .errors import INTERNAL_ERROR

STARTUP = "startup"
"""Only before ``framework_start_init``."""
RUNTIME = "runtime"
"""Only after ``framework_start_init`` has finished."""
ANY = "any"


@dataclass(frozen=True)
class Param:
    """One parameter. ``kind`` is a decoder: ``str``, ``bool``, ``int`` (64 bits, not negative) or one of
    :mod:`~spdk_emulator.jsonrpc.params`, which raises ``ValueError`` on bad input."""

    kind: Any
    required: bool = False
    default: Any = None
    absent: Any = None
    """Instead of ``default`` where the request has no ``params``: some of SPDK's methods tell that from ``{}``."""


@dataclass(frozen=True)
class Method:
    name: str
    call: Callable[..., Any]
    params: dict[str, Param] | None
    """None: the method accepts no parameters at all, which is a different error from an unknown key."""
    state: str = RUNTIME
    bad_params: tuple[int, str] = (INTERNAL_ERROR, "spdk_json_decode_object failed")
    """What SPDK answers when the parameters do not decode; it differs from method to method."""
    aliases: tuple[str, ...] = field(default=())
    relaxed: bool = False
    """Unknown keys are ignored instead of refused; the function does not get to see them."""
    needs_object: bool = False
    """A request without ``params`` is an error even where every parameter is optional."""


METHODS: dict[str, Method] = {}


def method(
    name: str,
    *,
    params: dict[str, Param] | None = None,
    state: str = RUNTIME,
    bad_params: tuple[int, str] = (INTERNAL_ERROR, "spdk_json_decode_object failed"),
    aliases: tuple[str, ...] = (),
    relaxed: bool = False,
    needs_object: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as the JSON-RPC method ``name``."""

    def register(call: Callable[..., Any]) -> Callable[..., Any]:
        if name in METHODS:
            raise ValueError(f"JSON-RPC method {name} is registered twice")
        METHODS[name] = Method(name, call, params, state, bad_params, aliases, relaxed, needs_object)
        return call

    return register
