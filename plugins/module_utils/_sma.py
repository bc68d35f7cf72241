# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A client of SPDK's Storage Management Agent (SMA) that needs no generated stubs.

The interface is a small table; the message classes are built from it at run time, in a descriptor pool of their own, so
that real stubs in the same process do no harm. ``tests/unit/sma`` proves the table equal to ``roles/ipu/files/proto``.

grpcio and protobuf are imported when the first message is built, so that importing this module needs neither.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import ConnectionFailed, Error, Timeout
from ansible_collections.ipdk.storage.plugins.module_utils._module import MissingLibrary

SERVICE = "sma.StorageManagementAgent"
METHODS = ("CreateDevice", "DeleteDevice", "AttachVolume", "DetachVolume", "SetQos", "GetQosCapabilities")

QOS_FIELDS = ("rd_iops", "wr_iops", "rw_iops", "rd_bandwidth", "wr_bandwidth", "rw_bandwidth")
_FUNCTION = ((1, "physical_id", "uint32"), (2, "virtual_id", "uint32"))

#: file: (package, files it imports, messages, enums). A field is (number, name, type[, oneof]); a type with a dot in
#: front is a message, or an enum where ``enums`` have it. A dot in a name: nested in the one before the dot.
INTERFACE: dict[
    str, tuple[str, tuple[str, ...], dict[str, tuple[tuple[Any, ...], ...]], dict[str, tuple[str, ...]]]
] = {
    "nvme.proto": ("sma.nvme", (), {"DeviceParameters": _FUNCTION}, {}),
    "virtio_blk.proto": ("sma.virtio_blk", (), {"DeviceParameters": _FUNCTION}, {}),
    "nvmf.proto": (
        "sma.nvmf",
        (),
        {
            "VolumeConnectionParameters": (
                (1, "subnqn", "string"),
                (2, "hostnqn", "string"),
                (3, "discovery", ".sma.nvmf.VolumeDiscoveryParameters", "connection_params"),
            ),
            "VolumeDiscoveryParameters": ((1, "discovery_endpoints", "repeated .sma.nvmf.Address"),),
            "Address": ((1, "trtype", "string"), (2, "traddr", "string"), (3, "trsvcid", "string")),
        },
        {},
    ),
    "nvmf_tcp.proto": (
        "sma.nvmf_tcp",
        (),
        {
            "DeviceParameters": (
                (1, "subnqn", "string"),
                (2, "adrfam", "string"),
                (3, "traddr", "string"),
                (4, "trsvcid", "string"),
                (5, "allow_any_host", "bool"),
                (6, "hosts", "repeated string"),
            )
        },
        {},
    ),
    "sma.proto": (
        "sma",
        ("nvme.proto", "nvmf.proto", "nvmf_tcp.proto", "virtio_blk.proto"),
        {
            "CreateDeviceRequest": (
                (1, "volume", ".sma.VolumeParameters"),
                (2, "nvme", ".sma.nvme.DeviceParameters", "params"),
                (3, "virtio_blk", ".sma.virtio_blk.DeviceParameters", "params"),
                (4, "nvmf_tcp", ".sma.nvmf_tcp.DeviceParameters", "params"),
            ),
            "CreateDeviceResponse": ((1, "handle", "string"),),
            "DeleteDeviceRequest": ((1, "handle", "string"),),
            "DeleteDeviceResponse": (),
            "VolumeParameters": (
                (1, "volume_id", "bytes"),
                (2, "nvmf", ".sma.nvmf.VolumeConnectionParameters", "connection_params"),
                (3, "crypto", ".sma.VolumeCryptoParameters"),
            ),
            "VolumeCryptoParameters": (
                (1, "key", "bytes"),
                (2, "key2", "bytes"),
                (3, "cipher", ".sma.VolumeCryptoParameters.Cipher"),
                (4, "tweak_mode", ".sma.VolumeCryptoParameters.TweakMode"),
            ),
            "AttachVolumeRequest": ((1, "volume", ".sma.VolumeParameters"), (2, "device_handle", "string")),
            "AttachVolumeResponse": (),
            "DetachVolumeRequest": ((1, "volume_id", "bytes"), (2, "device_handle", "string")),
            "DetachVolumeResponse": (),
            "SetQosRequest": (
                (1, "device_handle", "string"),
                (2, "volume_id", "bytes"),
                (3, "maximum", ".sma.QosLimit"),
            ),
            "SetQosResponse": (),
            "QosLimit": tuple((number, name, "uint64") for number, name in enumerate(QOS_FIELDS, 1)),
            "GetQosCapabilitiesRequest": ((1, "device_type", ".sma.DeviceType"),),
            "GetQosCapabilitiesResponse": (
                (1, "max_device_caps", ".sma.GetQosCapabilitiesResponse.QosCapabilities"),
                (2, "max_volume_caps", ".sma.GetQosCapabilitiesResponse.QosCapabilities"),
            ),
            "GetQosCapabilitiesResponse.QosCapabilities": tuple(
                (number, name, "bool") for number, name in enumerate(QOS_FIELDS, 1)
            ),
        },
        {
            "DeviceType": (
                "DEVICE_TYPE_INVALID",
                "DEVICE_TYPE_NVME",
                "DEVICE_TYPE_VIRTIO_BLK",
                "DEVICE_TYPE_NVMF_TCP",
            ),
            "VolumeCryptoParameters.Cipher": ("AES_CBC", "AES_XTS"),
            "VolumeCryptoParameters.TweakMode": (
                "TWEAK_MODE_SIMPLE_LBA",
                "TWEAK_MODE_JOIN_NEG_LBA_WITH_LBA",
                "TWEAK_MODE_INCR_512_FULL_LBA",
                "TWEAK_MODE_INCR_512_UPPER_LBA",
            ),
        },
    ),
}


class SmaError(Error):
    """SMA answered with an error. Attributes: ``code`` (gRPC's name of it), ``details``, ``method``."""

    def __init__(self, method: str, code: str, details: str) -> None:
        self.method = method
        self.code = code
        self.details = details
        super().__init__(f"{method}: {details} ({code})")


class InvalidRequest(SmaError):
    """The request can never succeed."""


class NotFound(SmaError):
    """No such volume, or no such device."""


class AlreadyExists(SmaError):
    """The physical id, or the volume, is taken."""


class NotNow(SmaError):
    """The state of guest, QEMU or SPDK forbids it; the text says which."""


class GuestTooSlow(SmaError):
    """The guest has not done its part in time. The device is still there; the same call may succeed later."""


class Unreachable(ConnectionFailed):
    """SMA, or QEMU or SPDK behind it, does not answer: nothing else will work either."""

    def __init__(self, address: str, method: str, details: str) -> None:
        super().__init__(address, details)
        self.args = (f"SMA at {address}: {method}: {details}",)


class NoAnswer(Timeout):
    """SMA did not answer in time; whether it will still do what was asked is unknown."""

    def __init__(self, address: str, method: str, seconds: float) -> None:
        super().__init__(address, method, seconds)
        self.args = (f"SMA at {address}: no answer to {method} within {seconds:g} s; it may still be carried out",)


_KINDS = {
    "INVALID_ARGUMENT": InvalidRequest,
    "UNIMPLEMENTED": InvalidRequest,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": AlreadyExists,
    "FAILED_PRECONDITION": NotNow,
    "DEADLINE_EXCEEDED": GuestTooSlow,
}


def require() -> None:
    """Raise MissingLibrary unless a call could be made."""
    try:
        import google.protobuf  # noqa: F401
    except ImportError as error:
        raise MissingLibrary("protobuf", error) from error
    try:
        import grpc  # noqa: F401
    except ImportError as error:
        raise MissingLibrary("grpcio", error) from error


def file_descriptors() -> list[Any]:
    """The table as FileDescriptorProtos, those that others import first."""
    from google.protobuf import descriptor_pb2

    enums = {f".{row[0]}.{name}" for row in INTERFACE.values() for name in row[3]}
    files = []
    for file_name, (package, imports, messages, file_enums) in INTERFACE.items():
        file = descriptor_pb2.FileDescriptorProto(
            name=file_name, package=package, syntax="proto3", dependency=list(imports)
        )
        made: dict[str, Any] = {}
        for name, fields in messages.items():
            outer, _dot, own = name.rpartition(".")
            message = made[outer].nested_type.add(name=own) if outer else file.message_type.add(name=own)
            made[name] = message
            for number, field_name, type_name, *oneof in fields:
                _add_field(message, number, field_name, type_name, oneof, enums)
        for name, values in file_enums.items():
            outer, _dot, own = name.rpartition(".")
            enum = (made[outer] if outer else file).enum_type.add(name=own)
            for number, value in enumerate(values):
                enum.value.add(name=value, number=number)
        files.append(file)
    return files


def _add_field(message: Any, number: int, name: str, type_name: str, oneof: list[str], enums: set[str]) -> None:
    field = message.field.add(name=name, number=number)
    plain = type_name.replace("repeated ", "")
    field.label = field.LABEL_REPEATED if plain != type_name else field.LABEL_OPTIONAL
    if plain.startswith("."):
        field.type_name = plain
        field.type = field.TYPE_ENUM if plain in enums else field.TYPE_MESSAGE
    else:
        field.type = getattr(field, f"TYPE_{plain.upper()}")
    if oneof:
        names = [declared.name for declared in message.oneof_decl]
        if oneof[0] not in names:
            message.oneof_decl.add(name=oneof[0])
            names.append(oneof[0])
        field.oneof_index = names.index(oneof[0])


def message_classes() -> dict[str, Any]:
    """Message classes by name (``CreateDeviceRequest``) of the package ``sma``."""
    from google.protobuf import descriptor_pool, message_factory

    pool = descriptor_pool.DescriptorPool()
    for file in file_descriptors():
        pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"sma.{name}"))
        for name in INTERFACE["sma.proto"][2]
    }


class Client:
    """A channel to one SMA. Use it as a context manager; it connects with the first call.

    ``address``: ``unix:/dir/sma.sock:8080`` or ``host:port``. ``timeout``: seconds that each call may take; SMA serves
    one call at a time. ``calls`` counts the calls made.
    """

    def __init__(self, address: str, timeout: float = 60.0) -> None:
        self.address = address
        self.timeout = timeout
        self.calls = 0
        self._channel: Any = None
        self._stubs: dict[str, tuple[Any, Any]] = {}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_ignored: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel; without one, nothing."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def call(self, method: str, request: Mapping[str, Any] | None = None) -> Any:
        """The response message. ``request``: the fields, nested as the messages are.

        Raises SmaError (or a subclass), Unreachable, NoAnswer, MissingLibrary.
        """
        return self._call(method, request, self.timeout)

    def pipeline(self, calls: Iterable[Sequence[Any]]) -> list[Any]:
        """``[response or Error, ...]`` in the order of the calls; one after another, as SMA serves them.

        After Unreachable or NoAnswer the rest is not tried and gets the same error.
        """
        answers: list[Any] = []
        lost: Error | None = None
        for method, request in calls:
            if lost is None:
                try:
                    answers.append(self.call(method, request))
                    continue
                except (Unreachable, NoAnswer) as error:
                    lost = error
                except SmaError as error:
                    answers.append(error)
                    continue
            answers.append(lost)
        return answers

    def qos_capabilities(self) -> dict[str, list[str]]:
        """Which limits virtio-blk devices take: ``{"device": [...], "volume": [...]}``, names as in SetQos."""
        answer = self.call("GetQosCapabilities", {"device_type": "DEVICE_TYPE_VIRTIO_BLK"})
        return {
            "device": [name for name in QOS_FIELDS if getattr(answer.max_device_caps, name)],
            "volume": [name for name in QOS_FIELDS if getattr(answer.max_volume_caps, name)],
        }

    def wait_ready(self, seconds: float) -> None:
        """Return when SMA answers. Raises the last error after ``seconds``."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self._call("GetQosCapabilities", {"device_type": "DEVICE_TYPE_VIRTIO_BLK"}, min(self.timeout, 5.0))
                return
            except (Unreachable, NoAnswer):
                if time.monotonic() > deadline:
                    raise
                self.close()  # a channel that failed backs off for seconds before it tries again
                time.sleep(0.1)

    def _call(self, method: str, request: Mapping[str, Any] | None, timeout: float) -> Any:
        if self._channel is None:
            self._open()
        import grpc

        request_class, stub = self._stubs[method]
        self.calls += 1
        try:
            return stub(request_class(**(request or {})), timeout=timeout)
        except grpc.RpcError as error:
            raise self._error(method, error.code().name, error.details() or "no details", timeout) from None

    def _open(self) -> None:
        require()
        import grpc

        classes = message_classes()
        self._channel = grpc.insecure_channel(self.address, options=[("grpc.enable_http_proxy", 0)])
        for method in METHODS:
            stub = self._channel.unary_unary(
                f"/{SERVICE}/{method}",
                request_serializer=classes[f"{method}Request"].SerializeToString,
                response_deserializer=classes[f"{method}Response"].FromString,
            )
            self._stubs[method] = (classes[f"{method}Request"], stub)

    def _error(self, method: str, code: str, details: str, timeout: float) -> Error:
        if code == "DEADLINE_EXCEEDED" and details.lower().startswith("deadline exceeded"):
            return NoAnswer(self.address, method, timeout)  # gRPC's own words: the deadline of this side
        if code == "UNAVAILABLE":
            return Unreachable(self.address, method, details)
        return _KINDS.get(code, SmaError)(method, code, details)
