"""JSON-RPC methods of the NVMe-oF target.

What the target cannot do is refused as by an SPDK without that feature: TLS (``psk``, ``secure_channel``), passthrough
of commands to NVMe bdevs, NSSR, a second target.
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..bdev.stats import TICK_RATE
from ..jsonrpc.errors import INTERNAL_ERROR, INVALID_PARAMS, RpcError
from ..jsonrpc.params import array, boolean, enum, obj, string, uint8, uint16, uint32, uint64, uuid
from ..jsonrpc.registry import STARTUP, Param, method
from ..nvme_tcp.nvme import DISCOVERY_NQN
from .describe import (
    ADMIN_PASSTHROUGH,
    describe_authentication,
    describe_listener,
    describe_referral,
    describe_subsystem,
    describe_transport,
)
from .models import IP_VERSIONS, Nvmf, Referral, TransportOptions
from .subsystem import (
    ANA_STATES,
    DEFAULT_NAMESPACES,
    FILTER_FIELDS,
    MAX_CNTLID,
    MIN_CNTLID,
    MODEL_LIMIT,
    MOST_NAMESPACES,
    SERIAL_LIMIT,
    Address,
    Host,
    NvmfError,
    Subsystem,
    SubsystemOptions,
    is_valid_nqn,
)

if TYPE_CHECKING:
    from ..app import App
    from ..framework.keyring import Key

TARGET_NAME = "nvmf_tgt"
THREAD_NAME = "nvmf_tgt_poll_group_000"
_BAD_PARAMS = (INVALID_PARAMS, "Invalid parameters")


def _false(value: Any) -> bool:
    """A boolean that can only be false here."""
    if boolean(value):
        raise ValueError("not supported")
    return False


def _limited(limit: int) -> Callable[[Any], str]:
    def decode(value: Any) -> str:
        text = string(value)
        if len(text) > limit:
            raise ValueError(f"{text!r} is longer than {limit} characters")
        return text

    return decode


def _hex(size: int) -> Callable[[Any], bytes]:
    """``size`` bytes as hexadecimal digits without anything between them."""

    def decode(value: Any) -> bytes:
        text = string(value)
        if len(text) != 2 * size:
            raise ValueError(f"{text!r} is no {size} bytes in hexadecimal")
        return bytes.fromhex(text)

    return decode


def _queue_count(value: Any) -> int:
    """I/O queues and the admin queue together fit 16 bits."""
    count = uint16(value)
    if not 1 <= count < 2**16 - 1:
        raise ValueError(f"{count} is no number of I/O queues")
    return count


_ADDRESS_FIELDS = obj(
    {
        "trtype": Param(string, required=True),
        "adrfam": Param(string),
        "traddr": Param(string, required=True),
        "trsvcid": Param(string, default=""),
    }
)


def _address(value: Any) -> Address:
    given = _ADDRESS_FIELDS(value)
    families = {name.lower(): name for name in IP_VERSIONS}
    family = families.get((given["adrfam"] or "IPv4").lower())
    if family is None or len(given["traddr"]) > 256 or len(given["trsvcid"]) > 32:
        raise ValueError(f"{value!r} is no address")
    return Address(given["trtype"].upper(), family, given["traddr"], given["trsvcid"])


def _discovery_filter(value: Any) -> frozenset[str]:
    names = string(value).split(",")
    if names == ["match_any"]:
        return frozenset()
    if not all(name in FILTER_FIELDS for name in names):
        raise ValueError(f"{value!r} is no discovery filter")
    return frozenset(names)


_NQN = {"nqn": Param(string, required=True)}
_ANA_STATE = enum(*ANA_STATES)


def _target_method(
    name: str, params: dict[str, Param], no_target: str = "Unable to find a target.", relaxed: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A method of the one target: with ``tgt_name``, and a first parameter that is the App."""

    def register(call: Callable[..., Any]) -> Callable[..., Any]:
        @method(name, params={**params, "tgt_name": Param(string)}, bad_params=_BAD_PARAMS, relaxed=relaxed)
        @functools.wraps(call)
        def checked(app: App, tgt_name: str | None, **given: Any) -> Any:
            if tgt_name not in (None, TARGET_NAME):
                raise RpcError(INTERNAL_ERROR, no_target.format(tgt_name))
            return call(app, **given)

        return call

    return register


def _subsystem(target: Nvmf, nqn: str) -> Subsystem:
    subsystem = target.subsystems.get(nqn)
    if subsystem is None:
        raise RpcError.invalid_params()
    return subsystem


def _key(app: App, name: str | None) -> Key | None:
    """The named key, held."""
    if name is None:
        return None
    key = app.framework.keyring.find(name)
    if key is None:
        raise RpcError.invalid_params()
    return key.take()


def _internal_error() -> RpcError:
    return RpcError(INTERNAL_ERROR, "Internal error")


# Before the framework starts


@method(
    "nvmf_set_config",
    params={
        "admin_cmd_passthru": Param(obj({name: Param(_false) for name in ADMIN_PASSTHROUGH})),
        "poll_groups_mask": Param(string),
        "discovery_filter": Param(_discovery_filter),
        "dhchap_digests": Param(array(enum("sha256", "sha384", "sha512"))),
        "dhchap_dhgroups": Param(array(enum("null", "ffdhe2048", "ffdhe3072", "ffdhe4096", "ffdhe6144", "ffdhe8192"))),
        "dup_host_policy": Param(enum("allow")),
    },
    state=STARTUP,
    bad_params=_BAD_PARAMS,
)
def nvmf_set_config(app: App, **given: Any) -> bool:
    for name in ("discovery_filter", "dhchap_digests", "dhchap_dhgroups"):
        if given[name] is not None:
            setattr(app.nvmf.config, name, given[name])
    return True


@method(
    "nvmf_set_max_subsystems",
    params={"max_subsystems": Param(uint32, required=True)},
    state=STARTUP,
    bad_params=_BAD_PARAMS,
)
def nvmf_set_max_subsystems(app: App, max_subsystems: int) -> bool:
    if app.nvmf.config.max_subsystems is not None:
        raise RpcError(INTERNAL_ERROR, "Must not call more than once")
    app.nvmf.config.max_subsystems = max_subsystems
    return True


@method(
    "nvmf_set_crdt",
    params={f"crdt{number}": Param(uint16, default=0) for number in (1, 2, 3)},
    state=STARTUP,
    bad_params=_BAD_PARAMS,
)
def nvmf_set_crdt(app: App, crdt1: int, crdt2: int, crdt3: int) -> bool:
    app.nvmf.crdt = (crdt1, crdt2, crdt3)
    return True


# Target and transport


@method("nvmf_get_targets", bad_params=(INVALID_PARAMS, "nvmf_get_targets has no parameters."))
def nvmf_get_targets(app: App) -> list[str]:
    return [TARGET_NAME]


_TRANSPORT_PARAMS = {
    "max_queue_depth": Param(uint16),
    "max_io_qpairs_per_ctrlr": Param(_queue_count),
    "in_capsule_data_size": Param(uint32),
    "max_io_size": Param(uint32),
    "io_unit_size": Param(uint32),
    "max_aq_depth": Param(uint32),
    "num_shared_buffers": Param(uint32),
    "buf_cache_size": Param(uint32),
    "iobuf_small_cache_size": Param(uint32),
    "iobuf_large_cache_size": Param(uint32),
    "dif_insert_or_strip": Param(_false),
    "abort_timeout_sec": Param(uint32),
    "zcopy": Param(boolean),
    "acceptor_poll_rate": Param(uint32),
    "ack_timeout": Param(uint32),
    "data_wr_pool_size": Param(uint32),
    "disable_command_passthru": Param(boolean),
    "kas": Param(uint16),
    "min_kato": Param(uint32),
    "c2h_success": Param(boolean),
    "sock_priority": Param(uint32),
}
_LEAST_AQ_DEPTH = 32
_LEAST_IO_SIZE = 8192


@_target_method("nvmf_create_transport", {"trtype": Param(string, required=True), **_TRANSPORT_PARAMS}, relaxed=True)
def nvmf_create_transport(app: App, trtype: str, **given: Any) -> bool:
    if trtype.upper() != "TCP":
        raise RpcError(INVALID_PARAMS, f"Invalid transport type '{trtype}'")
    options = TransportOptions()
    for name, value in given.items():
        if value is not None and hasattr(options, name):
            setattr(options, name, value)
    options.max_aq_depth = max(options.max_aq_depth, _LEAST_AQ_DEPTH)
    if app.nvmf.transport:
        raise RpcError(INTERNAL_ERROR, f"Transport type '{trtype}' already exists")
    size = options.max_io_size
    if size < _LEAST_IO_SIZE or size & (size - 1) or options.max_queue_depth < 2:
        raise RpcError(INTERNAL_ERROR, f"Transport type '{trtype}' create failed")
    app.nvmf.create_transport(options)
    return True


@_target_method("nvmf_get_transports", {"trtype": Param(string)})
def nvmf_get_transports(app: App, trtype: str | None) -> list[dict[str, Any]]:
    transport = app.nvmf.transport
    if trtype is not None and (transport is None or trtype.upper() != transport.trtype):
        raise RpcError.from_errno(errno.ENODEV)
    return [describe_transport(transport)] if transport else []


@_target_method("nvmf_get_stats", {})
def nvmf_get_stats(app: App) -> dict[str, Any]:
    stats, transport = app.nvmf.stats, app.nvmf.transport
    associated = stats.current_admin_qpairs + stats.current_io_qpairs
    return {
        "tick_rate": TICK_RATE,
        "poll_groups": [
            {
                "name": THREAD_NAME,
                "admin_qpairs": stats.admin_qpairs,
                "io_qpairs": stats.io_qpairs,
                "current_admin_qpairs": stats.current_admin_qpairs,
                "current_io_qpairs": stats.current_io_qpairs,
                "current_unassociated_qpairs": len(app.nvmf.connections) - associated,
                "pending_bdev_io": 0,
                "completed_nvme_io": stats.io,
                "transports": [{"trtype": transport.trtype}] if transport else [],
            }
        ],
    }


# Subsystems


@_target_method(
    "nvmf_create_subsystem",
    {
        **_NQN,
        "serial_number": Param(_limited(SERIAL_LIMIT)),
        "model_number": Param(_limited(MODEL_LIMIT)),
        "max_namespaces": Param(uint32, default=0),
        "allow_any_host": Param(boolean, default=False),
        "ana_reporting": Param(boolean),
        "min_cntlid": Param(uint16, default=MIN_CNTLID),
        "max_cntlid": Param(uint16, default=MAX_CNTLID),
        "dmrsl": Param(uint32),
        "wzsl": Param(uint8),
        "passthrough": Param(boolean),
        "enable_nssr": Param(boolean),
        "max_discard_size_kib": Param(uint64),
        "max_write_zeroes_size_kib": Param(uint64),
    },
    no_target="Unable to find target {}",
)
def nvmf_create_subsystem(
    app: App,
    nqn: str,
    allow_any_host: bool,
    max_namespaces: int,
    min_cntlid: int,
    max_cntlid: int,
    max_discard_size_kib: int | None,
    max_write_zeroes_size_kib: int | None,
    **given: Any,
) -> bool:
    failed = RpcError(INTERNAL_ERROR, f"Unable to create subsystem {nqn}")
    texts = [text for text in (given["serial_number"], given["model_number"]) if text is not None]
    if given["passthrough"] or given["enable_nssr"] or max_namespaces > MOST_NAMESPACES:
        raise failed
    if not all(text.isascii() and text.isprintable() for text in texts):
        raise failed
    if not is_valid_nqn(nqn) or nqn in app.nvmf.subsystems:
        raise failed
    if not MIN_CNTLID <= min_cntlid <= max_cntlid <= MAX_CNTLID:
        raise RpcError(INVALID_PARAMS, f"Invalid cntlid range [{min_cntlid}-{max_cntlid}]")
    options = SubsystemOptions(
        max_namespaces=max_namespaces or DEFAULT_NAMESPACES,
        min_cntlid=min_cntlid,
        max_cntlid=max_cntlid,
        **{name: value for name, value in given.items() if value is not None},
    )
    try:
        app.nvmf.create_subsystem(nqn, options, allow_any_host)
    except NvmfError:
        raise failed from None
    return True


@_target_method("nvmf_delete_subsystem", _NQN)
def nvmf_delete_subsystem(app: App, nqn: str) -> bool:
    _subsystem(app.nvmf, nqn)
    app.nvmf.delete_subsystem(nqn)
    return True


@_target_method("nvmf_get_subsystems", {"nqn": Param(string)})
def nvmf_get_subsystems(app: App, nqn: str | None) -> list[dict[str, Any]]:
    if nqn is None:
        return [describe_subsystem(subsystem) for subsystem in app.nvmf]
    if nqn not in app.nvmf.subsystems:
        raise RpcError.from_errno(errno.ENODEV)
    return [describe_subsystem(app.nvmf.subsystems[nqn])]


# Namespaces


_NAMESPACE = obj(
    {
        "nsid": Param(uint32, default=0),
        "bdev_name": Param(string, required=True),
        "ptpl_file": Param(string),
        "nguid": Param(_hex(16), default=bytes(16)),
        "eui64": Param(_hex(8), default=bytes(8)),
        "uuid": Param(uuid),
        "anagrpid": Param(uint32, default=0),
        "no_auto_visible": Param(boolean, default=False),
        "hide_metadata": Param(boolean, default=False),
    }
)


@_target_method("nvmf_subsystem_add_ns", {**_NQN, "namespace": Param(_NAMESPACE, required=True)}, relaxed=True)
def nvmf_subsystem_add_ns(app: App, nqn: str, namespace: dict[str, Any]) -> int:
    if namespace["ptpl_file"] is not None:
        # Reservations, which the file would keep, are not implemented.
        raise RpcError.invalid_params()
    uuid_given = namespace["uuid"]
    try:
        made = _subsystem(app.nvmf, nqn).add_namespace(
            namespace["bdev_name"],
            namespace["nsid"],
            namespace["nguid"] if any(namespace["nguid"]) else b"",
            namespace["eui64"],
            uuid_given if uuid_given is not None and uuid_given.int else None,
            namespace["anagrpid"],
            not namespace["no_auto_visible"],
        )
    except NvmfError:
        raise RpcError.invalid_params() from None
    return made.nsid


@_target_method("nvmf_subsystem_remove_ns", {**_NQN, "nsid": Param(uint32, required=True)})
def nvmf_subsystem_remove_ns(app: App, nqn: str, nsid: int) -> bool:
    try:
        _subsystem(app.nvmf, nqn).remove_namespace(nsid)
    except NvmfError:
        raise RpcError.invalid_params() from None
    return True


_NAMESPACE_HOST = {**_NQN, "nsid": Param(uint32, required=True), "host": Param(string, required=True)}


@_target_method("nvmf_ns_add_host", _NAMESPACE_HOST)
def nvmf_ns_add_host(app: App, nqn: str, nsid: int, host: str) -> bool:
    return _show_namespace(app, nqn, nsid, host, True)


@_target_method("nvmf_ns_remove_host", _NAMESPACE_HOST)
def nvmf_ns_remove_host(app: App, nqn: str, nsid: int, host: str) -> bool:
    return _show_namespace(app, nqn, nsid, host, False)


def _show_namespace(app: App, nqn: str, nsid: int, host: str, visible: bool) -> bool:
    try:
        _subsystem(app.nvmf, nqn).show_namespace(nsid, host, visible)
    except NvmfError:
        raise RpcError.invalid_params() from None
    return True


@_target_method(
    "nvmf_subsystem_set_ns_ana_group",
    {**_NQN, "nsid": Param(uint32, required=True), "anagrpid": Param(uint32, required=True)},
)
def nvmf_subsystem_set_ns_ana_group(app: App, nqn: str, nsid: int, anagrpid: int) -> bool:
    try:
        _subsystem(app.nvmf, nqn).set_ana_group(nsid, anagrpid)
    except NvmfError:
        raise RpcError.invalid_params() from None
    return True


# Listeners


_LISTENER = {**_NQN, "listen_address": Param(_address, required=True)}


@_target_method(
    "nvmf_subsystem_add_listener",
    {
        **_LISTENER,
        "secure_channel": Param(boolean, default=False),
        "ana_state": Param(_ANA_STATE, default="optimized"),
        "sock_impl": Param(string),
    },
    relaxed=True,
)
async def nvmf_subsystem_add_listener(
    app: App, nqn: str, listen_address: Address, secure_channel: bool, ana_state: str, sock_impl: str | None
) -> bool:
    subsystem = _subsystem(app.nvmf, nqn)
    if secure_channel:
        if subsystem.allow_any_host:
            raise RpcError(INTERNAL_ERROR, "Cannot establish secure channel, when 'allow_any_host' is set")
        raise RpcError.invalid_params()
    try:
        await app.nvmf.add_listener(subsystem, listen_address, ana_state)
    except NvmfError:
        raise RpcError.invalid_params() from None
    return True


@_target_method("nvmf_subsystem_remove_listener", _LISTENER)
def nvmf_subsystem_remove_listener(app: App, nqn: str, listen_address: Address) -> bool:
    try:
        app.nvmf.remove_listener(_subsystem(app.nvmf, nqn), listen_address)
    except NvmfError:
        raise RpcError.invalid_params() from None
    return True


@_target_method("nvmf_subsystem_get_listeners", _NQN)
def nvmf_subsystem_get_listeners(app: App, nqn: str) -> list[dict[str, Any]]:
    subsystem = _subsystem(app.nvmf, nqn)

    return [describe_listener(subsystem, listener) for listener in subsystem.listeners]


@_target_method(
    "nvmf_subsystem_listener_set_ana_state",
    {**_LISTENER, "ana_state": Param(_ANA_STATE, required=True), "anagrpid": Param(uint32, default=0)},
)
def nvmf_subsystem_listener_set_ana_state(
    app: App, nqn: str, listen_address: Address, ana_state: str, anagrpid: int
) -> bool:
    subsystem = app.nvmf.subsystems.get(nqn)
    if subsystem is None:
        raise RpcError(INVALID_PARAMS, f"Unable to find subsystem with NQN {nqn}")
    try:
        subsystem.set_ana_state(listen_address, ana_state, anagrpid)
    except NvmfError as error:
        raise RpcError(INTERNAL_ERROR, f"error setting ANA state: {-error.number}") from None
    return True


# Hosts


_HOST = {**_NQN, "host": Param(string, required=True)}
_KEYS = {"dhchap_key": Param(string), "dhchap_ctrlr_key": Param(string)}


@_target_method("nvmf_subsystem_add_host", {**_HOST, **_KEYS, "psk": Param(string)}, relaxed=True)
def nvmf_subsystem_add_host(
    app: App, nqn: str, host: str, dhchap_key: str | None, dhchap_ctrlr_key: str | None, psk: str | None
) -> bool:
    subsystem = _subsystem(app.nvmf, nqn)
    made = Host(host, _key(app, dhchap_key), _key(app, dhchap_ctrlr_key))
    try:
        if psk is not None or (made.dhchap_ctrlr_key and not made.dhchap_key):
            raise NvmfError(errno.EINVAL)
        subsystem.add_host(made)
    except NvmfError:
        made.put_keys()
        raise _internal_error() from None
    return True


@_target_method("nvmf_subsystem_remove_host", {**_HOST, "timeout_ms": Param(uint64)})
def nvmf_subsystem_remove_host(app: App, nqn: str, host: str, timeout_ms: int | None) -> bool:
    try:
        _subsystem(app.nvmf, nqn).remove_host(host)
    except NvmfError:
        raise _internal_error() from None
    return True


@_target_method("nvmf_subsystem_allow_any_host", {**_NQN, "allow_any_host": Param(boolean, required=True)})
def nvmf_subsystem_allow_any_host(app: App, nqn: str, allow_any_host: bool) -> bool:
    _subsystem(app.nvmf, nqn).set_allow_any_host(allow_any_host)
    return True


@_target_method("nvmf_subsystem_set_keys", {**_HOST, **_KEYS}, no_target="Invalid parameters")
def nvmf_subsystem_set_keys(
    app: App, nqn: str, host: str, dhchap_key: str | None, dhchap_ctrlr_key: str | None
) -> bool:
    subsystem = _subsystem(app.nvmf, nqn)
    made = Host(host, _key(app, dhchap_key), _key(app, dhchap_ctrlr_key))
    try:
        if made.dhchap_ctrlr_key and not made.dhchap_key:
            raise NvmfError(errno.EINVAL)
        subsystem.set_keys(host, made.dhchap_key, made.dhchap_ctrlr_key)
    except NvmfError as error:
        made.put_keys()
        raise RpcError.from_errno(error.number) from None
    return True


# Who is connected


@_target_method("nvmf_subsystem_get_controllers", _NQN)
def nvmf_subsystem_get_controllers(app: App, nqn: str) -> list[dict[str, Any]]:
    subsystem = _subsystem(app.nvmf, nqn)
    return [
        {
            "cntlid": controller.cntlid,
            "cntrltype": "discovery" if subsystem.is_discovery else "io",
            "hostnqn": controller.host_nqn,
            "hostid": str(controller.host_id),
            "num_io_qpairs": len(controller.queues),
        }
        for controller in subsystem.controllers.values()
    ]


@_target_method("nvmf_subsystem_get_qpairs", _NQN)
def nvmf_subsystem_get_qpairs(app: App, nqn: str) -> list[dict[str, Any]]:
    return [
        {
            "cntlid": controller.cntlid,
            "qid": qid,
            "state": queue.state,
            "thread": THREAD_NAME,
            "hostnqn": controller.host_nqn,
            "listen_address": queue.address._asdict(),
            "peer_address": queue.address._replace(traddr=queue.peer[0], trsvcid=queue.peer[1])._asdict(),
            **({"auth": describe_authentication(queue.auth)} if queue.auth else {}),
        }
        for controller in _subsystem(app.nvmf, nqn).controllers.values()
        for qid, queue in sorted(controller.queues.items())
    ]


# Referrals


_REFERRAL = {"address": Param(_address, required=True), "subnqn": Param(string, default=DISCOVERY_NQN)}


@_target_method("nvmf_discovery_add_referral", {**_REFERRAL, "secure_channel": Param(boolean)}, relaxed=True)
def nvmf_discovery_add_referral(app: App, address: Address, subnqn: str, secure_channel: bool | None) -> bool:
    if not is_valid_nqn(subnqn):
        raise RpcError(INVALID_PARAMS, "Invalid subsystem NQN")
    if not address.trsvcid:
        raise RpcError(INTERNAL_ERROR, "Service ID is required.")
    try:
        app.nvmf.add_referral(Referral(address, subnqn, bool(secure_channel)))
    except NvmfError:
        raise _internal_error() from None
    return True


@_target_method("nvmf_discovery_remove_referral", _REFERRAL)
def nvmf_discovery_remove_referral(app: App, address: Address, subnqn: str) -> bool:
    if not is_valid_nqn(subnqn):
        raise RpcError(INVALID_PARAMS, "Invalid subsystem NQN")
    try:
        app.nvmf.remove_referral(address, subnqn)
    except NvmfError:
        raise RpcError(INTERNAL_ERROR, "Unable to remove a referral.") from None
    return True


@_target_method("nvmf_discovery_get_referrals", {}, no_target="Unable to find a target")
def nvmf_discovery_get_referrals(app: App) -> list[dict[str, Any]]:
    return [describe_referral(referral) for referral in app.nvmf.referrals]
