# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The device manager `ipdk_vhost_blk`: virtio-blk disks, hot-plugged into a QEMU guest, served by SPDK's vhost.

It derives from SPDK's vhost-blk manager (bus table, bdev lookup, QoS) and plugs and unplugs in its own way:

- the guest's character device reconnects, so that a disk survives a restart of the IPU's SPDK;
- an unplug is done when QEMU says so and SPDK's controller is gone, and an unplug that the guest does not follow within
  `unplug_timeout` is an error that leaves the controller under the live device;
- what already is as wished is answered with the same handle; another volume under a taken physical id, or a volume that
  already is a device, is ALREADY_EXISTS;
- where no QEMU listens nothing stays behind in SPDK, and leftovers of a dead QEMU can be deleted.

A guest may discard blocks only where the parameter `discard` says so. SPDK offers it for a disk if all volumes of the
storage target's subsystem could be discarded when the IPU connected. One that cannot, such as an aio file, and that
comes later, takes it from all of them at the next connection, and QEMU does not come back to a disk that offers less
than the guest has taken: its I/O would stand still for ever.

Names: controller, character device and QEMU device of physical id N are all called `sma-N`; the handle is
`virtio_blk:sma-N`. Parameters (`devices[].params` of SMA's configuration): see init().
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

import grpc
from spdk.rpc.client import JSONRPCException
from spdk.sma import DeviceException, VhostBlkDeviceManager
from spdk.sma.common import format_volume_id
from spdk.sma.proto import sma_pb2

from .plugged import PAUSE_SECONDS, RELEASE_SECONDS, PluggedDevices, devices, reason
from .qmp import Qmp, QmpAbsent, QmpError, QmpRefused

LOG = logging.getLogger("ipdk_sma")

GONE = "No such device"  # SPDK about a controller that does not exist


class IpdkVhostBlkDeviceManager(PluggedDevices, VhostBlkDeviceManager):
    """See the module's text."""

    kind = "virtio-blk"
    driver = "vhost-user-blk-pci"

    def __init__(self, client: Callable[[], Any]) -> None:
        super().__init__(client)
        self.name = "ipdk_vhost_blk"

    def init(self, config: dict[str, Any] | None) -> None:
        """Take the parameters, those of `PluggedDevices.take`. Raises ValueError for what cannot be right."""
        self.take(config)
        super().init(dict(config or {}))

    # ---- what SMA calls

    def create_device(self, request: Any) -> Any:
        """Make SPDK's controller and plug the disk; the handle. Repeated, it repairs what is missing."""
        name, bus, slot = self._place(request.virtio_blk)
        volume = format_volume_id(request.volume.volume_id)
        if volume is None:
            raise DeviceException(grpc.StatusCode.INVALID_ARGUMENT, f"{name}: a virtio-blk device needs a volume")
        with self._spdk() as spdk:
            served = self._served(spdk, name, volume)["name"]
            created = self._ensure_controller(spdk, name, served, volume)
            try:
                with self._qemu() as qemu:
                    self._plug(qemu, name, bus, slot)
            except (QmpError, DeviceException) as error:
                if created:
                    self._roll_back(spdk, name)
                raise self._failure(name, "plug", error) from error
        LOG.info("%s: created for %s", name, served)
        return sma_pb2.CreateDeviceResponse(handle=self.handle(name))

    def delete_device(self, request: Any) -> None:
        """Unplug the disk, wait until the guest has released it, then remove SPDK's controller. What is not there is
        fine."""
        name = self.device_of(request.handle)
        with self._spdk() as spdk:
            try:
                with self._qemu() as qemu:
                    self._unplug(qemu, name)
            except QmpAbsent as error:
                # The device went with its QEMU; SPDK knows whether really nobody is connected.
                controller = self._controller(spdk, name)
                if controller is not None and controller.get("sessions"):
                    raise self._failure(name, "unplug", error) from error
                self._leaving.discard(name)
            except QmpError as error:
                raise self._failure(name, "unplug", error) from error
            self._remove_controller(spdk, name)
        LOG.info("%s: deleted", name)

    # ---- SPDK's side

    def _ensure_controller(self, spdk: Any, name: str, bdev: str, volume: str) -> bool:
        """Have SPDK serve `bdev` as `name`; whether that had to be made."""
        exists = False
        for controller in spdk.call("vhost_get_controllers"):
            served = (controller.get("backend_specific", {}).get("block") or {}).get("bdev")
            if controller["ctrlr"] == name:
                if served is None:
                    raise DeviceException(
                        grpc.StatusCode.FAILED_PRECONDITION,
                        f"{name}: its controller has lost its bdev; delete the device first",
                    )
                if served != bdev:
                    raise DeviceException(
                        grpc.StatusCode.ALREADY_EXISTS,
                        f"{name} is there with another volume, the bdev {served}, not {bdev}",
                    )
                exists = True
            elif served == bdev and controller["ctrlr"].startswith("sma-"):
                raise DeviceException(
                    grpc.StatusCode.ALREADY_EXISTS,
                    f"{name}: the volume {volume} already is the device {controller['ctrlr']}",
                )
        if not exists:
            spdk.call("vhost_create_blk_controller", {"ctrlr": name, "dev_name": bdev})
        return not exists

    def _controller(self, spdk: Any, name: str) -> dict[str, Any] | None:
        """What SPDK says about the controller, None where there is none."""
        try:
            return spdk.call("vhost_get_controllers", {"name": name})[0]
        except JSONRPCException as error:
            if reason(error) == GONE:
                return None
            raise

    def _remove_controller(self, spdk: Any, name: str) -> None:
        """Remove SPDK's controller and see that it is gone. SPDK refuses while a guest is connected, and it may learn a
        moment late that the guest has closed its socket."""
        deadline = time.monotonic() + RELEASE_SECONDS
        while True:
            why = "it is still there"
            try:
                spdk.call("vhost_delete_controller", {"ctrlr": name})
            except JSONRPCException as error:
                why = reason(error)
                if why == GONE:
                    return
            if self._controller(spdk, name) is None:
                return
            if time.monotonic() > deadline:
                raise DeviceException(
                    grpc.StatusCode.INTERNAL, f"{name}: unplugged, but SPDK does not remove its controller: {why}"
                )
            time.sleep(PAUSE_SECONDS)

    def _roll_back(self, spdk: Any, name: str) -> None:
        """Remove the controller that a failed create made. Where QEMU connected after all, SPDK refuses, rightly."""
        try:
            spdk.call("vhost_delete_controller", {"ctrlr": name})
        except (JSONRPCException, OSError) as error:
            LOG.warning("%s: the controller stays behind: %s", name, reason(error))

    # ---- QEMU's side

    def _plug(self, qemu: Qmp, name: str, bus: str, slot: int) -> None:
        """Have the device in the guest; QmpRefused with QEMU's reason, and nothing left in QEMU."""
        plugged, connected = _present(qemu, name)
        if self._is_there(name, plugged):
            return
        # A character device without its device is a leftover; its path and options may be others.
        leftover = [("chardev-remove", {"id": name})] if connected else []
        answers = qemu.try_all(
            *leftover,
            ("chardev-add", {"id": name, "backend": self._backend(qemu, name)}),
            (
                "device_add",
                {
                    "driver": self.driver,
                    "id": name,
                    "chardev": name,
                    "bus": bus,
                    "addr": hex(slot),
                    "discard": self._discard,
                },
            ),
        )
        refused = [answer for answer in answers if isinstance(answer, QmpRefused)]
        if refused:
            qemu.try_all(("chardev-remove", {"id": name}))
            raise refused[0]

    def _backend(self, qemu: Qmp, name: str) -> dict[str, Any]:
        """A socket character device to SPDK's controller. QEMU 9.2 renamed the option and counts milliseconds."""
        again = {"reconnect-ms": self._reconnect * 1000} if qemu.version >= (9, 2) else {"reconnect": self._reconnect}
        return {
            "type": "socket",
            "data": {
                "addr": {"type": "unix", "data": {"path": os.path.join(self._directory, name)}},
                "server": False,
                **again,
            },
        }

    def _unplug(self, qemu: Qmp, name: str) -> None:
        """Have neither device nor character device in QEMU. The guest releases the device, in its own time."""
        plugged, connected = _present(qemu, name)
        self._leave(qemu, name, plugged)
        deadline = time.monotonic() + RELEASE_SECONDS
        while connected:
            answer = qemu.try_all(("chardev-remove", {"id": name}))[0]
            connected = _present(qemu, name)[1]
            if connected and time.monotonic() > deadline:
                raise answer if isinstance(answer, QmpRefused) else QmpRefused("its character device stays")
            if connected:
                time.sleep(PAUSE_SECONDS)


def _present(qemu: Qmp, name: str) -> tuple[str | None, bool]:
    """The driver of the device that has this id, and whether QEMU has the character device."""
    plugged, characters = devices(qemu), qemu.run(("query-chardev", {}))[0]
    return plugged.get(name), any(entry["label"] == name for entry in characters)
