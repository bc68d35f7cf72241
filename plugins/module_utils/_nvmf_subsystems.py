# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""NVMe-oF subsystems of SPDK's target, with their listeners, namespaces and hosts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._checks import (
    check_bdev,
    check_name,
    check_nqn,
    check_range,
    check_transport_address,
    check_uuid,
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
    address_name,
    given,
    read_release,
)

#: Asymmetric Namespace Access: what a listener tells hosts of the way through it.
ANA_STATES = ("optimized", "non_optimized", "inaccessible")

#: The options of an item, as Ansible's argument_spec has them.
NAMESPACE = {
    "bdev": {"type": "str"},
    "nsid": {"type": "int"},
    "uuid": {"type": "str"},
    "nguid": {"type": "str"},
    "state": STATE,
}
LISTENER = {
    "trtype": {"type": "str", "choices": ["TCP", "RDMA"], "default": "TCP"},
    "adrfam": {"type": "str", "choices": ["IPv4", "IPv6"]},
    "traddr": {"type": "str", "required": True},
    "trsvcid": {"type": "str", "default": "4420"},
    "ana_state": {"type": "str", "choices": list(ANA_STATES)},
    "state": STATE,
}
SUBSYSTEM = {
    "nqn": {"type": "str", "required": True},
    "serial_number": {"type": "str"},
    "model_number": {"type": "str"},
    "allow_any_host": {"type": "bool"},
    "ana_reporting": {"type": "bool"},
    "max_namespaces": {"type": "int"},
    "namespaces": {"type": "list", "elements": "dict", "options": NAMESPACE},
    "hosts": {"type": "list", "elements": "raw"},
    "listeners": {"type": "list", "elements": "dict", "options": LISTENER},
    "state": STATE,
}

DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

PURGEABLE = ("namespaces", "hosts", "listeners")
#: What SPDK gives a subsystem for which nothing is said.
DEFAULT_MAX_NAMESPACES = 32

# Nobody gets in before everything is in place, and nobody is in any more when things go.
_REMOVE_LISTENER, _REMOVE_NAMESPACE, _REMOVE_HOST, _REMOVE_SUBSYSTEM = 0, 1, 2, 3
# A way is closed when the others are open.
_SUBSYSTEM, _HOST, _NAMESPACE, _LISTENER, _CLOSED_LISTENER = 4, 5, 6, 7, 8


class Subsystems:
    """Subsystems. ``purge``: which of their lists are complete, so that what is not in them is removed.

    ``whole``: a listener opens only when all namespaces of its subsystem are in place. A host that is let in earlier
    takes those that are missing for removed.
    """

    def __init__(self, purge: Sequence[str] = (), whole: bool = False) -> None:
        self.purge = frozenset(purge)
        self.whole = whole

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
                **given(item, "allow_any_host", "ana_reporting", "max_namespaces"),
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
                made += list(
                    given(item, "serial_number", "model_number", "allow_any_host", "ana_reporting", "max_namespaces")
                )
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
            refuse_duplicates(subsystem["listeners"] or [], address_name, f"{where}.listeners", "address")
            refuse_duplicates(subsystem["hosts"] or [], lambda h: h["nqn"], f"{where}.hosts", "nqn")
        return wanted

    def read(self, executor: Any) -> Any:
        """``nvmf_get_subsystems``; subsystems that may report ANA have ``listeners``, too, and a namespace whose bdev
        is a logical volume ``bdev_alias``.

        SPDK reports such a bdev by the UUID that it is named by, and nobody declares it like that.
        """
        subsystems = executor.call("nvmf_get_subsystems")
        told = listeners_with_ana(executor, subsystems)
        for subsystem in subsystems:
            if subsystem["nqn"] in told:
                subsystem["listeners"] = told[subsystem["nqn"]]
        namespaces = [entry for subsystem in subsystems for entry in subsystem.get("namespaces", ())]
        if any(_UUID.fullmatch(namespace["bdev_name"]) for namespace in namespaces):
            aliases = {bdev["name"]: bdev["aliases"] for bdev in executor.call("bdev_get_bdevs") if bdev.get("aliases")}
            for namespace in namespaces:
                if namespace["bdev_name"] in aliases:
                    namespace["bdev_alias"] = aliases[namespace["bdev_name"]][0]
        return subsystems

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
                item = _by_alias(item, subsystem)
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
            **given(subsystem, "serial_number", "model_number", "max_namespaces", "allow_any_host"),
            "namespaces": {
                str(namespace["nsid"]): {
                    "bdev": namespace.get("bdev_alias", namespace["bdev_name"]),
                    **({"uuid": namespace["uuid"].lower()} if namespace.get("uuid") else {}),
                    **({"nguid": _plain(namespace["nguid"])} if namespace.get("nguid") else {}),
                }
                for namespace in subsystem.get("namespaces", ())
            },
            "hosts": {
                host["nqn"]: given(host, "dhchap_key", "dhchap_ctrlr_key") for host in subsystem.get("hosts", ())
            },
            "listeners": {
                **{address_name(address): {} for address in subsystem.get("listen_addresses", ())},
                **{address_name(told["address"]): _ana_of(told) for told in subsystem.get("listeners", ())},
            },
            **_reports_ana(subsystem),
        }

    @staticmethod
    def _create(item: Item, plan: Plan) -> Item:
        nqn = item["nqn"]
        # Nobody gets in unless the operator says so.
        options = {"allow_any_host": False, **given(item, "serial_number", "model_number", "max_namespaces")}
        options.update(given(item, "allow_any_host", "ana_reporting"))
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
        if view.get("ana_reporting", item.get("ana_reporting")) != item.get("ana_reporting", view.get("ana_reporting")):
            sentence = (
                f"subsystem {nqn} exists with ana_reporting {view['ana_reporting']}, wanted {item['ana_reporting']}"
            )
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
            keys = given(host, "dhchap_key", "dhchap_ctrlr_key")
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
            identity = given(namespace, "uuid", "nguid")
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
            name = address_name(listener)
            declared.add(name)
            if listener["state"] == "absent":
                leaving += [name] if name in view["listeners"] else []
            elif name not in view["listeners"]:
                address = given(listener, "trtype", "adrfam", "traddr", "trsvcid")
                calls = [("nvmf_subsystem_add_listener", {"nqn": nqn, "listen_address": address})]
                if listener.get("ana_state", "optimized") != "optimized":
                    calls.append(_set_ana_state(nqn, address, listener["ana_state"]))
                path = (nqn, "listeners", name)
                # A door that should have been closed to strangers is not opened while it is not.
                needs = [(nqn, "allow_any_host")]
                if self.whole:
                    needs += [change.path for change in plan.changes if change.path[:2] == (nqn, "namespaces")]
                hint = f"usually there is no {listener['trtype']} transport yet, the address is not this machine's, "
                hint += "or the port is taken"
                after = given(listener, "ana_state")
                plan.changes.append(
                    Change(
                        "create", "listener", f"{nqn} {name}", path, after, tuple(calls), _LISTENER, tuple(needs), hint
                    )
                )
            elif listener.get("ana_state") not in (None, view["listeners"][name].get("ana_state")):
                state = listener["ana_state"]
                address = given(listener, "trtype", "adrfam", "traddr", "trsvcid")
                call = _set_ana_state(nqn, address, state)
                path = (nqn, "listeners", name)
                stage = _CLOSED_LISTENER if state == "inaccessible" else _LISTENER
                plan.changes.append(
                    Change(
                        "update",
                        "listener",
                        f"{nqn} {name}",
                        path,
                        {"ana_state": state},
                        (call,),
                        stage,
                        hint="usually the subsystem was made without ana_reporting",
                    )
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


def listeners_with_ana(executor: Any, subsystems: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``nvmf_subsystem_get_listeners`` by NQN, of those subsystems that may report ANA: their namespaces say so, or
    they have none that would tell."""
    may = [
        subsystem["nqn"]
        for subsystem in subsystems
        if subsystem["nqn"] != DISCOVERY_NQN
        and subsystem.get("listen_addresses")
        and all("anagrpid" in namespace for namespace in subsystem.get("namespaces", ()))
    ]
    answers = executor.pipeline([("nvmf_subsystem_get_listeners", {"nqn": nqn}) for nqn in may])
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return dict(zip(may, answers))


def _ana_of(told: Mapping[str, Any]) -> Item:
    """The ANA state of a listener; where its groups differ, that of none."""
    states = {group["ana_state"] for group in told.get("ana_states", ())}
    return {"ana_state": ", ".join(sorted(states))} if states else {}


def _reports_ana(subsystem: Mapping[str, Any]) -> Item:
    """Whether it reports ANA, as far as that can be seen."""
    if subsystem.get("listeners"):
        return {"ana_reporting": "ana_states" in subsystem["listeners"][0]}
    if subsystem.get("namespaces"):
        return {"ana_reporting": "anagrpid" in subsystem["namespaces"][0]}
    return {}


def _set_ana_state(nqn: str, address: Mapping[str, Any], state: str) -> tuple[str, Mapping[str, Any]]:
    params = {"nqn": nqn, "listen_address": address, "ana_state": state}
    return "nvmf_subsystem_listener_set_ana_state", params


def _by_alias(item: Item, subsystem: Mapping[str, Any]) -> Item:
    """The item with those of its bdevs by their aliases that are namespaces already."""
    aliases = {
        namespace["bdev_name"]: namespace["bdev_alias"]
        for namespace in subsystem.get("namespaces", ())
        if "bdev_alias" in namespace
    }
    if not aliases or not item["namespaces"]:
        return item
    named = [
        {**namespace, "bdev": aliases[namespace["bdev"]]} if namespace.get("bdev") in aliases else namespace
        for namespace in item["namespaces"]
    ]
    return {**item, "namespaces": named}


def _plain(nguid: str) -> str:
    return nguid.replace("-", "").lower()


def _namespaces(items: Sequence[Mapping[str, Any]] | None, where: str, problems: list[str]) -> list[Item] | None:
    if items is None:
        return None
    wanted = []
    for index, item in enumerate(items):
        here = f"{where}.namespaces[{index}]"
        namespace = {"state": item["state"], **given(item, "nsid")}
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
        wanted.append({**address, **given(item, "ana_state"), "state": item["state"]})
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
