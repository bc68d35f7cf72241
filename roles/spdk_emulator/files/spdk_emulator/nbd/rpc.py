"""The nbd family's methods. A disk's ``nbd_device`` is the path of a unix socket, not ``/dev/nbdN``: see models.py."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from ..bdev.models import BdevError
from ..jsonrpc.errors import INTERNAL_ERROR, RpcError
from ..jsonrpc.registry import Param, method
from .models import NbdDisk

if TYPE_CHECKING:
    from ..app import App

_REFUSED = (INTERNAL_ERROR, "spdk_json_decode_object failed")


@method(
    "nbd_start_disk",
    params={"bdev_name": Param(str, required=True), "nbd_device": Param(str)},
    bad_params=_REFUSED,
)
async def nbd_start_disk(app: App, bdev_name: str, nbd_device: str | None) -> str:
    """Answers with the device. One that is not named would be the first free ``/dev/nbdN``, of which there is none."""
    if nbd_device is None:
        raise RpcError(-errno.ENODEV, "nbd device not found")
    try:
        await app.nbd.start_disk(bdev_name, nbd_device)
    except BdevError as error:
        if error.number == errno.ENODEV and app.bdevs.find(bdev_name):
            raise RpcError(-errno.ENODEV, f"illegal nbd device {nbd_device}") from None
        raise
    return nbd_device


@method("nbd_stop_disk", params={"nbd_device": Param(str, required=True)}, bad_params=_REFUSED)
def nbd_stop_disk(app: App, nbd_device: str) -> bool:
    app.nbd.forget(_find(app, nbd_device))
    return True


@method("nbd_get_disks", params={"nbd_device": Param(str)}, bad_params=_REFUSED)
def nbd_get_disks(app: App, nbd_device: str | None) -> list[dict[str, str]]:
    disks = list(app.nbd) if nbd_device is None else [_find(app, nbd_device)]
    return [{"nbd_device": disk.path, "bdev_name": disk.bdev_name} for disk in disks]


def _find(app: App, nbd_device: str) -> NbdDisk:
    disk = app.nbd.find(nbd_device)
    if disk is None:
        raise RpcError(-errno.ENODEV, os.strerror(errno.ENODEV))
    return disk
