"""The targets of one process: transport, subsystems, listening sockets, referrals, and who serves the connections."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..bdev.models import BdevRegistry
from ..framework.threads import APP_THREAD, Poller, Thread, Threads
from ..nvme_tcp import nvme
from . import describe
from .connection import Connection
from .subsystem import FILTER_FIELDS, Address, NvmfError, Subsystem, SubsystemOptions, is_valid_nqn

if TYPE_CHECKING:
    from ..app import App
    from .controller import Controller

log = logging.getLogger(__name__)

MAIN_TARGET = "nvmf_tgt"
NAME_LIMIT = 255
"""Characters of a target's name; SPDK drops those beyond."""
DYNAMIC_CACHE = 0xFFFFFFFF
"""The size of a cache of buffers that depends on the pool."""
DEFAULT_MAX_SUBSYSTEMS = 1024
MOST_SUBSYSTEMS = 2**32 - 64
"""More would overflow what SPDK counts the bits of its table of identifiers with."""
IP_VERSIONS = {"IPv4": socket.AF_INET, "IPv6": socket.AF_INET6}


@dataclass
class TransportOptions:
    """A transport as ``nvmf_get_transports`` shows it. ``kas`` is in 100 ms, ``min_kato`` in milliseconds.

    What steers the data path here: queue depths, number of queues, sizes, ``c2h_success``, ``kas`` and ``min_kato``;
    the others are kept and shown.
    """

    trtype: str = "TCP"
    max_queue_depth: int = 128
    max_io_qpairs_per_ctrlr: int = 127
    in_capsule_data_size: int = 4096
    max_io_size: int = 131072
    io_unit_size: int = 131072
    max_aq_depth: int = 128
    iobuf_small_cache_size: int = DYNAMIC_CACHE
    iobuf_large_cache_size: int = DYNAMIC_CACHE
    dif_insert_or_strip: bool = False
    zcopy: bool = False
    c2h_success: bool = True
    sock_priority: int = 0
    abort_timeout_sec: int = 1
    ack_timeout: int = 0
    data_wr_pool_size: int = 0
    disable_command_passthru: bool = False
    kas: int = 100
    min_kato: int = 10000
    acceptor_poll_rate: int = 10000
    """Microseconds, for ``thread_get_pollers``: a connection is accepted at once."""


@dataclass
class Config:
    """What may only be said before the framework starts."""

    discovery_filter: frozenset[str] = frozenset()
    """Of ``transport``, ``address`` and ``svcid``: in what the log's listeners agree with the one that was asked."""
    dhchap_digests: list[str] = field(default_factory=lambda: ["sha256", "sha384", "sha512"])
    dhchap_dhgroups: list[str] = field(
        default_factory=lambda: ["null", "ffdhe2048", "ffdhe3072", "ffdhe4096", "ffdhe6144", "ffdhe8192"]
    )
    max_subsystems: int | None = None
    """None: nobody has said anything."""
    crdt: tuple[int, int, int] = (0, 0, 0)
    """Command retry delay times, in 100 ms."""
    dup_host_policy: str = "allow"
    """``restrict_per_listener``: a host has one controller of a subsystem at each listener."""
    poll_groups: frozenset[int] | None = None
    """The cores that have a poll group; None: all."""


@dataclass
class Referral:
    """Another discovery service, or subsystem, that ours points to."""

    address: Address
    subnqn: str = nvme.DISCOVERY_NQN
    secure_channel: bool = False


@dataclass
class Stats:
    """Queue pairs and I/O since the start."""

    admin_qpairs: int = 0
    io_qpairs: int = 0
    current_admin_qpairs: int = 0
    current_io_qpairs: int = 0
    io: int = 0

    def connected(self, qid: int) -> None:
        if qid:
            self.io_qpairs += 1
            self.current_io_qpairs += 1
        else:
            self.admin_qpairs += 1
            self.current_admin_qpairs += 1

    def disconnected(self, qid: int) -> None:
        if qid:
            self.current_io_qpairs -= 1
        else:
            self.current_admin_qpairs -= 1


@dataclass(eq=False)
class PollGroup:
    """The queue pairs that a thread serves, in the order in which they came."""

    thread: Thread
    stats: Stats = field(default_factory=Stats)
    connections: dict[Connection, None] = field(default_factory=dict)


class Refusal(asyncio.Protocol):
    """A connection to a target that has no poll group."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        log.error("no poll groups exist: a connection is closed")
        transport.close()


class Nvmf:
    """An NVMe-oF target."""

    def __init__(self, bdevs: BdevRegistry, config: Config, name: str = MAIN_TARGET) -> None:
        self.name = name
        self.bdevs = bdevs
        self.config = config
        self.transport: TransportOptions | None = None
        self.subsystems: dict[str, Subsystem] = {}
        self.referrals: list[Referral] = []
        self.groups: list[PollGroup] = []
        """Those of a process are one target's. Connections go to them in turn."""
        self._connections = 0
        self._thread_table: Threads | None = None
        """Of a target that has poll groups."""
        self._portals: dict[Address, asyncio.Server] = {}
        self._opening = asyncio.Lock()
        self._discovery_generation = 0

    def __iter__(self) -> Iterator[Subsystem]:
        """Every subsystem, by NQN."""
        return iter(sorted(self.subsystems.values(), key=lambda subsystem: subsystem.nqn))

    async def shutdown(self) -> None:
        """Stop listening and end all connections."""
        self.stop_listening()
        for subsystem in list(self.subsystems.values()):
            subsystem.destroy()
        for connection in self.connections:
            connection.abort()

    def stop_listening(self) -> None:
        for portal in list(self._portals):
            self._close_portal(portal)

    # Who serves

    def add_poll_groups(self, threads: Threads) -> None:
        """One for each core that shall have one, on a thread of its own."""
        cores = [core for core in threads.cores if self.config.poll_groups is None or core in self.config.poll_groups]
        self._thread_table = threads
        for number in range(len(cores)):
            name = f"nvmf_tgt_poll_group_{number:03}"
            self.groups.append(PollGroup(threads.create(name, self.config.poll_groups)))

    @property
    def threads(self) -> tuple[int, ...]:
        """Of its poll groups; each has a channel to every bdev of a namespace."""
        return tuple(group.thread.number for group in self.groups)

    @property
    def connections(self) -> list[Connection]:
        return [connection for group in self.groups for connection in group.connections]

    def buffer_caches(self, pools: Mapping[str, int]) -> dict[str, int]:
        """How many small and large I/O buffers each poll group keeps, as SPDK computes it: half of the pools together,
        where nobody has said anything."""
        options = self.transport
        if options is None or not self.groups:
            return {"small": 0, "large": 0}
        wanted = {"small": options.iobuf_small_cache_size, "large": options.iobuf_large_cache_size}
        return {
            size: pools[f"{size}_pool_count"] // 2 // len(self.groups) if given == DYNAMIC_CACHE else given
            for size, given in wanted.items()
        }

    def pollers(self, thread: Thread, sleeps: bool) -> Iterator[Poller]:
        """What SPDK polls on that thread. ``sleeps``: it is in interrupt mode."""
        transport = self.transport
        if transport and thread.number == APP_THREAD:
            period = 0 if sleeps else transport.acceptor_poll_rate
            yield Poller(self, "nvmf_tcp_accept", period, work=self._connections)
        if thread.number not in self.threads:
            return
        if transport:
            yield Poller(self, f"nvmf_{transport.trtype}")
        for subsystem in self:
            for controller in subsystem.controllers.values():
                if controller.kato and controller.admin.group.thread is thread:
                    yield Poller(controller, "nvmf_ctrlr_keep_alive_poll", controller.kato * 1000)

    # Transport and subsystems

    @property
    def crdt(self) -> tuple[int, int, int]:
        return self.config.crdt

    @property
    def max_subsystems(self) -> int:
        return self.config.max_subsystems or DEFAULT_MAX_SUBSYSTEMS

    def create_transport(self, options: TransportOptions) -> None:
        """Raises NvmfError(EEXIST)."""
        if self.transport:
            raise NvmfError(errno.EEXIST, f"Transport type '{options.trtype}' already exists")
        self.transport = options
        if self._thread_table:
            self._thread_table.look()

    def subsystem(self, nqn: str) -> Subsystem:
        """Raises NvmfError(ENODEV)."""
        subsystem = self.subsystems.get(nqn)
        if subsystem is None:
            raise NvmfError(errno.ENODEV, f"there is no subsystem {nqn}")
        return subsystem

    def add_discovery(self) -> None:
        """The discovery subsystem, which a target has from the beginning or not at all."""
        self.subsystems[nvme.DISCOVERY_NQN] = Subsystem(
            nvme.DISCOVERY_NQN, self.bdevs, self._discovery_changed, allow_any_host=True, is_discovery=True
        )

    def create_subsystem(self, nqn: str, options: SubsystemOptions, allow_any_host: bool = False) -> Subsystem:
        """Raises NvmfError: EINVAL for what is no NQN, EEXIST, ENOSPC."""
        if not is_valid_nqn(nqn):
            raise NvmfError(errno.EINVAL, f"{nqn} is no NQN")
        if nqn in self.subsystems:
            raise NvmfError(errno.EEXIST, f"subsystem {nqn} exists")
        if len(self.subsystems) >= self.max_subsystems:
            raise NvmfError(errno.ENOSPC, f"there are {len(self.subsystems)} subsystems, which is the limit")
        subsystem = Subsystem(nqn, self.bdevs, self._discovery_changed, options, allow_any_host, threads=self.threads)
        self.subsystems[nqn] = subsystem
        return subsystem

    def delete_subsystem(self, nqn: str) -> None:
        """Raises NvmfError(ENODEV)."""
        subsystem = self.subsystem(nqn)
        del self.subsystems[nqn]
        addresses = [listener.address for listener in subsystem.listeners]
        subsystem.listeners.clear()
        subsystem.destroy()
        for address in addresses:
            self._release_portal(address)
        self._discovery_changed()

    def check_duplicate(self, controller: Controller) -> None:
        """Raises NvmfError(EEXIST) for a controller that the host may not have beside another one."""
        subsystem = controller.subsystem
        if self.config.dup_host_policy == "allow" or subsystem.is_discovery:
            return
        for other in subsystem.controllers.values():
            if other.listener is controller.listener and other.host_id == controller.host_id:
                raise NvmfError(errno.EEXIST, f"host ID {other.host_id} has controller {other.cntlid} there already")

    # Listening

    async def add_listener(
        self, subsystem: Subsystem, address: Address, ana_state: str = "optimized", secure_channel: bool = False
    ) -> None:
        """Let hosts reach the subsystem there. Several subsystems share a socket where they share an address.

        Raises NvmfError: EEXIST; EINVAL for what cannot be listened at.
        """
        if self.transport is None or address.trtype != self.transport.trtype:
            raise NvmfError(errno.EINVAL, f"there is no transport {address.trtype}")
        if subsystem.find_listener(address):
            raise NvmfError(errno.EEXIST, f"{subsystem.nqn} listens at {address} already")
        # Of two subsystems that want one address at once, the second finds the first one's socket.
        async with self._opening:
            await self._open_portal(address)
        subsystem.add_listener(address, ana_state, secure_channel)

    def remove_listener(self, subsystem: Subsystem, address: Address) -> None:
        """Raises NvmfError(ENOENT)."""
        subsystem.remove_listener(address)
        self._release_portal(address)

    async def _open_portal(self, address: Address) -> None:
        if address in self._portals:
            return
        options = self.transport
        assert options is not None
        try:
            port = int(address.trsvcid)
            socket.inet_pton(IP_VERSIONS[address.adrfam], address.traddr)
            if not 0 < port < 65536:
                raise ValueError(f"{port} is no TCP port")
            portal = await asyncio.get_running_loop().create_server(
                lambda: self._accept(options, address), address.traddr, port, backlog=512, reuse_address=True
            )
        except (OSError, ValueError, KeyError) as error:
            raise NvmfError(errno.EINVAL, f"cannot listen at {address.traddr}:{address.trsvcid}: {error}") from error
        self._portals[address] = portal

    def _accept(self, options: TransportOptions, address: Address) -> asyncio.Protocol:
        if not self.groups:
            return Refusal()
        group = self.groups[self._connections % len(self.groups)]
        self._connections += 1
        if self._thread_table:
            self._thread_table.look_soon()
        return Connection(self, options, address, group)

    def _release_portal(self, address: Address) -> None:
        """Stop listening at an address that no subsystem uses any more."""
        if not any(subsystem.find_listener(address) for subsystem in self.subsystems.values()):
            self._close_portal(address)

    def _close_portal(self, address: Address) -> None:
        portal = self._portals.pop(address, None)
        if portal:
            portal.close()
        for connection in self.connections:
            if connection.address == address:
                connection.abort()

    # Discovery

    def add_referral(self, referral: Referral) -> None:
        """Raises NvmfError(EEXIST)."""
        if self._find_referral(referral.address, referral.subnqn):
            raise NvmfError(errno.EEXIST)
        self.referrals.append(referral)
        self._discovery_changed()

    def remove_referral(self, address: Address, subnqn: str) -> None:
        """Raises NvmfError(ENOENT)."""
        referral = self._find_referral(address, subnqn)
        if referral is None:
            raise NvmfError(errno.ENOENT)
        self.referrals.remove(referral)
        self._discovery_changed()

    def _find_referral(self, address: Address, subnqn: str) -> Referral | None:
        return next((made for made in self.referrals if (made.address, made.subnqn) == (address, subnqn)), None)

    def _discovery_changed(self) -> None:
        self._discovery_generation += 1
        discovery = self.subsystems.get(nvme.DISCOVERY_NQN)  # who does not want it may delete it
        for controller in list(discovery.controllers.values()) if discovery else []:
            controller.discovery_changed()

    def discovery_log(self, host_nqn: str, asked_at: Address) -> bytes:
        """The discovery log page (base specification, 5.16.1.23) as this host may see it through that listener."""
        compared = [index for name, index in FILTER_FIELDS.items() if name in self.config.discovery_filter]
        entries = []
        for subsystem in self:
            if not subsystem.admits(host_nqn):
                continue
            kind = nvme.SUBTYPE_CURRENT_DISCOVERY if subsystem.is_discovery else nvme.SUBTYPE_NVME
            flags = nvme.EFLAGS_CURRENT_DISCOVERY if subsystem.is_discovery else 0
            for listener in subsystem.listeners:
                address = listener.address
                if all(address[index] == asked_at[index] for index in compared):
                    secure = listener.secure_channel
                    entries.append(self._discovery_entry(address, subsystem.nqn, kind, secure, listener.portid, flags))
        for referral in self.referrals:
            kind = nvme.SUBTYPE_DISCOVERY if referral.subnqn == nvme.DISCOVERY_NQN else nvme.SUBTYPE_NVME
            entries.append(self._discovery_entry(referral.address, referral.subnqn, kind, referral.secure_channel))
        header = nvme.DISCOVERY_HEADER.pack(genctr=self._discovery_generation, numrec=len(entries))
        return b"".join((header, *entries))

    def _discovery_entry(
        self, address: Address, subnqn: str, kind: int, secure_channel: bool, portid: int = 0, flags: int = 0
    ) -> bytes:
        return nvme.DISCOVERY_ENTRY.pack(
            trtype=nvme.TRTYPE_TCP,
            adrfam=nvme.ADRFAM[address.adrfam],
            subtype=kind,
            treq=nvme.TREQ_SECURE_CHANNEL if secure_channel else nvme.TREQ_NO_SECURE_CHANNEL,
            portid=portid,
            cntlid=nvme.DYNAMIC_CNTLID,
            asqsz=self.transport.max_aq_depth if self.transport else 0,
            eflags=flags,
            trsvcid=address.trsvcid.encode().ljust(32),
            subnqn=subnqn.encode(),
            traddr=address.traddr.encode().ljust(256),
        )


def main_target(bdevs: BdevRegistry, config: Config, threads: Threads) -> Nvmf:
    """The target that a process starts with: it has the poll groups and a discovery subsystem."""
    target = Nvmf(bdevs, config)
    target.add_poll_groups(threads)
    target.add_discovery()
    return target


class Targets:
    """All targets of a process, the newest first.

    A process has poll groups for the one that it starts with only: those that are created later accept connections and
    close them, as in SPDK.
    """

    main: Nvmf
    """The one that the process starts with; it stays, for those whom it serves, when it is deleted."""

    def __init__(self, bdevs: BdevRegistry, threads: Threads) -> None:
        self.config = Config()
        """Of the main target."""
        self._bdevs = bdevs
        self._threads = threads
        self._targets: list[Nvmf] = []
        self._gone: list[Nvmf] = []
        """Deleted, with what SPDK does not give back."""

    def __iter__(self) -> Iterator[Nvmf]:
        return iter(list(self._targets))

    async def start(self) -> None:
        self.main = main_target(self._bdevs, self.config, self._threads)
        self._targets.append(self.main)

    async def shutdown(self) -> None:
        for target in (*self._targets, *self._gone):
            await target.shutdown()

    def find(self, name: str | None) -> Nvmf | None:
        """None where there is no target of that name, or no name and not exactly one target."""
        if name is None:
            return self._targets[0] if len(self._targets) == 1 else None
        return next((target for target in self._targets if target.name == name), None)

    def create(self, name: str, config: Config) -> Nvmf:
        """Raises NvmfError(EEXIST)."""
        name = name[:NAME_LIMIT]
        if self.find(name):
            raise NvmfError(errno.EEXIST, f"there is a target {name}")
        target = Nvmf(self._bdevs, config, name)
        self._targets.insert(0, target)
        return target

    async def delete(self, target: Nvmf) -> None:
        """Done when its poll groups are gone, which the main target's never are.

        SPDK stops listening, but cannot destroy a subsystem that was not stopped, and each is started when it is
        created: their bdevs stay claimed.
        """
        self._targets.remove(target)
        self._gone.append(target)
        if target.groups:
            await asyncio.get_running_loop().create_future()
        target.stop_listening()

    def pollers(self, thread: Thread, sleeps: bool) -> Iterator[Poller]:
        for target in dict.fromkeys((self.main, *self._targets)):
            yield from target.pollers(thread, sleeps)


def setup(app: App) -> Targets:
    """The family's part of an App."""
    threads = app.framework.threads
    targets = Targets(app.bdevs, threads)
    app.add_config("nvmf", lambda: describe.calls(targets.main))
    threads.add_pollers(lambda thread: targets.pollers(thread, app.options.interrupt_mode))
    return targets
