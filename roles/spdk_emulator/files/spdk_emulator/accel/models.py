"""SPDK's accel framework as far as others see it: its options, and the keys that block devices are encrypted with.

The one cipher is that of SPDK's software module, AES-XTS (IEEE 1619) with the number of the block as its tweak. The
library `cryptography` does the arithmetic. It is loaded when the first key is made: the emulator works without it, and
then has no keys, as an SPDK that was built without ISA-L crypto.
"""

from __future__ import annotations

import errno
import importlib
import logging
import os
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..app import App

log = logging.getLogger(__name__)

CIPHERS = ("AES_CBC", "AES_XTS")
TWEAK_MODES = ("SIMPLE_LBA", "JOIN_NEG_LBA_WITH_LBA", "INCR_512_FULL_LBA", "INCR_512_UPPER_LBA")
"""What the methods accept; of these the software module has AES_XTS and SIMPLE_LBA."""
_KEY_BYTES = (16, 32)
_HEXADECIMAL = re.compile(r"[0-9a-fA-F]+")


def _refused(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _unhexlify(name: str, what: str, text: str) -> bytes:
    """Raises ``OSError`` (EINVAL). The log tells the length, never the text."""
    if not _HEXADECIMAL.fullmatch(text) or len(text) % 2:
        log.error("key %s: %s has to be hexadecimal, two digits a byte; it has %d characters", name, what, len(text))
        raise _refused(errno.EINVAL)
    return bytes.fromhex(text)


class CryptoKey:
    """A key by which a block device is encrypted.

    ``key`` encrypts the data and ``key2`` the tweak: hexadecimal, 16 or 32 bytes each, for AES-128 and AES-256.
    ``tweak_mode`` is what was asked for; None, where nothing was, is SIMPLE_LBA.
    """

    def __init__(self, name: str, cipher: str, key: str, key2: str | None, tweak_mode: str | None) -> None:
        """Raises ``OSError``: EINVAL for what the software module cannot do; ENOTSUP without the library."""
        self.name = name
        self.cipher = cipher
        self.tweak_mode = tweak_mode
        if cipher != "AES_XTS" or tweak_mode not in (None, "SIMPLE_LBA"):
            log.error("key %s: there is AES_XTS with SIMPLE_LBA, not %s with %s", name, cipher, tweak_mode)
            raise _refused(errno.EINVAL)
        halves = [_unhexlify(name, "key", key), _unhexlify(name, "key2", key2 or "")]
        sizes = [len(half) for half in halves]
        if sizes[0] not in _KEY_BYTES or sizes[0] != sizes[1]:
            log.error("key %s: key and key2 have %d and %d bytes; both need 16, or both 32", name, *sizes)
            raise _refused(errno.EINVAL)
        if halves[0] == halves[1]:
            log.error("key %s: key and key2 are the same, which is not secure", name)
            raise _refused(errno.EINVAL)
        self._texts = {"key": key, "key2": key2}
        try:
            ciphers = importlib.import_module("cryptography.hazmat.primitives.ciphers")
        except ImportError:
            log.error("key %s: there is no encryption without the Python library cryptography", name)
            raise _refused(errno.ENOTSUP) from None
        self._cipher, self._mode = ciphers.Cipher, ciphers.modes.XTS
        self._algorithm = ciphers.algorithms.AES(b"".join(halves))

    def encrypt(self, data: bytes, block: int, block_size: int) -> bytes:
        """Whole blocks of ``block_size`` bytes, the first of which has the number ``block``."""
        return self._blocks("encryptor", data, block, block_size)

    def decrypt(self, data: bytes, block: int, block_size: int) -> bytes:
        """The reverse of :meth:`encrypt`."""
        return self._blocks("decryptor", data, block, block_size)

    def _blocks(self, direction: str, data: bytes, block: int, block_size: int) -> bytes:
        """The tweak of a block: eight zeroes, then its number, least significant byte first (lib/accel/accel_sw.c)."""
        view, done = memoryview(data), []
        for start in range(0, len(view), block_size):
            mode = self._mode((block << 64).to_bytes(16, "little"))
            context = getattr(self._cipher(self._algorithm, mode), direction)()
            done.append(context.update(view[start : start + block_size]))
            block += 1
        return b"".join(done)

    def as_json(self) -> dict[str, str]:
        """As ``accel_crypto_keys_get`` shows it: with the key itself."""
        answer = {"name": self.name, "cipher": self.cipher, **self._texts, "tweak_mode": self.tweak_mode}
        return {field: value for field, value in answer.items() if value is not None}


class Accel:
    """The options, and the keys by name."""

    def __init__(self) -> None:
        self.options = {
            "small_cache_size": 128,
            "large_cache_size": 16,
            "task_count": 2048,
            "sequence_count": 2048,
            "buf_count": 2048,
        }
        self._keys: dict[str, CryptoKey] = {}

    def keys(self) -> list[CryptoKey]:
        return list(self._keys.values())

    def find(self, name: str) -> CryptoKey | None:
        return self._keys.get(name)

    def create(
        self, name: str, cipher: str, key: str | None, key2: str | None, tweak_mode: str | None = None
    ) -> CryptoKey:
        """Raises ``OSError``: as :class:`CryptoKey`; EEXIST where the name is taken."""
        made = CryptoKey(name, cipher, key or "", key2, tweak_mode)
        if name in self._keys:
            raise _refused(errno.EEXIST)
        self._keys[name] = made
        return made

    def destroy(self, key: CryptoKey) -> None:
        """Forget the key. A bdev that has it goes on working, and nobody else can have it any more."""
        if self._keys.get(key.name) is key:
            del self._keys[key.name]

    def config(self) -> list[dict[str, Any]]:
        """With the keys in clear text, as SPDK has them in its own."""
        return [
            {"method": "accel_set_options", "params": dict(self.options)},
            *({"method": "accel_crypto_key_create", "params": key.as_json()} for key in self.keys()),
        ]


def setup(app: App) -> Accel:
    """The family's state; see :class:`~spdk_emulator.app.App`."""
    accel = Accel()
    app.add_config("accel", accel.config)
    return accel
