# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bdevs of SPDK: malloc, null and aio ones."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._checks import (
    check_name,
    check_size,
    check_uuid,
    human,
)
from ansible_collections.ipdk.storage.plugins.module_utils._reconcile import (
    Change,
    Plan,
    Refused,
    refuse_duplicates,
)
from ansible_collections.ipdk.storage.plugins.module_utils._resources import (
    STATE,
    Item,
    given,
    read_release,
)

#: The options of an item, as Ansible's argument_spec has them.
BDEV = {
    "name": {"type": "str", "required": True},
    "type": {"type": "str", "choices": ["malloc", "null", "aio"]},
    "size": {"type": "str"},
    "num_blocks": {"type": "int"},
    "block_size": {"type": "int"},
    "uuid": {"type": "str"},
    "filename": {"type": "path"},
    "state": STATE,
}

MIB = 2**20


def aio_file(bdev: Mapping[str, Any]) -> str | None:
    """The file that an aio bdev is on, as ``bdev_get_bdevs`` says; None for any other bdev."""
    return (bdev.get("driver_specific") or {}).get("aio", {}).get("filename")


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
    def normalise(items: Sequence[Mapping[str, Any]]) -> list[Item]:
        """Items with ``blocks`` and ``bytes`` (None: not said) and, for aio, ``file_bytes`` (None: cannot be seen)."""
        problems: list[str] = []
        wanted = []
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
                    "file_bytes": _file_size(item["filename"]) if kind == "aio" and item.get("filename") else None,
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
        filename = aio_file(bdev)
        return {**view, "filename": filename} if filename else view

    def _create(self, item: Item, plan: Plan) -> None:
        row = BDEV_TYPES[item["type"]]
        block_size = item["block_size"] or 512
        params = {"name": item["name"], "block_size": block_size, **given(item, "uuid", "filename")}
        after = {"type": item["type"], "block_size": block_size, **given(item, "uuid", "filename")}
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
            sentence = f"bdev {name} has {human(size)}, wanted {human(wanted_size)}: it is never shrunk"
            plan.refusals.append((path, sentence + ", delete it first"))
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
            sentence = f"bdev {name} exists with type {kind}, wanted {item['type']} absent: not deleted"
            plan.refusals.append((path, sentence))
        elif kind not in BDEV_TYPES:
            sentence = f"bdev {name} is a {kind}, which is not made with bdevs but with what it belongs to: not deleted"
            plan.refusals.append((path, sentence))
        elif bdev.get("claimed") and not self.force:
            sentence = f"bdev {name} is in use (by a namespace or another bdev): remove its user first, or set force"
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
