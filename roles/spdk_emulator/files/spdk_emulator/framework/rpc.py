"""JSON-RPC methods of the application itself."""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING, Any

from ..jsonrpc.errors import INVALID_PARAMS, RpcError
from ..jsonrpc.params import boolean, enum, string, uint32, uint64
from ..jsonrpc.registry import ANY, METHODS, RUNTIME, STARTUP, Param, method
from ..options import VERSION
from .models import LEVELS, SUBSYSTEMS

if TYPE_CHECKING:
    from ..app import App

_INVALID_PARAMETERS = (INVALID_PARAMS, "Invalid parameters")
_INVALID_ARGUMENT = (INVALID_PARAMS, os.strerror(errno.EINVAL))


def _given(parameters: dict[str, Any]) -> dict[str, Any]:
    """Those that the request named."""
    return {name: value for name, value in parameters.items() if value is not None}


@method("spdk_get_version", state=ANY, bad_params=(INVALID_PARAMS, "spdk_get_version method requires no parameters"))
def spdk_get_version(app: App) -> dict[str, Any]:
    return {
        "version": VERSION,
        "fields": {"major": 26, "minor": 5, "patch": 0, "suffix": "", "commit": VERSION.split()[-1]},
    }


@method(
    "rpc_get_methods",
    params={"current": Param(boolean, default=False), "include_aliases": Param(boolean, default=False)},
    state=ANY,
    bad_params=_INVALID_PARAMETERS,
)
def rpc_get_methods(app: App, current: bool, include_aliases: bool) -> list[str]:
    """Only what is really there."""
    wrong_state = STARTUP if app.running else RUNTIME
    names: list[str] = []
    for each in METHODS.values():
        if app.is_allowed(each.name) and not (current and each.state == wrong_state):
            names += [each.name, *(each.aliases if include_aliases else ())]
    return names


@method(
    "spdk_kill_instance",
    params={"sig_name": Param(enum("SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGKILL", "SIGUSR1"), required=True)},
    bad_params=_INVALID_PARAMETERS,
)
def spdk_kill_instance(app: App, sig_name: str) -> bool:
    os.kill(os.getpid(), signal.Signals[sig_name])
    return True


# The framework


@method("framework_start_init", state=STARTUP)
async def framework_start_init(app: App) -> bool:
    app.start_requested.set()
    await app.started.wait()
    return True


@method("framework_wait_init", state=ANY, params={}, relaxed=True)
async def framework_wait_init(app: App) -> bool:
    await app.started.wait()
    return True


@method("framework_get_subsystems", bad_params=(INVALID_PARAMS, "'framework_get_subsystems' requires no arguments"))
def framework_get_subsystems(app: App) -> list[dict[str, Any]]:
    return [{"subsystem": name, "depends_on": list(needs)} for name, needs in SUBSYSTEMS.items()]


@method(
    "framework_get_config",
    params={"name": Param(string, required=True), "with_batches": Param(boolean, default=False)},
    bad_params=(INVALID_PARAMS, "Invalid arguments"),
)
def framework_get_config(app: App, name: str, with_batches: bool) -> list[Any]:
    if name not in SUBSYSTEMS:
        raise RpcError.invalid_params(f"Subsystem '{name}' not found")
    return app.config(name, with_batches)


@method(
    "framework_get_pci_devices",
    bad_params=(INVALID_PARAMS, "framework_get_pci_devices doesn't accept any parameters.\n"),
)
def framework_get_pci_devices(app: App) -> list[dict[str, Any]]:
    """None: the emulator drives no hardware."""
    return []


# Logs


@method("log_get_level", state=ANY)
def log_get_level(app: App) -> str:
    return app.framework.logs.level


@method("log_set_level", params={"level": Param(enum(*LEVELS), required=True)}, state=ANY)
def log_set_level(app: App, level: str) -> bool:
    app.framework.logs.level = level
    return True


@method("log_get_print_level", state=ANY)
def log_get_print_level(app: App) -> str:
    return app.framework.logs.print_level


@method("log_set_print_level", params={"level": Param(enum(*LEVELS), required=True)}, state=ANY)
def log_set_print_level(app: App, level: str) -> bool:
    app.framework.logs.set_print_level(level)
    return True


@method("log_get_flags", state=ANY)
def log_get_flags(app: App) -> dict[str, bool]:
    return app.framework.logs.flags


def _set_flag(app: App, flag: str, enabled: bool) -> bool:
    try:
        app.framework.logs.set_flag(flag, enabled)
    except KeyError:
        raise RpcError.invalid_params("invalid log flag") from None
    return True


@method("log_set_flag", params={"flag": Param(string, required=True)}, state=ANY)
def log_set_flag(app: App, flag: str) -> bool:
    return _set_flag(app, flag, True)


@method("log_clear_flag", params={"flag": Param(string, required=True)}, state=ANY)
def log_clear_flag(app: App, flag: str) -> bool:
    return _set_flag(app, flag, False)


@method(
    "log_enable_timestamps",
    params={"enabled": Param(boolean, required=True)},
    bad_params=(INVALID_PARAMS, "spdk_json_decode_object failed"),
)
def log_enable_timestamps(app: App, enabled: bool) -> bool:
    app.framework.logs.enable_timestamps(enabled)
    return True


_SIZES = ("small", "large")


# Buffers, sockets: options that SPDK has and others ask for


@method(
    "iobuf_set_options",
    params={
        "small_pool_count": Param(uint64),
        "large_pool_count": Param(uint64),
        "small_bufsize": Param(uint32),
        "large_bufsize": Param(uint32),
        "enable_numa": Param(boolean),
    },
    state=STARTUP,
    bad_params=(INVALID_PARAMS, "spdk_json_decode_object failed"),
    needs_object=True,
)
def iobuf_set_options(app: App, **options: Any) -> bool:
    app.framework.buffers.set(_given(options))
    return True


@method("iobuf_get_stats", params={}, relaxed=True)
def iobuf_get_stats(app: App) -> list[dict[str, Any]]:
    """How many buffers threads would keep. The rest is zero: no buffer is ever taken from a pool."""
    targets = [target for target in app.nvmf if target.transport]
    bdev_threads = {thread for bdev in app.bdevs for thread in bdev.threads}
    accel_threads = bdev_threads.union(*(target.threads for target in targets))
    accel, bdev = app.accel.options, app.bdevs.options
    kept = {
        "accel": {size: len(accel_threads) * accel[f"{size}_cache_size"] for size in _SIZES},
        "bdev": {size: len(bdev_threads) * bdev[f"iobuf_{size}_cache_size"] for size in _SIZES},
    }
    for target in targets:
        caches = target.buffer_caches(app.framework.buffers.options)
        whole = kept.setdefault(f"nvmf_{target.transport.trtype}", dict.fromkeys(_SIZES, 0))
        for size in _SIZES:
            whole[size] += caches[size] * len(target.groups)
    pool = {"cache": 0, "main": 0, "retry": 0}
    return [
        {"module": module, **{f"{size}_pool": {**pool, "cache_size": sizes[size]} for size in _SIZES}}
        for module, sizes in kept.items()
    ]


@method("sock_get_default_impl", state=ANY)
def sock_get_default_impl(app: App) -> dict[str, str]:
    return {"impl_name": app.framework.sockets.default}


_IMPLEMENTATION = {"impl_name": Param(enum("posix", "ssl"), required=True)}


@method("sock_set_default_impl", params=_IMPLEMENTATION, state=STARTUP, bad_params=_INVALID_PARAMETERS)
def sock_set_default_impl(app: App, impl_name: str) -> bool:
    app.framework.sockets.default = impl_name
    return True


@method("sock_impl_get_options", params=_IMPLEMENTATION, state=ANY, bad_params=_INVALID_PARAMETERS)
def sock_impl_get_options(app: App, impl_name: str) -> dict[str, Any]:
    return app.framework.sockets.options[impl_name]


@method(
    "sock_impl_set_options",
    params={
        **_IMPLEMENTATION,
        "recv_buf_size": Param(uint32),
        "send_buf_size": Param(uint32),
        "enable_recv_pipe": Param(boolean),
        "enable_quickack": Param(boolean),
        "enable_placement_id": Param(uint32),
        "enable_zerocopy_send_server": Param(boolean),
        "enable_zerocopy_send_client": Param(boolean),
        "zerocopy_threshold": Param(uint32),
        "tls_version": Param(uint32),
        "enable_ktls": Param(boolean),
    },
    state=STARTUP,
    bad_params=_INVALID_PARAMETERS,
)
def sock_impl_set_options(app: App, impl_name: str, **options: Any) -> bool:
    app.framework.sockets.options[impl_name].update(_given(options))
    return True


# Notifications and keys


@method("notify_get_types", bad_params=(INVALID_PARAMS, "No parameters required"))
def notify_get_types(app: App) -> list[str]:
    return list(app.framework.notifications.TYPES)


@method(
    "notify_get_notifications",
    params={"id": Param(uint64, default=0), "max": Param(uint64, default=2**64 - 1)},
    bad_params=_INVALID_ARGUMENT,
)
def notify_get_notifications(app: App, id: int, max: int) -> list[dict[str, Any]]:
    return app.framework.notifications.since(id, max)


@method(
    "keyring_file_add_key",
    params={"name": Param(string, required=True), "path": Param(string, required=True)},
    bad_params=_INVALID_ARGUMENT,
    relaxed=True,
)
def keyring_file_add_key(app: App, name: str, path: str) -> bool:
    app.framework.keyring.add(name, path)
    return True


@method("keyring_file_remove_key", params={"name": Param(string, required=True)}, bad_params=_INVALID_ARGUMENT)
def keyring_file_remove_key(app: App, name: str) -> bool:
    app.framework.keyring.remove(name)
    return True


@method("keyring_get_keys", params={}, relaxed=True)
def keyring_get_keys(app: App) -> list[dict[str, Any]]:
    return app.framework.keyring.describe()
