# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A node's declaration: all that its SPDK shall have, in one document.

    {"version": 1, "node": "st1", "transports": [...], "bdevs": [...], "subsystems": [...], "controllers": [...],
     "crypto": [...], "qos": [...], "vhost_blk": [...], "nbd": [...]}

An item is what the module of its family takes, without ``state``. The module ``spdk_target`` applies a declaration, and
``ipdk_node restore`` applies the one that a node keeps whenever its SPDK has started; both with what is here. Keys are
in it only by the name that they have in SPDK's keyring, or by the file that has them. Standard library only: a node
may have no Ansible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._bdevs import BDEV, Bdevs
from ansible_collections.ipdk.storage.plugins.module_utils._crypto import DECLARED, CryptoBdevs
from ansible_collections.ipdk.storage.plugins.module_utils._document import Document
from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import Client, Error
from ansible_collections.ipdk.storage.plugins.module_utils._nbd_disks import NBD, NbdDisks
from ansible_collections.ipdk.storage.plugins.module_utils._nvme_controllers import CONTROLLER, Controllers
from ansible_collections.ipdk.storage.plugins.module_utils._nvmf_subsystems import SUBSYSTEM, Subsystems
from ansible_collections.ipdk.storage.plugins.module_utils._nvmf_transports import TRANSPORT, Transports
from ansible_collections.ipdk.storage.plugins.module_utils._qos import BDEV_QOS, BdevLimits
from ansible_collections.ipdk.storage.plugins.module_utils._reconcile import Family, Outcome, Refused, reconcile
from ansible_collections.ipdk.storage.plugins.module_utils._resources import Item
from ansible_collections.ipdk.storage.plugins.module_utils._vhost_controllers import VHOST_BLK, VhostControllers

VERSION = 1


@dataclass(frozen=True)
class Section:
    """One list of a document. ``identity``: the option that tells its items apart, and ``path[0]`` of their changes."""

    key: str
    identity: str
    options: Mapping[str, Any]
    normalise: Callable[[Sequence[Mapping[str, Any]]], list[Item]]
    family: Callable[[], Family]


#: In the order in which they are applied: what is built upon comes first, who is let in last.
SECTIONS = (
    Section("transports", "trtype", TRANSPORT, Transports.normalise, Transports),
    Section("bdevs", "name", BDEV, Bdevs.normalise, Bdevs),
    Section("subsystems", "nqn", SUBSYSTEM, Subsystems.normalise, Subsystems),
    Section("controllers", "name", CONTROLLER, Controllers.normalise, Controllers),
    Section("crypto", "name", DECLARED, CryptoBdevs.normalise, CryptoBdevs),
    Section("qos", "name", BDEV_QOS, BdevLimits.normalise, BdevLimits),
    Section("vhost_blk", "name", VHOST_BLK, VhostControllers.normalise, VhostControllers),
    Section("nbd", "name", NBD, NbdDisks.normalise, NbdDisks),
)
_HEAD = ("version", "node")
_PYTHON = {"str": str, "path": str, "int": int, "float": (int, float), "bool": bool, "list": list, "dict": dict}


def check(document: Any) -> dict[str, list[Item]]:
    """The items of each section as its family works with them. Raises Refused with everything that is wrong."""
    problems: list[str] = []
    if not isinstance(document, dict):
        raise Refused([f"a declaration is a dictionary, not {type(document).__name__}"])
    known = {*_HEAD, *(section.key for section in SECTIONS)}
    problems += [f"{key}: a declaration has no such section" for key in sorted(set(map(str, document)) - known)]
    if document.get("version", VERSION) != VERSION:
        problems.append(f"version: {document['version']!r}, this can read version {VERSION}")
    items: dict[str, list[Item]] = {}
    for section in SECTIONS:
        wrong: list[str] = []
        given = _value(document.get(section.key) or [], _list_of(section.options), section.key, wrong)
        if not wrong:
            try:
                items[section.key] = section.normalise(given)
            except Refused as refused:
                wrong = refused.problems
        problems += wrong
    if problems:
        raise Refused(problems)
    return items


def _list_of(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "list", "elements": "dict", "options": options}


def _value(value: Any, option: Mapping[str, Any], where: str, problems: list[str]) -> Any:
    """A value in the form that an argument_spec would give it. What JSON can tell apart is not converted, but for
    numbers where a text is wanted (a port, a size)."""
    kind = option.get("type", "str")
    if kind == "raw":
        return value
    if kind in ("str", "path") and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, _PYTHON[kind]) or (kind in ("int", "float") and isinstance(value, bool)):
        problems.append(f"{where}: {value!r} is no {kind}")
        return value
    if "choices" in option and value not in option["choices"]:
        problems.append(f"{where}: {value!r} is none of {', '.join(map(str, option['choices']))}")
    if kind == "list":
        element = {"type": option.get("elements", "raw"), "options": option.get("options")}
        return [_value(each, element, f"{where}[{index}]", problems) for index, each in enumerate(value)]
    if kind == "dict" and option.get("options"):
        return _item(value, option["options"], where, problems)
    return value


def _item(item: Mapping[str, Any], options: Mapping[str, Any], where: str, problems: list[str]) -> Item:
    """Every option that there is, with its default or None where nothing is said; ``state`` is not for saying."""
    sayable = set(options) - {"state"}
    problems += [f"{where}: there is no option {name}" for name in sorted(set(map(str, item)) - sayable)]
    complete: Item = {"state": "present"} if "state" in options else {}
    for name in sayable:
        if item.get(name) is not None:
            complete[name] = _value(item[name], options[name], f"{where}.{name}", problems)
        else:
            complete[name] = options[name].get("default")
            if options[name].get("required"):
                problems.append(f"{where}: {name} is missing")
    return complete


def predict(items: Mapping[str, Sequence[Item]], client: Client) -> Outcome:
    """What ``apply`` would do. Raises Refused where something cannot be reached, and ``_jsonrpc.Error`` where what is
    there cannot be read. The views in an outcome have the sections on top."""
    problems: list[str] = []
    whole = Outcome({}, {})
    for section in SECTIONS:
        if items[section.key]:
            try:
                _add(whole, section, reconcile(section.family(), items[section.key], client, check_mode=True))
            except Refused as refused:
                problems += refused.problems
    if problems:
        raise Refused(problems)
    return whole


def apply(items: Mapping[str, Sequence[Item]], client: Client) -> Outcome:
    """Bring SPDK to a checked declaration, section by section; one that fails does not stop the next.

    Nothing is raised: what went wrong is in the outcome.
    """
    whole = Outcome({}, {})
    for section in SECTIONS:
        if items[section.key]:
            try:
                _add(whole, section, reconcile(section.family(), items[section.key], client))
            except (Error, Refused) as error:
                whole.failed.append({"action": "converge", "kind": section.key, "name": "", "reason": str(error)})
    return whole


def _add(whole: Outcome, section: Section, outcome: Outcome) -> None:
    whole.before[section.key] = outcome.before
    whole.after[section.key] = outcome.after
    whole.applied += outcome.applied
    whole.failed += outcome.failed
    whole.not_tried += outcome.not_tried
    whole.notes += outcome.notes


def merge(there: Document | None, more: Document) -> Document:
    """``there`` with the items of ``more`` added, or put in the place of those with the same identity."""
    merged: Document = {"version": VERSION}
    for source in (there or {}, more):
        merged.update({key: source[key] for key in ("node",) if key in source})
    for section in SECTIONS:
        items = {item[section.identity]: item for item in (there or {}).get(section.key) or []}
        items.update({item[section.identity]: item for item in more.get(section.key) or []})
        if items:
            merged[section.key] = list(items.values())
    return merged
