"""SPDK's tracepoints: which there are in ``spdk_tgt``, and what an entry of each holds."""

from __future__ import annotations

import enum
from typing import NamedTuple

ALL = 2**64 - 1
MOST_GROUPS = 20
POINTS_OF_GROUP = 64


class Owner(enum.IntEnum):
    """The kinds of what an entry belongs to."""

    NONE = 0
    ISCSI_CONNECTION = 0x01
    BDEV = 0x02
    NVME_PCIE_QUEUE = 0x03
    NVME_TCP_QUEUE = 0x04
    SOCKET = 0x05
    REACTOR = 0x06
    THREAD = 0x07
    SCSI_DEVICE = 0x10
    NVMF_TCP_QUEUE = 0x30


class Object(enum.IntEnum):
    """The kinds of what an entry tells about."""

    NONE = 0
    ISCSI_PDU = 0x01
    BDEV_IO = 0x02
    NVME_PCIE_REQUEST = 0x03
    NVME_TCP_REQUEST = 0x04
    BDEV_NVME_IO = 0x05
    SOCKET_REQUEST = 0x06
    SCSI_TASK = 0x10
    NVMF_TCP_REQUEST = 0x80
    BLOB_REQUEST = 0xB0
    BDEV_RAID_IO = 0xC0


OWNER_PREFIXES = {
    Owner.ISCSI_CONNECTION: "c",
    Owner.BDEV: "b",
    Owner.NVME_PCIE_QUEUE: "q",
    Owner.NVME_TCP_QUEUE: "q",
    Owner.SOCKET: "s",
    Owner.REACTOR: "r",
    Owner.THREAD: "t",
    Owner.SCSI_DEVICE: "d",
    Owner.NVMF_TCP_QUEUE: "t",
}
OBJECT_PREFIXES = {
    Object.ISCSI_PDU: "p",
    Object.BDEV_IO: "i",
    Object.NVME_PCIE_REQUEST: "p",
    Object.NVME_TCP_REQUEST: "p",
    Object.BDEV_NVME_IO: "N",
    Object.SOCKET_REQUEST: "s",
    Object.SCSI_TASK: "t",
    Object.NVMF_TCP_REQUEST: "r",
    Object.BLOB_REQUEST: "a",
    Object.BDEV_RAID_IO: "R",
}
"""What ``spdk_trace`` puts before their numbers."""


class Argument(NamedTuple):
    name: str
    is_pointer: bool
    size: int
    """Bytes: 4 or 8."""


class Tpoint(NamedTuple):
    """``new``: an object begins with it. ``related``: what may be found by an argument's value, and which argument."""

    name: str
    owner: Owner = Owner.NONE
    object: Object = Object.NONE
    new: bool = False
    args: tuple[Argument, ...] = ()
    related: tuple[tuple[Object, int], ...] = ()


class Group(NamedTuple):
    """``tpoints`` by bit."""

    name: str
    bit: int
    tpoints: dict[int, Tpoint]


def _args(text: str) -> tuple[Argument, ...]:
    """``name`` is an integer of 8 bytes, ``name:4`` one of 4; ``*name`` a pointer."""
    found = []
    for each in text.split():
        name, _colon, size = each.partition(":")
        found.append(Argument(name.lstrip("*"), name.startswith("*"), int(size or 8)))
    return tuple(found)


def _numbered(*tpoints: Tpoint, first: int = 0) -> dict[int, Tpoint]:
    return dict(enumerate(tpoints, first))


def _requests(names: str, owner: Owner, kind: Object) -> list[Tpoint]:
    """Points of an object's life that hold nothing else."""
    return [Tpoint(name, owner, kind) for name in names.split()]


def _pair(
    name: str, kind: Object, related: Object, owner: Owner = Owner.NONE, start: str = "*ctx", end: str = "*ctx"
) -> dict[int, Tpoint]:
    """Beginning and end of an object that is made for another one, which is the first argument."""
    first, last = name.split()
    relation = ((related, 0),)
    return _numbered(
        Tpoint(first, owner, kind, True, _args(start), relation),
        Tpoint(last, owner, kind, False, _args(end), relation),
    )


_SUBMITTED, _COMPLETED = "*ctx cid:4 opc:4 *dw10:4 *dw11:4 *dw12:4 qd:4", "*ctx cid:4 *cpl:4 qd:4"
_BDEV_CALLERS = (Object.NVMF_TCP_REQUEST, Object.BLOB_REQUEST, Object.BDEV_RAID_IO)
_SOCKET_USERS = tuple((kind, 0) for kind in (Object.ISCSI_PDU, Object.NVMF_TCP_REQUEST, Object.NVME_TCP_REQUEST))
_SOCKET = (Owner.SOCKET, Object.SOCKET_REQUEST)
_NVMF_REQUEST = (Owner.NVMF_TCP_QUEUE, Object.NVMF_TCP_REQUEST)
_PDU = (Owner.ISCSI_CONNECTION, Object.ISCSI_PDU)
_TASK = (Owner.ISCSI_CONNECTION, Object.SCSI_TASK)

GROUPS = (
    Group(
        "iscsi_conn",
        1,
        {
            0: Tpoint("ISCSI_READ_DONE", Owner.ISCSI_CONNECTION),
            3: Tpoint("ISCSI_READ_PDU", *_PDU, True, _args("opc")),
            4: Tpoint("ISCSI_TASK_DONE", *_TASK),
            5: Tpoint("ISCSI_TASK_QUEUE", *_TASK, True, _args("*pdu")),
            6: Tpoint("ISCSI_TASK_EXECUTED", *_PDU),
            7: Tpoint("ISCSI_PDU_COMPLETED", *_PDU),
        },
    ),
    Group("scsi", 2, _numbered(*_requests("SCSI_TASK_DONE SCSI_TASK_START", Owner.SCSI_DEVICE, Object.SCSI_TASK))),
    Group(
        "bdev",
        3,
        _numbered(
            Tpoint(
                "BDEV_IO_START",
                Owner.BDEV,
                Object.BDEV_IO,
                True,
                _args("type *ctx offset qd:4"),
                tuple((kind, 1) for kind in _BDEV_CALLERS),
            ),
            Tpoint(
                "BDEV_IO_DONE",
                Owner.BDEV,
                Object.BDEV_IO,
                False,
                _args("*ctx qd:4"),
                tuple((kind, 0) for kind in _BDEV_CALLERS),
            ),
            Tpoint("BDEV_IOCH_CREATE", Owner.BDEV, args=_args("tid")),
            Tpoint("BDEV_IOCH_DESTROY", Owner.BDEV, args=_args("tid")),
        ),
    ),
    Group(
        "nvmf_tcp",
        5,
        {
            0x00: Tpoint("TCP_REQ_NEW", *_NVMF_REQUEST, True, _args("qd")),
            **_numbered(
                *_requests(
                    "TCP_REQ_NEED_BUFFER TCP_REQ_HAVE_BUFFER TCP_REQ_WAIT_ZCPY_START TCP_REQ_ZCPY_START_CPL "
                    "TCP_REQ_TX_H_TO_C TCP_REQ_RDY_TO_EXECUTE TCP_REQ_EXECUTING TCP_REQ_WAIT_ZCPY_CMT "
                    "TCP_REQ_EXECUTED TCP_REQ_RDY_TO_COMPLETE TCP_REQ_TRANSFER_C2H TCP_REQ_AWAIT_ZCPY_RLS",
                    *_NVMF_REQUEST,
                ),
                first=0x01,
            ),
            0x0D: Tpoint("TCP_REQ_COMPLETED", *_NVMF_REQUEST, False, _args("qd")),
            0x0F: Tpoint("TCP_READ_DONE", Owner.NVMF_TCP_QUEUE),
            0x10: Tpoint("TCP_REQ_AWAIT_R2T_ACK", *_NVMF_REQUEST),
            0x11: Tpoint("TCP_QP_CREATE", Owner.NVMF_TCP_QUEUE),
            0x12: Tpoint("TCP_QP_SOCK_INIT", Owner.NVMF_TCP_QUEUE),
            0x13: Tpoint("TCP_QP_STATE_CHANGE", Owner.NVMF_TCP_QUEUE, args=_args("state")),
            0x14: Tpoint("TCP_QP_DISCONNECT", Owner.NVMF_TCP_QUEUE),
            0x15: Tpoint("TCP_QP_DESTROY", Owner.NVMF_TCP_QUEUE),
            0x16: Tpoint("TCP_QP_ABORT_REQ", Owner.NVMF_TCP_QUEUE),
            0x17: Tpoint("TCP_QP_RCV_STATE_CHANGE", Owner.NVMF_TCP_QUEUE, args=_args("state")),
        },
    ),
    Group(
        "thread",
        10,
        _numbered(
            Tpoint("THREAD_IOCH_GET", args=_args("refcnt:4")),
            Tpoint("THREAD_IOCH_PUT", args=_args("refcnt:4")),
        ),
    ),
    Group(
        "nvme_pcie",
        11,
        _pair(
            "NVME_PCIE_SUBMIT NVME_PCIE_COMPLETE",
            Object.NVME_PCIE_REQUEST,
            Object.BDEV_NVME_IO,
            Owner.NVME_PCIE_QUEUE,
            _SUBMITTED,
            _COMPLETED,
        ),
    ),
    Group(
        "nvme_tcp",
        13,
        _pair(
            "NVME_TCP_SUBMIT NVME_TCP_COMPLETE",
            Object.NVME_TCP_REQUEST,
            Object.BDEV_NVME_IO,
            Owner.NVME_TCP_QUEUE,
            _SUBMITTED,
            _COMPLETED,
        ),
    ),
    Group("bdev_nvme", 14, _pair("BDEV_NVME_IO_START BDEV_NVME_IO_DONE", Object.BDEV_NVME_IO, Object.BDEV_IO)),
    Group(
        "sock",
        15,
        _numbered(
            Tpoint("SOCK_REQ_QUEUE", *_SOCKET, True, _args("*ctx"), _SOCKET_USERS),
            Tpoint("SOCK_REQ_PEND", *_SOCKET, False, _args("*ctx"), _SOCKET_USERS),
            Tpoint("SOCK_REQ_COMPLETE", *_SOCKET, False, _args("*ctx"), _SOCKET_USERS),
        ),
    ),
    Group("blob", 16, _pair("BLOB_REQ_SET_START BLOB_REQ_SET_COMPLETE", Object.BLOB_REQUEST, Object.BDEV_IO)),
    Group("bdev_raid", 17, _pair("BDEV_RAID_IO_START BDEV_RAID_IO_DONE", Object.BDEV_RAID_IO, Object.BDEV_IO)),
    Group(
        "scheduler",
        18,
        _numbered(
            Tpoint("SCHEDULER_PERIOD_START"),
            Tpoint("SCHEDULER_CORE_STATS", Owner.REACTOR, args=_args("busy idle")),
            Tpoint("SCHEDULER_THREAD_STATS", Owner.THREAD, args=_args("busy idle")),
            Tpoint("SCHEDULER_MOVE_THREAD", Owner.THREAD, args=_args("src dst")),
        ),
    ),
)
"""All of ``spdk_tgt``'s, whether or not there is anything here that they would trace, in its order."""
