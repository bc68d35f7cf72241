"""JSON-RPC methods of logical volumes."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from ..bdev.models import BdevError
from ..jsonrpc.errors import INTERNAL_ERROR, INVALID_PARAMS, RpcError
from ..jsonrpc.params import boolean, string, uint32, uint64
from ..jsonrpc.registry import Param, method
from .bdev import Lvol
from .models import RefusedLate
from .store import CLEAR_METHODS, Store

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ..app import App

_MIB = 1024 * 1024
_NAME = {"name": Param(string, required=True)}
_EVERY = "/every"
"""No name of a store: what the methods that list get where nothing is asked for, which is not the same as ``{}``."""
_STORE = {"uuid": Param(string), "lvs_name": Param(string)}


def _bytes(size_in_mib: int) -> int:
    """As in SPDK, which counts in 64 bits."""
    return size_in_mib * _MIB % 2**64


async def _done(work: Awaitable[Any], code: int = INVALID_PARAMS) -> Any:
    """What fails late is answered with this code and the text of the error."""
    try:
        return await work
    except OSError as error:
        raise RpcError(code, error.strerror or "") from error


# Stores


@method(
    "bdev_lvol_create_lvstore",
    params={
        "bdev_name": Param(string, required=True),
        "cluster_sz": Param(uint32, default=0),
        "lvs_name": Param(string, required=True),
        "clear_method": Param(string, default="unmap"),
        "num_md_pages_per_cluster_ratio": Param(uint32, default=0),
        "md_page_size": Param(uint32, default=0),
    },
)
async def bdev_lvol_create_lvstore(
    app: App,
    bdev_name: str,
    cluster_sz: int,
    lvs_name: str,
    clear_method: str,
    num_md_pages_per_cluster_ratio: int,
    md_page_size: int,
) -> str:
    if clear_method.lower() not in CLEAR_METHODS:
        raise RpcError(-errno.EINVAL, "Invalid clear_method parameter")
    try:
        store = await app.lvols.create(
            bdev_name, lvs_name, cluster_sz, clear_method.lower(), num_md_pages_per_cluster_ratio, md_page_size
        )
    except RefusedLate as error:
        raise RpcError.invalid_params(error.strerror or "") from error
    return store.geometry.uuid


@method(
    "bdev_lvol_rename_lvstore",
    params={"old_name": Param(string, required=True), "new_name": Param(string, required=True)},
)
async def bdev_lvol_rename_lvstore(app: App, old_name: str, new_name: str) -> bool:
    try:
        await app.lvols.rename(old_name, new_name)
    except BdevError as error:
        if error.number == errno.ENOENT:
            raise RpcError(-errno.ENOENT, f"Lvol store {old_name} not found") from error
        raise RpcError.invalid_params(error.strerror or "") from error
    return True


@method("bdev_lvol_grow_lvstore", params=_STORE)
async def bdev_lvol_grow_lvstore(app: App, uuid: str | None, lvs_name: str | None) -> bool:
    await _done(app.lvols.find(uuid, lvs_name).grow())
    return True


@method("bdev_lvol_delete_lvstore", params=_STORE)
async def bdev_lvol_delete_lvstore(app: App, uuid: str | None, lvs_name: str | None) -> bool:
    await _done(app.lvols.find(uuid, lvs_name).destroy())
    return True


@method("bdev_lvol_get_lvstores", params={"uuid": Param(string), "lvs_name": Param(string, absent=_EVERY)})
def bdev_lvol_get_lvstores(app: App, uuid: str | None, lvs_name: str | None) -> list[dict[str, Any]]:
    return [_describe_store(store) for store in _stores(app, uuid, lvs_name)]


def _stores(app: App, uuid: str | None, name: str | None) -> list[Store]:
    return list(app.lvols) if name is _EVERY else [app.lvols.find(uuid, name)]


def _describe_store(store: Store) -> dict[str, Any]:
    geometry = store.geometry
    return {
        "uuid": geometry.uuid,
        "name": store.name,
        "base_bdev": store.base.bdev.name,
        "total_data_clusters": store.total_data_clusters,
        "free_clusters": store.free_clusters,
        "block_size": geometry.block_size,
        "cluster_size": geometry.cluster_size,
        "max_growable_size": geometry.growable_clusters * geometry.cluster_size,
    }


# Lvols


@method(
    "bdev_lvol_create",
    params={
        **_STORE,
        "lvol_name": Param(string, required=True),
        "size_in_mib": Param(uint64, required=True),
        "thin_provision": Param(boolean, default=False),
        "clear_method": Param(string),
    },
)
async def bdev_lvol_create(
    app: App,
    uuid: str | None,
    lvs_name: str | None,
    lvol_name: str,
    size_in_mib: int,
    thin_provision: bool,
    clear_method: str | None,
) -> str:
    store = app.lvols.find(uuid, lvs_name)
    if clear_method is not None and clear_method.lower() not in CLEAR_METHODS:
        raise RpcError(-errno.EINVAL, "Invalid clean_method option")
    store.verify_name(lvol_name)
    method_of_clearing = "default" if clear_method is None else clear_method.lower()
    lvol = await _done(store.create(lvol_name, _bytes(size_in_mib), thin_provision, method_of_clearing))
    return lvol.name


@method(
    "bdev_lvol_snapshot",
    params={"lvol_name": Param(string, required=True), "snapshot_name": Param(string, required=True)},
)
async def bdev_lvol_snapshot(app: App, lvol_name: str, snapshot_name: str) -> str:
    lvol = app.lvols.lvol(lvol_name)
    return (await _done(lvol.store.snapshot(lvol, snapshot_name))).name


@method(
    "bdev_lvol_clone",
    params={"snapshot_name": Param(string, required=True), "clone_name": Param(string, required=True)},
)
async def bdev_lvol_clone(app: App, snapshot_name: str, clone_name: str) -> str:
    lvol = app.lvols.lvol(snapshot_name)
    return (await _done(lvol.store.clone(lvol, clone_name))).name


@method(
    "bdev_lvol_rename",
    params={"old_name": Param(string, required=True), "new_name": Param(string, required=True)},
)
async def bdev_lvol_rename(app: App, old_name: str, new_name: str) -> bool:
    lvol = app.lvols.lvol(old_name)
    await _done(lvol.store.rename_lvol(lvol, new_name))
    return True


@method("bdev_lvol_inflate", params=_NAME)
async def bdev_lvol_inflate(app: App, name: str) -> bool:
    lvol = app.lvols.lvol(name)
    await _done(lvol.store.inflate(lvol, everything=True))
    return True


@method("bdev_lvol_decouple_parent", params=_NAME)
async def bdev_lvol_decouple_parent(app: App, name: str) -> bool:
    lvol = app.lvols.lvol(name)
    await _done(lvol.store.inflate(lvol, everything=False))
    return True


@method("bdev_lvol_resize", params={**_NAME, "size_in_mib": Param(uint64, required=True)})
async def bdev_lvol_resize(app: App, name: str, size_in_mib: int) -> bool:
    lvol = app.lvols.lvol(name)
    await _done(lvol.store.resize(lvol, _bytes(size_in_mib)))
    return True


@method("bdev_lvol_set_read_only", params=_NAME)
async def bdev_lvol_set_read_only(app: App, name: str) -> bool:
    lvol = app.lvols.lvol(name)
    await _done(lvol.store.set_read_only(lvol))
    return True


@method("bdev_lvol_delete", params=_NAME)
async def bdev_lvol_delete(app: App, name: str) -> bool:
    lvol = app.lvols.lvol_by_names(name)
    await _done(lvol.store.delete(lvol), INTERNAL_ERROR)
    return True


@method("bdev_lvol_get_lvols", params={"lvs_uuid": Param(string), "lvs_name": Param(string, absent=_EVERY)})
def bdev_lvol_get_lvols(app: App, lvs_uuid: str | None, lvs_name: str | None) -> list[dict[str, Any]]:
    return [_describe(lvol) for store in _stores(app, lvs_uuid, lvs_name) for lvol in store.lvols]


def _describe(lvol: Lvol) -> dict[str, Any]:
    store = lvol.store
    return {
        "alias": f"{store.name}/{lvol.lvol_name}",
        "uuid": str(lvol.uuid),
        "name": lvol.lvol_name,
        "is_thin_provisioned": lvol.thin,
        "is_snapshot": lvol.is_snapshot,
        "is_clone": lvol.parent is not None,
        "is_esnap_clone": False,
        "is_degraded": False,
        "num_allocated_clusters": len(lvol.clusters),
        "lvs": {"name": store.name, "uuid": store.geometry.uuid},
    }
