"""JSON-RPC methods of block devices: the general ones, and those of the malloc, null and aio modules."""

from __future__ import annotations

import asyncio
import errno
import time
import uuid as uuid_module
from typing import TYPE_CHECKING, Any

from ..jsonrpc.errors import INTERNAL_ERROR, INVALID_PARAMS, RpcError
from ..jsonrpc.params import array, boolean, enum, int32, string, uint8, uint32, uint64, uuid
from ..jsonrpc.registry import STARTUP, Param, method
from .aio import AioBdev
from .malloc import MallocBdev
from .models import Bdev, BdevError, Op
from .null import NullBdev
from .qos import LIMITS, UNSET
from .stats import TICK_RATE, Histogram

if TYPE_CHECKING:
    from ..app import App

_IO_TYPES = (
    ("read", Op.READ),
    ("write", Op.WRITE),
    ("unmap", Op.UNMAP),
    ("flush", Op.FLUSH),
    ("reset", Op.RESET),
    ("nvme_admin", None),
    ("nvme_io", None),
    ("nvme_io_md", None),
    ("write_zeroes", Op.WRITE_ZEROES),
    ("zcopy", None),
    ("get_zone_info", None),
    ("zone_management", None),
    ("zone_append", None),
    ("compare", Op.COMPARE),
    ("compare_and_write", Op.COMPARE_AND_WRITE),
    ("abort", None),
    ("seek_hole", None),
    ("seek_data", None),
    ("copy", None),
    ("nvme_iov_md", None),
    ("nvme_nssr", None),
    ("write_uncorrectable", None),
)
_MIB = 1024 * 1024
_NAME = {"name": Param(string, required=True)}


def describe(bdev: Bdev) -> dict[str, Any]:
    """The object of ``bdev_get_bdevs``, fields in SPDK's order."""
    write, unmap = bdev.write_granularity, bdev.unmap_granularity
    answer: dict[str, Any] = {
        "name": bdev.name,
        "aliases": list(bdev.aliases),
        "product_name": bdev.product_name,
        "block_size": bdev.block_size,
        "num_blocks": bdev.num_blocks,
        "preferred_write_alignment": write[0],
        "preferred_write_granularity": write[1],
        "optimal_write_size": write[2],
        "preferred_unmap_alignment": unmap[0],
        "preferred_unmap_granularity": unmap[1],
        "uuid": str(bdev.uuid),
    }
    if bdev.numa_id is not None:
        answer["numa_id"] = bdev.numa_id
    answer["assigned_rate_limits"] = bdev.qos.as_json()
    answer["claimed"] = bdev.claimed_by is not None
    if bdev.claimed_by is not None:
        answer["claim_type"] = bdev.claim_type
    answer["zoned"] = False
    answer["supported_io_types"] = {
        name: name in bdev.also_supported or operation in bdev.supported for name, operation in _IO_TYPES
    }
    if bdev.memory_domains:
        answer["memory_domains"] = list(bdev.memory_domains)
    answer["driver_specific"] = bdev.driver_specific()
    return answer


def _find(app: App, name: str, kind: type[Bdev] = Bdev, number: int = errno.ENODEV) -> Bdev:
    """The bdev of that name or alias and kind; ``number`` is the errno for one of another kind."""
    bdev = app.bdevs.get(name)
    if not isinstance(bdev, kind):
        raise BdevError(number)
    return bdev


async def _unregister(app: App, bdev: Bdev) -> bool:
    gone = asyncio.get_running_loop().create_future()
    app.bdevs.unregister(bdev, lambda: gone.set_result(True))
    return await gone


# Any bdev


@method(
    "bdev_set_options",
    params={
        "bdev_io_pool_size": Param(uint32),
        "bdev_io_cache_size": Param(uint32),
        "bdev_auto_examine": Param(boolean),
        "iobuf_small_cache_size": Param(uint32),
        "iobuf_large_cache_size": Param(uint32),
    },
    state=STARTUP,
    bad_params=(INVALID_PARAMS, "Invalid parameters"),
)
def bdev_set_options(app: App, **given: Any) -> bool:
    wanted = app.bdevs.options | {key: value for key, value in given.items() if value is not None}
    # SPDK keeps one cache a core and one for the application's thread.
    if wanted["bdev_io_pool_size"] < wanted["bdev_io_cache_size"] * 2:
        raise RpcError.invalid_params(
            f"Pool size {wanted['bdev_io_pool_size']} too small for cache size {wanted['bdev_io_cache_size']}"
        )
    app.bdevs.options = wanted
    return True


@method("bdev_get_bdevs", params={"name": Param(string), "timeout": Param(uint64, default=0)})
async def bdev_get_bdevs(app: App, name: str | None, timeout: int) -> list[dict[str, Any]]:
    """``timeout``: milliseconds to wait for the bdev of that name."""
    if name is None:
        return [describe(bdev) for bdev in app.bdevs]
    if timeout and app.bdevs.find(name) is None:
        try:
            await asyncio.wait_for(app.bdevs.wait_for(name), timeout / 1000)
        except asyncio.TimeoutError:
            raise BdevError(errno.ETIMEDOUT) from None
    return [describe(app.bdevs.get(name))]


@method("bdev_wait_for_examine")
async def bdev_wait_for_examine(app: App) -> bool:
    await app.bdevs.wait_for_examine()
    return True


@method("bdev_examine", params=_NAME, bad_params=(INVALID_PARAMS, "spdk_json_decode_object failed"))
def bdev_examine(app: App, name: str) -> bool:
    """Refused where ``bdev_auto_examine`` does it. A bdev that is not there is not missed, as in SPDK."""
    if app.bdevs.options["bdev_auto_examine"]:
        raise BdevError(errno.EINVAL)
    bdev = app.bdevs.find(name)
    if bdev is not None:
        app.bdevs.examine(bdev)
    return True


@method(
    "bdev_get_iostat",
    params={
        "per_channel": Param(boolean, default=False),
        "reset_mode": Param(enum("all", "maxmin", "none"), default="none"),
        "names": Param(array(string)),
    },
)
def bdev_get_iostat(app: App, per_channel: bool, reset_mode: str, names: list[str] | None) -> dict[str, Any]:
    if per_channel and (names is None or len(names) != 1):
        raise BdevError(errno.EINVAL)
    bdevs = list(app.bdevs) if names is None else [app.bdevs.get(name) for name in names]
    answer: dict[str, Any] = {"tick_rate": TICK_RATE, "ticks": time.perf_counter_ns()}
    if per_channel:
        answer["name"] = bdevs[0].name
        answer["channels"] = [
            {"thread_id": thread, **bdev.stats.of(thread).as_json()} for bdev in bdevs for thread in bdev.threads
        ]
    else:
        answer["bdevs"] = [{"name": bdev.name, **bdev.stats.as_json()} for bdev in bdevs]
    for bdev in bdevs:
        bdev.stats.reset(reset_mode)
    return answer


@method(
    "bdev_reset_iostat",
    params={"name": Param(string), "mode": Param(enum("all", "maxmin", "none"), default="all")},
)
def bdev_reset_iostat(app: App, name: str | None, mode: str) -> bool:
    if mode != "none":
        for bdev in app.bdevs if name is None else [app.bdevs.get(name)]:
            bdev.stats.reset(mode)
    return True


@method(
    "bdev_set_qos_limit",
    params={**_NAME, **{limit: Param(uint64, default=UNSET) for limit in LIMITS}},
)
def bdev_set_qos_limit(app: App, name: str, **limits: int) -> bool:
    bdev = app.bdevs.get(name)
    if all(limit == UNSET for limit in limits.values()):
        raise RpcError(-errno.EINVAL, "No rate limits specified")
    try:
        bdev.qos.set(limits, bdev.in_use)
    except OSError as error:
        raise RpcError.invalid_params(f"Failed to configure rate limit: {error.strerror}") from error
    return True


@method(
    "bdev_enable_histogram",
    params={
        **_NAME,
        "enable": Param(boolean, required=True),
        "opc": Param(string),
        "granularity": Param(uint8, default=7),
        "min_nsec": Param(uint64, default=1000),
        "max_nsec": Param(uint64, default=120_000_000_000),
    },
)
def bdev_enable_histogram(
    app: App, name: str, enable: bool, opc: str | None, granularity: int, min_nsec: int, max_nsec: int
) -> bool:
    stats = app.bdevs.get(name).stats
    operations = dict(_IO_TYPES)
    if opc is not None and opc not in operations:
        raise RpcError(INTERNAL_ERROR, "Invalid Io type")
    operation = None if opc is None else operations[opc]
    fits = min_nsec < max_nsec and 0 < granularity < 64
    stats.histogram = Histogram(granularity, min_nsec, max_nsec, operation, enable) if fits else None
    return True


@method("bdev_get_histogram", params=_NAME)
def bdev_get_histogram(app: App, name: str) -> dict[str, Any]:
    histogram = app.bdevs.get(name).stats.histogram
    if histogram is None:
        raise BdevError(errno.ENOMEM)
    return histogram.as_json()


# malloc


@method(
    "bdev_malloc_create",
    params={
        "name": Param(string),
        "uuid": Param(uuid),
        "num_blocks": Param(uint64, required=True),
        "block_size": Param(uint32, required=True),
        "physical_block_size": Param(uint32, default=0),
        "optimal_io_boundary": Param(uint32, default=0),
        "md_size": Param(uint32, default=0),
        "md_interleave": Param(boolean, default=False),
        "dif_type": Param(int32, default=0),
        "dif_is_head_of_md": Param(boolean, default=False),
        "dif_pi_format": Param(uint32, default=0),
        "numa_id": Param(int32, default=-1),
    },
)
def bdev_malloc_create(
    app: App,
    name: str | None,
    uuid: uuid_module.UUID | None,
    num_blocks: int,
    block_size: int,
    physical_block_size: int,
    optimal_io_boundary: int,
    md_size: int,
    dif_type: int,
    numa_id: int,
    **_unused: Any,
) -> str:
    _check_size(num_blocks, block_size, physical_block_size, md_size, dif_type)
    if numa_id not in (-1, 0):
        raise BdevError(errno.EINVAL)
    bdev = MallocBdev(
        app.bdevs.next_name("Malloc") if name is None else name,
        block_size,
        num_blocks,
        uuid,
        physical_block_size,
        optimal_io_boundary,
    )
    return _register(app, bdev)


def _check_size(num_blocks: int, block_size: int, physical_block_size: int, md_size: int, dif_type: int) -> None:
    """Metadata and protection information are refused, as everything that is not there."""
    if not num_blocks or not block_size or block_size % 512 or physical_block_size % 512 or md_size or dif_type:
        raise BdevError(errno.EINVAL)


def _register(app: App, bdev: Bdev) -> str:
    try:
        app.bdevs.register(bdev)
    except BdevError:
        bdev.destroy()
        raise
    return bdev.name


@method("bdev_malloc_delete", params=_NAME)
async def bdev_malloc_delete(app: App, name: str) -> bool:
    return await _unregister(app, _find(app, name, MallocBdev))


# null


@method(
    "bdev_null_create",
    params={
        "name": Param(string, required=True),
        "uuid": Param(uuid),
        "num_blocks": Param(uint64, required=True),
        "block_size": Param(uint32, required=True),
        "physical_block_size": Param(uint32, default=0),
        "md_size": Param(uint32, default=0),
        "dif_type": Param(int32, default=0),
        "dif_is_head_of_md": Param(boolean, default=False),
        "dif_pi_format": Param(uint32, default=0),
        "preferred_write_alignment": Param(uint32, default=0),
        "preferred_write_granularity": Param(uint32, default=0),
        "optimal_write_size": Param(uint32, default=0),
        "preferred_unmap_alignment": Param(uint32, default=0),
        "preferred_unmap_granularity": Param(uint32, default=0),
    },
)
def bdev_null_create(
    app: App,
    name: str,
    uuid: uuid_module.UUID | None,
    num_blocks: int,
    block_size: int,
    physical_block_size: int,
    md_size: int,
    dif_type: int,
    preferred_write_alignment: int,
    preferred_write_granularity: int,
    optimal_write_size: int,
    preferred_unmap_alignment: int,
    preferred_unmap_granularity: int,
    **_unused: Any,
) -> str:
    _check_size(num_blocks, block_size, physical_block_size, md_size, dif_type)
    bdev = NullBdev(name, block_size, num_blocks, uuid, physical_block_size)
    bdev.write_granularity = (preferred_write_alignment, preferred_write_granularity, optimal_write_size)
    bdev.unmap_granularity = (preferred_unmap_alignment, preferred_unmap_granularity)
    return _register(app, bdev)


@method("bdev_null_resize", params={**_NAME, "new_size": Param(uint64, required=True)})
def bdev_null_resize(app: App, name: str, new_size: int) -> bool:
    """``new_size`` is in MiB; a null bdev only grows."""
    bdev = _find(app, name, NullBdev, errno.EINVAL)
    if new_size < bdev.size // _MIB:
        raise BdevError(errno.EINVAL)
    _resize(app, bdev, new_size * _MIB // bdev.block_size)
    return True


def _resize(app: App, bdev: Bdev, num_blocks: int) -> None:
    """These methods hold the bdev open themselves, and SPDK does not shrink what is open."""
    if num_blocks < bdev.num_blocks:
        raise BdevError(errno.EBUSY)
    if num_blocks > bdev.num_blocks:
        app.bdevs.resize(bdev, num_blocks)


@method("bdev_null_delete", params=_NAME)
async def bdev_null_delete(app: App, name: str) -> bool:
    return await _unregister(app, _find(app, name, NullBdev))


# aio


@method(
    "bdev_aio_create",
    params={
        "name": Param(string, required=True),
        "filename": Param(string, required=True),
        "block_size": Param(uint32, default=0),
        "readonly": Param(boolean, default=False),
        "fallocate": Param(boolean, default=False),
        "uuid": Param(uuid),
        "nowait": Param(boolean, default=False),
    },
)
async def bdev_aio_create(app: App, **given: Any) -> str:
    """Answered when what is on it (an lvol store) is there, too."""
    name = _register(app, AioBdev(**given))
    await app.bdevs.wait_for_examine()
    return name


@method("bdev_aio_rescan", params=_NAME)
def bdev_aio_rescan(app: App, name: str) -> bool:
    """Take over the file's size; an empty file is a device that was pulled."""
    bdev = _find(app, name, AioBdev)
    assert isinstance(bdev, AioBdev)
    blocks = bdev.size_in_blocks()
    if blocks == 0:
        app.bdevs.unregister(bdev)
    else:
        _resize(app, bdev, blocks)
    return True


@method("bdev_aio_delete", params=_NAME)
async def bdev_aio_delete(app: App, name: str) -> bool:
    return await _unregister(app, _find(app, name, AioBdev))
