"""What the JSON-RPC methods of the NVMe-oF target have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..jsonrpc.errors import INTERNAL_ERROR, INVALID_PARAMS, RpcError
from ..jsonrpc.params import obj, string
from ..jsonrpc.registry import Param, method
from .models import IP_VERSIONS
from .subsystem import FILTER_FIELDS, Address

if TYPE_CHECKING:
    from ..app import App

BAD_PARAMS = (INVALID_PARAMS, "Invalid parameters")
DUP_HOST_POLICIES = ("allow", "restrict_per_listener")

_ADDRESS_FIELDS = obj(
    {
        "trtype": Param(string, required=True),
        "adrfam": Param(string),
        "traddr": Param(string, required=True),
        "trsvcid": Param(string, default=""),
    }
)


def transport_address(value: Any) -> Address:
    given = _ADDRESS_FIELDS(value)
    families = {name.lower(): name for name in IP_VERSIONS}
    family = families.get((given["adrfam"] or "IPv4").lower())
    if family is None or len(given["traddr"]) > 256 or len(given["trsvcid"]) > 32:
        raise ValueError(f"{value!r} is no address")
    return Address(given["trtype"].upper(), family, given["traddr"], given["trsvcid"])


def discovery_filter(value: Any) -> frozenset[str]:
    """Names separated by commas. As in SPDK, a name may go on, and there may be none."""
    found = [_filter_field(name) for name in string(value).split(",") if name]
    if len(found) > 1 and None in found and found != [None] * len(found):
        raise ValueError("match_any stands alone")
    return frozenset(name for name in found if name)


def _filter_field(text: str) -> str | None:
    """None for ``match_any``."""
    for name in ("match_any", *FILTER_FIELDS):
        if text.startswith(name):
            return None if name == "match_any" else name
    raise ValueError("no discovery filter")


def target_method(
    name: str, params: dict[str, Param], no_target: str = "Unable to find a target.", relaxed: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A method of one target: with ``tgt_name``; its first parameters are the App and that target."""

    def register(call: Callable[..., Any]) -> Callable[..., Any]:
        @method(name, params={**params, "tgt_name": Param(string)}, bad_params=BAD_PARAMS, relaxed=relaxed)
        @functools.wraps(call)
        def checked(app: App, tgt_name: str | None, **given: Any) -> Any:
            target = app.nvmf.find(tgt_name)
            if target is None:
                raise RpcError(INTERNAL_ERROR, no_target.format("(null)" if tgt_name is None else tgt_name))
            return call(app, target, **given)

        return call

    return register


def internal_error() -> RpcError:
    return RpcError(INTERNAL_ERROR, "Internal error")
