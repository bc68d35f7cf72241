"""Subsystems: namespaces, the hosts that may connect, the addresses where they may, the controllers they got."""

from __future__ import annotations

import errno
import os
import re
import uuid as uuid_module
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ..bdev.models import Bdev, BdevError, BdevEvent, BdevRegistry, Descriptor, Op
from ..framework.threads import APP_THREAD
from ..nvme_tcp.nvme import DISCOVERY_NQN, DYNAMIC_CNTLID, NQN_LIMIT
from .reserving import Reserving

if TYPE_CHECKING:
    from ..framework.keyring import Key
    from .connection import Connection
    from .controller import Controller

CLAIM_OWNER = "NVMe-oF Target"
MIN_CNTLID = 1
MAX_CNTLID = 0xFFEF
SERIAL_LIMIT = 20
MODEL_LIMIT = 40
DEFAULT_NAMESPACES = 32
MOST_NAMESPACES = 1024

_UUID_PREFIX = "nqn.2014-08.org.nvmexpress:uuid:"
_LABEL = r"[A-Za-z](?:[A-Za-z0-9]|-(?=[A-Za-z0-9])){0,62}"
_NQN = re.compile(rf"nqn\.\d{{4}}-\d{{2}}\.{_LABEL}(?:\.{_LABEL})*:.+", re.ASCII | re.DOTALL)


class NvmfError(Exception):
    """Something that the target cannot do; ``number`` is the errno that SPDK's library returns for it."""

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message or os.strerror(number))
        self.number = number


def is_valid_nqn(nqn: str) -> bool:
    """What SPDK accepts as an NQN: a date, a reversed domain and a name, or the form with a UUID (base spec., 4.5)."""
    if len(nqn.encode()) > NQN_LIMIT:
        return False
    if nqn == DISCOVERY_NQN:
        return True
    if nqn.startswith(_UUID_PREFIX):
        try:
            return len(nqn) == len(_UUID_PREFIX) + 36 and bool(uuid_module.UUID(nqn[len(_UUID_PREFIX) :]))
        except ValueError:
            return False
    return _NQN.fullmatch(nqn) is not None


class Address(NamedTuple):
    """Where a subsystem is reached; ``trsvcid`` is the TCP port, as text."""

    trtype: str
    adrfam: str
    traddr: str
    trsvcid: str


FILTER_FIELDS = {"transport": 0, "address": 2, "svcid": 3}
"""Name in ``discovery_filter``: field of an Address."""

ANA_STATES = {"optimized": 0x01, "non_optimized": 0x02, "inaccessible": 0x03}
"""Name in JSON: value in the ANA log page."""
ANA_USABLE = ("optimized", "non_optimized")


@dataclass
class Host:
    """A host NQN that a subsystem admits. With ``dhchap_key`` it has to authenticate. It holds its keys."""

    nqn: str
    dhchap_key: Key | None = None
    dhchap_ctrlr_key: Key | None = None

    def put_keys(self) -> None:
        """Let go of the keys."""
        for key in (self.dhchap_key, self.dhchap_ctrlr_key):
            if key:
                key.put()


@dataclass
class Listener:
    """An address of one subsystem. ``ana_states`` has one entry a group, group 1 first."""

    address: Address
    portid: int
    ana_states: list[str]
    secure_channel: bool = False


class Namespace:
    """A bdev under a namespace identifier. ``hosts`` is None where every host sees it."""

    def __init__(
        self,
        nsid: int,
        descriptor: Descriptor,
        nguid: bytes,
        eui64: bytes,
        uuid: uuid_module.UUID,
        anagrpid: int,
        auto_visible: bool,
        ptpl_file: str | None,
    ) -> None:
        """Raises ``OSError``, ``ValueError``: the reservations in ``ptpl_file`` cannot be had again."""
        self.nsid = nsid
        self.descriptor = descriptor
        self.bdev = descriptor.bdev
        self.nguid = nguid
        self.eui64 = eui64
        self.uuid = uuid
        self.anagrpid = anagrpid
        self.hosts: set[str] | None = None if auto_visible else set()
        self.reserving = Reserving(nsid, self.bdev, ptpl_file)
        self.reservations = self.reserving.state

    def is_visible_to(self, host_nqn: str) -> bool:
        return self.hosts is None or host_nqn in self.hosts


@dataclass
class SubsystemOptions:
    """What is said of a subsystem when it is created and never changes."""

    serial_number: str = "0" * SERIAL_LIMIT
    model_number: str = "SPDK bdev Controller"
    max_namespaces: int = DEFAULT_NAMESPACES
    ana_reporting: bool = False
    min_cntlid: int = MIN_CNTLID
    max_cntlid: int = MAX_CNTLID
    dmrsl: int = 2097152
    wzsl: int = 12
    passthrough: bool = False
    enable_nssr: bool = False


@dataclass
class Subsystem:
    """One subsystem; the discovery service is one too, without namespaces.

    ``changed()`` is told when something changed that the discovery log shows.
    """

    nqn: str
    bdevs: BdevRegistry
    changed: Callable[[], None]
    options: SubsystemOptions = field(default_factory=SubsystemOptions)
    allow_any_host: bool = False
    hosts: dict[str, Host] = field(default_factory=dict)
    listeners: list[Listener] = field(default_factory=list)
    namespaces: dict[int, Namespace] = field(default_factory=dict)
    controllers: dict[int, Controller] = field(default_factory=dict)
    threads: tuple[int, ...] = (APP_THREAD,)
    """Those that do its I/O."""
    is_discovery: bool = False
    ending: set[Connection] = field(default_factory=set)
    """Closed connections whose commands are still at work."""
    _next_cntlid: int = 0
    _next_portid: int = 0

    def __post_init__(self) -> None:
        self._next_cntlid = self.options.min_cntlid

    # Hosts

    def admits(self, host_nqn: str) -> bool:
        return self.allow_any_host or host_nqn in self.hosts

    def set_allow_any_host(self, allow: bool) -> None:
        self.allow_any_host = allow
        self.changed()

    def add_host(self, host: Host) -> None:
        """Raises NvmfError: EINVAL for what is no NQN or is there already."""
        if not is_valid_nqn(host.nqn):
            raise NvmfError(errno.EINVAL, f"{host.nqn} is no NQN")
        if host.nqn in self.hosts:
            raise NvmfError(errno.EINVAL, f"host {host.nqn} is allowed already on {self.nqn}")
        self.hosts[host.nqn] = host
        self.changed()

    def remove_host(self, nqn: str) -> None:
        """Take the right to connect away and end the host's connections. Raises NvmfError(ENOENT)."""
        host = self.hosts.pop(nqn, None)
        if host is None:
            raise NvmfError(errno.ENOENT, f"host {nqn} is not allowed on {self.nqn}")
        host.put_keys()
        self.changed()
        for controller in self._controllers_of(nqn):
            controller.destroy()

    def set_keys(self, nqn: str, key: Key | None, ctrlr_key: Key | None) -> None:
        """Give a host other keys, or none. Raises NvmfError(EINVAL)."""
        host = self.hosts.get(nqn)
        if host is None:
            raise NvmfError(errno.EINVAL, f"host {nqn} is not allowed on {self.nqn}")
        host.put_keys()
        host.dhchap_key, host.dhchap_ctrlr_key = key, ctrlr_key

    # Namespaces

    def add_namespace(
        self,
        bdev_name: str,
        nsid: int = 0,
        nguid: bytes = b"",
        eui64: bytes = b"",
        uuid: uuid_module.UUID | None = None,
        anagrpid: int = 0,
        auto_visible: bool = True,
        ptpl_file: str | None = None,
    ) -> Namespace:
        """Export a bdev. ``nsid`` 0 takes the lowest that is free; identifiers left out come from the bdev's UUID.

        ``ptpl_file`` keeps its reservations through a loss of power. Raises NvmfError(EINVAL) if the identifier, the
        bdev or what is in the file cannot be had.
        """
        limit = self.options.max_namespaces
        if nsid == 0:
            nsid = next((number for number in range(1, limit + 1) if number not in self.namespaces), 0)
        anagrpid = anagrpid or nsid
        if not 1 <= nsid <= limit or nsid in self.namespaces or anagrpid > limit:
            raise NvmfError(errno.EINVAL, f"namespace {nsid} of {self.nqn}: in use or above {limit}")

        def on_event(event: BdevEvent, bdev: Bdev) -> None:
            if event is BdevEvent.REMOVE:
                self.remove_namespace(nsid)
            else:
                self._notify_namespace(namespace)

        try:
            descriptor = self.bdevs.open(bdev_name, True, on_event, lambda: self.threads)
            try:
                self.bdevs.claim(descriptor, CLAIM_OWNER)
            except BdevError:
                descriptor.close()
                raise
        except BdevError as error:
            raise NvmfError(errno.EINVAL, f"bdev {bdev_name} cannot be opened: {error}") from error
        own = descriptor.bdev.uuid
        try:
            namespace = Namespace(
                nsid, descriptor, nguid or own.bytes, eui64, uuid or own, anagrpid, auto_visible, ptpl_file
            )
        except (OSError, ValueError) as error:
            self.bdevs.release(descriptor)
            descriptor.close()
            raise NvmfError(errno.EINVAL, f"reservations in {ptpl_file} cannot be had again: {error}") from error
        self.namespaces[nsid] = namespace
        self.namespaces = dict(sorted(self.namespaces.items()))
        self._notify_namespace(namespace)
        return namespace

    def remove_namespace(self, nsid: int) -> None:
        """Raises NvmfError(ENOENT)."""
        namespace = self.namespaces.pop(nsid, None)
        if namespace is None:
            raise NvmfError(errno.ENOENT, f"{self.nqn} has no namespace {nsid}")
        self.bdevs.release(namespace.descriptor)
        self._notify_namespace(namespace)
        namespace.descriptor.close()

    def show_namespace(self, nsid: int, host_nqn: str, visible: bool) -> None:
        """Add or remove a host for a namespace without automatic visibility.

        Raises NvmfError: EINVAL for what is no NQN or NSID, ENOENT where there is no namespace, EPERM for one that
        every host sees.
        """
        if not is_valid_nqn(host_nqn) or not 1 <= nsid <= self.options.max_namespaces:
            raise NvmfError(errno.EINVAL)
        namespace = self.namespaces.get(nsid)
        if namespace is None:
            raise NvmfError(errno.ENOENT)
        if namespace.hosts is None:
            raise NvmfError(errno.EPERM)
        if (host_nqn in namespace.hosts) == visible:
            return
        if visible:
            namespace.hosts.add(host_nqn)
        else:
            namespace.hosts.discard(host_nqn)
        for controller in self._controllers_of(host_nqn):
            controller.namespace_changed(nsid)

    def set_ana_group(self, nsid: int, anagrpid: int) -> None:
        """Raises NvmfError: EINVAL, ENOENT."""
        if not 1 <= anagrpid <= self.options.max_namespaces or not 1 <= nsid <= self.options.max_namespaces:
            raise NvmfError(errno.EINVAL)
        namespace = self.namespaces.get(nsid)
        if namespace is None:
            raise NvmfError(errno.ENOENT)
        namespace.anagrpid = anagrpid
        self._notify_namespace(namespace)

    def supports(self, op: Op) -> bool:
        """Every namespace's bdev can do that."""
        return all(op in namespace.bdev.supported for namespace in self.namespaces.values())

    def _notify_namespace(self, namespace: Namespace) -> None:
        for controller in list(self.controllers.values()):
            if namespace.is_visible_to(controller.host_nqn):
                controller.namespace_changed(namespace.nsid)

    # Listeners

    def find_listener(self, address: Address) -> Listener | None:
        return next((listener for listener in self.listeners if listener.address == address), None)

    def accepts_at(self, address: Address) -> bool:
        """A host may reach the subsystem there. The discovery service answers wherever the target listens."""
        return self.is_discovery or self.find_listener(address) is not None

    def add_listener(self, address: Address, ana_state: str = "optimized", secure_channel: bool = False) -> Listener:
        """The newest stands first, as SPDK lists them."""
        groups = 1 if self.is_discovery else self.options.max_namespaces
        listener = Listener(address, self._next_portid, [ana_state] * groups, secure_channel)
        self._next_portid += 1
        self.listeners.insert(0, listener)
        self.changed()
        return listener

    def remove_listener(self, address: Address) -> None:
        """Raises NvmfError(ENOENT). Ends the connections that came in there."""
        listener = self.find_listener(address)
        if listener is None:
            raise NvmfError(errno.ENOENT)
        self.listeners.remove(listener)
        self.changed()
        for controller in list(self.controllers.values()):
            if controller.address == address:
                controller.destroy()

    def set_ana_state(self, address: Address, state: str, anagrpid: int = 0) -> None:
        """For one group or, with 0, for all of them. Raises NvmfError: EINVAL, ENOTSUP."""
        if not self.options.ana_reporting:
            raise NvmfError(errno.EINVAL, f"ANA reporting is off for {self.nqn}")
        if state not in ANA_STATES:
            raise NvmfError(errno.ENOTSUP)
        listener = self.find_listener(address)
        if listener is None or anagrpid > self.options.max_namespaces:
            raise NvmfError(errno.EINVAL)
        for group in range(len(listener.ana_states)) if anagrpid == 0 else (anagrpid - 1,):
            listener.ana_states[group] = state
        for controller in list(self.controllers.values()):
            if controller.address == address:
                controller.ana_changed()

    # Controllers

    def free_cntlid(self) -> int:
        """The next controller identifier, round robin. Raises NvmfError(ENOSPC)."""
        low, high = self.options.min_cntlid, self.options.max_cntlid
        for _unused in range(high - low + 1):
            cntlid = self._next_cntlid
            self._next_cntlid = low if cntlid >= high else cntlid + 1
            if cntlid not in self.controllers:
                return cntlid
        raise NvmfError(errno.ENOSPC, f"all controller identifiers of {self.nqn} are in use")

    def find_controller(self, cntlid: int) -> Controller | None:
        return None if cntlid == DYNAMIC_CNTLID else self.controllers.get(cntlid)

    def _controllers_of(self, host_nqn: str) -> Iterator[Controller]:
        for controller in list(self.controllers.values()):
            if controller.host_nqn == host_nqn:
                yield controller

    def controllers_of_hosts(self, hosts: Collection[uuid_module.UUID]) -> list[Controller]:
        """By the identifiers of the hosts."""
        return [controller for controller in self.controllers.values() if controller.host_id in hosts]

    def queues_of_hosts(self, hosts: Collection[uuid_module.UUID]) -> list[Connection]:
        """The I/O queues, also those that are closed and have commands at work."""
        queues = [queue for each in self.controllers_of_hosts(hosts) for qid, queue in each.queues.items() if qid]
        return queues + [queue for queue in self.ending if queue.controller and queue.controller.host_id in hosts]

    def destroy(self) -> None:
        """End every connection, then give the bdevs back."""
        for controller in list(self.controllers.values()):
            controller.destroy()
        for nsid in list(self.namespaces):
            self.remove_namespace(nsid)
        for host in self.hosts.values():
            host.put_keys()
        self.hosts.clear()
