"""JSON-RPC methods of a subsystem: its namespaces, listeners and hosts, and who is connected.

Refused as by an SPDK without that feature: TLS (``psk``, ``secure_channel``), passthrough to NVMe bdevs, NSSR.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..jsonrpc.errors import INTERNAL_ERROR, INVALID_PARAMS, RpcError
from ..jsonrpc.params import boolean, enum, obj, string, uint8, uint16, uint32, uint64, uuid
from ..jsonrpc.registry import Param
from .describe import describe_listener, describe_qpair, describe_subsystem
from .rpc_common import BAD_PARAMS, internal_error, target_method, transport_address
from .subsystem import (
    ANA_STATES,
    DEFAULT_NAMESPACES,
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
    from .models import Nvmf

_NQN = {"nqn": Param(string, required=True)}
_ANA_STATE = enum(*ANA_STATES)


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


# Subsystems


@target_method(
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
    target: Nvmf,
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
        raise RpcError(*BAD_PARAMS)
    if not is_valid_nqn(nqn) or nqn in target.subsystems:
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
        target.create_subsystem(nqn, options, allow_any_host)
    except NvmfError:
        raise failed from None
    return True


@target_method("nvmf_delete_subsystem", _NQN)
def nvmf_delete_subsystem(app: App, target: Nvmf, nqn: str) -> bool:
    _subsystem(target, nqn)
    target.delete_subsystem(nqn)
    return True


@target_method("nvmf_get_subsystems", {"nqn": Param(string)})
def nvmf_get_subsystems(app: App, target: Nvmf, nqn: str | None) -> list[dict[str, Any]]:
    if nqn is None:
        return [describe_subsystem(subsystem) for subsystem in target]
    if nqn not in target.subsystems:
        raise RpcError.from_errno(errno.ENODEV)
    return [describe_subsystem(target.subsystems[nqn])]


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


@target_method("nvmf_subsystem_add_ns", {**_NQN, "namespace": Param(_NAMESPACE, required=True)}, relaxed=True)
def nvmf_subsystem_add_ns(app: App, target: Nvmf, nqn: str, namespace: dict[str, Any]) -> int:
    uuid_given = namespace["uuid"]
    try:
        made = _subsystem(target, nqn).add_namespace(
            namespace["bdev_name"],
            namespace["nsid"],
            namespace["nguid"] if any(namespace["nguid"]) else b"",
            namespace["eui64"],
            uuid_given if uuid_given is not None and uuid_given.int else None,
            namespace["anagrpid"],
            not namespace["no_auto_visible"],
            namespace["ptpl_file"],
        )
    except NvmfError:
        raise RpcError.invalid_params() from None
    return made.nsid


@target_method("nvmf_subsystem_remove_ns", {**_NQN, "nsid": Param(uint32, required=True)})
def nvmf_subsystem_remove_ns(app: App, target: Nvmf, nqn: str, nsid: int) -> bool:
    try:
        _subsystem(target, nqn).remove_namespace(nsid)
    except NvmfError:
        raise RpcError.invalid_params() from None
    return True


_NAMESPACE_HOST = {**_NQN, "nsid": Param(uint32, required=True), "host": Param(string, required=True)}


@target_method("nvmf_ns_add_host", _NAMESPACE_HOST)
def nvmf_ns_add_host(app: App, target: Nvmf, nqn: str, nsid: int, host: str) -> bool:
    return _show_namespace(target, nqn, nsid, host, True)


@target_method("nvmf_ns_remove_host", _NAMESPACE_HOST)
def nvmf_ns_remove_host(app: App, target: Nvmf, nqn: str, nsid: int, host: str) -> bool:
    return _show_namespace(target, nqn, nsid, host, False)


def _show_namespace(target: Nvmf, nqn: str, nsid: int, host: str, visible: bool) -> bool:
    try:
        _subsystem(target, nqn).show_namespace(nsid, host, visible)
    except NvmfError:
        raise RpcError.invalid_params() from None
    return True


@target_method(
    "nvmf_subsystem_set_ns_ana_group",
    {**_NQN, "nsid": Param(uint32, required=True), "anagrpid": Param(uint32, required=True)},
)
def nvmf_subsystem_set_ns_ana_group(app: App, target: Nvmf, nqn: str, nsid: int, anagrpid: int) -> bool:
    try:
        _subsystem(target, nqn).set_ana_group(nsid, anagrpid)
    except NvmfError:
        raise RpcError.invalid_params() from None
    return True


# Listeners


_LISTENER = {**_NQN, "listen_address": Param(transport_address, required=True)}


@target_method(
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
    app: App,
    target: Nvmf,
    nqn: str,
    listen_address: Address,
    secure_channel: bool,
    ana_state: str,
    sock_impl: str | None,
) -> bool:
    subsystem = _subsystem(target, nqn)
    if secure_channel:
        if subsystem.allow_any_host:
            raise RpcError(INTERNAL_ERROR, "Cannot establish secure channel, when 'allow_any_host' is set")
        raise RpcError.invalid_params()
    try:
        await target.add_listener(subsystem, listen_address, ana_state)
    except NvmfError:
        raise RpcError.invalid_params() from None
    return True


@target_method("nvmf_subsystem_remove_listener", _LISTENER)
def nvmf_subsystem_remove_listener(app: App, target: Nvmf, nqn: str, listen_address: Address) -> bool:
    try:
        target.remove_listener(_subsystem(target, nqn), listen_address)
    except NvmfError:
        raise RpcError.invalid_params() from None
    return True


@target_method("nvmf_subsystem_get_listeners", _NQN, no_target="Unable to find a target")
def nvmf_subsystem_get_listeners(app: App, target: Nvmf, nqn: str) -> list[dict[str, Any]]:
    subsystem = _subsystem(target, nqn)

    return [describe_listener(subsystem, listener) for listener in subsystem.listeners]


@target_method(
    "nvmf_subsystem_listener_set_ana_state",
    {**_LISTENER, "ana_state": Param(_ANA_STATE, required=True), "anagrpid": Param(uint32, default=0)},
)
def nvmf_subsystem_listener_set_ana_state(
    app: App, target: Nvmf, nqn: str, listen_address: Address, ana_state: str, anagrpid: int
) -> bool:
    subsystem = target.subsystems.get(nqn)
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


@target_method("nvmf_subsystem_add_host", {**_HOST, **_KEYS, "psk": Param(string)}, relaxed=True)
def nvmf_subsystem_add_host(
    app: App, target: Nvmf, nqn: str, host: str, dhchap_key: str | None, dhchap_ctrlr_key: str | None, psk: str | None
) -> bool:
    subsystem = _subsystem(target, nqn)
    made = Host(host, _key(app, dhchap_key), _key(app, dhchap_ctrlr_key))
    try:
        if psk is not None or (made.dhchap_ctrlr_key and not made.dhchap_key):
            raise NvmfError(errno.EINVAL)
        subsystem.add_host(made)
    except NvmfError:
        made.put_keys()
        raise internal_error() from None
    return True


@target_method("nvmf_subsystem_remove_host", {**_HOST, "timeout_ms": Param(uint64)})
def nvmf_subsystem_remove_host(app: App, target: Nvmf, nqn: str, host: str, timeout_ms: int | None) -> bool:
    try:
        _subsystem(target, nqn).remove_host(host)
    except NvmfError:
        raise internal_error() from None
    return True


@target_method("nvmf_subsystem_allow_any_host", {**_NQN, "allow_any_host": Param(boolean, required=True)})
def nvmf_subsystem_allow_any_host(app: App, target: Nvmf, nqn: str, allow_any_host: bool) -> bool:
    _subsystem(target, nqn).set_allow_any_host(allow_any_host)
    return True


@target_method("nvmf_subsystem_set_keys", {**_HOST, **_KEYS}, no_target="Invalid parameters")
def nvmf_subsystem_set_keys(
    app: App, target: Nvmf, nqn: str, host: str, dhchap_key: str | None, dhchap_ctrlr_key: str | None
) -> bool:
    subsystem = _subsystem(target, nqn)
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


@target_method("nvmf_subsystem_get_controllers", _NQN, no_target="Unable to find a target")
def nvmf_subsystem_get_controllers(app: App, target: Nvmf, nqn: str) -> list[dict[str, Any]]:
    subsystem = _subsystem(target, nqn)
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


@target_method("nvmf_subsystem_get_qpairs", _NQN, no_target="Unable to find a target")
def nvmf_subsystem_get_qpairs(app: App, target: Nvmf, nqn: str) -> list[dict[str, Any]]:
    subsystem = _subsystem(target, nqn)
    return [
        describe_qpair(queue.controller, queue)
        for queue in target.connections
        if queue.controller and queue.controller.subsystem is subsystem
    ]
