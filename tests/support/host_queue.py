"""A queue of an NVMe/TCP host that talks to a target over a real socket, PDU by PDU."""

from __future__ import annotations

import asyncio
import uuid

from spdk_emulator.nvme_tcp import nvme
from spdk_emulator.nvme_tcp.nvme import Admin, Completion, Fabrics, Io
from spdk_emulator.nvme_tcp.pdu import (
    CONTROLLER,
    PLAIN,
    R2T,
    C2HData,
    CapsuleCmd,
    CapsuleResp,
    Decoder,
    Framing,
    H2CData,
    IcReq,
    IcResp,
    Pdu,
    TermReq,
)

NQN = "nqn.2016-06.io.spdk:s1"
HOST_NQN = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-000000000900"
HOST_ID = uuid.UUID(int=9)
PATIENCE = 60
"""Seconds for any single answer."""


class Terminated(Exception):
    """The target sent a termination request."""

    def __init__(self, request: TermReq) -> None:
        super().__init__(request)
        self.fes = request.fes
        self.fei = request.fei


class Queue:
    """One connection to the target."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.decoder = Decoder(CONTROLLER)
        self.framing = PLAIN
        self.pdus: list[Pdu] = []
        self.data: dict[int, bytearray] = {}
        self.pieces = 3
        """Into how many parts a write's data is cut."""
        self._cid = 0
        self._early: dict[int, Completion] = {}
        """Completions that came while another one was waited for."""

    @classmethod
    async def open(cls, port: int, digests: bool = False, alignment: int = 0) -> Queue:
        made = cls(*await asyncio.open_connection("127.0.0.1", port))
        made.send(IcReq(0, alignment, digests, digests))
        answer = await made.receive()
        assert isinstance(answer, IcResp)
        made.framing = Framing(answer.header_digest, answer.data_digest, alignment)
        made.decoder.framing = Framing(answer.header_digest, answer.data_digest, answer.alignment)
        return made

    def send(self, pdu: Pdu) -> None:
        self.writer.write(b"".join(bytes(buffer) for buffer in pdu.encode(self.framing)))

    async def receive(self) -> Pdu:
        """The next PDU. Raises ``EOFError`` if the target closed, and :class:`Terminated`."""
        async with asyncio.timeout(PATIENCE):
            while not self.pdus:
                data = await self.reader.read(65536)
                if not data:
                    raise EOFError
                self.pdus += self.decoder.feed(data)
        pdu = self.pdus.pop(0)
        if isinstance(pdu, TermReq):
            raise Terminated(pdu)
        return pdu

    def next_cid(self) -> int:
        self._cid = (self._cid + 1) % 0x10000
        return self._cid

    def submit(
        self,
        opcode: int,
        nsid: int = 0,
        cdws: tuple[int, ...] = (),
        length: int = 0,
        data: bytes = b"",
        fuse: int = 0,
    ) -> int:
        """Send a command; ``data`` goes into its capsule, ``length`` is what the transport moves. Returns its cid."""
        cid = self.next_cid()
        sqe = bytearray(nvme.command(opcode, cid, nsid, len(data) or length, bool(data), cdws))
        sqe[1] |= fuse
        self.send(CapsuleCmd(bytes(sqe), data))
        return cid

    async def wait(self, cid: int, payload: bytes = b"") -> tuple[Completion, bytes]:
        """The completion of a command and the data that came; on the way asked-for data of ``payload`` is sent."""
        data = bytearray()
        if cid in self._early:
            return self._early.pop(cid), b""
        while True:
            pdu = await self.receive()
            if isinstance(pdu, R2T) and pdu.cccid == cid:
                self.answer(pdu, payload)
            elif isinstance(pdu, C2HData) and pdu.cccid == cid:
                assert pdu.data_digest_ok
                assert pdu.offset == len(data)
                data += pdu.data
                if pdu.success:
                    return Completion(0, 0, 0, 0, cid, 0), bytes(data)
            elif isinstance(pdu, CapsuleResp):
                found = Completion.unpack(pdu.cqe)
                if found.cid == cid:
                    return found, bytes(data)
                assert 0 < found.cid <= self._cid and found.cid not in self._early, f"unexpected {found}"
                self._early[found.cid] = found
            else:
                raise AssertionError(f"unexpected {pdu}")

    async def status(self, cid: int, payload: bytes = b"") -> int:
        """How a command has ended."""
        return (await self.wait(cid, payload))[0].status

    def answer(self, request: R2T, payload: bytes) -> None:
        """Send the data that was asked for."""
        wanted = payload[request.offset : request.offset + request.length]
        step = -(-len(wanted) // self.pieces // 4) * 4
        for offset in range(0, len(wanted), step):
            part = wanted[offset : offset + step]
            last = offset + len(part) == len(wanted)
            self.send(H2CData(request.cccid, request.ttag, request.offset + offset, part, last))

    async def run(
        self,
        opcode: int,
        nsid: int = 0,
        cdws: tuple[int, ...] = (),
        length: int = 0,
        data: bytes = b"",
        payload: bytes = b"",
    ) -> tuple[Completion, bytes]:
        return await self.wait(self.submit(opcode, nsid, cdws, len(payload) or length, data), payload)

    async def connect(
        self,
        qid: int = 0,
        cntlid: int = 0xFFFF,
        nqn: str = NQN,
        host: str = HOST_NQN,
        kato: int = 0,
        size: int = 32,
        host_id: uuid.UUID = HOST_ID,
    ) -> Completion:
        data = nvme.CONNECT_DATA.pack(hostid=host_id.bytes, cntlid=cntlid, subnqn=nqn.encode(), hostnqn=host.encode())
        cdws = (qid << 16, size - 1, kato)
        return (await self.run(nvme.FABRICS_OPCODE, Fabrics.CONNECT, cdws, data=data))[0]

    async def get_property(self, offset: int, size: int = 0) -> int:
        done, _unused = await self.run(nvme.FABRICS_OPCODE, Fabrics.PROPERTY_GET, (size, offset))
        assert done.status == 0
        return done.value

    async def set_property(self, offset: int, value: int) -> int:
        done, _unused = await self.run(nvme.FABRICS_OPCODE, Fabrics.PROPERTY_SET, (0, offset, value))
        return done.status

    async def enable(self) -> None:
        assert await self.set_property(nvme.Property.CC, 0x00460001) == 0
        assert await self.get_property(nvme.Property.CSTS) == nvme.CSTS_READY

    async def identify(self, cns: int, nsid: int = 0) -> bytes:
        done, data = await self.run(Admin.IDENTIFY, nsid, (cns,), length=4096)
        assert done.status == 0
        return data

    async def log_page(self, lid: int, size: int = 4096, offset: int = 0) -> bytes:
        done, data = await self.run(Admin.GET_LOG_PAGE, 0, (lid | (size // 4 - 1) << 16, 0, offset), length=size)
        assert done.status == 0
        return data

    async def event(self) -> int:
        """What the next Asynchronous Event Request completes with."""
        return (await self.wait(self.submit(Admin.ASYNC_EVENT_REQUEST)))[0].cdw0

    async def read(self, lba: int, blocks: int, nsid: int = 1, block_size: int = 512) -> bytes:
        done, data = await self.run(Io.READ, nsid, (lba, 0, blocks - 1), length=blocks * block_size)
        assert done.status == 0, hex(done.status)
        return data

    async def is_closed(self) -> bool:
        try:
            await self.receive()
        except (EOFError, ConnectionError):
            return True
        return False

    def close(self) -> None:
        self.writer.close()
