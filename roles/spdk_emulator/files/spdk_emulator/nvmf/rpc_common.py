"""What the JSON-RPC methods of the NVMe-oF target have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..jsonrpc.errors import INTERNAL_ERROR, INVALID_PARAMS, RpcError
from ..jsonrpc.params import obj, string
from ..jsonrpc.registry import Param, method
from .models import IP_VERSIONS
from .subsystem import Address

if TYPE_CHECKING:
    from ..app import App

TARGET_NAME = "nvmf_tgt"
THREAD_NAME = "nvmf_tgt_poll_group_000"
BAD_PARAMS = (INVALID_PARAMS, "Invalid parameters")

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


def target_method(
    name: str, params: dict[str, Param], no_target: str = "Unable to find a target.", relaxed: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A method of the one target: with ``tgt_name``, and a first parameter that is the App."""

    def register(call: Callable[..., Any]) -> Callable[..., Any]:
        @method(name, params={**params, "tgt_name": Param(string)}, bad_params=BAD_PARAMS, relaxed=relaxed)
        @functools.wraps(call)
        def checked(app: App, tgt_name: str | None, **given: Any) -> Any:
            if tgt_name not in (None, TARGET_NAME):
                raise RpcError(INTERNAL_ERROR, no_target.format(tgt_name))
            return call(app, **given)

        return call

    return register


def internal_error() -> RpcError:
    return RpcError(INTERNAL_ERROR, "Internal error")
