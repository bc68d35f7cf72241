"""PDUs: however the bytes are cut they come out the same; what is wrong is refused with the right FES and FEI."""

from __future__ import annotations

import random
import struct

import pytest
from spdk_emulator.nvme_tcp.digests import crc32c
from spdk_emulator.nvme_tcp.pdu import (
    CONTROLLER,
    HOST,
    PLAIN,
    R2T,
    C2HData,
    CapsuleCmd,
    CapsuleResp,
    Decoder,
    Fes,
    Framing,
    H2CData,
    IcReq,
    IcResp,
    Pdu,
    ProtocolError,
    TermReq,
)

SQE = bytes(range(64))
DATA = bytes(index * 7 % 251 for index in range(4096))
FRAMINGS = [
    PLAIN,
    Framing(header_digest=True),
    Framing(data_digest=True),
    Framing(True, True),
    Framing(True, True, alignment=3),
    Framing(alignment=31),
]
FROM_HOST = [CapsuleCmd(SQE), CapsuleCmd(SQE, DATA), H2CData(1, 2, 4096, DATA, last=False), H2CData(1, 2, 8192, DATA)]
FROM_CONTROLLER = [
    CapsuleResp(bytes(range(16))),
    C2HData(7, 0, DATA, last=False),
    C2HData(7, 4096, DATA, success=True),
    R2T(3, 4, 0, 65536),
]


def stream(pdus: list[Pdu], framing: Framing) -> bytes:
    return b"".join(bytes(buffer) for pdu in pdus for buffer in pdu.encode(framing))


def decoder(sender: str, framing: Framing = PLAIN) -> Decoder:
    made = Decoder(sender)
    made.connected = True
    made.framing = framing
    return made


def plain(pdu: Pdu) -> Pdu:
    """With bytes in place of views, so that it can be compared."""
    for name in ("data", "sqe", "cqe"):
        if hasattr(pdu, name):
            setattr(pdu, name, bytes(getattr(pdu, name)))
    return pdu


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize(("sender", "pdus"), [(HOST, FROM_HOST), (CONTROLLER, FROM_CONTROLLER)])
def test_pdus_survive_any_cut(sender: str, pdus: list[Pdu], framing: Framing) -> None:
    raw = stream(pdus, framing)
    chance = random.Random(1)
    for most in (1, 7, 100, 5000, len(raw)):
        made = decoder(sender, framing)
        got, position = [], 0
        while position < len(raw):
            size = chance.randint(1, most)
            got += [plain(pdu) for pdu in made.feed(raw[position : position + size])]
            position += size
        assert got == pdus
        assert made.pending == 0


@pytest.mark.parametrize("alignment", [0, 1, 3, 31])
def test_data_begins_at_a_multiple_of_the_alignment(alignment: int) -> None:
    raw = stream([CapsuleCmd(SQE, DATA)], Framing(True, True, alignment))
    offset = raw[3]
    assert offset % ((alignment + 1) * 4) == 0
    assert raw[offset : offset + len(DATA)] == DATA


@pytest.mark.parametrize("pdu", [IcReq(0, 3, True, True, 7), IcResp(0, 1, False, True, 65536)])
def test_initialization_has_128_bytes_and_comes_once(pdu: IcReq | IcResp) -> None:
    raw = stream([pdu], PLAIN)
    made = Decoder(HOST if isinstance(pdu, IcReq) else CONTROLLER)
    assert len(raw) == 128
    assert list(made.feed(raw)) == [pdu]
    with pytest.raises(ProtocolError, match="initialized already") as caught:
        list(made.feed(raw))
    assert caught.value.fes == Fes.SEQUENCE_ERROR


def test_the_owner_changes_the_framing_between_two_pdus_of_one_chunk() -> None:
    raw = stream([IcReq(0, 0, True, True)], PLAIN) + stream([CapsuleCmd(SQE, DATA)], Framing(True, True))
    made = Decoder(HOST)
    for pdu in made.feed(raw):
        if isinstance(pdu, IcReq):
            made.framing = Framing(pdu.header_digest, pdu.data_digest)
    assert plain(pdu) == CapsuleCmd(SQE, DATA)


@pytest.mark.parametrize("pdu", [FROM_HOST[1], FROM_HOST[3]])
def test_a_wrong_data_digest_is_reported_and_no_error(pdu: Pdu) -> None:
    framing = Framing(True, True)
    raw = bytearray(stream([pdu], framing))
    raw[-1] ^= 1
    (got,) = decoder(HOST, framing).feed(bytes(raw))
    assert not got.data_digest_ok


def common(kind: int, hlen: int, plen: int, flags: int = 0, pdo: int = 0) -> bytes:
    return struct.pack("<BBBBI", kind, flags, hlen, pdo, plen)


BAD = {
    "type from the wrong side": (PLAIN, common(0x05, 24, 24), Fes.INVALID_HEADER_FIELD, 0),
    "unknown type": (PLAIN, common(0x0A, 24, 24), Fes.INVALID_HEADER_FIELD, 0),
    "header length": (PLAIN, common(0x04, 60, 72), Fes.INVALID_HEADER_FIELD, 2),
    "shorter than its header": (PLAIN, common(0x04, 72, 71), Fes.INVALID_HEADER_FIELD, 4),
    "data inside the header": (PLAIN, common(0x04, 72, 100, pdo=8), Fes.INVALID_HEADER_FIELD, 3),
    "data behind the end": (PLAIN, common(0x04, 72, 100, pdo=104), Fes.INVALID_HEADER_FIELD, 3),
    "data not aligned": (Framing(alignment=3), common(0x04, 72, 200, pdo=84), Fes.INVALID_HEADER_FIELD, 3),
    "no header digest": (Framing(True), common(0x04, 72, 76), Fes.INVALID_HEADER_FIELD, 1),
    "no room for the header digest": (Framing(True), common(0x04, 72, 72, flags=1), Fes.INVALID_HEADER_FIELD, 4),
    "no data digest": (Framing(False, True), common(0x04, 72, 100, pdo=72), Fes.INVALID_HEADER_FIELD, 1),
    "no room for the data digest": (
        Framing(False, True),
        common(0x04, 72, 74, flags=2, pdo=72),
        Fes.INVALID_HEADER_FIELD,
        4,
    ),
    "too much data": (PLAIN, common(0x06, 24, 0xFFFFFFFF, pdo=24), Fes.LIMIT_EXCEEDED, 0),
    "empty termination request": (PLAIN, common(0x02, 24, 24), Fes.INVALID_HEADER_FIELD, 4),
    "huge termination request": (PLAIN, common(0x02, 24, 153), Fes.INVALID_HEADER_FIELD, 4),
    "unknown error status": (
        PLAIN,
        common(0x02, 24, 25) + struct.pack("<HI10xB", 9, 0, 0),
        Fes.INVALID_HEADER_FIELD,
        8,
    ),
    "data length": (
        PLAIN,
        common(0x06, 24, 28, pdo=24) + struct.pack("<HHII4x4x", 0, 1, 0, 8),
        Fes.INVALID_HEADER_FIELD,
        16,
    ),
}


@pytest.mark.parametrize(("framing", "raw", "fes", "fei"), BAD.values(), ids=BAD.keys())
def test_what_is_wrong_is_named_by_fes_and_fei(framing: Framing, raw: bytes, fes: Fes, fei: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        list(decoder(HOST, framing).feed(raw))
    assert (caught.value.fes, caught.value.fei) == (fes, fei)
    request = caught.value.termination(CONTROLLER)
    assert isinstance(request, TermReq)
    assert b"".join(request.encode())[24:32] == raw[:8]


def test_a_wrong_header_digest_is_fatal() -> None:
    raw = bytearray(stream([CapsuleCmd(SQE)], Framing(True)))
    raw[20] ^= 1
    with pytest.raises(ProtocolError) as caught:
        list(decoder(HOST, Framing(True)).feed(bytes(raw)))
    assert caught.value.fes == Fes.HEADER_DIGEST_ERROR


def test_nothing_is_held_beyond_the_limit() -> None:
    """The length alone is enough to refuse a PDU; its bytes are not waited for."""
    made = decoder(HOST)
    with pytest.raises(ProtocolError):
        list(made.feed(common(0x04, 72, 72 + made.max_data + 1, pdo=72)))
    assert made.pending == 0


def test_random_bytes_raise_nothing_but_protocol_errors() -> None:
    chance = random.Random(2)
    refused = 0
    for _unused in range(3000):
        made = decoder(chance.choice((HOST, CONTROLLER)), chance.choice(FRAMINGS))
        raw = bytearray(stream([chance.choice(FROM_HOST + FROM_CONTROLLER)], made.framing)[: chance.randint(1, 400)])
        for _unused in range(chance.randint(0, 6)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        try:
            list(made.feed(bytes(raw)))
        except ProtocolError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_crc32c_of_the_published_examples(data: bytes, checksum: int) -> None:
    """RFC 3720, appendix B.4."""
    assert crc32c(data) == crc32c(memoryview(b"-" + data)[1:]) == checksum
