# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What device managers of NVMe devices have in common: SMA's calls, and in which order SPDK and QEMU are asked.

The handle of physical id N is `nvme:sma-N`. A device that was created with a volume has the name of that volume's bdev
as its serial number, 20 characters of it, as a virtio-blk disk has; one that was created without has its own name.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable
from typing import Any

import grpc
from spdk.rpc.client import JSONRPCException
from spdk.sma import DeviceException, DeviceManager, qos
from spdk.sma.common import format_volume_id
from spdk.sma.proto import sma_pb2

from .plugged import PluggedDevices, devices, reason
from .qmp import Qmp, QmpAbsent, QmpError

LOG = logging.getLogger("ipdk_sma")

SERIAL_LENGTH = 20  # bytes that Identify Controller has for it (NVMe base specification, figure 275)


class NvmeDevices(PluggedDevices, DeviceManager):
    """The base of a manager; `_serve`, `_plug`, `_unplug`, `_withdraw` and `_volumes` are the manager's own."""

    kind = "NVMe"

    def __init__(self, name: str, client: Callable[[], Any], allow_delete_volumes: bool) -> None:
        super().__init__(name, "nvme", client, allow_delete_volumes=allow_delete_volumes)

    def init(self, config: dict[str, Any] | None) -> None:
        """Take the parameters, those of `PluggedDevices.take`. Raises ValueError for what cannot be right."""
        self.take(config)

    # ---- what SMA calls

    def create_device(self, request: Any) -> Any:
        """Have SPDK serve the device and plug it; the handle. Repeated, it repairs what is missing."""
        name, bus, slot = self._place(request.nvme)
        volume = format_volume_id(request.volume.volume_id) if request.HasField("volume") else None
        with self._spdk() as spdk:
            bdev = self._served(spdk, name, volume) if volume else None
            created = self._serve(spdk, name, bdev)
            try:
                with self._qemu() as qemu:
                    there = self._is_there(name, devices(qemu).get(name))
                    self._plug(qemu, name, {"bus": bus, "addr": hex(slot)}, bdev, there, created)
            except (QmpError, DeviceException) as error:
                if created:
                    self._roll_back(spdk, name)
                raise self._failure(name, "plug", error) from error
        LOG.info("%s: created for %s", name, bdev["name"] if bdev else "volumes to come")
        return sma_pb2.CreateDeviceResponse(handle=self.handle(name))

    def delete_device(self, request: Any) -> None:
        """Unplug the device, wait until the guest has released it, then have SPDK forget it. What is not there is
        fine."""
        name = self.device_of(request.handle)
        with self._spdk() as spdk:
            self._check_deletion(spdk, name)
            try:
                with self._qemu() as qemu:
                    self._unplug(qemu, name, devices(qemu).get(name))
            except QmpAbsent:
                self._leaving.discard(name)  # it went with its QEMU
            except QmpError as error:
                raise self._failure(name, "unplug", error) from error
            self._withdraw(spdk, name)
        LOG.info("%s: deleted", name)

    def set_qos(self, request: Any) -> None:
        """Limit a volume of the device; where none is named, the only one."""
        name = self.device_of(request.device_handle)
        with self._spdk() as spdk:
            volumes = self._volumes(spdk, name)
            if not request.volume_id and len(volumes) == 1:
                request.volume_id = uuid.UUID(volumes[0]).bytes
            volume = format_volume_id(request.volume_id)
            if volume not in volumes:
                raise DeviceException(
                    grpc.StatusCode.INVALID_ARGUMENT,
                    f"{name}: {volume or 'no volume that was named'} is none of its volumes ({', '.join(volumes)})",
                )
            try:
                qos.set_volume_bdev_qos(spdk, request)
            except qos.QosException as error:
                raise DeviceException(error.code, error.message) from error

    def get_qos_capabilities(self, request: Any) -> Any:
        """Volumes can be limited; a device has no limits of its own."""
        return qos.get_bdev_qos_capabilities()

    # ---- a manager's own

    def _serve(self, spdk: Any, name: str, bdev: dict[str, Any] | None) -> bool:
        """Have SPDK serve the device, with this bdev; whether that had to be made."""
        raise NotImplementedError

    def _plug(
        self, qemu: Qmp, name: str, place: dict[str, str], bdev: dict[str, Any] | None, there: bool, created: bool
    ) -> None:
        """Have the device in the guest; QmpRefused with QEMU's reason, and nothing left in QEMU. `there`: QEMU has it;
        `created`: what SPDK serves is new."""
        raise NotImplementedError

    def _unplug(self, qemu: Qmp, name: str, driver: str | None) -> None:
        """Have neither the device in QEMU nor what is behind it."""
        raise NotImplementedError

    def _withdraw(self, spdk: Any, name: str) -> None:
        """Have SPDK not serve the device any more."""
        raise NotImplementedError

    def _volumes(self, spdk: Any, name: str) -> list[str]:
        """The UUIDs of the volumes that the device has."""
        raise NotImplementedError

    def _check_deletion(self, spdk: Any, name: str) -> None:
        """Raise DeviceException where the device must not go now."""

    # ---- small things

    def _roll_back(self, spdk: Any, name: str) -> None:
        """Remove what a failed create made."""
        try:
            self._withdraw(spdk, name)
        except (JSONRPCException, DeviceException, OSError) as error:
            LOG.warning("%s: it stays behind in SPDK: %s", name, reason(error))

    def _path(self, name: str, suffix: str) -> str:
        return os.path.join(self._directory, f"{name}.{suffix}")


def serial_number(name: str, bdev: dict[str, Any] | None) -> str:
    """Of a device, see the module's text."""
    return str(bdev["name"] if bdev else name)[:SERIAL_LENGTH]
