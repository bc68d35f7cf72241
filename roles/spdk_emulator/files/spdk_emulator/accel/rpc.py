"""JSON-RPC methods of the accel framework."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..jsonrpc.errors import PARSE_ERROR, RpcError
from ..jsonrpc.params import enum, string, uint32
from ..jsonrpc.registry import STARTUP, Param, method
from .models import CIPHERS, TWEAK_MODES, CryptoKey

if TYPE_CHECKING:
    from ..app import App

_BAD_PARAMS = (PARSE_ERROR, "spdk_json_decode_object failed")
_OPERATIONS = ["copy", "fill", "compare", "crc32c", "encrypt", "decrypt"]
"""What the data path computes, in Python."""


@method(
    "accel_set_options",
    params={
        name: Param(uint32)
        for name in ("small_cache_size", "large_cache_size", "task_count", "sequence_count", "buf_count")
    },
    state=STARTUP,
    bad_params=_BAD_PARAMS,
    needs_object=True,
)
def accel_set_options(app: App, **options: int | None) -> bool:
    app.accel.options |= {name: value for name, value in options.items() if value is not None}
    return True


@method("accel_get_opc_assignments")
def accel_get_opc_assignments(app: App) -> dict[str, str]:
    return dict.fromkeys(_OPERATIONS, "software")


@method("accel_get_module_info")
def accel_get_module_info(app: App) -> list[dict[str, Any]]:
    return [{"module": "software", "supported ops": _OPERATIONS}]


@method(
    "accel_crypto_key_create",
    params={
        "cipher": Param(enum(*CIPHERS), required=True),
        "key": Param(string, required=True),
        "key2": Param(string),
        "tweak_mode": Param(enum(*TWEAK_MODES), default="SIMPLE_LBA"),
        "name": Param(string, required=True),
    },
    bad_params=_BAD_PARAMS,
)
def accel_crypto_key_create(app: App, **given: Any) -> bool:
    try:
        app.accel.create(**given)
    except OSError as error:
        raise RpcError.invalid_params(f"failed to create DEK, rc {-(error.errno or 0)}") from None
    return True


def _key(app: App, name: str, missing: str) -> CryptoKey:
    key = app.accel.find(name)
    if key is None:
        raise RpcError.invalid_params(missing)
    return key


@method("accel_crypto_keys_get", params={"key_name": Param(string)}, bad_params=_BAD_PARAMS)
def accel_crypto_keys_get(app: App, key_name: str | None) -> list[dict[str, str]]:
    """Who may call this may see the keys, as in SPDK."""
    keys = app.accel.keys() if key_name is None else [_key(app, key_name, "key was not found")]
    return [key.as_json() for key in keys]


@method("accel_crypto_key_destroy", params={"key_name": Param(string, required=True)}, bad_params=_BAD_PARAMS)
def accel_crypto_key_destroy(app: App, key_name: str) -> bool:
    app.accel.destroy(_key(app, key_name, "No key object found"))
    return True
