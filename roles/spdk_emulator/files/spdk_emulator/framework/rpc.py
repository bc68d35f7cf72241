"""JSON-RPC methods of the application itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..jsonrpc.errors import INVALID_PARAMS
from ..jsonrpc.params import boolean
from ..jsonrpc.registry import ANY, METHODS, RUNTIME, STARTUP, Param, method
from ..options import VERSION

if TYPE_CHECKING:
    from ..app import App


@method("spdk_get_version", state=ANY, bad_params=(INVALID_PARAMS, "spdk_get_version method requires no parameters"))
def spdk_get_version(app: App) -> dict[str, Any]:
    return {
        "version": VERSION,
        "fields": {"major": 26, "minor": 5, "patch": 0, "suffix": "", "commit": VERSION.split()[-1]},
    }


@method(
    "rpc_get_methods",
    params={"current": Param(boolean, default=False), "include_aliases": Param(boolean, default=False)},
    state=ANY,
    bad_params=(INVALID_PARAMS, "Invalid parameters"),
)
def rpc_get_methods(app: App, current: bool, include_aliases: bool) -> list[str]:
    """Only what is really there."""
    wrong_state = STARTUP if app.running else RUNTIME
    names = []
    for each in METHODS.values():
        if app.is_allowed(each.name) and not (current and each.state == wrong_state):
            names += [each.name, *(each.aliases if include_aliases else ())]
    return names


@method("framework_start_init", state=STARTUP)
async def framework_start_init(app: App) -> bool:
    app.start_requested.set()
    await app.started.wait()
    return True


@method("framework_wait_init", state=ANY)
async def framework_wait_init(app: App) -> bool:
    await app.started.wait()
    return True
