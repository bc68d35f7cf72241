"""Block devices: what they are, who holds them, and how I/O reaches them.

Three kinds of code meet here. A *bdev module* (malloc, aio, nvme …) subclasses :class:`Bdev` and implements
:meth:`Bdev.submit`. A *consumer* (an NVMe-oF namespace, a vhost controller, another bdev) opens a bdev through
:class:`BdevRegistry` and gets a :class:`Descriptor`, whose :meth:`Descriptor.io` is the only way to do I/O. The
registry tells consumers when a bdev is resized or goes away.

I/O is by callback rather than by coroutine: one coroutine per 4 KiB request would cost more than the request.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import os
import time
import uuid as uuid_module
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ..framework.threads import APP_THREAD, Poller, Thread, running
from ..framework.trace import tracing
from . import tracepoints
from .qos import Qos
from .quiesce import Quiesce, Work
from .stats import NO_THREAD, BdevStats

if TYPE_CHECKING:
    from ..app import App


class Op(enum.IntEnum):
    __hash__ = int.__hash__  # Enum's own is written in Python, and every I/O looks its operation up

    READ = 1
    WRITE = 2
    WRITE_ZEROES = 3
    UNMAP = 4
    FLUSH = 5
    RESET = 6
    COMPARE = 7
    COMPARE_AND_WRITE = 8


class Status(enum.IntEnum):
    """The result of one I/O: an NVMe status, ``status code type << 8 | status code`` (NVMe base spec., 3.3.3.2)."""

    SUCCESS = 0x000
    INVALID_OPCODE = 0x001
    INVALID_FIELD = 0x002
    INTERNAL_ERROR = 0x006
    ABORTED = 0x007
    LBA_OUT_OF_RANGE = 0x080
    COMPARE_FAILURE = 0x285
    WRITE_FAULT = 0x280
    READ_ERROR = 0x281


class BdevIo:
    """One request on its way to a bdev.

    ``offset`` and ``length`` are in bytes and whole blocks. ``iov`` is a list of memoryviews (or bytearrays) that
    together hold ``length`` bytes: to be filled by a READ, to be taken from by a WRITE or COMPARE, empty for all else.
    The buffers stay valid until :meth:`complete` is called, which has to happen exactly once, maybe before ``submit``
    returns.
    """

    __slots__ = ("op", "offset", "length", "iov", "done", "thread", "bdev", "started", "context")

    def __init__(self, op: Op, offset: int, length: int, iov: list[memoryview], done: Callable[[int], None]) -> None:
        self.op = op
        self.offset = offset
        self.length = length
        self.iov = iov
        self.done = done
        self.thread = running.thread
        """For which it counts."""
        self.bdev: Bdev | None = None
        """The bdev, as soon as it is one of those that it has in hand."""
        self.started = 0

    def complete(self, status: int = Status.SUCCESS) -> None:
        bdev = self.bdev
        if bdev is None:
            self.done(status)
            return
        bdev.outstanding -= 1
        if tracing.bdev_io:
            tracepoints.done(self)
        bdev.stats.of(self.thread).count(self.op, self.length, time.perf_counter_ns() - self.started, status)
        self.done(status)
        if bdev.quiesced is not None:
            bdev.quiesced.advance()


class CompareAndWriteIo(BdevIo):
    """``iov`` is what is expected there, ``written`` what is to be there instead. The status is that of what failed."""

    __slots__ = ("written",)

    def __init__(
        self,
        offset: int,
        length: int,
        expected: list[memoryview],
        written: list[memoryview],
        done: Callable[[int], None],
    ) -> None:
        super().__init__(Op.COMPARE_AND_WRITE, offset, length, expected, done)
        self.written = written


class BdevEvent(enum.Enum):
    REMOVE = "remove"
    RESIZE = "resize"


class Descriptor:
    """A consumer's hold on a bdev. ``on_event(event, bdev)`` is called on resize and on removal.

    On REMOVE the consumer has to :meth:`close`; the bdev is gone when the last descriptor is closed.
    """

    def __init__(
        self,
        bdev: Bdev,
        write: bool,
        on_event: Callable[[BdevEvent, Bdev], None],
        channels: Callable[[], Iterable[int]],
    ) -> None:
        self.bdev = bdev
        self.write = write
        self.on_event = on_event
        self.closed = False
        self.channels = channels
        """The threads on which its holder has an I/O channel, in SPDK's words: none for a vhost controller without a
        guest, those of the bdev above for one that another stands on. Who changes that tells the bdev."""

    def io(self, op: Op, offset: int, length: int, iov: list[memoryview], done: Callable[[int], None]) -> None:
        """Check the request, count it, let the bdev's rate limits hold it back, then submit it."""
        bdev = self.bdev
        if self.closed or bdev.removing:
            done(Status.ABORTED)
            return
        if op not in bdev.supported:
            done(Status.INVALID_OPCODE)
            return
        if (
            (offset | length) & (bdev.block_size - 1)
            if bdev.block_size_is_power_of_two
            else (offset % bdev.block_size or length % bdev.block_size)
        ):
            done(Status.INVALID_FIELD)
            return
        if offset + length > bdev.size:
            done(Status.LBA_OUT_OF_RANGE)
            return
        bdev.start(BdevIo(op, offset, length, iov, done))

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.bdev.descriptors.discard(self)
            self.bdev.stats.keep(self.bdev.threads)
            if not self.bdev.descriptors:
                self.bdev.qos.closed()
            self.bdev.channels_changed()
            self.bdev.on_close()


class Bdev:
    """The base of every block device. Subclasses set ``product_name`` and ``supported`` and have a :meth:`submit`."""

    product_name = "Block device"
    module = "none"
    supported: frozenset[Op] = frozenset({Op.READ, Op.WRITE, Op.FLUSH, Op.RESET})
    also_supported: frozenset[str] = frozenset()
    """Names of ``supported_io_types`` beyond ``supported``: what SPDK's module says of itself (``abort``, …)."""
    numa_id: int | None = None
    """None: the object of ``bdev_get_bdevs`` has no such field."""
    write_granularity = (0, 0, 0)
    """``preferred_write_alignment``, ``preferred_write_granularity``, ``optimal_write_size``, in blocks."""
    unmap_granularity = (0, 0)
    """``preferred_unmap_alignment``, ``preferred_unmap_granularity``, in blocks."""
    acwu = 1
    """The most blocks that a compare and write may have."""
    memory_domains: tuple[dict[str, Any], ...] = ()
    config_rank: int | None = None
    """Where its :meth:`config` comes among others: SPDK asks modules first, in the order in which they are linked, then
    the bdevs of all other modules (None) one by one.
    """
    config_batch = False
    """Whether its module writes its bdevs as a batch."""

    def __init__(
        self,
        name: str,
        block_size: int,
        num_blocks: int,
        uuid: uuid_module.UUID | None = None,
        aliases: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.uuid = uuid if uuid is not None and uuid.int else uuid_module.uuid4()
        self.aliases = [*aliases, str(self.uuid)]
        self.block_size = block_size
        self.block_size_is_power_of_two = block_size & (block_size - 1) == 0
        self.num_blocks = num_blocks
        self.descriptors: set[Descriptor] = set()
        self.claimed_by: str | None = None
        self.claim_type = "exclusive_write"
        self.removing = False
        self.stats = BdevStats()
        self.outstanding = 0
        """How much I/O is not complete."""
        self.quiesced: Quiesce | None = None
        """Where I/O has to wait while somebody has, or wants, the bdev alone."""
        self.qos = Qos(self.submit)
        self.on_close: Callable[[], None] = lambda: None
        self.trace_owner = 0
        """Its number in the file of traces."""

    @property
    def size(self) -> int:
        """Bytes."""
        return self.block_size * self.num_blocks

    @property
    def threads(self) -> list[int]:
        """Those that may do I/O, by identifier."""
        return sorted({thread for descriptor in self.descriptors for thread in descriptor.channels()})

    @property
    def in_use(self) -> bool:
        """Somebody may do I/O."""
        return bool(self.threads)

    def channels_changed(self) -> None:
        """A holder has come or gone, or has channels on other threads than before. What stands on others tells them."""
        tracing.channels_changed()

    def admits(self, thread: int) -> bool:
        """Whether that thread can have a channel. In SPDK each needs an I/O queue of the NVMe controllers below."""
        return True

    @property
    def reachable_domains(self) -> tuple[dict[str, Any], ...]:
        """The memory domains that an lvol on it has; SPDK's malloc module names those only when it is asked so."""
        return self.memory_domains

    def submit(self, io: BdevIo) -> None:
        """Do one I/O that is known to be supported, aligned and within the bdev; then ``io.complete(status)``."""
        raise NotImplementedError

    def start(self, io: BdevIo) -> None:
        """The way from a descriptor to :meth:`submit`, maybe after a while.

        A reset does not wait: it ends what others wait for.
        """
        if self.quiesced is not None and io.op != Op.RESET:
            if tracing.bdev_io:
                tracepoints.take_context(io)
            self.quiesced.add(io)
        else:
            self.enter(io)

    def quiesce(self, work: Work) -> None:
        """Begin ``work`` when all I/O that has come is done; what comes meanwhile waits until the work is done."""
        self.quiesced = self.quiesced or Quiesce(self)
        self.quiesced.add(work)

    def enter(self, io: BdevIo) -> None:
        """To :meth:`submit`; statistics and rate limits wrap it."""
        io.bdev = self
        self.outstanding += 1
        io.started = time.perf_counter_ns()
        if tracing.bdev_io:
            tracepoints.started(io)
        if self.qos.holds:
            self.qos.admit(io)
        else:
            self.submit(io)

    def trace_done(self, io: BdevIo) -> None:
        """Record what the bdev's module has of the end of an I/O."""

    def channel_pollers(self, thread: int) -> Iterator[Poller]:
        """What SPDK polls on a thread that has a channel to this bdev."""
        yield from ()

    def driver_specific(self) -> dict[str, Any]:
        """The object under ``driver_specific`` in ``bdev_get_bdevs``."""
        return {}

    def config(self) -> list[dict[str, Any]]:
        """The calls that create it again, for ``framework_get_config``; none where another bdev or module does that."""
        return []

    def destroy(self) -> None:
        """Release what the bdev holds (files, memory). Called once, after the last descriptor is closed."""


class BdevError(OSError):
    """A registry operation that cannot be done; ``number`` is the errno that SPDK returns for it.

    A method that lets it pass is answered with SPDK's usual error: the negative errno and its text.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number, os.strerror(number))
        self.number = number


_GPT_BYTES = 32768
_BLOB_BYTES, _BLOB_LEAST = 4096, 1024 * 1024
"""What SPDK reads to find a partition table, and a blobstore (which needs at least one cluster)."""


class BdevRegistry:
    """All bdevs of one process, by name and alias, in order of registration."""

    def __init__(self) -> None:
        self._bdevs: dict[str, Bdev] = {}
        self._names: dict[str, Bdev] = {}
        self._numbers: dict[str, int] = {}
        self._examining = 0
        self._all_examined = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self.options: dict[str, Any] = {
            "bdev_io_pool_size": 65535,
            "bdev_io_cache_size": 256,
            "bdev_auto_examine": True,
            "iobuf_small_cache_size": 128,
            "iobuf_large_cache_size": 16,
        }
        """What ``bdev_set_options`` sets."""
        self.watchers: list[Callable[[str, Bdev], None]] = []
        """Called with ``bdev_register``, ``bdev_unregister`` or ``bdev_resize`` (the notify family listens)."""
        self.examiners: list[Callable[[Bdev, bytes, Callable[[], None]], None]] = []
        """Called with a new bdev, its first 4 KiB (or a block, if that is longer) and what to call when done."""

    def __iter__(self) -> Iterator[Bdev]:
        return iter(list(self._bdevs.values()))

    def find(self, name: str) -> Bdev | None:
        """The bdev of that name or alias; a UUID is one in lower case."""
        return self._names.get(name)

    def get(self, name: str) -> Bdev:
        """As :meth:`find`, but raises ``BdevError(ENODEV)``."""
        bdev = self.find(name)
        if bdev is None:
            raise BdevError(errno.ENODEV)
        return bdev

    def next_name(self, prefix: str) -> str:
        """A name for a bdev that was created without one: ``Malloc0``, ``Malloc1`` … A number is given once."""
        number = self._numbers.get(prefix, 0)
        self._numbers[prefix] = number + 1
        return f"{prefix}{number}"

    async def wait_for(self, name: str) -> Bdev:
        """The bdev of that name or alias, as soon as it is registered."""
        while (bdev := self.find(name)) is None:
            registered = asyncio.get_running_loop().create_future()
            self._waiting.append(registered)
            await registered
        return bdev

    def register(self, bdev: Bdev) -> None:
        """Raises ``BdevError``: EINVAL for an empty name, EEXIST where one of its names is taken."""
        if not bdev.name:
            raise BdevError(errno.EINVAL)
        names = [bdev.name, *bdev.aliases]
        if any(name in self._names for name in names):
            raise BdevError(errno.EEXIST)
        self._bdevs[bdev.name] = bdev
        for name in names:
            self._names[name] = bdev
        self._tell("bdev_register", bdev)
        waiting, self._waiting = self._waiting, []
        for registered in waiting:
            if not registered.done():
                registered.set_result(None)
        if self.options["bdev_auto_examine"]:
            self.examine(bdev)

    def rename(self, bdev: Bdev, old_alias: str, alias: str) -> None:
        """Raises ``BdevError`` (EEXIST) where the alias is taken, be it by the bdev itself."""
        if alias in self._names:
            raise BdevError(errno.EEXIST)
        del self._names[old_alias]
        self._names[alias] = bdev
        bdev.aliases[bdev.aliases.index(old_alias)] = alias

    def examine(self, bdev: Bdev) -> None:
        """SPDK's modules look at the beginning of each new bdev for a superblock of theirs. What is read counts in the
        statistics, as it does there."""
        for module_reads, least in ((1, 0), (_GPT_BYTES, _GPT_BYTES)):
            self._read_beginning(bdev, module_reads, least, lambda _page: self._examined())
        self._read_beginning(bdev, _BLOB_BYTES, _BLOB_LEAST, lambda page: self._ask_examiners(bdev, page))

    def _read_beginning(self, bdev: Bdev, wanted: int, least: int, done: Callable[[bytes], None]) -> None:
        length = -(-wanted // bdev.block_size) * bdev.block_size
        if max(least, length) <= bdev.size:
            self._examining += 1
            data = bytearray(length)
            io = BdevIo(Op.READ, 0, length, [memoryview(data)], lambda status: done(b"" if status else bytes(data)))
            io.thread = NO_THREAD
            bdev.start(io)

    def _ask_examiners(self, bdev: Bdev, page: bytes) -> None:
        self._examining += len(self.examiners)
        self._examined()
        for examiner in self.examiners:
            examiner(bdev, page, self._examined)

    def _examined(self) -> None:
        self._examining -= 1
        if not self._examining:
            self._all_examined.set()
            self._all_examined = asyncio.Event()

    async def wait_for_examine(self) -> None:
        """Until every bdev that is there has been examined."""
        if self._examining:
            await self._all_examined.wait()

    def open(
        self,
        name: str,
        write: bool,
        on_event: Callable[[BdevEvent, Bdev], None],
        channels: Callable[[], Iterable[int]] = lambda: (APP_THREAD,),
    ) -> Descriptor:
        """Raises ``BdevError``: ENODEV; EPERM if ``write`` is wanted and somebody else has claimed the bdev."""
        bdev = self.get(name)
        if bdev.removing:
            raise BdevError(errno.ENODEV)
        if write and bdev.claimed_by:
            raise BdevError(errno.EPERM)
        descriptor = Descriptor(bdev, write, on_event, channels)
        bdev.descriptors.add(descriptor)
        bdev.channels_changed()
        return descriptor

    def claim(self, descriptor: Descriptor, owner: str, claim_type: str = "exclusive_write") -> None:
        """Exclusive write access. Raises ``BdevError(EPERM)`` if it is claimed already."""
        if descriptor.bdev.claimed_by:
            raise BdevError(errno.EPERM)
        descriptor.bdev.claimed_by = owner
        descriptor.bdev.claim_type = claim_type

    def release(self, descriptor: Descriptor) -> None:
        descriptor.bdev.claimed_by = None

    def resize(self, bdev: Bdev, num_blocks: int) -> None:
        bdev.num_blocks = num_blocks
        self._tell("bdev_resize", bdev)
        self._tell_holders(BdevEvent.RESIZE, bdev)

    def unregister(self, bdev: Bdev, done: Callable[[], None] = lambda: None) -> None:
        """Take the bdev away: holders get REMOVE; ``done`` is called when the last of them has closed."""
        bdev.removing = True
        bdev.qos.abort(Status.ABORTED)
        if bdev.quiesced is not None:
            bdev.quiesced.abort(Status.ABORTED)

        def finish() -> None:
            if bdev.descriptors or self._bdevs.get(bdev.name) is not bdev:
                return
            del self._bdevs[bdev.name]
            for name in [key for key, value in self._names.items() if value is bdev]:
                del self._names[name]
            self._tell("bdev_unregister", bdev)
            bdev.destroy()
            done()

        bdev.on_close = finish
        self._tell_holders(BdevEvent.REMOVE, bdev)
        finish()

    def _tell(self, event: str, bdev: Bdev) -> None:
        for watcher in self.watchers:
            watcher(event, bdev)

    def _tell_holders(self, event: BdevEvent, bdev: Bdev) -> None:
        waiting = deque(bdev.descriptors)
        while waiting:
            descriptor = waiting.popleft()
            if not descriptor.closed:
                descriptor.on_event(event, bdev)


def setup(app: App) -> BdevRegistry:
    """The family's state; see :class:`~spdk_emulator.app.App`."""
    bdevs = BdevRegistry()
    bdevs.watchers.append(app.framework.notifications.send)
    tracepoints.watch(bdevs, app.framework.traces)
    app.framework.threads.add_pollers(lambda thread: _pollers(bdevs, thread))
    app.add_config("bdev", lambda: [{"method": "bdev_set_options", "params": dict(bdevs.options)}])
    app.add_config("bdev", lambda: _of_modules(bdevs))
    app.add_config("bdev", lambda: _of_bdevs(bdevs), last=True)
    app.add_config("bdev", lambda: [{"method": "bdev_wait_for_examine"}], last=True)
    return bdevs


def _pollers(bdevs: BdevRegistry, thread: Thread) -> Iterator[Poller]:
    for bdev in bdevs:
        threads = bdev.threads
        if bdev.qos.enabled and threads and thread.number == threads[0]:
            yield Poller(bdev, "bdev_channel_poll_qos", 1000)
        if thread.number in threads:
            yield from bdev.channel_pollers(thread.number)


def _of_modules(bdevs: BdevRegistry) -> list[Any]:
    entries: list[Any] = []
    for rank in sorted({bdev.config_rank for bdev in bdevs if bdev.config_rank is not None}):
        ranked = [bdev for bdev in bdevs if bdev.config_rank == rank]
        calls = [call for bdev in ranked for call in bdev.config()]
        entries += [calls] if ranked[0].config_batch else calls
    return entries


def _of_bdevs(bdevs: BdevRegistry) -> list[Any]:
    return [
        call
        for bdev in bdevs
        for call in (
            (bdev.config() if bdev.config_rank is None else []) + ([_limits(bdev)] if bdev.qos.enabled else [])
        )
    ]


def _limits(bdev: Bdev) -> dict[str, Any]:
    limits = {name: value for name, value in bdev.qos.as_json().items() if value}
    return {"method": "bdev_set_qos_limit", "params": {"name": bdev.name, **limits}}
