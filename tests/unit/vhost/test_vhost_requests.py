"""virtio-blk requests through a real socket, real eventfds and rings in shared memory."""

from __future__ import annotations

import os
import struct

import pytest
from front_end import (
    DISCARD,
    F_EVENT_IDX,
    F_INDIRECT,
    FLUSH,
    GET_ID,
    IN,
    OUT,
    WRITE,
    WRITE_ZEROES,
    Ring,
)

OK, IOERR, UNSUPPORTED = 0, 1, 2


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("event_index", [False, True])
def test_what_is_written_is_read(node, indirect: bool, event_index: bool) -> None:
    bdev, _unused = node.disk()
    _unused, ring = node.ring(features=F_INDIRECT | (F_EVENT_IDX if event_index else 0))
    data = os.urandom(4096)

    assert ring.do(OUT, 8, data, indirect=indirect, pieces=3) == (OK, b"", 1)
    assert ring.do(FLUSH, indirect=indirect).status == OK
    assert ring.do(IN, 8, room=4096, indirect=indirect, pieces=2) == (OK, data, 4097)
    assert bytes(bdev._memory[4096:8192]) == data


def test_serial_is_the_name_of_the_bdev(node) -> None:
    node.disk(bdev="st1n1")
    _unused, ring = node.ring()
    assert ring.do(GET_ID, room=20) == (OK, b"st1n1".ljust(20), 21)


def test_long_names_are_cut(node) -> None:
    node.disk(bdev="a-storage-target-with-a-long-name")
    _unused, ring = node.ring()
    assert ring.do(GET_ID, room=20).data == b"a-storage-target-wit"


def test_discard_and_write_zeroes(node) -> None:
    node.disk()
    _unused, ring = node.ring()
    ring.do(OUT, 0, b"x" * 4096)
    assert ring.do(DISCARD, data=struct.pack("<QII", 0, 2, 0)).status == OK
    assert ring.do(WRITE_ZEROES, data=struct.pack("<QII", 4, 2, 1)).status == OK
    assert ring.do(IN, 0, room=4096).data == bytes(1024) + b"x" * 1024 + bytes(1024) + b"x" * 1024


@pytest.mark.parametrize(
    ("kind", "layout", "status"),
    [
        pytest.param(IN, {"sector": 2048, "room": 512}, IOERR, id="behind the end"),
        pytest.param(IN, {"sector": 2**64 - 1, "room": 512}, IOERR, id="far behind the end"),
        pytest.param(OUT, {"sector": 2047, "data": bytes(1024)}, IOERR, id="across the end"),
        pytest.param(IN, {"room": 511}, UNSUPPORTED, id="part of a sector"),
        pytest.param(OUT, {}, UNSUPPORTED, id="no data"),
        pytest.param(DISCARD, {"data": bytes(15)}, IOERR, id="short range"),
        pytest.param(DISCARD, {"data": bytes(32)}, IOERR, id="two ranges"),
        pytest.param(DISCARD, {"data": struct.pack("<QII", 0, 1, 1)}, UNSUPPORTED, id="unmap flag on discard"),
        pytest.param(WRITE_ZEROES, {"data": struct.pack("<QII", 2047, 2, 0)}, IOERR, id="zeroes across the end"),
        pytest.param(WRITE_ZEROES, {"data": struct.pack("<QII", 0, 0, 0)}, IOERR, id="no zeroes"),
        pytest.param(FLUSH, {"sector": 1}, IOERR, id="flush with a sector"),
        pytest.param(GET_ID, {}, UNSUPPORTED, id="no room for the id"),
        pytest.param(77, {"room": 512}, UNSUPPORTED, id="unknown type"),
    ],
)
def test_bad_requests_get_an_error_and_the_ring_goes_on(node, kind: int, layout: dict, status: int) -> None:
    node.disk()
    _unused, ring = node.ring()
    assert ring.do(kind, **layout).status == status
    assert ring.do(IN, 0, room=512).status == OK


def test_header_and_status_may_share_buffers_with_data(node) -> None:
    node.disk()
    _unused, ring = node.ring()
    out = ring.allocate(16 + 512)
    ring.memory.write(out, struct.pack("<IIQ", OUT, 0, 3) + b"z" * 512)
    status = ring.allocate(1)
    ring.offer(ring.chain([(out, 7, 0), (out + 7, 16 + 512 - 7, 0), (status, 1, WRITE)]))
    assert ring.wait(1)[0].status == OK

    header = ring.allocate(16)
    ring.memory.write(header, struct.pack("<IIQ", IN, 0, 3))
    room = ring.allocate(513)
    ring.offer(ring.chain([(header, 16, 0), (room, 513, WRITE)]))
    ring.wait(1)  # an interrupt alone may be that of the request before
    assert ring.memory.read(room, 513) == b"z" * 512 + b"\0"


def test_readonly(node) -> None:
    node.disk(readonly=True)
    front_end, ring = node.ring()
    assert ring.do(OUT, 0, bytes(512)).status == IOERR
    assert ring.do(WRITE_ZEROES, data=struct.pack("<QII", 0, 1, 0)).status == IOERR
    assert ring.do(IN, 0, room=512).status == OK
    offered = struct.unpack("<Q", front_end.ask(1))[0]
    assert offered & 1 << 5
    assert not offered & (1 << 13 | 1 << 14)


def test_requests_complete_in_any_order(node) -> None:
    bdev, _unused = node.disk()
    _unused, ring = node.ring(size=32)
    bdev.held = []
    heads = [ring.request(OUT, sector, bytes([sector]) * 512) for sector in range(8)]
    ring.offer(*heads)
    bdev.wait_held(8)
    for io in (bdev.held[5], bdev.held[1], bdev.held[7]):
        node.run(bdev.let_go, io)
    assert list(ring.wait(3)) == [heads[5], heads[1], heads[7]]
    for number in (0, 2, 3, 4, 6):
        node.run(bdev.let_go, bdev.held[number])
    assert list(ring.wait(5)) == [heads[number] for number in (0, 2, 3, 4, 6)]
    bdev.held = None
    assert bytes(bdev._memory[: 8 * 512]) == b"".join(bytes([sector]) * 512 for sector in range(8))


def test_many_answers_come_with_one_interrupt(node) -> None:
    node.disk()
    _unused, ring = node.ring(size=64)
    heads = [ring.request(IN, sector, room=512) for sector in range(16)]
    ring.offer(*heads)
    assert ring.interrupted()
    assert [head for head, _unused in ring.finished()] == heads
    assert not ring.interrupted(0)


def test_event_index_is_kept_by_both_sides(node) -> None:
    node.disk()
    _unused, ring = node.ring(size=64)
    heads = [ring.request(IN, sector, room=512) for sector in range(4)]
    ring.offer(*heads[:2], kick=False)
    ring.want_interrupt_at(2)
    os.eventfd_write(ring.kick_fd, 1)
    node.until(lambda: ring.used_index() == 2)
    assert not ring.interrupted(0), "the driver wants an interrupt for its third request only"
    node.until(lambda: ring.kick_wanted_at() == 2)
    ring.offer(heads[2], kick=False)
    ring.want_interrupt_at(2)
    os.eventfd_write(ring.kick_fd, 1)
    assert ring.interrupted()


def test_indices_wrap(node) -> None:
    node.disk()
    front_end, ring = node.ring(size=4)
    front_end.stop(ring)
    ring.memory.write(ring.available + 2, struct.pack("<H", 0xFFFE))
    ring.memory.write(ring.used + 2, struct.pack("<H", 0xFFFE))
    ring.seen = 0xFFFE
    front_end.start(ring, base=0xFFFE)
    for sector in range(5):
        assert ring.do(IN, sector, room=512).status == OK
    assert ring.used_index() == 3
    assert front_end.stop(ring) == 3


def test_two_queues(node) -> None:
    node.disk()
    front_end, first = node.ring()
    second = Ring(front_end.memory, index=1)
    front_end.start(second)
    assert first.do(OUT, 0, b"1" * 512).status == OK
    assert second.do(IN, 0, room=512).data == b"1" * 512


def test_bdev_gone(node) -> None:
    bdev, controller = node.disk()
    front_end, ring = node.ring()
    node.run(node.bdevs.unregister, bdev)
    assert controller.bdev is None
    assert ring.do(IN, 0, room=512).status == IOERR
    assert front_end.config()[:8] == bytes(8)


def test_bdev_gone_with_requests_under_way(node) -> None:
    bdev, _unused = node.disk()
    _unused, ring = node.ring()
    bdev.held = []
    head = ring.request(IN, 0, room=512)
    ring.offer(head)
    bdev.wait_held(1)
    node.run(node.bdevs.unregister, bdev)
    node.run(bdev.held[0].complete, 7)
    assert ring.wait()[head].status == IOERR
