"""Connections come, go and come back; disks change under them."""

from __future__ import annotations

import gc
import os
import socket
import struct
import time

import pytest
from front_end import IN, OUT, Disconnected, FrontEnd, Ring
from vhost_node import Node

CONFIG_CHANGE = struct.pack("<III", 2, 1, 0)


def test_what_is_offered(node) -> None:
    node.disk()
    front_end = node.connect()
    offered = front_end.negotiate()
    # SEG_MAX, BLK_SIZE, FLUSH, TOPOLOGY, MQ, DISCARD, WRITE_ZEROES; INDIRECT, EVENT_IDX, PROTOCOL, VERSION_1
    assert offered == sum(1 << bit for bit in (2, 6, 9, 10, 12, 13, 14, 28, 29, 30, 32))
    assert struct.unpack("<Q", front_end.ask(17)) == (256,)
    config = front_end.config()
    assert struct.unpack_from("<Q", config) == (2048,)
    assert struct.unpack_from("<I", config, 20) == (512,), "block size"
    assert struct.unpack_from("<H", config, 34) == (256,), "queues"
    assert struct.unpack_from("<I", config, 36) == (32768,), "the most that a discard covers"


def test_config_is_as_long_as_was_asked(node) -> None:
    node.disk()
    front_end = node.connect()
    for size in (8, 57, 60, 256):
        assert len(front_end.ask(24, struct.pack("<III", 0, size, 0) + bytes(size))) == 12 + size


def test_messages_in_pieces(node) -> None:
    node.disk()
    front_end = node.connect()
    for byte in struct.pack("<III", 1, 1, 0):
        front_end.socket.send(bytes([byte]))
    assert front_end.receive()[0] == 1


def test_resize_is_told_and_shown(node) -> None:
    bdev, _unused = node.disk()
    front_end, ring = node.ring()
    node.run(node.bdevs.resize, bdev, 1024)
    assert front_end.backend.recv(64) == CONFIG_CHANGE
    assert struct.unpack_from("<Q", front_end.config()) == (1024,)
    assert ring.do(IN, 1024, room=512).status == 1


@pytest.mark.parametrize("pool", [{"small_pool_count": 512}, {"large_pool_count": 64}])
def test_a_disk_without_buffers_never_starts(node, pool: dict[str, int]) -> None:
    """As in SPDK, where the thread of a started disk keeps 256 small buffers and 32 large ones."""
    node.run(node.buffers.set, pool)
    for number in range(3):
        node.disk(f"sma-{number}", f"st1n{number}")
    first, _unused = node.ring("sma-0")
    node.ring("sma-1")
    late = node.connect("sma-2")
    late.negotiate()
    late.start(Ring(late.memory, 16, event_index=bool(late.wanted & 1 << 29)))
    late.config()  # answered after what was asked before
    assert [session.started for session in node.vhost.get("sma-2").sessions] == [False]
    first.close()
    node.until(lambda: not node.vhost.get("sma-0").sessions)
    node.ring("sma-2")  # a guest that asks anew, now that there are some


def test_a_guest_that_comes_back(node) -> None:
    node.disk()
    front_end, ring = node.ring()
    ring.do(OUT, 5, b"k" * 512)
    base = front_end.stop(ring)
    front_end.close()
    again = node.connect(memory=front_end.memory)
    again.negotiate()
    again.start(ring, base)
    assert ring.interrupted()
    assert ring.do(IN, 5, room=512).data == b"k" * 512


def test_what_waits_when_a_ring_starts_is_done(node) -> None:
    node.disk()
    front_end = node.connect()
    front_end.negotiate()
    ring = Ring(front_end.memory)
    head = ring.request(IN, 0, room=512)
    ring.offer(head, kick=False)
    front_end.start(ring)
    assert ring.wait()[head].status == 0


def test_a_request_whose_kick_was_lost_is_done(node) -> None:
    """As by SPDK, which polls."""
    node.disk()
    _front_end, ring = node.ring()
    assert ring.do(IN, 0, room=512).status == 0
    deadline = time.monotonic() + 20
    while ring.kick_wanted_at() != 1:
        assert time.monotonic() < deadline, "it never waits for a kick"
        time.sleep(0.01)
    head = ring.request(IN, 0, room=512)
    ring.offer(head, kick=False)
    assert ring.wait()[head].status == 0


def test_a_disabled_ring_waits(node) -> None:
    node.disk()
    front_end, ring = node.ring()
    front_end.tell(18, struct.pack("<II", 0, 0))
    head = ring.request(IN, 0, room=512)
    ring.offer(head)
    front_end.config()
    assert not ring.finished_now()
    front_end.tell(18, struct.pack("<II", 0, 1))
    assert ring.wait()[head].status == 0


def test_stopping_a_ring_waits_for_its_requests(node) -> None:
    bdev, controller = node.disk()
    front_end, ring = node.ring()
    bdev.held = []
    first = ring.request(IN, 0, room=512)
    ring.offer(first)
    bdev.wait_held(1)
    front_end.send(11, struct.pack("<II", 0, 0))
    queue = controller.sessions[0].queues[0]
    node.until(lambda: queue._paused)
    ring.offer(ring.request(IN, 0, room=512))
    node.run(bdev.let_go, bdev.held[0])
    request, payload, _unused = front_end.receive()
    assert (request, payload) == (11, struct.pack("<II", 0, 1)), "the second request was not taken any more"
    assert ring.finished() == [(first, 513)]


def test_memory_table_may_change_under_requests(node) -> None:
    bdev, _unused = node.disk()
    front_end, ring = node.ring()
    bdev.held = []
    head = ring.request(IN, 0, room=512)
    ring.offer(head)
    bdev.wait_held(1)
    front_end.send_memory()
    node.run(bdev.let_go, bdev.held[0])
    assert ring.wait()[head].status == 0
    bdev.held = None
    assert ring.do(IN, 0, room=512).status == 0


def kill_with_requests_under_way(node: Node, front_end: FrontEnd, ring: Ring, done: list[int]) -> list[int]:
    """Six requests, of which some are completed before the node dies as by kill -9; the heads of the others, in order.

    Descriptors are used in another order than the requests', so that the order has to come from the log.
    """
    bdev = next(iter(node.bdevs))
    bdev.held = []
    heads = [ring.request(OUT, sector, bytes([65 + sector]) * 512) for sector in range(6)][::-1]
    ring.offer(*heads)
    bdev.wait_held(6)
    for number in done:
        node.run(bdev.let_go, bdev.held[number])
    assert list(ring.wait(len(done))) == [heads[number] for number in done]
    # Nothing of what follows reaches the rings: the session is cut off from its memory at once.
    node.run(lambda: [queue.stop() for session in next(iter(node.vhost)).sessions for queue in session.queues.values()])
    front_end.close()
    return [head for number, head in enumerate(heads) if number not in done]


@pytest.mark.parametrize("done", [[3, 1], [5], [0, 1, 2], [4, 5, 0]])
def test_requests_survive_the_death_of_the_process(node, tmp_path, done: list[int]) -> None:
    node.disk()
    front_end = node.connect()
    front_end.negotiate()
    region = front_end.get_inflight(1, 32)
    front_end.set_inflight(region)
    ring = Ring(front_end.memory, 32)
    front_end.start(ring)
    left = kill_with_requests_under_way(node, front_end, ring, done)
    # It died before it could strike its last answer out of the log.
    last = 15 - 3 * done[-1]
    os.pwrite(region[1], b"\1", 16 + 16 * last)
    os.pwrite(region[1], struct.pack("<H", ring.used_index() - 1), 14)

    (tmp_path / "next").mkdir()
    heir = Node(tmp_path / "next")
    try:
        bdev, _unused = heir.disk()
        again = heir.connect(memory=front_end.memory)
        again.negotiate()
        again.set_inflight(region)
        # QEMU has no answer to GET_VRING_BASE from the dead and takes the used index.
        again.start(ring, base=ring.used_index())
        answers = ring.wait(len(left))
        assert list(answers) == left, "the oldest first"
        assert {answer.status for answer in answers.values()} == {0}
        for number, head in enumerate(range(0, 18, 3)):
            expected = bytes([65 + number]) * 512 if head in left else bytes(512)
            assert bytes(bdev._memory[number * 512 : number * 512 + 512]) == expected
        assert not ring.finished_now()
        ring.next_descriptor = 0
        assert ring.do(IN, 0, room=512).status == 0
        assert again.stop(ring) == 7
    finally:
        heir.close()


def test_death_between_used_index_and_log(node) -> None:
    node.disk()
    front_end = node.connect()
    front_end.negotiate()
    payload, fd = front_end.get_inflight(1, 16)
    ring = Ring(front_end.memory, 16)
    heads = [ring.request(OUT, sector, b"n" * 512) for sector in range(3)]
    ring.offer(*heads, kick=False)
    # The predecessor gave back heads[2] and heads[0] as one batch, published it and died before it struck them out.
    states = {head: (1, 0, counter) for counter, head in enumerate(heads)}
    states[heads[0]] = (1, heads[2], 0)
    os.pwrite(fd, struct.pack("<QHHHH", 0, 1, 16, heads[0], 0), 0)
    for head, (flag, following, counter) in states.items():
        os.pwrite(fd, struct.pack("<B5xHQ", flag, following, counter), 16 + 16 * head)
    ring.memory.write(ring.used, struct.pack("<HHIIII", 0, 2, heads[2], 1, heads[0], 1))
    ring.seen = 2
    front_end.set_inflight((payload, fd))
    front_end.start(ring, base=2)
    assert list(ring.wait(1)) == [heads[1]]
    assert front_end.stop(ring) == 3
    assert not any(os.pread(fd, 1, 16 + 16 * head)[0] for head in heads)


def test_new_requests_wait_for_those_of_a_lost_connection(node) -> None:
    bdev, _unused = node.disk()
    front_end, ring = node.ring()
    bdev.held = []
    ring.offer(ring.request(OUT, 0, b"o" * 512))
    bdev.wait_held(1)
    front_end.close()
    late = bdev.held[0]
    again = node.connect()
    again.negotiate()
    bdev.held = None
    fresh = Ring(again.memory)
    again.start(fresh)
    head = fresh.request(OUT, 0, b"n" * 512)
    fresh.offer(head)
    again.config()
    assert not fresh.finished_now()
    node.run(bdev.let_go, late)
    assert fresh.wait()[head].status == 0
    assert fresh.do(IN, 0, room=512).data == b"n" * 512


def test_delete_waits_for_the_front_end(node) -> None:
    bdev, _unused = node.disk()
    front_end, _unused = node.ring()
    deletion = node.begin(node.vhost.delete("sma-0"))
    front_end.config()
    assert not deletion.done()
    assert bdev.in_use
    front_end.close()
    deletion.result(60)
    assert not (node.directory / "sma-0").exists()
    assert not bdev.descriptors
    assert node.run(list, node.vhost) == []


def test_a_session_is_on_the_thread_of_its_controller(node) -> None:
    bdev, controller = node.disk()
    thread = controller.thread
    assert (bdev.threads, list(node.vhost.pollers(thread))) == ([], [])
    idle = node.connect()
    idle.negotiate()
    node.until(lambda: len(controller.sessions) == 1)
    assert bdev.threads == [], "a session has a channel when it is started"
    front_end, ring = node.ring()
    assert bdev.threads == [thread.number]
    assert [poller.name for poller in node.run(list, node.vhost.pollers(thread))] == ["vdev_worker"]
    assert ring.do(IN, 0, room=512).status == 0
    assert bdev.stats.of(thread.number).as_json()["num_read_ops"] == 1
    front_end.close()
    node.until(lambda: bdev.threads == [])
    assert node.run(list, node.vhost.pollers(thread)) == []


def test_shutdown_ends_connections(node) -> None:
    node.disk()
    front_end, _unused = node.ring()
    node.begin(node.vhost.shutdown()).result(60)
    with pytest.raises(Disconnected):
        front_end.receive()


def test_a_stale_socket_is_replaced_and_a_file_is_not(node) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(node.directory / "sma-0"))
    bdev, _unused = node.disk()
    _unused, ring = node.ring()
    assert ring.do(IN, 0, room=512).status == 0
    (node.directory / "plain").write_text("mine")
    with pytest.raises(OSError, match="Input/output error"):
        node.run(node.vhost.create_blk, "plain", "st1n1")
    assert (node.directory / "plain").read_text() == "mine"
    assert len(bdev.descriptors) == 1


def test_file_descriptors_are_given_back(node) -> None:
    node.disk()
    node.ring()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _unused in range(5):
        front_end, ring = node.ring()
        assert ring.do(IN, 0, room=512).status == 0
        front_end.close()
        del node.closing[-1]
        node.begin(_sessions(node, 1)).result(60)
        del front_end, ring
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


async def _sessions(node: Node, count: int) -> None:
    controller = node.vhost.get("sma-0")
    while len(controller.sessions) != count:
        controller._idle.clear()
        await controller._idle.wait()
