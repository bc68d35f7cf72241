"""JSON-RPC methods of NVMe controllers, their bdevs and paths, and of discovery services."""

from __future__ import annotations

import errno
import logging
import os
import struct
from typing import TYPE_CHECKING, Any

from ..jsonrpc.errors import INTERNAL_ERROR, INVALID_PARAMS, RpcError
from ..jsonrpc.params import array, boolean, enum, int32, obj, string, uint8, uint16, uint32, uint64
from ..jsonrpc.registry import ANY, Param, method
from ..nvme_tcp import digests, nvme
from ..nvme_tcp.host import HostQueue
from ..nvme_tcp.nvme import Lid
from .bdev import ACTIVE_ACTIVE, ACTIVE_PASSIVE, QUEUE_DEPTH, ROUND_ROBIN, NvmeBdev
from .connection import NvmeError, Trid
from .controller import Controller
from .discovery import Discovery
from .models import HOTPLUG_PERIOD, Group
from .options import ControllerOptions

if TYPE_CHECKING:
    from ..app import App
    from ..framework.keyring import Key

log = logging.getLogger(__name__)

_MAX_QUEUES = 65536
_DEFAULT_MAX_BDEVS = 128
_LIMITS = {"traddr": 256, "trsvcid": 32, "subnqn": 223, "hostnqn": 223, "hostaddr": 256, "hostsvcid": 32}
"""The longest strings, in bytes."""
_FAMILIES = {"ipv4": "IPv4", "ipv6": "IPv6", "ib": "IB", "fc": "FC"}

_POLICY = enum(ACTIVE_PASSIVE, ACTIVE_ACTIVE)
_SELECTOR = enum(ROUND_ROBIN, QUEUE_DEPTH)
_MULTIPATH = obj({"policy": Param(_POLICY), "selector": Param(_SELECTOR), "min_io": Param(uint32)})
_NAME = {"name": Param(string, required=True)}
_CONTROLLER = {**_NAME, "cntlid": Param(uint16, default=0)}
_TIMEOUTS = {
    "ctrlr_loss_timeout_sec": Param(int32),
    "reconnect_delay_sec": Param(uint32),
    "fast_io_fail_timeout_sec": Param(uint32),
}


def _failed(number: int, message: str) -> RpcError:
    return RpcError(-number, message)


# Options

_OPTIONS = {
    "action_on_timeout": enum("none", "reset", "abort"),
    "timeout_us": uint64,
    "timeout_admin_us": uint64,
    "keep_alive_timeout_ms": uint32,
    "arbitration_burst": uint32,
    "low_priority_weight": uint32,
    "medium_priority_weight": uint32,
    "high_priority_weight": uint32,
    "nvme_adminq_poll_period_us": uint64,
    "nvme_ioq_poll_period_us": uint64,
    "io_queue_requests": uint32,
    "delay_cmd_submit": boolean,
    "transport_retry_count": uint32,
    "bdev_retry_count": int32,
    "transport_ack_timeout": uint8,
    "ctrlr_loss_timeout_sec": int32,
    "reconnect_delay_sec": uint32,
    "fast_io_fail_timeout_sec": uint32,
    "disable_auto_failback": boolean,
    "generate_uuids": boolean,
    "transport_tos": uint8,
    "nvme_error_stat": boolean,
    "rdma_srq_size": uint32,
    "io_path_stat": boolean,
    "allow_accel_sequence": boolean,
    "rdma_max_cq_size": uint32,
    "rdma_cm_event_timeout_ms": uint16,
    "dhchap_digests": array(enum("sha256", "sha384", "sha512")),
    "dhchap_dhgroups": array(enum("null", "ffdhe2048", "ffdhe3072", "ffdhe4096", "ffdhe6144", "ffdhe8192")),
    "rdma_umr_per_io": boolean,
    "tcp_connect_timeout_ms": uint32,
    "enable_flush": boolean,
    "multipath_opts": _MULTIPATH,
}


@method("bdev_nvme_set_options", params={name: Param(kind) for name, kind in _OPTIONS.items()}, state=ANY)
def bdev_nvme_set_options(app: App, **given: Any) -> bool:
    wanted = {name: value for name, value in given.items() if value is not None}
    if "multipath_opts" in wanted:
        before = app.nvme.options["multipath_opts"]
        wanted["multipath_opts"] = _checked_multipath(wanted["multipath_opts"], before)
    try:
        app.nvme.set_options(wanted)
    except PermissionError:
        raise _failed(errno.EPERM, "RPC not permitted with nvme controllers already attached") from None
    return True


def _checked_multipath(given: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """The multipath options as they are told: those of active_active only where that is the policy."""
    merged = {**before, **{name: value for name, value in given.items() if value is not None}}
    if merged["policy"] == ACTIVE_PASSIVE:
        return {"policy": ACTIVE_PASSIVE}
    merged.setdefault("selector", ROUND_ROBIN)
    if merged["selector"] == ROUND_ROBIN and merged.setdefault("min_io", 1) == 0:
        raise RpcError.from_errno(errno.EINVAL)
    return merged


@method(
    "bdev_nvme_set_hotplug",
    params={"enable": Param(boolean, required=True), "period_us": Param(uint64, default=0)},
    bad_params=(INVALID_PARAMS, os.strerror(errno.EINVAL)),
)
def bdev_nvme_set_hotplug(app: App, enable: bool, period_us: int) -> bool:
    """Kept, for ``framework_get_config`` tells it; there are no PCI devices to look for."""
    most = 10_000_000
    app.nvme.hotplug = {"period_us": min(period_us, most) or HOTPLUG_PERIOD, "enable": enable}
    app.nvme.polls_hotplug = True
    return True


# Controllers


def _check_lengths(given: dict[str, str]) -> None:
    for name, value in given.items():
        if name in _LIMITS and len(value.encode()) > _LIMITS[name]:
            raise _failed(errno.EINVAL, f"{name} too long: {value}")


def _family(given: str) -> str:
    try:
        return _FAMILIES[given.lower()]
    except KeyError:
        raise _failed(errno.EINVAL, f"Failed to parse adrfam: {given}") from None


def _transport(given: str) -> str:
    if len(given) > 32:
        raise _failed(errno.EINVAL, f"Failed to parse trtype: {given}")
    return given.upper()


def _trid(trtype: str, traddr: str, adrfam: str | None, trsvcid: str, subnqn: str) -> Trid:
    kind = _transport(trtype)
    _check_lengths({"traddr": traddr})
    family = _family(adrfam) if adrfam is not None else ("IPv6" if ":" in traddr else "IPv4")
    _check_lengths({"trsvcid": trsvcid, "subnqn": subnqn})
    return Trid(kind, family, traddr, trsvcid, subnqn)


def _timeouts(app: App, given: dict[str, Any]) -> dict[str, int]:
    """The three timeouts; one that is left out has its value from ``bdev_nvme_set_options``."""
    names = {
        "loss_timeout": "ctrlr_loss_timeout_sec",
        "reconnect_delay": "reconnect_delay_sec",
        "fast_io_fail_timeout": "fast_io_fail_timeout_sec",
    }
    return {field: given[name] if given[name] is not None else app.nvme.options[name] for field, name in names.items()}


@method(
    "bdev_nvme_attach_controller",
    params={
        **_NAME,
        "trtype": Param(string, required=True),
        "traddr": Param(string, required=True),
        "adrfam": Param(string),
        "trsvcid": Param(string, default=""),
        "priority": Param(string),
        "subnqn": Param(string, default=""),
        "hostnqn": Param(string),
        "hostaddr": Param(string, default=""),
        "hostsvcid": Param(string, default=""),
        "prchk_reftag": Param(boolean, default=False),
        "prchk_guard": Param(boolean, default=False),
        "hdgst": Param(boolean, default=False),
        "ddgst": Param(boolean, default=False),
        "fabrics_connect_timeout_us": Param(uint64),
        "multipath": Param(enum("disable", "failover", "multipath"), default="multipath"),
        "num_io_queues": Param(uint32, default=ControllerOptions.num_io_queues),
        **_TIMEOUTS,
        "psk": Param(string),
        "max_bdevs": Param(uint32, default=_DEFAULT_MAX_BDEVS),
        "dhchap_key": Param(string),
        "dhchap_ctrlr_key": Param(string),
        "allow_unrecognized_csi": Param(boolean, default=False),
        "multipath_opts": Param(_MULTIPATH),
    },
)
async def bdev_nvme_attach_controller(app: App, name: str, max_bdevs: int, **given: Any) -> list[str]:
    if max_bdevs == 0:
        raise _failed(errno.EINVAL, "max_bdevs cannot be zero")
    trid = _trid(given["trtype"], given["traddr"], given["adrfam"], given["trsvcid"], given["subnqn"])
    texts = {key: given[key] for key in ("hostnqn", "hostaddr", "hostsvcid") if given[key]}
    _check_lengths(texts)
    host = app.nvme.host(given["hostnqn"], given["hostaddr"], given["hostsvcid"])
    group = app.nvme.groups.get(name)
    if group is not None:
        _check_second_path(group, trid, host, given)
    queues = given["num_io_queues"]
    if queues == 0 or queues > _MAX_QUEUES:
        raise _failed(errno.EINVAL, f"num_io_queues out of bounds, min: 1 max: {_MAX_QUEUES}")
    _refuse_tls(app, given)
    if (given["hdgst"] or given["ddgst"]) and not digests.there_are():
        raise _failed(errno.ENOTSUP, digests.WITHOUT)
    options = ControllerOptions(
        **_timeouts(app, given),
        header_digest=given["hdgst"],
        data_digest=given["ddgst"],
        multipath=given["multipath"] == "multipath",
        num_io_queues=queues,
        **_keys(app, given),
    )
    names = await app.nvme.attach(name, trid, host, options)
    if given["multipath_opts"] is not None:
        _set_policies(app.nvme.groups[name], given["multipath_opts"])
    if len(names) > max_bdevs:
        raise RpcError.from_errno(errno.ERANGE)
    return names


def _check_second_path(group: Group, trid: Trid, host: Any, given: dict[str, Any]) -> None:
    """What can be said against another path before it is connected."""
    name, first = group.name, group.controllers[0]
    if given["multipath"] == "disable":
        raise _failed(errno.EALREADY, f"A controller named {name} already exists and multipath is disabled")
    here = (trid.traddr, trid.trsvcid, host.address, host.service)
    if here == (first.trid.traddr, first.trid.trsvcid, first.host.address, first.host.service):
        text = f"A controller named {name} already exists with the specified network path"
        raise _failed(errno.EALREADY, text)
    for what, new, old in (
        ("subnqn", trid.subnqn, first.trid.subnqn),
        ("hostnqn", host.nqn, first.host.nqn),
    ):
        if new != old:
            text = f"A controller named {name} already exists, but uses a different {what} ({old})"
            raise _failed(errno.EINVAL, text)
    if given["prchk_reftag"] or given["prchk_guard"]:
        text = f"A controller named {name} already exists. To add a path, do not specify PI options."
        raise _failed(errno.EINVAL, text)


def _keys(app: App, given: dict[str, Any]) -> dict[str, Key | None]:
    """The keys of a controller. One for it needs one for us."""
    keys = {}
    for parameter in ("dhchap_key", "dhchap_ctrlr_key"):
        name = given[parameter]
        keys[parameter] = app.framework.keyring.find(name) if name is not None else None
        if name is not None and keys[parameter] is None:
            raise RpcError.from_errno(errno.ENOKEY)
    if keys["dhchap_ctrlr_key"] and not keys["dhchap_key"]:
        raise RpcError.from_errno(errno.EINVAL)
    return keys


def _refuse_tls(app: App, given: dict[str, Any]) -> None:
    """TLS is not here: connecting without what was asked for would be worse than refusing."""
    if given["psk"] is not None:
        if app.framework.keyring.find(given["psk"]) is None:
            raise RpcError.from_errno(errno.ENOKEY)
        raise RpcError.from_errno(errno.EOPNOTSUPP)


@method(
    "bdev_nvme_set_keys",
    params={
        "name": Param(string, required=True),
        "dhchap_key": Param(string),
        "dhchap_ctrlr_key": Param(string),
    },
)
async def bdev_nvme_set_keys(app: App, name: str, **given: Any) -> bool:
    """Other keys for the connections to come; the ones that there are prove them at once."""
    group = app.nvme.groups.get(name)
    if group is None:
        raise RpcError.from_errno(errno.ENODEV)
    keys = _keys(app, given)
    for controller in list(group.controllers):
        former = (controller.options.dhchap_key, controller.options.dhchap_ctrlr_key)
        controller.set_keys(keys["dhchap_key"], keys["dhchap_ctrlr_key"])
        try:
            if controller.live and controller.options.dhchap_key:
                await controller.authenticate()
        except (NvmeError, OSError) as error:
            log.error("%s", error)
            controller.set_keys(*former)
            raise RpcError.from_errno(errno.EACCES) from None
    return True


def _set_policies(group: Group, given: dict[str, Any]) -> None:
    for bdev in group.bdevs.values():
        checked = _checked_multipath(given, {"policy": bdev.policy})
        bdev.set_policy(checked["policy"], checked.get("selector", ROUND_ROBIN), checked.get("min_io", 1))


@method("bdev_nvme_get_controllers", params={"name": Param(string)})
def bdev_nvme_get_controllers(app: App, name: str | None) -> list[dict[str, Any]]:
    if name is None:
        return [_describe(group) for group in app.nvme.groups.values()]
    group = app.nvme.groups.get(name)
    if group is None:
        raise _failed(errno.EINVAL, f"Controller {name} does not exist")
    return [_describe(group)]


def _describe(group: Group) -> dict[str, Any]:
    return {"name": group.name, "ctrlrs": [_describe_controller(each) for each in group.controllers]}


def _describe_controller(controller: Controller) -> dict[str, Any]:
    host = controller.host
    answer: dict[str, Any] = {"state": controller.state.value, "trid": controller.trid.as_json()}
    if len(controller.trids) > 1:
        answer["alternate_trids"] = [trid.as_json() for trid in controller.trids[1:]]
    answer["cntlid"] = controller.cntlid
    answer["host"] = {"nqn": host.nqn, "addr": host.address, "svcid": host.service, "no_shn_notification": False}
    return answer


@method(
    "bdev_nvme_detach_controller",
    params={
        **_NAME,
        "trtype": Param(string),
        "traddr": Param(string),
        "adrfam": Param(string),
        "trsvcid": Param(string),
        "subnqn": Param(string),
        "hostaddr": Param(string),
        "hostsvcid": Param(string),
    },
)
async def bdev_nvme_detach_controller(app: App, name: str, **given: str | None) -> bool:
    wanted = {key: value for key, value in given.items() if value is not None}
    if "trtype" in wanted:
        wanted["trtype"] = _transport(wanted["trtype"])
    if "adrfam" in wanted:
        wanted["adrfam"] = _family(wanted["adrfam"])
    _check_lengths(wanted)
    await app.nvme.detach(name, wanted)
    return True


@method("bdev_nvme_reset_controller", params=_CONTROLLER, bad_params=(INVALID_PARAMS, os.strerror(errno.EINVAL)))
async def bdev_nvme_reset_controller(app: App, name: str, cntlid: int) -> bool:
    group = app.nvme.groups.get(name)
    if group is None:
        raise RpcError.from_errno(errno.ENODEV)
    if cntlid:
        controller = _by_cntlid(group, cntlid)
        good = await controller.reset()
    else:
        good = await group.reset()
    if not good:
        raise RpcError.from_errno(errno.EIO)
    return True


def _by_cntlid(group: Group, cntlid: int) -> Controller:
    for controller in group.controllers:
        if controller.cntlid == cntlid:
            return controller
    raise RpcError.from_errno(errno.ENODEV)


_HEALTH = struct.Struct("<BHBBB26x" + "16s" * 10 + "II8H")
_HEALTH_SIZE = 512
_ZERO_CELSIUS = 273
_HEALTH_COUNTERS = (
    "data_units_read",
    "data_units_written",
    "host_read_commands",
    "host_write_commands",
    "controller_busy_time",
    "power_cycles",
    "power_on_hours",
    "unsafe_shutdowns",
    "media_errors",
    "num_err_log_entries",
)


@method("bdev_nvme_get_controller_health_info", params=_NAME, bad_params=(INTERNAL_ERROR, "Invalid parameters"))
async def bdev_nvme_get_controller_health_info(app: App, name: str) -> dict[str, Any]:
    """Log page 2 (NVMe base specification 2.0, 5.16.1.3)."""
    group = app.nvme.groups.get(name)
    if group is None:
        raise RpcError(INTERNAL_ERROR, "Device not found")
    controller = group.controllers[0]
    try:
        # SPDK asks for the temperature threshold first and goes no further where there is none.
        await controller.admin.get_feature(nvme.Feature.TEMPERATURE_THRESHOLD)
        page = await controller.admin.log_page(Lid.HEALTH, _HEALTH_SIZE, nsid=nvme.BROADCAST_NSID)
    except (NvmeError, OSError):
        raise RpcError(INTERNAL_ERROR, "Internal error.") from None
    warning, temperature, spare, threshold, used, *rest = _HEALTH.unpack_from(page)
    counters, (warning_time, critical_time), sensors = rest[:10], rest[10:12], rest[12:]
    data = controller.data
    answer: dict[str, Any] = {
        "model_number": nvme.text(data["mn"]).strip(),
        "serial_number": nvme.text(data["sn"]).strip(),
        "firmware_revision": nvme.text(data["fr"]).strip(),
        "traddr": controller.trid.traddr,
        "critical_warning": warning,
        "temperature_celsius": (temperature - _ZERO_CELSIUS) % 2**64,
        "available_spare_percentage": spare,
        "available_spare_threshold_percentage": threshold,
        "percentage_used": used,
    }
    for counter, value in zip(_HEALTH_COUNTERS, counters, strict=True):
        answer[counter] = int.from_bytes(value, "little")
    answer["warning_temperature_time_minutes"] = warning_time
    answer["critical_composite_temperature_time_minutes"] = critical_time
    for sensor in sensors:
        if sensor:
            answer["temperature_sensor_celsius"] = sensor - _ZERO_CELSIUS
    return answer


# Paths


def _bdevs(app: App) -> list[NvmeBdev]:
    return [bdev for group in app.nvme.groups.values() for bdev in group.bdevs.values()]


@method(
    "bdev_nvme_get_io_paths",
    params={"name": Param(string)},
    bad_params=(INVALID_PARAMS, "bdev_nvme_get_io_paths requires no parameters"),
)
def bdev_nvme_get_io_paths(app: App, name: str | None) -> dict[str, Any]:
    """For each thread that may do I/O: the paths of its bdevs, by controller."""
    threads = {thread for bdev in _bdevs(app) for thread in bdev.threads}
    wanted = [bdev for bdev in _bdevs(app) if name in (None, bdev.name)]
    return {
        "poll_groups": [
            {
                "thread": _thread_name(app, thread),
                "io_paths": [
                    _describe_io_path(bdev, controller, thread)
                    for _unused, controller in app.nvme.controllers()
                    for bdev in wanted
                    if thread in bdev.threads and controller in bdev.controllers
                ],
            }
            for thread in sorted(threads)
        ]
    }


def _thread_name(app: App, number: int) -> str:
    thread = app.framework.threads.get(number)
    assert thread is not None  # nobody's channel outlives its thread
    return thread.name


def _describe_io_path(bdev: NvmeBdev, controller: Controller, thread: int) -> dict[str, Any]:
    namespace, trid = bdev.namespace(controller), controller.trid
    transport = {"trtype": trid.trtype, "traddr": trid.traddr, "trsvcid": trid.trsvcid, "adrfam": trid.adrfam}
    return {
        "bdev_name": bdev.name,
        "cntlid": controller.cntlid,
        "current": controller is bdev.path and bdev.stats.of(thread).used,
        "connected": controller.live and controller.io_queues.has(thread),
        "accessible": namespace is not None and namespace.usable,
        "transport": transport,
    }


@method("bdev_nvme_set_preferred_path", params={**_NAME, "cntlid": Param(uint16, required=True)})
def bdev_nvme_set_preferred_path(app: App, name: str, cntlid: int) -> bool:
    bdev = app.nvme.bdev(name)
    for controller in bdev.controllers:
        if controller.cntlid == cntlid:
            bdev.prefer(controller)
            return True
    raise RpcError.from_errno(errno.ENODEV)


@method(
    "bdev_nvme_set_multipath_policy",
    params={
        **_NAME,
        "policy": Param(_POLICY, required=True),
        "selector": Param(_SELECTOR),
        "rr_min_io": Param(uint32),
    },
)
def bdev_nvme_set_multipath_policy(
    app: App, name: str, policy: str, selector: str | None, rr_min_io: int | None
) -> bool:
    if policy == ACTIVE_PASSIVE and selector == QUEUE_DEPTH:
        raise RpcError(INTERNAL_ERROR, "spdk_json_decode_object failed")
    bdev = app.nvme.bdev(name)
    selector = selector or ROUND_ROBIN
    if rr_min_io == 0 or (rr_min_io is not None and (policy, selector) != (ACTIVE_ACTIVE, ROUND_ROBIN)):
        raise RpcError.from_errno(errno.EINVAL)
    bdev.set_policy(policy, selector, rr_min_io or 1)
    return True


@method(
    "bdev_nvme_get_transport_statistics",
    bad_params=(INVALID_PARAMS, "'bdev_nvme_get_transport_statistics' requires no arguments"),
)
def bdev_nvme_get_transport_statistics(app: App) -> dict[str, Any]:
    """For each thread that may do I/O. Nothing is polled here: a receive counts as a poll that found something."""
    connected = [controller.io_queues.connected for _unused, controller in app.nvme.controllers()]
    return {
        "poll_groups": [
            {
                "thread": _thread_name(app, thread),
                "transports": [_describe_transport([queues[thread] for queues in connected if thread in queues])],
            }
            for thread in sorted({thread for bdev in _bdevs(app) for thread in bdev.threads})
        ]
    }


def _describe_transport(queues: list[HostQueue]) -> dict[str, Any]:
    receives = sum(queue.receives for queue in queues)
    return {
        "trname": "TCP",
        "polls": receives,
        "idle_polls": 0,
        "socket_completions": receives,
        "nvme_completions": sum(queue.submitted - queue.outstanding for queue in queues),
        "queued_requests": sum(queue.queued for queue in queues),
        "submitted_requests": sum(queue.submitted for queue in queues),
    }


# Discovery


@method(
    "bdev_nvme_start_discovery",
    params={
        **_NAME,
        "trtype": Param(string, required=True),
        "traddr": Param(string, required=True),
        "adrfam": Param(string),
        "trsvcid": Param(string, default=""),
        "hostnqn": Param(string),
        "wait_for_attach": Param(boolean, default=False),
        "attach_timeout_ms": Param(uint64, default=0),
        "ctrlr_loss_timeout_sec": Param(int32, default=0),
        "reconnect_delay_sec": Param(uint32, default=0),
        "fast_io_fail_timeout_sec": Param(uint32, default=0),
    },
)
async def bdev_nvme_start_discovery(
    app: App, name: str, wait_for_attach: bool, attach_timeout_ms: int, **given: Any
) -> bool:
    trid = _trid(given["trtype"], given["traddr"], given["adrfam"], given["trsvcid"], nvme.DISCOVERY_NQN)
    discoveries = app.nvme.discoveries
    if name in discoveries or any(trid in (each.trid, *each.referrals) for each in discoveries.values()):
        raise RpcError.from_errno(errno.EEXIST)
    options = ControllerOptions(**_timeouts(app, given), from_discovery=True)
    wait = wait_for_attach or attach_timeout_ms > 0
    host = app.nvme.host(given["hostnqn"])
    discovery = Discovery(name, trid, host, options, app.nvme, attach_timeout_ms / 1000, wait)
    discoveries[name] = discovery
    if wait:
        await discovery.attached()
    return True


@method("bdev_nvme_stop_discovery", params=_NAME)
async def bdev_nvme_stop_discovery(app: App, name: str) -> bool:
    discovery = app.nvme.discoveries.get(name)
    if discovery is None:
        raise RpcError.from_errno(errno.ENOENT)
    await discovery.stop()
    return True


@method("bdev_nvme_get_discovery_info")
def bdev_nvme_get_discovery_info(app: App) -> list[dict[str, Any]]:
    return [discovery.as_json() for discovery in app.nvme.discoveries.values()]
