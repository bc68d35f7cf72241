#!/usr/bin/python

# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: spdk_rpc
short_description: Call any JSON-RPC method of an SPDK
version_added: 0.1.0
author:
  - ipdk.storage contributors (@ipdk-io)
description:
  - Makes one call or a list of calls in one connection, each after the one before has been answered. The first error
    ends it.
  - It knows nothing of what the calls do, and so makes them again in each run. Where there is a module for the purpose,
    use that.
  - Parameters that hold keys (C(key), C(key2), C(psk), C(secret), C(password)) are hidden wherever they would be shown.
extends_documentation_fragment:
  - ipdk.storage.spdk
attributes:
  check_mode:
    support: partial
    description: Can run in C(check_mode).
    details: Calls that only read are made, the others are returned in RV(would_call).
  diff_mode:
    support: none
    description: It does not know what a call changes.
  idempotent:
    support: none
    description: It does not know what is there already, and makes the calls again in each run.
options:
  method:
    description: Name of the method, for a single call.
    type: str
  params:
    description: Parameters of the single call.
    type: dict
  calls:
    description: The calls, instead of O(method).
    type: list
    elements: dict
    suboptions:
      method:
        description: Name of the method.
        type: str
        required: true
      params:
        description: Parameters, by name.
        type: dict
  changes:
    description:
      - Whether the calls change something. This decides whether the task counts as changed, and whether they are made
        in check mode.
      - Left out, a call is taken to change something unless its name has C(_get_) in it, or ends with C(_get).
    type: bool
"""

EXAMPLES = r"""
- name: Read the buffer pools
  ipdk.storage.spdk_rpc:
    rpc_socket: /run/ipdk/ipu1/spdk/spdk.sock
    method: iobuf_get_stats
  register: iobuf

- name: Limit two volumes
  ipdk.storage.spdk_rpc:
    rpc_socket: /run/ipdk/st1/spdk/spdk.sock
    calls:
      - {method: bdev_set_qos_limit, params: {name: vol00, rw_ios_per_sec: 10000}}
      - {method: bdev_set_qos_limit, params: {name: vol01, rw_ios_per_sec: 10000}}
"""

RETURN = r"""
results:
  description: The answer to each call that was made, in order.
  returned: always
  type: list
  elements: raw
result:
  description: The answer to O(method).
  returned: when O(method) is given and the call was made
  type: raw
would_call:
  description: Names of the methods that were not called because of check mode.
  returned: in check mode
  type: list
  elements: str
not_tried:
  description: Names of the methods that were not called because the one before failed.
  returned: failure
  type: list
  elements: str
"""

from collections.abc import Iterator
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import SECRET_PARAMS, Client, Error
from ansible_collections.ipdk.storage.plugins.module_utils._module import CONNECTION, run

CALL = {"method": {"type": "str", "required": True}, "params": {"type": "dict"}}
ARGUMENTS = {
    **CONNECTION,
    "method": {"type": "str"},
    "params": {"type": "dict"},
    "calls": {"type": "list", "elements": "dict", "options": CALL},
    "changes": {"type": "bool"},
}


def work(given: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    calls = _calls(given)
    result: dict[str, Any] = {"changed": False, "results": []}
    would_call = []
    try:
        with Client(given["rpc_socket"], given["rpc_timeout"]) as client:
            for index, call in enumerate(calls):
                changes = _changes(call["method"]) if given["changes"] is None else given["changes"]
                try:
                    if changes and check_mode:
                        would_call.append(call["method"])
                    else:
                        result["results"].append(client.call(call["method"], call["params"]))
                    result["changed"] = result["changed"] or changes
                except Error as error:
                    later = [other["method"] for other in calls[index + 1 :]]
                    result.update(failed=True, msg=f"calls[{index}]: {error}", not_tried=later)
                    break
    except (Error, ValueError) as error:
        result.update(failed=True, msg=str(error), not_tried=[call["method"] for call in calls])
    if check_mode:
        result["would_call"] = would_call
    if given["method"] is not None and result["results"]:
        result["result"] = result["results"][0]
    return result


def main() -> None:
    run(
        ARGUMENTS,
        work,
        hidden=lambda given: _secrets([call["params"] for call in _calls(given)]),
        mutually_exclusive=[("method", "calls"), ("params", "calls")],
        required_one_of=[("method", "calls")],
        no_log=True,  # the log of the machine: what would be hidden is known only after it is written
    )


def _calls(given: dict[str, Any]) -> list[dict[str, Any]]:
    return given["calls"] if given["calls"] is not None else [{"method": given["method"], "params": given["params"]}]


def _changes(method: str) -> bool:
    return "_get_" not in method and not method.endswith("_get")


def _secrets(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in SECRET_PARAMS and isinstance(inner, str) and inner:
                yield inner
            else:
                yield from _secrets(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _secrets(inner)


if __name__ == "__main__":
    main()
