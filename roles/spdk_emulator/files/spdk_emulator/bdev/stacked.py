"""Block devices on top of one other block device, which they claim: encryption and the like.

Such a bdev may be asked for before its base is there; it then comes when the base does, also once the base was away.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import uuid as uuid_module
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from .models import Bdev, BdevError, BdevEvent, BdevRegistry

log = logging.getLogger(__name__)


class StackedBdev(Bdev):
    """A bdev of the size of its base, gone when the base goes. Its UUID follows from the base's, as SPDK makes it."""

    namespace: uuid_module.UUID
    """Of the UUIDs of this module's bdevs."""
    follows_size = True
    """It grows with its base; not all of SPDK's modules do."""
    register_error: int | None = None
    """The errno where its name or UUID is taken; None: that of the registration itself."""
    refused_is_wanted = False
    """One that the base refused stays wanted; with some of SPDK's modules it does."""

    def __init__(self, bdevs: BdevRegistry, base_name: str, name: str, uuid: uuid_module.UUID | None = None) -> None:
        """Open and claim the base. Raises ``BdevError``: ENODEV; EPERM where somebody else has claimed it."""
        self._bdevs = bdevs
        self.below = bdevs.open(base_name, True, self._on_base_event, channels=tuple)
        """The descriptor of the base."""
        base = self.base = self.below.bdev
        bdevs.claim(self.below, self.module)
        super().__init__(name, base.block_size, base.num_blocks, uuid or self._derived_uuid(base))
        self.numa_id = base.numa_id
        self.below.channels = lambda: self.threads

    def channels_changed(self) -> None:
        self.base.channels_changed()

    def admits(self, thread: int) -> bool:
        return self.base.admits(thread)

    def _derived_uuid(self, base: Bdev) -> uuid_module.UUID:
        digest = hashlib.sha1(self.namespace.bytes + base.uuid.bytes, usedforsecurity=False).digest()
        return uuid_module.UUID(bytes=digest[:16], version=5)

    def _on_base_event(self, event: BdevEvent, base: Bdev) -> None:
        if event == BdevEvent.REMOVE:
            self._bdevs.unregister(self)
        elif self.follows_size and base.num_blocks != self.num_blocks:
            self._bdevs.resize(self, base.num_blocks)

    def destroy(self) -> None:
        self._bdevs.release(self.below)
        self.below.close()


_Kind = TypeVar("_Kind", bound=StackedBdev)


class Stack(Generic[_Kind]):
    """The bdevs of one module, there or only wanted, by name. ``make(name, base_name, *more)`` makes one.

    ``forgotten(*more)`` is called for one that nobody wants any more.
    """

    def __init__(
        self,
        bdevs: BdevRegistry,
        kind: type[_Kind],
        make: Callable[..., _Kind],
        forgotten: Callable[..., None] = lambda *more: None,
    ) -> None:
        self._bdevs = bdevs
        self._kind = kind
        self._make = make
        self._forgotten = forgotten
        self._wanted: dict[str, tuple[str, tuple[Any, ...]]] = {}
        bdevs.watchers.append(self._look)

    def create(self, name: str, base_name: str, *more: Any) -> None:
        """Now or, where there is no such base, when it comes.

        Raises ``BdevError``: EEXIST for a name that is wanted already; EPERM for a base that somebody has claimed;
        of the registration where its name or UUID is taken.
        """
        if name in self._wanted:
            raise BdevError(errno.EEXIST)
        self._wanted[name] = (base_name, more)
        try:
            self._claim(base_name)
        except BdevError as error:
            if error.number == errno.ENODEV:
                log.info("%s comes when its base bdev %s does", name, base_name)
                return
            if not self._kind.refused_is_wanted:
                del self._wanted[name]
            raise

    def _claim(self, base_name: str) -> None:
        """The first that wants this base gets it."""
        for name, (wanted, more) in self._wanted.items():
            if wanted == base_name:
                made = self._make(name, base_name, *more)
                try:
                    self._bdevs.register(made)
                except BdevError as error:
                    made.destroy()
                    raise BdevError(self._kind.register_error or error.number) from None
                return

    def _look(self, event: str, bdev: Bdev) -> None:
        if event == "bdev_register" and self._bdevs.options["bdev_auto_examine"]:
            try:
                self._claim(bdev.name)
            except BdevError as error:
                log.error("nothing can be put on %s: %s", bdev.name, error.strerror)

    def delete(self, name: str, done: Callable[[], None]) -> None:
        """Raises ``BdevError`` (ENODEV) where there is no such bdev of this module, though one may be wanted."""
        bdev = self._bdevs.get(name)
        if not isinstance(bdev, self._kind):
            raise BdevError(errno.ENODEV)

        def gone() -> None:
            found = self._wanted.pop(name, None)
            if found is not None:
                self._forgotten(*found[1])
            done()

        self._bdevs.unregister(bdev, gone)
