"""All lvol stores of one process: those that were made, and those that were found on a bdev."""

from __future__ import annotations

import errno
import logging
import uuid as uuid_module
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ..bdev.models import Bdev, BdevError, BdevEvent, BdevRegistry
from .bdev import Lvol
from .layout import Geometry, measure, unpack_header
from .store import NAME_MAX, Spawn, Store

if TYPE_CHECKING:
    from ..app import App

log = logging.getLogger(__name__)

DEFAULT_CLUSTER_SIZE = 4 * 1024 * 1024
DEFAULT_RATIO = 100
"""Pages of metadata in a hundred clusters."""
_LEAST_PAGE, _MOST_PAGE = 4096, 65536


class RefusedLate(BdevError):
    """SPDK answers it in another way than what it refuses at once."""


class LvolStores:
    """In the order in which they came."""

    def __init__(self, bdevs: BdevRegistry, spawn: Spawn) -> None:
        self._bdevs = bdevs
        self._spawn = spawn
        self._stores: list[Store] = []
        self._names: set[str] = set()
        """Also of those that are being made."""
        bdevs.examiners.append(self._examine)

    def __iter__(self) -> Iterator[Store]:
        return iter(self._stores)

    def find(self, uuid: str | None, name: str | None) -> Store:
        """Raises ``BdevError``: EINVAL unless one of the two is given, ENODEV."""
        if (uuid is None) == (name is None):
            raise BdevError(errno.EINVAL)
        for store in self._stores:
            if name == store.name or (uuid is not None and uuid.lower() == store.geometry.uuid):
                return store
        raise BdevError(errno.ENODEV)

    def lvol(self, name: str) -> Lvol:
        """By the name or alias of its bdev. Raises ``BdevError`` (ENODEV)."""
        bdev = self._bdevs.find(name)
        if not isinstance(bdev, Lvol):
            raise BdevError(errno.ENODEV)
        return bdev

    def lvol_by_names(self, name: str) -> Lvol:
        """As :meth:`lvol`, also by ``<store>/<lvol>`` where that is not the alias (of a renaming that was refused)."""
        store_name, _unused, lvol_name = name.partition("/")
        for store in self._stores:
            if store.name == store_name and (found := store.find(lvol_name)) is not None:
                return found
        return self.lvol(name)

    async def create(
        self, base_name: str, name: str, cluster_size: int, clear_method: str, ratio: int, page_size: int
    ) -> Store:
        """Zero means the default. Raises ``BdevError``, or :class:`RefusedLate`."""
        if not 0 < len(name.encode()) <= NAME_MAX:
            raise BdevError(errno.EINVAL)
        if page_size and (not _LEAST_PAGE <= page_size <= _MOST_PAGE or page_size & (page_size - 1)):
            raise BdevError(errno.EINVAL)
        probe = self._bdevs.open(base_name, True, _ignore, channels=tuple)
        base = probe.bdev
        probe.close()
        cluster_size = cluster_size or DEFAULT_CLUSTER_SIZE
        if cluster_size % base.block_size:
            raise BdevError(errno.EINVAL)
        if name in self._names:
            raise BdevError(errno.EEXIST)
        physical = getattr(base, "physical_block_size", base.block_size)
        try:
            geometry = measure(
                str(uuid_module.uuid4()),
                base.size,
                base.block_size,
                physical,
                cluster_size,
                ratio or DEFAULT_RATIO,
                page_size,
            )
        except BdevError as error:
            raise RefusedLate(error.number) from None
        store = self._open(base, geometry, name)
        try:
            await store.format(clear_method)
        except BdevError as error:
            store.close()
            raise RefusedLate(error.number) from None
        self._stores.append(store)
        return store

    def _open(self, base: Bdev, geometry: Geometry, name: str) -> Store:
        store = Store(self._bdevs, self._spawn, base.name, geometry, name, self._forget)
        self._names.add(name)
        return store

    def _forget(self, store: Store) -> None:
        self._names.discard(store.name)
        if store in self._stores:
            self._stores.remove(store)

    async def rename(self, old_name: str, name: str) -> None:
        """Raises ``BdevError``: ENOENT, EEXIST."""
        store = next((store for store in self._stores if store.name == old_name), None)
        if store is None:
            raise BdevError(errno.ENOENT)
        if name == old_name:
            return
        if name in self._names:
            raise BdevError(errno.EEXIST)
        self._names.discard(old_name)
        self._names.add(name)
        await store.rename(name)

    def _examine(self, bdev: Bdev, page: bytes, done: Callable[[], None]) -> None:
        """Is there a store on it? Then load it; ``done`` is called when that is done."""
        geometry = unpack_header(page)
        if geometry is None or geometry.block_size != bdev.block_size or bdev.claimed_by or bdev.removing:
            done()
        else:
            self._spawn(self._load(bdev, geometry, done))

    async def _load(self, bdev: Bdev, geometry: Geometry, done: Callable[[], None]) -> None:
        try:
            store = Store(self._bdevs, self._spawn, bdev.name, geometry, "", self._forget)
            try:
                await store.load()
                if store.name in self._names:
                    raise BdevError(errno.EEXIST)
            except OSError:
                store.name = ""
                store.close()
                raise
            self._names.add(store.name)
            self._stores.append(store)
            for lvol in store.lvols:
                store.show(lvol)
        except OSError as error:
            log.error("the lvol store on %s cannot be loaded: %s", bdev.name, error.strerror)
        finally:
            done()


def _ignore(_event: BdevEvent, _bdev: Bdev) -> None:
    pass


def setup(app: App) -> LvolStores:
    """The family's state; see :class:`~spdk_emulator.app.App`."""
    return LvolStores(app.bdevs, app.spawn)
