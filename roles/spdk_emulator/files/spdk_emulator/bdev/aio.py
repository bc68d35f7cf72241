"""Block devices in a file or on a block device of the system: what is written there outlives the process."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import os
import stat
import struct
import uuid as uuid_module
from collections.abc import Callable, Iterator
from typing import Any

from ..framework.threads import Poller
from .models import Bdev, BdevIo, Op, Status

_BLKSSZGET = 0x1268
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 0x10
_MOST_VECTORS = 1024
_ZEROES = memoryview(bytes(1024 * 1024))
_libc = ctypes.CDLL(None, use_errno=True)


def _detected_block_size(fd: int) -> int:
    """Of a block device; 0 for a file, which has none."""
    if not stat.S_ISBLK(os.fstat(fd).st_mode):
        return 0
    return struct.unpack("i", fcntl.ioctl(fd, _BLKSSZGET, bytes(4)))[0]


class AioBdev(Bdev):
    """Reads and writes are done when the system call is, in the kernel's page cache; a flush is done in a thread."""

    product_name = "AIO disk"
    module = "aio"

    def __init__(
        self,
        name: str,
        filename: str,
        block_size: int,
        uuid: uuid_module.UUID | None = None,
        readonly: bool = False,
        fallocate: bool = False,
        nowait: bool = False,
    ) -> None:
        """Raises ``OSError``: of opening the file; EINVAL for a block size that does not fit."""
        self._fd = os.open(filename, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC)
        self.filename = filename
        self.readonly = readonly
        self.fallocate = fallocate
        self.nowait = nowait
        self.block_size_override = block_size != 0
        try:
            size = self._file_size()
            detected = _detected_block_size(self._fd)
            block_size = block_size or detected
            if block_size < max(512, detected) or block_size & (block_size - 1) or size % block_size:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        except OSError:
            os.close(self._fd)
            raise
        super().__init__(name, block_size, size // block_size, uuid)
        supported = {Op.READ, Op.WRITE, Op.WRITE_ZEROES, Op.FLUSH, Op.RESET}
        self.supported = frozenset(supported | {Op.UNMAP} if fallocate else supported)

    def _file_size(self) -> int:
        return os.lseek(self._fd, 0, os.SEEK_END)

    def size_in_blocks(self) -> int:
        """What the file has now, for a rescan."""
        return self._file_size() // self.block_size

    def submit(self, io: BdevIo) -> None:
        try:
            if io.op == Op.READ:
                self._transfer(os.preadv, io.iov, io.offset)
            elif io.op == Op.WRITE:
                self._transfer(os.pwritev, io.iov, io.offset)
            elif io.op == Op.UNMAP:
                self._fallocate(_PUNCH_HOLE | _KEEP_SIZE, io.offset, io.length)
            elif io.op == Op.WRITE_ZEROES:
                self._write_zeroes(io.offset, io.length)
            elif io.op == Op.FLUSH:
                self._flush(io)
                return
        except OSError:
            io.complete(Status.READ_ERROR if io.op == Op.READ else Status.WRITE_FAULT)
            return
        io.complete()

    def _transfer(self, call: Callable[[int, list[memoryview], int], int], iov: list[memoryview], offset: int) -> None:
        """The system call, again for the rest where it did less. Raises ``OSError`` (EIO) at the end of the file."""
        left = iov
        while left:
            moved = call(self._fd, left[:_MOST_VECTORS], offset)
            if moved == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            offset += moved
            done = 0
            while done < len(left) and moved >= len(left[done]):
                moved -= len(left[done])
                done += 1
            left = left[done:]
            if moved:
                left = [memoryview(left[0])[moved:], *left[1:]]

    def _write_zeroes(self, offset: int, length: int) -> None:
        if self.fallocate:
            self._fallocate(_ZERO_RANGE | _KEEP_SIZE, offset, length)
            return
        end = offset + length
        while offset < end:
            offset += os.pwrite(self._fd, _ZEROES[: end - offset], offset)

    def _fallocate(self, mode: int, offset: int, length: int) -> None:
        if _libc.fallocate(self._fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def _flush(self, io: BdevIo) -> None:
        """In a thread: a disk may take its time, and nobody else should wait for it."""
        waiting = asyncio.get_running_loop().run_in_executor(None, os.fdatasync, self._fd)
        waiting.add_done_callback(
            lambda done: io.complete(Status.SUCCESS if done.exception() is None else Status.WRITE_FAULT)
        )

    def driver_specific(self) -> dict[str, Any]:
        return {
            "aio": {
                "filename": self.filename,
                "block_size_override": self.block_size_override,
                "readonly": self.readonly,
                "fallocate": self.fallocate,
                "nowait": self.nowait,
            }
        }

    def channel_pollers(self, thread: int) -> Iterator[Poller]:
        yield Poller(self.module, "bdev_aio_group_poll", work=self.stats.of(thread).done)

    def config(self) -> list[dict[str, Any]]:
        params: dict[str, Any] = {"name": self.name}
        if self.block_size_override:
            params["block_size"] = self.block_size
        params |= {
            "filename": self.filename,
            "readonly": self.readonly,
            "fallocate": self.fallocate,
            "uuid": str(self.uuid),
            "nowait": self.nowait,
        }
        return [{"method": "bdev_aio_create", "params": params}]

    def destroy(self) -> None:
        os.close(self._fd)
