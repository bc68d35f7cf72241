# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What device managers have in common whose devices are hot-plugged into a QEMU guest.

The device of physical id N is called `sma-N` in QEMU and SPDK, whatever it is, so that a slot has one device. It comes
and goes as a whole: an unplug is done when QEMU says so, and one that the guest does not follow within `unplug_timeout`
is an error that leaves what is behind the live device. Where no QEMU listens nothing stays behind in SPDK.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from spdk.rpc.client import JSONRPCException
from spdk.sma import DeviceException
from spdk.sma.volume import CryptoException, get_crypto_engine

from .qmp import Qmp, QmpRefused

LOG = logging.getLogger("ipdk_sma")

PERIPHERAL = "/machine/peripheral"  # where QEMU keeps the devices that have an id
RELEASE_SECONDS = 5.0  # QEMU and SPDK need a moment to let go of what was behind a device
PAUSE_SECONDS = 0.02
SLOTS = 32  # of a bus that says no number
# parameter: (default, least value)
NUMBERS = {"reconnect": (1, 0), "qmp_timeout": (10, 0.1), "unplug_timeout": (30, 0.1)}
PARAMETERS = {"buses", "discard", "qmp_addr", "qmp_port", "sock_path", *NUMBERS}


class PluggedDevices:
    """A part of a device manager; the other part is a class of SPDK's, which comes behind it.

    A manager sets `name`, `protocol` (the part of a handle before the colon), `kind` (what its messages call a device)
    and `driver` (QEMU's name of it).
    """

    name: str
    protocol: str
    kind: str
    driver: str
    _client: Callable[[], Any]
    more_parameters: dict[str, Any] = {}
    """Parameters of a manager of its own, with their defaults."""

    def take(self, config: dict[str, Any] | None) -> None:
        """Take the parameters.

        buses: [{name, count}] PCI bridges of the guest, `count` slots each (32); physical ids count through them.
        qmp_addr, qmp_port: QEMU's monitor, for SMA alone (127.0.0.1; the port has no default).
        discard: whether the guest may discard blocks of a virtio-blk disk (false), see `vhost_blk`.
        sock_path: the directory of the sockets that SPDK and QEMU share.
        reconnect: whole seconds between two attempts of the guest to reach SPDK again; 0 never (1).
        qmp_timeout: seconds for QEMU's answer to a command (10).
        unplug_timeout: seconds that the guest may take to release a device (30).

        Raises ValueError for what cannot be right.
        """
        config = dict(config or {})
        unknown = sorted(set(config) - PARAMETERS - set(self.more_parameters))
        if unknown:
            raise ValueError(f"{self.name}: unknown parameters {', '.join(unknown)}")
        if not isinstance(config.get("qmp_port"), int):
            raise ValueError(f"{self.name}: qmp_port has to be a TCP port, not {config.get('qmp_port')!r}")
        values = {}
        for name, (default, least) in NUMBERS.items():
            value = config.get(name, default)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or value < least:
                raise ValueError(f"{self.name}: {name} has to be a number of at least {least}, not {value!r}")
            values[name] = value
        if values["reconnect"] != int(values["reconnect"]):
            raise ValueError(f"{self.name}: reconnect has to be whole seconds, not {values['reconnect']!r}")
        self._discard = config.get("discard", False)
        if not isinstance(self._discard, bool):
            raise ValueError(f"{self.name}: discard has to be true or false, not {self._discard!r}")
        self._buses = [{"count": SLOTS, **bus} for bus in config.get("buses", [])]
        self._qmp_addr = (config.get("qmp_addr", "127.0.0.1"), config["qmp_port"])
        self._directory = config.get("sock_path", "/var/tmp/")
        self._reconnect = int(values["reconnect"])
        self._qmp_timeout = float(values["qmp_timeout"])
        self._unplug_timeout = float(values["unplug_timeout"])
        # Asked to go, not yet gone: QEMU would still list them, and the guest may release them at any time.
        self._leaving: set[str] = set()

    def owns_device(self, id: str) -> bool:
        """Whether `id` is a handle of this manager."""
        return re.fullmatch(self.protocol + r":sma-[0-9]+", id) is not None

    def handle(self, name: str) -> str:
        """The handle of a device, and with `device_of` back."""
        return f"{self.protocol}:{name}"

    @staticmethod
    def device_of(handle: str) -> str:
        """The name of a device."""
        return handle.split(":", 1)[1]

    # ---- SPDK's side

    @contextmanager
    def _spdk(self) -> Iterator[Any]:
        """A connection to SPDK; what goes wrong on it becomes a gRPC error."""
        try:
            client = self._client()
        except (JSONRPCException, OSError) as error:
            raise DeviceException(grpc.StatusCode.UNAVAILABLE, f"SPDK does not answer: {reason(error)}") from error
        try:
            with client:
                yield client
        except JSONRPCException as error:
            raise DeviceException(grpc.StatusCode.INTERNAL, f"SPDK refused: {reason(error)}") from error
        except OSError as error:
            raise DeviceException(grpc.StatusCode.UNAVAILABLE, f"the connection to SPDK broke: {error}") from error

    def _served(self, spdk: Any, name: str, volume: str) -> dict[str, Any]:
        """The bdev of a device of this volume: the volume's, or the one that SMA's crypto engine has put on it."""
        try:
            bdev = get_crypto_engine().get_crypto_bdev(volume) or volume
        except CryptoException as error:
            raise DeviceException(error.code, error.message) from error
        try:
            return spdk.call("bdev_get_bdevs", {"name": bdev})[0]
        except JSONRPCException:
            raise DeviceException(
                grpc.StatusCode.NOT_FOUND, f"{name}: there is no bdev with the UUID {volume}"
            ) from None

    # ---- QEMU's side

    def _qemu(self) -> Qmp:
        return Qmp(*self._qmp_addr, timeout=self._qmp_timeout)

    def _is_there(self, name: str, driver: str | None) -> bool:
        """Whether QEMU has the device and it can be left as it is. `driver`: of the one that has this id, or None."""
        if driver is None:
            self._leaving.discard(name)
            return False
        if driver != self.driver:
            raise DeviceException(
                grpc.StatusCode.ALREADY_EXISTS,
                f"{name}: its slot has another device, a {driver}; delete that one first",
            )
        if name in self._leaving:
            raise DeviceException(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"{name}: the guest has not released it since it was asked to; delete it again first",
            )
        return True

    def _leave(self, qemu: Qmp, name: str, driver: str | None) -> None:
        """Have the guest release the device, in its own time, and QEMU forget it. Another manager's stays."""
        if driver == self.driver:
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
            if event is None and name in devices(qemu):
                raise DeviceException(
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    f"{name}: the guest has not released it within {self._unplug_timeout:g} s; "
                    f"the controller was kept, delete it again",
                )
        self._leaving.discard(name)

    # ---- small things

    def _place(self, params: Any) -> tuple[str, str, int]:
        """Name, bus and slot of a physical id."""
        if params.virtual_id != 0:
            raise DeviceException(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"virtual_id {params.virtual_id}: {self.kind} devices have no virtual functions",
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


def devices(qemu: Qmp) -> dict[str, str]:
    """The ids of QEMU's devices and their drivers. The object tree lists one until it is really gone, and needs no
    firmware in the guest, other than query-pci."""
    listed = qemu.run(("qom-list", {"path": PERIPHERAL}))[0]
    return {entry["name"]: entry["type"].removeprefix("child<").removesuffix(">") for entry in listed}


def reason(error: Exception) -> str:
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
