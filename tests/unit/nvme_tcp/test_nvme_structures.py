"""NVMe's structures: what is packed comes out again, at the offsets of the specification."""

from __future__ import annotations

import pytest
from spdk_emulator.nvme_tcp import nvme

LAYOUTS = {name: value for name, value in vars(nvme).items() if isinstance(value, nvme.Layout)}


@pytest.mark.parametrize("name", LAYOUTS)
def test_fields_are_apart_and_inside(name: str) -> None:
    layout = LAYOUTS[name]
    taken: set[int] = set()
    for offset, form in layout.fields.values():
        occupied = set(range(offset, offset + form.size))
        assert not taken & occupied
        taken |= occupied
    assert max(taken) < layout.size


@pytest.mark.parametrize("name", LAYOUTS)
def test_fields_come_out_as_they_went_in(name: str) -> None:
    layout = LAYOUTS[name]
    values = {
        field: bytes(range(1, form.size + 1)) if form.format.endswith("s") else 1 << (8 * form.size - 1)
        for field, (_unused, form) in layout.fields.items()
        if form.size < 256
    }
    data = layout.pack(**values)
    assert len(data) == layout.size
    assert {field: layout.unpack(data)[field] for field in values} == values


def test_a_command_has_its_fields_where_they_belong() -> None:
    raw = nvme.command(nvme.Io.READ, 0x1234, 7, 4096, cdws=(0x10, 0x11, 0x12))
    assert len(raw) == 64
    assert (raw[0], raw[1], raw[2:4], raw[4:8]) == (2, 0x40, b"\x34\x12", b"\x07\0\0\0")
    assert raw[32:40] == b"\0\x10\0\0\0\0\0\x5a"
    assert raw[40:52] == b"\x10\0\0\0\x11\0\0\0\x12\0\0\0"
    parsed = nvme.Command.unpack(raw)
    assert (parsed.cid, parsed.nsid, parsed.sgl_length, parsed.cdw12, parsed.cdw15) == (0x1234, 7, 4096, 0x12, 0)
    assert nvme.command(nvme.Io.WRITE, 0, in_capsule=True)[39] == nvme.SGL_IN_CAPSULE


def test_a_completion_carries_64_bits_and_a_status() -> None:
    raw = nvme.completion(5, 9, nvme.Sc.INVALID_NAMESPACE | nvme.DO_NOT_RETRY, 0x1122334455667788)
    parsed = nvme.Completion.unpack(raw)
    assert (parsed.cid, parsed.sqhd, parsed.value) == (5, 9, 0x1122334455667788)
    assert parsed.status == nvme.Sc.INVALID_NAMESPACE | nvme.DO_NOT_RETRY
    assert raw[14:16] == (0x8016).to_bytes(2, "little")


def test_lists_of_namespaces_and_their_descriptors() -> None:
    assert nvme.parse_namespace_list(nvme.namespace_list([1, 3, 9])) == [1, 3, 9]
    assert len(nvme.namespace_list(range(1, 2000))) == 4096
    assert nvme.parse_namespace_list(nvme.namespace_list(range(1, 2000))) == list(range(1, 1025))
    pairs = [(nvme.DESCRIPTOR_EUI64, b"12345678"), (nvme.DESCRIPTOR_UUID, bytes(range(16)))]
    page = nvme.namespace_descriptors(pairs)
    assert len(page) == 4096
    assert list(nvme.parse_namespace_descriptors(page)) == pairs


@pytest.mark.parametrize(("raw", "text"), [(b"SN1".ljust(20), "SN1"), (b"nqn.x\0\0", "nqn.x"), (b"", "")])
def test_text_loses_its_padding(raw: bytes, text: str) -> None:
    assert nvme.text(raw) == text
