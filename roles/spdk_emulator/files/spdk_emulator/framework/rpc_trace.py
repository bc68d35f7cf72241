"""JSON-RPC methods of tracepoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..jsonrpc.errors import INVALID_PARAMS, RpcError
from ..jsonrpc.params import string, uint64
from ..jsonrpc.registry import ANY, Param, method
from .tracepoints import GROUPS

if TYPE_CHECKING:
    from ..app import App

_INVALID_PARAMETERS = (INVALID_PARAMS, "Invalid parameters")
_GROUP = {"name": Param(string, required=True)}
_POINTS = {**_GROUP, "tpoint_mask": Param(uint64, required=True)}


@method("trace_enable_tpoint_group", params=_GROUP, state=ANY, bad_params=_INVALID_PARAMETERS)
def trace_enable_tpoint_group(app: App, name: str) -> bool:
    return _change(app.framework.traces.switch, name, True)


@method("trace_disable_tpoint_group", params=_GROUP, state=ANY, bad_params=_INVALID_PARAMETERS)
def trace_disable_tpoint_group(app: App, name: str) -> bool:
    return _change(app.framework.traces.switch, name, False)


@method("trace_set_tpoint_mask", params=_POINTS, state=ANY, bad_params=_INVALID_PARAMETERS)
def trace_set_tpoint_mask(app: App, name: str, tpoint_mask: int) -> bool:
    return _change(app.framework.traces.set, name, tpoint_mask)


@method("trace_clear_tpoint_mask", params=_POINTS, state=ANY, bad_params=_INVALID_PARAMETERS)
def trace_clear_tpoint_mask(app: App, name: str, tpoint_mask: int) -> bool:
    return _change(app.framework.traces.clear, name, tpoint_mask)


def _change(change: Callable[..., None], *what: Any) -> bool:
    try:
        change(*what)
    except ValueError:
        raise RpcError(*_INVALID_PARAMETERS) from None
    return True


@method("trace_clear", bad_params=(INVALID_PARAMS, "trace_clear requires no parameters"))
def trace_clear(app: App) -> bool:
    app.framework.traces.forget()
    return True


@method("trace_get_info", state=ANY, bad_params=(INVALID_PARAMS, "trace_get_info requires no parameters"))
def trace_get_info(app: App) -> dict[str, Any]:
    traces = app.framework.traces
    return {
        "tpoint_shm_path": traces.path,
        "tpoint_group_mask": hex(traces.group_mask),
        **{group.name: {"mask": hex(1 << group.bit), "tpoint_mask": hex(traces.masks[group.bit])} for group in GROUPS},
    }


@method(
    "trace_get_tpoint_group_mask",
    state=ANY,
    bad_params=(INVALID_PARAMS, "trace_get_tpoint_group_mask requires no parameters"),
)
def trace_get_tpoint_group_mask(app: App) -> dict[str, Any]:
    traces = app.framework.traces
    return {
        "tpoint_group_mask": hex(traces.group_mask),
        **{
            group.name: {
                "enabled": traces.masks[group.bit] != 0,
                "mask": hex(1 << group.bit),
                "tpoint_mask": hex(traces.masks[group.bit]),
                "tpoints": [
                    {"name": tpoint.name, "tpoint_id": bit, "enabled": bool(traces.masks[group.bit] >> bit & 1)}
                    for bit, tpoint in group.tpoints.items()
                ],
            }
            for group in GROUPS
        },
    }
