# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What SPDK has: one family a kind of object. How it is identified, read, made, changed in place and removed.

``normalise`` of a family checks a module's list and raises Refused with every problem that it finds, before anything is
sent; ``plan`` works with what it returns. Facts about methods and parameters, and since which release they are there,
come from SPDK's JSON-RPC reference; the floor is 23.01.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._checks import (
    check_bdev,
    check_name,
    check_nqn,
    check_range,
    check_size,
    check_transport_address,
    check_uuid,
    human,
)
from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import Client, Error
from ansible_collections.ipdk.storage.plugins.module_utils._reconcile import (
    Change,
    Family,
    Outcome,
    Plan,
    Refused,
    reconcile,
    refuse_duplicates,
)

Item = dict  # of str to anything: a normalised item of a module's list

MIB = 2**20
DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"


def converge(
    family: Family,
    wanted: Callable[[], Sequence[Item]],
    connection: Mapping[str, Any],
    check_mode: bool,
    afterwards: Callable[[Client, Outcome, Sequence[Item]], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Everything between a module's parameters and its result, in one connection.

    ``wanted`` normalises the module's list, ``connection`` has ``rpc_socket`` and ``rpc_timeout``. The dict is the
    module's result; ``failed`` and ``msg`` are in it when something went wrong. Errors are data: nothing is raised.
    ``afterwards`` looks at what has become of it, through the same connection, and adds to the result.
    """
    try:
        items = wanted()
        with Client(connection["rpc_socket"], connection["rpc_timeout"]) as client:
            outcome = reconcile(family, items, client, check_mode)
            more = afterwards(client, outcome, items) if afterwards else {}
    except Refused as refused:
        return {"failed": True, "changed": False, "msg": f"Nothing was changed. {refused}"}
    except (Error, ValueError) as error:
        return {"failed": True, "changed": False, "msg": str(error)}
    result = {**outcome.result(), **more}
    if outcome.notes:
        result["warnings"] = outcome.notes
    if outcome.failed:
        result.update(failed=True, msg=outcome.summary())
    return result


def read_release(executor: Any) -> tuple[int, int]:
    """``(year, month)`` of the SPDK that answers, such as (26, 5)."""
    fields = executor.call("spdk_get_version")["fields"]
    return fields["major"], fields["minor"]


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


# NVMe-oF transports

#: Options of nvmf_create_transport -> first release that takes them ("" = all).
TRANSPORT_OPTIONS = {
    "max_queue_depth": "",
    "max_io_qpairs_per_ctrlr": "",
    "in_capsule_data_size": "",
    "max_io_size": "",
    "io_unit_size": "",
    "max_aq_depth": "",
    "num_shared_buffers": "",
    "buf_cache_size": "",
    "c2h_success": "",
    "zcopy": "",
    "dif_insert_or_strip": "",
    "sock_priority": "",
    "acceptor_backlog": "",
    "abort_timeout_sec": "",
    "ack_timeout": "24.05",
    "data_wr_pool_size": "24.05",
    "disable_command_passthru": "24.09",
    "kas": "25.05",
    "min_kato": "25.05",
}


class Transports:
    """NVMe-oF transports. SPDK can neither change nor remove one."""

    @staticmethod
    def normalise(items: Sequence[Mapping[str, Any]]) -> list[Item]:
        wanted = [
            {"trtype": item["trtype"].upper(), "state": item["state"], **_given(item, *TRANSPORT_OPTIONS)}
            for item in items
        ]
        refuse_duplicates(wanted, lambda item: item["trtype"], "transports", "trtype")
        return wanted

    def read(self, executor: Any) -> Any:
        return executor.call("nvmf_get_transports")

    def release(self, executor: Any) -> tuple[int, int]:
        return read_release(executor)

    def plan(self, wanted: Sequence[Item], current: Sequence[Mapping[str, Any]]) -> Plan:
        there = {transport["trtype"].upper(): transport for transport in current}
        plan = Plan()
        for item in wanted:
            trtype = item["trtype"]
            options = _given(item, *TRANSPORT_OPTIONS)
            transport = there.get(trtype)
            if transport is not None:
                plan.view[trtype] = _given(transport, *TRANSPORT_OPTIONS)
            if item["state"] == "absent":
                if transport is not None:
                    sentence = f"transport {trtype} exists and SPDK cannot delete a transport: restart SPDK without it"
                    plan.refusals.append(((trtype,), sentence))
            elif transport is None:
                plan.since += [
                    (f"{name} of transports", TRANSPORT_OPTIONS[name]) for name in options if TRANSPORT_OPTIONS[name]
                ]
                call = ("nvmf_create_transport", {"trtype": trtype, **options})
                plan.changes.append(Change("create", "transport", trtype, (trtype,), options, (call,)))
            else:
                # What SPDK does not report (io_unit_size, for one, in 26.05) cannot be compared.
                for name, value in options.items():
                    if name in transport and transport[name] != value:
                        sentence = f"transport {trtype} exists with {name} {transport[name]}, wanted {value}"
                        plan.refusals.append(((trtype,), sentence + ": it is set once only, restart SPDK to change it"))
        return plan


# NVMe-oF subsystems, with their listeners, namespaces and hosts

PURGEABLE = ("namespaces", "hosts", "listeners")
#: What SPDK gives a subsystem for which nothing is said.
DEFAULT_MAX_NAMESPACES = 32

# Nobody gets in before everything is in place, and nobody is in any more when things go.
_REMOVE_LISTENER, _REMOVE_NAMESPACE, _REMOVE_HOST, _REMOVE_SUBSYSTEM = 0, 1, 2, 3
_SUBSYSTEM, _HOST, _NAMESPACE, _LISTENER = 4, 5, 6, 7


class Subsystems:
    """Subsystems. ``purge``: which of their lists are complete, so that what is not in them is removed."""

    def __init__(self, purge: Sequence[str] = ()) -> None:
        self.purge = frozenset(purge)

    # What the operator wrote

    @staticmethod
    def normalise(items: Sequence[Mapping[str, Any]]) -> list[Item]:
        problems: list[str] = []
        wanted = []
        for index, item in enumerate(items):
            where = f"subsystems[{index}]"
            subsystem = {
                "nqn": check_nqn(item["nqn"], f"{where}.nqn", problems),
                "state": item["state"],
                "namespaces": _namespaces(item.get("namespaces"), where, problems),
                "listeners": _listeners(item.get("listeners"), where, problems),
                "hosts": _hosts(item.get("hosts"), where, problems),
                **_given(item, "allow_any_host", "max_namespaces"),
            }
            for name, longest in (("serial_number", 20), ("model_number", 40)):
                value = item.get(name)
                if value is not None:
                    if not 0 < len(value) <= longest or not value.isascii() or not value.isprintable():
                        problems.append(f"{where}.{name}: {value!r} is not 1 to {longest} printable ASCII characters")
                    subsystem[name] = value
            check_range(item.get("max_namespaces"), 1, 2**32 - 2, f"{where}.max_namespaces", problems)
            if subsystem["nqn"] == DISCOVERY_NQN:
                made = [name for name in ("namespaces", "hosts") if subsystem[name]]
                made += list(_given(item, "serial_number", "model_number", "allow_any_host", "max_namespaces"))
                if made or subsystem["state"] == "absent":
                    problems.append(f"{where}: the discovery subsystem is SPDK's own; only its listeners can be set")
            wanted.append(subsystem)
        if problems:
            raise Refused(problems)
        refuse_duplicates(wanted, lambda item: item["nqn"], "subsystems", "nqn")
        for index, subsystem in enumerate(wanted):
            where = f"subsystems[{index}]"
            refuse_duplicates(subsystem["namespaces"] or [], lambda n: n.get("bdev"), f"{where}.namespaces", "bdev")
            refuse_duplicates(subsystem["namespaces"] or [], lambda n: n.get("nsid"), f"{where}.namespaces", "nsid")
            refuse_duplicates(subsystem["listeners"] or [], _listener_name, f"{where}.listeners", "address")
            refuse_duplicates(subsystem["hosts"] or [], lambda h: h["nqn"], f"{where}.hosts", "nqn")
        return wanted

    def read(self, executor: Any) -> Any:
        return executor.call("nvmf_get_subsystems")

    def release(self, executor: Any) -> tuple[int, int]:
        return read_release(executor)

    # What follows from it

    def plan(self, wanted: Sequence[Item], current: Sequence[Mapping[str, Any]]) -> Plan:
        there = {subsystem["nqn"]: subsystem for subsystem in current}
        # Before 24.05 a subsystem that is being paused for one change answers EBUSY to the next.
        plan = Plan(serial_before="24.05")
        for item in wanted:
            nqn = item["nqn"]
            subsystem = there.get(nqn)
            if subsystem is not None:
                plan.view[nqn] = self._view(subsystem)
            if item["state"] == "absent":
                if subsystem is not None:
                    call = ("nvmf_delete_subsystem", {"nqn": nqn})
                    plan.changes.append(
                        Change("delete", "subsystem", nqn, (nqn,), None, (call,), stage=_REMOVE_SUBSYSTEM)
                    )
                continue
            if subsystem is None:
                view = self._create(item, plan)
            else:
                view = plan.view[nqn]
                self._update(item, view, plan)
            self._plan_hosts(item, view, plan)
            self._plan_namespaces(item, view, plan)
            self._plan_listeners(item, view, plan)
        return plan

    @staticmethod
    def _view(subsystem: Mapping[str, Any]) -> Item:
        return {
            **_given(subsystem, "serial_number", "model_number", "max_namespaces", "allow_any_host"),
            "namespaces": {
                str(namespace["nsid"]): {
                    "bdev": namespace["bdev_name"],
                    **({"uuid": namespace["uuid"].lower()} if namespace.get("uuid") else {}),
                    **({"nguid": _plain(namespace["nguid"])} if namespace.get("nguid") else {}),
                }
                for namespace in subsystem.get("namespaces", ())
            },
            "hosts": {
                host["nqn"]: _given(host, "dhchap_key", "dhchap_ctrlr_key") for host in subsystem.get("hosts", ())
            },
            "listeners": {_listener_name(address): {} for address in subsystem.get("listen_addresses", ())},
        }

    @staticmethod
    def _create(item: Item, plan: Plan) -> Item:
        nqn = item["nqn"]
        # Nobody gets in unless the operator says so.
        options = {"allow_any_host": False, **_given(item, "serial_number", "model_number", "max_namespaces")}
        options.update(_given(item, "allow_any_host"))
        view: Item = {**options, "namespaces": {}, "hosts": {}, "listeners": {}}
        call = ("nvmf_create_subsystem", {"nqn": nqn, **options})
        plan.changes.append(Change("create", "subsystem", nqn, (nqn,), view, (call,), stage=_SUBSYSTEM))
        return view

    @staticmethod
    def _update(item: Item, view: Item, plan: Plan) -> None:
        nqn = item["nqn"]
        for name in ("serial_number", "model_number", "max_namespaces"):
            if name in item and item[name] != view.get(name):
                sentence = f"subsystem {nqn} exists with {name} {view.get(name)}, wanted {item[name]}"
                plan.refusals.append(((nqn,), sentence + ": it cannot be changed, delete the subsystem first"))
        allow = item.get("allow_any_host")
        if allow is not None and allow != view.get("allow_any_host"):
            call = ("nvmf_subsystem_allow_any_host", {"nqn": nqn, "allow_any_host": allow})
            path = (nqn, "allow_any_host")
            plan.changes.append(Change("update", "subsystem", nqn, path, allow, (call,), stage=_SUBSYSTEM))

    def _plan_hosts(self, item: Item, view: Item, plan: Plan) -> None:
        nqn = item["nqn"]
        kept = set()
        for host in item["hosts"] or ():
            name = host["nqn"]
            path = (nqn, "hosts", name)
            keys = _given(host, "dhchap_key", "dhchap_ctrlr_key")
            existing = view["hosts"].get(name)
            if host["state"] == "absent":
                if existing is not None:
                    self._remove_host(nqn, name, plan)
                continue
            kept.add(name)
            if existing is None:
                if keys:
                    plan.since.append(("dhchap_key of hosts", "24.05"))
                hint = "usually a key of that name is not in the keyring" if keys else ""
                call = ("nvmf_subsystem_add_host", {"nqn": nqn, "host": name, **keys})
                plan.changes.append(Change("create", "host", f"{nqn} {name}", path, keys, (call,), _HOST, hint=hint))
            elif {**existing, **keys} != existing:
                plan.since.append(("changing the keys of a host", "24.09"))
                keys = {**existing, **keys}
                call = ("nvmf_subsystem_set_keys", {"nqn": nqn, "host": name, **keys})
                plan.changes.append(Change("update", "host", f"{nqn} {name}", path, keys, (call,), stage=_HOST))
        if "hosts" in self.purge and item["hosts"] is not None:
            declared = {host["nqn"] for host in item["hosts"]}
            for name in view["hosts"]:
                if name not in declared:
                    self._remove_host(nqn, name, plan)

    @staticmethod
    def _remove_host(nqn: str, name: str, plan: Plan) -> None:
        call = ("nvmf_subsystem_remove_host", {"nqn": nqn, "host": name})
        path = (nqn, "hosts", name)
        plan.changes.append(Change("delete", "host", f"{nqn} {name}", path, None, (call,), stage=_REMOVE_HOST))

    def _plan_namespaces(self, item: Item, view: Item, plan: Plan) -> None:
        nqn = item["nqn"]
        declared = item["namespaces"]
        taken = {int(nsid): namespace for nsid, namespace in view["namespaces"].items()}
        nsid_of = {namespace["bdev"]: nsid for nsid, namespace in taken.items()}
        present = [namespace for namespace in declared or () if namespace["state"] == "present"]
        leaving = set()
        for namespace in declared or ():
            if namespace["state"] == "absent":
                nsid = nsid_of.get(namespace.get("bdev"), namespace.get("nsid"))
                if nsid in taken:
                    if namespace.get("bdev") not in (None, taken[nsid]["bdev"]):
                        continue  # that bdev is not there, which is what is wanted; the NSID is another's
                    leaving.add(nsid)
        if "namespaces" in self.purge and declared is not None:
            wanted_bdevs = {namespace["bdev"] for namespace in present}
            leaving |= {nsid for nsid, namespace in taken.items() if namespace["bdev"] not in wanted_bdevs}
        for nsid in sorted(leaving):
            name = f"{nqn} nsid {nsid} ({taken[nsid]['bdev']})"
            call = ("nvmf_subsystem_remove_ns", {"nqn": nqn, "nsid": nsid})
            path = (nqn, "namespaces", str(nsid))
            plan.changes.append(Change("delete", "namespace", name, path, None, (call,), stage=_REMOVE_NAMESPACE))

        busy = set(taken) - leaving
        new = []
        for namespace in present:
            nsid = nsid_of.get(namespace["bdev"])
            if nsid is None or nsid in leaving:
                new.append(namespace)
                continue
            for key, there in (("nsid", nsid), ("uuid", taken[nsid].get("uuid")), ("nguid", taken[nsid].get("nguid"))):
                if key in namespace and namespace[key] != there:
                    sentence = f"namespace of bdev {namespace['bdev']} in {nqn} exists with {key} {there}"
                    sentence += f", wanted {namespace[key]}: remove the namespace first"
                    plan.refusals.append(((nqn, "namespaces", str(nsid)), sentence))
        explicit = {namespace["nsid"] for namespace in new if "nsid" in namespace}
        limit = view.get("max_namespaces") or DEFAULT_MAX_NAMESPACES
        following = 1
        for namespace in new:
            nsid = namespace.get("nsid")
            if nsid is None:
                while following in busy or following in explicit:
                    following += 1
                nsid = following
                following += 1
            path = (nqn, "namespaces", str(nsid))
            name = f"{nqn} nsid {nsid} ({namespace['bdev']})"
            if nsid in busy:
                sentence = f"NSID {nsid} of {nqn} is bdev {taken[nsid]['bdev']}, wanted {namespace['bdev']}"
                plan.refusals.append((path, sentence + ": remove that namespace first"))
            elif nsid > limit:
                sentence = f"bdev {namespace['bdev']} would be NSID {nsid} of {nqn}, which has room for {limit}"
                plan.refusals.append((path, sentence + ": make the subsystem with a larger max_namespaces"))
            identity = _given(namespace, "uuid", "nguid")
            params = {"bdev_name": namespace["bdev"], "nsid": nsid, **identity}
            if "nguid" in params:
                params["nguid"] = params["nguid"].upper()
            call = ("nvmf_subsystem_add_ns", {"nqn": nqn, "namespace": params})
            after = {"bdev": namespace["bdev"], **identity}
            hint = f"usually there is no bdev {namespace['bdev']}, or something else holds it"
            plan.changes.append(Change("create", "namespace", name, path, after, (call,), stage=_NAMESPACE, hint=hint))

    def _plan_listeners(self, item: Item, view: Item, plan: Plan) -> None:
        nqn = item["nqn"]
        declared = set()
        leaving = []
        for listener in item["listeners"] or ():
            name = _listener_name(listener)
            declared.add(name)
            if listener["state"] == "absent":
                leaving += [name] if name in view["listeners"] else []
            elif name not in view["listeners"]:
                address = _given(listener, "trtype", "adrfam", "traddr", "trsvcid")
                call = ("nvmf_subsystem_add_listener", {"nqn": nqn, "listen_address": address})
                path = (nqn, "listeners", name)
                # A door that should have been closed to strangers is not opened while it is not.
                needs = ((nqn, "allow_any_host"),)
                hint = f"usually there is no {listener['trtype']} transport yet, the address is not this machine's, "
                hint += "or the port is taken"
                plan.changes.append(
                    Change("create", "listener", f"{nqn} {name}", path, {}, (call,), _LISTENER, needs, hint)
                )
        if "listeners" in self.purge and item["listeners"] is not None:
            leaving += [name for name in view["listeners"] if name not in declared]
        for name in leaving:
            trtype, adrfam, traddr, trsvcid = name.split()
            address = {"trtype": trtype, "adrfam": adrfam, "traddr": traddr, "trsvcid": trsvcid}
            call = ("nvmf_subsystem_remove_listener", {"nqn": nqn, "listen_address": address})
            path = (nqn, "listeners", name)
            plan.changes.append(
                Change("delete", "listener", f"{nqn} {name}", path, None, (call,), stage=_REMOVE_LISTENER)
            )


def _plain(nguid: str) -> str:
    return nguid.replace("-", "").lower()


def _listener_name(address: Mapping[str, Any]) -> str:
    """``TCP IPv4 198.18.0.2 4420``: identity of a listener, and its key in a view."""
    family = str(address.get("adrfam", "")).lower().replace("ipv", "IPv")
    return f"{str(address['trtype']).upper()} {family} {address['traddr']} {address['trsvcid']}"


def _namespaces(items: Sequence[Mapping[str, Any]] | None, where: str, problems: list[str]) -> list[Item] | None:
    if items is None:
        return None
    wanted = []
    for index, item in enumerate(items):
        here = f"{where}.namespaces[{index}]"
        namespace = {"state": item["state"], **_given(item, "nsid")}
        if item.get("bdev") is not None:
            namespace["bdev"] = check_bdev(item["bdev"], f"{here}.bdev", problems)
        elif namespace["state"] == "present":
            problems.append(f"{here}: bdev is missing")
        elif "nsid" not in namespace:
            problems.append(f"{here}: bdev or nsid is missing")
        check_range(item.get("nsid"), 1, 2**32 - 2, f"{here}.nsid", problems)
        if item.get("uuid") is not None:
            namespace["uuid"] = check_uuid(item["uuid"], f"{here}.uuid", problems)
        if item.get("nguid") is not None:
            namespace["nguid"] = _plain(item["nguid"])
            if not re.fullmatch(r"[0-9a-f]{32}", namespace["nguid"]):
                problems.append(f"{here}.nguid: {item['nguid']!r} is not 32 hexadecimal digits")
        wanted.append(namespace)
    return wanted


def _listeners(items: Sequence[Mapping[str, Any]] | None, where: str, problems: list[str]) -> list[Item] | None:
    if items is None:
        return None
    wanted = []
    for index, item in enumerate(items):
        address = check_transport_address(item, f"{where}.listeners[{index}]", problems)
        wanted.append({**address, "state": item["state"]})
    return wanted


def _hosts(items: Sequence[Any] | None, where: str, problems: list[str]) -> list[Item] | None:
    if items is None:
        return None
    wanted = []
    for index, item in enumerate(items):
        here = f"{where}.hosts[{index}]"
        host = {"nqn": item} if isinstance(item, str) else item
        if not isinstance(host, dict) or "nqn" not in host:
            problems.append(f"{here}: neither an NQN nor a dictionary with nqn")
            continue
        unknown = sorted(str(key) for key in set(host) - {"nqn", "dhchap_key", "dhchap_ctrlr_key", "state"})
        if unknown:
            problems.append(f"{here}: unknown options: {', '.join(unknown)}")
        state = host.get("state", "present")
        if state not in ("present", "absent"):
            problems.append(f"{here}.state: {state!r} is neither present nor absent")
        keys = {
            name: check_name(host[name], f"{here}.{name}", problems)
            for name in ("dhchap_key", "dhchap_ctrlr_key")
            if host.get(name) is not None
        }
        if "dhchap_ctrlr_key" in keys and "dhchap_key" not in keys:
            problems.append(f"{here}: dhchap_ctrlr_key is of no use without dhchap_key")
        wanted.append({"nqn": check_nqn(host["nqn"], f"{here}.nqn", problems), "state": state, **keys})
    return wanted


# NVMe controllers: the initiator's side

#: Options of bdev_nvme_attach_controller -> first release that takes them ("" = all). SPDK reports none of them, so
#: that they count when a path is attached and cannot be compared later.
CONTROLLER_OPTIONS = {
    "ctrlr_loss_timeout_sec": "",
    "reconnect_delay_sec": "",
    "fast_io_fail_timeout_sec": "",
    "num_io_queues": "",
    "multipath": "",
    "hdgst": "",
    "ddgst": "",
    "dhchap_key": "24.05",
    "dhchap_ctrlr_key": "24.05",
}


class Controllers:
    """NVMe over Fabrics controllers, each with one path or several to one subsystem."""

    @staticmethod
    def normalise(items: Sequence[Mapping[str, Any]]) -> list[Item]:
        problems: list[str] = []
        wanted = []
        for index, item in enumerate(items):
            where = f"controllers[{index}]"
            name = check_name(item["name"], f"{where}.name", problems)
            controller: Item = {"name": name, "state": item["state"], "bdevs": item.get("bdevs") or 0}
            check_range(item.get("bdevs"), 0, 2**32 - 2, f"{where}.bdevs ({name})", problems)
            if item["state"] == "present":
                for option in ("traddr", "subnqn"):
                    if not item.get(option):
                        problems.append(f"{where} ({name}): {option} is missing")
                addresses = [item, *(item.get("paths") or ())] if item.get("traddr") else []
                controller["paths"] = [
                    check_transport_address({"trtype": item["trtype"], **address}, f"{where} ({name})", problems)
                    for address in addresses
                ]
                for option in ("subnqn", "hostnqn"):
                    if item.get(option):
                        controller[option] = check_nqn(item[option], f"{where}.{option} ({name})", problems)
                for option in ("dhchap_key", "dhchap_ctrlr_key"):
                    if item.get(option) is not None:
                        check_name(item[option], f"{where}.{option} ({name})", problems)
                controller["options"] = _given(item, *CONTROLLER_OPTIONS)
                problems += [f"{where} ({name}): {sentence}" for sentence in _timers(controller["options"])]
                if len(addresses) > 1 and item.get("multipath") in (None, "disable"):
                    problems.append(f"{where} ({name}): several paths need multipath to be multipath or failover")
            wanted.append(controller)
        if problems:
            raise Refused(problems)
        refuse_duplicates(wanted, lambda item: item["name"], "controllers", "name")
        for index, controller in enumerate(wanted):
            refuse_duplicates(controller.get("paths", ()), _listener_name, f"controllers[{index}].paths", "address")
        return wanted

    def read(self, executor: Any) -> Any:
        return executor.call("bdev_nvme_get_controllers")

    def release(self, executor: Any) -> tuple[int, int]:
        return read_release(executor)

    def plan(self, wanted: Sequence[Item], current: Sequence[Mapping[str, Any]]) -> Plan:
        there = {controller["name"]: controller for controller in current}
        plan = Plan()
        for item in wanted:
            name = item["name"]
            controller = there.get(name)
            if controller is not None:
                plan.view[name] = self._view(controller)
            if item["state"] == "absent":
                if controller is not None:
                    call = ("bdev_nvme_detach_controller", {"name": name})
                    plan.changes.append(Change("delete", "controller", name, (name,), None, (call,), stage=0))
                continue
            self._plan_paths(item, plan.view.get(name), plan)
        return plan

    @staticmethod
    def _view(controller: Mapping[str, Any]) -> Item:
        paths = controller["ctrlrs"]
        first = paths[0] if paths else {"trid": {}}
        view = {"subnqn": first["trid"].get("subnqn"), "hostnqn": first.get("host", {}).get("nqn")}
        view = {key: value for key, value in view.items() if value}
        return {**view, "paths": {_path_name(path["trid"]): {} for path in paths}}

    @staticmethod
    def _plan_paths(item: Item, view: Item | None, plan: Plan) -> None:
        name = item["name"]
        identity = _given(item, "subnqn", "hostnqn")
        if view is not None:
            for option, value in identity.items():
                if view.get(option) not in (None, value):
                    sentence = f"controller {name} exists with {option} {view[option]}, wanted {value}"
                    plan.refusals.append(((name,), sentence + ": make it absent first"))
        missing = [path for path in item["paths"] if view is None or _path_name(path) not in view["paths"]]
        if view is not None and missing and item["options"].get("multipath") in (None, "disable"):
            sentence = f"controller {name} exists with path {', '.join(view['paths'])}, wanted {_path_name(missing[0])}"
            plan.refusals.append(((name,), sentence + ": name both with multipath, or make it absent first"))
        if missing:
            plan.since += [
                (f"{option} of controllers", CONTROLLER_OPTIONS[option])
                for option in item["options"]
                if CONTROLLER_OPTIONS[option]
            ]
        for number, path in enumerate(missing):
            params = {"name": name, **path, **identity, **item["options"]}
            call = ("bdev_nvme_attach_controller", params)
            label = _path_name(path)
            hint = f"usually nobody listens at {label}, or there is no such subsystem, or it does not admit this host"
            if view is None and number == 0:
                after = {**identity, "paths": {label: {}}}
                change = Change("create", "controller", name, (name,), after, (call,), 1, hint=hint)
            else:
                # One after another: SPDK attaches the paths of one controller in turn.
                place = (name, "paths", label)
                change = Change("create", "path", f"{name} {label}", place, {}, (call,), 1 + number, hint=hint)
            plan.changes.append(change)


def _path_name(address: Mapping[str, Any]) -> str:
    return _listener_name({"trtype": "", "adrfam": "", "traddr": "", "trsvcid": "", **address})


def _timers(options: Mapping[str, Any]) -> list[str]:
    """The rules that SPDK has for a controller's timers; it answers a violation with a bare `Invalid argument`."""
    loss = options.get("ctrlr_loss_timeout_sec", 0)
    delay = options.get("reconnect_delay_sec", 0)
    fast = options.get("fast_io_fail_timeout_sec", 0)
    problems = []
    if loss < -1:
        problems.append(f"ctrlr_loss_timeout_sec {loss} is less than -1 (for ever)")
    elif loss == 0 and (delay or fast):
        problems.append("reconnect_delay_sec and fast_io_fail_timeout_sec need a ctrlr_loss_timeout_sec other than 0")
    elif loss != 0 and delay < 1:
        problems.append("a ctrlr_loss_timeout_sec other than 0 needs a reconnect_delay_sec of 1 at least")
    elif loss > 0 and delay > loss:
        problems.append(f"reconnect_delay_sec {delay} is more than ctrlr_loss_timeout_sec {loss}")
    elif fast and fast < delay:
        problems.append(f"fast_io_fail_timeout_sec {fast} is less than reconnect_delay_sec {delay}")
    elif loss > 0 and fast > loss:
        problems.append(f"fast_io_fail_timeout_sec {fast} is more than ctrlr_loss_timeout_sec {loss}")
    return problems


def wait_for_bdevs(
    client: Client, controllers: Sequence[Item], names: Sequence[str], seconds: float
) -> tuple[list[Item], list[str]]:
    """The bdevs of these controllers and of these names, and sentences about what is still missing.

    Namespaces show up a little after their controller is attached, so that this looks again until all is there or
    ``seconds`` have passed. One call where nothing is missing.
    """
    deadline = time.monotonic() + seconds
    pause = 0.05
    while True:
        seen = []
        count: dict[str, int] = {item["name"]: 0 for item in controllers if item["state"] == "present"}
        for bdev in client.call("bdev_get_bdevs"):
            owner = controller_of(bdev)
            if owner in count:
                count[owner] += 1
            if owner in count or bdev["name"] in names:
                seen.append(
                    {
                        "name": bdev["name"],
                        "controller": owner,
                        "uuid": bdev.get("uuid"),
                        "block_size": bdev["block_size"],
                        "size": bdev["block_size"] * bdev["num_blocks"],
                    }
                )
        there = {bdev["name"] for bdev in seen}
        missing = [f"bdev {name} is not there" for name in names if name not in there]
        missing += [
            f"controller {item['name']} has {count[item['name']]} bdevs, wanted {item['bdevs']}"
            for item in controllers
            if item["name"] in count and count[item["name"]] < item["bdevs"]
        ]
        left = deadline - time.monotonic()
        if not missing or left <= 0:
            return seen, missing
        time.sleep(min(pause, left))
        pause = min(pause * 2, 0.5)


def controller_of(bdev: Mapping[str, Any]) -> str | None:
    """The controller that an NVMe bdev belongs to, from its name (``<controller>n<nsid>``); None for other bdevs."""
    match = re.fullmatch(r"(.+)n([0-9]+)", bdev["name"])
    return match[1] if match and bdev["product_name"] == "NVMe disk" else None
