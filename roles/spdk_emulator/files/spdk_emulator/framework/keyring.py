"""Keys in files: ``keyring_file_add_key`` gives them a name, others refer to it. A secret is read when it is used."""

from __future__ import annotations

import errno
import os
from typing import Any


def _check(path: str) -> None:
    """Raises ``OSError``: EPERM for a relative path, a file of somebody else or one that others may read."""
    refused = OSError(errno.EPERM, os.strerror(errno.EPERM))
    if not path.startswith("/"):
        raise refused
    found = os.stat(path)
    if found.st_mode & 0o077 or found.st_uid != os.getuid():
        raise refused


class Key:
    """A named key file. Whoever uses it holds it with :meth:`take` and lets go of it with :meth:`put`."""

    def __init__(self, keyring: Keyring, name: str, path: str) -> None:
        self._keyring = keyring
        self.name = name
        self.path = path
        self.removed = False
        self.references = 1

    def read(self) -> bytes:
        """The secret as it is in the file. Raises ``OSError``: of reading it; ENOKEY once the key is removed."""
        if self.removed:
            raise OSError(errno.ENOKEY, os.strerror(errno.ENOKEY))
        _check(self.path)
        with open(self.path, "rb") as file:
            return file.read()

    def take(self) -> Key:
        self.references += 1
        return self

    def put(self) -> None:
        self.references -= 1
        if self.references == 0:
            self._keyring.forget(self)


class Keyring:
    """The keys by name; ``:name`` is the same as ``name``."""

    def __init__(self) -> None:
        self._keys: dict[str, Key] = {}
        self._removed: list[Key] = []

    def find(self, name: str) -> Key | None:
        return self._keys.get(name.removeprefix(":"))

    def add(self, name: str, path: str) -> None:
        """Raises ``OSError``: EEXIST, EINVAL for the name of a keyring, and what the file deserves."""
        if ":" in name.removeprefix(":"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if self.find(name):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        _check(path)
        self._keys[name.removeprefix(":")] = Key(self, name, path)

    def remove(self, name: str) -> None:
        """Raises ``OSError`` (ENOKEY). Those who hold the key keep its name, but can read it no more."""
        key = self._keys.pop(name.removeprefix(":"), None)
        if key is None:
            raise OSError(errno.ENOKEY, os.strerror(errno.ENOKEY))
        key.removed = True
        self._removed.append(key)
        key.put()

    def forget(self, key: Key) -> None:
        """Nobody holds this removed key any more."""
        self._removed.remove(key)

    def describe(self) -> list[dict[str, Any]]:
        """As ``keyring_get_keys`` answers: the removed ones that are still held come last, without their path."""
        return [
            {
                "name": key.name,
                "module": "keyring_file",
                "removed": key.removed,
                "probed": False,
                "refcnt": key.references,
                **({} if key.removed else {"path": key.path}),
            }
            for key in [*self._keys.values(), *self._removed]
        ]

    def config(self) -> list[dict[str, Any]]:
        return [
            {"method": "keyring_file_add_key", "params": {"name": key.name, "path": key.path}}
            for key in self._keys.values()
        ]
