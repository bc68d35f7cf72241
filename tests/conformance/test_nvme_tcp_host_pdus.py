"""NVMe/TCP as SPDK's initiator spoke it: where the recorded target stands, ours sends the PDUs that SPDK sent.

For the admin queue a peer on a real socket answers with the recorded controller's PDUs while our initiator attaches,
follows namespaces, discovers and detaches. I/O queues are replayed without a socket. What is not compared is counted in
``FREE``.
"""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from recorded_pdus import HOST_NQN, NQN, PATIENCE, entries
from spdk_emulator.app import App
from spdk_emulator.jsonrpc.server import call
from spdk_emulator.nvme_tcp import nvme
from spdk_emulator.nvme_tcp.digests import crc32c
from spdk_emulator.nvme_tcp.host import HostQueue, Request
from spdk_emulator.nvme_tcp.nvme import Admin, Io
from spdk_emulator.nvme_tcp.pdu import C2HData, CapsuleResp, Kind
from spdk_emulator.options import parse

FREE = {
    "host identifier": (16, "bytes of a Connect: each process makes one up"),
    "command identifier at shutdown": (
        2,
        "bytes of a command: SPDK takes back those of its event requests first, and an event that comes then would pass"
        " for the answer to another command",
    ),
    "keep alive": (1, "command of a recording: when it is due depends on the clock, not on what was said before"),
}
"""What is not compared: how much of it, and why. Who mends one takes it out; no number may rise."""
HOST_IDENTIFIER = slice(72, 88)
CID = slice(10, 12)
CID_OF_ANSWER = {Kind.CAPSULE_RESP: 20, Kind.C2H_DATA: 8}
PDU_HEAD = struct.Struct("<BBBBI")


class Pdu:
    """A recorded PDU. Long payloads were cut: ``known`` is their beginning, ``whole`` what is sent instead."""

    def __init__(self, entry: dict[str, Any]) -> None:
        self.by_host = entry["from"] == "host"
        self.connection: int = entry["connection"]
        digits = re.match("[0-9a-f]*", entry["hex"])
        assert digits
        self.known = bytes.fromhex(digits.group())
        self.kind, _unused, _unused, self.offset, length = PDU_HEAD.unpack_from(self.known)
        self.whole = self.known.ljust(length, b"\0")
        self.cut = len(self.known) < length

    @property
    def command(self) -> nvme.Command:
        return nvme.Command.unpack(self.known[8:72])

    @property
    def cid(self) -> int:
        at = CID.start if self.kind == Kind.CAPSULE_CMD else CID_OF_ANSWER.get(self.kind, 8)
        return int.from_bytes(self.known[at : at + 2], "little")

    def is_command(self, opcode: int) -> bool:
        return self.kind == Kind.CAPSULE_CMD and self.command.opcode == opcode


def recorded(*names: str, connection: int) -> list[Pdu]:
    pdus = []
    for name in names:
        pdus += [Pdu(entry) for entry in entries(name) if entry["connection"] == connection and "pdu" in entry]
    return pdus


def without_keep_alives(pdus: list[Pdu]) -> list[Pdu]:
    """Leave out the keep alive commands, and their answers."""
    kept, dropped = [], set()
    for pdu in pdus:
        if pdu.by_host and pdu.is_command(Admin.KEEP_ALIVE):
            dropped.add(pdu.cid)
        elif not pdu.by_host and pdu.kind in (Kind.CAPSULE_RESP, Kind.C2H_DATA) and pdu.cid in dropped:
            dropped.discard(pdu.cid)
        else:
            kept.append(pdu)
    return kept


def test_what_is_free_only_shrinks() -> None:
    free = {name: amount for name, (amount, _why) in FREE.items()}
    for name in ("attach", "namespace-events", "discovery", "detach"):
        script = recorded(name, connection=1)
        left_out = sum(pdu.by_host for pdu in script) - sum(pdu.by_host for pdu in without_keep_alives(script))
        assert left_out <= free["keep alive"], name
    assert free == {
        "host identifier": HOST_IDENTIFIER.stop - HOST_IDENTIFIER.start,
        "command identifier at shutdown": CID.stop - CID.start,
        "keep alive": 1,
    }


def compared(raw: bytes, shutting_down: bool = False) -> bytes:
    """A host's PDU without what ``FREE`` names."""
    copy = bytearray(raw)
    if raw[0] == Kind.CAPSULE_CMD:
        if raw[8] == nvme.FABRICS_OPCODE and raw[12] == nvme.Fabrics.CONNECT:
            copy[HOST_IDENTIFIER] = bytes(16)
        if shutting_down:
            copy[CID] = bytes(2)
    return bytes(copy)


class Peer:
    """Listens; answers an admin queue from ``script`` and I/O queues with success and zeroes."""

    def __init__(self, script: list[Pdu]) -> None:
        self.sent: list[bytes] = []
        """What came on the admin queue."""
        self.finished = asyncio.Event()
        self.pause = len(script)
        """Where in the script to wait, until :meth:`proceed`."""
        self._script = script
        self._at = 0
        self._cids: dict[int, bytes] = {}
        """Recorded command identifiers as ours."""
        self._writer: asyncio.StreamWriter | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await self._pdu(reader)
            writer.write(self._script[1].whole)
            connect = await self._pdu(reader)
            if connect[50:52] == b"\0\0":
                self._writer = writer
                self.sent += [request, connect]
                self._at = 3
                self.proceed()
                while True:
                    raw = await self._pdu(reader)
                    self.sent.append(raw)
                    if self._at < len(self._script):
                        self._cids[self._script[self._at].cid] = raw[CID]
                    self._at += 1
                    self.proceed()
            writer.write(CapsuleResp(nvme.completion(0, 1, 0, 1)).encode()[0])
            while True:
                command = nvme.Command.unpack((await self._pdu(reader))[8:72])
                writer.write(b"".join(C2HData(command.cid, 0, bytes(command.sgl_length), success=True).encode()))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def proceed(self, pause: int | None = None) -> None:
        """Say what the recorded controller said before the host's next PDU."""
        if pause is not None:
            self.pause = pause
        while self._at < min(self.pause, len(self._script)) and not self._script[self._at].by_host:
            pdu = self._script[self._at]
            raw = bytearray(pdu.whole)
            at = CID_OF_ANSWER[pdu.kind]
            raw[at : at + 2] = self._cids.get(pdu.cid, raw[at : at + 2])
            assert self._writer is not None
            self._writer.write(raw)
            self._at += 1
        if self._at == len(self._script):
            self.finished.set()

    @staticmethod
    async def _pdu(reader: asyncio.StreamReader) -> bytes:
        head = await reader.readexactly(8)
        return head + await reader.readexactly(PDU_HEAD.unpack(head)[4] - 8)


async def _replay(script: list[Pdu], work: Callable[[Peer, Callable[..., Any]], Awaitable[None]]) -> Peer:
    peer = Peer(script)
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    place = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port), "hostnqn": HOST_NQN}
    app = App(parse(["--no-rpc-server"]))
    app.running = True

    async def ask(method: str, **params: Any) -> Any:
        if method in ("bdev_nvme_attach_controller", "bdev_nvme_start_discovery"):
            params |= place
        answer = call(app, method, params or None)
        return await answer if asyncio.iscoroutine(answer) else answer

    async with asyncio.timeout(PATIENCE):
        try:
            await work(peer, ask)
        finally:
            await app.nvme.shutdown()
            server.close()
    return peer


def identify_controller(pdu: Pdu) -> None:
    """What the recording cut off and an initiator needs: how much data a capsule of the I/O queue may carry."""
    pdu.whole = pdu.whole[: 24 + 1792] + struct.pack("<I", (8192 + 64) // 16) + pdu.whole[24 + 1796 :]


def assert_equal(sent: list[bytes], script: list[Pdu], shutdown_from: int | None = None) -> None:
    wanted = [pdu for pdu in script if pdu.by_host]
    for number, (raw, pdu) in enumerate(zip(sent, wanted, strict=False)):
        shutting_down = shutdown_from is not None and number >= shutdown_from
        ours, theirs = compared(raw, shutting_down), compared(pdu.known, shutting_down)
        assert ours[: len(theirs)].hex() == theirs.hex(), f"host PDU {number}"
        assert len(raw) == len(pdu.whole), f"host PDU {number}"
    assert len(sent) == len(wanted)


def test_attach_namespace_events_and_detach() -> None:
    attach = recorded("attach", connection=1)
    events = recorded("namespace-events", connection=1)
    detach = recorded("detach", connection=1)
    script = without_keep_alives(attach + events + detach)
    event_start = len(without_keep_alives(attach))
    identify_controller(script[17])

    async def work(peer: Peer, ask: Callable[..., Any]) -> None:
        peer.pause = event_start
        assert await ask("bdev_nvme_attach_controller", name="w", subnqn=NQN, num_io_queues=1) == ["wn1", "wn3"]
        # One event after the other, as the recorded operator made them: added, resized, removed.
        seen = [await sizes(ask)]
        for following in (*_event_answers(script, event_start)[1:], len(script)):
            peer.proceed(following)
            while (now := await sizes(ask)) == seen[-1]:
                await asyncio.sleep(0.002)
            seen.append(now)
        assert [sorted(names) for names in seen] == [
            ["wn1", "wn3"], ["wn1", "wn3", "wn5"], ["wn1", "wn3", "wn5"], ["wn1", "wn3"]
        ]  # fmt: skip
        assert seen[2]["wn5"] > seen[1]["wn5"]
        await ask("bdev_nvme_detach_controller", name="w")

    peer = asyncio.run(_replay(script, work))
    hosts = sum(pdu.by_host for pdu in script)
    assert_equal(peer.sent, script, shutdown_from=hosts - 3)


async def sizes(ask: Callable[..., Any]) -> dict[str, int]:
    """The bdevs and how many blocks they have."""
    return {bdev["name"]: bdev["num_blocks"] for bdev in await ask("bdev_get_bdevs")}


def _event_answers(script: list[Pdu], start: int) -> list[int]:
    """Where the controller tells of a changed namespace."""
    return [
        number
        for number, pdu in enumerate(script)
        if number >= start and not pdu.by_host and pdu.kind == Kind.CAPSULE_RESP
        if nvme.Completion.unpack(pdu.known[8:24]).cdw0 == nvme.EVENT_NAMESPACE_CHANGED
    ]


def test_discovery() -> None:
    script = without_keep_alives(recorded("discovery", connection=1))
    # Only the discovery service itself is in the log page: no controller is attached.
    log_page = [pdu for pdu in script if pdu.kind == Kind.C2H_DATA][-2]
    entry = 24 + nvme.DISCOVERY_HEADER.size
    log_page.whole = bytes(log_page.whole[:entry]) + _current_discovery() + _current_discovery()

    async def work(peer: Peer, ask: Callable[..., Any]) -> None:
        await ask("bdev_nvme_start_discovery", name="d", wait_for_attach=True)
        [told] = await ask("bdev_nvme_get_discovery_info")
        assert [each["trid"]["subnqn"] for each in told["referrals"]] == [nvme.DISCOVERY_NQN] * 2
        await ask("bdev_nvme_stop_discovery", name="d")

    peer = asyncio.run(_replay(script, work))
    hosts = sum(pdu.by_host for pdu in script)
    assert_equal(peer.sent, script, shutdown_from=hosts - 3)


def _current_discovery() -> bytes:
    return nvme.DISCOVERY_ENTRY.pack(
        trtype=nvme.TRTYPE_TCP,
        adrfam=1,
        subtype=nvme.SUBTYPE_CURRENT_DISCOVERY,
        trsvcid=b"8009",
        traddr=b"127.0.0.1",
        subnqn=nvme.DISCOVERY_NQN.encode(),
    )


@pytest.mark.parametrize(
    ("name", "connection", "subnqn"),
    [("refused-subsystem", 5, "nqn.2016-06.io.spdk:none"), ("refused-host", 4, NQN)],
)
def test_refused(name: str, connection: int, subnqn: str) -> None:
    script = recorded(name, connection=connection)
    connect = next(pdu for pdu in script if pdu.is_command(nvme.FABRICS_OPCODE))
    data = nvme.CONNECT_DATA.unpack(connect.whole[72:])

    async def work(peer: Peer, ask: Callable[..., Any]) -> None:
        with pytest.raises(OSError, match="Input/output error"):
            await ask("bdev_nvme_attach_controller", name="w", subnqn=nvme.text(data["subnqn"]) or subnqn)

    peer = asyncio.run(_replay(script, work))
    for pdu in script:
        if pdu.is_command(nvme.FABRICS_OPCODE):
            # The host NQN is the recorded one, or was another: the test says which it used.
            pdu.known = pdu.known[: 72 + 512]
    assert_equal(peer.sent, script)


def _io_connections(name: str) -> Iterator[int]:
    """The connections of a recording on which blocks were written or read; the first one is the admin queue."""
    yield from dict.fromkeys(
        entry["connection"]
        for entry in entries(name)
        if entry["connection"] != 1 and entry.get("pdu") == "CapsuleCmd" and entry.get("opcode") in (Io.READ, Io.WRITE)
    )


@pytest.mark.parametrize(("name", "commands"), [("attach", 6), ("namespace-events", 3), ("io", 40), ("io-digests", 40)])
def test_io_queues(name: str, commands: int) -> None:
    checked = 0
    for connection in _io_connections(name):
        checked += _replay_io(recorded(name, connection=connection), digests=name == "io-digests")
    assert checked > commands


def _replay_io(script: list[Pdu], digests: bool) -> int:
    """Submit what was submitted, hand over what came back, compare what goes out. Returns the number of host PDUs."""
    queue = HostQueue(127, lambda: None, lambda: None, digests, digests)
    queue.open()
    completed: list[int] = []
    out = bytearray()
    for number, pdu in enumerate(script):
        if not pdu.by_host:
            raw = bytes(pdu.whole)
            if pdu.cut and digests:
                raw = _with_digest(raw, pdu)
            view = queue.receive_buffer()
            view[: len(raw)] = raw
            queue.received(len(raw))
            continue
        if pdu.kind == Kind.CAPSULE_CMD:
            queue.submit(_request(pdu, script[number + 1 :], completed))
        out += b"".join(queue.take_output())
        ours, out = bytes(out[: len(pdu.whole)]), out[len(pdu.whole) :]
        assert len(ours) == len(pdu.whole)
        assert ours[: len(pdu.known)].hex() == pdu.known.hex()
    assert not out
    assert queue.outstanding == 0 or script[-1].by_host
    assert set(completed) <= {0}
    return sum(pdu.by_host for pdu in script)


def _with_digest(raw: bytes, pdu: Pdu) -> bytes:
    """The recording has neither the whole payload nor its digest: the digest of zeroes behind the known part."""
    return raw[:-4] + struct.pack("<I", crc32c(raw[pdu.offset : -4]))


def _request(pdu: Pdu, later: list[Pdu], completed: list[int]) -> Request:
    """What was submitted. Data that did not fit the capsule is in the H2CData PDUs that follow."""
    command = pdu.command
    low, high = command.cdw10 | command.cdw11 << 32, command.cdw12 | command.cdw13 << 32
    data = bytearray(command.sgl_length)
    carriers = [pdu] if pdu.offset else []
    if command.opcode == Io.WRITE and not carriers:
        carriers = [next(each for each in later if each.kind == Kind.H2C_DATA and each.cid == command.cid)]
    for carrier in carriers:
        known = carrier.known[carrier.offset : carrier.offset + len(data)]
        data[: len(known)] = known
    return Request(
        command.opcode,
        command.nsid,
        low,
        high,
        [data] if data else [],
        len(data),
        lambda request, status, value: completed.append(status),
    )
