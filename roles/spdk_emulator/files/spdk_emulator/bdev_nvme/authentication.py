"""DH-HMAC-CHAP as a host, on one queue (8.13 of the NVMe base specification 2.0)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from ..nvme_tcp import auth, nvme
from ..nvme_tcp.nvme import Fabrics, Sc
from .connection import Connection, NvmeError

if TYPE_CHECKING:
    from ..framework.keyring import Key


async def authenticate(
    connection: Connection,
    nqns: tuple[str, str],
    key: Key | None,
    ctrlr_key: Key | None,
    settings: dict[str, Any],
) -> None:
    """``nqns``: the host's and the subsystem's. With ``ctrlr_key`` the controller has to prove who it is, too.

    Raises ``OSError``, also where one side does not believe the other, or :class:`NvmeError`.
    """
    if key is None:
        raise NvmeError(f"{connection.name}: Connect without a key", Sc.AUTHENTICATION_REQUIRED)

    async def send(message: bytes) -> None:
        low = auth.SECURITY_FIELDS | len(message) << 32
        opcode, kind = nvme.FABRICS_OPCODE, Fabrics.AUTHENTICATION_SEND
        await connection.call("Authentication Send", opcode, kind, low, data=message)

    async def receive() -> bytes:
        answer = bytearray(auth.MESSAGE_LIMIT)
        low = auth.SECURITY_FIELDS | len(answer) << 32
        opcode, kind = nvme.FABRICS_OPCODE, Fabrics.AUTHENTICATION_RECV
        await connection.call("Authentication Receive", opcode, kind, low, data=answer)
        return bytes(answer)

    try:
        own = auth.parse_secret(ctrlr_key.read()) if ctrlr_key else None
        names = auth.Names(*nqns, auth.parse_secret(key.read()), own)
    except ValueError as error:
        raise OSError(errno.EKEYREJECTED, f"{connection.name}: {error}") from None
    host = auth.Host(names, settings["dhchap_digests"], settings["dhchap_dhgroups"])
    try:
        await send(host.negotiate())
        await send(host.reply(await receive()))
        last = host.finish(await receive())
    except auth.AuthError as error:
        if not error.by_peer:
            await send(host.failure(error))
        raise OSError(errno.EACCES, f"{connection.name}: authentication failed: {error}") from None
    if last is not None:
        await send(last)
