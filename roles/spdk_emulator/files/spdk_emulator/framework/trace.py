"""SPDK's tracepoints: which there are, and which are switched on. Nothing is recorded."""

from __future__ import annotations

import os
from typing import NamedTuple

ALL = 2**64 - 1


class Group(NamedTuple):
    """``tpoints``: their names, by bit; ``-`` for a bit that has none."""

    name: str
    bit: int
    tpoints: str

    def named(self) -> dict[int, str]:
        return {bit: name for bit, name in enumerate(self.tpoints.split()) if name != "-"}


GROUPS = (
    Group(
        "iscsi_conn",
        1,
        "ISCSI_READ_DONE - - ISCSI_READ_PDU ISCSI_TASK_DONE ISCSI_TASK_QUEUE ISCSI_TASK_EXECUTED ISCSI_PDU_COMPLETED",
    ),
    Group("scsi", 2, "SCSI_TASK_DONE SCSI_TASK_START"),
    Group("bdev", 3, "BDEV_IO_START BDEV_IO_DONE BDEV_IOCH_CREATE BDEV_IOCH_DESTROY"),
    Group(
        "nvmf_tcp",
        5,
        "TCP_REQ_NEW TCP_REQ_NEED_BUFFER TCP_REQ_HAVE_BUFFER TCP_REQ_WAIT_ZCPY_START TCP_REQ_ZCPY_START_CPL "
        "TCP_REQ_TX_H_TO_C TCP_REQ_RDY_TO_EXECUTE TCP_REQ_EXECUTING TCP_REQ_WAIT_ZCPY_CMT TCP_REQ_EXECUTED "
        "TCP_REQ_RDY_TO_COMPLETE TCP_REQ_TRANSFER_C2H TCP_REQ_AWAIT_ZCPY_RLS TCP_REQ_COMPLETED - "
        "TCP_READ_DONE TCP_REQ_AWAIT_R2T_ACK TCP_QP_CREATE TCP_QP_SOCK_INIT TCP_QP_STATE_CHANGE "
        "TCP_QP_DISCONNECT TCP_QP_DESTROY TCP_QP_ABORT_REQ TCP_QP_RCV_STATE_CHANGE",
    ),
    Group("thread", 10, "THREAD_IOCH_GET THREAD_IOCH_PUT"),
    Group("nvme_pcie", 11, "NVME_PCIE_SUBMIT NVME_PCIE_COMPLETE"),
    Group("nvme_tcp", 13, "NVME_TCP_SUBMIT NVME_TCP_COMPLETE"),
    Group("bdev_nvme", 14, "BDEV_NVME_IO_START BDEV_NVME_IO_DONE"),
    Group("sock", 15, "SOCK_REQ_QUEUE SOCK_REQ_PEND SOCK_REQ_COMPLETE"),
    Group("blob", 16, "BLOB_REQ_SET_START BLOB_REQ_SET_COMPLETE"),
    Group("bdev_raid", 17, "BDEV_RAID_IO_START BDEV_RAID_IO_DONE"),
    Group("scheduler", 18, "SCHEDULER_PERIOD_START SCHEDULER_CORE_STATS SCHEDULER_THREAD_STATS SCHEDULER_MOVE_THREAD"),
)
"""All of ``spdk_tgt``'s, whether or not there is anything here that they would trace, in its order."""
_BITS = {group.name: group.bit for group in GROUPS}
_MOST_GROUPS = 20


class Traces:
    """The masks of the groups, by bit."""

    def __init__(self, wanted: str | None = None, shm_id: int = -1) -> None:
        """``wanted`` is what ``-e`` says. Raises ``ValueError`` for what names no tracepoints."""
        self.masks = [0] * _MOST_GROUPS
        self.path = f"/dev/shm/spdk_tgt_trace.{shm_id if shm_id >= 0 else f'pid{os.getpid()}'}"
        """Where SPDK records."""
        for each in (wanted or "").split(","):
            self._enable(each)

    @property
    def group_mask(self) -> int:
        """The groups of which something is on."""
        return sum(1 << bit for bit, mask in enumerate(self.masks) if mask)

    def set(self, name: str, mask: int) -> None:
        """In one group; of ``all``, SPDK takes the last. Raises ``ValueError`` for another name."""
        self.masks[_group_mask(name).bit_length() - 1] |= mask

    def clear(self, name: str, mask: int) -> None:
        self.masks[_group_mask(name).bit_length() - 1] &= ~mask

    def switch(self, name: str, on: bool) -> None:
        """A whole group, or all. Raises ``ValueError`` for another name."""
        self._switch(_group_mask(name), ALL if on else 0)

    def _switch(self, groups: int, mask: int) -> None:
        for bit in range(_MOST_GROUPS):
            if groups >> bit & 1:
                self.masks[bit] = mask

    def _enable(self, text: str) -> None:
        """``group``, ``group:mask`` or ``group:tracepoint+tracepoint``; a group may be a mask of groups."""
        group, colon, tpoints = text.partition(":")
        groups = _hexadecimal(group)
        if groups is None:
            groups = _group_mask(group)
        if not colon:
            self._switch(groups, ALL)
            return
        if groups.bit_count() != 1:
            raise ValueError(f"{text!r} has tracepoints of several groups, or of none")
        mask = _hexadecimal(tpoints)
        if mask is None:
            mask = sum(1 << _tpoint(groups.bit_length() - 1, name) for name in set(tpoints.split("+")))
        self._switch(groups, self.masks[groups.bit_length() - 1] | mask)


def _hexadecimal(text: str) -> int | None:
    try:
        return int(text, 16) if text else 0
    except ValueError:
        return None


def _group_mask(name: str) -> int:
    if name == "all":
        return sum(1 << bit for bit in _BITS.values())
    if name not in _BITS:
        raise ValueError(f"there is no group of tracepoints {name!r}")
    return 1 << _BITS[name]


def _tpoint(group_bit: int, wanted: str) -> int:
    for group in GROUPS:
        for bit, name in group.named().items():
            if group.bit == group_bit and name.lower() == wanted.lower():
                return bit
    raise ValueError(f"there is no tracepoint {wanted!r}")
