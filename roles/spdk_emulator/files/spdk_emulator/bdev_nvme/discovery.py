"""A discovery service (NVMe base specification 2.0, 5.16.1.23): its log page decides which controllers are attached."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..nvme_tcp import nvme
from ..nvme_tcp.nvme import Lid
from .connection import Host, NvmeError, Trid
from .controller import Controller
from .options import ControllerOptions

if TYPE_CHECKING:
    from .models import NvmeControllers

log = logging.getLogger(__name__)

RETRY_DELAY = 1.0
_ENTRY_SIZE = nvme.DISCOVERY_ENTRY.size
_FAMILIES = {number: name for name, number in nvme.ADRFAM.items()}


@dataclass
class Entry:
    """An NVM subsystem that the log page names, and the controller name under which it was attached."""

    record: bytes
    trid: Trid
    name: str


def _trid(record: bytes) -> Trid:
    fields = nvme.DISCOVERY_ENTRY.unpack(record)
    trtype = "TCP" if fields["trtype"] == nvme.TRTYPE_TCP else str(fields["trtype"])
    family = _FAMILIES.get(fields["adrfam"], "")
    texts = (nvme.text(fields[name]) for name in ("traddr", "trsvcid", "subnqn"))
    return Trid(trtype, family, *texts)


class Discovery:
    """Follows one discovery service until :meth:`stop`; the owner of its discovery controller."""

    def __init__(
        self,
        name: str,
        trid: Trid,
        host: Host,
        options: ControllerOptions,
        registry: NvmeControllers,
        attach_timeout: float,
        wait_for_attach: bool,
    ) -> None:
        self.name = name
        self.trid = trid
        self.referrals: list[Trid] = [trid]
        self.options = options
        self.entries: list[Entry] = []
        self._host = host
        self._registry = registry
        self._attach_timeout = attach_timeout
        self._wait_for_attach = wait_for_attach
        self._index = 0
        self._changed = asyncio.Event()
        self._attached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._controller: Controller | None = None
        self._task = registry.app.spawn(self._follow())

    async def attached(self) -> None:
        """The first log page is dealt with. Raises ``OSError`` (ETIMEDOUT); the service is stopped then."""
        try:
            await asyncio.wait_for(asyncio.shield(self._attached), self._attach_timeout or None)
        except (TimeoutError, asyncio.TimeoutError):
            await self.stop()
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None

    async def stop(self, detach: bool = True) -> None:
        """Stop following, and detach what was attached."""
        self._registry.discoveries.pop(self.name, None)
        if self._task is not asyncio.current_task():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._controller is not None:
            await self._controller.shut_down()
        if detach:
            await asyncio.gather(*(self._detach(entry) for entry in self.entries))
        self.entries = []
        if not self._attached.done():
            self._attached.set_exception(OSError(errno.ECANCELED, os.strerror(errno.ECANCELED)))
            self._attached.exception()  # seen, if nobody waits for it

    async def _follow(self) -> None:
        while True:
            settings, spawn = self._registry.options, self._registry.app.spawn
            controller = Controller(self.name, self.trid, self._host, ControllerOptions(), settings, self, spawn)
            self._controller = controller
            try:
                await controller.attach()
                while True:
                    self._changed.clear()
                    await self._apply(await self._records(controller))
                    if not self._attached.done():
                        self._attached.set_result(None)
                    await self._changed.wait()
                    if not controller.live:
                        break
            except (NvmeError, OSError) as failure:
                log.warning("%s: discovery at %s:%s: %s", self.name, self.trid.traddr, self.trid.trsvcid, failure)
            await controller.shut_down()
            self._controller = None
            await asyncio.sleep(RETRY_DELAY)

    async def _records(self, controller: Controller) -> list[bytes]:
        """The log page's entries; read again if it changed meanwhile."""
        header_size = nvme.DISCOVERY_HEADER.size
        while True:
            header = nvme.DISCOVERY_HEADER.unpack(await controller.admin.log_page(Lid.DISCOVERY, header_size))
            size = header_size + header["numrec"] * _ENTRY_SIZE
            page = bytes(await controller.admin.log_page(Lid.DISCOVERY, size))
            generation = int.from_bytes(await controller.admin.log_page(Lid.DISCOVERY, 8), "little")
            if generation == header["genctr"]:
                return [page[start : start + _ENTRY_SIZE] for start in range(header_size, size, _ENTRY_SIZE)]

    async def _apply(self, records: list[bytes]) -> None:
        """Attach what is new, detach what is gone."""
        referrals, subsystems = [], []
        for record in records:
            subtype = nvme.DISCOVERY_ENTRY.unpack(record)["subtype"]
            if subtype in (nvme.SUBTYPE_DISCOVERY, nvme.SUBTYPE_CURRENT_DISCOVERY):
                referrals.append(_trid(record))
            elif subtype == nvme.SUBTYPE_NVME:
                subsystems.append(record)
        self.referrals = referrals
        known = {entry.record for entry in self.entries}
        new: dict[str, list[Entry]] = {}
        for record in subsystems:
            if record not in known:
                entry = self._entry(record)
                new.setdefault(entry.name, []).append(entry)
        await asyncio.gather(*(self._attach(entries) for entries in new.values()))
        gone = [entry for entry in self.entries if entry.record not in subsystems]
        self.entries = [entry for entry in self.entries if entry not in gone]
        await asyncio.gather(*(self._detach(entry) for entry in gone))

    def _entry(self, record: bytes) -> Entry:
        """Several entries of one subsystem share a name: they are its paths."""
        trid = _trid(record)
        for discovery in self._registry.discoveries.values():
            for entry in discovery.entries:
                if entry.trid.subnqn == trid.subnqn:
                    name = entry.name
                    break
            else:
                continue
            break
        else:
            name = f"{self.name}{self._index}"
            self._index += 1
        made = Entry(record, trid, name)
        self.entries.append(made)
        return made

    async def _attach(self, entries: list[Entry]) -> None:
        """The paths of one subsystem, one after the other: the first that the log page names is the first in use."""
        for entry in entries:
            trid = entry.trid
            try:
                await self._registry.attach(entry.name, trid, self._host, self.options)
            except OSError as failure:
                log.error("%s: cannot attach %s at %s: %s", self.name, trid.subnqn, trid.traddr, failure.strerror)

    async def _detach(self, entry: Entry) -> None:
        try:
            await self._registry.detach(entry.name, vars(entry.trid))
        except OSError as failure:
            log.info("%s: %s is not attached any more: %s", self.name, entry.name, failure.strerror)

    # What the discovery controller tells

    def state_changed(self, controller: Controller) -> None:
        self._changed.set()

    def discovery_changed(self, controller: Controller) -> None:
        self._changed.set()

    def gone(self, controller: Controller) -> None:
        self._changed.set()

    def namespaces_changed(self, controller: Controller, nsids: list[int]) -> None:
        """A discovery controller has none."""

    def as_json(self) -> dict[str, Any]:
        """An item of ``bdev_nvme_get_discovery_info``."""
        return {
            "name": self.name,
            "trid": self.trid.as_json(),
            "referrals": [{"trid": trid.as_json()} for trid in self.referrals],
        }

    def config(self) -> dict[str, Any]:
        trid = self.trid.as_json()
        del trid["subnqn"]
        params = {
            "name": self.name,
            **trid,
            "hostnqn": self._host.nqn,
            "wait_for_attach": self._wait_for_attach,
            "ctrlr_loss_timeout_sec": self.options.loss_timeout,
            "reconnect_delay_sec": self.options.reconnect_delay,
            "fast_io_fail_timeout_sec": self.options.fast_io_fail_timeout,
        }
        return {"method": "bdev_nvme_start_discovery", "params": params}
