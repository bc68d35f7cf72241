"""Read or write a namespace over NVMe/TCP, as the IPU does, with the emulator's initiator in this process.

    io.py ADDRESS SUBNQN HOSTNQN write|sum

write: fill the first MiB with a pattern that is not the same anywhere; both print the SHA-256 of what is there then.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "roles/spdk_emulator/files")]

from support.initiator import (  # noqa: E402  (the paths to it are made here)
    Op,
    finished,
    initiator,
    io,
)

LENGTH = 1024 * 1024
CHUNK = 64 * 1024


async def run(address: str, subnqn: str, hostnqn: str, action: str) -> str:
    pattern = b"".join(hashlib.sha256(index.to_bytes(4, "big")).digest() for index in range(LENGTH // 32))
    seen = hashlib.sha256()
    async with initiator() as host:
        place = {"trtype": "TCP", "adrfam": "IPv4", "traddr": address, "trsvcid": "4420"}
        await host.call("bdev_nvme_attach_controller", name="io", subnqn=subnqn, hostnqn=hostnqn, **place)
        disk = host.open("ion1")
        for offset in range(0, LENGTH, CHUNK):
            buffer = bytearray(pattern[offset : offset + CHUNK])
            if action == "write":
                assert await finished(io(disk, Op.WRITE, offset, buffer)) == 0, f"write at {offset} failed"
            buffer = bytearray(CHUNK)
            assert await finished(io(disk, Op.READ, offset, buffer)) == 0, f"read at {offset} failed"
            seen.update(buffer)
    return seen.hexdigest()


if __name__ == "__main__":
    print(asyncio.run(run(*sys.argv[1:])))
