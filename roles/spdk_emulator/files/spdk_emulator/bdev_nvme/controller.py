"""One NVMe controller, reached over NVMe/TCP: from the first connect to the shutdown, through every broken connection.

Section numbers are those of the NVMe base specification 2.0.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from ..nvme_tcp import nvme
from ..nvme_tcp.host import MAX_TRANSFER, Request
from ..nvme_tcp.nvme import Admin, Cns, Feature, Lid, Sc
from .admin import AdminQueue, connect_queue
from .authentication import authenticate
from .connection import TIMEOUT, Connection, Host, NvmeError, Trid
from .io_queues import IoQueues
from .namespace import Ana, Namespace, access_states, can_be_bdev, describe
from .options import ControllerOptions

if TYPE_CHECKING:
    from ..framework.keyring import Key

log = logging.getLogger(__name__)

ADMIN_DEPTH = 31
"""Commands at a time; the queue has one entry more (3.3.1.2)."""
TIMEOUT_STEPS = 8
"""How exactly ``timeout_us`` is kept: to this part of it."""
EVENT_LIMIT = 8
SHUTDOWN_TIMEOUT = 5.0
UNDELAYED_RETRY = 1.0
"""Seconds between attempts to reconnect where no ``reconnect_delay_sec`` was given."""
SMART_EVENTS = 0x1F


class State(enum.Enum):
    """As ``bdev_nvme_get_controllers`` names them."""

    ENABLED = "enabled"
    RESETTING = "resetting"
    DELAYED = "reconnect_is_delayed"
    FAILED = "failed"
    DELETING = "deleting"


class Owner(Protocol):
    """Who is told about a controller's life."""

    def state_changed(self, controller: Controller) -> None:
        """I/O may have become possible or impossible."""

    def namespaces_changed(self, controller: Controller, nsids: list[int]) -> None:
        """These namespaces are new, other than before, or gone from ``controller.namespaces``."""

    def gone(self, controller: Controller) -> None:
        """The loss timeout is over."""

    def discovery_changed(self, controller: Controller) -> None:
        """The discovery log page has changed."""


class Controller:
    """Owned by somebody who gives it I/O as :class:`~..nvme_tcp.host.Request` and listens as an :class:`Owner`."""

    def __init__(
        self,
        name: str,
        trid: Trid,
        host: Host,
        options: ControllerOptions,
        settings: dict[str, Any],
        owner: Owner,
        spawn: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]],
    ) -> None:
        self.name = name
        self.trids = [trid]
        """The one in use first; the others are alternatives of the ``failover`` mode."""
        self.host = host
        self.options = options
        self.owner = owner
        self.state = State.RESETTING
        self.live = False
        """Commands are answered."""
        self.io_fails = False
        """I/O is not to wait for this controller any more."""
        self.io_queues = IoQueues(self, options.num_io_queues)
        self.cntlid = 0
        self.data: dict[str, Any] = {}
        """Identify Controller."""
        self.namespaces: dict[int, Namespace] = {}
        self.version = 0
        self.max_transfer = MAX_TRANSFER
        self.max_zeroes = 0
        """The most bytes of one Write Zeroes; 0: no limit is told."""
        self.max_deallocate = 0
        """The most blocks of one deallocation; 0: no limit is told."""
        self._settings = settings
        self._spawn = spawn
        self._admin: AdminQueue | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._events: set[int] = set()
        """What was told and is not dealt with. While the controller is not live, it waits."""
        self._event_task: asyncio.Task[Any] | None = None
        self._recovery: asyncio.Task[Any] | None = None
        self._reset_waiters: list[asyncio.Future[bool]] = []
        self._fast_fail: asyncio.TimerHandle | None = None
        self._keys: list[Key] = []
        self.set_keys(options.dhchap_key, options.dhchap_ctrlr_key)

    @property
    def trid(self) -> Trid:
        return self.trids[0]

    @property
    def is_discovery(self) -> bool:
        return self.trid.subnqn == nvme.DISCOVERY_NQN

    @property
    def admin(self) -> AdminQueue:
        """The admin queue. Raises ``OSError`` while there is none."""
        if self._admin is None:
            raise ConnectionError(errno.ENOTCONN, f"{self.name}: not connected")
        return self._admin

    @property
    def waits_for_queues(self) -> bool:
        """I/O of a thread without a queue waits until a reset gives it one. Else SPDK refuses it the channel."""
        return bool(self.options.reconnect_delay and self._settings["bdev_retry_count"])

    def run(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self._spawn(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Attach

    async def attach(self) -> None:
        """The first connect. Raises ``OSError`` or :class:`NvmeError`; the controller is of no use then."""
        try:
            await self._connect()
        except BaseException:
            self._disconnect()
            self.set_keys(None, None)
            raise
        self._enabled()

    async def _connect(self) -> None:
        """Connect the admin queue, enable the controller and learn all about it."""
        settings = self._settings
        kato = settings["keep_alive_timeout_ms"]
        self._disconnect()
        admin = self._admin = AdminQueue(self.name, self.new_connection("admin queue", ADMIN_DEPTH))
        await admin.connection.open(self.trid, self.host)
        self.cntlid = await self._connect_queue(admin.connection, 0, ADMIN_DEPTH, kato, nvme.DYNAMIC_CNTLID) & 0xFFFF
        await admin.enable()
        self.version = admin.version
        self.data = data = nvme.IDENTIFY_CONTROLLER.unpack(await admin.identify(Cns.CONTROLLER))
        self.max_transfer = min(MAX_TRANSFER, nvme.PAGE_SIZE << data["mdts"]) if data["mdts"] else MAX_TRANSFER
        admin.max_transfer = self.max_transfer
        events = data["oaes"] & nvme.NOTICE_DISCOVERY
        if not self.is_discovery:
            events = SMART_EVENTS | data["oaes"] & (nvme.NOTICE_NAMESPACE | nvme.NOTICE_ANA)
        await admin.set_feature(Feature.ASYNC_EVENT_CONFIGURATION, events)
        for _unused in range(min(data["aerl"] + 1, EVENT_LIMIT)):
            self._request_event(admin)
        if kato:
            kato = await admin.get_feature(Feature.KEEP_ALIVE_TIMER)
        if self.is_discovery:
            # Who it is was asked already; SPDK asks once more before it reads the log.
            await admin.identify(Cns.CONTROLLER)
        else:
            limits = await admin.limits()
            self.max_zeroes = nvme.PAGE_SIZE << limits["wzsl"] if limits.get("wzsl") else 0
            self.max_deallocate = limits.get("dmrsl", 0)
            await self.io_queues.negotiate(admin)
            await self._learn_namespaces(admin)
        if kato:
            self.run(self._keep_alive(admin, kato / 1000))
        await self.io_queues.connect()
        admin.connection.check()

    def new_connection(self, what: str, depth: int) -> Connection:
        digests = (self.options.header_digest, self.options.data_digest)
        trid = self.trid
        name = f"{self.name} at {trid.traddr}:{trid.trsvcid}, {what}"
        timeout = self._settings["tcp_connect_timeout_ms"] / 1000 or TIMEOUT
        connection = Connection(name, depth, digests, lambda reason: self.lost(connection, reason), timeout)
        return connection

    async def _connect_queue(self, connection: Connection, qid: int, depth: int, kato: int, cntlid: int) -> int:
        value = await connect_queue(connection, self.trid, self.host, qid, depth, kato, cntlid)
        if value & nvme.AUTHENTICATION_REQUIRED or self.options.dhchap_ctrlr_key:
            await self._authenticate(connection)
        return value

    # Authentication

    def set_keys(self, key: Key | None, ctrlr_key: Key | None) -> None:
        """Hold these keys for the connections to come and let go of the former ones."""
        held = [each.take() for each in (key, ctrlr_key) if each]
        for former in self._keys:
            former.put()
        self._keys = held
        self.options = replace(self.options, dhchap_key=key, dhchap_ctrlr_key=ctrlr_key)

    async def authenticate(self) -> None:
        """Once more, on the connections that there are. Raises ``OSError`` or :class:`NvmeError`."""
        for connection in (self.admin.connection, *self.io_queues.connections):
            await self._authenticate(connection)

    async def _authenticate(self, connection: Connection) -> None:
        key, ctrlr_key = self.options.dhchap_key, self.options.dhchap_ctrlr_key
        await authenticate(connection, (self.host.nqn, self.trid.subnqn), key, ctrlr_key, self._settings)

    # Namespaces

    async def _learn_namespaces(self, admin: AdminQueue) -> None:
        found = {nsid: await admin.identify_namespace(nsid) for nsid in await admin.active_namespaces()}
        made = {nsid: await self._describe_namespace(admin, nsid, page) for nsid, page in found.items() if page}
        self.namespaces = {nsid: namespace for nsid, namespace in made.items() if namespace}
        await self._learn_ana(admin)

    async def _describe_namespace(self, admin: AdminQueue, nsid: int, page: bytearray) -> Namespace | None:
        """What there is to know of a namespace; None for one that no bdev can be made of."""
        if not can_be_bdev(self.name, nsid, page):
            return None
        return describe(nsid, page, await admin.identifiers(nsid))

    @property
    def reports_ana(self) -> bool:
        return bool(self.data["cmic"] & 0x8)

    async def _learn_ana(self, admin: AdminQueue) -> None:
        """The access state of every namespace."""
        if not self.reports_ana or not self.namespaces:
            return
        size = 16 + 32 * self.data["nanagrpid"] + 4 * len(self.namespaces)
        page = await admin.log_page(Lid.ANA, -(-size // 4) * 4, nsid=nvme.BROADCAST_NSID)
        for nsid, state in access_states(page).items():
            if nsid in self.namespaces:
                self._set_ana(self.namespaces[nsid], state)

    def _set_ana(self, namespace: Namespace, state: Ana) -> None:
        """An access state that is not good may last for ANATT seconds, a persistent loss lasts (8.1.2.8)."""
        namespace.ana = state
        if namespace.usable:
            namespace.ana_deadline = None
        elif namespace.ana_deadline is None:
            loop = asyncio.get_running_loop()
            patience = 0 if namespace.ana == Ana.PERSISTENT_LOSS else self.data["anatt"]
            namespace.ana_deadline = loop.time() + patience
            loop.call_at(namespace.ana_deadline, self.owner.state_changed, self)

    def may_serve(self, nsid: int) -> bool:
        """I/O to this namespace goes through here, or may do so soon."""
        if not self.live:
            return not self.io_fails
        namespace = self.namespaces.get(nsid)
        deadline = namespace.ana_deadline if namespace is not None else 0.0
        return deadline is None or deadline > asyncio.get_running_loop().time()

    # Asynchronous events

    def _request_event(self, admin: AdminQueue) -> None:
        def done(request: Request, status: int, value: int) -> None:
            if admin is not self._admin:
                return
            if status:
                if status & 0x7FF != Sc.ABORTED_SQ_DELETION:
                    log.warning("%s: no more asynchronous events, status %#05x", self.name, status & 0x7FF)
                return
            self._request_event(admin)
            self._event(value & 0xFFFFFF)

        admin.connection.submit(Request(Admin.ASYNC_EVENT_REQUEST, 0, 0, 0, [], 0, done))

    def _event(self, event: int) -> None:
        self._events.add(event)
        self._start_events()

    def _start_events(self) -> None:
        """Not before all is learned: what an event tells is newer, and would be overwritten with what is older."""
        if self.live and self._events and self._event_task is None:
            self._event_task = self.run(self._handle_events())

    def refresh_ana(self) -> None:
        """A command was answered with an access state that we did not know of."""
        self._event(nvme.EVENT_ANA_CHANGED)

    async def _handle_events(self) -> None:
        admin = self.admin
        try:
            while self._events and admin is self._admin:
                await self._handle_event(admin, self._events.pop())
        except OSError as error:
            # What it told is known to nobody now, so all has to be learned again.
            self.lost(admin.connection, str(error))
        finally:
            if self._event_task is asyncio.current_task():
                self._event_task = None

    async def _handle_event(self, admin: AdminQueue, event: int) -> None:
        try:
            if event == nvme.EVENT_NAMESPACE_CHANGED:
                await self._namespaces_changed(admin)
            elif event == nvme.EVENT_ANA_CHANGED:
                await self._learn_ana(admin)
                self.owner.state_changed(self)
            elif event == nvme.EVENT_DISCOVERY_CHANGED:
                self.owner.discovery_changed(self)
        except NvmeError as error:
            log.warning("%s: an asynchronous event could not be handled: %s", self.name, error)

    async def _namespaces_changed(self, admin: AdminQueue) -> None:
        try:
            nsids = await admin.changed_namespaces()
        except NvmeError as error:
            log.warning("%s: which namespaces have changed is not known: %s", self.name, error)
            nsids = [nvme.BROADCAST_NSID]
        if nvme.BROADCAST_NSID in nsids:
            # More have changed than the page can tell.
            nsids = sorted({*await admin.active_namespaces(), *self.namespaces})
        try:
            # The page tells a change once: one namespace that fails is no reason to forget the others.
            for nsid in nsids:
                try:
                    page = await admin.identify_namespace(nsid)
                except NvmeError as error:
                    log.warning("%s: namespace %d has changed, but %s", self.name, nsid, error)
                    continue
                namespace = await self._describe_namespace(admin, nsid, page) if page else None
                if namespace:
                    self.namespaces[nsid] = namespace
                else:
                    self.namespaces.pop(nsid, None)
            await self._learn_ana(admin)
        finally:
            self.owner.namespaces_changed(self, nsids)

    async def _keep_alive(self, admin: AdminQueue, timeout: float) -> None:
        """Twice in the keep alive time; without an answer in that time there is no connection any more (3.9)."""
        while admin is self._admin:
            await asyncio.sleep(timeout / 2)
            if admin is not self._admin:
                return
            try:
                async with asyncio.timeout(timeout):
                    await admin.keep_alive()
            except TimeoutError:
                answered = min(timeout, admin.connection.timeout)
                self.lost(admin.connection, f"no answer to a keep alive within {answered:g} s")
            except NvmeError as error:
                self.lost(admin.connection, str(error))

    # I/O

    async def open_io_queue(self, connection: Connection, qid: int, depth: int) -> None:
        """Raises ``OSError`` or :class:`NvmeError`."""
        await connection.open(self.trid, self.host)
        await self._connect_queue(connection, qid, depth, self._settings["keep_alive_timeout_ms"], self.cntlid)
        connection.check()
        capsule = self.data["ioccsz"] * 16 - 64
        connection.queue.in_capsule = max(capsule, 0) if not self.data["icdoff"] else 0
        if self._settings["timeout_us"]:
            self.run(self._watch(connection, qid, self._settings["timeout_us"] / 1_000_000))

    async def _watch(self, connection: Connection, qid: int, timeout: float) -> None:
        """Do what ``action_on_timeout`` says with I/O that takes longer than ``timeout_us``."""
        action = self._settings["action_on_timeout"]
        known: dict[int, tuple[Request, int]] = {}
        while not connection.ended:
            await asyncio.sleep(timeout / TIMEOUT_STEPS)
            last, known = known, {}
            for cid, request in connection.queue.in_flight().items():
                before, age = last.get(cid, (request, 0))
                known[cid] = (request, age + 1 if before is request else 0)
            late = [cid for cid, (_unused, age) in known.items() if age == TIMEOUT_STEPS]
            if not late:
                continue
            log.warning("%s: no answer to %d commands within %g s", connection.name, len(late), timeout)
            if action == "reset":
                self.lost(connection, "commands are not answered in time")
                return
            if action == "abort":
                await self._abort(qid, late)

    async def _abort(self, qid: int, cids: list[int]) -> None:
        """Ask the controller to give up commands of an I/O queue (5.1); where it cannot, reset it."""
        try:
            for cid in cids:
                if not await self.admin.abort(qid, cid):
                    raise NvmeError(f"{self.name}: Abort {cid}", Sc.ABORTED_BY_REQUEST)
        except (NvmeError, OSError) as error:
            log.warning("%s; the controller is reset", error)
            if self.live:
                self._recover()

    # A connection breaks

    def _disconnect(self) -> None:
        """Close all connections; requests in flight are given back."""
        admin, self._admin = self._admin, None
        self.io_queues.close()
        if admin is not None:
            admin.connection.close()

    def lost(self, connection: Connection, reason: str) -> None:
        admin = self._admin and self._admin.connection
        if connection is not admin and not self.io_queues.owns(connection):
            return
        if self.live:
            log.warning("%s: connection lost: %s", connection.name, reason)
            self._recover()

    def _recover(self) -> None:
        self.live = False
        self.state = State.RESETTING
        if self._event_task is not None:
            # Everything is learned anew.
            self._event_task.cancel()
            self._event_task = None
        timeout = self.options.fast_io_fail_timeout
        if timeout:
            self._fast_fail = asyncio.get_running_loop().call_later(timeout, self._fail_io)
        self.owner.state_changed(self)
        self._disconnect()
        self._recovery = self.run(self._reconnect())

    def _fail_io(self) -> None:
        self.io_fails = True
        self.owner.state_changed(self)

    async def _reconnect(self) -> None:
        loop = asyncio.get_running_loop()
        options = self.options
        started = loop.time()
        before = set(self.namespaces)
        while True:
            self.state = State.RESETTING
            try:
                await self._connect()
            except (NvmeError, OSError) as error:
                log.info("%s: no new connection: %s", self.name, error)
                self._disconnect()
                self._end_reset(False)
                self.trids.append(self.trids.pop(0))
                if options.loss_timeout == 0:
                    self.state = State.FAILED
                    self.io_fails = True
                    self.owner.state_changed(self)
                elif options.loss_timeout > 0 and loop.time() - started >= options.loss_timeout:
                    log.warning("%s: not reachable for %d s: it is deleted", self.name, options.loss_timeout)
                    self._recovery = None
                    self.io_fails = True
                    self.owner.gone(self)
                    return
                else:
                    self.state = State.DELAYED
                await asyncio.sleep(options.reconnect_delay or UNDELAYED_RETRY)
            else:
                break
        self._recovery = None
        self._enabled()
        log.info("%s: connected again", self.name)
        self.owner.namespaces_changed(self, sorted(before | set(self.namespaces)))
        self.owner.state_changed(self)
        self._end_reset(True)

    def _enabled(self) -> None:
        self.state = State.ENABLED
        self.live = True
        self.io_fails = False
        if self._fast_fail is not None:
            self._fast_fail.cancel()
            self._fast_fail = None
        self.io_queues.close_unused()
        self._start_events()

    async def reset(self) -> bool:
        """Disconnect and connect again. Returns whether that worked at the first attempt."""
        if self.state == State.DELETING:
            return False
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._reset_waiters.append(done)
        if self.live:
            self._recover()
        return await done

    def _end_reset(self, good: bool) -> None:
        waiters, self._reset_waiters = self._reset_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(good)

    # The end

    async def shut_down(self) -> None:
        """Tell the controller (3.6.2), close the connections, stop everything."""
        was_live, self.live = self.live, False
        self.state = State.DELETING
        self.io_fails = True
        current = asyncio.current_task()
        for task in list(self._tasks):
            if task is not current:
                task.cancel()
        if self._fast_fail is not None:
            self._fast_fail.cancel()
        # First the owner, as everywhere: what the connections give back is not to come here again.
        self.owner.state_changed(self)
        self._end_reset(False)
        self.io_queues.close()
        if was_live and self._admin is not None:
            try:
                async with asyncio.timeout(SHUTDOWN_TIMEOUT):
                    await self._admin.shut_down(SHUTDOWN_TIMEOUT)
            except (NvmeError, OSError, TimeoutError) as error:
                log.info("%s: no orderly shutdown: %s", self.name, error)
        self._disconnect()
        self.set_keys(None, None)
