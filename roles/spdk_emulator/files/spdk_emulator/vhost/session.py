"""One front end's connection to a controller: the conversation that sets up memory and queues."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial
from typing import Protocol

from ..vhost_user import inflight, messages
from ..vhost_user.memory import GuestMemory
from ..vhost_user.messages import Message, ProtocolError, ProtocolFeature, Request
from ..vhost_user.virtqueue import RingAddresses
from .queue import Disk, Queue

log = logging.getLogger(__name__)

MAX_QUEUES = 256
"""As many as SPDK offers; QEMU takes one for each vCPU."""
DRAIN_SECONDS = 5.0
"""How long a queue's stop waits for its requests. The front end, and with it the guest, stands still meanwhile."""
MESSAGES_A_TURN = 16

PROTOCOL_FEATURES = int(
    ProtocolFeature.MQ
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.BACKEND_REQ
    | ProtocolFeature.CONFIG
    | ProtocolFeature.INFLIGHT_SHMFD
)


class Device(Disk, Protocol):
    """What a session needs of its controller."""

    name: str
    features: int

    def config(self) -> bytes:
        """The device configuration space."""

    def session_closed(self, session: Session) -> None: ...

    def may_start(self) -> bool:
        """Whether one more session may; if not, the log says why."""

    def channels_changed(self) -> None:
        """A session has started or stopped."""


class Session:
    """``vid`` numbers the connections of this process, ``number`` those of the controller."""

    def __init__(self, device: Device, connection: socket.socket, vid: int, number: int) -> None:
        self.vid = vid
        self.number = number
        self.name = f"{device.name}s{vid}"
        self.queues: dict[int, Queue] = {}
        self._device = device
        self._socket = connection
        self._backend: socket.socket | None = None
        self._reader = messages.Reader()
        self._features = 0
        self._memory: GuestMemory | None = None
        self._inflight: list[inflight.QueueInflight] = []
        self._drain_timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._loop = asyncio.get_running_loop()
        connection.setblocking(False)
        self._loop.add_reader(connection, self._on_readable)

    @property
    def started(self) -> bool:
        return any(queue.running for queue in self.queues.values())

    @property
    def outstanding(self) -> int:
        return sum(queue.outstanding for queue in self.queues.values())

    def run(self) -> None:
        """Take what waits in the queues."""
        for queue in self.queues.values():
            queue.run()

    def config_changed(self) -> None:
        """Ask the front end to read the configuration space again."""
        if self._backend is not None:
            try:
                self._backend.send(messages.encode_config_change())
            except OSError as error:
                log.warning("%s: the front end could not be told of a change: %s", self.name, error)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._socket)
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        for queue in self.queues.values():
            queue.close()
        self._reader.close()
        self._socket.close()
        if self._backend is not None:
            self._backend.close()
        self._device.session_closed(self)

    # The conversation

    def _on_readable(self) -> None:
        for _unused in range(MESSAGES_A_TURN):
            if self._closed or self._drain_timer is not None:
                return
            try:
                data, fds, flags, _unused = socket.recv_fds(
                    self._socket, self._reader.wanted, messages.MAX_FDS, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError as error:
                log.info("%s: connection lost: %s", self.name, error)
                self.close()
                return
            if not data:
                messages.close_fds(fds)
                self.close()
                return
            try:
                message = self._reader.feed(data, fds)
                if flags & socket.MSG_CTRUNC:
                    raise ProtocolError(f"more than {messages.MAX_FDS} file descriptors came with one message")
                if message is not None:
                    self._handle(message)
            except ProtocolError as error:
                log.warning("%s: connection closed: %s", self.name, error)
                self.close()

    def _handle(self, message: Message) -> None:
        handler = _HANDLERS.get(message.request)
        try:
            if handler is None:
                raise ProtocolError(f"request {message.request} is not known here")
            reply = handler(self, message)
        finally:
            messages.close_fds(message.fds)
        if reply is not None:
            self._send(message.request, reply)
        elif message.flags & messages.FLAG_NEED_REPLY and message.request not in _ANSWERED_LATER:
            self._send(message.request, messages.encode_u64(0))

    def _send(self, request: int, payload: bytes, fds: tuple[int, ...] = ()) -> None:
        data = messages.encode_reply(request, payload)
        try:
            sent = socket.send_fds(self._socket, [data], fds) if fds else self._socket.send(data)
        except OSError as error:
            raise ProtocolError(f"a reply could not be sent: {error}") from None
        if sent != len(data):
            raise ProtocolError("the front end does not read its replies")

    def _queue(self, index: int) -> Queue:
        if index >= MAX_QUEUES:
            raise ProtocolError(f"queue {index}: there are {MAX_QUEUES}")
        queue = self.queues.get(index)
        if queue is None:
            queue = self.queues[index] = Queue(self._device, f"{self.name} queue {index}")
        return queue

    def _start(self, index: int, queue: Queue) -> None:
        if self._memory is None or queue.running:
            return
        first = not self.started
        if first and not self._device.may_start():
            return
        log_of_queue = self._inflight[index] if index < len(self._inflight) else None
        queue.start(self._memory, self._features, log_of_queue)
        if first:
            self._device.channels_changed()

    def _get_features(self, _message: Message) -> bytes:
        return messages.encode_u64(self._device.features | messages.F_PROTOCOL_FEATURES)

    def _set_features(self, message: Message) -> None:
        features = messages.decode_u64(message.payload)
        unknown = features & ~(self._device.features | messages.F_PROTOCOL_FEATURES)
        if unknown:
            raise ProtocolError(f"features {unknown:#x} were not offered")
        self._features = features

    def _get_protocol_features(self, _message: Message) -> bytes:
        return messages.encode_u64(PROTOCOL_FEATURES)

    def _set_protocol_features(self, message: Message) -> None:
        unknown = messages.decode_u64(message.payload) & ~PROTOCOL_FEATURES
        if unknown:
            raise ProtocolError(f"protocol features {unknown:#x} were not offered")

    def _no_operation(self, _message: Message) -> None:
        """SET_OWNER and RESET_OWNER: a session belongs to its connection anyway."""

    def _get_queue_num(self, _message: Message) -> bytes:
        return messages.encode_u64(MAX_QUEUES)

    def _set_memory_table(self, message: Message) -> None:
        self._memory = GuestMemory(messages.decode_memory_table(message))
        for queue in self.queues.values():
            queue.remap(self._memory)

    def _set_vring_num(self, message: Message) -> None:
        state = messages.decode_vring_state(message.payload)
        self._queue(state.index).size = state.value

    def _set_vring_base(self, message: Message) -> None:
        state = messages.decode_vring_state(message.payload)
        self._queue(state.index).base = state.value & 0xFFFF

    def _set_vring_address(self, message: Message) -> None:
        address = messages.decode_vring_address(message.payload)
        self._queue(address.index).addresses = RingAddresses(address.descriptors, address.available, address.used)

    def _set_vring_kick(self, message: Message) -> None:
        index, fd = messages.decode_vring_fd(message)
        queue = self._queue(index)
        queue.set_kick(fd)
        self._start(index, queue)
        if not self._features & messages.F_PROTOCOL_FEATURES:
            queue.enable(True)

    def _set_vring_call(self, message: Message) -> None:
        index, fd = messages.decode_vring_fd(message)
        self._queue(index).set_call(fd)

    def _set_vring_err(self, message: Message) -> None:
        index, fd = messages.decode_vring_fd(message)
        self._queue(index).set_error(fd)

    def _set_vring_enable(self, message: Message) -> None:
        state = messages.decode_vring_state(message.payload)
        queue = self._queue(state.index)
        if state.value:
            self._start(state.index, queue)
        queue.enable(bool(state.value))

    def _get_vring_base(self, message: Message) -> None:
        """Stop a queue. The answer waits for the requests under way, for they write into the guest's memory."""
        index = messages.decode_vring_state(message.payload).index
        queue = self._queue(index)
        queue.pause()
        if not queue.outstanding:
            self._answer_vring_base(index, queue)
            return
        self._loop.remove_reader(self._socket)
        self._drain_timer = self._loop.call_later(DRAIN_SECONDS, self._resume, index, queue)
        queue.when_idle(partial(self._loop.call_soon, self._resume, index, queue))

    def _resume(self, index: int, queue: Queue) -> None:
        if self._closed or self._drain_timer is None:
            return
        self._drain_timer.cancel()
        self._drain_timer = None
        queue.when_idle(None)
        if queue.outstanding:
            log.warning("%s: stopped with %d requests under way", queue.name, queue.outstanding)
        try:
            self._answer_vring_base(index, queue)
        except ProtocolError as error:
            log.warning("%s: connection closed: %s", self.name, error)
            self.close()
            return
        self._loop.add_reader(self._socket, self._on_readable)

    def _answer_vring_base(self, index: int, queue: Queue) -> None:
        queue.stop()
        queue.set_kick(None)
        self._device.channels_changed()
        self._send(Request.GET_VRING_BASE, messages.encode_vring_state(messages.VringState(index, queue.base)))

    def _get_config(self, message: Message) -> bytes:
        return messages.encode_config(messages.decode_config_range(message.payload), self._device.config())

    def _set_config(self, message: Message) -> None:
        """No field of the configuration space can be written; what QEMU restores after a migration changes nothing."""
        messages.decode_config_range(message.payload)

    def _set_backend_req_fd(self, message: Message) -> None:
        if len(message.fds) != 1:
            raise ProtocolError(f"a back-end channel came with {len(message.fds)} file descriptors")
        try:
            channel = socket.socket(fileno=message.fds[0])
        except OSError as error:
            raise ProtocolError(f"the back-end channel is no socket: {error}") from None
        message.fds.clear()
        channel.setblocking(False)
        if self._backend is not None:
            self._backend.close()
        self._backend = channel

    def _get_inflight_fd(self, message: Message) -> None:
        wanted = messages.decode_inflight(message.payload)
        fd, region = inflight.create(wanted.queues, wanted.queue_size)
        message.fds.append(fd)
        self._inflight = inflight.open_queues(fd, region)
        self._send(message.request, messages.encode_inflight(region), (fd,))

    def _set_inflight_fd(self, message: Message) -> None:
        if len(message.fds) != 1:
            raise ProtocolError(f"an inflight region came with {len(message.fds)} file descriptors")
        self._inflight = inflight.open_queues(message.fds[0], messages.decode_inflight(message.payload))


_ANSWERED_LATER = frozenset({Request.GET_VRING_BASE, Request.GET_INFLIGHT_FD})
"""Requests whose handlers send their own reply."""

_HANDLERS: dict[int, Callable[[Session, Message], bytes | None]] = {
    Request.GET_FEATURES: Session._get_features,
    Request.SET_FEATURES: Session._set_features,
    Request.SET_OWNER: Session._no_operation,
    Request.RESET_OWNER: Session._no_operation,
    Request.SET_MEM_TABLE: Session._set_memory_table,
    Request.SET_VRING_NUM: Session._set_vring_num,
    Request.SET_VRING_ADDR: Session._set_vring_address,
    Request.SET_VRING_BASE: Session._set_vring_base,
    Request.GET_VRING_BASE: Session._get_vring_base,
    Request.SET_VRING_KICK: Session._set_vring_kick,
    Request.SET_VRING_CALL: Session._set_vring_call,
    Request.SET_VRING_ERR: Session._set_vring_err,
    Request.GET_PROTOCOL_FEATURES: Session._get_protocol_features,
    Request.SET_PROTOCOL_FEATURES: Session._set_protocol_features,
    Request.GET_QUEUE_NUM: Session._get_queue_num,
    Request.SET_VRING_ENABLE: Session._set_vring_enable,
    Request.SET_BACKEND_REQ_FD: Session._set_backend_req_fd,
    Request.GET_CONFIG: Session._get_config,
    Request.SET_CONFIG: Session._set_config,
    Request.GET_INFLIGHT_FD: Session._get_inflight_fd,
    Request.SET_INFLIGHT_FD: Session._set_inflight_fd,
}
