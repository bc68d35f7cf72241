"""Block devices that hand everything on to their base: as it is (passthru), or as if the base were slow (delay)."""

from __future__ import annotations

import asyncio
import errno
import random
import uuid as uuid_module
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..bdev.models import BdevError, BdevIo, BdevRegistry, Op, Status
from ..bdev.stacked import Stack, StackedBdev
from ..framework.threads import Poller

if TYPE_CHECKING:
    from ..app import App

LATENCIES = ("avg_read", "p99_read", "avg_write", "p99_write")
"""In microseconds, in SPDK's order."""


class PassthruBdev(StackedBdev):
    """Its base under another name."""

    product_name = "passthru"
    module = "passthru"
    namespace = uuid_module.UUID("7e25812e-c8c0-4d3f-8599-16d790555b85")
    config_rank = 3
    follows_size = False
    refused_is_wanted = True

    def __init__(self, bdevs: BdevRegistry, name: str, base_name: str, uuid: uuid_module.UUID | None) -> None:
        super().__init__(bdevs, base_name, name, uuid if uuid and uuid.int else None)
        # SPDK's says that it can what its base can, but does not hand on compare and write.
        said = {"compare_and_write"} if Op.COMPARE_AND_WRITE in self.base.supported else set()
        self.supported = self.base.supported - {Op.COMPARE_AND_WRITE}
        self.also_supported = self.base.also_supported | said
        self.memory_domains = self.base.memory_domains

    def submit(self, io: BdevIo) -> None:
        self.below.io(io.op, io.offset, io.length, io.iov, io.complete)

    def driver_specific(self) -> dict[str, Any]:
        return {"passthru": {"name": self.name, "base_bdev_name": self.base.name}}

    def config(self) -> list[dict[str, Any]]:
        params = {"base_bdev_name": self.base.name, "name": self.name, "uuid": str(self.uuid)}
        return [{"method": "bdev_passthru_create", "params": params}]


class DelayBdev(PassthruBdev):
    """Reads and writes take longer than the base needs: one in a hundred by ``p99_…``, all others by ``avg_…``."""

    product_name = "delay"
    module = "delay"
    namespace = uuid_module.UUID("4009b574-6430-4f1b-bc40-ace811091027")
    config_rank = 2

    def __init__(
        self,
        bdevs: BdevRegistry,
        name: str,
        base_name: str,
        uuid: uuid_module.UUID | None,
        latencies: dict[str, int],
    ) -> None:
        """``latencies``: microseconds by each of :data:`LATENCIES`."""
        super().__init__(bdevs, name, base_name, uuid)
        self.memory_domains = ()
        self.latencies = dict(latencies)
        self._delayed: dict[BdevIo, asyncio.TimerHandle] = {}

    def submit(self, io: BdevIo) -> None:
        if io.op == Op.RESET:
            self._abort()
            io.complete()
        elif io.op in (Op.READ, Op.WRITE):
            self.below.io(io.op, io.offset, io.length, io.iov, lambda status: self._complete_later(io, status))
        elif io.op == Op.COMPARE:
            # SPDK's says that it can what its base can, but does not hand that on.
            io.complete(Status.INTERNAL_ERROR)
        else:
            super().submit(io)

    def channel_pollers(self, thread: int) -> Iterator[Poller]:
        yield Poller(self, "_delay_finish_io", work=self.stats.of(thread).done)

    def _complete_later(self, io: BdevIo, status: int) -> None:
        which = "p99" if random.random() < 0.01 else "avg"
        delay = self.latencies[f"{which}_{'read' if io.op == Op.READ else 'write'}"]
        if not delay:
            io.complete(status)
            return

        def complete() -> None:
            del self._delayed[io]
            io.complete(status)

        self._delayed[io] = asyncio.get_running_loop().call_later(delay / 1_000_000, complete)

    def _abort(self) -> None:
        """A reset ends what is delayed: it is done, and nobody is told so."""
        delayed, self._delayed = self._delayed, {}
        for io, timer in delayed.items():
            timer.cancel()
            io.complete(Status.ABORTED)

    def destroy(self) -> None:
        self._abort()
        super().destroy()

    def driver_specific(self) -> dict[str, Any]:
        return {"delay": self._params()}

    def _params(self) -> dict[str, Any]:
        latencies = {f"{which}_latency": value for which, value in self.latencies.items()}
        return {"name": self.name, "base_bdev_name": self.base.name, "uuid": str(self.uuid), **latencies}

    def config(self) -> list[dict[str, Any]]:
        return [{"method": "bdev_delay_create", "params": self._params()}]


class Vbdevs:
    """The bdevs of both modules."""

    def __init__(self, bdevs: BdevRegistry) -> None:
        self._bdevs = bdevs
        self.passthru = Stack(bdevs, PassthruBdev, lambda *given: PassthruBdev(bdevs, *given))
        self.delay = Stack(bdevs, DelayBdev, lambda *given: DelayBdev(bdevs, *given))

    def delay_bdev(self, name: str) -> DelayBdev:
        """By its name, not by an alias. Raises ``BdevError`` (ENODEV)."""
        bdev = self._bdevs.find(name)
        if not isinstance(bdev, DelayBdev) or bdev.name != name:
            raise BdevError(errno.ENODEV)
        return bdev


def setup(app: App) -> Vbdevs:
    """The family's state; see :class:`~spdk_emulator.app.App`."""
    return Vbdevs(app.bdevs)
