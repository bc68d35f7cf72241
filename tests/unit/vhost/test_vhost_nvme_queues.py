"""The I/O queues of an IPU at its storage target: one for each disk, as many as it grants. On either engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from front_end import IN, FrontEnd, Ring
from support.ports import free_port
from support.spdk import CallFailed, Spdk

NQN = "nqn.2016-06.io.spdk:test"
SECONDS = 60.0
FOREVER = {"ctrlr_loss_timeout_sec": -1, "reconnect_delay_sec": 1}


class Lab:
    """A target whose namespaces 1 to 3 are the disks ``v1`` to ``v3`` of an IPU."""

    def __init__(self, directory: Path) -> None:
        for name in ("target", "ipu"):
            (directory / name).mkdir()
        self.target = Spdk(directory / "target")
        self.ipu = Spdk(directory / "ipu")
        self.ports = [free_port(), free_port()]
        self.front_ends: dict[int, FrontEnd] = {}

    def start_target(self, granted: int = 127) -> None:
        self.target.start()
        call = self.target.call
        call("nvmf_create_transport", trtype="TCP", max_io_qpairs_per_ctrlr=granted)
        call("nvmf_create_subsystem", nqn=NQN, allow_any_host=True, serial_number="SN")
        for nsid in (1, 2, 3):
            uuid = f"00000000-0000-4000-8000-{nsid:012}"
            call("bdev_null_create", name=f"d{nsid}", num_blocks=2048, block_size=512, uuid=uuid)
            call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": f"d{nsid}", "nsid": nsid})
        for port in self.ports:
            self.listen(port, "nvmf_subsystem_add_listener")

    def place(self, port: int) -> dict[str, str]:
        return {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)}

    def listen(self, port: int, method: str) -> None:
        self.target.call(method, nqn=NQN, listen_address=self.place(port))

    def start(self, granted: int = 127, **params: Any) -> Lab:
        self.start_target(granted)
        self.ipu.start()
        self.attach(self.ports[0], **params)
        for number in (1, 2, 3):
            self.ipu.call("vhost_create_blk_controller", ctrlr=f"v{number}", dev_name=f"nn{number}")
        return self

    def attach(self, port: int, **params: Any) -> None:
        self.ipu.call("bdev_nvme_attach_controller", name="n", subnqn=NQN, **self.place(port), **params)

    def guest(self, number: int) -> Ring:
        """Connect one to this disk. Whether its session starts is another question."""
        front_end = self.front_ends[number] = FrontEnd(str(self.ipu.directory / f"v{number}"))
        front_end.negotiate()
        ring = Ring(front_end.memory)
        front_end.start(ring)
        return ring

    def leave(self, number: int) -> None:
        self.front_ends.pop(number).close()

    def started(self, number: int) -> bool:
        [controller] = self.ipu.call("vhost_get_controllers", name=f"v{number}")
        return any(session["started"] for session in controller["sessions"])

    def qids(self) -> list[int]:
        """Of the I/O queues that the target has."""
        return sorted(pair["qid"] for pair in self.target.call("nvmf_subsystem_get_qpairs", nqn=NQN) if pair["qid"])

    def queues_become(self, *wanted: int) -> None:
        until(lambda: self.qids() == list(wanted), lambda: f"{self.qids()} instead of {list(wanted)}")

    def state(self) -> str:
        [named] = self.ipu.call("bdev_nvme_get_controllers", name="n")
        return named["ctrlrs"][0]["state"]

    def connected(self) -> dict[str, list[bool]]:
        """For each thread, whether it has a queue to its paths, in their order."""
        groups = self.ipu.call("bdev_nvme_get_io_paths")["poll_groups"]
        return {group["thread"]: [path["connected"] for path in group["io_paths"]] for group in groups}

    def close(self) -> None:
        for number in list(self.front_ends):
            self.leave(number)
        # A guest whose I/O waits keeps SPDK from an orderly end.
        self.ipu.kill()
        self.target.kill()


def until(condition: Callable[[], bool], otherwise: Callable[[], str] = lambda: "") -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, otherwise()
        time.sleep(0.01)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    yield made
    made.close()


def read(ring: Ring) -> int:
    """The status of one request."""
    return ring.do(IN, room=512).status


def begin(ring: Ring) -> int:
    head = ring.request(IN, room=512)
    ring.offer(head)
    return head


def test_each_disk_of_a_guest_has_a_queue_with_the_smallest_free_identifier(lab: Lab) -> None:
    lab.start(**FOREVER)
    lab.queues_become()
    first = lab.guest(1)
    lab.queues_become(1)
    second = lab.guest(2)
    lab.queues_become(1, 2)
    assert read(first) == read(second) == 0
    lab.leave(1)
    lab.queues_become(2)
    assert read(second) == 0
    third = lab.guest(3)
    lab.queues_become(1, 2)
    again = lab.guest(1)
    lab.queues_become(1, 2, 3)
    assert [read(ring) for ring in (again, second, third)] == [0, 0, 0]
    assert lab.connected() == {"v1": [True], "v2": [True], "v3": [True]}
    told = lab.ipu.call("bdev_nvme_get_transport_statistics")["poll_groups"]
    assert {group["thread"]: group["transports"][0]["submitted_requests"] > 0 for group in told} == {
        "v1": True,
        "v2": True,
        "v3": True,
    }
    lab.leave(2)
    lab.queues_become(1, 3)
    lab.ipu.call("vhost_delete_controller", ctrlr="v2")
    lab.target.call("nvmf_subsystem_remove_ns", nqn=NQN, nsid=3)
    lab.queues_become(3)
    assert read(again) == 0


def test_a_guest_that_stops_its_disk_gives_the_queue_back(lab: Lab) -> None:
    lab.start(**FOREVER)
    ring = lab.guest(1)
    assert read(ring) == 0
    lab.queues_become(1)
    base = lab.front_ends[1].stop(ring)
    lab.queues_become()
    lab.front_ends[1].start(ring, base)
    lab.queues_become(1)
    assert read(ring) == 0


def test_all_queues_are_back_when_the_target_is(lab: Lab) -> None:
    lab.start(**FOREVER)
    rings = [lab.guest(number) for number in (1, 2, 3)]
    assert [read(ring) for ring in rings] == [0, 0, 0]
    lab.leave(2)
    lab.queues_become(1, 3)
    lab.target.kill()
    left = (rings[0], rings[2])
    heads = [begin(ring) for ring in left]
    lab.start_target()
    assert [ring.wait()[head].status for ring, head in zip(left, heads, strict=True)] == [0, 0]
    lab.queues_become(1, 2)


def test_a_disk_without_a_queue_waits_for_a_reset(lab: Lab) -> None:
    lab.start(granted=1, **FOREVER)
    first, second = lab.guest(1), lab.guest(2)
    lab.queues_become(1)
    assert lab.started(1) and lab.started(2)
    assert lab.connected() == {"v1": [True], "v2": [False]}
    assert read(first) == 0
    head = begin(second)
    lab.leave(1)
    # The queue is free, and nobody takes it before there is a reset; a new guest would.
    lab.queues_become()
    again = lab.guest(1)
    lab.queues_become(1)
    assert read(again) == 0
    lab.leave(1)
    lab.queues_become()
    assert not second.finished_now()
    lab.ipu.call("bdev_nvme_reset_controller", name="n")
    assert second.wait()[head].status == 0
    lab.queues_become(1)


def test_no_reset_succeeds_while_there_are_fewer_queues_than_disks(lab: Lab) -> None:
    lab.start(granted=2, **FOREVER)
    rings = [lab.guest(number) for number in (1, 2, 3)]
    lab.queues_become(1, 2)
    with pytest.raises(CallFailed):
        lab.ipu.call("bdev_nvme_reset_controller", name="n")
    head = begin(rings[0])
    until(lambda: lab.state() == "reconnect_is_delayed", lab.state)
    assert not rings[0].finished_now()
    lab.leave(3)
    assert rings[0].wait()[head].status == 0
    lab.queues_become(1, 2)
    assert lab.state() == "enabled"


def test_where_nothing_is_reconnected_a_disk_without_a_queue_does_not_start(lab: Lab) -> None:
    lab.start(num_io_queues=1)
    first = lab.guest(1)
    lab.queues_become(1)
    lab.guest(2)
    assert read(first) == 0
    assert (lab.started(1), lab.started(2)) == (True, False)
    assert lab.connected() == {"v1": [True]}
    lab.leave(1)
    lab.queues_become()
    lab.guest(3)
    lab.queues_become(1)
    assert lab.started(3)


def test_a_disk_goes_the_way_to_which_it_has_a_queue(lab: Lab) -> None:
    lab.start(**FOREVER, num_io_queues=1)
    lab.attach(lab.ports[1], **FOREVER)
    first, second = lab.guest(1), lab.guest(2)
    lab.queues_become(1, 1, 2)
    assert lab.connected() == {"v1": [True, True], "v2": [False, True]}
    assert read(first) == read(second) == 0
    lab.listen(lab.ports[1], "nvmf_subsystem_remove_listener")
    lab.queues_become(1)
    head = begin(second)
    assert read(first) == 0
    assert not second.finished_now()
    lab.listen(lab.ports[1], "nvmf_subsystem_add_listener")
    assert second.wait()[head].status == 0
    lab.queues_become(1, 1, 2)
