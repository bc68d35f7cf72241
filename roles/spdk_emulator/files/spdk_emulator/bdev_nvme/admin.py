"""The commands with which a controller is brought up, asked and shut down, on its admin queue.

All raise ``OSError`` or :class:`NvmeError`. Section numbers are those of the NVMe base specification 2.0.
"""

from __future__ import annotations

import asyncio

from ..nvme_tcp import nvme
from ..nvme_tcp.host import MAX_TRANSFER
from ..nvme_tcp.nvme import Admin, Cns, Fabrics, Feature, Lid, Property, Sc
from .connection import Connection, Host, NvmeError, Trid

READY_POLL = 0.01
VERSION_OF_DESCRIPTORS, VERSION_OF_COMMAND_SETS = 0x00010300, 0x00020000


async def connect_queue(
    connection: Connection, trid: Trid, host: Host, qid: int, depth: int, kato: int, cntlid: int
) -> int:
    """The fabrics command Connect (6.3); what it answers, the controller's identifier in its lower 16 bits."""
    data = nvme.CONNECT_DATA.pack(
        hostid=host.identifier, cntlid=cntlid, subnqn=trid.subnqn.encode(), hostnqn=host.nqn.encode()
    )
    connection.queue.qid = qid
    low = qid << 16 | depth << 32
    return await connection.call("Connect", nvme.FABRICS_OPCODE, Fabrics.CONNECT, low, kato, data)


class AdminQueue:
    """``name``: the controller's, for messages."""

    def __init__(self, name: str, connection: Connection) -> None:
        self.name = name
        self.connection = connection
        self.version = 0
        self.max_transfer = MAX_TRANSFER

    # Properties

    async def _get_property(self, offset: int, eight_bytes: bool = False) -> int:
        low = eight_bytes | offset << 32
        what = f"Property Get {offset:#x}"
        return await self.connection.call(what, nvme.FABRICS_OPCODE, Fabrics.PROPERTY_GET, low)

    async def _set_property(self, offset: int, value: int) -> None:
        what = f"Property Set {offset:#x}"
        await self.connection.call(what, nvme.FABRICS_OPCODE, Fabrics.PROPERTY_SET, offset << 32, value)

    async def enable(self) -> None:
        """Bring the controller to ready (3.5.1)."""
        self.version = await self._get_property(Property.VS)
        capabilities = await self._get_property(Property.CAP, eight_bytes=True)
        timeout = max((capabilities >> 24 & 0xFF) * 0.5, 1.0)
        configuration = await self._get_property(Property.CC)
        status = await self._get_property(Property.CSTS)
        if configuration & nvme.CC_ENABLE:
            await self._set_property(Property.CC, configuration & ~nvme.CC_ENABLE)
            await self._wait_for(nvme.CSTS_READY, 0, timeout, "to be disabled")
        elif status & nvme.CSTS_READY:
            await self._wait_for(nvme.CSTS_READY, 0, timeout, "to be disabled")
        wanted = nvme.CC_ENABLE | 6 << nvme.CC_IOSQES_SHIFT | 4 << nvme.CC_IOCQES_SHIFT
        await self._set_property(Property.CC, wanted)
        await self._wait_for(nvme.CSTS_READY, nvme.CSTS_READY, timeout, "to be ready")

    async def shut_down(self, timeout: float) -> None:
        """Tell the controller that it is not needed any more (3.6.2)."""
        configuration = await self._get_property(Property.CC)
        await self._set_property(Property.CC, configuration | 1 << nvme.CC_SHN_SHIFT)
        complete = nvme.CSTS_SHUTDOWN_COMPLETE
        await self._wait_for(complete, complete, timeout, "to shut down")

    async def _wait_for(self, mask: int, value: int, timeout: float, what: str) -> None:
        """Poll CSTS."""
        try:
            async with asyncio.timeout(timeout):
                while await self._get_property(Property.CSTS) & mask != value:
                    await asyncio.sleep(READY_POLL)
        except TimeoutError:
            raise TimeoutError(f"{self.name}: waited {timeout:g} s for the controller {what}") from None

    # Features and log pages

    async def set_feature(self, feature: Feature, value: int) -> int:
        what = f"Set Features {feature.name}"
        return await self.connection.call(what, Admin.SET_FEATURES, low=feature | value << 32)

    async def get_feature(self, feature: Feature) -> int:
        what = f"Get Features {feature.name}"
        return await self.connection.call(what, Admin.GET_FEATURES, low=feature) & 0xFFFFFFFF

    async def log_page(self, lid: int, size: int, nsid: int = 0) -> bytearray:
        """``size`` bytes (a multiple of 4) of a log page, in pieces that fit a command."""
        content = bytearray()
        while len(content) < size:
            piece = bytearray(min(size - len(content), self.max_transfer))
            dwords = len(piece) // 4 - 1
            low = lid | (dwords & 0xFFFF) << 16 | (dwords >> 16) << 32
            what = f"Get Log Page {lid:#04x}"
            await self.connection.call(what, Admin.GET_LOG_PAGE, nsid, low, len(content), piece)
            content += piece
        return content

    async def changed_namespaces(self) -> list[int]:
        """Those that the controller has told of; the broadcast NSID where there are more than the page can name."""
        return nvme.parse_namespace_list(
            await self.log_page(Lid.CHANGED_NAMESPACES, nvme.PAGE_SIZE, nsid=nvme.BROADCAST_NSID)
        )

    async def abort(self, qid: int, cid: int) -> bool:
        """Whether the command was given up (5.1)."""
        return not await self.connection.call(f"Abort {cid}", Admin.ABORT, low=qid | cid << 16) & 1

    async def keep_alive(self) -> None:
        await self.connection.call("Keep Alive", Admin.KEEP_ALIVE)

    # Identify

    async def identify(self, cns: Cns, nsid: int = 0) -> bytearray:
        """The page (5.17)."""
        page = bytearray(nvme.PAGE_SIZE)
        await self.connection.call(f"Identify {cns.name}, namespace {nsid}", Admin.IDENTIFY, nsid, cns, data=page)
        return page

    async def limits(self) -> dict[str, int]:
        """Of the NVM command set; older controllers do not tell them."""
        if self.version < VERSION_OF_COMMAND_SETS:
            return {}
        try:
            return nvme.IDENTIFY_CONTROLLER_NVM.unpack(await self.identify(Cns.CONTROLLER_OF_COMMAND_SET))
        except NvmeError:
            return {}

    async def active_namespaces(self) -> list[int]:
        nsids: list[int] = []
        while True:
            page = await self.identify(Cns.ACTIVE_NAMESPACES, nsids[-1] if nsids else 0)
            more = nvme.parse_namespace_list(page)
            if more and nsids and more[0] <= nsids[-1]:
                raise ConnectionAbortedError(f"{self.name}: the list of namespaces after {nsids[-1]} has {more[0]}")
            nsids += more
            if len(more) < nvme.NAMESPACE_LIST_LIMIT:
                return nsids

    async def identify_namespace(self, nsid: int) -> bytearray | None:
        """Identify Namespace; None where there is no such active namespace."""
        try:
            page = await self.identify(Cns.NAMESPACE, nsid)
        except NvmeError as error:
            if error.status != Sc.INVALID_NAMESPACE:
                raise
            return None
        return page if nvme.IDENTIFY_NAMESPACE.unpack(page)["nsze"] else None

    async def identifiers(self, nsid: int) -> dict[int, bytes]:
        """None from controllers that claim to have them and do not, or where the namespace is gone by now."""
        if self.version < VERSION_OF_DESCRIPTORS:
            return {}
        try:
            return dict(nvme.parse_namespace_descriptors(await self.identify(Cns.NAMESPACE_DESCRIPTORS, nsid)))
        except NvmeError:
            return {}
