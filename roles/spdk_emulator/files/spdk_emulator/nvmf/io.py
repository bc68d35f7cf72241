"""What an I/O queue does with commands on namespaces; each ends in :meth:`.connection.Connection.finish`."""

from __future__ import annotations

import asyncio
import struct
from functools import partial
from typing import TYPE_CHECKING

from ..bdev.compare import compare, compare_and_write
from ..bdev.models import Op, Status
from ..bdev.transfer import copy
from ..nvme_tcp import nvme
from ..nvme_tcp.nvme import Command, Io, Sc
from ..nvme_tcp.pdu import Buffer
from .controller import Answer, Controller
from .subsystem import Namespace

if TYPE_CHECKING:
    from .connection import Connection

_RESERVING = (Io.RESERVATION_REGISTER, Io.RESERVATION_ACQUIRE, Io.RESERVATION_RELEASE)
_EXTENDED_DATA_STRUCTURE = 1 << 0
_DSM_DEALLOCATE = 1 << 2
_WRITE_ZEROES_DEALLOCATE = 1 << 25
_SOURCE_RANGE = struct.Struct("<8xQH14x")
"""Of a Copy command (NVM command set specification, 3.2.2): first block, number of blocks, counted from zero."""


class Half:
    """A command that is one of two, until both are here. ``iov`` is None until its data is, too."""

    __slots__ = ("slot", "command", "iov", "other", "failed")

    def __init__(self, slot: int, command: Command) -> None:
        self.slot = slot
        self.command = command
        self.iov: list[Buffer] | None = None
        self.other: Half | None = None
        self.failed = False
        """There is no other half."""


class IoCommands:
    """Those of one connection."""

    def __init__(self, queue: Connection) -> None:
        self._queue = queue
        self._compare: Half | None = None
        """A first half at work, which does nothing until the second one is let through."""
        self._copying: set[asyncio.Task[int]] = set()

    def stop(self) -> None:
        """The connection is lost: what can be given up is given up."""
        self.abort_compare()
        for task in self._copying:
            task.cancel()

    def execute(self, controller: Controller, slot: int, command: Command, iov: list[Buffer]) -> None:
        cid, opcode = command.cid, command.opcode
        if not controller.enabled:
            self._queue.finish(slot, cid, Sc.SEQUENCE_ERROR)
            return
        namespace = controller.namespace(command.nsid)
        if namespace is None:
            self._queue.finish(slot, cid, Sc.INVALID_NAMESPACE | nvme.DO_NOT_RETRY)
            return
        if not controller.is_usable(namespace):
            self._queue.finish(slot, cid, Sc.ANA_INACCESSIBLE)
            return
        reservations = namespace.reservations
        if reservations.type and reservations.forbids(controller.host_id, opcode, command.cdw10):
            self._queue.finish(slot, cid, Sc.RESERVATION_CONFLICT)
            return
        self._queue.nsids[slot] = command.nsid
        if command.flags & nvme.FUSED_MASK:
            self._execute_fused(namespace, slot, command, iov)
            return
        if self._compare is not None:
            self.abort_compare()
        if opcode == Io.READ or opcode == Io.WRITE or opcode == Io.COMPARE:
            self._read_or_write(namespace, slot, command, iov)
        elif opcode == Io.WRITE_ZEROES:
            if command.cdw12 & _WRITE_ZEROES_DEALLOCATE:
                self._queue.finish(slot, cid, Sc.INVALID_FIELD)
            else:
                offset, length = _range(namespace, command)
                namespace.descriptor.io(Op.WRITE_ZEROES, offset, length, [], partial(self._queue.finish, slot, cid))
        elif opcode == Io.FLUSH:
            bdev = namespace.bdev
            if Op.FLUSH in bdev.supported:
                namespace.descriptor.io(Op.FLUSH, 0, bdev.size, [], partial(self._queue.finish, slot, cid))
            else:
                self._queue.finish(slot, cid, Sc.SUCCESS)
        elif opcode == Io.DATASET_MANAGEMENT:
            self._deallocate(namespace, slot, command, iov)
        elif opcode == Io.COPY:
            self._copy(namespace, slot, command, b"".join(iov))
        elif opcode == Io.RESERVATION_REPORT:
            self._report_reservations(namespace, slot, command)
        elif opcode in _RESERVING:
            self._queue.nsids[slot] = 0
            namespace.reserving.execute(controller, command, b"".join(iov), partial(self._queue.finish, slot, cid))
        else:
            self._queue.finish(slot, cid, Sc.INVALID_OPCODE | nvme.DO_NOT_RETRY)

    def _read_or_write(self, namespace: Namespace, slot: int, command: Command, iov: list[Buffer]) -> None:
        offset, length = _range(namespace, command)
        if offset + length > namespace.bdev.size:
            self._queue.finish(slot, command.cid, Sc.LBA_OUT_OF_RANGE)
        elif length > command.sgl_length:
            self._queue.finish(slot, command.cid, Sc.DATA_SGL_LENGTH_INVALID)
        elif command.opcode == Io.READ:
            data = bytearray(command.sgl_length)
            done = partial(self._read_done, slot, command.cid, data)
            namespace.descriptor.io(Op.READ, offset, length, [memoryview(data)[:length]], done)
        else:
            views, done = _views(iov, length), partial(self._queue.finish, slot, command.cid)
            if command.opcode == Io.WRITE:
                namespace.descriptor.io(Op.WRITE, offset, length, views, done)
            else:
                compare(namespace.descriptor, offset, length, views, done)

    def _execute_fused(self, namespace: Namespace, slot: int, command: Command, iov: list[Buffer]) -> None:
        """Both halves come here one right after the other, unless one was not let through."""
        half, expected = Half(slot, command), self._compare
        half.iov = iov
        if command.flags & nvme.FUSED_FIRST:
            if expected is not None:
                self.abort_compare()
            if command.opcode == Io.COMPARE:
                self._compare = half
            else:
                self._queue.finish(slot, command.cid, Sc.INVALID_OPCODE)
        elif expected is None:
            self._queue.finish(slot, command.cid, Sc.ABORTED_MISSING_FUSED)
        elif command.opcode != Io.WRITE:
            self.abort_compare()
            self._queue.finish(slot, command.cid, Sc.INVALID_OPCODE)
        else:
            self._compare = None
            self._compare_and_write(namespace, expected, half)

    def abort_compare(self) -> None:
        half, self._compare = self._compare, None
        if half is not None:
            self._queue.finish(half.slot, half.command.cid, Sc.ABORTED_MISSING_FUSED)

    def _compare_and_write(self, namespace: Namespace, first: Half, second: Half) -> None:
        bdev, command = namespace.bdev, second.command
        offset, length = _range(namespace, command)

        def finish(status: int, other: int) -> None:
            self._queue.finish(first.slot, first.command.cid, status)
            self._queue.finish(second.slot, command.cid, other)

        def done(status: int) -> None:
            if status == Status.COMPARE_FAILURE:
                finish(status, Sc.ABORTED_FAILED_FUSED)
            elif status != Status.ABORTED and Op.COMPARE_AND_WRITE in bdev.supported:
                finish(Sc.SUCCESS, status)
            else:
                finish(status, status)

        if _range(namespace, first.command) != (offset, length):
            finish(Sc.INVALID_FIELD, Sc.ABORTED_FAILED_FUSED)
        elif offset + length > bdev.size:
            finish(Sc.LBA_OUT_OF_RANGE, Sc.ABORTED_FAILED_FUSED)
        elif length > command.sgl_length:
            finish(Sc.DATA_SGL_LENGTH_INVALID, Sc.ABORTED_FAILED_FUSED)
        elif length > bdev.acwu * bdev.block_size:
            finish(Sc.INTERNAL_ERROR, Sc.ABORTED_FAILED_FUSED)
        elif length > first.command.sgl_length:
            done(Status.COMPARE_FAILURE)
        else:
            expected, written = _views(first.iov or [], length), _views(second.iov or [], length)
            compare_and_write(namespace.descriptor, offset, length, expected, written, done)

    def _report_reservations(self, namespace: Namespace, slot: int, command: Command) -> None:
        page = namespace.reservations.report()
        if not command.sgl_length:
            answer = Answer(Sc.INVALID_FIELD)
        elif not command.cdw11 & _EXTENDED_DATA_STRUCTURE:
            answer = Answer(Sc.HOST_IDENTIFIER_INCONSISTENT_FORMAT)
        elif (command.cdw10 + 1) * 4 < nvme.RESERVATION_STATUS.size:
            answer = Answer(Sc.INTERNAL_ERROR)
        else:
            answer = Answer(data=page)
        self._queue.finish_with(slot, command, answer)

    def _read_done(self, slot: int, cid: int, data: bytearray, status: int) -> None:
        if status:
            self._queue.finish(slot, cid, status)
        else:
            self._queue.finish_with_data(slot, cid, data)

    def _deallocate(self, namespace: Namespace, slot: int, command: Command, iov: list[Buffer]) -> None:
        """Unmap every range; the first failure is the command's."""
        count = (command.cdw10 & 0xFF) + 1
        data = b"".join(iov)
        if len(data) < count * 16:
            self._queue.finish(slot, command.cid, Sc.DATA_SGL_LENGTH_INVALID)
            return
        given = struct.iter_unpack("<IIQ", data[: count * 16])
        ranges = [(start, blocks) for _attributes, blocks, start in given if blocks]
        if not command.cdw11 & _DSM_DEALLOCATE or not ranges:
            self._queue.finish(slot, command.cid, Sc.SUCCESS)
            return
        waiting, result = len(ranges), 0

        def done(status: int) -> None:
            nonlocal waiting, result
            waiting -= 1
            result = result or status
            if not waiting:
                self._queue.finish(slot, command.cid, result)

        block_size = namespace.bdev.block_size
        for start, blocks in ranges:
            namespace.descriptor.io(Op.UNMAP, start * block_size, blocks * block_size, [], done)

    def _copy(self, namespace: Namespace, slot: int, command: Command, ranges: bytes) -> None:
        """One range of blocks to another place in the namespace; SPDK takes no more than one."""
        bdev, number = namespace.bdev, (command.cdw12 & 0xFF) + 1
        if len(ranges) != number * _SOURCE_RANGE.size:
            self._queue.finish(slot, command.cid, Sc.DATA_SGL_LENGTH_INVALID)
            return
        if number > 1:
            self._queue.finish(slot, command.cid, Sc.SIZE_LIMIT_EXCEEDED)
            return
        if command.cdw12 >> 8 & 0xF:
            self._queue.finish(slot, command.cid, Sc.INVALID_FIELD)
            return
        first, last = _SOURCE_RANGE.unpack(ranges)
        source, target = first * bdev.block_size, (command.cdw10 | command.cdw11 << 32) * bdev.block_size
        length = (last + 1) * bdev.block_size
        if max(source, target) + length > bdev.size:
            self._queue.finish(slot, command.cid, Sc.LBA_OUT_OF_RANGE)
            return

        async def work() -> int:
            try:
                await copy(namespace.descriptor, source, target, length)
            except OSError:
                return Sc.INTERNAL_ERROR
            return Sc.SUCCESS

        def done(task: asyncio.Task[int]) -> None:
            self._copying.discard(task)
            self._queue.finish(slot, command.cid, Sc.INTERNAL_ERROR if task.cancelled() else task.result())

        task = asyncio.get_running_loop().create_task(work())
        self._copying.add(task)
        task.add_done_callback(done)


def _range(namespace: Namespace, command: Command) -> tuple[int, int]:
    """Offset and length of a command on logical blocks, in bytes."""
    block_size = namespace.bdev.block_size
    start = command.cdw10 | command.cdw11 << 32
    return start * block_size, ((command.cdw12 & 0xFFFF) + 1) * block_size


def _views(iov: list[Buffer], length: int) -> list[memoryview]:
    """The buffers of a command's data, without what is beyond its blocks."""
    if sum(map(len, iov)) > length:
        return [memoryview(b"".join(iov))[:length]]
    return [memoryview(buffer) for buffer in iov]
