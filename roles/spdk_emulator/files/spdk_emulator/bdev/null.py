"""Block devices that forget what is written and read as zeroes."""

from __future__ import annotations

import uuid as uuid_module
from collections.abc import Iterator
from typing import Any

from ..framework.threads import Poller
from .models import Bdev, BdevIo, Op


class NullBdev(Bdev):
    """Holds nothing, costs nothing, and can grow."""

    product_name = "Null disk"
    module = "null"
    supported = frozenset({Op.READ, Op.WRITE, Op.WRITE_ZEROES, Op.RESET})
    also_supported = frozenset({"abort"})
    config_rank = 11
    config_batch = True

    def __init__(
        self,
        name: str,
        block_size: int,
        num_blocks: int,
        uuid: uuid_module.UUID | None = None,
        physical_block_size: int | None = None,
    ) -> None:
        super().__init__(name, block_size, num_blocks, uuid)
        self.physical_block_size = physical_block_size or block_size

    def submit(self, io: BdevIo) -> None:
        if io.op == Op.READ:
            for view in io.iov:
                view[:] = bytes(len(view))
        io.complete()

    def channel_pollers(self, thread: int) -> Iterator[Poller]:
        yield Poller(self.module, "null_io_poll", work=self.stats.of(thread).done)

    def config(self) -> list[dict[str, Any]]:
        write, unmap = self.write_granularity, self.unmap_granularity
        return [
            {
                "method": "bdev_null_create",
                "params": {
                    "name": self.name,
                    "num_blocks": self.num_blocks,
                    "block_size": self.block_size,
                    "physical_block_size": self.physical_block_size,
                    "md_size": 0,
                    "dif_type": 0,
                    "dif_is_head_of_md": False,
                    "dif_pi_format": 0,
                    "uuid": str(self.uuid),
                    "preferred_write_granularity": write[1],
                    "preferred_write_alignment": write[0],
                    "optimal_write_size": write[2],
                    "preferred_unmap_granularity": unmap[1],
                    "preferred_unmap_alignment": unmap[0],
                },
            }
        ]
