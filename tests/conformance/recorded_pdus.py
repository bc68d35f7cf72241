"""The recorded PDUs of NVMe/TCP: what passed between SPDK's initiator and SPDK's target."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spdk_emulator.nvme_tcp.digests import crc32c

RECORDINGS = Path(__file__).parent / "recordings" / "nvme-tcp"
NQN = "nqn.2016-06.io.spdk:w"
"""The recorded subsystem, and the host that it admits."""
HOST_NQN = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-000000000900"
PATIENCE = 60.0
"""Seconds that anything may take, on a machine that is busy with other things."""
CONVERSATIONS = (
    "attach", "namespace-events", "detach", "refused-host", "refused-subsystem", "discovery", "io", "io-digests"
)  # fmt: skip


def entries(name: str) -> Iterator[dict[str, Any]]:
    """A recording, line by line, without the one that tells what it is about."""
    for line in (RECORDINGS / f"spdk-26.05-{name}.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if "about" not in entry:
            yield entry


def beginning(entry: dict[str, Any]) -> bytes:
    """The bytes of a PDU up to where the recording cuts it."""
    return bytes.fromhex(entry["hex"].split("..")[0])


def whole(entry: dict[str, Any]) -> bytes:
    """A PDU with its cut payload made whole: zeroes, or the pattern that the recorded I/O wrote, with its digest."""
    data = bytearray(beginning(entry))
    if ".." in entry["hex"]:
        length = int.from_bytes(data[4:8], "little")
        has_digest = bool(data[1] & 2)
        zeroes = entry["hex"].endswith("zero bytes")
        while len(data) < length - 4 * has_digest:
            data.append(0 if zeroes else (data[-1] + 7) % 251)
        if has_digest:
            data += crc32c(data[data[3] :]).to_bytes(4, "little")
    return bytes(data)
