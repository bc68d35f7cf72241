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

Names: controller, character device and QEMU device of physical id N are all called `sma-N`; the handle is
`virtio_blk:sma-N`. Parameters (`devices[].params` of SMA's configuration): see init().
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from spdk.rpc.client import JSONRPCException
from spdk.sma import DeviceException, VhostBlkDeviceManager
from spdk.sma.common import format_volume_id
from spdk.sma.proto import sma_pb2
from spdk.sma.volume import CryptoException, get_crypto_engine

from .qmp import Qmp, QmpAbsent, QmpError, QmpRefused

LOG = logging.getLogger("ipdk_sma")

HANDLE = re.compile(r"virtio_blk:(sma-[0-9]+)")
PERIPHERAL = "/machine/peripheral"  # where QEMU keeps the devices that have an id
GONE = "No such device"  # SPDK about a controller that does not exist
RELEASE_SECONDS = 5.0  # QEMU and SPDK need a moment to let go of a character device and its socket
PAUSE_SECONDS = 0.02
# parameter: (default, least value)
NUMBERS = {"reconnect": (1, 0), "qmp_timeout": (10, 0.1), "unplug_timeout": (30, 0.1)}
PARAMETERS = {"buses", "qmp_addr", "qmp_port", "sock_path", *NUMBERS}


class IpdkVhostBlkDeviceManager(VhostBlkDeviceManager):
    """See the module's text."""

    def __init__(self, client: Callable[[], Any]) -> None:
        super().__init__(client)
        self.name = "ipdk_vhost_blk"
        # Asked to go, not yet gone: QEMU would still list them, and the guest may release them at any time.
        self._leaving: set[str] = set()

    def init(self, config: dict[str, Any] | None) -> None:
        """Take the parameters.

        buses: [{name, count}] PCI bridges of the guest, `count` slots each (32); physical ids count through them.
        qmp_addr, qmp_port: QEMU's monitor, for SMA alone (127.0.0.1; the port has no default).
        sock_path: the directory of SPDK's vhost sockets.
        reconnect: whole seconds between two attempts of the guest to reach SPDK again; 0 never (1).
        qmp_timeout: seconds for QEMU's answer to a command (10).
        unplug_timeout: seconds that the guest may take to release a device (30).

        Raises ValueError for what cannot be right.
        """
        config = dict(config or {})
        unknown = sorted(set(config) - PARAMETERS)
        if unknown:
            raise ValueError(f"{self.name}: unknown parameters {', '.join(unknown)}")
        if not isinstance(config.get("qmp_port"), int):
            raise ValueError(f"{self.name}: qmp_port has to be a TCP port, not {config.get('qmp_port')!r}")
        values = {}
        for name, (default, least) in NUMBERS.items():
            value = config.pop(name, default)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or value < least:
                raise ValueError(f"{self.name}: {name} has to be a number of at least {least}, not {value!r}")
            values[name] = value
        if values["reconnect"] != int(values["reconnect"]):
            raise ValueError(f"{self.name}: reconnect has to be whole seconds, not {values['reconnect']!r}")
        super().init(config)
        self._reconnect = int(values["reconnect"])
        self._qmp_timeout = float(values["qmp_timeout"])
        self._unplug_timeout = float(values["unplug_timeout"])

    def owns_device(self, id: str) -> bool:
        """Whether `id` is a handle of this manager."""
        return HANDLE.fullmatch(id) is not None

    # ---- what SMA calls

    def create_device(self, request: Any) -> Any:
        """Make SPDK's controller and plug the disk; the handle. Repeated, it repairs what is missing."""
        name, bus, slot = self._place(request.virtio_blk)
        volume = format_volume_id(request.volume.volume_id)
        if volume is None:
            raise DeviceException(grpc.StatusCode.INVALID_ARGUMENT, f"{name}: a virtio-blk device needs a volume")
        with self._spdk() as spdk:
            bdev = self._find_bdev(spdk, volume)
            if bdev is None:
                raise DeviceException(grpc.StatusCode.NOT_FOUND, f"{name}: there is no bdev with the UUID {volume}")
            served = self._encrypted(volume) or bdev["name"]
            created = self._ensure_controller(spdk, name, served, volume)
            try:
                with self._qemu() as qemu:
                    self._plug(qemu, name, bus, slot)
            except (QmpError, DeviceException) as error:
                if created:
                    self._roll_back(spdk, name)
                raise self._failure(name, "plug", error) from error
        LOG.info("%s: created for %s", name, served)
        return sma_pb2.CreateDeviceResponse(handle=f"{self.protocol}:{name}")

    def delete_device(self, request: Any) -> None:
        """Unplug the disk, wait until the guest has released it, then remove SPDK's controller. What is not there is
        fine."""
        name = request.handle.split(":", 1)[1]
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

    @contextmanager
    def _spdk(self) -> Iterator[Any]:
        """A connection to SPDK; what goes wrong on it becomes a gRPC error."""
        try:
            client = self._client()
        except (JSONRPCException, OSError) as error:
            raise DeviceException(grpc.StatusCode.UNAVAILABLE, f"SPDK does not answer: {_reason(error)}") from error
        try:
            with client:
                yield client
        except JSONRPCException as error:
            raise DeviceException(grpc.StatusCode.INTERNAL, f"SPDK refused: {_reason(error)}") from error
        except OSError as error:
            raise DeviceException(grpc.StatusCode.UNAVAILABLE, f"the connection to SPDK broke: {error}") from error

    def _encrypted(self, volume: str) -> str | None:
        """The bdev that SMA's crypto engine has put on the volume, None where the volume is not encrypted."""
        try:
            return get_crypto_engine().get_crypto_bdev(volume)
        except CryptoException as error:
            raise DeviceException(error.code, error.message) from error

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
            if _reason(error) == GONE:
                return None
            raise

    def _remove_controller(self, spdk: Any, name: str) -> None:
        """Remove SPDK's controller and see that it is gone. SPDK refuses while a guest is connected, and it may learn a
        moment late that the guest has closed its socket."""
        deadline = time.monotonic() + RELEASE_SECONDS
        while True:
            reason = "it is still there"
            try:
                spdk.call("vhost_delete_controller", {"ctrlr": name})
            except JSONRPCException as error:
                reason = _reason(error)
                if reason == GONE:
                    return
            if self._controller(spdk, name) is None:
                return
            if time.monotonic() > deadline:
                raise DeviceException(
                    grpc.StatusCode.INTERNAL, f"{name}: unplugged, but SPDK does not remove its controller: {reason}"
                )
            time.sleep(PAUSE_SECONDS)

    def _roll_back(self, spdk: Any, name: str) -> None:
        """Remove the controller that a failed create made. Where QEMU connected after all, SPDK refuses, rightly."""
        try:
            spdk.call("vhost_delete_controller", {"ctrlr": name})
        except (JSONRPCException, OSError) as error:
            LOG.warning("%s: the controller stays behind: %s", name, _reason(error))

    # ---- QEMU's side

    def _qemu(self) -> Qmp:
        return Qmp(*self._qmp_addr, timeout=self._qmp_timeout)

    def _plug(self, qemu: Qmp, name: str, bus: str, slot: int) -> None:
        """Have the device in the guest; QmpRefused with QEMU's reason, and nothing left in QEMU."""
        plugged, connected = _present(qemu, name)
        if not plugged:
            self._leaving.discard(name)
        elif name in self._leaving:
            raise DeviceException(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"{name}: the guest has not released it since it was asked to; delete it again first",
            )
        else:
            return
        # A character device without its device is a leftover; its path and options may be others.
        leftover = [("chardev-remove", {"id": name})] if connected else []
        answers = qemu.try_all(
            *leftover,
            ("chardev-add", {"id": name, "backend": self._backend(qemu, name)}),
            (
                "device_add",
                {"driver": "vhost-user-blk-pci", "id": name, "chardev": name, "bus": bus, "addr": hex(slot)},
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
                "addr": {"type": "unix", "data": {"path": os.path.join(self._vhost_path, name)}},
                "server": False,
                **again,
            },
        }

    def _unplug(self, qemu: Qmp, name: str) -> None:
        """Have neither device nor character device in QEMU. The guest releases the device, in its own time."""
        plugged, connected = _present(qemu, name)
        if plugged:
            self._leaving.add(name)
            answer = qemu.try_all(("device_del", {"id": name}))[0]
            # QEMU refuses to ask twice while the first request is pending: then waiting is what is left to do.
            if isinstance(answer, QmpRefused) and "in the process of unplug" not in str(answer):
                raise answer
            deadline = time.monotonic() + self._unplug_timeout
            event = qemu.wait_event(("DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR"), name, deadline)
            if event == "DEVICE_UNPLUG_GUEST_ERROR":
                raise DeviceException(
                    grpc.StatusCode.FAILED_PRECONDITION, f"{name}: the guest refuses to release it; the device was kept"
                )
            if event is None and _present(qemu, name)[0]:
                raise DeviceException(
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    f"{name}: the guest has not released it within {self._unplug_timeout:g} s; "
                    f"the controller was kept, delete it again",
                )
        self._leaving.discard(name)
        deadline = time.monotonic() + RELEASE_SECONDS
        while connected:
            answer = qemu.try_all(("chardev-remove", {"id": name}))[0]
            connected = _present(qemu, name)[1]
            if connected and time.monotonic() > deadline:
                raise answer if isinstance(answer, QmpRefused) else QmpRefused("its character device stays")
            if connected:
                time.sleep(PAUSE_SECONDS)

    # ---- small things

    def _place(self, params: Any) -> tuple[str, str, int]:
        """Name, bus and slot of a physical id."""
        if params.virtual_id != 0:
            raise DeviceException(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"virtual_id {params.virtual_id}: virtio-blk devices have no virtual functions",
            )
        slot = params.physical_id
        for bus in self._buses:
            if slot < bus["count"]:
                return f"sma-{params.physical_id}", bus["name"], slot
            slot -= bus["count"]
        slots = sum(bus["count"] for bus in self._buses)
        raise DeviceException(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"physical_id {params.physical_id} is out of range: the guest has {slots} slots",
        )

    @staticmethod
    def _failure(name: str, what: str, error: Exception) -> DeviceException:
        """The gRPC error for what happened at QEMU's side."""
        if isinstance(error, DeviceException):
            return error
        code = grpc.StatusCode.FAILED_PRECONDITION if isinstance(error, QmpRefused) else grpc.StatusCode.UNAVAILABLE
        return DeviceException(code, f"{name}: cannot {what} it: {error}")


def _present(qemu: Qmp, name: str) -> tuple[bool, bool]:
    """Whether QEMU has the device, and whether it has the character device.

    The object tree lists a device until it is really gone, and needs no firmware in the guest, other than query-pci.
    """
    devices, characters = qemu.run(("qom-list", {"path": PERIPHERAL}), ("query-chardev", {}))
    return any(entry["name"] == name for entry in devices), any(entry["label"] == name for entry in characters)


def _reason(error: Exception) -> str:
    """The message of SPDK's error object, out of the text that SPDK's client makes of request and response; else the
    text's first line."""
    text = getattr(error, "message", None) or str(error)
    _request, found, response = text.rpartition("response:\n")
    if found:
        try:
            return str(json.loads(response)["message"])
        except (ValueError, KeyError, TypeError):
            pass
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__
