"""What the vhost methods do beyond the recordings (tests/conformance)."""

from __future__ import annotations

import os
import time

import pytest
from front_end import IN
from spdk_emulator.framework import cores
from spdk_emulator.vhost.coalescing import Coalescing, Rate


def test_interrupts_of_a_busy_queue_may_be_late(node) -> None:
    node.disk()
    _unused, ring = node.ring(size=64)
    heads = [ring.request(IN, sector, room=512) for sector in range(8)]

    def slowest() -> float:
        """The longest of several rounds from kick to interrupt: the first rounds only measure the rate."""
        times = []
        for _unused in range(5):
            begin = time.monotonic()
            ring.offer(*heads)
            assert ring.interrupted()
            times.append(time.monotonic() - begin)
            ring.finished()
            time.sleep(0.011)  # into the next window of 10 ms
        return max(times)

    node.run(node.vhost.set_coalescing, "sma-0", 50000, 100)
    assert slowest() > 0.2, "8 requests in 10 ms are 7 times more than 100 a second: 50 ms * 7"
    node.run(node.vhost.set_coalescing, "sma-0", 0, 100)
    assert slowest() < 0.2


def test_the_delay_grows_with_the_rate() -> None:
    rate, settings = Rate(), Coalescing(delay_base_us=100, iops_threshold=1000)
    assert rate.delay(10, 1.0, settings) == 0
    assert rate.delay(20, 1.001, settings) == 0
    assert rate.delay(1, 1.02, settings) == pytest.approx(100e-6 * 2)
    assert rate.delay(1, 1.04, settings) == 0


@pytest.mark.parametrize("threshold", [0, 99])
def test_coalescing_threshold_too_low(node, threshold: int) -> None:
    node.disk()
    with pytest.raises(OSError, match="Invalid argument"):
        node.run(node.vhost.set_coalescing, "sma-0", 10, threshold)


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"transport": "vfio"}, "Invalid argument"),
        ({"cpumask": "0x2"}, "Invalid argument"),
        ({"cpumask": "0x0"}, "Invalid argument"),
        ({"cpumask": "all"}, "Invalid argument"),
        ({"packed_ring": True}, "Invalid argument"),
        ({"bdev_name": "missing"}, "No such device"),
        ({"name": "sma-0"}, "File exists"),
        ({"name": "no/such/directory"}, "Input/output error"),
        ({"name": "x" * 200}, "Input/output error"),
    ],
)
def test_a_refused_controller_leaves_nothing(node, params: dict, error: str) -> None:
    bdev, _unused = node.disk()
    before = sorted(os.listdir(node.directory))
    with pytest.raises(OSError, match=error):
        node.run(node.vhost.create_blk, **{"name": "sma-1", "bdev_name": "st1n1", **params})
    assert sorted(os.listdir(node.directory)) == before
    assert len(bdev.descriptors) == 1


def test_a_claimed_bdev(node) -> None:
    bdev, _unused = node.disk()
    descriptor = next(iter(bdev.descriptors))
    node.run(node.bdevs.claim, descriptor, "lvs")
    with pytest.raises(OSError, match="Operation not permitted"):
        node.run(node.vhost.create_blk, "sma-1", "st1n1")


def test_config_recreates_the_controllers(node) -> None:
    node.disk("sma-1", "b1", readonly=True)
    node.disk("sma-0", "b0")
    node.run(node.vhost.set_coalescing, "sma-0", 10, 100000)
    assert [call for part in node.config for call in node.run(part)] == [
        {
            "method": "vhost_create_blk_controller",
            "params": {
                "ctrlr": "sma-0",
                "dev_name": "b0",
                "cpumask": "1",
                "readonly": False,
                "transport": "vhost_user_blk",
            },
        },
        {
            "method": "vhost_controller_set_coalescing",
            "params": {"ctrlr": "sma-0", "delay_base_us": 10, "iops_threshold": 100000},
        },
        {
            "method": "vhost_create_blk_controller",
            "params": {
                "ctrlr": "sma-1",
                "dev_name": "b1",
                "cpumask": "1",
                "readonly": True,
                "transport": "vhost_user_blk",
            },
        },
    ]


@pytest.mark.parametrize(("text", "mask"), [("0x1", "1"), ("f0", "f0"), ("[0,2-4]", "1d"), ("[63]", "8" + "0" * 15)])
def test_core_masks(text: str, mask: str) -> None:
    assert cores.mask(cores.parse(text)) == mask


@pytest.mark.parametrize("text", ["", "[]", "[1", "[3-1]", "[1024]", "0xg", "-1", "[-1]"])
def test_no_core_masks(text: str) -> None:
    with pytest.raises(ValueError):
        cores.parse(text)
