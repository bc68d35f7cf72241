"""A target answers the recorded host as SPDK's target did: the host's PDUs are sent in the recorded order.

The target is the emulator or, with ``SPDK_PREFIX=/path`` in the environment, the ``spdk_tgt`` built there; it is set up
by JSON-RPC as the recorded one was. What comes back is compared byte by byte, but for what ``FREE`` lists.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from recorded_pdus import HOST_NQN, NQN, PATIENCE, RECORDINGS, beginning, entries, whole
from spdk_emulator.nvme_tcp import nvme
from spdk_emulator.nvme_tcp.pdu import CapsuleCmd, Decoder, Framing, IcReq, Kind
from support.ports import free_port
from support.spdk import Spdk


class Free(NamedTuple):
    """Bytes of an answer, from ``low`` up to ``high``, that differ from run to run, and may on every engine."""

    low: int
    high: int
    why: str


HEADER_DIGEST = Free(24, 28, "the digest of a header with what varies; that it is right is checked")
FREE = {
    "connect": (
        Free(8, 10, "cntlid: it counts the controllers since the start"),
        HEADER_DIGEST,
    ),
    "identify controller": (Free(78, 80, "cntlid: it counts the controllers since the start"),),
    "discovery log": (Free(0, 8, "genctr: it counts the changes since the start"),),
    "uninitialised": (Free(0, 1 << 32, "SPDK does not clear the buffers of a null bdev, which holds nothing"),),
    "overtaken": (
        Free(16, 18, "sqhd: one answer is ready before another one, or was asked for more often, than then"),
        HEADER_DIGEST,
    ),
    "termination": (Free(14, 24, "reserved; SPDK leaves there what its previous PDU had"),),
}
MOST_VARYING = 7
"""Ranges that may vary."""

CID_AT = {Kind.CAPSULE_RESP: slice(20, 22), Kind.C2H_DATA: slice(8, 10), Kind.R2T: slice(8, 10)}
"""Where a PDU says which command it belongs to."""


def test_what_is_free_only_shrinks() -> None:
    assert len({free for each in FREE.values() for free in each}) == MOST_VARYING


@pytest.fixture(scope="module")
def spdk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spdk]:
    with Spdk(tmp_path_factory.mktemp("spdk")) as node:
        node.call("nvmf_create_transport", trtype="TCP", in_capsule_data_size=8192)
        yield node


class Peer:
    """One connection to our target, with what the recorded host had outstanding on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.decoder = Decoder("host")
        self.commands: dict[int, nvme.Command] = {}
        self.qid = 0
        self.sent = b""
        """The host's last PDU."""
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

    def waits_for_shutdown(self, wanted: bytes, got: bytes) -> bool:
        """The controller status was to tell that the shutdown is complete, and it is still going on."""
        if wanted[0] != Kind.CAPSULE_RESP:
            return False
        command = self.commands[int.from_bytes(wanted[20:22], "little")]
        asked = (command.opcode, command.fctype, command.cdw11)
        complete = nvme.CSTS_SHUTDOWN_COMPLETE
        status = (nvme.FABRICS_OPCODE, nvme.Fabrics.PROPERTY_GET, nvme.Property.CSTS)
        return asked == status and bool(wanted[8] & complete) and not got[8] & complete

    async def is_at_end(self) -> bool:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read(1) == b""


class Replay:
    """A target set up like the recorded one, and the recorded host's connections to it."""

    def __init__(self, spdk: Spdk) -> None:
        self.spdk = spdk
        self.port = free_port()
        self.peers: dict[int, Peer] = {}
        self.cntlids: dict[int, int] = {}
        """This target's, by the recorded one."""
        self.compared = 0
        self._events = self._cause_events()

    async def __aenter__(self) -> Replay:
        call = self.spdk.call
        options = {"serial_number": "SN-WIRE", "model_number": "MN-WIRE", "max_namespaces": 8}
        call("nvmf_create_subsystem", nqn=NQN, **options)
        call("nvmf_subsystem_add_host", nqn=NQN, host=HOST_NQN)
        for number, block_size in ((1, 512), (2, 4096)):
            made = f"00000000-0000-4000-8000-{number:012x}"
            call("bdev_malloc_create", name=f"m{number}", block_size=block_size, num_blocks=2048, uuid=made)
        nguid = "00112233445566778899AABBCCDDEEFF"
        call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "m1", "nsid": 1, "nguid": nguid})
        call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "m2", "nsid": 3})
        made = "00000000-0000-4000-8000-000000000003"
        call("bdev_null_create", name="n3", block_size=512, num_blocks=2048, uuid=made)
        self._listener("nvmf_subsystem_add_listener")
        return self

    async def __aexit__(self, *_unused: object) -> None:
        for peer in self.peers.values():
            peer.writer.close()
        self._listener("nvmf_subsystem_remove_listener")
        self.spdk.call("nvmf_delete_subsystem", nqn=NQN)
        for bdev in self.spdk.call("bdev_get_bdevs"):
            kind = {"Malloc disk": "malloc", "Null disk": "null"}[bdev["product_name"]]
            self.spdk.call(f"bdev_{kind}_delete", name=bdev["name"])

    def _listener(self, method: str) -> None:
        address = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(self.port)}
        for nqn in (NQN, nvme.DISCOVERY_NQN):
            self.spdk.call(method, nqn=nqn, listen_address=address)

    def _cause_events(self) -> Iterator[None]:
        """What the recorded operator did, once for each event."""
        self.spdk.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "n3", "nsid": 5})
        yield
        self.spdk.call("bdev_null_resize", name="n3", new_size=2)
        yield
        self.spdk.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=5)
        yield

    async def play(self, name: str) -> None:
        """Send what the host sent, expect what the controller answered, in the recorded order."""
        for entry in entries(name):
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
                if self._is_event(entry):
                    next(self._events)
                peer, wanted = self.peers[number], beginning(entry)
                got, overtook = await peer.receive_like(wanted)
                while peer.waits_for_shutdown(wanted, got):
                    # The recorded host asked when it was done; this one asks until it is.
                    overtook = True
                    await asyncio.sleep(0.01)
                    peer.writer.write(peer.sent)
                    got, _unused = await peer.receive_like(wanted)
                self._compare(peer, name, entry, got, overtook)

    @staticmethod
    def _is_event(entry: dict[str, Any]) -> bool:
        is_completion = entry["pdu"] == "CapsuleResp"
        return is_completion and beginning(entry)[8:12] == nvme.EVENT_NAMESPACE_CHANGED.to_bytes(4, "little")

    async def _send(self, peer: Peer, raw: bytes) -> None:
        (pdu,) = peer.decoder.feed(raw)
        if isinstance(pdu, IcReq):
            peer.decoder.framing = Framing(pdu.header_digest, pdu.data_digest)
        if isinstance(pdu, CapsuleCmd):
            command = nvme.Command.unpack(pdu.sqe)
            peer.commands[command.cid] = command
            if command.opcode == nvme.FABRICS_OPCODE and command.fctype == nvme.Fabrics.CONNECT:
                raw = self._with_our_cntlid(peer, pdu)
        peer.sent = raw
        peer.writer.write(raw)
        await peer.writer.drain()

    def _with_our_cntlid(self, peer: Peer, pdu: CapsuleCmd) -> bytes:
        """A Connect command that names the controller as this target does."""
        fields = nvme.CONNECT_DATA.unpack(pdu.data)
        peer.qid = nvme.Command.unpack(pdu.sqe).cdw10 >> 16
        fields["cntlid"] = self.cntlids.get(fields["cntlid"], fields["cntlid"])
        made = CapsuleCmd(pdu.sqe, nvme.CONNECT_DATA.pack(**fields))
        return b"".join(made.encode(peer.decoder.framing))

    def _compare(self, peer: Peer, name: str, entry: dict[str, Any], got: bytes, overtook: bool) -> None:
        wanted, start, kind = beginning(entry), 0, ""
        if entry["pdu"] == "CapsuleResp":
            command = peer.commands[int.from_bytes(wanted[20:22], "little")]
            if command.opcode == nvme.FABRICS_OPCODE and command.fctype == nvme.Fabrics.CONNECT and not wanted[22]:
                self.cntlids[int.from_bytes(wanted[8:10], "little")] = int.from_bytes(got[8:10], "little")
                kind = "connect"
            elif overtook:
                kind = "overtaken"
        elif entry["pdu"] == "C2HData":
            start = wanted[3]
            kind = self._kind(name, peer, peer.commands[int.from_bytes(wanted[8:10], "little")])
        assert_same(got[: len(wanted)], wanted, FREE.get(kind, ()), start, f"{name}: {entry}")
        assert len(got) == int.from_bytes(wanted[4:8], "little")
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
            return "identify controller" if command.cdw10 & 0xFF == nvme.Cns.CONTROLLER else ""
        is_discovery_log = command.opcode == nvme.Admin.GET_LOG_PAGE and command.cdw10 & 0xFF == nvme.Lid.DISCOVERY
        return "discovery log" if is_discovery_log else ""


def assert_same(got: bytes, wanted: bytes, free: tuple[Free, ...], start: int, what: str) -> None:
    """The bytes are the wanted ones, but for what is free from ``start`` on."""
    expected = bytearray(wanted)
    for each in free:
        low, high = start + each.low, min(start + each.high, len(wanted))
        if low < high:
            expected[low:high] = got[low:high].ljust(high - low, b"\0")
    assert got.hex() == expected.hex(), what


def replay(spdk: Spdk, *names: str) -> None:
    async def run() -> None:
        async with Replay(spdk) as made:
            for name in names:
                await made.play(name)
            assert made.compared >= 2

    asyncio.run(run())


def test_attach_namespace_events_and_detach_are_answered_alike(spdk: Spdk) -> None:
    replay(spdk, "attach", "namespace-events", "detach")


@pytest.mark.parametrize("name", ["refused-host", "refused-subsystem", "discovery"])
def test_connections_are_refused_and_discovery_answered_alike(spdk: Spdk, name: str) -> None:
    replay(spdk, name)


def test_io_in_capsule_and_through_r2t_is_answered_alike_with_and_without_digests(spdk: Spdk) -> None:
    """In one run: the second recording begins with the data that the first one wrote."""
    replay(spdk, "io", "io-digests")


MALFORMED = [json.loads(line) for line in (RECORDINGS / "spdk-26.05-malformed.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", [case for case in MALFORMED if "case" in case], ids=lambda case: case["case"])
def test_malformed_pdus_are_answered_alike(spdk: Spdk, case: dict[str, Any]) -> None:
    async def run() -> None:
        async with Replay(spdk) as made:
            peer = Peer(*await asyncio.open_connection("127.0.0.1", made.port))
            made.peers[0] = peer
            wanted = bytes.fromhex(case["received"])
            got = b""
            for raw in case["sent"]:
                peer.writer.write(bytes.fromhex(raw))
            while len(got) < len(wanted):
                pdu = await peer.receive()
                free = FREE["termination"] if pdu[0] == Kind.C2H_TERM_REQ else ()
                assert_same(pdu, wanted[len(got) : len(got) + len(pdu)], free, 0, case["case"])
                got += pdu
            assert case["then"] == "open"
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(peer.reader.read(1), 0.05)

    asyncio.run(run())
