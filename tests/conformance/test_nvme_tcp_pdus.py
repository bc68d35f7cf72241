"""NVMe/TCP as two real SPDKs spoke it: we understand every recorded PDU, our target answers the recorded host alike.

The recordings hold what passed between SPDK's initiator and SPDK's target. Here the host's PDUs are sent to the
emulator's target in the recorded order, and what comes back is compared byte by byte, but for what ``FREE`` lists.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "roles" / "spdk_emulator" / "files"))

from spdk_emulator.bdev.malloc import MallocBdev
from spdk_emulator.bdev.models import BdevRegistry
from spdk_emulator.nvme_tcp import nvme
from spdk_emulator.nvme_tcp.crc32c import crc32c
from spdk_emulator.nvme_tcp.pdu import (
    CapsuleCmd,
    Decoder,
    Framing,
    IcReq,
    Kind,
)
from spdk_emulator.nvmf.models import Nvmf, TransportOptions
from spdk_emulator.nvmf.subsystem import Address, Host, SubsystemOptions

RECORDINGS = Path(__file__).parent / "recordings" / "nvme-tcp"
NQN = "nqn.2016-06.io.spdk:w"
HOST_NQN = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-000000000900"
PATIENCE = 5
"""Seconds for any single answer."""

FREE = {
    "identify controller": (
        (78, 80, "cntlid: it counts the controllers since the start"),
        (520, 524, "oncs, fuses: reservations, copy and fused operations are not implemented"),
        (534, 536, "ocfs: copy is not implemented"),
    ),
    "identify namespace": (
        (31, 32, "rescap: reservations are not implemented"),
        (74, 81, "mssrl, mcl, msrc: copy is not implemented"),
    ),
    "discovery log": ((0, 8, "genctr: it counts the changes since the start"),),
    "uninitialised": ((0, 1 << 32, "SPDK does not clear a new bdev's memory, we do"),),
    "overtaken": ((16, 18, "sqhd: our target makes the discovery log at once, SPDK's while it goes on with others"),),
    "termination": ((14, 24, "reserved; SPDK leaves there what its previous PDU had"),),
}
"""Bytes of an answer that need not be equal, as (from, up to, why); beside them Connect's cntlid and its digest."""


CID_AT = {Kind.CAPSULE_RESP: slice(20, 22), Kind.C2H_DATA: slice(8, 10), Kind.R2T: slice(8, 10)}
"""Where a PDU says which command it belongs to."""


def recorded(name: str) -> Iterator[dict[str, Any]]:
    for line in (RECORDINGS / f"spdk-26.05-{name}.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if "about" not in entry:
            yield entry


def prefix(entry: dict[str, Any]) -> bytes:
    """The bytes of a PDU up to where the recording cuts it."""
    return bytes.fromhex(entry["hex"].split("..")[0])


def whole(entry: dict[str, Any]) -> bytes:
    """A PDU with its cut payload made whole: zeroes, or the pattern that the recorded I/O wrote, with its digest."""
    data = bytearray(prefix(entry))
    if ".." in entry["hex"]:
        length = int.from_bytes(data[4:8], "little")
        has_digest = bool(data[1] & 2)
        zeroes = entry["hex"].endswith("zero bytes")
        while len(data) < length - 4 * has_digest:
            data.append(0 if zeroes else (data[-1] + 7) % 251)
        if has_digest:
            data += crc32c(data[data[3] :]).to_bytes(4, "little")
    return bytes(data)


ALL = ("attach", "namespace-events", "detach", "refused-host", "refused-subsystem", "discovery", "io", "io-digests")


@pytest.mark.parametrize("name", ALL)
def test_every_recorded_pdu_decodes_and_encodes_to_the_same_bytes(name: str) -> None:
    decoders: dict[tuple[int, str], Decoder] = {}
    seen = 0
    for entry in recorded(name):
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


class Peer:
    """One connection to our target, with what the recorded host had outstanding on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.decoder = Decoder("host")
        self.commands: dict[int, nvme.Command] = {}
        self.qid = 0
        self.early: list[bytes] = []
        """Answers that came before one that the recording has first."""

    async def receive(self) -> bytes:
        """One PDU as it came."""
        async with asyncio.timeout(PATIENCE):
            common = await self.reader.readexactly(8)
            return common + await self.reader.readexactly(int.from_bytes(common[4:8], "little") - 8)

    async def receive_like(self, wanted: bytes) -> tuple[bytes, bool]:
        """The PDU of this type for this command, and whether another one was overtaken by it or by which it was."""

        def same(pdu: bytes) -> bool:
            where = CID_AT.get(wanted[0], slice(0, 0))
            return pdu[0] == wanted[0] and pdu[where] == wanted[where]

        for pdu in self.early:
            if same(pdu):
                self.early.remove(pdu)
                return pdu, True
        while not same(pdu := await self.receive()):
            self.early.append(pdu)
        return pdu, bool(self.early)

    async def is_at_end(self) -> bool:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read(1) == b""


class Replay:
    """Our target, set up like the recorded one, and the recorded host's connections to it."""

    def __init__(self) -> None:
        self.bdevs = BdevRegistry()
        self.target = Nvmf(self.bdevs)
        self.peers: dict[int, Peer] = {}
        self.cntlids: dict[int, int] = {}
        """Ours, by the recorded one."""
        self.compared = 0

    async def __aenter__(self) -> Replay:
        self.target.create_transport(TransportOptions(in_capsule_data_size=8192))
        options = SubsystemOptions(serial_number="SN-WIRE", model_number="MN-WIRE", max_namespaces=8)
        self.subsystem = self.target.create_subsystem(NQN, options)
        self.subsystem.add_host(Host(HOST_NQN))
        for number, block_size in ((1, 512), (2, 4096), (3, 512)):
            made = uuid.UUID(f"00000000-0000-4000-8000-{number:012x}")
            self.bdevs.register(MallocBdev(f"m{number}", block_size, 2048, made))
        self.subsystem.add_namespace("m1", 1, bytes.fromhex("00112233445566778899aabbccddeeff"))
        self.subsystem.add_namespace("m2", 3)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        address = Address("TCP", "IPv4", "127.0.0.1", str(self.port))
        for subsystem in (self.subsystem, self.target.subsystem(nvme.DISCOVERY_NQN)):
            await self.target.add_listener(subsystem, address)
        return self

    async def __aexit__(self, *_unused: object) -> None:
        for peer in self.peers.values():
            peer.writer.close()
        await self.target.shutdown()

    async def play(self, name: str) -> None:
        """Send what the host sent, expect what the controller answered, in the recorded order."""
        for entry in recorded(name):
            number = entry["connection"]
            if entry["from"] == "host":
                if number not in self.peers:
                    self.peers[number] = Peer(*await asyncio.open_connection("127.0.0.1", self.port))
                peer = self.peers[number]
                if entry.get("closed"):
                    peer.writer.write_eof()
                else:
                    await self._send(peer, whole(entry))
            elif entry.get("closed"):
                assert await self.peers[number].is_at_end()
                self.peers.pop(number).writer.close()
            else:
                self._cause_event(entry)
                got, overtook = await self.peers[number].receive_like(prefix(entry))
                self._compare(self.peers[number], name, entry, got, overtook)

    async def _send(self, peer: Peer, raw: bytes) -> None:
        (pdu,) = peer.decoder.feed(raw)
        if isinstance(pdu, IcReq):
            peer.decoder.framing = Framing(pdu.header_digest, pdu.data_digest)
        if isinstance(pdu, CapsuleCmd):
            command = nvme.Command.unpack(pdu.sqe)
            peer.commands[command.cid] = command
            if command.opcode == nvme.FABRICS_OPCODE and command.fctype == nvme.Fabrics.CONNECT:
                raw = self._with_our_cntlid(peer, pdu)
        peer.writer.write(raw)
        await peer.writer.drain()

    def _with_our_cntlid(self, peer: Peer, pdu: CapsuleCmd) -> bytes:
        """A Connect command that names the controller as our target does."""
        fields = nvme.CONNECT_DATA.unpack(pdu.data)
        peer.qid = nvme.Command.unpack(pdu.sqe).cdw10 >> 16
        fields["cntlid"] = self.cntlids.get(fields["cntlid"], fields["cntlid"])
        made = CapsuleCmd(pdu.sqe, nvme.CONNECT_DATA.pack(**fields))
        return b"".join(made.encode(peer.decoder.framing))

    def _cause_event(self, entry: dict[str, Any]) -> None:
        """The recorded operator added a namespace, resized its bdev and removed it: each time an event came."""
        if entry["pdu"] == "CapsuleResp" and prefix(entry)[8:12] == nvme.EVENT_NAMESPACE_CHANGED.to_bytes(4, "little"):
            if 5 not in self.subsystem.namespaces:
                self.subsystem.add_namespace("m3", 5)
            elif self.bdevs.get("m3").num_blocks == 2048:
                self.bdevs.resize(self.bdevs.get("m3"), 4096)
            else:
                self.subsystem.remove_namespace(5)

    def _compare(self, peer: Peer, name: str, entry: dict[str, Any], got: bytes, overtook: bool) -> None:
        wanted = prefix(entry)
        free = []
        if entry["pdu"] == "CapsuleResp":
            command = peer.commands[int.from_bytes(wanted[20:22], "little")]
            if command.opcode == nvme.FABRICS_OPCODE and command.fctype == nvme.Fabrics.CONNECT and not wanted[22]:
                self.cntlids[int.from_bytes(wanted[8:10], "little")] = int.from_bytes(got[8:10], "little")
                free = [(8, 10), (24, 28)]
            elif overtook:
                free = [(low, high) for low, high, _unused in FREE["overtaken"]]
        elif entry["pdu"] == "C2HData":
            command = peer.commands[int.from_bytes(wanted[8:10], "little")]
            free = [
                (wanted[3] + low, wanted[3] + high)
                for low, high, _unused in FREE.get(self._kind(name, peer, command), ())
            ]
        trimmed_wanted, trimmed_got = bytearray(wanted), bytearray(got[: len(wanted)])
        for low, high in free:
            for data in (trimmed_wanted, trimmed_got):
                data[low : min(high, len(data))] = bytes(max(min(high, len(data)) - low, 0))
        assert trimmed_got == trimmed_wanted, f"{name}: {entry}\ngot {got[: len(wanted)].hex()}"
        decoder = Decoder("controller")
        decoder.connected = entry["pdu"] != "ICResp"
        decoder.framing = peer.decoder.framing
        (pdu,) = decoder.feed(got)
        assert getattr(pdu, "data_digest_ok", True)
        self.compared += 1

    def _kind(self, name: str, peer: Peer, command: nvme.Command) -> str:
        """Which entry of FREE applies to a command's data."""
        if peer.qid:
            return "uninitialised" if name == "namespace-events" and command.opcode == nvme.Io.READ else ""
        if command.opcode == nvme.Admin.IDENTIFY:
            return {0: "identify namespace", 1: "identify controller"}.get(command.cdw10 & 0xFF, "")
        is_discovery_log = command.opcode == nvme.Admin.GET_LOG_PAGE and command.cdw10 & 0xFF == nvme.Lid.DISCOVERY
        return "discovery log" if is_discovery_log else ""


def replay(*names: str) -> None:
    async def run() -> None:
        async with Replay() as made:
            for name in names:
                await made.play(name)
            assert made.compared >= 2

    asyncio.run(run())


def test_attach_namespace_events_and_detach_are_answered_alike() -> None:
    replay("attach", "namespace-events", "detach")


@pytest.mark.parametrize("name", ["refused-host", "refused-subsystem", "discovery"])
def test_connections_are_refused_and_discovery_answered_alike(name: str) -> None:
    replay(name)


def test_io_in_capsule_and_through_r2t_is_answered_alike_with_and_without_digests() -> None:
    """In one run: the second recording begins with the data that the first one wrote."""
    replay("io", "io-digests")


MALFORMED = [json.loads(line) for line in (RECORDINGS / "spdk-26.05-malformed.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", [case for case in MALFORMED if "case" in case], ids=lambda case: case["case"])
def test_malformed_pdus_are_answered_alike(case: dict[str, Any]) -> None:
    async def run() -> None:
        async with Replay() as made:
            peer = Peer(*await asyncio.open_connection("127.0.0.1", made.port))
            made.peers[0] = peer
            wanted = bytes.fromhex(case["received"])
            got = b""
            for raw in case["sent"]:
                peer.writer.write(bytes.fromhex(raw))
            while len(got) < len(wanted):
                pdu = await peer.receive()
                expected = bytearray(wanted[len(got) : len(got) + len(pdu)])
                if pdu[0] == Kind.C2H_TERM_REQ:
                    for low, high, _unused in FREE["termination"]:
                        expected[low:high] = pdu[low:high]
                assert pdu == expected
                got += pdu
            assert case["then"] == "open"
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(peer.reader.read(1), 0.05)

    asyncio.run(run())
