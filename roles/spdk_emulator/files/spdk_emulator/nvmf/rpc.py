"""JSON-RPC methods of an NVMe-oF target: its configuration, transport, statistics and referrals."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from ..bdev.stats import TICK_RATE
from ..framework import cores
from ..jsonrpc.errors import INTERNAL_ERROR, INVALID_PARAMS, RpcError
from ..jsonrpc.params import array, boolean, enum, obj, string, uint16, uint32
from ..jsonrpc.registry import STARTUP, Param, method
from ..nvme_tcp.nvme import DISCOVERY_NQN
from .describe import ADMIN_PASSTHROUGH, describe_poll_group, describe_referral, describe_transport
from .models import DYNAMIC_CACHE, Nvmf, Referral, TransportOptions
from .rpc_common import (
    BAD_PARAMS,
    DUP_HOST_POLICIES,
    discovery_filter,
    internal_error,
    target_method,
    transport_address,
)
from .subsystem import Address, NvmfError, is_valid_nqn

if TYPE_CHECKING:
    from ..app import App


def _false(value: Any) -> bool:
    """A boolean that can only be false here."""
    if boolean(value):
        raise ValueError("not supported")
    return False


def _queue_count(value: Any) -> int:
    """I/O queues and the admin queue together fit 16 bits."""
    count = uint16(value)
    if not 1 <= count < 2**16 - 1:
        raise ValueError(f"{count} is no number of I/O queues")
    return count


# Before the framework starts


@method(
    "nvmf_set_config",
    params={
        "admin_cmd_passthru": Param(obj({name: Param(_false) for name in ADMIN_PASSTHROUGH})),
        "poll_groups_mask": Param(string),
        "discovery_filter": Param(discovery_filter),
        "dhchap_digests": Param(array(enum("sha256", "sha384", "sha512"))),
        "dhchap_dhgroups": Param(array(enum("null", "ffdhe2048", "ffdhe3072", "ffdhe4096", "ffdhe6144", "ffdhe8192"))),
        "dup_host_policy": Param(enum(*DUP_HOST_POLICIES)),
    },
    state=STARTUP,
    bad_params=BAD_PARAMS,
)
def nvmf_set_config(app: App, **given: Any) -> bool:
    mask = given["poll_groups_mask"]
    if mask is not None:
        app.nvmf.config.poll_groups = _poll_groups(app, mask)
    for name in ("discovery_filter", "dhchap_digests", "dhchap_dhgroups", "dup_host_policy"):
        if given[name] is not None:
            setattr(app.nvmf.config, name, given[name])
    return True


def _poll_groups(app: App, mask: str) -> frozenset[int]:
    try:
        wanted = cores.parse(mask)
    except ValueError:
        raise RpcError(*BAD_PARAMS) from None
    if not wanted <= app.framework.threads.cpus:
        raise RpcError(*BAD_PARAMS)
    return wanted


@method(
    "nvmf_set_max_subsystems",
    params={"max_subsystems": Param(uint32, required=True)},
    state=STARTUP,
    bad_params=BAD_PARAMS,
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
    bad_params=BAD_PARAMS,
)
def nvmf_set_crdt(app: App, crdt1: int, crdt2: int, crdt3: int) -> bool:
    app.nvmf.config.crdt = (crdt1, crdt2, crdt3)
    return True


# Transport


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


def _limit_caches(options: TransportOptions, pools: dict[str, Any], cores: int) -> None:
    """No more buffers than half of a pool, where those of all cores together would be more than the whole."""
    for size in ("small", "large"):
        name, pool = f"iobuf_{size}_cache_size", pools[f"{size}_pool_count"]
        if getattr(options, name) != DYNAMIC_CACHE and getattr(options, name) * cores > pool:
            setattr(options, name, pool // cores // 2)


@target_method("nvmf_create_transport", {"trtype": Param(string, required=True), **_TRANSPORT_PARAMS}, relaxed=True)
def nvmf_create_transport(app: App, target: Nvmf, trtype: str, **given: Any) -> bool:
    if trtype.upper() != "TCP":
        raise RpcError(INVALID_PARAMS, f"Invalid transport type '{trtype}'")
    options = TransportOptions()
    for name, value in given.items():
        if value is not None and hasattr(options, name):
            setattr(options, name, value)
    if given["buf_cache_size"] is not None:  # the old name of the other
        options.iobuf_small_cache_size = given["buf_cache_size"]
    options.max_aq_depth = max(options.max_aq_depth, _LEAST_AQ_DEPTH)
    if target.transport:
        raise RpcError(INTERNAL_ERROR, f"Transport type '{trtype}' already exists")
    size = options.max_io_size
    if size < _LEAST_IO_SIZE or size & (size - 1) or options.max_queue_depth < 2:
        raise RpcError(INTERNAL_ERROR, f"Transport type '{trtype}' create failed")
    _limit_caches(options, app.framework.buffers.options, len(app.framework.threads.cores))
    target.create_transport(options)
    return True


@target_method("nvmf_get_transports", {"trtype": Param(string)})
def nvmf_get_transports(app: App, target: Nvmf, trtype: str | None) -> list[dict[str, Any]]:
    transport = target.transport
    if trtype is not None and (transport is None or trtype.upper() != transport.trtype):
        raise RpcError.from_errno(errno.ENODEV)
    return [describe_transport(transport)] if transport else []


@target_method("nvmf_get_stats", {})
def nvmf_get_stats(app: App, target: Nvmf) -> dict[str, Any]:
    return {"tick_rate": TICK_RATE, "poll_groups": [describe_poll_group(group, target) for group in target.groups]}


# Referrals


_REFERRAL = {"address": Param(transport_address, required=True), "subnqn": Param(string, default=DISCOVERY_NQN)}


@target_method("nvmf_discovery_add_referral", {**_REFERRAL, "secure_channel": Param(boolean)}, relaxed=True)
def nvmf_discovery_add_referral(
    app: App, target: Nvmf, address: Address, subnqn: str, secure_channel: bool | None
) -> bool:
    if not is_valid_nqn(subnqn):
        raise RpcError(INVALID_PARAMS, "Invalid subsystem NQN")
    if not address.trsvcid:
        raise RpcError(INTERNAL_ERROR, "Service ID is required.")
    try:
        target.add_referral(Referral(address, subnqn, bool(secure_channel)))
    except NvmfError:
        raise internal_error() from None
    return True


@target_method("nvmf_discovery_remove_referral", _REFERRAL)
def nvmf_discovery_remove_referral(app: App, target: Nvmf, address: Address, subnqn: str) -> bool:
    if not is_valid_nqn(subnqn):
        raise RpcError(INVALID_PARAMS, "Invalid subsystem NQN")
    try:
        target.remove_referral(address, subnqn)
    except NvmfError:
        raise RpcError(INTERNAL_ERROR, "Unable to remove a referral.") from None
    return True


@target_method("nvmf_discovery_get_referrals", {}, no_target="Unable to find a target")
def nvmf_discovery_get_referrals(app: App, target: Nvmf) -> list[dict[str, Any]]:
    return [describe_referral(referral) for referral in target.referrals]
