"""A small NVMe/TCP controller that misbehaves when it is told to: namespaces of 1 MiB in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from nvme_initiator import NQN
from spdk_emulator.nvme_tcp import nvme
from spdk_emulator.nvme_tcp.nvme import Admin, Cns, Fabrics, Feature, Io
from spdk_emulator.nvme_tcp.pdu import (
    HOST,
    PLAIN,
    R2T,
    Buffer,
    C2HData,
    CapsuleCmd,
    CapsuleResp,
    Decoder,
    Framing,
    H2CData,
    IcReq,
    IcResp,
    TermReq,
)

BLOCKS = 2048
CAPSULE = 4096
"""Bytes of data in a command."""


class Queue:
    """One connection, from the controller's side."""

    def __init__(self, controller: ScriptedController, writer: asyncio.StreamWriter) -> None:
        self.controller = controller
        self.writer = writer
        self.framing = PLAIN
        self.qid = 0
        self.tags: dict[int, nvme.Command] = {}

    def send(self, pdu: IcResp | CapsuleResp | C2HData | R2T | TermReq) -> None:
        self.raw(pdu.encode(self.framing))

    def raw(self, buffers: list[Buffer]) -> None:
        self.writer.write(b"".join(buffers))

    def complete(self, command: nvme.Command, status: int = 0, value: int = 0) -> None:
        self.send(CapsuleResp(nvme.completion(command.cid, 0, status, value)))

    def give(self, command: nvme.Command, data: bytes) -> None:
        self.send(C2HData(command.cid, 0, data, success=True))

    def close(self) -> None:
        self.writer.close()


class ScriptedController:
    """``on_io(queue, command)`` sees every read and write first; if it returns true it has dealt with it."""

    def __init__(self) -> None:
        self.memory = bytearray(BLOCKS * 512)
        self.on_io: Callable[[Queue, nvme.Command], bool] = lambda queue, command: False
        self.on_abort: Callable[[int], None] = lambda cid: None
        self.on_admin: Callable[[Queue, nvme.Command], bool] = lambda queue, command: False
        """Sees the commands of the admin queue first, as ``on_io`` those of the others."""
        self.namespaces = {1: bytes(range(16))}
        """Their NGUIDs, by NSID. They share the memory."""
        self.deaf = False
        """Answer nothing at all."""
        self.connections = 0
        self.io_commands = 0
        self.terminations: list[TermReq] = []
        """What hosts complained about."""
        self._ready = 0
        self._event_requests: list[tuple[Queue, nvme.Command]] = []
        self._changed: list[int] = []

    def change(self, namespaces: dict[int, bytes], changed: list[int]) -> None:
        """From now on there are these namespaces; the host is told that these identifiers have changed."""
        self.namespaces = namespaces
        self._changed = changed
        queue, command = self._event_requests.pop()
        queue.complete(command, value=nvme.EVENT_NAMESPACE_CHANGED)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        queue = Queue(self, writer)
        decoder = Decoder(HOST)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                for pdu in decoder.feed(data):
                    if isinstance(pdu, IcReq):
                        queue.send(IcResp(header_digest=pdu.header_digest, data_digest=pdu.data_digest))
                        queue.framing = decoder.framing = Framing(pdu.header_digest, pdu.data_digest)
                    elif isinstance(pdu, TermReq):
                        self.terminations.append(pdu)
                        queue.close()
                    elif self.deaf:
                        pass
                    elif isinstance(pdu, CapsuleCmd):
                        self._command(queue, nvme.Command.unpack(pdu.sqe), bytes(pdu.data))
                    elif isinstance(pdu, H2CData):
                        command = queue.tags.pop(pdu.ttag)
                        self._write(queue, command, bytes(pdu.data))
        writer.close()

    def _command(self, queue: Queue, command: nvme.Command, data: bytes) -> None:
        if command.opcode == nvme.FABRICS_OPCODE:
            self._fabrics(queue, command)
        elif queue.qid:
            self.io_commands += 1
            if not self.on_io(queue, command):
                self.io(queue, command, data)
        else:
            if not self.on_admin(queue, command):
                self.admin(queue, command)

    def _fabrics(self, queue: Queue, command: nvme.Command) -> None:
        if command.fctype == Fabrics.CONNECT:
            queue.qid = command.cdw10 >> 16
            if not queue.qid:
                self._ready = 0  # each admin queue is a new controller
                self._event_requests.clear()
            queue.complete(command, value=1)
        elif command.fctype == Fabrics.PROPERTY_SET:
            self._ready = command.cdw12 & 1 | (0x8 if command.cdw12 >> 14 & 3 else 0)
            queue.complete(command)
        else:
            value = {nvme.Property.CSTS: self._ready, nvme.Property.VS: 0x00010300}.get(command.cdw11, 0)
            queue.complete(command, value=value)

    def admin(self, queue: Queue, command: nvme.Command) -> None:
        """Do it as it should be done."""
        if command.opcode == Admin.IDENTIFY:
            queue.give(command, self._identify(command.cdw10, command.nsid))
        elif command.opcode == Admin.GET_LOG_PAGE:
            queue.give(command, nvme.namespace_list(self._changed))
        elif command.opcode == Admin.ASYNC_EVENT_REQUEST:
            self._event_requests.append((queue, command))
        elif command.opcode == Admin.GET_FEATURES and command.cdw10 == Feature.KEEP_ALIVE_TIMER:
            queue.complete(command, value=self.keep_alive)
        elif command.opcode == Admin.ABORT:
            self.on_abort(command.cdw10 >> 16)
            queue.complete(command)
        else:
            queue.complete(command)

    keep_alive = 0
    """What the controller says that the keep alive timer is, in milliseconds."""

    def _identify(self, cns: int, nsid: int) -> bytes:
        if cns == Cns.CONTROLLER:
            return nvme.IDENTIFY_CONTROLLER.pack(
                mdts=5,
                cmic=2,
                oncs=5,
                fuses=nvme.FUSES_COMPARE_AND_WRITE,
                aerl=3,
                oaes=nvme.NOTICE_NAMESPACE,
                ioccsz=(CAPSULE + 64) // 16,
                subnqn=NQN.encode(),
            )
        if cns == Cns.ACTIVE_NAMESPACES:
            return nvme.namespace_list(self.namespaces)
        if cns == Cns.NAMESPACE and nsid in self.namespaces:
            return nvme.IDENTIFY_NAMESPACE.pack(nsze=BLOCKS, nmic=1, lbaf0_lbads=9, nguid=self.namespaces[nsid])
        return bytes(4096)

    def io(self, queue: Queue, command: nvme.Command, data: bytes = b"") -> None:
        """Do it as it should be done."""
        if command.opcode == Io.READ:
            queue.give(command, self.data_of(command))
        elif data:
            self._write(queue, command, data)
        else:
            queue.tags[command.cid] = command
            queue.send(R2T(command.cid, command.cid, 0, command.sgl_length))

    def data_of(self, command: nvme.Command) -> bytes:
        start = command.cdw10 * 512
        return bytes(self.memory[start : start + command.sgl_length])

    def _write(self, queue: Queue, command: nvme.Command, data: bytes) -> None:
        start = command.cdw10 * 512
        self.memory[start : start + len(data)] = data
        queue.complete(command)


@contextlib.asynccontextmanager
async def scripted() -> AsyncIterator[tuple[ScriptedController, int]]:
    """The controller and its port."""
    controller = ScriptedController()
    server = await asyncio.start_server(controller.serve, "127.0.0.1", 0)
    try:
        yield controller, server.sockets[0].getsockname()[1]
    finally:
        server.close()
