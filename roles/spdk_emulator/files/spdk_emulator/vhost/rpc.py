"""The vhost family's methods. vhost-scsi is not spoken here, and so its methods are not found (-32601)."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from ..framework import cores
from ..jsonrpc.errors import INTERNAL_ERROR, INVALID_PARAMS, RpcError
from ..jsonrpc.params import uint32
from ..jsonrpc.registry import Param, method
from .models import TRANSPORT, BlkController, VhostError

if TYPE_CHECKING:
    from ..app import App

_REFUSED = (INVALID_PARAMS, os.strerror(errno.EINVAL))


def _refusal(error: VhostError) -> RpcError:
    """The family answers with one code whatever went wrong; the errno is in the message."""
    return RpcError(INVALID_PARAMS, os.strerror(error.number))


@method(
    "vhost_create_blk_controller",
    params={
        "ctrlr": Param(str, required=True),
        "dev_name": Param(str, required=True),
        "cpumask": Param(str),
        "transport": Param(str, default=TRANSPORT),
        "readonly": Param(bool, default=False),
        "packed_ring": Param(bool, default=False),
    },
    bad_params=_REFUSED,
    relaxed=True,
)
def vhost_create_blk_controller(
    app: App, ctrlr: str, dev_name: str, cpumask: str | None, transport: str, readonly: bool, packed_ring: bool
) -> bool:
    try:
        app.vhost.create_blk(
            ctrlr, dev_name, cpumask=cpumask, transport=transport, readonly=readonly, packed_ring=packed_ring
        )
    except VhostError as error:
        raise _refusal(error) from None
    return True


@method("vhost_delete_controller", params={"ctrlr": Param(str, required=True)}, bad_params=_REFUSED)
async def vhost_delete_controller(app: App, ctrlr: str) -> bool:
    """Answers when the last front end has disconnected."""
    try:
        await app.vhost.delete(ctrlr)
    except VhostError as error:
        raise _refusal(error) from None
    return True


@method("vhost_get_controllers", params={"name": Param(str)}, bad_params=(INTERNAL_ERROR, os.strerror(errno.EINVAL)))
def vhost_get_controllers(app: App, name: str | None) -> list[dict[str, Any]]:
    if name is None:
        return [_describe(controller) for controller in app.vhost]
    try:
        return [_describe(app.vhost.get(name))]
    except VhostError as error:
        raise RpcError(INTERNAL_ERROR, os.strerror(error.number)) from None


def _describe(controller: BlkController) -> dict[str, Any]:
    bdev = controller.bdev
    return {
        "ctrlr": controller.name,
        "cpumask": f"0x{cores.mask(controller.thread.cpus)}",
        "delay_base_us": controller.coalescing.delay_base_us,
        "iops_threshold": controller.coalescing.iops_threshold,
        "socket": controller.path,
        "sessions": [
            {
                "vid": session.vid,
                "id": session.number,
                "name": session.name,
                "started": session.started,
                "max_queues": len(session.queues),
                "inflight_task_cnt": session.outstanding,
            }
            for session in controller.sessions
        ],
        "backend_specific": {
            "block": {
                "readonly": controller.readonly,
                "bdev": bdev.name if bdev is not None else None,
                "transport": TRANSPORT,
            }
        },
    }


@method(
    "vhost_controller_set_coalescing",
    params={
        "ctrlr": Param(str, required=True),
        "delay_base_us": Param(uint32, required=True),
        "iops_threshold": Param(uint32, required=True),
    },
    bad_params=_REFUSED,
)
def vhost_controller_set_coalescing(app: App, ctrlr: str, delay_base_us: int, iops_threshold: int) -> bool:
    try:
        app.vhost.set_coalescing(ctrlr, delay_base_us, iops_threshold)
    except VhostError as error:
        raise _refusal(error) from None
    return True


@method("virtio_blk_get_transports", params={"name": Param(str)}, bad_params=(INVALID_PARAMS, "Invalid parameters"))
def virtio_blk_get_transports(app: App, name: str | None) -> list[dict[str, Any]]:
    if name is not None and name.lower() != TRANSPORT:
        raise RpcError.from_errno(errno.ENODEV)
    return [{"name": TRANSPORT}]
