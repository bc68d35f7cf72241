# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the families share. A family says of one kind of object how it is identified, read, made, changed and removed.

They are in ``_bdevs.py``, ``_crypto.py``, ``_lvols.py``, ``_nvmf_transports.py``, ``_nvmf_subsystems.py``,
``_nvme_controllers.py``, ``_qos.py``, ``_vhost_controllers.py`` and ``_nbd_disks.py`` (``_frontends.py``: what the last
two have in common); ``_declaration.py`` puts them in order.

``normalise`` of a family checks a module's list and raises Refused with every problem that it finds, before anything is
sent; ``plan`` works with what it returns. Facts about methods and parameters, and since which release they are there,
come from SPDK's JSON-RPC reference; the floor is 23.01.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import Client, Error
from ansible_collections.ipdk.storage.plugins.module_utils._reconcile import (
    Family,
    Outcome,
    Refused,
    reconcile,
)

Item = dict  # of str to anything: a normalised item of a module's list

#: The option that every item of a module's list has.
STATE = {"type": "str", "choices": ["present", "absent"], "default": "present"}


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
    more: dict[str, Any] = {}
    unseen = ""
    try:
        items = wanted()
        with Client(connection["rpc_socket"], connection["rpc_timeout"]) as client:
            outcome = reconcile(family, items, client, check_mode)
            try:
                more = afterwards(client, outcome, items) if afterwards else {}
            except Error as error:
                unseen = f"what is there now could not be read: {error}"
    except Refused as refused:
        return {"failed": True, "changed": False, "msg": f"Nothing was changed. {refused}"}
    except (Error, ValueError) as error:
        return {"failed": True, "changed": False, "msg": str(error)}
    result = {**outcome.result(), **more}
    if outcome.notes:
        result["warnings"] = outcome.notes
    if outcome.failed or unseen:
        result.update(failed=True, msg="; ".join(filter(None, [outcome.summary(), unseen])))
    return result


def read_release(executor: Any) -> tuple[int, int]:
    """``(year, month)`` of the SPDK that answers, such as (26, 5)."""
    fields = executor.call("spdk_get_version")["fields"]
    return fields["major"], fields["minor"]


def real_names(bdevs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The name of each bdev, by itself and by each of its aliases."""
    return {alias: bdev["name"] for bdev in bdevs for alias in (*bdev.get("aliases", ()), bdev["name"])}


def given(item: Mapping[str, Any], *names: str) -> Item:
    return {name: item[name] for name in names if item.get(name) is not None}


def address_name(address: Mapping[str, Any]) -> str:
    """``TCP IPv4 198.18.0.2 4420``: identity of a listener or a path, and its key in a view."""
    family = str(address.get("adrfam", "")).lower().replace("ipv", "IPv")
    return f"{str(address['trtype']).upper()} {family} {address['traddr']} {address['trsvcid']}"
