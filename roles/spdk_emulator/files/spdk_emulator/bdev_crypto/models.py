"""Encrypted block devices: what is written here is ciphertext on the base bdev, block by block."""

from __future__ import annotations

import asyncio
import errno
import uuid as uuid_module
from typing import TYPE_CHECKING, Any

from ..accel.models import CryptoKey
from ..bdev.models import BdevIo, BdevRegistry, Op, Status
from ..bdev.stacked import Stack, StackedBdev

if TYPE_CHECKING:
    from ..app import App

_ZEROES = bytes(256 * 1024)
_PASSED_ON = (Op.READ, Op.WRITE, Op.UNMAP, Op.RESET, Op.FLUSH)


class CryptoBdev(StackedBdev):
    """Unmapping is the base's affair: what is unmapped reads as anything. Zeroes are written as their ciphertext."""

    product_name = "crypto"
    module = "crypto"
    namespace = uuid_module.UUID("078e3cf7-f4b4-4545-b2c3-d40045a64ae2")
    register_error = errno.EINVAL
    config_rank = 1

    def __init__(self, bdevs: BdevRegistry, name: str, base_name: str, key: CryptoKey) -> None:
        super().__init__(bdevs, base_name, name)
        self.key = key
        base = self.base.supported
        supported = {op for op in _PASSED_ON if op in base}
        self.supported = frozenset(supported | {Op.WRITE_ZEROES} if Op.WRITE in base else supported)

    def submit(self, io: BdevIo) -> None:
        if io.op == Op.READ:
            self._read(io)
        elif io.op == Op.WRITE:
            data = self.key.encrypt(b"".join(io.iov), io.offset // self.block_size, self.block_size)
            self.below.io(Op.WRITE, io.offset, io.length, [memoryview(data)], io.complete)
        elif io.op == Op.WRITE_ZEROES:
            self._write_zeroes(io, io.offset)
        else:
            self.below.io(io.op, io.offset, io.length, [], io.complete)

    def _read(self, io: BdevIo) -> None:
        """By a buffer of its own: a guest does not get to see ciphertext in its memory."""
        buffer = bytearray(io.length)

        def done(status: int) -> None:
            if status == Status.SUCCESS:
                data = memoryview(self.key.decrypt(buffer, io.offset // self.block_size, self.block_size))
                start = 0
                for view in io.iov:
                    end = start + len(view)
                    view[:] = data[start:end]
                    start = end
            io.complete(status)

        self.below.io(Op.READ, io.offset, io.length, [memoryview(buffer)], done)

    def _write_zeroes(self, io: BdevIo, offset: int) -> None:
        """Part by part, and others get their turn in between."""
        most = max(self.block_size, len(_ZEROES) // self.block_size * self.block_size)
        length = min(most, io.offset + io.length - offset)
        plain = _ZEROES[:length] if length <= len(_ZEROES) else bytes(length)
        data = self.key.encrypt(plain, offset // self.block_size, self.block_size)

        def done(status: int) -> None:
            if status != Status.SUCCESS or offset + length == io.offset + io.length:
                io.complete(status)
            else:
                asyncio.get_running_loop().call_soon(self._write_zeroes, io, offset + length)

        self.below.io(Op.WRITE, offset, length, [memoryview(data)], done)

    def driver_specific(self) -> dict[str, Any]:
        return {"crypto": self._params()}

    def _params(self) -> dict[str, str]:
        return {"base_bdev_name": self.base.name, "name": self.name, "key_name": self.key.name}

    def config(self) -> list[dict[str, Any]]:
        return [{"method": "bdev_crypto_create", "params": self._params()}]


def setup(app: App) -> Stack[CryptoBdev]:
    """The family's state; see :class:`~spdk_emulator.app.App`."""

    def make(name: str, base_name: str, key: CryptoKey, _own: bool) -> CryptoBdev:
        return CryptoBdev(app.bdevs, name, base_name, key)

    def forgotten(key: CryptoKey, own: bool) -> None:
        if own:
            app.accel.destroy(key)

    return Stack(app.bdevs, CryptoBdev, make, forgotten)
