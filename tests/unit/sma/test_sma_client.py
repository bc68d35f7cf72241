# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The client's table against the .proto files, and its errors."""

from __future__ import annotations

import builtins
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.module_utils import _jsonrpc, _sma
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

PROTO = Path(__file__).resolve().parents[3] / "roles" / "ipu" / "files" / "proto"


def in_order(message: Any) -> Any:
    """A descriptor with everything sorted and without what is not on the wire and not a name."""
    for nested in (*message.nested_type, *message.enum_type) if hasattr(message, "nested_type") else ():
        in_order(nested)
    for name, key in (("nested_type", "name"), ("enum_type", "name"), ("field", "number"), ("value", "number")):
        if hasattr(message, name):
            getattr(message, name).sort(key=lambda entry, key=key: getattr(entry, key))
    for field in getattr(message, "field", ()):
        field.ClearField("json_name")
    return message


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    target = tmp_path_factory.mktemp("proto") / "all.pb"
    names = sorted(path.name for path in PROTO.glob("*.proto"))
    assert protoc.main(["protoc", f"-I{PROTO}", f"--descriptor_set_out={target}", *names]) == 0
    return {file.name: file for file in descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes()).file}


def test_the_table_is_the_proto_files(compiled: dict[str, descriptor_pb2.FileDescriptorProto]) -> None:
    built = {file.name: file for file in _sma.file_descriptors()}
    assert built.keys() == compiled.keys()
    for name, file in compiled.items():
        assert built[name].package == file.package
        for kind in ("message_type", "enum_type"):
            theirs = {entry.name: in_order(entry) for entry in getattr(file, kind)}
            ours = {entry.name: in_order(entry) for entry in getattr(built[name], kind)}
            assert ours == theirs


def test_the_methods_are_the_service(compiled: dict[str, descriptor_pb2.FileDescriptorProto]) -> None:
    (service,) = compiled["sma.proto"].service
    assert f"sma.{service.name}" == _sma.SERVICE
    assert sorted(method.name for method in service.method) == sorted(_sma.METHODS)
    for method in service.method:
        assert (method.input_type, method.output_type) == (f".sma.{method.name}Request", f".sma.{method.name}Response")
        assert not method.client_streaming
        assert not method.server_streaming


def test_a_message_on_the_wire() -> None:
    request = _sma.message_classes()["CreateDeviceRequest"](
        volume={"volume_id": b"0123456789abcdef"}, virtio_blk={"physical_id": 300}
    )
    assert request.SerializeToString() == b"\x0a\x12\x0a\x100123456789abcdef\x1a\x03\x08\xac\x02"
    assert request.WhichOneof("params") == "virtio_blk"


def test_nobody_listens(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/sma.sock:8080"
    with _sma.Client(address, timeout=5) as client:
        with pytest.raises(_sma.Unreachable, match=f"SMA at {address}: DeleteDevice: ") as caught:
            client.call("DeleteDevice", {"handle": "virtio_blk:sma-0"})
        answers = client.pipeline([("DeleteDevice", {"handle": "virtio_blk:sma-0"})] * 3)
        assert len(set(answers)) == 1  # tried once
    assert isinstance(caught.value, _jsonrpc.ConnectionFailed)


def test_waiting_for_an_answer_is_bounded(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as mute:
        mute.bind(f"{tmp_path}/sma.sock:1")
        mute.listen()
        with _sma.Client(f"unix:{tmp_path}/sma.sock:1", timeout=0.3) as client:
            started = time.monotonic()
            with pytest.raises((_sma.NoAnswer, _sma.Unreachable)):
                client.call("DeleteDevice", {"handle": "virtio_blk:sma-0"})
            with pytest.raises((_sma.NoAnswer, _sma.Unreachable)):
                client.wait_ready(0.5)
            assert time.monotonic() - started < 5


@pytest.mark.parametrize(("hidden", "library"), [("grpc", "grpcio"), ("google.protobuf", "protobuf")])
def test_missing_library(monkeypatch: pytest.MonkeyPatch, hidden: str, library: str) -> None:
    real = builtins.__import__

    def fake(name: str, *more: Any, **even_more: Any) -> Any:
        if name.startswith(hidden):
            raise ImportError(f"No module named {name!r}")
        return real(name, *more, **even_more)

    monkeypatch.setattr(builtins, "__import__", fake)
    with pytest.raises(_sma.MissingLibrary, match=f"the Python library {library} is missing"):
        _sma.Client("unix:/nowhere").call("DeleteDevice", {})
