"""A front end and a driver in miniature: what QEMU and Linux do on the other side of a vhost-user-blk socket.

Written from the specifications, not from the code under test: it has its own numbers and layouts.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import socket
import struct
import weakref
from typing import NamedTuple

TIMEOUT = 60.0
F_INDIRECT, F_EVENT_IDX, F_PROTOCOL, F_VERSION_1 = 1 << 28, 1 << 29, 1 << 30, 1 << 32
ALL_PROTOCOL_FEATURES = 0x1229  # MQ, REPLY_ACK, BACKEND_REQ, CONFIG, INFLIGHT_SHMFD
REGION = 1 << 20
REGIONS = ((0x0, 0x7F0000000000, 0x0), (0x1_0000_0000, 0x7F1000000000, REGION))
"""Guest-physical address, front-end address and offset in the file, of each region."""
IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
NEXT, WRITE, INDIRECT = 1, 2, 4


class Disconnected(Exception):
    """The back end closed the connection."""


class Answer(NamedTuple):
    status: int
    data: bytes
    written: int


class FrontEnd:
    """One connection, its guest memory and its rings. ``features`` are those to accept of what is offered."""

    def __init__(self, path: str, *, memory: Memory | None = None, features: int = F_INDIRECT | F_EVENT_IDX) -> None:
        self.memory = memory or Memory()
        self.socket = socket.socket(socket.AF_UNIX)
        # Without a timeout, so that it waits where more front ends are there than the back end has accepted.
        self.socket.connect(path)
        self.socket.settimeout(TIMEOUT)
        self.wanted = features | F_VERSION_1 | F_PROTOCOL
        self.backend: socket.socket | None = None

    def close(self) -> None:
        self.socket.close()
        if self.backend is not None:
            self.backend.close()

    def send(self, request: int, payload: bytes = b"", fds: tuple[int, ...] = (), flags: int = 1) -> None:
        message = struct.pack("<III", request, flags, len(payload)) + payload
        if fds:
            socket.send_fds(self.socket, [message], fds)
        else:
            self.socket.sendall(message)

    def receive(self) -> tuple[int, bytes, list[int]]:
        """A reply: request, payload, file descriptors. Raises :class:`Disconnected`."""
        header, fds = b"", []
        while len(header) < 12:
            with contextlib.suppress(ConnectionResetError):
                data, new, _unused, _unused = socket.recv_fds(self.socket, 12 - len(header), 4)
                header, fds = header + data, fds + new
            if not data:
                raise Disconnected
        request, flags, size = struct.unpack("<III", header)
        assert flags == 5, "a reply has version 1 and the reply flag"
        payload = b""
        while len(payload) < size:
            payload += self.socket.recv(size - len(payload))
        return request, payload, fds

    def ask(self, request: int, payload: bytes = b"", fds: tuple[int, ...] = ()) -> bytes:
        """The payload of the request's own reply."""
        self.send(request, payload, fds)
        number, answer, _unused = self.receive()
        assert number == request
        return answer

    def tell(self, request: int, payload: bytes = b"", fds: tuple[int, ...] = ()) -> None:
        """A request without a reply of its own; waits for the acknowledgement."""
        self.send(request, payload, fds, flags=9)
        number, answer, _unused = self.receive()
        assert (number, answer) == (request, struct.pack("<Q", 0))

    def negotiate(self) -> int:
        """Up to the memory table, as QEMU does it. The features that were offered."""
        (offered,) = struct.unpack("<Q", self.ask(1))
        (protocol,) = struct.unpack("<Q", self.ask(15))
        self.tell(16, struct.pack("<Q", protocol & ALL_PROTOCOL_FEATURES))
        here, there = socket.socketpair()
        here.settimeout(TIMEOUT)
        self.tell(21, struct.pack("<Q", 0), (there.fileno(),))
        there.close()
        self.backend = here
        self.tell(3)
        self.tell(2, struct.pack("<Q", offered & self.wanted))
        self.send_memory()
        return offered

    def send_memory(self) -> None:
        table = struct.pack("<II", len(REGIONS), 0)
        for guest, user, offset in REGIONS:
            table += struct.pack("<QQQQ", guest, REGION, user, offset)
        self.tell(5, table, tuple(self.memory.fd for _unused in REGIONS))

    def config(self) -> bytes:
        return self.ask(24, struct.pack("<III", 0, 60, 0) + bytes(60))[12:]

    def start(self, ring: Ring, base: int = 0) -> None:
        index = ring.index
        self.tell(8, struct.pack("<II", index, ring.size))
        self.tell(10, struct.pack("<II", index, base))
        user = REGIONS[0][1]
        self.tell(9, struct.pack("<IIQQQQ", index, 0, user + ring.table, user + ring.used, user + ring.available, 0))
        self.tell(12, struct.pack("<Q", index), (ring.kick_fd,))
        self.tell(13, struct.pack("<Q", index), (ring.call_fd,))
        self.tell(14, struct.pack("<Q", index), (ring.error_fd,))
        self.tell(18, struct.pack("<II", index, 1))

    def stop(self, ring: Ring) -> int:
        """The index up to which requests were taken."""
        index, base = struct.unpack("<II", self.ask(11, struct.pack("<II", ring.index, 0)))
        assert index == ring.index
        return base

    def get_inflight(self, queues: int, size: int) -> tuple[bytes, int]:
        """The region's description and its file descriptor."""
        self.send(31, struct.pack("<QQHH", 0, 0, queues, size).ljust(24, b"\0"))
        _unused, payload, fds = self.receive()
        assert len(payload) == 24
        return payload, fds[0]

    def set_inflight(self, region: tuple[bytes, int]) -> None:
        self.tell(32, region[0], (region[1],))


class Memory:
    """The guest's memory: one file, two regions."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("guest")
        self.close = weakref.finalize(self, os.close, self.fd)
        os.ftruncate(self.fd, 2 * REGION)
        self.map = mmap.mmap(self.fd, 2 * REGION)

    def offset(self, address: int) -> int:
        for guest, _unused, offset in REGIONS:
            if guest <= address < guest + REGION:
                return offset + address - guest
        raise ValueError(f"{address:#x} is no guest memory")

    def write(self, address: int, data: bytes) -> None:
        offset = self.offset(address)
        self.map[offset : offset + len(data)] = data

    def read(self, address: int, length: int) -> bytes:
        offset = self.offset(address)
        return self.map[offset : offset + length]


class Ring:
    """A split virtqueue, the driver's side. Buffers are laid out one after another, wherever there is room."""

    def __init__(self, memory: Memory, size: int = 16, index: int = 0, event_index: bool = True) -> None:
        self.memory, self.size, self.index, self.event_index = memory, size, index, event_index
        base = index * 0x10000
        self.table, self.available, self.used = base, base + 0x4000, base + 0x6000
        self.buffers = 0x1_0000_0000 + index * 0x40000
        """In the second region, so that the two kinds of addresses cannot be mistaken for each other."""
        self.kick_fd, self.call_fd, self.error_fd = (os.eventfd(0, os.EFD_NONBLOCK) for _unused in range(3))
        self.close_kick, *_unused = (
            weakref.finalize(self, os.close, fd) for fd in (self.kick_fd, self.call_fd, self.error_fd)
        )
        self.seen = 0
        self.next_descriptor = 0
        self.chains: dict[int, list[tuple[int, int, int]]] = {}

    def allocate(self, length: int) -> int:
        address = self.buffers
        self.buffers += (length + 15) // 16 * 16
        return address

    def describe(self, table: int, index: int, address: int, length: int, flags: int, following: int = 0) -> None:
        self.memory.write(table + 16 * index, struct.pack("<QIHH", address, length, flags, following))

    def request(
        self, kind: int, sector: int = 0, data: bytes = b"", room: int = 0, indirect: bool = False, pieces: int = 1
    ) -> int:
        """Lay out a virtio-blk request, its data in so many buffers; the head. :meth:`offer` makes it available."""
        header = self.allocate(16)
        self.memory.write(header, struct.pack("<IIQ", kind, 0, sector))
        chain = [(header, 16, 0)]
        for number in range(pieces):
            if data:
                part = data[number * len(data) // pieces : (number + 1) * len(data) // pieces]
                address = self.allocate(len(part))
                self.memory.write(address, part)
                chain.append((address, len(part), 0))
            if room:
                chain.append((self.allocate(room // pieces), room // pieces, WRITE))
        status = self.allocate(1)
        self.memory.write(status, b"\xff")
        chain.append((status, 1, WRITE))
        return self.chain(chain, indirect)

    def chain(self, chain: list[tuple[int, int, int]], indirect: bool = False) -> int:
        """Put ``(address, length, flags)`` into descriptors; the head."""
        head = self.next_descriptor
        count = 1 if indirect else len(chain)
        assert head + count <= self.size, "the test ring has no descriptors left"
        self.next_descriptor += count
        table, first = self.table, head
        if indirect:
            table, first = self.allocate(16 * len(chain)), 0
            self.describe(self.table, head, table, 16 * len(chain), INDIRECT)
        for number, (address, length, flags) in enumerate(chain):
            more = NEXT if number + 1 < len(chain) else 0
            self.describe(table, first + number, address, length, flags | more, first + number + 1)
        self.chains[head] = chain
        return head

    def offer(self, *heads: int, kick: bool = True) -> None:
        _unused, index = struct.unpack("<HH", self.memory.read(self.available, 4))
        for head in heads:
            self.memory.write(self.available + 4 + 2 * (index % self.size), struct.pack("<H", head))
            index = (index + 1) & 0xFFFF
        self.memory.write(self.available + 2, struct.pack("<H", index))
        if self.event_index:
            self.want_interrupt_at(self.used_index())
        if kick:
            os.eventfd_write(self.kick_fd, 1)

    def want_interrupt_at(self, index: int) -> None:
        """The driver's event index: interrupt when the used index passes this."""
        self.memory.write(self.available + 4 + 2 * self.size, struct.pack("<H", index & 0xFFFF))

    def kick_wanted_at(self) -> int:
        """The device's event index."""
        return struct.unpack("<H", self.memory.read(self.used + 4 + 8 * self.size, 2))[0]

    def used_index(self) -> int:
        return struct.unpack("<H", self.memory.read(self.used + 2, 2))[0]

    def interrupted(self, timeout: float = TIMEOUT) -> bool:
        """Whether an interrupt comes in time; it is consumed."""
        readable, _unused, _unused = select.select([self.call_fd], [], [], timeout)
        if readable:
            os.eventfd_read(self.call_fd)
        return bool(readable)

    def broken(self, timeout: float = TIMEOUT) -> bool:
        """Whether the back end says that it stopped this ring."""
        return bool(select.select([self.error_fd], [], [], timeout)[0])

    def finished(self) -> list[tuple[int, int]]:
        """New entries of the used ring: head and bytes written."""
        entries = []
        while self.seen != self.used_index():
            slot = self.used + 4 + 8 * (self.seen % self.size)
            entries.append(struct.unpack("<II", self.memory.read(slot, 8)))
            self.seen = (self.seen + 1) & 0xFFFF
        return entries

    def wait(self, count: int = 1) -> dict[int, Answer]:
        """The answers of the next ``count`` requests, by head, in the order in which they came."""
        answers: dict[int, Answer] = {}
        while len(answers) < count:
            for head, written in self.finished():
                chain = self.chains[head]
                data = b"".join(self.memory.read(at, length) for at, length, flags in chain[:-1] if flags & WRITE)
                answers[head] = Answer(self.memory.read(chain[-1][0], 1)[0], data, written)
            if len(answers) < count:
                if self.event_index:
                    self.want_interrupt_at(self.used_index())
                if not self.finished_now() and not self.interrupted():
                    raise TimeoutError(f"{len(answers)} of {count} requests were answered: {answers}")
        return answers

    def finished_now(self) -> bool:
        return self.seen != self.used_index()

    def do(self, kind: int, sector: int = 0, data: bytes = b"", room: int = 0, **layout: object) -> Answer:
        """One request, start to end."""
        head = self.request(kind, sector, data, room, **layout)
        self.offer(head)
        answer = self.wait()[head]
        self.next_descriptor = 0
        return answer
