"""We understand every recorded PDU of NVMe/TCP: decoded and encoded again it is the same bytes."""

from __future__ import annotations

import pytest
from recorded_pdus import CONVERSATIONS, entries, whole
from spdk_emulator.nvme_tcp.pdu import Decoder, Framing


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_every_recorded_pdu_decodes_and_encodes_to_the_same_bytes(name: str) -> None:
    decoders: dict[tuple[int, str], Decoder] = {}
    seen = 0
    for entry in entries(name):
        if "pdu" not in entry or (".." in entry["hex"] and not entry["hex"].endswith("zero bytes")):
            continue
        key = (entry["connection"], entry["from"])
        decoder = decoders.setdefault(key, Decoder(entry["from"]))
        raw = whole(entry)
        if not entry["pdu"].startswith("IC"):
            decoder.connected = True
            decoder.framing = Framing(bool(raw[1] & 1), "digests" in name)
        (pdu,) = decoder.feed(raw)
        assert type(pdu).__name__.lower() == entry["pdu"].lower()
        assert getattr(pdu, "data_digest_ok", True)
        assert b"".join(pdu.encode(decoder.framing)) == raw, entry
        seen += 1
    assert seen > 2
