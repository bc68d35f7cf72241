"""The bdev of an NVMe namespace: its I/O becomes commands on one of the paths to it, and on another if that breaks."""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

from ..bdev.models import Bdev, BdevIo, CompareAndWriteIo, Op, Status
from ..framework.trace import tracing
from ..nvme_tcp import nvme
from ..nvme_tcp.host import FirstHalf, Request, SecondHalf, part
from ..nvme_tcp.nvme import DO_NOT_RETRY, Io, Sc
from .controller import Controller
from .namespace import Ana, Namespace

ACTIVE_PASSIVE = "active_passive"
ACTIVE_ACTIVE = "active_active"
ROUND_ROBIN = "round_robin"
QUEUE_DEPTH = "queue_depth"

_MAX_BLOCKS = 65536
_RANGE = struct.Struct("<IIQ")
_DEALLOCATE = 1 << 2
_OPCODES = {
    Op.READ: Io.READ,
    Op.WRITE: Io.WRITE,
    Op.COMPARE: Io.COMPARE,
    Op.WRITE_ZEROES: Io.WRITE_ZEROES,
    Op.UNMAP: Io.DATASET_MANAGEMENT,
    Op.FLUSH: Io.FLUSH,
}
_PLAIN = (Op.READ, Op.WRITE)
_IO_READ, _IO_WRITE = int(Io.READ), int(Io.WRITE)
_CODE_TYPE_PATH = 0x3
_TRACE_START, _TRACE_DONE = range(2)
"""The bits of these tracepoints. A command's context has the same value as the I/O: neither is an object of its own."""


class _Parts:
    """One I/O that became several commands: it completes with the last of them, and with the first error."""

    __slots__ = ("io", "thread", "left", "status")

    def __init__(self, io: BdevIo) -> None:
        self.io = io
        self.thread = io.thread
        self.left = 1
        self.status: int = Status.SUCCESS

    def complete(self, status: int) -> None:
        if status and not self.status:
            self.status = status
        self.left -= 1
        if not self.left:
            self.io.complete(self.status)


class _Pair:
    """One I/O that became two fused commands; of the failures of both, that of the first is the reason."""

    __slots__ = ("io", "thread", "first", "second", "statuses")

    def __init__(self, io: CompareAndWriteIo, first: FirstHalf, second: SecondHalf) -> None:
        self.io = io
        self.thread = io.thread
        self.first = first
        self.second = second
        first.second, first.context, second.context = second, self, self
        self.statuses: dict[Request, int] = {}

    def complete(self, status: int) -> None:
        self.io.complete(status)


class NvmeBdev(Bdev):
    """``controllers`` are the paths, in the order in which they are preferred."""

    product_name = "NVMe disk"
    module = "nvme"
    also_supported = frozenset({"nvme_admin", "nvme_io", "abort"})
    numa_id = -1
    memory_domains = ({"dma_device_type": "DMA"},)

    def __init__(
        self,
        name: str,
        controller: Controller,
        namespace: Namespace,
        settings: dict[str, Any],
        reset_all: Callable[[BdevIo], None],
        on_channels: Callable[[], None],
    ) -> None:
        super().__init__(name, namespace.block_size, namespace.num_blocks, namespace.uuid)
        self.nsid = namespace.nsid
        self.controllers = [controller]
        multipath = settings["multipath_opts"]
        self.policy = multipath["policy"]
        self.selector = multipath.get("selector", ROUND_ROBIN)
        self.min_io = multipath.get("min_io", 1)
        self.write_granularity = namespace.write_granularity
        self.unmap_granularity = namespace.unmap_granularity
        oncs = controller.data["oncs"]
        self.supported = frozenset(
            operation
            for operation, there in (
                (Op.READ, True),
                (Op.WRITE, True),
                (Op.FLUSH, True),
                (Op.RESET, True),
                (Op.COMPARE, oncs & nvme.ONCS_COMPARE),
                (Op.COMPARE_AND_WRITE, controller.data["fuses"] & nvme.FUSES_COMPARE_AND_WRITE),
                (Op.UNMAP, oncs & nvme.ONCS_DATASET_MANAGEMENT),
                (Op.WRITE_ZEROES, oncs & nvme.ONCS_WRITE_ZEROES),
            )
            if there
        )
        if oncs & nvme.ONCS_COPY:
            self.also_supported = self.also_supported | {"copy"}
        self._shift = namespace.block_size.bit_length() - 1
        atomic = namespace.atomic_compare or controller.data["acwu"] + 1
        self.acwu = min(atomic, controller.max_transfer >> self._shift)
        self._settings = settings
        self._reset_all = reset_all
        self._on_channels = on_channels
        self._path: Controller | None = None
        self._usable: list[Controller] = []
        self._ring: list[Controller] = []
        self._turn = 0
        self._max_transfer = controller.max_transfer
        self._held: deque[Request] = deque()
        self._on_done = self._done
        self.paths_changed()

    # Paths

    def namespace(self, controller: Controller) -> Namespace | None:
        """This namespace as a path shows it."""
        return controller.namespaces.get(self.nsid)

    def add_path(self, controller: Controller) -> None:
        self.controllers.append(controller)
        self._max_transfer = min(self._max_transfer, controller.max_transfer)
        self.paths_changed()

    def remove_path(self, controller: Controller) -> None:
        self.controllers.remove(controller)
        self.paths_changed()

    def prefer(self, controller: Controller) -> None:
        self.controllers.remove(controller)
        self.controllers.insert(0, controller)
        self._path = None
        self.paths_changed()

    def set_policy(self, policy: str, selector: str, min_io: int) -> None:
        self.policy, self.selector, self.min_io = policy, selector, min_io
        self.paths_changed()

    @property
    def path(self) -> Controller | None:
        """Where the next I/O goes."""
        return self._path

    def paths_changed(self) -> None:
        """Choose the path again; what was held back goes there, or fails if nothing is left to hope for.

        A bdev that goes away has no path: what its connection gives back is not to be sent over another one.
        """
        by_state: dict[Ana, list[Controller]] = {}
        for controller in self.controllers:
            namespace = self.namespace(controller)
            if controller.live and namespace is not None and not self.removing:
                by_state.setdefault(namespace.ana, []).append(controller)
        usable = by_state.get(Ana.OPTIMIZED) or by_state.get(Ana.NON_OPTIMIZED) or []
        if not (self._settings["disable_auto_failback"] and self._path in usable):
            self._path = usable[0] if usable else None
        self._usable = usable
        self._ring = usable if self.policy == ACTIVE_ACTIVE and len(usable) > 1 else []
        held, self._held = self._held, deque()
        for request in held:
            self._dispatch(request)

    def _advance(self, thread: int) -> None:
        """With active_active: who is next."""
        if self.selector == QUEUE_DEPTH:

            def depth(controller: Controller) -> int:
                queue = controller.io_queues.connected.get(thread)
                return queue.outstanding if queue is not None else 0

            self._path = min(self._ring, key=depth)
            return
        self._turn += 1
        self._path = self._ring[self._turn // self.min_io % len(self._ring)]

    def _dispatch(self, request: Request) -> None:
        if self._ring:
            self._advance(request.context.thread)
        controller = self._path
        if controller is not None:
            queue = controller.io_queues.connected.get(request.context.thread)
            if queue is not None:
                queue.submit(request)
            else:
                self._dispatch_without_queue(controller, request)
        elif not self.removing and any(each.may_serve(self.nsid) for each in self.controllers):
            self._held.append(request)
        else:
            request.context.complete(Status.ABORTED if self.removing else Status.INTERNAL_ERROR)

    def _dispatch_without_queue(self, controller: Controller, request: Request) -> None:
        """The thread has no queue on the path that is its turn, or none yet: let it wait there or go another way."""
        thread = request.context.thread
        if any(each.io_queues.submit(request, thread) for each in (controller, *self._usable)):
            return
        if any(each.waits_for_queues for each in self.controllers):
            self._held.append(request)
        else:
            request.context.complete(Status.INTERNAL_ERROR)

    def channels_changed(self) -> None:
        super().channels_changed()
        self._on_channels()

    def admits(self, thread: int) -> bool:
        return all(controller.io_queues.admits(thread) for controller in self.controllers)

    # I/O

    def submit(self, io: BdevIo) -> None:
        if tracing.bdev_nvme is not None:
            tracing.bdev_nvme(_TRACE_START, 0, 0, id(io), id(io), thread=io.thread)
        op, length = io.op, io.length
        if op in _PLAIN and length <= self._max_transfer:
            shift = self._shift
            opcode = _IO_READ if op == Op.READ else _IO_WRITE
            self._dispatch(
                Request(opcode, self.nsid, io.offset >> shift, (length >> shift) - 1, io.iov, length, self._on_done, io)
            )
        elif op == Op.RESET:
            self._reset_all(io)
        elif op == Op.FLUSH:
            if self._settings["enable_flush"] and self.controllers[0].data["vwc"] & 1:
                self._dispatch(Request(Io.FLUSH, self.nsid, 0, 0, [], 0, self._on_done, io))
            else:
                io.complete()
        elif isinstance(io, CompareAndWriteIo):
            self._submit_pair(io)
        else:
            self._submit_parts(io)

    def trace_done(self, io: BdevIo) -> None:
        if tracing.bdev_nvme is not None:
            tracing.bdev_nvme(_TRACE_DONE, 0, 0, id(io), id(io), thread=io.thread)

    def _submit_pair(self, io: CompareAndWriteIo) -> None:
        place = (self.nsid, io.offset >> self._shift, (io.length >> self._shift) - 1)
        first = FirstHalf(Io.COMPARE, *place, io.iov, io.length, self._half_done)
        second = SecondHalf(Io.WRITE, *place, io.written, io.length, self._half_done)
        _Pair(io, first, second)
        self._dispatch(first)

    def _half_done(self, request: Request, status: int, value: int) -> None:
        pair = request.context
        pair.statuses[request] = status
        if len(pair.statuses) < 2:
            return
        status = pair.statuses[pair.first] or pair.statuses[pair.second]
        pair.statuses.clear()
        if status & 0x7FF == Sc.ABORTED_SQ_DELETION:
            # Nobody knows whether it was done, and a second time it would find what the first one wrote.
            pair.complete(Status.INTERNAL_ERROR)
        elif status & 0x7FF == Sc.COMPARE_FAILURE:
            pair.complete(Status.COMPARE_FAILURE)
        else:
            self._done(pair.first, status, value)

    def _submit_parts(self, io: BdevIo) -> None:
        """Commands that have to be split: each not more than the controller takes."""
        shift, opcode = self._shift, _OPCODES[io.op]
        controller = self.controllers[0]
        data = io.op in (Op.READ, Op.WRITE, Op.COMPARE)
        if data:
            most = self._max_transfer >> shift
        elif io.op == Op.WRITE_ZEROES:
            most = min(_MAX_BLOCKS, controller.max_zeroes >> shift or _MAX_BLOCKS)
        else:
            most = controller.max_deallocate or 0xFFFFFFFF
        first, left = io.offset >> shift, io.length >> shift
        parts = _Parts(io)
        while left:
            count = min(left, most)
            if data:
                iov: list[Any] = part(io.iov, (first << shift) - io.offset, count << shift)
                request = Request(opcode, self.nsid, first, count - 1, iov, count << shift, self._on_done, parts)
            elif io.op == Op.WRITE_ZEROES:
                request = Request(opcode, self.nsid, first, count - 1, [], 0, self._on_done, parts)
            else:
                ranges = _RANGE.pack(0, count, first)
                low = _DEALLOCATE << 32  # dword 10: one range, counted from zero
                request = Request(opcode, self.nsid, low, 0, [ranges], len(ranges), self._on_done, parts)
            parts.left += 1
            self._dispatch(request)
            first += count
            left -= count
        parts.complete(Status.SUCCESS)

    def _done(self, request: Request, status: int, value: int) -> None:
        if not status:
            request.context.complete(Status.SUCCESS)
            return
        code = status & 0x7FF
        limit = self._settings["bdev_retry_count"]
        if status & DO_NOT_RETRY or code == Sc.ABORTED_BY_REQUEST:
            request.context.complete(code)
        elif code == Sc.ABORTED_SQ_DELETION:
            # The connection broke. That is no fault of the command: it is sent again however often that happens.
            self._dispatch(request)
        elif code >> 8 == _CODE_TYPE_PATH:
            self._path_error(request)
        elif limit != -1 and request.retries >= limit:
            request.context.complete(code)
        else:
            request.retries += 1
            self._dispatch(request)

    def _path_error(self, request: Request) -> None:
        """The namespace is out of reach for this controller: ask for its access state, and wait for the answer."""
        if self.removing:
            self._dispatch(request)
            return
        self._held.append(request)
        if self._path is not None and self._path.reports_ana:
            self._path.refresh_ana()
        else:
            asyncio.get_running_loop().call_later(1.0, self.paths_changed)

    # What is told

    def uuid_matches(self, namespace: Namespace) -> bool:
        """The same namespace, seen through another controller or after a change."""
        same = namespace.uuid is None or namespace.uuid == self.uuid
        return same and namespace.block_size == self.block_size

    def driver_specific(self) -> dict[str, Any]:
        paths = []
        for controller in self.controllers:
            namespace = self.namespace(controller)
            if namespace is not None:
                paths.append(_describe_path(controller, namespace))
        answer: dict[str, Any] = {"nvme": paths, "mp_policy": self.policy}
        if self.policy == ACTIVE_ACTIVE:
            answer["selector"] = self.selector
            if self.selector == ROUND_ROBIN:
                answer["rr_min_io"] = self.min_io
        return answer


def _describe_path(controller: Controller, namespace: Namespace) -> dict[str, Any]:
    data, version = controller.data, controller.version
    oacs = data["oacs"]
    major, minor, tertiary = version >> 16, version >> 8 & 0xFF, version & 0xFF
    ns_data: dict[str, Any] = {"id": namespace.nsid}
    if controller.reports_ana:
        ns_data["ana_state"] = namespace.ana.name.lower()
    ns_data["can_share"] = namespace.shared
    answer = {
        "trid": controller.trid.as_json(),
        "ctrlr_data": {
            "cntlid": controller.cntlid,
            "vendor_id": f"0x{data['vid']:04x}",
            "model_number": nvme.text(data["mn"]).strip(),
            "serial_number": nvme.text(data["sn"]).strip(),
            "firmware_revision": nvme.text(data["fr"]).strip(),
            "subnqn": nvme.text(data["subnqn"]),
            "oacs": {
                "security": oacs & 1,
                "format": oacs >> 1 & 1,
                "firmware": oacs >> 2 & 1,
                "ns_manage": oacs >> 3 & 1,
            },
            "multi_ctrlr": bool(data["cmic"] & 2),
            "ana_reporting": controller.reports_ana,
        },
        "vs": {"nvme_version": f"{major}.{minor}.{tertiary}" if tertiary else f"{major}.{minor}"},
        "ns_data": ns_data,
    }
    if oacs & 1:
        answer["security"] = {"opal": False}
    return answer
