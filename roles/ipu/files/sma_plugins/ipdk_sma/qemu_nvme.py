# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The device manager `ipdk_qemu_nvme`: QEMU's own NVMe controllers, hot-plugged, for SPDKs that have no vfio-user.

The disk behind a controller is an NBD disk of SPDK's that QEMU connects to, `nbd_start_disk` with the path of a unix
socket: the emulator's way. QEMU gives a controller its namespaces when it is plugged and never later ("does not support
hotplugging", of nvme-ns), so a device has the one volume that it was created with.

Names: QEMU's device and block node of physical id N are both called `sma-N`, the socket is `sma-N.nbd`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import grpc
from spdk.rpc.client import JSONRPCException
from spdk.sma import DeviceException
from spdk.sma.common import format_volume_id

from .nvme import NvmeDevices, serial_number
from .plugged import PAUSE_SECONDS, RELEASE_SECONDS, reason
from .qmp import Qmp, QmpRefused

SUFFIX = "nbd"
GONE = "No such device"  # SPDK about a disk that does not exist
NO_NODE = "Failed to find node"  # QEMU likewise
PATIENCE_SECONDS = 86400
"""How long QEMU holds the requests of a guest back while SPDK is away, where it is to reconnect at all."""


class IpdkQemuNvmeDeviceManager(NvmeDevices):
    """See the module's text."""

    driver = "nvme"

    def __init__(self, client: Callable[[], Any]) -> None:
        super().__init__("ipdk_qemu_nvme", client, allow_delete_volumes=True)

    def attach_volume(self, request: Any) -> None:
        """The volume that the device has is fine, any other one is refused."""
        name, volume = self.device_of(request.device_handle), format_volume_id(request.volume.volume_id)
        with self._spdk() as spdk:
            if self._volumes(spdk, name) == [self._served(spdk, name, volume)["uuid"]]:
                return
        raise DeviceException(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"{name}: QEMU's NVMe controller gets its namespaces when it is plugged and takes no other volume later; "
            "create one device for each volume",
        )

    def detach_volume(self, request: Any) -> None:
        """A volume that the device does not have is fine, its own one is refused."""
        name, volume = self.device_of(request.device_handle), format_volume_id(request.volume_id)
        with self._spdk() as spdk:
            if volume not in self._volumes(spdk, name):
                return
        raise DeviceException(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"{name}: QEMU's NVMe controller keeps its namespace for as long as it is plugged; delete the device",
        )

    # ---- SPDK's side

    def _disks(self, spdk: Any) -> dict[str, str]:
        """The devices that SPDK serves → their bdevs."""
        ours = {}
        for disk in spdk.call("nbd_get_disks"):
            directory, file = os.path.split(disk["nbd_device"])
            name, _dot, suffix = file.rpartition(".")
            if suffix == SUFFIX and os.path.normpath(directory) == os.path.normpath(self._directory):
                ours[name] = disk["bdev_name"]
        return ours

    def _volumes(self, spdk: Any, name: str) -> list[str]:
        bdev = self._disks(spdk).get(name)
        return [] if bdev is None else [spdk.call("bdev_get_bdevs", {"name": bdev})[0]["uuid"]]

    def _serve(self, spdk: Any, name: str, bdev: dict[str, Any] | None) -> bool:
        if bdev is None:
            raise DeviceException(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"{name}: a device of QEMU's own needs its volume when it is created: it takes none later",
            )
        wanted = bdev["name"]
        served = self._disks(spdk)
        there = served.pop(name, None)
        if there not in (None, wanted):
            raise DeviceException(
                grpc.StatusCode.ALREADY_EXISTS,
                f"{name} is there with another volume, the bdev {there}, not {wanted}",
            )
        other = next((device for device, behind in served.items() if behind == wanted), None)
        if other is not None:
            raise DeviceException(
                grpc.StatusCode.ALREADY_EXISTS, f"{name}: the volume {bdev['uuid']} already is the device {other}"
            )
        if there is None:
            spdk.call("nbd_start_disk", {"bdev_name": wanted, "nbd_device": self._path(name, SUFFIX)})
        return there is None

    def _withdraw(self, spdk: Any, name: str) -> None:
        try:
            spdk.call("nbd_stop_disk", {"nbd_device": self._path(name, SUFFIX)})
        except JSONRPCException as error:
            if reason(error) != GONE:
                raise

    # ---- QEMU's side

    def _plug(
        self, qemu: Qmp, name: str, place: dict[str, str], bdev: dict[str, Any] | None, there: bool, created: bool
    ) -> None:
        if there:
            return
        assert bdev is not None, "_serve has refused a device without one"
        size = bdev["block_size"]
        node = {
            "node-name": name,
            "driver": "nbd",
            "server": {"type": "unix", "path": self._path(name, SUFFIX)},
            "reconnect-delay": PATIENCE_SECONDS if self._reconnect else 0,
            "discard": "unmap",
        }
        device = {
            "driver": self.driver,
            "id": name,
            "drive": name,
            "serial": serial_number(name, bdev),
            "logical_block_size": size,
            "physical_block_size": size,
            **place,
        }
        # A block node without its device is a leftover; its path may be another.
        _leftover, *answers = qemu.try_all(
            ("blockdev-del", {"node-name": name}), ("blockdev-add", node), ("device_add", device)
        )
        refused = [answer for answer in answers if isinstance(answer, QmpRefused)]
        if refused:
            qemu.try_all(("blockdev-del", {"node-name": name}))
            raise refused[0]

    def _unplug(self, qemu: Qmp, name: str, driver: str | None) -> None:
        self._leave(qemu, name, driver)
        deadline = time.monotonic() + RELEASE_SECONDS
        while True:
            answer = qemu.try_all(("blockdev-del", {"node-name": name}))[0]
            if not isinstance(answer, QmpRefused) or NO_NODE in str(answer):
                return
            if time.monotonic() > deadline:
                raise answer
            time.sleep(PAUSE_SECONDS)
