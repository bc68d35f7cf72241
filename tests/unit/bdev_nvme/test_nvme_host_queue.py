"""The host's queue without sockets: however the stream is cut, and whatever is in it."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest
from spdk_emulator.nvme_tcp import nvme
from spdk_emulator.nvme_tcp.host import ConnectionTerminated, FirstHalf, HostQueue, Request, SecondHalf, part
from spdk_emulator.nvme_tcp.nvme import Io
from spdk_emulator.nvme_tcp.pdu import PLAIN, R2T, C2HData, CapsuleResp, Framing, H2CData, IcResp, ProtocolError


def _queue(digests: bool = False, depth: int = 8) -> HostQueue:
    queue = HostQueue(depth, lambda: None, lambda: None, digests, digests)
    queue.open()
    queue.take_output()
    _feed(queue, b"".join(IcResp(header_digest=digests, data_digest=digests, max_h2c_data=4096).encode()))
    return queue


def _feed(queue: HostQueue, data: bytes) -> None:
    view = queue.receive_buffer()
    view[: len(data)] = data
    queue.received(len(data))


def _read(queue: HostQueue, done: list[tuple[int, int]], *sizes: int) -> list[bytearray]:
    buffers = [bytearray(size) for size in sizes]
    length = sum(sizes)

    def completed(request: Request, status: int, value: int) -> None:
        done.append((request.context, status))

    queue.submit(Request(Io.READ, 1, 0, length // 512 - 1, buffers, length, completed, len(done)))
    return buffers


@pytest.mark.parametrize("digests", [False, True])
@pytest.mark.parametrize("step", [1, 7, 24, 1000, 100000])
def test_any_cut_of_the_stream(digests: bool, step: int) -> None:
    framing = Framing(digests, digests) if digests else PLAIN
    queue = _queue(digests)
    done: list[Any] = []
    buffers = [_read(queue, done, 1000, 24, 3072) for _unused in range(6)]
    wanted = [random.Random(number).randbytes(4096) for number in range(6)]
    stream = b""
    for cid in (3, 0, 5, 1, 2, 4):
        # In two parts, the second with success; or with a completion of its own.
        stream += b"".join(C2HData(cid, 0, wanted[cid][:1500], last=False).encode(framing))
        stream += b"".join(C2HData(cid, 1500, wanted[cid][1500:], success=cid % 2 == 0).encode(framing))
        if cid % 2:
            stream += b"".join(CapsuleResp(nvme.completion(cid, 0)).encode(framing))
    for start in range(0, len(stream), step):
        _feed(queue, stream[start : start + step])
    assert [status for _unused, status in done] == [0] * 6
    assert [b"".join(each) for each in buffers] == wanted
    assert queue.outstanding == 0


def test_commands_beyond_the_depth_wait_for_their_turn() -> None:
    queue = _queue(depth=2)
    done: list[Any] = []
    for _unused in range(5):
        _read(queue, done, 512)
    assert queue.outstanding == 2
    for number in range(5):
        _feed(queue, b"".join(C2HData(number % 2, 0, bytes(512), success=True).encode()))
    assert len(done) == 5
    assert queue.outstanding == 0


def test_two_fused_commands_are_sent_one_right_after_the_other() -> None:
    queue = _queue(depth=3)
    done: list[Any] = []
    ends: list[int] = []
    data = bytes(512)
    _read(queue, done, 512)
    _read(queue, done, 512)
    queue.take_output()
    first = FirstHalf(Io.COMPARE, 1, 0, 0, [data], 512, lambda request, status, value: ends.append(status))
    first.second = SecondHalf(Io.WRITE, 1, 0, 0, [data], 512, first.done)
    queue.submit(first)
    _read(queue, done, 512)
    sent = b"".join(bytes(buffer) for buffer in queue.take_output())
    assert (sent[8], sent[9], len(sent)) == (Io.COMPARE, nvme.SQE_FLAGS | nvme.FUSED_FIRST, 72 + 512)
    _feed(queue, b"".join(C2HData(0, 0, bytes(512), success=True).encode()))
    sent = b"".join(bytes(buffer) for buffer in queue.take_output())
    assert (sent[8], sent[9], len(sent)) == (Io.WRITE, nvme.SQE_FLAGS | nvme.FUSED_SECOND, 72 + 512)
    for cid in (2, 0):
        _feed(queue, b"".join(CapsuleResp(nvme.completion(cid, 0)).encode()))
    sent = b"".join(bytes(buffer) for buffer in queue.take_output())
    assert (sent[8], sent[9]) == (Io.READ, nvme.SQE_FLAGS)
    assert ends == [0, 0]


def test_r2t_is_answered_in_pieces_that_the_controller_takes() -> None:
    queue = _queue()
    queue.in_capsule = 0
    data = random.Random(1).randbytes(10240)
    iov = [bytearray(data[:3000]), bytearray(data[3000:])]
    done: list[int] = []
    queue.submit(Request(Io.WRITE, 1, 0, 19, iov, 10240, lambda request, status, value: done.append(status)))
    queue.take_output()
    _feed(queue, b"".join(R2T(0, 77, 0, 10240).encode()))
    sent = b"".join(queue.take_output())
    # MAXH2CDATA is 4096: three PDUs, the last one says so.
    wanted = [H2CData(0, 77, at, data[at : at + 4096], last=at == 8192) for at in (0, 4096, 8192)]
    assert sent == b"".join(b"".join(each.encode()) for each in wanted)
    _feed(queue, b"".join(CapsuleResp(nvme.completion(0, 0)).encode()))
    assert done == [0]


def test_a_write_that_was_not_fetched_is_no_success() -> None:
    queue = _queue()
    queue.in_capsule = 0
    done: list[int] = []
    iov = [bytearray(512)]
    queue.submit(Request(Io.WRITE, 1, 0, 0, iov, 512, lambda request, status, value: done.append(status)))
    _feed(queue, b"".join(CapsuleResp(nvme.completion(0, 0)).encode()))
    assert done == [nvme.Sc.TRANSIENT_TRANSPORT_ERROR]


@pytest.mark.parametrize("seed", range(300))
def test_noise_is_refused_and_never_worse(seed: int) -> None:
    """A good stream with some bytes replaced: it is understood, or refused; the buffers of others stay untouched."""
    chance = random.Random(seed)
    queue = _queue(digests=seed % 3 == 0)
    framing = Framing(True, True) if seed % 3 == 0 else PLAIN
    done: list[Any] = []
    buffers = [_read(queue, done, 512) for _unused in range(4)]
    stream = bytearray()
    for cid in range(4):
        stream += b"".join(C2HData(cid, 0, bytes([cid]) * 512, success=True).encode(framing))
    for _unused in range(chance.randrange(1, 6)):
        stream[chance.randrange(len(stream))] = chance.randrange(256)
    del stream[chance.randrange(len(stream)) :]
    with contextlib.suppress(ProtocolError, ConnectionTerminated):
        _feed(queue, bytes(stream))
    taken = queue.take_requests()
    assert len(done) + len(taken) == 4
    assert all(len(buffer) == 512 for [buffer] in buffers)


def test_part_of_buffers() -> None:
    iov = [bytearray(b"abc"), bytearray(b""), bytearray(b"defg"), bytearray(b"h")]
    for start in range(8):
        for length in range(1, 9 - start):
            assert b"".join(part(iov, start, length)) == b"abcdefgh"[start : start + length]
