# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rate limits (QoS): their names and units, and the limits that bdevs of SPDK have.

A limit is an integer: I/Os or bytes a second, and 0 where there is none. How SPDK and SMA count (MiB, and SMA I/Os in
thousands) is known here and nowhere else.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._checks import UNITS, check_bdev, human
from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import Error, Unsupported
from ansible_collections.ipdk.storage.plugins.module_utils._reconcile import Change, Plan, Refused, refuse_duplicates
from ansible_collections.ipdk.storage.plugins.module_utils._resources import Item, read_release, real_names

UNLIMITED = "unlimited"
_LEAST_TOO_MUCH = 2**63
_IOS_STEP = 1000
_MIB = UNITS["MiB"]


@dataclass(frozen=True)
class Limit:
    """A limit of ``bdev_set_qos_limit``: the parameter, and what one of it is in I/Os or bytes."""

    parameter: str
    unit: int


#: The limits that SPDK has, named as in SMA. ``rd`` is what is read, ``wr`` what is written, ``rw`` both together.
LIMITS = {
    "rw_iops": Limit("rw_ios_per_sec", 1),
    "rw_bandwidth": Limit("rw_mbytes_per_sec", _MIB),
    "rd_bandwidth": Limit("r_mbytes_per_sec", _MIB),
    "wr_bandwidth": Limit("w_mbytes_per_sec", _MIB),
}

#: The options of an item of spdk_bdev_qos, as Ansible's argument_spec has them.
BDEV_QOS = {"name": {"type": "str", "required": True}, **{name: {"type": "str"} for name in LIMITS}}


def step_of(name: str) -> int:
    """What a limit has to be a multiple of: SPDK rounds up to thousands of I/Os and takes whole MiB."""
    return _IOS_STEP if name.endswith("iops") else _MIB


def check_limit(name: str, value: Any, where: str, problems: list[str]) -> int | None:
    """I/Os a second (``2000``) or bytes a second (``16MiB``); None where nothing is said."""
    if value is None:
        return None
    if value == UNLIMITED:
        return 0
    ios = name.endswith("iops")
    match = re.fullmatch(r"([0-9]+)()" if ios else r"([0-9]+) ?([KMGT]iB|)", str(value))
    if match is None:
        wanted = (
            "I/Os a second, a whole number" if ios else "bytes a second, or a whole number with KiB, MiB, GiB or TiB"
        )
        problems.append(f"{where}: wanted {wanted} (0 or {UNLIMITED}: no limit), got {value!r}")
        return None
    limit, step = int(match[1]) * UNITS[match[2]], step_of(name)
    if limit >= _LEAST_TOO_MUCH:
        problems.append(f"{where}: {value} is more than SPDK can count")
    elif limit % step:
        lower = limit - limit % step
        nearest = [shown(name, near) for near in (lower, lower + step) if near]
        problems.append(
            f"{where}: {value} is no multiple of {shown(name, step)}, in which SPDK counts; "
            f"nearest {'is' if len(nearest) == 1 else 'are'} {' and '.join(map(str, nearest))}"
        )
    return limit


def check_limits(item: Mapping[str, Any], names: Sequence[str], where: str, problems: list[str]) -> dict[str, int]:
    """The limits that an item names."""
    checked = {name: check_limit(name, item.get(name), f"{where}.{name}", problems) for name in names}
    return {name: limit for name, limit in checked.items() if limit is not None}


def shown(name: str, limit: int) -> int | str:
    """A limit as an operator writes it: ``2000``, ``16MiB``, ``unlimited``."""
    if not limit:
        return UNLIMITED
    return limit if name.endswith("iops") else human(limit).replace(" bytes", "")


def shown_all(limits: Mapping[str, int]) -> dict[str, int | str]:
    return {name: shown(name, limit) for name, limit in limits.items()}


def limits_of(bdev: Mapping[str, Any]) -> dict[str, int]:
    """The limits that a bdev has, out of its entry in ``bdev_get_bdevs``."""
    assigned = bdev.get("assigned_rate_limits") or {}
    return {name: int(assigned.get(limit.parameter, 0)) * limit.unit for name, limit in LIMITS.items()}


def differing(wanted: Mapping[str, int], there: Mapping[str, int]) -> dict[str, int]:
    """Of the limits that are wanted, those that are not there yet."""
    return {name: limit for name, limit in wanted.items() if there.get(name) != limit}


@dataclass
class State:
    """``bdevs`` by name; ``names``: of bdevs by name and alias; ``busy``: names of the bdevs that a guest has started
    to use; ``subsystems``: NQNs."""

    bdevs: dict[str, Mapping[str, Any]]
    names: dict[str, str]
    busy: set[str]
    subsystems: set[str]
    controllers: list[Any] = field(default_factory=list)


def read(executor: Any) -> State:
    """What SPDK has, in one round trip. A storage target may have no vhost, and an IPU no NVMe-oF target."""
    answers = executor.pipeline(
        [("bdev_get_bdevs", None), ("vhost_get_controllers", None), ("nvmf_get_subsystems", None)]
    )
    for index, answer in enumerate(answers):
        if isinstance(answer, Unsupported) and index:
            answers[index] = []
        elif isinstance(answer, Error):
            raise answer
    bdevs, controllers, subsystems = answers
    return State(
        {bdev["name"]: bdev for bdev in bdevs},
        real_names(bdevs),
        {
            (controller.get("backend_specific", {}).get("block") or {}).get("bdev")
            for controller in controllers
            if any(session.get("started") for session in controller.get("sessions") or ())
        },
        {subsystem["nqn"] for subsystem in subsystems},
        list(controllers),
    )


def with_channel(call: tuple[str, Any], limited: str, used: str, state: State) -> tuple[tuple[str, Any], ...]:
    """The calls that set the limits of the bdev ``limited`` by ``call``, whether somebody uses it or not.

    SPDK (26.05 and before) cannot change the limits that a bdev has while nobody has had an I/O channel to it: each
    opening, that of the call itself included, begins to start them anew, and a change meanwhile is refused with
    EAGAIN (lib/bdev/bdev.c: bdev_open, spdk_bdev_set_qos_rate_limits). As a namespace of a subsystem that nobody can
    reach, ``used`` (the bdev, or the one on top of it) has a channel for the moment.
    """
    nqn = f"nqn.2022-06.io.ipdk:limits:{uuid.uuid5(uuid.NAMESPACE_DNS, used)}"
    gone = ("nvmf_delete_subsystem", {"nqn": nqn})
    left = (gone,) if nqn in state.subsystems else ()  # by somebody who was killed half-way
    limits = limits_of(state.bdevs[limited])
    if left or (any(limits.values()) and used not in state.busy and not state.bdevs[used].get("claimed")):
        made = ("nvmf_create_subsystem", {"nqn": nqn, "max_namespaces": 1})
        shown_there = ("nvmf_subsystem_add_ns", {"nqn": nqn, "namespace": {"bdev_name": used}})
        return (*left, made, shown_there, call, gone)
    return (call,)


class BdevLimits:
    """The limits of bdevs, by ``bdev_set_qos_limit``. A limit that is not named keeps its value."""

    @staticmethod
    def normalise(items: Sequence[Mapping[str, Any]]) -> list[Item]:
        problems: list[str] = []
        wanted = []
        for index, item in enumerate(items):
            where = f"qos[{index}]"
            name = check_bdev(item["name"], f"{where}.name", problems)
            limits = check_limits(item, tuple(LIMITS), f"{where} ({name})", problems)
            if not any(item.get(limit) is not None for limit in LIMITS):
                problems.append(f"{where} ({name}): no limit is named, wanted one of {', '.join(LIMITS)}")
            wanted.append({"name": name, "limits": limits})
        if problems:
            raise Refused(problems)
        refuse_duplicates(wanted, lambda item: item["name"], "qos", "name")
        return wanted

    def read(self, executor: Any) -> State:
        return read(executor)

    def release(self, executor: Any) -> tuple[int, int]:
        return read_release(executor)

    def plan(self, wanted: Sequence[Item], current: State) -> Plan:
        plan = Plan()
        for item in wanted:
            name = item["name"]
            real = current.names.get(name)
            if real is None:
                plan.changes.append(
                    Change("update", "limits", name, (name,), None, (), blocked=f"there is no bdev {name}")
                )
                continue
            there = limits_of(current.bdevs[real])
            plan.view[name] = shown_all(there)
            change = differing(item["limits"], there)
            if change:
                params = {LIMITS[limit].parameter: value // LIMITS[limit].unit for limit, value in change.items()}
                calls = with_channel(("bdev_set_qos_limit", {"name": real, **params}), real, real, current)
                after = shown_all({**there, **change})
                plan.changes.append(Change("update", "limits", name, (name,), after, calls))
        return plan
