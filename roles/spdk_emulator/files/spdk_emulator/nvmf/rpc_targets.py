"""JSON-RPC methods of the NVMe-oF targets as such: which there are. All others are of one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..jsonrpc.errors import INTERNAL_ERROR, INVALID_PARAMS, RpcError
from ..jsonrpc.params import enum, string, uint32
from ..jsonrpc.registry import Param, method
from .models import MOST_SUBSYSTEMS, Config
from .rpc_common import BAD_PARAMS, DUP_HOST_POLICIES, discovery_filter
from .subsystem import NvmfError

if TYPE_CHECKING:
    from ..app import App


@method("nvmf_get_targets", bad_params=(INVALID_PARAMS, "nvmf_get_targets has no parameters."))
def nvmf_get_targets(app: App) -> list[str]:
    return [target.name for target in app.nvmf]


@method(
    "nvmf_create_target",
    params={
        "name": Param(string, required=True),
        "max_subsystems": Param(uint32),
        "discovery_filter": Param(discovery_filter, default=frozenset()),
        "dup_host_policy": Param(enum(*DUP_HOST_POLICIES), default="allow"),
    },
    bad_params=BAD_PARAMS,
)
def nvmf_create_target(
    app: App, name: str, max_subsystems: int | None, discovery_filter: frozenset[str], dup_host_policy: str
) -> str:
    if max_subsystems is not None and max_subsystems > MOST_SUBSYSTEMS:
        raise RpcError(INTERNAL_ERROR, "Unable to create the requested target.")
    try:
        config = Config(discovery_filter, max_subsystems=max_subsystems, dup_host_policy=dup_host_policy)
        return app.nvmf.create(name, config).name
    except NvmfError:
        raise RpcError(INVALID_PARAMS, "Target already exists.") from None


@method("nvmf_delete_target", params={"name": Param(string, required=True)}, bad_params=BAD_PARAMS)
async def nvmf_delete_target(app: App, name: str) -> bool:
    """No answer comes for the main target, as from SPDK: its poll groups stay as long as the process."""
    target = app.nvmf.find(name)
    if target is None:
        raise RpcError(INVALID_PARAMS, "The specified target doesn't exist, cannot delete it.")
    await app.nvmf.delete(target)
    return True
