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
    """``action``: create or delete."""
    with grpc.insecure_channel(address) as channel:
        for number, volume in enumerate(volumes):
            if action == "create":
                method = "CreateDevice"
                request = field(1, field(1, uuid.UUID(volume).bytes)) + field(3, varint(1, number))
            else:
                method = "DeleteDevice"
                request = field(1, f"virtio_blk:sma-{number}".encode())
            channel.unary_unary(f"/sma.StorageManagementAgent/{method}")(request, timeout=60)


if __name__ == "__main__":
    act(sys.argv[1], sys.argv[2], sys.argv[3:])
