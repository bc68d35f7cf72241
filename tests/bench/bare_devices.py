"""The least that attaches (or detaches) disks: one gRPC channel, one call after the other, nothing checked.

What `attach_64_disks_ratio` holds our own task against. Usage: bare_devices.py ADDRESS create|delete UUID...
The disks get the physical ids 0, 1, 2 … in the order of their volumes.
"""

from __future__ import annotations

import sys
import uuid

import grpc


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field of less than 128 bytes."""
    return bytes((number << 3 | 2, len(payload))) + payload


def varint(number: int, value: int) -> bytes:
    """A protobuf integer below 128; zero is not sent."""
    return bytes((number << 3, value)) if value else b""


def act(address: str, action: str, volumes: list[str]) -> None:
    """``action``: create, one after the other, or delete, all at once: a guest takes as long for many as for one."""
    with grpc.insecure_channel(address) as channel:
        if action == "create":
            create = channel.unary_unary("/sma.StorageManagementAgent/CreateDevice")
            for number, volume in enumerate(volumes):
                create(field(1, field(1, uuid.UUID(volume).bytes)) + field(3, varint(1, number)), timeout=60)
        else:
            delete = channel.unary_unary("/sma.StorageManagementAgent/DeleteDevice")
            handles = [f"virtio_blk:sma-{number}".encode() for number in range(len(volumes))]
            for answer in [delete.future(field(1, handle), timeout=60) for handle in handles]:
                answer.result()


if __name__ == "__main__":
    act(sys.argv[1], sys.argv[2], sys.argv[3:])
