# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Encrypted bdevs of SPDK, and the keys that they are encrypted with.

A key is in no message, view or declaration. A node that has to come back with it keeps it in a file that only its
owner can read. SPDK knows a key by a name that has its fingerprint in it, so that another key is seen for what it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._checks import check_bdev, check_name
from ansible_collections.ipdk.storage.plugins.module_utils._files import write_private
from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import Client, Error
from ansible_collections.ipdk.storage.plugins.module_utils._reconcile import (
    Change,
    Outcome,
    Plan,
    Refused,
    reconcile,
    refuse_duplicates,
)
from ansible_collections.ipdk.storage.plugins.module_utils._resources import STATE, Item, read_release, real_names

CIPHER = "AES_XTS"
PRODUCT = "crypto"  # what bdev_get_bdevs calls such a bdev
_DIGITS = (32, 64)  # of AES-128 and AES-256
_HEXADECIMAL = re.compile(r"[0-9a-fA-F]*")
_LONGEST_SHOWN = 12  # of what may be a key at a wrong place
_ROUNDS = 1000
_POLL_SECONDS = 0.2

#: The options of an item in a node's declaration, where no key may be.
DECLARED = {
    "name": {"type": "str", "required": True},
    "base_bdev": {"type": "str"},
    "cipher": {"type": "str", "default": CIPHER},
    "key_file": {"type": "path"},
    "state": STATE,
}
#: The options of an item of spdk_bdev_crypto, as Ansible's argument_spec has them.
BDEV_CRYPTO = {
    **DECLARED,
    "key": {"type": "str", "no_log": True},
    "key2": {"type": "str", "no_log": True},
}


def check_cipher(value: Any, where: str, problems: list[str]) -> None:
    if value == "AES_CBC":
        problems.append(f"{where}: AES_CBC is not in SPDK's software accel module, which has {CIPHER} only")
    elif value != CIPHER:
        problems.append(f"{where}: wanted {CIPHER}, got {hidden(value)}")


def check_keys(item: Mapping[str, Any], where: str, problems: list[str]) -> dict[str, str] | None:
    """``key`` and ``key2`` of an item, None where they are wrong. What is wrong is said without showing them."""
    found = len(problems)
    for name in ("key", "key2"):
        value = item.get(name)
        wanted = f"{where}.{name}: wanted 32 or 64 hexadecimal digits (AES-128 or AES-256)"
        if value is None:
            problems.append(f"{wanted}, got nothing")
        elif not isinstance(value, str):
            problems.append(f"{wanted} as text, got a value of another type: put it in quotes")
        elif not _HEXADECIMAL.fullmatch(value):
            problems.append(f"{wanted}, got other characters among its {len(value)}")
        elif len(value) not in _DIGITS:
            problems.append(f"{wanted}, got {len(value)}")
    if len(problems) > found:
        return None
    keys = {name: str(item[name]).lower() for name in ("key", "key2")}
    if len(keys["key"]) != len(keys["key2"]):
        problems.append(f"{where}: key has {len(keys['key'])} digits and key2 {len(keys['key2'])}, both want as many")
    elif keys["key"] == keys["key2"]:
        problems.append(f"{where}: key and key2 are the same, which is not secure and which SPDK refuses")
    return keys if len(problems) == found else None


def hidden(value: Any) -> str:
    """A value that may be a key, for a message."""
    return repr(value) if len(str(value)) <= _LONGEST_SHOWN else f"{len(str(value))} characters (not shown)"


def fingerprint(keys: Mapping[str, str]) -> str:
    """Tells keys apart and does not tell them."""
    text = f"{CIPHER} {keys['key']} {keys['key2']}".lower()
    return hashlib.pbkdf2_hmac("sha256", text.encode(), b"ipdk.storage", _ROUNDS).hex()[:16]


def key_name(bdev: str, mark: str) -> str:
    """What SPDK calls the key of a bdev."""
    return f"{bdev}-{mark}"


class CryptoBdevs:
    """Encrypted bdevs. ``wait``: seconds for the base bdevs of ``wanted`` to appear, all together."""

    def __init__(self, wanted: Sequence[Item] = (), wait: float = 0.0) -> None:
        self._bases = {item["base_bdev"] for item in wanted if item["state"] == "present"}
        self._wait = wait

    @staticmethod
    def normalise(items: Sequence[Mapping[str, Any]]) -> list[Item]:
        """Items with ``keys`` (None: of an absent one, or not to be had: ``trouble`` says why)."""
        problems: list[str] = []
        wanted = []
        for index, item in enumerate(items):
            where = f"crypto[{index}]"
            name = check_name(item["name"], f"{where}.name", problems)
            where = f"{where} ({name})"
            done: Item = {"name": name, "base_bdev": None, "keys": None, "trouble": "", "given": False}
            done.update(state=item["state"], key_file=item.get("key_file"))
            if item["state"] == "present":
                if item.get("base_bdev") is None:
                    problems.append(f"{where}: base_bdev is missing")
                else:
                    done["base_bdev"] = check_bdev(item["base_bdev"], f"{where}.base_bdev", problems)
                check_cipher(item.get("cipher") or CIPHER, f"{where}.cipher", problems)
                done["given"] = item.get("key") is not None or item.get("key2") is not None
                if done["given"] or not item.get("key_file"):
                    done["keys"] = check_keys(item, where, problems)
                else:
                    done["keys"], done["trouble"] = _read_keys(item["key_file"])
            wanted.append(done)
        if problems:
            raise Refused(problems)
        for what in ("name", "base_bdev", "key_file"):
            refuse_duplicates(wanted, lambda item, what=what: item[what], "crypto", what)  # type: ignore[misc]
        return wanted

    def read(self, executor: Any) -> tuple[list[Any], list[Any]]:
        """All bdevs, once the bases are there or the time for that is over, and the names of all keys."""
        deadline = time.monotonic() + self._wait
        self._wait = 0.0
        while True:
            answers = executor.pipeline([("bdev_get_bdevs", None), ("accel_crypto_keys_get", None)])
            for answer in answers:
                if isinstance(answer, Error):
                    raise answer
            bdevs, keys = answers
            if self._bases <= real_names(bdevs).keys() or time.monotonic() >= deadline:
                return bdevs, [key["name"] for key in keys or ()]
            time.sleep(_POLL_SECONDS)

    def release(self, executor: Any) -> tuple[int, int]:
        return read_release(executor)

    def plan(self, wanted: Sequence[Item], current: tuple[Sequence[Any], Sequence[str]]) -> Plan:
        bdevs, keys = current
        there = {bdev["name"]: bdev for bdev in bdevs}
        real_name = real_names(bdevs)
        plan = Plan()
        for item in wanted:
            name, path = item["name"], (item["name"],)
            bdev = there.get(name)
            crypto = ((bdev or {}).get("driver_specific") or {}).get("crypto", {})
            if bdev is not None and bdev["product_name"] != PRODUCT:
                sentence = f"bdev {name} is a {bdev['product_name']}, not an encrypted one: it is left alone"
                plan.refusals.append((path, sentence))
                continue
            if bdev is not None:
                plan.view[name] = {"base_bdev": crypto["base_bdev_name"], "key_name": crypto["key_name"]}
            if item["state"] == "absent":
                if bdev is not None:
                    self._delete(item, bdev, crypto["key_name"], plan)
            elif bdev is None:
                self._create(item, real_name, keys, plan)
            else:
                self._compare(item, crypto, real_name, plan)
        return plan

    @staticmethod
    def _delete(item: Item, bdev: Mapping[str, Any], key: str, plan: Plan) -> None:
        name = item["name"]
        calls = (("bdev_crypto_delete", {"name": name}), ("accel_crypto_key_destroy", {"key_name": key}))
        plan.changes.append(Change("delete", "encrypted bdev", name, (name,), None, calls, stage=0))

    @staticmethod
    def _create(item: Item, real_name: Mapping[str, str], keys: Sequence[str], plan: Plan) -> None:
        name, base = item["name"], real_name.get(item["base_bdev"])
        if item["trouble"] or base is None:
            blocked = item["trouble"] or f"its base bdev {item['base_bdev']} is not there"
            plan.changes.append(Change("create", "encrypted bdev", name, (name,), None, (), 1, blocked=blocked))
            return
        key = key_name(name, fingerprint(item["keys"]))
        create = ("bdev_crypto_create", {"base_bdev_name": base, "name": name, "key_name": key})
        made = ("accel_crypto_key_create", {"name": key, "cipher": CIPHER, **item["keys"]})
        calls = (create,) if key in keys else (made, create)
        after = {"base_bdev": base, "key_name": key}
        plan.changes.append(Change("create", "encrypted bdev", name, (name,), after, calls, 1))

    @staticmethod
    def _compare(item: Item, crypto: Mapping[str, Any], real_name: Mapping[str, str], plan: Plan) -> None:
        name, path = item["name"], (item["name"],)
        base = real_name.get(item["base_bdev"], item["base_bdev"])
        if crypto["base_bdev_name"] != base:
            sentence = f"encrypted bdev {name} is on {crypto['base_bdev_name']}, wanted on {base}: delete it first"
            plan.refusals.append((path, sentence))
        elif item["keys"] and crypto["key_name"] != key_name(name, fingerprint(item["keys"])):
            sentence = f"encrypted bdev {name} is there with another key: delete it first; what it wrote stays as it is"
            plan.refusals.append((path, sentence))


def _read_keys(path: str) -> tuple[dict[str, str] | None, str]:
    """The keys in a file, or why there are none."""
    try:
        with open(path, encoding="utf-8") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                return None, f"the key file {path} is open to others than its owner: chmod 0600"
            document = json.load(file)
    except OSError as error:
        return None, f"the key file {path} cannot be read: {error.strerror}"
    except ValueError:
        return None, f"the key file {path} is no JSON"
    problems: list[str] = []
    keys = check_keys(document if isinstance(document, dict) else {}, f"the key file {path}", problems)
    return keys, "; ".join(problems)


def converge(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """From the parameters of ``spdk_bdev_crypto`` to its result. Errors are data: nothing is raised.

    A key that was given goes to its file before SPDK has it, and stays there as long as SPDK does.
    """
    written: list[str] = []
    try:
        wanted = CryptoBdevs.normalise(params["crypto"])
        family = CryptoBdevs(wanted, 0.0 if check_mode else params["wait"])
        with Client(params["rpc_socket"], params["rpc_timeout"]) as client:
            outcome = reconcile(family, wanted, client, check_mode=True)
            written = _write_keys(wanted, check_mode)
            if not check_mode:
                outcome = reconcile(family, wanted, client)
        removed = _remove_keys(wanted, outcome, check_mode)
    except Refused as refused:
        return {"failed": True, "changed": False, "msg": f"Nothing was changed. {refused}"}
    except (Error, OSError, ValueError) as error:
        return {"failed": True, "changed": bool(written), "msg": str(error)}
    result = {**outcome.result(), "key_files": {"written": written, "removed": removed}}
    result["changed"] = outcome.changed or bool(written or removed)
    if outcome.notes:
        result["warnings"] = outcome.notes
    if outcome.failed:
        result.update(failed=True, msg=outcome.summary())
    return result


def _write_keys(wanted: Sequence[Item], check_mode: bool) -> list[str]:
    """The files that did not have the key that was given for them."""
    written = []
    for item in wanted:
        path = item["key_file"]
        if item["given"] and path and _read_keys(path)[0] != item["keys"]:
            if not check_mode:
                write_private(path, json.dumps({"cipher": CIPHER, **item["keys"]}) + "\n")
            written.append(path)
    return written


def _remove_keys(wanted: Sequence[Item], outcome: Outcome, check_mode: bool) -> list[str]:
    """The files of bdevs that are gone."""
    removed = []
    for item in wanted:
        path = item["key_file"]
        if item["state"] == "absent" and path and item["name"] not in outcome.open and os.path.lexists(path):
            if not check_mode:
                os.unlink(path)
            removed.append(path)
    return removed
