"""Block devices in memory. Their data dies with the process, as in SPDK."""

from __future__ import annotations

import errno
import mmap
import os
import uuid as uuid_module
from collections.abc import Iterator
from typing import Any

from ..framework.threads import Poller
from .models import Bdev, BdevIo, Op, Status

_PAGE = mmap.PAGESIZE


class MallocBdev(Bdev):
    """Anonymous memory: a page costs nothing until it is written, and nothing any more once it is unmapped."""

    product_name = "Malloc disk"
    module = "malloc"
    supported = frozenset({Op.READ, Op.WRITE, Op.WRITE_ZEROES, Op.UNMAP, Op.FLUSH, Op.RESET, Op.COMPARE})
    also_supported = frozenset({"zcopy", "copy", "abort"})
    numa_id = -1
    reachable_domains = ({"dma_device_type": "DMA"}, {"dma_device_type": "ACCEL"})
    config_rank = 10
    config_batch = True

    def __init__(
        self,
        name: str,
        block_size: int,
        num_blocks: int,
        uuid: uuid_module.UUID | None = None,
        physical_block_size: int | None = None,
        optimal_io_boundary: int = 0,
    ) -> None:
        """Raises ``OSError`` (ENOMEM) where there is not that much memory."""
        super().__init__(name, block_size, num_blocks, uuid)
        self.physical_block_size = physical_block_size or block_size
        self.optimal_io_boundary = optimal_io_boundary
        try:
            self._map = mmap.mmap(-1, self.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OverflowError:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from None
        self._memory = memoryview(self._map)

    def submit(self, io: BdevIo) -> None:
        memory, position = self._memory, io.offset
        if io.op == Op.READ:
            for view in io.iov:
                end = position + len(view)
                view[:] = memory[position:end]
                position = end
        elif io.op == Op.WRITE:
            for view in io.iov:
                end = position + len(view)
                memory[position:end] = view
                position = end
        elif io.op in (Op.UNMAP, Op.WRITE_ZEROES):
            self._zero(io.offset, io.length)
        elif io.op == Op.COMPARE:
            for view in io.iov:
                end = position + len(view)
                if memory[position:end] != view:
                    io.complete(Status.COMPARE_FAILURE)
                    return
                position = end
        io.complete()

    def _zero(self, offset: int, length: int) -> None:
        """Whole pages go back to the system; the rest is overwritten."""
        end = offset + length
        first, last = -(-offset // _PAGE) * _PAGE, end // _PAGE * _PAGE
        if first < last:
            self._map.madvise(mmap.MADV_DONTNEED, first, last - first)
            self._memory[offset:first] = bytes(first - offset)
            self._memory[last:end] = bytes(end - last)
        else:
            self._memory[offset:end] = bytes(length)

    def channel_pollers(self, thread: int) -> Iterator[Poller]:
        """The one of its copies, which are all that it does, is there from the first copy on."""
        stats = self.stats.of(thread)
        yield Poller(self.module, "malloc_completion_poller", work=0)
        if stats.used:
            yield Poller("accel", "accel_comp_poll", work=stats.done)

    def config(self) -> list[dict[str, Any]]:
        return [
            {
                "method": "bdev_malloc_create",
                "params": {
                    "name": self.name,
                    "num_blocks": self.num_blocks,
                    "block_size": self.block_size,
                    "physical_block_size": self.physical_block_size,
                    "uuid": str(self.uuid),
                    "optimal_io_boundary": self.optimal_io_boundary,
                    "md_size": 0,
                    "dif_type": 0,
                    "dif_is_head_of_md": False,
                    "dif_pi_format": 0,
                    "numa_id": self.numa_id,
                },
            }
        ]

    def destroy(self) -> None:
        self._memory.release()
        self._map.close()
