"""The NVMe controllers of one process, by name: paths to a subsystem, and the bdevs of its namespaces."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import uuid as uuid_module
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..bdev.models import BdevIo, Status
from ..framework.threads import APP_THREAD, Poller, Thread
from .bdev import ACTIVE_ACTIVE, NvmeBdev
from .connection import Host, NvmeError, Trid
from .controller import Controller, State
from .discovery import Discovery
from .namespace import Namespace
from .options import ControllerOptions, check, defaults

if TYPE_CHECKING:
    from ..app import App

HOTPLUG_PERIOD = 100_000
"""Microseconds."""
log = logging.getLogger(__name__)

NAME_LIMIT = 511
DETACH_TIMEOUT = 10.0
"""Seconds that a detach waits for those who hold the bdevs."""


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Group:
    """What one name stands for: the controllers (paths) of one subsystem, and a bdev for each of its namespaces.

    The owner of its controllers (:class:`.controller.Owner`).
    """

    def __init__(self, name: str, app: App, settings: dict[str, Any], registry: NvmeControllers) -> None:
        self.name = name
        self.controllers: list[Controller] = []
        self.bdevs: dict[int, NvmeBdev] = {}
        self._app = app
        self._settings = settings
        self._registry = registry

    # Paths come and go

    def check(self, new: Controller) -> None:
        """Whether the controller may become a path (beside others). Raises ``OSError`` (EINVAL)."""
        if not self.controllers:
            return
        for controller in (new, *self.controllers):
            if not controller.data["cmic"] & 2:
                log.error("%s: controller %d does not support multipath", self.name, controller.cntlid)
                raise error(errno.EINVAL)
        if any(each.cntlid == new.cntlid for each in self.controllers):
            log.error("%s: there is a path to controller %d already", self.name, new.cntlid)
            raise error(errno.EINVAL)
        for nsid, namespace in new.namespaces.items():
            bdev = self.bdevs.get(nsid)
            if bdev is not None and not bdev.uuid_matches(namespace):
                log.error("%s: namespace %d of the new path is another one than bdev %s", self.name, nsid, bdev.name)
                raise error(errno.EINVAL)

    def add(self, controller: Controller) -> None:
        self.controllers.append(controller)
        self.namespaces_changed(controller, sorted(controller.namespaces))

    async def remove(self, controller: Controller) -> None:
        """Detach one path: bdevs without another path go, then the controller is shut down.

        Raises ``OSError`` (ETIMEDOUT) if a holder keeps a bdev; the path goes nevertheless, as soon as it can.
        """
        controller.state = State.DELETING
        waits = []
        for bdev in list(self.bdevs.values()):
            if controller not in bdev.controllers:
                continue
            if len(bdev.controllers) > 1:
                bdev.remove_path(controller)
            else:
                waits.append(self._unregister(bdev))
        late: set[asyncio.Future[None]] = set()
        if waits:
            _unused, late = await asyncio.wait(waits, timeout=DETACH_TIMEOUT)
        self.controllers.remove(controller)
        await controller.shut_down()
        self._registry.discard_if_empty(self)
        if late:
            raise error(errno.ETIMEDOUT)

    def _unregister(self, bdev: NvmeBdev) -> asyncio.Future[None]:
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done() -> None:
            if not gone.done():
                gone.set_result(None)

        if self.bdevs.get(bdev.nsid) is bdev:
            del self.bdevs[bdev.nsid]
        self._app.bdevs.unregister(bdev, done)
        bdev.paths_changed()
        return gone

    # What controllers tell

    def state_changed(self, controller: Controller) -> None:
        for bdev in list(self.bdevs.values()):
            if controller in bdev.controllers:
                bdev.paths_changed()

    def discovery_changed(self, controller: Controller) -> None:
        """No discovery controller is here."""

    def gone(self, controller: Controller) -> None:
        if controller in self.controllers and controller.state != State.DELETING:
            self._app.spawn(self.remove(controller))

    def namespaces_changed(self, controller: Controller, nsids: list[int]) -> None:
        if controller not in self.controllers:
            return
        # First what is gone: its UUID may be that of another namespace now.
        for nsid in nsids:
            self._drop(controller, nsid)
        for nsid in nsids:
            namespace = controller.namespaces.get(nsid)
            if namespace is not None:
                self._take(controller, namespace)
        self.update_queues()

    def _drop(self, controller: Controller, nsid: int) -> None:
        """Take the path from a bdev whose namespace it leads to no more; the last path takes the bdev along."""
        bdev = self.bdevs.get(nsid)
        namespace = controller.namespaces.get(nsid)
        if bdev is None or controller not in bdev.controllers or (namespace and bdev.uuid_matches(namespace)):
            return
        if len(bdev.controllers) > 1:
            bdev.remove_path(controller)
        else:
            self._unregister(bdev)

    def _take(self, controller: Controller, namespace: Namespace) -> None:
        """Make the namespace a bdev, or the controller a path of the bdev that it is."""
        bdev = self.bdevs.get(namespace.nsid)
        if bdev is None:
            self._register(controller, namespace.nsid)
            return
        if not bdev.uuid_matches(namespace):
            text = "%s: namespace %d differs from path to path; the new one is left out"
            log.error(text, self.name, namespace.nsid)
            return
        if controller not in bdev.controllers:
            bdev.add_path(controller)
        if namespace.num_blocks != bdev.num_blocks:
            self._app.bdevs.resize(bdev, namespace.num_blocks)
        bdev.paths_changed()

    def _register(self, controller: Controller, nsid: int) -> None:
        name = f"{self.name}n{nsid}"
        bdev = NvmeBdev(name, controller, controller.namespaces[nsid], self._settings, self._reset, self.update_queues)
        try:
            self._app.bdevs.register(bdev)
        except OSError as failure:
            log.error("%s: no bdev %s with the UUID %s: %s", self.name, name, bdev.uuid, failure.strerror)
            return
        self.bdevs[nsid] = bdev
        self._app.spawn(self.examined())

    async def examined(self) -> None:
        """Until those who look into every new bdev have done so."""
        await self._app.bdevs.wait_for_examine()
        self.update_queues()

    def update_queues(self) -> None:
        """Each thread with a channel to one of a controller's bdevs has an I/O queue to it."""
        users = [(bdev.controllers, bdev.threads) for bdev in self.bdevs.values()]
        for controller in self.controllers:
            controller.io_queues.use(
                thread for controllers, threads in users if controller in controllers for thread in threads
            )

    def _reset(self, io: BdevIo) -> None:
        async def work() -> None:
            good = await self.reset()
            io.complete(Status.SUCCESS if good else Status.INTERNAL_ERROR)

        self._app.spawn(work())

    async def reset(self) -> bool:
        """Reset every path. Returns whether at least one came back at once."""
        results = await asyncio.gather(*(controller.reset() for controller in self.controllers))
        return any(results)


class NvmeControllers:
    """The family's state: groups by name in order of creation, discovery services, options."""

    def __init__(self, app: App) -> None:
        self.groups: dict[str, Group] = {}
        self.discoveries: dict[str, Discovery] = {}
        self.options = defaults()
        self.hotplug = {"period_us": HOTPLUG_PERIOD, "enable": False}
        self.host_uuid = uuid_module.uuid4()
        """Who this process is where nobody said otherwise."""
        self.app = app
        self.polls_hotplug = False
        """SPDK does since the first controller, or since somebody has said how."""
        self._attaching: set[tuple[Trid, str]] = set()

    def set_options(self, given: dict[str, Any]) -> None:
        """Raises ``OSError``: EINVAL, or EPERM while there are controllers."""
        wanted = self.options | given
        check(wanted)
        if self.groups:
            raise error(errno.EPERM)
        # In place: nothing holds a copy, for options of a process are those of all its controllers.
        self.options.update(wanted)

    def host(self, nqn: str | None, address: str = "", service: str = "") -> Host:
        nqn = nqn or f"nqn.2014-08.org.nvmexpress:uuid:{self.host_uuid}"
        return Host(nqn, self.host_uuid.bytes, address, service)

    def pollers(self, thread: Thread) -> Iterator[Poller]:
        """What SPDK polls on that thread."""
        if thread.number == APP_THREAD:
            for _unused, controller in self.controllers():
                yield Poller(controller, "bdev_nvme_poll_adminq", self.options["nvme_adminq_poll_period_us"])
            if self.polls_hotplug and self.hotplug["enable"]:
                yield Poller(None, "bdev_nvme_hotplug", int(self.hotplug["period_us"]))
            elif self.polls_hotplug:
                yield Poller(None, "bdev_nvme_remove_poller", HOTPLUG_PERIOD)
        if any(thread.number in bdev.threads for group in self.groups.values() for bdev in group.bdevs.values()):
            yield Poller(None, "bdev_nvme_poll", self.options["nvme_ioq_poll_period_us"])

    def controllers(self) -> Iterator[tuple[Group, Controller]]:
        for group in list(self.groups.values()):
            for controller in list(group.controllers):
                yield group, controller

    def bdev(self, name: str) -> NvmeBdev:
        """Raises ``OSError`` (ENODEV): no such bdev, or none of ours."""
        bdev = self.app.bdevs.find(name)
        if not isinstance(bdev, NvmeBdev):
            raise error(errno.ENODEV)
        return bdev

    async def attach(self, name: str, trid: Trid, host: Host, options: ControllerOptions) -> list[str]:
        """Attach a controller, or another path to one. Returns the names of its bdevs. Raises ``OSError``."""
        key = (trid, host.nqn)
        taken = {(path, each.host.nqn) for _unused, each in self.controllers() for path in each.trids} | self._attaching
        if key in taken:
            raise error(errno.EEXIST)
        if not 0 < len(name.encode()) <= NAME_LIMIT:
            raise error(errno.EINVAL)
        options.check()
        if self.app.options.interrupt_mode:
            log.error("Interrupt mode is only supported with PCIe transport")
            raise error(errno.EOPNOTSUPP)
        group = self.groups.get(name)
        if group is not None and group.controllers[0].options.multipath != options.multipath:
            raise error(errno.EINVAL)
        if trid.trtype.upper() != "TCP":
            log.error("%s: transport %s: there is TCP only", name, trid.trtype)
            raise error(errno.ENODEV)
        self._attaching.add(key)
        try:
            return await self._attach(name, trid, host, options)
        finally:
            self._attaching.discard(key)

    async def _attach(self, name: str, trid: Trid, host: Host, options: ControllerOptions) -> list[str]:
        group = self.groups.get(name) or Group(name, self.app, self.options, self)
        controller = Controller(name, trid, host, options, self.options, group, self.app.spawn)
        try:
            await controller.attach()
        except (NvmeError, OSError, ValueError) as failure:
            log.error("%s: cannot attach the controller at %s:%s: %s", name, trid.traddr, trid.trsvcid, failure)
            raise error(errno.EIO) from None
        group = self.groups.get(name) or group
        try:
            if group.controllers and not options.multipath:
                await self._add_alternative(group, controller)
                return sorted(bdev.name for bdev in group.bdevs.values())
            group.check(controller)
        except OSError:
            await controller.shut_down()
            raise
        controller.owner = group
        self.groups[name] = group
        self.polls_hotplug = True
        group.add(controller)
        await group.examined()
        return [bdev.name for nsid, bdev in sorted(group.bdevs.items()) if controller in bdev.controllers]

    async def _add_alternative(self, group: Group, new: Controller) -> None:
        """The ``failover`` mode: the new path is used when the one in use breaks; until then there is no connection."""
        controller = group.controllers[0]
        for nsid, namespace in controller.namespaces.items():
            other = new.namespaces.get(nsid)
            if other is None or other.uuid != namespace.uuid:
                raise error(errno.EINVAL)
        controller.trids.append(new.trid)
        await new.shut_down()

    async def detach(self, name: str, wanted: dict[str, str]) -> None:
        """Detach the paths of ``name`` that have all wanted fields: a :class:`Trid`'s, ``hostaddr``, ``hostsvcid``.

        Raises ``OSError``: ENODEV for an unknown name, ENXIO if no path matches.
        """
        group = self.groups.get(name)
        if group is None:
            raise error(errno.ENODEV)

        def matches(controller: Controller, trid: Trid) -> bool:
            fields = {**vars(trid), "hostaddr": controller.host.address, "hostsvcid": controller.host.service}
            return all(fields[key].lower() == value.lower() for key, value in wanted.items())

        found = False
        leaving = []
        for controller in list(group.controllers):
            matching = [trid for trid in controller.trids if matches(controller, trid)]
            if not matching or controller.state == State.DELETING:
                continue
            found = True
            rest = [trid for trid in controller.trids if trid not in matching]
            if not rest:
                leaving.append(controller)
                continue
            moved = controller.trid in matching
            controller.trids = rest
            if moved:
                await controller.reset()
        if not found:
            raise error(errno.ENXIO)
        results = await asyncio.gather(*(group.remove(each) for each in leaving), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def discard_if_empty(self, group: Group) -> None:
        if not group.controllers and self.groups.get(group.name) is group:
            del self.groups[group.name]

    async def shutdown(self) -> None:
        """Leave every target in good order: what is attached now is not to time out there."""
        for discovery in list(self.discoveries.values()):
            await discovery.stop(detach=False)
        controllers = [controller for _unused, controller in self.controllers()]
        await asyncio.gather(*(each.shut_down() for each in controllers), return_exceptions=True)

    # What framework_get_config tells

    def config(self) -> list[Any]:
        calls: list[Any] = [{"method": "bdev_nvme_set_options", "params": dict(self.options)}]
        calls.append(
            [
                _attach_call(group, controller, trid)
                for group, controller in self.controllers()
                if not controller.options.from_discovery
                for trid in controller.trids
            ]
        )
        for group in self.groups.values():
            calls += [_policy_call(bdev) for bdev in group.bdevs.values() if bdev.policy == ACTIVE_ACTIVE]
        calls += [discovery.config() for discovery in self.discoveries.values()]
        return [*calls, {"method": "bdev_nvme_set_hotplug", "params": dict(self.hotplug)}]


def _attach_call(group: Group, controller: Controller, trid: Trid) -> dict[str, Any]:
    options, host = controller.options, controller.host
    params: dict[str, Any] = {
        "name": group.name,
        **trid.as_json(),
        "prchk_reftag": False,
        "prchk_guard": False,
        "ctrlr_loss_timeout_sec": options.loss_timeout,
        "reconnect_delay_sec": options.reconnect_delay,
        "fast_io_fail_timeout_sec": options.fast_io_fail_timeout,
        "hostnqn": host.nqn,
        "hdgst": options.header_digest,
        "ddgst": options.data_digest,
        "multipath": "multipath" if options.multipath else "failover",
        "num_io_queues": controller.io_queues.number,
    }
    if host.address:
        params["hostaddr"] = host.address
    if host.service:
        params["hostsvcid"] = host.service
    if options.dhchap_key:
        params["dhchap_key"] = options.dhchap_key.name
    if options.dhchap_ctrlr_key:
        params["dhchap_ctrlr_key"] = options.dhchap_ctrlr_key.name
    return {"method": "bdev_nvme_attach_controller", "params": params}


def _policy_call(bdev: NvmeBdev) -> dict[str, Any]:
    params: dict[str, Any] = {"name": bdev.name, "policy": bdev.policy, "selector": bdev.selector}
    if bdev.selector == "round_robin":
        params["rr_min_io"] = bdev.min_io
    return {"method": "bdev_nvme_set_multipath_policy", "params": params}


def setup(app: App) -> NvmeControllers:
    """The family's state; see :class:`~spdk_emulator.app.App`."""
    controllers = NvmeControllers(app)
    app.add_config("bdev", controllers.config)
    app.framework.threads.add_pollers(controllers.pollers)
    return controllers
