# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lvol stores of a storage target (``storage_target_lvol_stores``), checked, and what it takes to make them.

A store is on a sparse file of its own, or on a bdev that is there already (``base_bdev``). Pure functions of plain
data.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils import _checks
from ansible_collections.ipdk.storage.plugins.module_utils._lvols import (
    DEFAULT_CLUSTER_SIZE,
    DEFAULT_OVERCOMMIT,
    LEAST_CLUSTER_SIZE,
    data_capacity,
)

VARIABLE = "storage_target_lvol_stores"
KEYS = ("name", "size", "directory", "filename", "base_bdev", "block_size", "cluster_size", "overcommit")
PATH = re.compile(r"(/[A-Za-z0-9][A-Za-z0-9_.-]*)+")


@dataclass
class Store:
    """One valid item, defaults filled in. ``size`` and ``filename`` are null for a store on a bdev that is there."""

    name: str
    size: int | None
    filename: str | None
    base_bdev: str
    block_size: int
    cluster_size: int
    overcommit: float

    @property
    def capacity(self) -> int | None:
        """Bytes that volumes can have, as far as that is known before the store is there."""
        return None if self.size is None else data_capacity(self.size, self.cluster_size)


def parse(items: Any, directory: str | None) -> tuple[dict[str, Store], list[str]]:
    """The stores by name, and one sentence for each mistake. ``directory`` is for files that name none."""
    if not isinstance(items, list):
        return {}, [f"{VARIABLE}: wanted a list of stores, got {items!r}"]
    stores: dict[str, Store] = {}
    problems: list[str] = []
    for index, item in enumerate(items):
        wrong: list[str] = []
        store = _store(item, f"{VARIABLE}[{index}]", directory, wrong)
        problems += wrong
        if store is None or wrong:
            continue
        for other in stores.values():
            for what in ("name", "base_bdev", "filename"):
                value = getattr(store, what)
                if value is not None and value == getattr(other, what):
                    problems.append(f"{VARIABLE}[{index}]: {what} {value} is that of another store of the list")
        stores.setdefault(store.name, store)
    return stores, problems


def _store(item: Any, where: str, directory: str | None, problems: list[str]) -> Store | None:
    if not isinstance(item, dict):
        problems.append(f"{where}: wanted a dictionary with name and size, got {item!r}")
        return None
    problems += [f"{where}: unknown key {key!r}, known: {', '.join(KEYS)}" for key in item if key not in KEYS]
    name = _checks.check_name(item.get("name"), f"{where}.name", problems)
    where = f"{where} ({name})"
    size = _checks.check_size(item.get("size"), f"{where}: size", problems)
    cluster_size = _checks.check_size(item.get("cluster_size"), f"{where}: cluster_size", problems)
    cluster_size = DEFAULT_CLUSTER_SIZE if cluster_size is None else cluster_size
    if cluster_size < LEAST_CLUSTER_SIZE or cluster_size & (cluster_size - 1) or cluster_size >= 2**32:
        problems.append(f"{where}: cluster_size {cluster_size} is no power of two from 1MiB to 2GiB")
        cluster_size = DEFAULT_CLUSTER_SIZE
    overcommit = item.get("overcommit", DEFAULT_OVERCOMMIT)
    if not isinstance(overcommit, (int, float)) or isinstance(overcommit, bool) or not 0 < overcommit < float("inf"):
        problems.append(f"{where}: overcommit {overcommit!r} is no number above 0")
    block_size = item.get("block_size", 512)
    if block_size not in (512, 4096) or isinstance(block_size, bool):
        problems.append(f"{where}: block_size {block_size!r} is neither 512 nor 4096")
    for key in ("directory", "filename"):
        if item.get(key) is not None and (not isinstance(item[key], str) or not PATH.fullmatch(item[key])):
            problems.append(f"{where}: {key} {item[key]!r} is no absolute path without '..' or spaces")
    base = item.get("base_bdev")
    places = [key for key in ("directory", "filename", "base_bdev") if item.get(key) is not None]
    if len(places) > 1:
        problems.append(f"{where}: {' and '.join(places)} exclude each other")
    if base is not None:
        _checks.check_bdev(base, f"{where}: base_bdev", problems)
        if size is not None:
            problems.append(f"{where}: base_bdev has a size of its own, leave size out")
        return Store(name, None, None, str(base), block_size, cluster_size, overcommit)
    if item.get("size") is None:
        problems.append(f"{where}: size is missing, that of the store's file")
    elif size is not None and not problems and data_capacity(size, cluster_size) == 0:
        least = 2 * cluster_size
        problems.append(f"{where}: size {size} has no room for data, wanted {least} at least")
    filename = item.get("filename") or f"{item.get('directory') or directory}/{name}.lvs"
    # No virtual disk is called like this: their names have no capitals.
    return Store(name, size, filename, f"Store-{name}", block_size, cluster_size, overcommit)


def work(items: Any, directory: str) -> dict[str, Any]:
    """What makes the stores: ``problems``; ``directories``; ``files`` (``path``, ``size``); ``bdevs`` for spdk_target;
    ``stores`` for spdk_lvol."""
    stores, problems = parse(items, directory)
    on_files = [store for store in stores.values() if store.filename]
    return {
        "problems": problems,
        "directories": sorted({str(store.filename).rpartition("/")[0] for store in on_files}),
        "files": [{"path": store.filename, "size": store.size} for store in on_files],
        "bdevs": [
            {"name": store.base_bdev, "type": "aio", "filename": store.filename, "block_size": store.block_size}
            for store in on_files
        ],
        "stores": [
            {
                "name": store.name,
                "base_bdev": store.base_bdev,
                "cluster_size": store.cluster_size,
                "overcommit": store.overcommit,
            }
            for store in stores.values()
        ],
    }
