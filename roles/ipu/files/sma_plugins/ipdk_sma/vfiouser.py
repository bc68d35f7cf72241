# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The device manager `ipdk_vfiouser`: NVMe controllers that SPDK emulates, hot-plugged into a QEMU guest by vfio-user.

A device is a subsystem of SPDK's NVMe-oF target with a listener of the transport VFIOUSER, its volumes are the
subsystem's namespaces, which come and go while the guest runs. It differs from SPDK's own manager `vfiouser` in that

- QEMU gets the socket as upstream's `vfio-user-pci` takes it (a SocketAddress; QEMU 10.1 and newer);
- device and namespaces have stable identities (`nvme`), and a failure names its reason;
- a device with volumes is not deleted, whatever SMA remembers of them.

Upstream's QEMU ends itself when a vfio-user device with MSI-X is unplugged (seen with 11.1.3: `Assertion
subregion->container == mr`; a memory region of its MSI-X is taken away twice). Unless `hot_unplug` says that the QEMU
at hand has that repaired, a device is not unplugged from a guest that runs: DeleteDevice is refused, and works when the
guest was started anew.

Names: QEMU's device of physical id N is called `sma-N`, the listener's directory `sma-N.vfiouser`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from typing import Any

import grpc
from spdk.sma import DeviceException
from spdk.sma.common import format_volume_id, volume_id_to_nguid

from .nvme import NvmeDevices, serial_number
from .qmp import Qmp

SUFFIX = "vfiouser"
TRANSPORT = "VFIOUSER"
NQN = "nqn.2022-06.io.ipdk:device:"
MODEL = "ipdk.storage"
MAX_NAMESPACES = 64
OLDEST_QEMU = (10, 1)


class IpdkVfiouserDeviceManager(NvmeDevices):
    """See the module's text."""

    driver = "vfio-user-pci"
    more_parameters = {"hot_unplug": False}

    def __init__(self, client: Callable[[], Any]) -> None:
        super().__init__("ipdk_vfiouser", client, allow_delete_volumes=False)

    def init(self, config: dict[str, Any] | None) -> None:
        """Take the parameters, those of `PluggedDevices.take` and

        hot_unplug: whether this QEMU can unplug such a device from a guest that runs (false), see the module's text.
        """
        super().init(config)
        self._hot_unplug = (config or {}).get("hot_unplug", False)
        if not isinstance(self._hot_unplug, bool):
            raise ValueError(f"{self.name}: hot_unplug has to be true or false, not {self._hot_unplug!r}")

    def attach_volume(self, request: Any) -> None:
        """Add the volume as a namespace. One that the device has already is fine."""
        name, volume = self.device_of(request.device_handle), format_volume_id(request.volume.volume_id)
        with self._spdk() as spdk:
            bdev = self._served(spdk, name, volume)
            self._add_namespace(spdk, name, self._existing(spdk, name), bdev)

    def detach_volume(self, request: Any) -> None:
        """Take the volume's namespace away. One that is not there is fine."""
        name, volume = self.device_of(request.device_handle), format_volume_id(request.volume_id)
        with self._spdk() as spdk:
            for namespace in self._existing(spdk, name)["namespaces"]:
                if namespace["uuid"] == volume:
                    spdk.call("nvmf_subsystem_remove_ns", {"nqn": NQN + name, "nsid": namespace["nsid"]})

    # ---- SPDK's side

    def _subsystem(self, spdk: Any, name: str) -> dict[str, Any] | None:
        return next((each for each in spdk.call("nvmf_get_subsystems") if each["nqn"] == NQN + name), None)

    def _existing(self, spdk: Any, name: str) -> dict[str, Any]:
        subsystem = self._subsystem(spdk, name)
        if subsystem is None:
            raise DeviceException(grpc.StatusCode.NOT_FOUND, f"{name}: there is no such NVMe device")
        return subsystem

    def _volumes(self, spdk: Any, name: str) -> list[str]:
        subsystem = self._subsystem(spdk, name)
        return [] if subsystem is None else [namespace["uuid"] for namespace in subsystem["namespaces"]]

    def _serve(self, spdk: Any, name: str, bdev: dict[str, Any] | None) -> bool:
        subsystem = self._subsystem(spdk, name)
        created = subsystem is None
        if subsystem is None:
            self._check_elsewhere(spdk, name, bdev)
            if not any(each["trtype"].upper() == TRANSPORT for each in spdk.call("nvmf_get_transports")):
                spdk.call("nvmf_create_transport", {"trtype": TRANSPORT})
            parameters = {
                "nqn": NQN + name,
                "allow_any_host": True,
                "serial_number": serial_number(name, bdev),
                "model_number": MODEL,
                "max_namespaces": MAX_NAMESPACES,
            }
            spdk.call("nvmf_create_subsystem", parameters)
            subsystem = {"namespaces": [], "listen_addresses": []}
        elif bdev and subsystem["namespaces"] and bdev["uuid"] not in self._volumes(spdk, name):
            there = ", ".join(namespace["bdev_name"] for namespace in subsystem["namespaces"])
            raise DeviceException(
                grpc.StatusCode.ALREADY_EXISTS, f"{name} is there with another volume, {there}, not {bdev['name']}"
            )
        try:
            if bdev is not None:
                self._add_namespace(spdk, name, subsystem, bdev)
            if not subsystem["listen_addresses"]:
                self._listen(spdk, name)
        except Exception:
            if created:
                self._roll_back(spdk, name)
            raise
        return created

    def _check_elsewhere(self, spdk: Any, name: str, bdev: dict[str, Any] | None) -> None:
        for subsystem in spdk.call("nvmf_get_subsystems"):
            volumes = [namespace["uuid"] for namespace in subsystem.get("namespaces", [])]
            if bdev and subsystem["nqn"].startswith(NQN) and bdev["uuid"] in volumes:
                other = subsystem["nqn"].removeprefix(NQN)
                raise DeviceException(
                    grpc.StatusCode.ALREADY_EXISTS,
                    f"{name}: the volume {bdev['uuid']} already is in the device {other}",
                )

    def _add_namespace(self, spdk: Any, name: str, subsystem: dict[str, Any], bdev: dict[str, Any]) -> None:
        """With the volume's identity, so that it is the same on whichever device it is."""
        if any(namespace["uuid"] == bdev["uuid"] for namespace in subsystem["namespaces"]):
            return
        if len(subsystem["namespaces"]) >= MAX_NAMESPACES:
            raise DeviceException(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"{name}: it has {MAX_NAMESPACES} volumes already, and takes no more",
            )
        self._check_elsewhere(spdk, name, bdev)
        identity = {"uuid": bdev["uuid"], "nguid": volume_id_to_nguid(bdev["uuid"])}
        spdk.call("nvmf_subsystem_add_ns", {"nqn": NQN + name, "namespace": {"bdev_name": bdev["name"], **identity}})

    def _listen(self, spdk: Any, name: str) -> None:
        """SPDK makes its files in a directory that has to be there; those of a dead predecessor are in its way."""
        directory = self._path(name, SUFFIX)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(directory)
        try:
            os.mkdir(directory, 0o700)
        except OSError as error:
            raise DeviceException(
                grpc.StatusCode.INTERNAL, f"{name}: cannot make {directory}: {error.strerror}"
            ) from error
        address = {"trtype": TRANSPORT, "traddr": directory, "trsvcid": ""}
        spdk.call("nvmf_subsystem_add_listener", {"nqn": NQN + name, "listen_address": address})

    def _withdraw(self, spdk: Any, name: str) -> None:
        if self._subsystem(spdk, name) is not None:
            spdk.call("nvmf_delete_subsystem", {"nqn": NQN + name})
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._path(name, SUFFIX))

    def _check_deletion(self, spdk: Any, name: str) -> None:
        volumes = self._volumes(spdk, name)
        if volumes:
            some = ", ".join(volumes[:3]) + (f" and {len(volumes) - 3} more" if len(volumes) > 3 else "")
            raise DeviceException(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"{name}: it has volumes still attached ({some}); detach them first",
            )

    # ---- QEMU's side

    def _plug(
        self, qemu: Qmp, name: str, place: dict[str, str], bdev: dict[str, Any] | None, there: bool, created: bool
    ) -> None:
        if qemu.version < OLDEST_QEMU:
            raise DeviceException(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"{name}: vfio-user needs QEMU {OLDEST_QEMU[0]}.{OLDEST_QEMU[1]} or newer, and the guest's is "
                f"{qemu.version[0]}.{qemu.version[1]}",
            )
        if there and created:
            # QEMU does not connect a second time: what it has is dead, since SPDK was started anew.
            self._unplug(qemu, name, self.driver)
        elif there:
            return
        socket = {"type": "unix", "path": os.path.join(self._path(name, SUFFIX), "cntrl")}
        qemu.run(("device_add", {"driver": self.driver, "id": name, "socket": socket, **place}))

    def _unplug(self, qemu: Qmp, name: str, driver: str | None) -> None:
        if driver == self.driver and not self._hot_unplug:
            raise DeviceException(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"{name}: QEMU {qemu.version[0]}.{qemu.version[1]} would end itself when this device is unplugged; it "
                "stays, without volumes, until the guest is started anew. With a QEMU that can, set hot_unplug",
            )
        self._leave(qemu, name, driver)
