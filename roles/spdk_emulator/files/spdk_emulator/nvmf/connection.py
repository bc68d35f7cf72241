"""One NVMe/TCP connection of the target: a queue pair.

Bytes come in through :meth:`Connection.data_received`, become PDUs, and every command ends in
:meth:`Connection.finish`. What is to be sent is collected and written once per turn of the event loop. A protocol
error ends this connection and no other: the host gets a termination request and has some time to close, as with SPDK.
"""

from __future__ import annotations

import asyncio
import logging
import uuid as uuid_module
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ..framework.threads import APP_THREAD, running
from ..framework.trace import tracing
from ..nvme_tcp import auth as dhchap
from ..nvme_tcp import digests, nvme
from ..nvme_tcp.nvme import Command, Fabrics, Sc
from ..nvme_tcp.pdu import (
    CONTROLLER,
    HOST,
    PLAIN,
    R2T,
    TTAG_OFFSET,
    Buffer,
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
from .controller import Answer, Controller
from .io import Half, IoCommands
from .subsystem import Address, NvmfError
from .tracepoints import QueueState, QueueTrace

if TYPE_CHECKING:
    from .models import Nvmf, PollGroup, TransportOptions

log = logging.getLogger(__name__)

TERMINATION_TIMEOUT = 30
"""Seconds that a host has to close its connection after a termination request."""
ADMIN_IN_CAPSULE_LIMIT = 8192
"""In-capsule data that admin and fabrics commands may always have (transport specification, 3.3.2.1.1)."""
C2H_DATA_LIMIT = 131072
WRITE_LIMIT = 4 << 20
"""Bytes of answers that may wait for a host that does not read them before its next commands have to wait, too."""

_PLEN_OFFSET = 4
_SGL_ADDRESS_OFFSET = 32
_SGL_ID_OFFSET = 40
_CCCID_OFFSET = 8
_CONNECT_QID_OFFSET = 42
_CONNECT_SQSIZE_OFFSET = 44
_CONNECT_CNTLID_OFFSET = 16
_CONNECT_SUBNQN_OFFSET = 256
_CONNECT_HOSTNQN_OFFSET = 512
_IN_DATA = 1 << 16
"""IATTR in dword 0 of a failed Connect: the offset is one in the data, not in the command."""

_TO_CONTROLLER, _TO_HOST, _BOTH_WAYS = 1, 2, 3
"""The direction of a command's data, bits 1:0 of its opcode (or type, if it is a fabrics command)."""

_AUTHENTICATION = (Fabrics.AUTHENTICATION_SEND, Fabrics.AUTHENTICATION_RECV)


class Transfer:
    """A command that waits for the data that an R2T asked for."""

    __slots__ = ("command", "iov", "received", "intact")

    def __init__(self, command: Command) -> None:
        self.command = command
        self.iov: list[Buffer] = []
        self.received = 0
        self.intact = True


class Connection(asyncio.Protocol):
    """``address`` is the listening address through which the host came."""

    def __init__(self, target: Nvmf, options: TransportOptions, address: Address, group: PollGroup) -> None:
        self.target = target
        self.group = group
        self.options = options
        self.address = address
        self.peer: tuple[str, str] = ("", "")
        self.controller: Controller | None = None
        self.qid = 0
        self.framing = PLAIN
        self._loop = asyncio.get_running_loop()
        self._decoder = Decoder(HOST, max(options.in_capsule_data_size, ADMIN_IN_CAPSULE_LIMIT, options.max_io_size))
        self._slots = deque(range(1, options.max_queue_depth + 1))
        """Free request slots, oldest first. A slot's number is the tag of its R2T."""
        self._transfers: dict[int, Transfer] = {}
        self._event_slots: dict[int, int] = {}
        """Slots of waiting Asynchronous Event Requests, by command identifier."""
        self._halves: dict[int, Half] = {}
        """Of fused operations, by slot."""
        self._first_half: Half | None = None
        """It came last: the next command has to be its second half."""
        self._io = IoCommands(self)
        self.nsids = [0] * (options.max_queue_depth + 1)
        """Of the I/O commands at work, by slot; 0 for those that nobody waits for."""
        self._watchers: dict[int, list[Callable[[], None]]] = {}
        """Called when the command in that slot is over."""
        self._sq_head = 0
        self._sq_last = 0
        self.auth: dhchap.Controller | None = None
        """How the host proves who it is; None: it need not."""
        self._authenticated = False
        self._out: list[Buffer] = []
        self._out_size = 0
        self._flush_planned = False
        self._incoming: Iterator[Pdu] = iter(())
        """PDUs of what came last, as far as they have not been looked at."""
        self._paused = False
        """The host does not read its answers: no more commands are looked at until it does."""
        self._open = False
        self._termination: asyncio.TimerHandle | None = None
        self._trace = QueueTrace(group.thread.number, id(self))

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(WRITE_LIMIT)
        self._open = True
        peer = transport.get_extra_info("peername")
        self.peer = (str(peer[0]), str(peer[1]))
        self.group.connections[self] = None
        self._trace.connected(self.peer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open = False
        self._trace.disconnected()
        self._out.clear()
        self._drop_waiting()
        self._io.stop()
        self.group.connections.pop(self, None)
        if self._termination:
            self._termination.cancel()
        if self.controller:
            self.group.stats.disconnected(self.qid)
            self.controller.queue_closed(self)
        self._linger()

    def pause_writing(self) -> None:
        self._paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        self._loop.call_soon(self._work)

    def data_received(self, data: bytes) -> None:
        if self._termination or not self._open:
            return
        if tracing.nvmf_tcp is not None:
            self._trace.read(len(data))
        self._incoming = self._decoder.feed(data)
        self._work()

    def _work(self) -> None:
        """Look at what has come, and write the answers, as long as the host takes them."""
        running.thread = self.group.thread.number
        self._flush_planned = True
        try:
            for pdu in self._incoming:
                self._receive(pdu)
                if self._out_size >= WRITE_LIMIT:
                    self._flush()
                if self._paused or not self._open:
                    return
            if self._open:
                self._transport.resume_reading()
        except ProtocolError as error:
            self._terminate(error)
        finally:
            self._flush()
            running.thread = APP_THREAD
            tracing.context = 0

    def abort(self) -> None:
        """Close at once, without sending what waits."""
        if self._open:
            self._open = False
            self._transport.abort()
            self._linger()

    def _flush(self) -> None:
        self._flush_planned = False
        if self._out and self._open:
            self._transport.write(b"".join(self._out))
        self._out.clear()
        self._out_size = 0

    def _send(self, pdu: Pdu) -> None:
        buffers = pdu.encode(self.framing)
        self._out += buffers
        self._out_size += len(buffers[0]) + (len(buffers[1]) if len(buffers) > 1 else 0)
        if not self._flush_planned:
            self._flush_planned = True
            self._loop.call_soon(self._flush)

    def _terminate(self, error: ProtocolError) -> None:
        log.warning("host %s:%s: %s", *self.peer, error)
        self._send(error.termination(CONTROLLER))
        self._drop_waiting()
        self._incoming = iter(())
        self._termination = self._loop.call_later(TERMINATION_TIMEOUT, self.abort)

    # PDUs

    def _receive(self, pdu: Pdu) -> None:
        if isinstance(pdu, CapsuleCmd):
            self._receive_command(pdu)
        elif isinstance(pdu, H2CData):
            self._receive_data(pdu)
        elif isinstance(pdu, IcReq):
            self._trace.changed(QueueState.INITIALIZING)
            granted = (pdu.header_digest or pdu.data_digest) and digests.there_are()
            header_digest, data_digest = granted and pdu.header_digest, granted and pdu.data_digest
            self._send(IcResp(0, pdu.alignment, header_digest, data_digest, max_h2c_data=self.options.max_io_size))
            self._trace.changed(QueueState.RUNNING)
            self.framing = Framing(header_digest, data_digest, pdu.alignment)
            self._decoder.framing = self.framing
        elif isinstance(pdu, TermReq):
            log.warning("host %s:%s ends the connection: fatal error status %d", *self.peer, pdu.fes)
            self.abort()

    def _receive_command(self, pdu: CapsuleCmd) -> None:
        command = Command.unpack(pdu.sqe)
        if not self._slots:
            log.warning("host %s:%s has more commands outstanding than the queue is deep", *self.peer)
            self.abort()
            return
        fabrics = command.opcode == nvme.FABRICS_OPCODE
        way = (command.nsid if fabrics else command.opcode) & 3 if command.sgl_length else 0
        if way:
            self._check_sgl(pdu, command, way, may_be_large=fabrics or self.qid == 0)
        slot = self._slots.popleft()
        if tracing.nvmf_tcp is not None:
            has_data, in_capsule = way in (_TO_CONTROLLER, _TO_HOST), command.sgl_id != nvme.SGL_TRANSPORT
            self._trace.received(slot, self._depth(), has_data, way == _TO_CONTROLLER, in_capsule)
        if command.flags & nvme.FUSED_MASK or self._first_half is not None:
            self._find_other_half(slot, command)
        if way == _TO_CONTROLLER and command.sgl_id == nvme.SGL_TRANSPORT:
            self._transfers[slot] = Transfer(command)
            self._send(R2T(command.cid, slot, 0, command.sgl_length))
        elif not pdu.data_digest_ok:
            self.finish(slot, command.cid, Sc.TRANSIENT_TRANSPORT_ERROR)
        elif way == _BOTH_WAYS:
            self.finish(slot, command.cid, Sc.INVALID_OPCODE)
        else:
            self._execute(slot, command, [pdu.data] if way == _TO_CONTROLLER else [])

    def _check_sgl(self, pdu: CapsuleCmd, command: Command, way: int, may_be_large: bool) -> None:
        """Raise ProtocolError for an SGL that does not say how the data is to be moved."""

        def wrong(fes: Fes, fei: int, text: str) -> ProtocolError:
            header = bytes(pdu.encode(self.framing)[0])[: 8 + len(pdu.sqe)]
            return ProtocolError(fes, fei, header, f"command {command.opcode:#04x}: {text}")

        if command.sgl_id == nvme.SGL_TRANSPORT:
            if command.sgl_length > self.options.max_io_size:
                raise wrong(
                    Fes.LIMIT_EXCEEDED, 0, f"{command.sgl_length} bytes, the limit is {self.options.max_io_size}"
                )
            return
        if command.sgl_id != nvme.SGL_IN_CAPSULE:
            raise wrong(Fes.UNSUPPORTED_PARAMETER, _SGL_ID_OFFSET, f"SGL identifier {command.sgl_id:#04x}")
        if len(pdu.data) != command.sgl_length:
            raise wrong(
                Fes.INVALID_HEADER_FIELD,
                _PLEN_OFFSET,
                f"{len(pdu.data)} bytes of data, SGL length {command.sgl_length}",
            )
        if command.sgl_address:
            raise wrong(Fes.UNSUPPORTED_PARAMETER, _SGL_ADDRESS_OFFSET, "in-capsule data at an offset")
        limit = max(ADMIN_IN_CAPSULE_LIMIT if may_be_large else 0, self.options.in_capsule_data_size)
        if command.sgl_length > limit:
            raise wrong(Fes.LIMIT_EXCEEDED, 0, f"{command.sgl_length} bytes in the capsule, the limit is {limit}")

    def _receive_data(self, pdu: H2CData) -> None:
        def wrong(fes: Fes, fei: int, text: str) -> ProtocolError:
            header = bytes(pdu.encode(self.framing)[0])[:24]
            return ProtocolError(fes, fei, header, f"data for tag {pdu.ttag}: {text}")

        if pdu.ttag > self.options.max_queue_depth:
            raise wrong(Fes.SEQUENCE_ERROR, 0, "no such tag")
        transfer = self._transfers.get(pdu.ttag)
        if transfer is None:
            raise wrong(Fes.INVALID_HEADER_FIELD, TTAG_OFFSET, "nobody asked for it")
        command = transfer.command
        if command.cid != pdu.cccid:
            raise wrong(Fes.SEQUENCE_ERROR, _CCCID_OFFSET, f"command {pdu.cccid}, not {command.cid}")
        if transfer.received != pdu.offset or pdu.offset + len(pdu.data) > command.sgl_length:
            raise wrong(
                Fes.DATA_OUT_OF_RANGE,
                0,
                f"{len(pdu.data)} bytes at {pdu.offset}, wanted at {transfer.received} of {command.sgl_length}",
            )
        transfer.iov.append(pdu.data)
        transfer.received += len(pdu.data)
        transfer.intact &= pdu.data_digest_ok
        if transfer.received < command.sgl_length:
            return
        del self._transfers[pdu.ttag]
        if transfer.intact:
            self._execute(pdu.ttag, command, transfer.iov)
        else:
            self.finish(pdu.ttag, command.cid, Sc.TRANSIENT_TRANSPORT_ERROR)

    # The ends of commands

    def complete(self, cid: int, status: int = Sc.SUCCESS, value: int = 0) -> None:
        """Complete an Asynchronous Event Request that waited."""
        self.finish(self._event_slots.pop(cid), cid, status, value)

    def abort_command(self, cid: int) -> bool:
        """Complete a command as aborted if it only waits: for an event, or for its data."""
        if tracing.nvmf_tcp is not None:
            self._trace.aborting()
        if self.controller and cid in self._event_slots and self.controller.abort_event_request(cid):
            self.complete(cid, Sc.ABORTED_BY_REQUEST)
            return True
        for slot, transfer in self._transfers.items():
            if transfer.command.cid == cid:
                del self._transfers[slot]
                self.finish(slot, cid, Sc.ABORTED_BY_REQUEST)
                return True
        return False

    def finish(self, slot: int, cid: int, status: int, value: int = 0) -> None:
        if self._open:
            if tracing.nvmf_tcp is not None:
                self._trace.finished(slot)
            self._send(CapsuleResp(nvme.completion(cid, self._advance(), status, value)))
        self._release(slot)

    def _release(self, slot: int) -> None:
        """The command in this slot is over, whether or not anybody is told so."""
        if tracing.nvmf_tcp is not None:
            self._trace.completed(slot, self._depth())
        self._slots.append(slot)
        if slot in self._halves:
            half = self._halves.pop(slot)
            if half.other is not None:
                self._fail_half(half.other)
        if self._watchers:
            for ended in self._watchers.pop(slot, ()):
                ended()
        if not self._open:
            self._linger()

    def _linger(self) -> None:
        """A closed queue is the subsystem's as long as it has commands at work."""
        at_work = self._at_work() - set(self._event_slots.values())
        if not at_work:
            self._trace.destroyed()
        if not self.qid or self.controller is None:
            return
        if at_work:
            self.controller.subsystem.ending.add(self)
        else:
            self.controller.subsystem.ending.discard(self)

    def _drop_waiting(self) -> None:
        """Nothing more comes from the host: commands that wait for data, or for their other half, are over."""
        dropped = self._transfers.keys() | self._halves.keys()
        if tracing.nvmf_tcp is not None:
            for slot in dropped:
                self._trace.completed(slot, self._depth())
        self._slots.extend(dropped)
        self._transfers.clear()
        self._halves.clear()

    def _depth(self) -> int:
        """How many commands there are, whatever they wait for."""
        return self.options.max_queue_depth - len(self._slots)

    def _at_work(self) -> set[int]:
        """The slots of commands that are not over, without those that only wait for their data or other half."""
        taken = set(range(1, len(self.nsids))) - set(self._slots)
        return taken - self._transfers.keys() - self._halves.keys()

    def watch(self, nsid: int, ended: Callable[[], None]) -> int:
        """Call ``ended`` as often as there are commands at work on this namespace, each time that one is over.

        Returns how many they are. Commands that change reservations do not count.
        """
        slots = [slot for slot in self._at_work() if self.nsids[slot] == nsid]
        for slot in slots:
            self._watchers.setdefault(slot, []).append(ended)
        return len(slots)

    def finish_with_data(self, slot: int, cid: int, data: Buffer, value: int = 0) -> None:
        """Success. With the success flag on the last data PDU there is no completion, unless it has a value."""
        if not self._open:
            self._release(slot)
            return
        success = self.options.c2h_success and value == 0
        if len(data) <= C2H_DATA_LIMIT:
            self._send(C2HData(cid, 0, data, True, success))
        else:
            view = memoryview(data)
            for offset in range(0, len(data), C2H_DATA_LIMIT):
                part = view[offset : offset + C2H_DATA_LIMIT]
                last = offset + len(part) == len(data)
                self._send(C2HData(cid, offset, part, last, success and last))
        if success:
            if tracing.nvmf_tcp is not None:
                self._trace.finished(slot)
            self._advance()
            self._release(slot)
        else:
            self.finish(slot, cid, Sc.SUCCESS, value)

    def finish_with(self, slot: int, command: Command, answer: Answer) -> None:
        if answer.data is None or answer.status or not command.sgl_length:
            self.finish(slot, command.cid, answer.status, answer.value)
        else:
            # The host gets as much as it has room for, whatever the size of what was asked.
            data = answer.data[: command.sgl_length].ljust(command.sgl_length, b"\0")
            self.finish_with_data(slot, command.cid, data, answer.value)

    def _advance(self) -> int:
        """The submission queue's head after one more command. It stays 0 until Connect has named the queue's size."""
        if self.qid:
            self.group.stats.io += 1
        self._sq_head = 0 if self._sq_head >= self._sq_last else self._sq_head + 1
        return self._sq_head

    # Commands

    def _find_other_half(self, slot: int, command: Command) -> None:
        """A fused operation is two commands, one right after the other; what has no other half is aborted."""
        fuse = command.flags & nvme.FUSED_MASK
        first, self._first_half = self._first_half, None
        if first is not None and first.slot not in self._halves:
            first = None  # it is over: its data was damaged
        half = Half(slot, command)
        if fuse:
            # A value of both bits has no meaning; SPDK never answers such a command, either.
            self._halves[slot] = half
        if first is not None and fuse == nvme.FUSED_SECOND:
            first.other, half.other = half, first
        elif first is not None:
            self._fail_half(first)
        elif fuse == nvme.FUSED_SECOND:
            half.failed = True
        if fuse == nvme.FUSED_FIRST:
            self._first_half = half

    def _fail_half(self, half: Half) -> None:
        half.failed, half.other = True, None
        if half.iov is not None:
            self.finish(half.slot, half.command.cid, Sc.ABORTED_MISSING_FUSED)

    def _execute_half(self, half: Half, iov: list[Buffer]) -> None:
        """Half of a fused operation is here; with the second one both begin, in their order."""
        half.iov, other = iov, half.other
        if half.failed:
            self._fail_half(half)
        elif other is not None and other.iov is not None:
            pair = (half, other) if half.command.flags & nvme.FUSED_FIRST else (other, half)
            for each in pair:
                del self._halves[each.slot]
            for each in pair:
                self._execute(each.slot, each.command, each.iov or [])

    def _execute(self, slot: int, command: Command, iov: list[Buffer]) -> None:
        controller = self.controller
        if tracing.nvmf_tcp is not None:
            self._trace_execution(slot, command)
        if slot in self._halves:
            self._execute_half(self._halves[slot], iov)
        elif controller is None:
            if command.opcode == nvme.FABRICS_OPCODE and command.fctype == Fabrics.CONNECT:
                self.finish_with(slot, command, self._connect(command, iov))
            else:
                self.finish(slot, command.cid, Sc.SEQUENCE_ERROR)
        elif command.opcode == nvme.FABRICS_OPCODE and command.fctype in _AUTHENTICATION:
            self.finish_with(slot, command, self._authenticate(command, b"".join(iov)))
        elif self.auth and not self._authenticated:
            self.finish(slot, command.cid, Sc.AUTHENTICATION_REQUIRED)
        elif command.opcode == nvme.FABRICS_OPCODE:
            self.finish_with(slot, command, self._fabrics(controller, command))
        elif self.qid:
            self._io.execute(controller, slot, command, iov)
        elif command.flags & nvme.FUSED_MASK:
            self.finish(slot, command.cid, Sc.INVALID_FIELD)
        else:
            answer = controller.execute(command)
            if answer is None:
                self._event_slots[command.cid] = slot
            else:
                self.finish_with(slot, command, answer)

    def _trace_execution(self, slot: int, command: Command) -> None:
        """A half of a fused operation comes here a second time, with the other one."""
        if slot in self._halves or not command.flags & nvme.FUSED_MASK:
            self._trace.ready(slot)
        if slot not in self._halves:
            self._trace.executing(slot)

    def _fabrics(self, controller: Controller, command: Command) -> Answer:
        size = command.cdw10 & 7
        if self.qid == 0 and command.fctype == Fabrics.PROPERTY_GET:
            return controller.property_get(command.cdw11, size)
        if self.qid == 0 and command.fctype == Fabrics.PROPERTY_SET:
            return controller.property_set(command.cdw11, size, command.cdw12 | command.cdw13 << 32)
        return Answer(Sc.INVALID_OPCODE)

    def _connect(self, command: Command, iov: list[Buffer]) -> Answer:
        """Make this connection the admin or an I/O queue of a controller (base specification, 6.3)."""
        data = b"".join(iov)
        if len(data) < nvme.CONNECT_DATA.size:
            return Answer(Sc.INVALID_FIELD)
        fields = nvme.CONNECT_DATA.unpack(data)

        def wrong_data(offset: int) -> Answer:
            return Answer(Sc.CONNECT_INVALID_PARAMETERS, _IN_DATA | offset)

        subsystem = self.target.subsystems.get(nvme.text(fields["subnqn"]))
        if subsystem is None:
            return wrong_data(_CONNECT_SUBNQN_OFFSET)
        if b"\0" not in fields["hostnqn"][: nvme.NQN_LIMIT + 1]:
            return wrong_data(_CONNECT_HOSTNQN_OFFSET)
        host_nqn = nvme.text(fields["hostnqn"])
        if not subsystem.admits(host_nqn) or not subsystem.accepts_at(self.address):
            log.warning("host %s may not connect to %s at %s", host_nqn, subsystem.nqn, self.address)
            return Answer(Sc.CONNECT_INVALID_HOST)
        if command.cdw10 & 0xFFFF:
            return Answer(Sc.CONNECT_INCOMPATIBLE_FORMAT)
        qid, sqsize = command.cdw10 >> 16, command.cdw11 & 0xFFFF
        depth = self.options.max_queue_depth if qid else self.options.max_aq_depth
        if not 1 <= sqsize < depth:
            return Answer(Sc.CONNECT_INVALID_PARAMETERS, _CONNECT_SQSIZE_OFFSET)
        self._sq_last = sqsize
        cntlid = fields["cntlid"]
        if qid == 0:
            if cntlid != nvme.DYNAMIC_CNTLID:
                return wrong_data(_CONNECT_CNTLID_OFFSET)
            host_id = uuid_module.UUID(bytes=fields["hostid"])
            try:
                self.controller = Controller(self.target, subsystem, self, host_nqn, host_id, command.cdw12)
            except NvmfError as error:
                log.warning("host %s cannot connect: %s", host_nqn, error)
                return Answer(Sc.INTERNAL_ERROR)
        else:
            controller = subsystem.find_controller(cntlid)
            if controller is None or controller.host_nqn != host_nqn:
                return wrong_data(_CONNECT_CNTLID_OFFSET)
            if not controller.accepts_io_queue(self):
                return Answer(Sc.CONNECT_INVALID_PARAMETERS, _CONNECT_QID_OFFSET)
            if qid > self.options.max_io_qpairs_per_ctrlr or qid in controller.queues:
                return Answer(Sc.INVALID_QUEUE_IDENTIFIER)
            self.qid = qid
            controller.queues[qid] = self
            self.controller = controller
        self.group.stats.connected(qid)
        self._trace.named(subsystem.nqn, self.address, qid)
        host = subsystem.hosts.get(host_nqn)
        if host and host.dhchap_key:
            config = self.target.config
            self.auth = dhchap.Controller(self._keys, config.dhchap_digests, config.dhchap_dhgroups)
        return Answer(value=self.controller.cntlid | (nvme.AUTHENTICATION_REQUIRED if self.auth else 0))

    # Authentication

    def _keys(self) -> dhchap.Names:
        """The keys of the host as they are now. Raises ``OSError``, ``ValueError``."""
        assert self.controller is not None
        host_nqn, subsystem = self.controller.host_nqn, self.controller.subsystem
        host = subsystem.hosts.get(host_nqn)
        if host is None or host.dhchap_key is None:
            raise ValueError(f"{subsystem.nqn} has no key for {host_nqn}")
        own = dhchap.parse_secret(host.dhchap_ctrlr_key.read()) if host.dhchap_ctrlr_key else None
        return dhchap.Names(host_nqn, subsystem.nqn, dhchap.parse_secret(host.dhchap_key.read()), own)

    def _authenticate(self, command: Command, message: bytes) -> Answer:
        """Authentication Send and Receive. A host may do it again later; if that fails it is locked out."""
        if self.auth is None:
            return Answer(Sc.SEQUENCE_ERROR)
        if command.cdw10 & ~0xFF != dhchap.SECURITY_FIELDS or command.cdw11 != command.sgl_length:
            return Answer(Sc.INVALID_FIELD | nvme.DO_NOT_RETRY)
        answer = Answer()
        if command.fctype == Fabrics.AUTHENTICATION_SEND:
            self.auth.send(message)
        else:
            answer = Answer(data=self.auth.receive())
        if self.auth.completed:
            self._authenticated = True
        elif self.auth.state == "failure1":
            self._authenticated = False
        return answer

    @property
    def state(self) -> str:
        """As SPDK calls it."""
        return "authenticating" if self.auth and not self._authenticated else "enabled"
