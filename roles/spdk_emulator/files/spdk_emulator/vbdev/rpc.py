"""JSON-RPC methods of passthru and delay bdevs."""

from __future__ import annotations

import asyncio
import errno
import uuid as uuid_module
from typing import TYPE_CHECKING, Any

from ..bdev.models import BdevError
from ..bdev.stacked import Stack
from ..jsonrpc.errors import RpcError
from ..jsonrpc.params import enum, string, uint64, uuid
from ..jsonrpc.registry import Param, method
from .models import LATENCIES

if TYPE_CHECKING:
    from ..app import App

_NAME = {"name": Param(string, required=True)}
_CREATE = {"base_bdev_name": Param(string, required=True), **_NAME, "uuid": Param(uuid)}


async def _delete(stack: Stack[Any], name: str) -> bool:
    gone = asyncio.get_running_loop().create_future()
    stack.delete(name, lambda: gone.set_result(True))
    return await gone


@method("bdev_passthru_create", params=_CREATE)
def bdev_passthru_create(app: App, base_bdev_name: str, name: str, uuid: uuid_module.UUID | None) -> str:
    app.vbdevs.passthru.create(name, base_bdev_name, uuid)
    return name


@method("bdev_passthru_delete", params=_NAME)
async def bdev_passthru_delete(app: App, name: str) -> bool:
    return await _delete(app.vbdevs.passthru, name)


@method(
    "bdev_delay_create",
    params={**_CREATE, **{f"{which}_latency": Param(uint64, required=True) for which in LATENCIES}},
)
def bdev_delay_create(app: App, base_bdev_name: str, name: str, uuid: uuid_module.UUID | None, **latencies: int) -> str:
    """Latencies in microseconds; those of the slowest hundredth may not be less than the others."""
    wanted = {which: latencies[f"{which}_latency"] for which in LATENCIES}
    if wanted["p99_read"] < wanted["avg_read"] or wanted["p99_write"] < wanted["avg_write"]:
        raise BdevError(errno.EINVAL)
    app.vbdevs.delay.create(name, base_bdev_name, uuid, wanted)
    return name


@method(
    "bdev_delay_update_latency",
    params={
        "delay_bdev_name": Param(string, required=True),
        "latency_type": Param(enum(*LATENCIES), required=True),
        "latency_us": Param(uint64, required=True),
    },
)
def bdev_delay_update_latency(app: App, delay_bdev_name: str, latency_type: str, latency_us: int) -> bool:
    try:
        bdev = app.vbdevs.delay_bdev(delay_bdev_name)
    except BdevError:
        raise RpcError.invalid_params("The requested bdev does not exist.") from None
    bdev.latencies[latency_type] = latency_us
    return True


@method("bdev_delay_delete", params=_NAME)
async def bdev_delay_delete(app: App, name: str) -> bool:
    return await _delete(app.vbdevs.delay, name)
