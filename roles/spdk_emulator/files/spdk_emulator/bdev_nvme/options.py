"""What ``bdev_nvme_set_options`` sets, and what is told for one controller when it is attached."""

from __future__ import annotations

import copy
import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..framework.keyring import Key

DEFAULTS: dict[str, Any] = {
    "action_on_timeout": "none",
    "timeout_us": 0,
    "timeout_admin_us": 0,
    "keep_alive_timeout_ms": 10000,
    "arbitration_burst": 0,
    "low_priority_weight": 0,
    "medium_priority_weight": 0,
    "high_priority_weight": 0,
    "nvme_adminq_poll_period_us": 10000,
    "nvme_ioq_poll_period_us": 0,
    "io_queue_requests": 0,
    "delay_cmd_submit": True,
    "transport_retry_count": 4,
    "bdev_retry_count": 3,
    "transport_ack_timeout": 0,
    "ctrlr_loss_timeout_sec": 0,
    "reconnect_delay_sec": 0,
    "fast_io_fail_timeout_sec": 0,
    "disable_auto_failback": False,
    "generate_uuids": False,
    "transport_tos": 0,
    "nvme_error_stat": False,
    "rdma_srq_size": 0,
    "io_path_stat": False,
    "allow_accel_sequence": False,
    "rdma_max_cq_size": 0,
    "rdma_cm_event_timeout_ms": 0,
    "dhchap_digests": ["sha256", "sha384", "sha512"],
    "dhchap_dhgroups": ["null", "ffdhe2048", "ffdhe3072", "ffdhe4096", "ffdhe6144", "ffdhe8192"],
    "rdma_umr_per_io": False,
    "tcp_connect_timeout_ms": 0,
    "enable_flush": False,
    "multipath_opts": {"policy": "active_passive"},
}
"""In the order in which ``framework_get_config`` tells them."""


def defaults() -> dict[str, Any]:
    return copy.deepcopy(DEFAULTS)


def check_timeouts(loss: int, delay: int, fast_fail: int) -> None:
    """The rules between the three timeouts (seconds). Raises ``OSError`` (EINVAL)."""
    if loss == 0:
        good = delay == 0 and fast_fail == 0
    else:
        good = loss >= -1 and delay > 0 and (fast_fail == 0 or fast_fail >= delay)
        if loss > 0:
            good = good and delay <= loss and fast_fail <= loss
    if not good:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def check(options: dict[str, Any]) -> None:
    """Raises ``OSError`` (EINVAL)."""
    if (options["timeout_us"] == 0 and options["timeout_admin_us"]) or options["bdev_retry_count"] < -1:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    check_timeouts(
        options["ctrlr_loss_timeout_sec"], options["reconnect_delay_sec"], options["fast_io_fail_timeout_sec"]
    )


@dataclass(frozen=True)
class ControllerOptions:
    """How one controller behaves when its connection breaks, and what its connections look like.

    ``loss_timeout``: seconds without a connection after which the controller is deleted; -1: never; 0: it stays, but
    its I/O fails as soon as it cannot be reached. ``reconnect_delay``: seconds between attempts.
    ``fast_io_fail_timeout``: seconds after which I/O fails instead of waiting; 0: not before the controller is deleted.
    """

    loss_timeout: int = 0
    reconnect_delay: int = 0
    fast_io_fail_timeout: int = 0
    header_digest: bool = False
    data_digest: bool = False
    multipath: bool = True
    from_discovery: bool = False
    num_io_queues: int = 1024
    """How many to ask for."""
    dhchap_key: Key | None = None
    """With it this host proves who it is, where the controller wants to know."""
    dhchap_ctrlr_key: Key | None = None
    """With it the controller has to prove who it is, too."""

    def check(self) -> None:
        check_timeouts(self.loss_timeout, self.reconnect_delay, self.fast_io_fail_timeout)
