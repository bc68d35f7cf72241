"""JSON-RPC methods of encrypted block devices."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from ..accel.models import CryptoKey
from ..jsonrpc.errors import INTERNAL_ERROR, INVALID_PARAMS, PARSE_ERROR, RpcError
from ..jsonrpc.params import string
from ..jsonrpc.registry import Param, method

if TYPE_CHECKING:
    from ..app import App

log = logging.getLogger(__name__)

_DEFAULT_CIPHER = "AES_CBC"
"""SPDK's, though its software module does not have it: a request with ``key`` has to say AES_XTS."""
_LONGEST_NAME = 127
"""Characters of the name of a key that was made with its bdev."""


@method(
    "bdev_crypto_create",
    params={
        "base_bdev_name": Param(string, required=True),
        "name": Param(string, required=True),
        "crypto_pmd": Param(string),
        "key": Param(string),
        "cipher": Param(string),
        "key2": Param(string),
        "key_name": Param(string),
    },
    bad_params=(PARSE_ERROR, "Failed to decode crypto disk create parameters."),
)
def bdev_crypto_create(app: App, base_bdev_name: str, name: str, key_name: str | None, **given: Any) -> str:
    """``key_name`` is of a key that is there. SMA gives ``key``, ``key2`` and ``cipher`` instead: a key that comes and
    goes with the bdev."""
    key, own = (_known_key(app, key_name), False) if key_name is not None else _own_key(app, name, given)
    try:
        app.crypto.create(name, base_bdev_name, key, own)
    except OSError:
        if own:
            app.accel.destroy(key)
        raise
    return name


def _known_key(app: App, name: str) -> CryptoKey:
    key = app.accel.find(name)
    if key is None:
        raise RpcError.invalid_params("Key was not found")
    return key


def _own_key(app: App, bdev: str, given: dict[str, Any]) -> tuple[CryptoKey, bool]:
    """The key, and whether it was made for this bdev rather than found under the name that it would have."""
    cipher = given["cipher"] or _DEFAULT_CIPHER
    name = f"{bdev}_{cipher}"[:_LONGEST_NAME]
    key = app.accel.find(name)
    if key is not None:
        return key, False
    try:
        return app.accel.create(name, cipher, given["key"], given["key2"]), True
    except OSError as error:
        log.error("%s: no key: %s", bdev, error.strerror)
        raise RpcError(INTERNAL_ERROR, "No key was found") from None


@method(
    "bdev_crypto_delete",
    params={"name": Param(string, required=True)},
    bad_params=(INVALID_PARAMS, "Invalid parameters"),
)
async def bdev_crypto_delete(app: App, name: str) -> bool:
    gone = asyncio.get_running_loop().create_future()
    app.crypto.delete(name, lambda: gone.set_result(True))
    return await gone
