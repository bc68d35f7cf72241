"""Nothing that a guest or a front end sends stops more than its own ring or its own connection."""

from __future__ import annotations

import os
import random
import struct

import pytest
from front_end import IN, INDIRECT, NEXT, REGION, WRITE, Disconnected, FrontEnd, Ring

U64 = struct.Struct("<Q")


def header(ring: Ring, kind: int = IN) -> int:
    address = ring.allocate(16)
    ring.memory.write(address, struct.pack("<IIQ", kind, 0, 0))
    return address


def loop(ring: Ring) -> int:
    ring.describe(ring.table, 0, header(ring), 16, NEXT, 1)
    ring.describe(ring.table, 1, header(ring), 16, NEXT, 0)
    return 0


def next_is_no_descriptor(ring: Ring) -> int:
    ring.describe(ring.table, 0, header(ring), 16, NEXT, 999)
    return 0


def buffer_outside_memory(ring: Ring) -> int:
    return ring.chain([(header(ring), 16, 0), (0x9999_0000_0000, 512, WRITE), (ring.allocate(1), 1, WRITE)])


def buffer_across_the_end_of_memory(ring: Ring) -> int:
    return ring.chain([(header(ring), 16, 0), (0x1_0000_0000 + REGION - 256, 512, WRITE), (ring.allocate(1), 1, WRITE)])


def address_overflow(ring: Ring) -> int:
    return ring.chain([(header(ring), 16, 0), (2**64 - 16, 2**32 - 1, WRITE), (ring.allocate(1), 1, WRITE)])


def header_too_short(ring: Ring) -> int:
    return ring.chain([(header(ring), 8, 0), (ring.allocate(1), 1, WRITE)])


def no_status(ring: Ring) -> int:
    return ring.chain([(header(ring), 16, 0), (ring.allocate(512), 512, 0)])


def status_of_no_length(ring: Ring) -> int:
    return ring.chain([(header(ring), 16, 0), (ring.allocate(1), 0, WRITE)])


def readable_behind_writable(ring: Ring) -> int:
    return ring.chain([(header(ring), 16, 0), (ring.allocate(1), 1, WRITE), (ring.allocate(1), 1, 0)])


def indirect_in_indirect(ring: Ring) -> int:
    table = ring.allocate(32)
    ring.describe(table, 0, table, 32, INDIRECT)
    ring.describe(ring.table, 0, table, 32, INDIRECT)
    return 0


def indirect_of_odd_length(ring: Ring) -> int:
    ring.describe(ring.table, 0, ring.allocate(32), 17, INDIRECT)
    return 0


def indirect_of_no_length(ring: Ring) -> int:
    ring.describe(ring.table, 0, ring.allocate(32), 0, INDIRECT)
    return 0


def indirect_outside_memory(ring: Ring) -> int:
    ring.describe(ring.table, 0, 0x9999_0000_0000, 32, INDIRECT)
    return 0


def indirect_loop(ring: Ring) -> int:
    table = ring.allocate(32)
    ring.describe(table, 0, header(ring), 16, NEXT, 1)
    ring.describe(table, 1, header(ring), 16, NEXT, 1)
    ring.describe(ring.table, 0, table, 32, INDIRECT)
    return 0


def head_is_no_descriptor(_ring: Ring) -> int:
    return 0xFFFF


@pytest.mark.parametrize(
    "build",
    [
        loop,
        next_is_no_descriptor,
        buffer_outside_memory,
        buffer_across_the_end_of_memory,
        address_overflow,
        header_too_short,
        no_status,
        status_of_no_length,
        readable_behind_writable,
        indirect_in_indirect,
        indirect_of_odd_length,
        indirect_of_no_length,
        indirect_outside_memory,
        indirect_loop,
        head_is_no_descriptor,
    ],
)
def test_a_broken_ring_stops_alone(node, build) -> None:
    node.disk()
    front_end, ring = node.ring()
    second = Ring(front_end.memory, index=1)
    front_end.start(second)
    ring.offer(build(ring))
    assert ring.broken()
    assert second.do(IN, 0, room=512).status == 0
    # The driver resets the device and starts anew.
    front_end.stop(ring)
    fresh = Ring(front_end.memory, index=0)
    fresh.memory.write(fresh.available, bytes(4))
    fresh.memory.write(fresh.used, bytes(4))
    front_end.start(fresh)
    assert fresh.do(IN, 0, room=512).status == 0


def test_more_available_than_the_ring_has(node) -> None:
    node.disk()
    _unused, ring = node.ring(size=16)
    ring.memory.write(ring.available + 2, struct.pack("<H", 17))
    os.eventfd_write(ring.kick_fd, 1)
    assert ring.broken()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", 3),
        ("size", 0),
        ("size", 2048),
        ("table", 0x8),
        ("used", 0x2),
        ("available", 0x1),
        ("table", REGION - 16),
    ],
)
def test_an_impossible_ring_is_not_started(node, name: str, value: int) -> None:
    node.disk()
    front_end = node.connect()
    front_end.negotiate()
    ring = Ring(front_end.memory)
    setattr(ring, name, value)
    front_end.start(ring)
    assert front_end.config()
    assert not ring.interrupted(0)


def pack_header(request: int, flags: int, size: int) -> bytes:
    return struct.pack("<III", request, flags, size)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(pack_header(1, 0, 0), id="no version"),
        pytest.param(pack_header(1, 2, 0), id="version 2"),
        pytest.param(pack_header(99, 1, 0), id="unknown request"),
        pytest.param(pack_header(2, 1, 2**31), id="too long"),
        pytest.param(pack_header(2, 1, 4) + bytes(4), id="short features"),
        pytest.param(pack_header(2, 1, 8) + U64.pack(1 << 63), id="feature not offered"),
        pytest.param(pack_header(16, 1, 8) + U64.pack(1 << 40), id="protocol feature not offered"),
        pytest.param(pack_header(5, 1, 8) + struct.pack("<II", 2**32 - 1, 0), id="huge memory table"),
        pytest.param(pack_header(5, 1, 40) + struct.pack("<II", 1, 0) + bytes(32), id="memory without its file"),
        pytest.param(pack_header(8, 1, 8) + struct.pack("<II", 256, 16), id="queue 256"),
        pytest.param(pack_header(12, 1, 8) + U64.pack(0), id="kick without its eventfd"),
        pytest.param(pack_header(21, 1, 8) + U64.pack(0), id="back-end channel without its socket"),
        pytest.param(pack_header(24, 1, 12) + struct.pack("<III", 2**32 - 1, 60, 0), id="config far out"),
        pytest.param(pack_header(24, 1, 12) + struct.pack("<III", 0, 257, 0), id="config too long"),
        pytest.param(pack_header(31, 1, 24) + struct.pack("<QQHH4x", 0, 0, 65535, 65535), id="huge inflight region"),
        pytest.param(pack_header(32, 1, 24) + bytes(24), id="inflight region without its file"),
    ],
)
def test_a_malformed_message_ends_its_connection_only(node, message: bytes) -> None:
    node.disk()
    _unused, ring = node.ring()
    other = node.connect()
    other.socket.sendall(message)
    with pytest.raises(Disconnected):
        other.receive()
    assert ring.do(IN, 0, room=512).status == 0


def test_memory_regions_have_to_be_there(node) -> None:
    node.disk()
    for offset, size in ((0, 2 * REGION + 1), (2**63, 4096), (2 * REGION, 4096)):
        front_end = node.connect()
        table = struct.pack("<II", 1, 0) + struct.pack("<QQQQ", 0, size, 0, offset)
        front_end.send(5, table, (front_end.memory.fd,))
        with pytest.raises(Disconnected):
            front_end.receive()


def test_descriptors_of_the_wrong_kind(node) -> None:
    node.disk()
    pipe = os.pipe()
    try:
        for request, payload in ((5, struct.pack("<IIQQQQ", 1, 0, 0, 4096, 0, 0)), (21, U64.pack(0))):
            front_end = node.connect()
            front_end.send(request, payload, (pipe[0],))
            with pytest.raises(Disconnected):
                front_end.receive()
        # A file cannot be waited for.
        front_end = node.connect()
        front_end.negotiate()
        ring = Ring(front_end.memory)
        ring.close_kick()
        ring.kick_fd = front_end.memory.fd
        with pytest.raises(Disconnected):
            front_end.start(ring)
    finally:
        os.close(pipe[0])
        os.close(pipe[1])


def test_an_inflight_region_of_lies(node) -> None:
    node.disk()
    front_end = node.connect()
    front_end.negotiate()
    region, fd = front_end.get_inflight(1, 16)
    size = struct.unpack_from("<Q", region)[0]
    os.pwrite(fd, b"\xff" * size, 0)
    os.pwrite(fd, struct.pack("<QHHHH", 0, 1, 16, 0xFFFF, 0xFFFF), 0)
    front_end.set_inflight((region, fd))
    ring = Ring(front_end.memory)
    front_end.start(ring)
    assert ring.broken(), "its requests are descriptors that the driver never filled"
    assert front_end.config()


def test_random_bytes_never_end_the_process(node) -> None:
    node.disk()
    _unused, ring = node.ring()
    chance = random.Random(3)
    for _unused in range(150):
        front_end = FrontEnd(str(node.directory / "sma-0"))
        requests = [chance.choice([2, 5, 8, 9, 10, 11, 12, 13, 14, 16, 18, 24, 25, 31, 32]) for _unused in range(4)]
        for request in requests:
            payload = chance.randbytes(chance.choice([0, 4, 8, 12, 24, 40, 72]))
            message = pack_header(request, 1, len(payload)) + payload
            try:
                front_end.socket.sendall(message)
            except OSError:
                break
        front_end.close()
    assert ring.do(IN, 0, room=512).status == 0


def test_random_rings_never_end_the_process(node) -> None:
    node.disk()
    front_end, _unused = node.ring()
    chance = random.Random(7)
    for _unused in range(100):
        ring = Ring(front_end.memory, index=1)
        ring.memory.write(ring.available, bytes(64))
        ring.memory.write(ring.used, bytes(256))
        front_end.start(ring)
        for index in range(16):
            address = chance.choice([0x1_0000_0000 + chance.randrange(REGION), chance.randrange(REGION), 2**64 - 1])
            length = chance.choice([0, 1, 16, 32, 512, 4096, 2**32 - 1])
            ring.describe(ring.table, index, address, length, chance.randrange(8), chance.randrange(20))
        # The rings themselves may be overwritten by what is read into them; that is the guest's affair.
        os.eventfd_write(ring.kick_fd, 1)
        ring.offer(*(chance.randrange(16) for _unused in range(4)))
        front_end.stop(ring)
    assert front_end.config()


def test_half_a_message_blocks_nobody(node) -> None:
    node.disk()
    half = node.connect()
    half.socket.sendall(pack_header(2, 1, 8)[:7])
    _unused, ring = node.ring()
    assert ring.do(IN, 0, room=512).status == 0
