# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Logical volumes of SPDK, and the stores they live in.

SPDK names a logical volume's bdev by a UUID of its own choice; ``store/volume`` is an alias of it, and is how a volume
is identified here. Sizes are in bytes; a volume has whole clusters of its store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._checks import (
    check_bdev,
    check_name,
    check_size,
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

MIB = 2**20
PRODUCT = "Logical Volume"
#: Bytes of a cluster for which nothing is said.
DEFAULT_CLUSTER_SIZE = 4 * MIB
#: The least that SPDK's blobstore takes: one page of metadata is 4 KiB, and volumes are sized in MiB anyway.
LEAST_CLUSTER_SIZE = MIB
DEFAULT_OVERCOMMIT = 1.0
CLEAR_METHODS = ("unmap", "write_zeroes", "none")

# A snapshot goes after its clones, and comes before what is made of it or grows. SPDK makes one snapshot or clone of a
# volume at a time (EBUSY): the further ones of it have the stages that follow.
_DELETE_LVOL, _DELETE_SNAPSHOT, _DELETE_STORE, _CREATE_STORE, _SNAPSHOT, _GROW_LVOL, _CREATE_LVOL = range(0, 7000, 1000)

_CLEAR = {"type": "str", "choices": list(CLEAR_METHODS)}
#: The options of an item of ``stores`` and of ``lvols``, as Ansible's argument_spec has them.
STORE = {
    "name": {"type": "str", "required": True},
    "base_bdev": {"type": "str"},
    "cluster_size": {"type": "str"},
    "clear_method": _CLEAR,
    "overcommit": {"type": "float"},
    "state": STATE,
}
LVOL = {
    "name": {"type": "str", "required": True},
    "store": {"type": "str", "required": True},
    "size": {"type": "str"},
    "thin": {"type": "bool"},
    "snapshot_of": {"type": "str"},
    "clone_of": {"type": "str"},
    "clear_method": _CLEAR,
    "state": STATE,
}


class Lvols:
    """Stores and their volumes. ``force``: delete a store with what is in it, and a volume that is in use."""

    def __init__(self, force: bool = False) -> None:
        self.force = force

    # What the operator wrote

    @staticmethod
    def normalise(stores: Sequence[Mapping[str, Any]], lvols: Sequence[Mapping[str, Any]]) -> list[Item]:
        """One item a store, ``lvols`` in it; a store that only its volumes name has ``declared`` false."""
        problems: list[str] = []
        wanted = [_store(item, f"stores[{index}]", problems) for index, item in enumerate(stores)]
        volumes = [_lvol(item, f"lvols[{index}]", problems) for index, item in enumerate(lvols)]
        if problems:
            raise Refused(problems)
        refuse_duplicates(wanted, lambda item: item["name"], "stores", "name")
        refuse_duplicates(wanted, lambda item: item["base_bdev"], "stores", "base_bdev")
        refuse_duplicates(volumes, lambda item: (item["store"], item["name"]), "lvols", "store and name")
        by_name = {store["name"]: store for store in wanted}
        for index, volume in enumerate(volumes):
            store = by_name.get(volume["store"])
            if store is None:
                store = by_name[volume["store"]] = {
                    **_store({"name": volume["store"]}, "", []),
                    "declared": False,
                }
                wanted.append(store)
            if store["state"] == "absent" and volume["state"] == "present":
                problems.append(
                    f"lvols[{index}] ({volume['name']}): its store {store['name']} is to be absent in the same list"
                )
            store["lvols"].append(volume)
        if problems:
            raise Refused(problems)
        return wanted

    # What is there

    def read(self, executor: Any) -> Any:
        """``{stores: bdev_lvol_get_lvstores, bdevs: bdev_get_bdevs}``, once every bdev was searched for stores."""
        executor.call("bdev_wait_for_examine")
        return {"stores": executor.call("bdev_lvol_get_lvstores"), "bdevs": executor.call("bdev_get_bdevs")}

    def release(self, executor: Any) -> tuple[int, int]:
        return read_release(executor)

    # What follows from it

    def plan(self, wanted: Sequence[Item], current: Mapping[str, Any]) -> Plan:
        plan = Plan()
        there = {store["name"]: store for store in describe(current)}
        bdevs = {name: bdev for bdev in current["bdevs"] for name in (bdev["name"], *bdev.get("aliases", ()))}
        for item in wanted:
            name = item["name"]
            store = there.get(name)
            if store is not None:
                declared = {volume["name"] for volume in item["lvols"]}
                plan.view[name] = {
                    **given(store, "base_bdev", "cluster_size", "capacity", "uuid"),
                    "lvols": {
                        volume["name"]: given(volume, "size", "thin", "uuid")
                        for volume in store["lvols"]
                        if volume["name"] in declared
                    },
                }
            if item["state"] == "absent":
                self._plan_volumes(item, store, plan)
                if store is not None:
                    self._delete_store(item, store, plan)
                continue
            if store is None:
                if not item["lvols"] or item["declared"] or any(v["state"] == "present" for v in item["lvols"]):
                    store = self._create_store(item, there, bdevs, plan)
            else:
                _refuse_other(item, store, bdevs, plan)
            self._plan_volumes(item, store, plan)
        return plan

    @staticmethod
    def _create_store(
        item: Item, there: Mapping[str, Item], bdevs: Mapping[str, Mapping[str, Any]], plan: Plan
    ) -> Item | None:
        """The store as it will be; None where it cannot be made."""
        name, path = item["name"], (item["name"],)
        if item["base_bdev"] is None:
            sentence = f"there is no lvol store {name}; there are: {', '.join(sorted(there)) or 'none'}"
            plan.refusals.append((path, f"{sentence}. Correct the name, or say on which base_bdev to make it"))
            return None
        base = bdevs.get(item["base_bdev"])
        cluster_size = item["cluster_size"] or DEFAULT_CLUSTER_SIZE
        capacity = None
        if base is not None:
            other = next((store["name"] for store in there.values() if store["base_bdev"] == base["name"]), None)
            if other is not None or base.get("claimed"):
                holder = f"the lvol store {other} is on it" if other else "something else holds it"
                sentence = f"lvol store {name} cannot be made on bdev {item['base_bdev']}: {holder}"
                plan.refusals.append((path, sentence))
                return None
            capacity = data_capacity(base["block_size"] * base["num_blocks"], cluster_size)
            if capacity <= 0:
                size = human(base["block_size"] * base["num_blocks"])
                sentence = f"lvol store {name}: bdev {item['base_bdev']} has {size}, too little for clusters of "
                plan.refusals.append((path, sentence + human(cluster_size)))
                return None
        params = {"bdev_name": item["base_bdev"], "lvs_name": name, "cluster_sz": cluster_size}
        params.update(given(item, "clear_method"))
        after = {"base_bdev": base["name"] if base else item["base_bdev"], "cluster_size": cluster_size}
        after.update({"capacity": capacity} if capacity is not None else {}, lvols={})
        hint = f"usually there is no bdev {item['base_bdev']}, or it holds a store or something else already"
        plan.changes.append(
            Change(
                "create",
                "lvol store",
                name,
                path,
                after,
                (("bdev_lvol_create_lvstore", params),),
                _CREATE_STORE,
                hint=hint,
            )
        )
        return {**after, "name": name, "lvols": []}

    def _delete_store(self, item: Item, store: Item, plan: Plan) -> None:
        name = item["name"]
        going = {volume["name"] for volume in item["lvols"]}
        left = [volume["name"] for volume in store["lvols"] if volume["name"] not in going]
        used = [volume["name"] for volume in store["lvols"] if volume["claimed"]]
        if left and not self.force:
            sentence = f"lvol store {name} has {len(left)} volumes that would be lost with it ({_some(left)})"
            plan.refusals.append(((name,), sentence + ": make them absent first, or set force"))
        elif used and not self.force:
            return  # the volume says why
        else:
            call = ("bdev_lvol_delete_lvstore", {"lvs_name": name})
            plan.changes.append(Change("delete", "lvol store", name, (name,), None, (call,), stage=_DELETE_STORE))

    def _plan_volumes(self, item: Item, store: Item | None, plan: Plan) -> None:
        there = {volume["name"]: volume for volume in store["lvols"]} if store else {}
        promised = {name: volume["promised"] for name, volume in there.items()}
        before = sum(promised.values())
        thin = {name for name, volume in there.items() if volume["thin"]}
        for wanted in item["lvols"]:
            name = wanted["name"]
            volume = there.get(name)
            if wanted["state"] == "absent":
                if volume is not None:
                    promised.pop(name)
                    thin.discard(name)
                    self._delete(item, volume, plan)
            elif store is None:
                continue  # refused above
            elif wanted["snapshot_of"] is not None:
                promised[name] = self._snapshot(wanted, store, there, plan)
            elif volume is None:
                promised[name] = self._create(wanted, store, plan)
                thin |= {name} if wanted["thin"] else set()
            else:
                promised[name] = max(promised[name], self._grow(wanted, store, volume, plan))
        if store is not None and store.get("capacity"):
            _check_overcommit(item, store["capacity"], before, sum(promised.values()), bool(thin), plan)

    @staticmethod
    def _create(wanted: Item, store: Item, plan: Plan) -> int:
        path = (store["name"], "lvols", wanted["name"])
        alias = f"{store['name']}/{wanted['name']}"
        if wanted["clone_of"] is not None:
            return Lvols._clone(wanted, store, plan)
        if wanted["bytes"] is None:
            plan.refusals.append((path, f"there is no logical volume {alias}, and no size is said to make it with"))
            return 0
        size = whole_clusters(wanted["bytes"], store["cluster_size"])
        params = {
            "lvs_name": store["name"],
            "lvol_name": wanted["name"],
            "size_in_mib": size // MIB,
            "thin_provision": bool(wanted["thin"]),
            **given(wanted, "clear_method"),
        }
        after = {"size": size, "thin": bool(wanted["thin"])}
        call = ("bdev_lvol_create", params)
        hint = f"usually the free clusters of {store['name']} do not hold {human(size)}"
        plan.since.append(("logical volumes", "23.05"))  # before, sizes were in bytes under another name
        plan.changes.append(Change("create", "lvol", alias, path, after, (call,), stage=_CREATE_LVOL, hint=hint))
        return size

    @staticmethod
    def _snapshot(wanted: Item, store: Item, there: Mapping[str, Item], plan: Plan) -> int:
        path = (store["name"], "lvols", wanted["name"])
        alias, origin = f"{store['name']}/{wanted['name']}", there.get(wanted["snapshot_of"])
        volume = there.get(wanted["name"])
        if volume is not None:
            if not volume["snapshot"]:
                sentence = f"there is a logical volume {alias}, which is no snapshot"
                plan.refusals.append((path, sentence + ": choose another name"))
            return volume["promised"]
        if origin is None or origin["snapshot"]:
            what = "is a snapshot itself" if origin else "is not there"
            sentence = f"no snapshot {alias} can be taken: {store['name']}/{wanted['snapshot_of']} {what}"
            plan.refusals.append((path, sentence))
            return 0
        call = ("bdev_lvol_snapshot", {"lvol_name": origin["alias"], "snapshot_name": wanted["name"]})
        after = given(origin, "size", "thin")
        stage = _SNAPSHOT + _already(plan, call[0], "lvol_name", origin["alias"])
        plan.changes.append(Change("create", "snapshot", alias, path, after, (call,), stage=stage))
        return origin["allocated"]

    @staticmethod
    def _clone(wanted: Item, store: Item, plan: Plan) -> int:
        path = (store["name"], "lvols", wanted["name"])
        alias, source = f"{store['name']}/{wanted['name']}", f"{store['name']}/{wanted['clone_of']}"
        snapshot = next((volume for volume in store["lvols"] if volume["name"] == wanted["clone_of"]), None)
        if snapshot is None or not snapshot["snapshot"]:
            what = "is no snapshot" if snapshot else "is not there"
            plan.refusals.append((path, f"no clone {alias} can be made: {source} {what}"))
            return 0
        least = snapshot["size"]
        size = least if wanted["bytes"] is None else whole_clusters(wanted["bytes"], store["cluster_size"])
        if size < least:
            sentence = f"clone {alias} of {source} has {human(least)} at least, wanted {human(size)}"
            plan.refusals.append((path, sentence))
            return 0
        calls = [("bdev_lvol_clone", {"snapshot_name": source, "clone_name": wanted["name"]})]
        if size > least:
            calls.append(("bdev_lvol_resize", {"name": alias, "size_in_mib": size // MIB}))
            plan.since.append(("growing logical volumes", "23.05"))
        after = {"size": size, "thin": True}
        stage = _CREATE_LVOL + _already(plan, "bdev_lvol_clone", "snapshot_name", source)
        plan.changes.append(Change("create", "clone", alias, path, after, tuple(calls), stage=stage))
        return int(size)

    @staticmethod
    def _grow(wanted: Item, store: Item, volume: Item, plan: Plan) -> int:
        path = (store["name"], "lvols", wanted["name"])
        alias = f"{store['name']}/{wanted['name']}"
        if wanted["thin"] and not volume["thin"]:
            sentence = f"logical volume {alias} exists and is thick, wanted thin"
            plan.refusals.append((path, sentence + ": delete it first"))
            return volume["size"]
        # One that stands on a snapshot is thin as long as it does.
        inflate = wanted["thin"] is False and volume["thin"] and not volume["clone"]
        size = volume["size"] if wanted["bytes"] is None else whole_clusters(wanted["bytes"], store["cluster_size"])
        if size < volume["size"]:
            sentence = f"logical volume {alias} has {human(volume['size'])}, wanted {human(size)}: it is never shrunk"
            plan.refusals.append((path, sentence + ", delete it first"))
        elif size > volume["size"] or inflate:
            calls: list[tuple[str, Mapping[str, Any]]] = []
            if size > volume["size"]:
                calls.append(("bdev_lvol_resize", {"name": alias, "size_in_mib": size // MIB}))
                plan.since.append(("growing logical volumes", "23.05"))
            if inflate:
                calls.append(("bdev_lvol_inflate", {"name": alias}))
            after = {**given(volume, "uuid"), "thin": volume["thin"] and not inflate, "size": size}
            hint = f"usually the free clusters of {store['name']} do not hold what is to come"
            plan.changes.append(Change("update", "lvol", alias, path, after, tuple(calls), stage=_GROW_LVOL, hint=hint))
        return size

    def _delete(self, item: Item, volume: Item, plan: Plan) -> None:
        path = (item["name"], "lvols", volume["name"])
        going = {wanted["name"] for wanted in item["lvols"] if wanted["state"] == "absent"}
        clones = [name for name in volume["clones"] if name not in going]
        if len(clones) > 1:
            sentence = f"snapshot {volume['alias']} has {len(clones)} clones ({_some(clones)})"
            plan.refusals.append((path, sentence + ", and SPDK deletes one that has one at most: delete clones first"))
            return
        if volume["claimed"] and not self.force:
            sentence = f"logical volume {volume['alias']} is in use (by a namespace or another bdev)"
            plan.refusals.append((path, sentence + ": remove its user first, or set force"))
            return
        call = ("bdev_lvol_delete", {"name": volume["alias"]})
        kind, stage = ("snapshot", _DELETE_SNAPSHOT) if volume["snapshot"] else ("lvol", _DELETE_LVOL)
        hint = "usually a clone depends on it"
        plan.changes.append(Change("delete", kind, volume["alias"], path, None, (call,), stage=stage, hint=hint))

    # What has become of it

    def results(self, executor: Any, wanted: Sequence[Item], after: Mapping[str, Any], check_mode: bool) -> Item:
        """``stores`` and ``lvols`` for a module's result: those of the list, as they are, or in check mode would be."""
        there = {store["name"]: store for store in describe(self.read(executor))}
        stores, lvols = [], []
        for item in wanted:
            view = after.get(item["name"])
            if view is None:
                continue
            nothing = {"uuid": None, "free": view.get("capacity"), "lvols": []}
            now = there.get(item["name"], nothing)
            capacity = view.get("capacity", now.get("capacity"))
            volumes, free = {volume["name"]: volume for volume in now["lvols"]}, now["free"]
            if check_mode:
                volumes, free = _foreseen(item, view["lvols"], volumes, free)
            for volume in (volumes[wish["name"]] for wish in item["lvols"] if wish["name"] in volumes):
                alias = f"{item['name']}/{volume['name']}"
                shown = given(volume, "name", "size", "thin", "allocated")
                lvols.append(
                    {**shown, "store": item["name"], "alias": alias, "bdev": volume["uuid"], "uuid": volume["uuid"]}
                )
            promised = sum(volume["promised"] for volume in volumes.values())
            stores.append(
                {
                    **given(view, "base_bdev", "cluster_size"),
                    "name": item["name"],
                    "uuid": now["uuid"],
                    "capacity": capacity,
                    "free": free,
                    "promised": promised,
                    "overcommit_ratio": round(promised / capacity, 3) if capacity else None,
                }
            )
        return {"stores": stores, "lvols": lvols}


def _foreseen(
    item: Item, planned: Mapping[str, Item], volumes: Mapping[str, Item], free: int | None
) -> tuple[dict[str, Item], int | None]:
    """A store's volumes by name and its free bytes (None: not known), once ``planned`` is what is there."""
    foreseen = dict(volumes)
    for wish in item["lvols"]:
        name = wish["name"]
        there, after = volumes.get(name), planned.get(name)
        if wish["snapshot_of"] is not None:
            continue  # below
        took = there["allocated"] if there else 0
        takes = 0
        if after is None:
            foreseen.pop(name, None)
        else:
            grows = after["size"] - (there["size"] if there else 0)
            # A thick volume takes all of its clusters at once, a thin one none before they are written.
            takes = took if after["thin"] else after["size"]
            promised = after["size"] if there is None or grows else there["promised"]
            made = {"name": name, "uuid": None} if there is None else there
            foreseen[name] = {**made, **given(after, "size", "thin"), "allocated": takes, "promised": promised}
        free = None if free is None else free + took - takes
    for wish in item["lvols"]:
        name = wish["name"]
        there, after = volumes.get(name), planned.get(name)
        if there is None and after is not None and wish["snapshot_of"] is not None:
            # It has the clusters that its origin had, which is thin from then on and starts with none.
            origin = volumes[wish["snapshot_of"]]
            held = {"allocated": origin["allocated"], "promised": origin["allocated"]}
            foreseen[name] = {"name": name, "uuid": None, **given(after, "size", "thin"), **held}
            foreseen[origin["name"]] = {**foreseen[origin["name"]], "allocated": 0, "thin": True}
        heir = next((clone for clone in there["clones"] if clone in foreseen), None) if there and not after else None
        if heir is not None:
            # It takes over what it has not written itself; how much that is, is known where it wrote nothing.
            untouched = foreseen[heir]["allocated"] == 0
            free = free - there["allocated"] if untouched and free is not None else None
            foreseen[heir] = {**foreseen[heir], "allocated": there["allocated"] if untouched else None}
    return foreseen, free


def describe(current: Mapping[str, Any]) -> list[Item]:
    """Every store of an SPDK with its volumes, from what ``read`` returns; bytes everywhere.

    ``promised`` is the most that a volume may come to take: its size, or of a snapshot what it holds already.
    """
    stores = []
    for store in current["stores"]:
        cluster = store["cluster_size"]
        volumes = []
        for bdev in current["bdevs"]:
            lvol = (bdev.get("driver_specific") or {}).get("lvol")
            if bdev.get("product_name") != PRODUCT or not lvol or lvol["lvol_store_uuid"] != store["uuid"]:
                continue
            alias = bdev["aliases"][0]
            size = bdev["block_size"] * bdev["num_blocks"]
            allocated = lvol["num_allocated_clusters"] * cluster
            volumes.append(
                {
                    "name": alias.partition("/")[2],
                    "alias": alias,
                    "uuid": bdev["uuid"],
                    "size": size,
                    "thin": lvol["thin_provision"],
                    "allocated": allocated,
                    "snapshot": is_snapshot(bdev),
                    "clone": bool(lvol.get("clone")),
                    "clones": lvol.get("clones", []),
                    "promised": allocated if is_snapshot(bdev) else size,
                    "claimed": bdev["claimed"],
                }
            )
        stores.append(
            {
                "name": store["name"],
                "uuid": store["uuid"],
                "base_bdev": store["base_bdev"],
                "cluster_size": cluster,
                "capacity": store["total_data_clusters"] * cluster,
                "free": store["free_clusters"] * cluster,
                "lvols": volumes,
            }
        )
    return stores


def _already(plan: Plan, method: str, parameter: str, name: str) -> int:
    """How many changes there are that call this of the volume of this name."""
    return sum(change.calls[0][0] == method and change.calls[0][1][parameter] == name for change in plan.changes)


def is_snapshot(bdev: Mapping[str, Any]) -> bool:
    """Whether an lvol's bdev is a snapshot: SPDK says so of those that have clones; of the others, that none may be
    written."""
    lvol = bdev["driver_specific"]["lvol"]
    return bool(lvol["snapshot"] or not (bdev.get("supported_io_types") or {}).get("write", True))


def whole_clusters(size: int, cluster_size: int) -> int:
    """The size that a volume gets for which ``size`` is asked."""
    return -(-size // cluster_size) * cluster_size


def data_capacity(size: int, cluster_size: int) -> int:
    """What a store that is made on ``size`` bytes has for data, its own records taken off.

    Those are, in pages of 4 KiB: one for the store itself, one for each cluster, and three bit maps with a bit for each
    cluster behind a header of 8 bytes.
    """
    page = 4096
    clusters = size // cluster_size
    bit_map = -(-(8 + -(-clusters // 8)) // page)
    pages = 1 + clusters + 3 * bit_map
    return max(0, clusters - -(-pages * page // cluster_size)) * cluster_size


def _refuse_other(item: Item, store: Item, bdevs: Mapping[str, Mapping[str, Any]], plan: Plan) -> None:
    base = item["base_bdev"]
    for key, wanted in (
        ("base_bdev", bdevs.get(base, {"name": base})["name"] if base is not None else None),
        ("cluster_size", item["cluster_size"]),
    ):
        if wanted is not None and wanted != store[key]:
            sentence = f"lvol store {item['name']} exists with {key} {store[key]}, wanted {wanted}"
            plan.refusals.append(((item["name"],), sentence + ": it cannot be changed, delete the store first"))


def _check_overcommit(item: Item, capacity: int, before: int, after: int, thin: bool, plan: Plan) -> None:
    name = item["name"]
    limit = item["overcommit"] or (DEFAULT_OVERCOMMIT if item["declared"] else float("inf"))
    counted = f"lvol store {name}: its volumes are {human(after)} together and its capacity is {human(capacity)}"
    counted += f" (over-commit {after / capacity:.2f})"
    if after > before and after > limit * capacity:
        sentence = f"{counted}, which is above the limit {limit:g}"
        plan.refusals.append(((name,), sentence + ": make them smaller, or raise the store's overcommit"))
    elif after > capacity and thin:
        plan.notes.append(f"{counted}: once it is written full, writes to thin volumes fail")


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join([*names[:most], *(["…"] if len(names) > most else [])])


def _store(item: Mapping[str, Any], where: str, problems: list[str]) -> Item:
    name = check_name(item["name"], f"{where}.name", problems)
    cluster_size = check_size(item.get("cluster_size"), f"{where}.cluster_size ({name})", problems)
    if cluster_size is not None and (
        cluster_size < LEAST_CLUSTER_SIZE or cluster_size & (cluster_size - 1) or cluster_size >= 2**32
    ):
        sentence = f"{cluster_size} is no power of two from {human(LEAST_CLUSTER_SIZE)} to 2GiB"
        problems.append(f"{where}.cluster_size ({name}): {sentence}")
    overcommit = item.get("overcommit")
    if overcommit is not None and not 0 < overcommit < float("inf"):
        problems.append(f"{where}.overcommit ({name}): {overcommit} is no number above 0")
    base = item.get("base_bdev")
    return {
        "name": name,
        "state": item.get("state") or "present",
        "base_bdev": None if base is None else check_bdev(base, f"{where}.base_bdev ({name})", problems),
        "cluster_size": cluster_size,
        "clear_method": item.get("clear_method"),
        "overcommit": overcommit,
        "declared": True,
        "lvols": [],
    }


def _lvol(item: Mapping[str, Any], where: str, problems: list[str]) -> Item:
    name = check_name(item["name"], f"{where}.name", problems)
    of = {key: item.get(key) for key in ("snapshot_of", "clone_of")}
    for key, value in of.items():
        if value is not None:
            check_name(value, f"{where}.{key} ({name})", problems)
    if None not in of.values():
        problems.append(f"{where} ({name}): snapshot_of and clone_of exclude each other")
    for key in ("size", "thin"):
        if of["snapshot_of"] is not None and item.get(key) is not None:
            problems.append(f"{where} ({name}): a snapshot has the {key} of its volume, leave {key} out")
    if of["clone_of"] is not None and item.get("thin") is False:
        problems.append(f"{where} ({name}): a clone is thin, leave thin out")
    return {
        "name": name,
        "store": check_name(item["store"], f"{where}.store ({name})", problems),
        "state": item.get("state") or "present",
        "bytes": check_size(item.get("size"), f"{where}.size ({name})", problems),
        "thin": item.get("thin"),
        **of,
        "clear_method": item.get("clear_method"),
    }
