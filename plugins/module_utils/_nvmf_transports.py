# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""NVMe-oF transports of SPDK's target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._reconcile import (
    Change,
    Plan,
    refuse_duplicates,
)
from ansible_collections.ipdk.storage.plugins.module_utils._resources import (
    STATE,
    Item,
    given,
    read_release,
)

#: The options of an item, as Ansible's argument_spec has them.
TRANSPORT = {
    "trtype": {"type": "str", "choices": ["TCP", "RDMA"], "required": True},
    "max_queue_depth": {"type": "int"},
    "max_io_qpairs_per_ctrlr": {"type": "int"},
    "in_capsule_data_size": {"type": "int"},
    "max_io_size": {"type": "int"},
    "io_unit_size": {"type": "int"},
    "max_aq_depth": {"type": "int"},
    "num_shared_buffers": {"type": "int"},
    "buf_cache_size": {"type": "int"},
    "c2h_success": {"type": "bool"},
    "zcopy": {"type": "bool"},
    "dif_insert_or_strip": {"type": "bool"},
    "sock_priority": {"type": "int"},
    "acceptor_backlog": {"type": "int"},
    "abort_timeout_sec": {"type": "int"},
    "ack_timeout": {"type": "int"},
    "data_wr_pool_size": {"type": "int"},
    "disable_command_passthru": {"type": "bool"},
    "kas": {"type": "int"},
    "min_kato": {"type": "int"},
    "state": STATE,
}

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
            {"trtype": item["trtype"].upper(), "state": item["state"], **given(item, *TRANSPORT_OPTIONS)}
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
            options = given(item, *TRANSPORT_OPTIONS)
            transport = there.get(trtype)
            if transport is not None:
                plan.view[trtype] = given(transport, *TRANSPORT_OPTIONS)
            if item["state"] == "absent":
                if transport is not None:
                    sentence = f"transport {trtype} exists and SPDK cannot delete a transport: restart SPDK without it"
                    plan.refusals.append(((trtype,), sentence))
            elif transport is None:
                plan.since += [
                    (f"{name} of transports", TRANSPORT_OPTIONS[name]) for name in options if TRANSPORT_OPTIONS[name]
                ]
                call = ("nvmf_create_transport", {"trtype": trtype, **options})
                hint = "usually this SPDK was built without RDMA, or the machine has no RDMA device"
                hint = hint if trtype == "RDMA" else ""
                plan.changes.append(Change("create", "transport", trtype, (trtype,), options, (call,), hint=hint))
            else:
                # What SPDK does not report (io_unit_size, for one, in 26.05) cannot be compared.
                for name, value in options.items():
                    if name in transport and transport[name] != value:
                        sentence = f"transport {trtype} exists with {name} {transport[name]}, wanted {value}"
                        plan.refusals.append(((trtype,), sentence + ": it is set once only, restart SPDK to change it"))
        return plan
