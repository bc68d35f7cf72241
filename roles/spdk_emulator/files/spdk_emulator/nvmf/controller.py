"""What one connected host talks to: properties, admin commands, asynchronous events, keep alive.

Values and status codes are those of SPDK's target (recorded, or read in its ``lib/nvmf/ctrlr.c``); the structures are
laid out in ``nvme_tcp/nvme.py``.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import uuid as uuid_module
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ..bdev.models import Op
from ..nvme_tcp import nvme
from ..nvme_tcp.nvme import Admin, Cns, Command, Feature, Io, Lid, Property, Sc
from .subsystem import ANA_STATES, ANA_USABLE, Address, Namespace, Subsystem

if TYPE_CHECKING:
    from .connection import Connection
    from .models import Nvmf, TransportOptions

log = logging.getLogger(__name__)

FIRMWARE = b"26.05".ljust(8)
VERSION = 0x00020000
READY_TIMEOUT = 30
"""CAP.TO and CRTO.CRWMT, in units of 500 ms."""
EVENT_LIMIT = 4
ABORT_LIMIT = 4
DISCOVERY_KATO = 120_000
"""Milliseconds without a keep alive after which a discovery connection that asked for none is dropped."""
CHANGED_LIST_LIMIT = 1024
RESERVATION_LOG_LIMIT = 255
COPY_BUFFER = 132 << 10
"""Bytes of SPDK's large buffers."""
TOO_MANY_CHANGED = 0xFFFFFFFF

_CMIC_PORTS_AND_CONTROLLERS, _CMIC_ANA = 0x03, 0x08
_LPA_EFFECTS, _LPA_EXTENDED, _LPA_SUPPORTED_PAGES = 0x02, 0x04, 0x20
_SAVE = 1 << 31
"""SV in dword 10 of Set Features."""
_CSUPP, _LBCC, _CSCPE, _NSCPE = 1 << 0, 1 << 1, 1 << 21, 1 << 20
"""Bits of the command effects log (5.16.1.6): supported, changes data, scope controller, scope namespace."""
_BOTH_SCOPES = _CSUPP | _NSCPE | _CSCPE
_ADMIN_EFFECTS = {
    Admin.GET_LOG_PAGE: _BOTH_SCOPES,
    Admin.IDENTIFY: _BOTH_SCOPES,
    Admin.ABORT: _CSUPP | _CSCPE,
    Admin.SET_FEATURES: _BOTH_SCOPES,
    Admin.GET_FEATURES: _BOTH_SCOPES,
    Admin.ASYNC_EVENT_REQUEST: _CSUPP | _CSCPE,
    Admin.KEEP_ALIVE: _CSUPP | _CSCPE,
}
_IO_EFFECTS = {
    Io.FLUSH: (_CSUPP | _LBCC | _NSCPE, None),
    Io.WRITE: (_CSUPP | _LBCC | _NSCPE, None),
    Io.READ: (_CSUPP | _NSCPE, None),
    Io.COMPARE: (_CSUPP | _NSCPE, None),
    Io.WRITE_ZEROES: (_CSUPP | _LBCC | _NSCPE, Op.WRITE_ZEROES),
    Io.DATASET_MANAGEMENT: (_CSUPP | _LBCC | _NSCPE, Op.UNMAP),
    Io.RESERVATION_REGISTER: (_CSUPP | _NSCPE, None),
    Io.RESERVATION_REPORT: (_CSUPP | _NSCPE, None),
    Io.RESERVATION_ACQUIRE: (_CSUPP | _NSCPE, None),
    Io.RESERVATION_RELEASE: (_CSUPP | _NSCPE, None),
    Io.COPY: (_CSUPP | _LBCC | _NSCPE, None),
}
"""Effects, and the ability that every bdev of the subsystem needs for it."""

_STORED_FEATURES = {
    Feature.ARBITRATION: 0,
    Feature.POWER_MANAGEMENT: 0,
    Feature.TEMPERATURE_THRESHOLD: 0,
    Feature.ERROR_RECOVERY: 0,
    Feature.VOLATILE_WRITE_CACHE: 1,
    Feature.WRITE_ATOMICITY: 0,
}
"""Features without an effect here, that are remembered, with their defaults."""
_RESERVATION_FEATURES = (Feature.RESERVATION_NOTIFICATION_MASK, Feature.RESERVATION_PERSISTENCE)
_NAMESPACE_FEATURES = (Feature.ERROR_RECOVERY, Feature.WRITE_ATOMICITY, *_RESERVATION_FEATURES)
"""Features that SPDK does not take for the controller's own, whatever it does with them."""
_NOT_NAMESPACE_SPECIFIC = 0x00F
"""SPDK's status of a controller's feature that is set for a namespace: the code without its type (0x10F with it)."""


class Answer(NamedTuple):
    """What a command ends with: a status, dwords 0 and 1, and bytes for the host."""

    status: int = Sc.SUCCESS
    value: int = 0
    data: bytes | None = None


class Controller:
    """One association of a host with a subsystem; ``admin`` is its admin queue's connection."""

    def __init__(
        self,
        target: Nvmf,
        subsystem: Subsystem,
        admin: Connection,
        host_nqn: str,
        host_id: uuid_module.UUID,
        kato: int,
    ) -> None:
        """``kato`` is in milliseconds, 0 for none. Raises NvmfError(ENOSPC)."""
        self.target = target
        self.subsystem = subsystem
        self.options: TransportOptions = admin.options
        self.admin = admin
        self.address: Address = admin.address
        self.listener = subsystem.find_listener(self.address)
        self.host_nqn = host_nqn
        self.host_id = host_id
        self.queues: dict[int, Connection] = {0: admin}
        self.cc = 0
        self.csts = 0
        target.check_duplicate(self)
        self.cntlid = subsystem.free_cntlid()
        self.features: dict[int, int] = dict(_STORED_FEATURES)
        self._events: list[int] = []
        self._masked_events: set[int] = set()
        self._event_requests: list[int] = []
        """Command identifiers of waiting Asynchronous Event Requests."""
        self._changed_namespaces: list[int] = []
        self._reservation_log: list[dict[str, int]] = []
        """Reservation notifications that were not read, oldest first."""
        self._reservation_count = 0
        self._keep_alive: asyncio.TimerHandle | None = None
        self.kato = self._round_kato(kato)
        if subsystem.is_discovery:
            self.event_config = nvme.NOTICE_DISCOVERY if self.kato else 0
            self.kato = self.kato or DISCOVERY_KATO
        else:
            self.event_config = nvme.NOTICE_NAMESPACE | (nvme.NOTICE_ANA if subsystem.options.ana_reporting else 0)
        subsystem.controllers[self.cntlid] = self
        self._restart_keep_alive()

    # Life

    @property
    def enabled(self) -> bool:
        return bool(self.cc & nvme.CC_ENABLE)

    def destroy(self) -> None:
        """End the association and all its connections. May be called again."""
        if self.subsystem.controllers.get(self.cntlid) is self:
            del self.subsystem.controllers[self.cntlid]
        self._stop_keep_alive()
        for queue in list(self.queues.values()):
            queue.abort()
        self.queues.clear()

    def queue_closed(self, queue: Connection) -> None:
        """A connection is gone. Without its admin queue the controller is, too."""
        if self.queues.get(queue.qid) is queue:
            del self.queues[queue.qid]
        if queue is self.admin:
            self.destroy()

    def _disconnect_io_queues(self) -> None:
        for qid, queue in list(self.queues.items()):
            if qid:
                queue.abort()

    # Keep alive

    def _round_kato(self, kato: int) -> int:
        if kato == 0 or not self.options.kas:
            return 0
        step = self.options.kas * 100
        return self.options.min_kato if kato <= self.options.min_kato else -(-kato // step) * step

    def _restart_keep_alive(self) -> None:
        self._stop_keep_alive()
        if self.kato:
            self._keep_alive = asyncio.get_running_loop().call_later(self.kato / 1000, self._keep_alive_expired)

    def _stop_keep_alive(self) -> None:
        if self._keep_alive:
            self._keep_alive.cancel()
            self._keep_alive = None

    def _keep_alive_expired(self) -> None:
        log.warning(
            "host %s sent no keep alive to %s for %d ms: it is disconnected",
            self.host_nqn,
            self.subsystem.nqn,
            self.kato,
        )
        self.destroy()

    # Properties

    def property_get(self, offset: int, size: int) -> Answer:
        """``size`` is 0 for four bytes, 1 for eight (6.4)."""
        entries = self.options.max_queue_depth - 1
        values = {
            Property.CAP: entries | 1 << 16 | READY_TIMEOUT << 24 | 1 << 37 | 1 << 59,
            Property.VS: VERSION,
            Property.CC: self.cc,
            Property.CSTS: self.csts,
            Property.CRTO: READY_TIMEOUT,
        }
        if size == 1 and offset == Property.CAP:
            return Answer(value=values[Property.CAP])
        if size == 0 and offset == Property.CAP + 4:
            return Answer(value=values[Property.CAP] >> 32)
        if size == 0 and offset in values:
            return Answer(value=values[offset] & 0xFFFFFFFF)  # type: ignore[index]
        return Answer(Sc.CONNECT_INVALID_PARAMETERS)

    def property_set(self, offset: int, size: int, value: int) -> Answer:
        if size != 0 or offset != Property.CC:
            return Answer(Sc.CONNECT_INVALID_PARAMETERS)
        changed = value ^ self.cc
        if changed & nvme.CC_ENABLE:
            if value & nvme.CC_ENABLE:
                self.csts |= nvme.CSTS_READY
            else:
                self._disconnect_io_queues()
                self.csts = 0
        shutdown = value >> nvme.CC_SHN_SHIFT & 3
        if changed >> nvme.CC_SHN_SHIFT & 3:
            if shutdown == 3:
                return Answer(Sc.CONNECT_INVALID_PARAMETERS)
            if shutdown:
                self._disconnect_io_queues()
                self._stop_keep_alive()
                self.csts |= nvme.CSTS_SHUTDOWN_COMPLETE
        if changed & 0x3FF0:
            # Neither another command set, page size nor arbitration.
            return Answer(Sc.CONNECT_INVALID_PARAMETERS)
        self.cc = value
        return Answer()

    def accepts_io_queue(self, connection: Connection) -> bool:
        """The controller is ready for an I/O queue over this connection."""
        sizes = (self.cc >> nvme.CC_IOSQES_SHIFT & 15, self.cc >> nvme.CC_IOCQES_SHIFT & 15)
        return (
            self.enabled
            and not self.subsystem.is_discovery
            and sizes == (6, 4)
            and (not self.subsystem.options.ana_reporting or connection.address == self.address)
        )

    # Admin commands

    def execute(self, command: Command) -> Answer | None:
        """Do an admin command. None: it completes later (an Asynchronous Event Request)."""
        if not self.enabled:
            return Answer(Sc.SEQUENCE_ERROR)
        opcode = command.opcode
        if opcode == Admin.KEEP_ALIVE:
            self._restart_keep_alive()
            return Answer()
        if opcode == Admin.IDENTIFY:
            return self._identify(command)
        if opcode == Admin.GET_LOG_PAGE:
            return self._get_log_page(command)
        if opcode == Admin.SET_FEATURES:
            return self._set_features(command)
        if opcode == Admin.GET_FEATURES:
            return self._get_features(command)
        if opcode == Admin.ASYNC_EVENT_REQUEST:
            return self._async_event_request(command)
        if opcode == Admin.ABORT and not self.subsystem.is_discovery:
            return self._abort(command)
        return Answer(Sc.INVALID_OPCODE)

    def _abort(self, command: Command) -> Answer:
        """Dword 0, bit 0 set: not aborted. What is already with a bdev is not called back."""
        queue = self.queues.get(command.cdw10 & 0xFFFF)
        return Answer(value=0 if queue and queue.abort_command(command.cdw10 >> 16) else 1)

    # Identify

    def _identify(self, command: Command) -> Answer:
        if command.sgl_length < nvme.PAGE_SIZE:
            return Answer(Sc.INVALID_FIELD)
        cns = command.cdw10 & 0xFF
        if cns == Cns.CONTROLLER:
            return Answer(data=self.identify_controller())
        if self.subsystem.is_discovery:
            return Answer(Sc.INVALID_FIELD)
        if cns == Cns.NAMESPACE:
            return self._identify_namespace(command.nsid)
        if cns == Cns.ACTIVE_NAMESPACES:
            return self._active_namespaces(command.nsid)
        if cns == Cns.NAMESPACE_DESCRIPTORS:
            return self._namespace_descriptors(command.nsid)
        command_set = command.cdw11 >> 24
        if cns == Cns.ACTIVE_NAMESPACES_OF_COMMAND_SET:
            return self._active_namespaces(command.nsid) if command_set == 0 else Answer(Sc.INVALID_FIELD)
        if cns == Cns.CONTROLLER_OF_COMMAND_SET:
            options = self.subsystem.options
            limits = {"wzsl": options.wzsl, "dmrl": 1, "dmrsl": options.dmrsl, "dmsl": options.dmrsl}
            return Answer(data=nvme.IDENTIFY_CONTROLLER_NVM.pack(**limits) if command_set == 0 else bytes(4096))
        if cns == Cns.NAMESPACE_OF_COMMAND_SET:
            known = command.nsid in self.subsystem.namespaces
            return Answer(data=bytes(4096)) if known else Answer(Sc.INVALID_NAMESPACE)
        if cns == Cns.NAMESPACE_INDEPENDENT:
            if not 1 <= command.nsid <= self.subsystem.options.max_namespaces:
                return Answer(Sc.INVALID_NAMESPACE)
            namespace = self.namespace(command.nsid)
            layout = nvme.IDENTIFY_NAMESPACE_INDEPENDENT
            if namespace is None:
                return Answer(data=bytes(4096))
            rescap = namespace.reservations.capabilities
            return Answer(data=layout.pack(nmic=1, rescap=rescap, anagrpid=namespace.anagrpid, nstat=1))
        return Answer(Sc.INVALID_FIELD)

    def identify_controller(self) -> bytes:
        options, subsystem = self.options, self.subsystem
        fields = {
            "fr": FIRMWARE,
            "mdts": (options.max_io_size // nvme.PAGE_SIZE).bit_length() - 1,
            "cntlid": self.cntlid,
            "ver": VERSION,
            "aerl": EVENT_LIMIT - 1,
            "lpa": _LPA_EXTENDED,
            "elpe": 127,
            "wctemp": 0x0157,
            "cctemp": 0x0175,
            "maxcmd": options.max_queue_depth,
            "fuses": nvme.FUSES_COMPARE_AND_WRITE,
            "sgls": 0x00100005,
            "subnqn": subsystem.nqn.encode(),
        }
        if subsystem.is_discovery:
            fields |= {"oaes": nvme.NOTICE_DISCOVERY, "cntrltype": 2}
            return nvme.IDENTIFY_CONTROLLER.pack(**fields)
        ana = subsystem.options.ana_reporting
        crdt1, crdt2, crdt3 = self.target.crdt
        fields |= {
            "vid": 0x8086,
            "ssvid": 0x8086,
            "sn": subsystem.options.serial_number.encode().ljust(20),
            "mn": subsystem.options.model_number.encode().ljust(40),
            "ieee": b"\xe4\xd2\x5c",
            "rab": 6,
            "cmic": _CMIC_PORTS_AND_CONTROLLERS | (_CMIC_ANA if ana else 0),
            "oaes": nvme.NOTICE_NAMESPACE | (nvme.NOTICE_ANA if ana else 0),
            "ctratt": 1,
            "cntrltype": 1,
            "crdt1": crdt1,
            "crdt2": crdt2,
            "crdt3": crdt3,
            "acl": ABORT_LIMIT - 1,
            "frmw": 3,
            "lpa": _LPA_EFFECTS | _LPA_EXTENDED | _LPA_SUPPORTED_PAGES,
            "kas": options.kas,
            "sqes": 0x66,
            "cqes": 0x44,
            "nn": subsystem.options.max_namespaces,
            "oncs": self._optional_commands(),
            "vwc": 5,
            "ocfs": 1,
            "ioccsz": (64 + options.in_capsule_data_size) // 16,
            "iorcsz": 1,
            "msdbd": 1,
        }
        if ana:
            groups = subsystem.options.max_namespaces
            fields |= {"anatt": 10, "anacap": 0x47, "anagrpmax": groups, "nanagrpid": groups, "mnan": groups}
        return nvme.IDENTIFY_CONTROLLER.pack(**fields)

    def _optional_commands(self) -> int:
        return (
            nvme.ONCS_COMPARE
            | (nvme.ONCS_DATASET_MANAGEMENT if self.subsystem.supports(Op.UNMAP) else 0)
            | (nvme.ONCS_WRITE_ZEROES if self.subsystem.supports(Op.WRITE_ZEROES) else 0)
            | nvme.ONCS_RESERVATIONS
            | nvme.ONCS_COPY
        )

    def namespace(self, nsid: int) -> Namespace | None:
        """The namespace, if this host may see it."""
        namespace = self.subsystem.namespaces.get(nsid)
        return namespace if namespace and namespace.is_visible_to(self.host_nqn) else None

    def ana_state(self, anagrpid: int) -> str:
        """What the listener that the host came through says of a group."""
        return self.listener.ana_states[anagrpid - 1] if self.listener else "optimized"

    def is_usable(self, namespace: Namespace) -> bool:
        """The ANA state lets I/O through."""
        return self.ana_state(namespace.anagrpid) in ANA_USABLE

    def _identify_namespace(self, nsid: int) -> Answer:
        if not 1 <= nsid <= self.subsystem.options.max_namespaces:
            return Answer(Sc.INVALID_NAMESPACE)
        namespace = self.namespace(nsid)
        if namespace is None:
            return Answer(data=bytes(nvme.PAGE_SIZE))
        bdev = namespace.bdev
        physical = getattr(bdev, "physical_block_size", bdev.block_size)
        unit = max(physical // bdev.block_size, 1) - 1
        ana = self.subsystem.options.ana_reporting
        write_alignment, write_granularity, optimal = bdev.write_granularity
        unmap_alignment, unmap_granularity = bdev.unmap_granularity

        def zero_based(blocks: int, otherwise: int) -> int:
            return blocks - 1 if blocks else otherwise

        granularity = zero_based(write_granularity, unit)
        # SPDK copies through a buffer where a bdev cannot copy by itself.
        most_copied = 0xFFFF if "copy" in bdev.also_supported else COPY_BUFFER // bdev.block_size
        return Answer(
            data=nvme.IDENTIFY_NAMESPACE.pack(
                nsze=bdev.num_blocks,
                ncap=bdev.num_blocks,
                nuse=bdev.num_blocks if not ana or self.is_usable(namespace) else 0,
                nsfeat=0x12,
                nmic=1,
                rescap=namespace.reservations.capabilities,
                nawupf=granularity,
                nacwu=bdev.acwu - 1,
                noiob=min(getattr(bdev, "optimal_io_boundary", 0), self.options.max_io_size // bdev.block_size),
                npwg=granularity,
                npwa=zero_based(write_alignment, granularity),
                npdg=zero_based(unmap_granularity, granularity),
                npda=zero_based(unmap_alignment, granularity),
                nows=zero_based(optimal, self.options.max_io_size // bdev.block_size - 1),
                mssrl=most_copied,
                mcl=most_copied,
                anagrpid=namespace.anagrpid if ana else 0,
                nguid=namespace.nguid,
                eui64=namespace.eui64,
                lbaf0_lbads=bdev.block_size.bit_length() - 1,
            )
        )

    def _active_namespaces(self, after: int) -> Answer:
        if after >= 0xFFFFFFFE:
            return Answer(Sc.INVALID_NAMESPACE)
        namespaces = self.subsystem.namespaces.values()
        return Answer(
            data=nvme.namespace_list(
                namespace.nsid
                for namespace in namespaces
                if namespace.nsid > after and namespace.is_visible_to(self.host_nqn)
            )
        )

    def _namespace_descriptors(self, nsid: int) -> Answer:
        if not 1 <= nsid <= self.subsystem.options.max_namespaces:
            return Answer(Sc.INVALID_NAMESPACE)
        namespace = self.namespace(nsid)
        if namespace is None:
            return Answer(Sc.INVALID_FIELD)
        descriptors = (
            (nvme.DESCRIPTOR_EUI64, namespace.eui64),
            (nvme.DESCRIPTOR_NGUID, namespace.nguid),
            (nvme.DESCRIPTOR_UUID, namespace.uuid.bytes),
        )
        return Answer(data=nvme.namespace_descriptors((kind, value) for kind, value in descriptors if any(value)))

    # Features

    def _set_features(self, command: Command) -> Answer:
        feature, value = command.cdw10 & 0xFF, command.cdw11
        if command.cdw10 & _SAVE:
            return Answer(Sc.FEATURE_NOT_SAVEABLE)
        if command.nsid > self.subsystem.options.max_namespaces and command.nsid != nvme.BROADCAST_NSID:
            return Answer(Sc.INVALID_NAMESPACE)
        if self._is_out_of_reach(feature, command.nsid):
            return Answer(Sc.ANA_INACCESSIBLE)
        for_namespace = 0 < command.nsid < self.subsystem.options.max_namespaces and not self.subsystem.is_discovery
        if for_namespace and feature in self._known_features() and feature not in _NAMESPACE_FEATURES:
            return Answer(_NOT_NAMESPACE_SPECIFIC)
        if feature == Feature.KEEP_ALIVE_TIMER:
            if value == 0:
                return Answer(Sc.KEEP_ALIVE_INVALID)
            self.kato = self._round_kato(value)
            self._restart_keep_alive()
            return Answer()
        if feature == Feature.ASYNC_EVENT_CONFIGURATION:
            self.event_config = value
            return Answer()
        if self.subsystem.is_discovery:
            return Answer(Sc.INVALID_FIELD)
        if feature == Feature.NUMBER_OF_QUEUES:
            if value & 0xFFFF == 0xFFFF or value >> 16 == 0xFFFF:
                return Answer(Sc.INVALID_FIELD)
            if len(self.queues) > 1:
                return Answer(Sc.SEQUENCE_ERROR)
            return Answer(value=self._number_of_queues())
        if feature == Feature.INTERRUPT_COALESCING:
            return Answer(Sc.FEATURE_NOT_CHANGEABLE)
        if feature in self.features:
            self.features[feature] = value
            return Answer()
        if feature == Feature.HOST_BEHAVIOR_SUPPORT:
            return Answer()
        if feature == Feature.HOST_IDENTIFIER:
            return Answer(Sc.SEQUENCE_ERROR)
        if feature in _RESERVATION_FEATURES:
            return self._set_reservation_feature(feature, command.nsid, value)
        return Answer(Sc.INVALID_FIELD)

    def _set_reservation_feature(self, feature: int, nsid: int, value: int) -> Answer:
        namespace = self.namespace(nsid)
        chosen = [namespace] if namespace else []
        if nsid == nvme.BROADCAST_NSID:
            chosen = list(self.subsystem.namespaces.values())
        elif namespace is None:
            return Answer(Sc.INVALID_FIELD)
        if feature == Feature.RESERVATION_NOTIFICATION_MASK:
            for each in chosen:
                each.reservations.notification_mask = value
            return Answer()
        if namespace and not namespace.reservations.can_persist:
            return Answer(Sc.INVALID_FIELD)
        for each in chosen:
            if each.reservations.can_persist:
                each.reservations.persists = bool(value & 1)
        # SPDK says so, and has done it.
        return Answer(Sc.FEATURE_NOT_SAVEABLE)

    def _is_out_of_reach(self, feature: int, nsid: int) -> bool:
        """A feature of a namespace that this host cannot reach here."""
        namespace = self.namespace(nsid) if feature in _NAMESPACE_FEATURES else None
        return namespace is not None and not self.is_usable(namespace)

    def _get_features(self, command: Command) -> Answer:
        feature = command.cdw10 & 0xFF
        if command.nsid > self.subsystem.options.max_namespaces and command.nsid != nvme.BROADCAST_NSID:
            return Answer(Sc.INVALID_NAMESPACE)
        if self._is_out_of_reach(feature, command.nsid):
            return Answer(Sc.ANA_INACCESSIBLE)
        if feature == Feature.KEEP_ALIVE_TIMER:
            return Answer(value=self.kato)
        if feature == Feature.ASYNC_EVENT_CONFIGURATION:
            return Answer(value=self.event_config)
        if self.subsystem.is_discovery:
            return Answer(Sc.INVALID_FIELD)
        if feature == Feature.NUMBER_OF_QUEUES:
            return Answer(value=self._number_of_queues())
        if feature == Feature.INTERRUPT_COALESCING:
            return Answer()
        if feature == Feature.INTERRUPT_VECTOR_CONFIGURATION:
            return Answer(value=command.cdw11 & 0xFFFF | 1 << 16)
        if feature in self.features:
            return Answer(value=self.features[feature])
        if feature == Feature.HOST_IDENTIFIER and command.cdw11 & 1 and command.sgl_length >= len(self.host_id.bytes):
            return Answer(data=self.host_id.bytes)
        namespace = self.namespace(command.nsid)
        if feature in _RESERVATION_FEATURES and namespace:
            state = namespace.reservations
            is_mask = feature == Feature.RESERVATION_NOTIFICATION_MASK
            return Answer(value=state.notification_mask if is_mask else int(state.persists))
        return Answer(Sc.INVALID_FIELD)

    def _number_of_queues(self) -> int:
        """Submission and completion queues, counted from zero, without the admin queue."""
        return (self.options.max_io_qpairs_per_ctrlr - 1) * 0x10001

    # Log pages

    def _get_log_page(self, command: Command) -> Answer:
        lid = command.cdw10 & 0xFF
        keep_event = bool(command.cdw10 & 1 << 15)
        length = ((command.cdw11 & 0xFFFF) << 16 | command.cdw10 >> 16) * 4 + 4
        offset = command.cdw12 | command.cdw13 << 32
        if offset & 3 or length > command.sgl_length:
            return Answer(Sc.INVALID_FIELD)
        pages = self._discovery_log_pages() if self.subsystem.is_discovery else self._log_pages()
        if lid not in pages:
            return Answer(Sc.INVALID_LOG_PAGE)
        if lid == Lid.RESERVATION_NOTIFICATION and not self._reservation_log:
            return Answer(data=bytes(length))
        groups_only = lid == Lid.ANA and command.cdw10 & 1 << 8
        page = self._ana_log(groups_only=True) if groups_only else pages[lid]()
        if offset >= len(page):
            return Answer(Sc.INVALID_FIELD)
        if lid == Lid.CHANGED_NAMESPACES:
            self._changed_namespaces.clear()
        if lid == Lid.RESERVATION_NOTIFICATION:
            # What was read is no longer there, however that was.
            del self._reservation_log[: -(-(offset + length) // nvme.RESERVATION_NOTIFICATION.size)]
        if not keep_event:
            self._masked_events = {event for event in self._masked_events if event >> 16 != lid}
        return Answer(data=page[offset : offset + length])

    def _discovery_log_pages(self) -> dict[int, Callable[[], bytes]]:
        return {
            Lid.SUPPORTED_LOG_PAGES: self._supported_log_pages,
            Lid.FEATURE_EFFECTS: self._feature_effects,
            Lid.DISCOVERY: lambda: self.target.discovery_log(self.host_nqn, self.address),
        }

    def _log_pages(self) -> dict[int, Callable[[], bytes]]:
        """What there is, each as a function that makes the page."""
        pages = {
            Lid.SUPPORTED_LOG_PAGES: self._supported_log_pages,
            Lid.ERROR: lambda: bytes(64 * 128),
            Lid.HEALTH: lambda: bytes(512),
            Lid.FIRMWARE_SLOT: lambda: (b"\x01" + bytes(7) + FIRMWARE).ljust(512, b"\0"),
            Lid.CHANGED_NAMESPACES: lambda: nvme.namespace_list(self._changed_namespaces),
            Lid.COMMAND_EFFECTS: self._command_effects,
            Lid.FEATURE_EFFECTS: self._feature_effects,
            Lid.MI_COMMAND_EFFECTS: lambda: bytes(4096),
            Lid.RESERVATION_NOTIFICATION: self._reservation_log_pages,
        }
        if self.subsystem.options.ana_reporting:
            pages[Lid.ANA] = self._ana_log
        return pages

    def _supported_log_pages(self) -> bytes:
        pages = self._discovery_log_pages() if self.subsystem.is_discovery else self._log_pages()
        return struct.pack("<256I", *(int(lid in pages) for lid in range(256)))

    def _command_effects(self) -> bytes:
        admin, io = [0] * 256, [0] * 256
        for opcode, effects in _ADMIN_EFFECTS.items():
            admin[opcode] = effects
        for opcode, (effects, op) in _IO_EFFECTS.items():
            io[opcode] = effects if op is None or self.subsystem.supports(op) else 0
        return struct.pack("<512I", *admin, *io).ljust(4096, b"\0")

    def _known_features(self) -> set[int]:
        known = {Feature.KEEP_ALIVE_TIMER, Feature.ASYNC_EVENT_CONFIGURATION}
        if not self.subsystem.is_discovery:
            known |= {*self.features, Feature.NUMBER_OF_QUEUES, Feature.INTERRUPT_COALESCING}
            known |= {Feature.INTERRUPT_VECTOR_CONFIGURATION, Feature.HOST_IDENTIFIER, Feature.HOST_BEHAVIOR_SUPPORT}
            known |= set(_RESERVATION_FEATURES)
        return known

    def _feature_effects(self) -> bytes:
        page = [0] * 256
        for feature in self._known_features():
            page[feature] = _CSUPP | (_NSCPE if feature in _RESERVATION_FEATURES else _CSCPE)
        return struct.pack("<256I", *page)

    def _reservation_log_pages(self) -> bytes:
        return b"".join(nvme.RESERVATION_NOTIFICATION.pack(**notice) for notice in self._reservation_log)

    def _ana_log(self, groups_only: bool = False) -> bytes:
        """Every group that has a namespace, and its state at this host's listener (5.16.1.13)."""
        groups: dict[int, list[int]] = {}
        for namespace in self.subsystem.namespaces.values():
            groups.setdefault(namespace.anagrpid, []).append(namespace.nsid)
        page = [struct.pack("<QH6x", 0, len(groups))]
        for group, nsids in sorted(groups.items()):
            listed = [] if groups_only else nsids
            state = ANA_STATES[self.ana_state(group)]
            page.append(struct.pack(f"<IIQB15x{len(listed)}I", group, len(listed), 0, state, *listed))
        return b"".join(page)

    # Events

    def _async_event_request(self, command: Command) -> Answer | None:
        if len(self._event_requests) >= EVENT_LIMIT:
            return Answer(Sc.AER_LIMIT_EXCEEDED)
        if self._events:
            return Answer(value=self._events.pop(0))
        self._event_requests.append(command.cid)
        return None

    def abort_event_request(self, cid: int) -> bool:
        """Forget a waiting Asynchronous Event Request."""
        if cid not in self._event_requests:
            return False
        self._event_requests.remove(cid)
        return True

    def namespace_changed(self, nsid: int) -> None:
        """A namespace came, went or changed its size: note it and tell the host, if it wants to know."""
        changed = self._changed_namespaces
        if changed != [TOO_MANY_CHANGED] and nsid not in changed:
            changed.append(nsid)
            if len(changed) > CHANGED_LIST_LIMIT:
                changed[:] = [TOO_MANY_CHANGED]
        self._tell(nvme.EVENT_NAMESPACE_CHANGED, nvme.NOTICE_NAMESPACE)

    def reservation_changed(self, nsid: int, kind: int) -> None:
        """Note it for the host; ``kind`` as :class:`~.reservations.Notice`. Where there is no room, the last page
        tells how many there were."""
        self._reservation_count += 1
        waiting = len(self._reservation_log)
        if waiting == RESERVATION_LOG_LIMIT:
            self._reservation_log[-1]["count"] = self._reservation_count
            return
        notice = {"count": self._reservation_count, "kind": kind, "available": waiting, "nsid": nsid}
        self._reservation_log.append(notice)
        self._tell(nvme.EVENT_RESERVATION)

    def ana_changed(self) -> None:
        self._tell(nvme.EVENT_ANA_CHANGED, nvme.NOTICE_ANA)

    def discovery_changed(self) -> None:
        self._tell(nvme.EVENT_DISCOVERY_CHANGED, nvme.NOTICE_DISCOVERY)

    def _tell(self, event: int, notice: int | None = None) -> None:
        """Report an event once; it is not reported again until its log page was read.

        ``notice``: the bit of the asynchronous event configuration that it depends on, if it does.
        """
        if notice is not None and not self.event_config & notice or event in self._masked_events:
            return
        self._masked_events.add(event)
        if self._event_requests:
            self.admin.complete(self._event_requests.pop(), value=event)
        else:
            self._events.append(event)
