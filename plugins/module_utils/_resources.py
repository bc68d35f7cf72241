# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What SPDK has: one family a kind of object. How it is identified, read, made, changed in place and removed.

A family is given normalised items (``normalise`` checks a module's list and raises Refused with every problem that it
finds, before anything is sent) and answers with a Plan. Facts about methods and parameters, and since which release they
are there, come from SPDK's JSON-RPC reference; the floor is 23.01.
"""

from __future__ import annotations

import ipaddress
import os
import re
import time
import uuid as uuids
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import Client, Error, RpcError
from ansible_collections.ipdk.storage.plugins.module_utils._reconcile import (
    Change,
    Family,
    Outcome,
    Plan,
    Refused,
    reconcile,
    refuse_duplicates,
)

Item = dict[str, Any]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
NAME_RULE = "1 to 63 of the characters A-Z a-z 0-9 . _ -, the first a letter or digit, no two dots in a row"
NQN = re.compile(r"nqn\.\d{4}-(0[1-9]|1[0-2])\.[A-Za-z0-9]+([.-][A-Za-z0-9]+)*(:[A-Za-z0-9._:+=@-]+)?")
NQN_RULE = "nqn.yyyy-mm.reversed.domain:identifier, 223 bytes at most, without spaces or slashes"
DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"
UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
MIB = 2**20


def converge(
    family: Family, wanted: Callable[[], Sequence[Item]], connection: Mapping[str, Any], check_mode: bool
) -> dict[str, Any]:
    """Everything between a module's parameters and its result, in one connection.

    ``wanted`` normalises the module's list, ``connection`` has ``rpc_socket`` and ``rpc_timeout``. The dict is the module's result; ``failed`` and ``msg`` are in it when
    something went wrong. Errors are data here: nothing is raised.
    """
    try:
        items = wanted()
        with Client(connection["rpc_socket"], connection["rpc_timeout"]) as client:
            outcome = reconcile(family, items, client, check_mode)
            extra = {}
            settle = getattr(family, "settle", None)
            if settle is not None:
                extra = settle(items, client, outcome, check_mode)
    except Refused as refused:
        return {"failed": True, "changed": False, "msg": "Nothing was changed. " + "; ".join(refused.problems)}
    except (Error, ValueError) as error:
        return {"failed": True, "changed": False, "msg": str(error)}
    result = {**outcome.result(), **extra}
    if outcome.notes:
        result["warnings"] = outcome.notes
    if outcome.failed:
        result.update(failed=True, msg=outcome.summary())
    return result


def read_release(executor: Any) -> tuple[int, int]:
    """``(year, month)`` of the SPDK that answers, such as (26, 5)."""
    fields = executor.call("spdk_get_version")["fields"]
    return fields["major"], fields["minor"]


# Checking what the operator wrote. Each function appends to `problems` and returns the normalised value.


def check_name(value: Any, where: str, problems: list[str]) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value) or ".." in value:
        problems.append(f"{where}: {value!r} is no valid name ({NAME_RULE})")
    return str(value)


def check_nqn(value: Any, where: str, problems: list[str]) -> str:
    text = str(value)
    if not isinstance(value, str) or not NQN.fullmatch(text) or len(text) > 223 or ".." in text:
        problems.append(f"{where}: {value!r} is no valid NQN ({NQN_RULE})")
    return text


def check_uuid(value: Any, where: str, problems: list[str]) -> str | None:
    if value is None:
        return None
    try:
        return str(uuids.UUID(str(value)))
    except ValueError:
        problems.append(f"{where}: {value!r} is no UUID")
        return None


def check_size(value: Any, where: str, problems: list[str]) -> int | None:
    """Bytes of ``64MiB`` or a plain number of bytes."""
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]+) ?([KMGT]iB|)", str(value))
    if match and int(match[1]) > 0:
        return int(match[1]) * UNITS[match[2]]
    problems.append(f"{where}: {value!r} is no size (bytes, or a whole number with KiB, MiB, GiB or TiB)")
    return None


def check_address(value: Any, where: str, problems: list[str]) -> tuple[str, str]:
    """``(adrfam, traddr)``. SPDK resolves no names, so a name is refused here."""
    try:
        address = ipaddress.ip_address(str(value))
    except ValueError:
        problems.append(f"{where}: {value!r} is no IP address (SPDK resolves no host names)")
        return "IPv4", str(value)
    return f"IPv{address.version}", str(address)


def check_range(value: Any, low: int, high: int, where: str, problems: list[str]) -> Any:
    if value is not None and not low <= int(value) <= high:
        problems.append(f"{where}: {value} is not between {low} and {high}")
    return value


def human(size: int) -> str:
    """``64MiB`` for 67108864: the largest unit that leaves a whole number."""
    for unit, factor in reversed(UNITS.items()):
        if size and size % factor == 0:
            return f"{size // factor}{unit}" if unit else f"{size} bytes"
    return f"{size} bytes"


def _given(item: Mapping[str, Any], *names: str) -> Item:
    return {name: item[name] for name in names if item.get(name) is not None}


# Bdevs


class BdevType:
    """A row of the table below."""

    def __init__(self, product: str, create: str, delete: str, create_since: Mapping[str, str]) -> None:
        self.product = product  # what bdev_get_bdevs calls it
        self.create = create
        self.delete = delete
        self.create_since = create_since  # parameter of the create call -> first release that takes it


BDEV_TYPES = {
    "malloc": BdevType("Malloc disk", "bdev_malloc_create", "bdev_malloc_delete", {}),
    "null": BdevType("Null disk", "bdev_null_create", "bdev_null_delete", {}),
    "aio": BdevType("AIO disk", "bdev_aio_create", "bdev_aio_delete", {"uuid": "24.09"}),
}
_TYPE_OF_PRODUCT = {row.product: name for name, row in BDEV_TYPES.items()}


class Bdevs:
    """malloc, null and aio bdevs. Only null ones grow by themselves; an aio bdev follows its file."""

    def __init__(self, force: bool = False) -> None:
        self.force = force

    @staticmethod
    def normalise(items: Sequence[Mapping[str, Any]], file_size: Callable[[str], int | None] | None = None) -> list[Item]:
        """Module items → items with ``blocks`` and ``bytes`` (None: not said); for aio ``file_bytes`` (None: not seen)."""
        problems: list[str] = []
        wanted = []
        look = file_size or _file_size
        for index, item in enumerate(items):
            where = f"bdevs[{index}]"
            name = check_name(item["name"], f"{where}.name", problems)
            absent = item.get("state") == "absent"
            kind = item.get("type")
            block_size = item.get("block_size")
            size = check_size(item.get("size"), f"{where}.size", problems)
            blocks = item.get("num_blocks")
            if size is not None and blocks is not None:
                problems.append(f"{where} ({name}): size and num_blocks exclude each other")
            unit = block_size or 512
            if unit < 512 or unit & (unit - 1):
                problems.append(f"{where}.block_size ({name}): {unit} is no power of two from 512 on")
            elif size is not None:
                if size % unit:
                    problems.append(f"{where}.size ({name}): {size} bytes are no multiple of the block size {unit}")
                blocks = size // unit
            if blocks is not None and blocks < 1:
                problems.append(f"{where}.num_blocks ({name}): {blocks} is less than 1")
            if not absent:
                if kind is None:
                    problems.append(f"{where} ({name}): type is missing")
                if kind in ("malloc", "null") and item.get("size") is None and blocks is None:
                    problems.append(f"{where} ({name}): a {kind} bdev needs size or num_blocks")
                if (kind == "aio") != bool(item.get("filename")):
                    problems.append(f"{where} ({name}): filename is for aio bdevs, and they need it")
            wanted.append(
                {
                    "name": name,
                    "state": "absent" if absent else "present",
                    "type": kind,
                    "block_size": block_size,
                    "blocks": blocks,
                    "bytes": size,
                    "uuid": check_uuid(item.get("uuid"), f"{where}.uuid ({name})", problems),
                    "filename": item.get("filename"),
                    "file_bytes": look(item["filename"]) if kind == "aio" and item.get("filename") else None,
                }
            )
        if problems:
            raise Refused(problems)
        refuse_duplicates(wanted, lambda item: item["name"], "bdevs", "name")
        refuse_duplicates(wanted, lambda item: item["uuid"], "bdevs", "uuid")
        return wanted

    def read(self, executor: Any) -> Any:
        return executor.call("bdev_get_bdevs")

    def release(self, executor: Any) -> tuple[int, int]:
        return read_release(executor)

    def plan(self, wanted: Sequence[Item], current: Sequence[Mapping[str, Any]]) -> Plan:
        there = {bdev["name"]: bdev for bdev in current}
        plan = Plan()
        for item in wanted:
            bdev = there.get(item["name"])
            if bdev is not None:
                plan.view[item["name"]] = self._view(bdev)
            if item["state"] == "absent":
                if bdev is not None:
                    self._delete(item, bdev, plan)
            elif bdev is None:
                self._create(item, plan)
            else:
                self._update(item, bdev, plan)
        return plan

    @staticmethod
    def _view(bdev: Mapping[str, Any]) -> Item:
        view = {
            "type": _TYPE_OF_PRODUCT.get(bdev["product_name"], bdev["product_name"]),
            "block_size": bdev["block_size"],
            "size": bdev["block_size"] * bdev["num_blocks"],
            "uuid": bdev.get("uuid"),
        }
        filename = (bdev.get("driver_specific") or {}).get("aio", {}).get("filename")
        return {**view, "filename": filename} if filename else view

    def _create(self, item: Item, plan: Plan) -> None:
        row = BDEV_TYPES[item["type"]]
        block_size = item["block_size"] or 512
        params = {"name": item["name"], "block_size": block_size, **_given(item, "uuid", "filename")}
        after = {"type": item["type"], "block_size": block_size, **_given(item, "uuid", "filename")}
        if item["type"] == "aio":
            size = item["file_bytes"]
            wanted = (item["blocks"] or 0) * block_size
            if size is not None and size < wanted:
                plan.refusals.append(((item["name"],), self._file_too_small(item, size, wanted)))
                return
            if size is not None:
                after["size"] = size // block_size * block_size
        else:
            params["num_blocks"] = item["blocks"]
            after["size"] = item["blocks"] * block_size
        plan.since += [
            (f"{name} of {item['type']} bdevs", release) for name, release in row.create_since.items() if name in params
        ]
        plan.changes.append(
            Change("create", "bdev", item["name"], (item["name"],), after, ((row.create, params),), stage=1)
        )

    def _update(self, item: Item, bdev: Mapping[str, Any], plan: Plan) -> None:
        name = item["name"]
        view = plan.view[name]
        size = view["size"]
        wanted_size = item["bytes"]
        if wanted_size is None and item["blocks"] is not None:
            wanted_size = item["blocks"] * bdev["block_size"]
        for key in ("type", "block_size", "uuid", "filename"):
            if item[key] is not None and view.get(key) is not None and item[key] != view[key]:
                sentence = f"bdev {name} exists with {key} {view[key]}, wanted {item[key]}: delete it first"
                plan.refusals.append(((name,), sentence))
                return
        if wanted_size is None or wanted_size == size:
            return
        path: tuple[str, ...] = (name,)
        if item["type"] == "aio":
            if wanted_size < size:
                return  # the file has more than is needed
            if item["file_bytes"] is not None and item["file_bytes"] < wanted_size:
                plan.refusals.append((path, self._file_too_small(item, item["file_bytes"], wanted_size)))
                return
            call: tuple[str, Any] = ("bdev_aio_rescan", {"name": name})
            bytes_after = item["file_bytes"] or wanted_size
            after_size = bytes_after // bdev["block_size"] * bdev["block_size"]
        elif wanted_size < size:
            sentence = f"bdev {name} has {human(size)}, wanted {human(wanted_size)}: it is never shrunk, delete it first"
            plan.refusals.append((path, sentence))
            return
        elif item["type"] == "null":
            if wanted_size % MIB:
                sentence = f"bdev {name} has {human(size)}, wanted {human(wanted_size)}: SPDK resizes to whole MiB only"
                plan.refusals.append((path, sentence))
                return
            call = ("bdev_null_resize", {"name": name, "new_size": wanted_size // MIB})
            after_size = wanted_size
        else:
            sentence = f"bdev {name} has {human(size)}, wanted {human(wanted_size)}: a {item['type']} bdev cannot grow"
            plan.refusals.append((path, sentence + ", delete it first"))
            return
        plan.changes.append(Change("update", "bdev", name, path, {**view, "size": after_size}, (call,), stage=1))

    def _delete(self, item: Item, bdev: Mapping[str, Any], plan: Plan) -> None:
        name = item["name"]
        path = (name,)
        kind = plan.view[name]["type"]
        if item["type"] is not None and kind != item["type"]:
            plan.refusals.append((path, f"bdev {name} exists with type {kind}, wanted {item['type']} absent: not deleted"))
        elif kind not in BDEV_TYPES:
            sentence = f"bdev {name} is a {kind}, which is not made with bdevs but with what it belongs to: not deleted"
            plan.refusals.append((path, sentence))
        elif bdev.get("claimed") and not self.force:
            sentence = f"bdev {name} is in use (a namespace or another bdev holds it): remove its user first, or set force"
            plan.refusals.append((path, sentence))
        else:
            call = (BDEV_TYPES[kind].delete, {"name": name})
            plan.changes.append(Change("delete", "bdev", name, path, None, (call,), stage=0))

    @staticmethod
    def _file_too_small(item: Item, size: int, wanted: int) -> str:
        return f"bdev {item['name']}: {item['filename']} has {human(size)}, wanted {human(wanted)}: grow the file first"


def _file_size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None  # not here: SPDK may run on another machine or see it at another place
