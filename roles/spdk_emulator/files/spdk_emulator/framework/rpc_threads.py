"""JSON-RPC methods of threads, of the cores that they are on, and of what puts them there.

Every thread is part of one event loop, which sleeps; its turns are what runs pollers. In interrupt mode SPDK counts no
runs of pollers and measures no times, so nothing does here.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from ..bdev.stats import TICK_RATE
from ..jsonrpc.errors import INTERNAL_ERROR, INVALID_PARAMS, RpcError
from ..jsonrpc.params import string, uint32, uint64
from ..jsonrpc.registry import ANY, STARTUP, Param, method
from . import cores
from .threads import Polled, Poller, Thread

if TYPE_CHECKING:
    from ..app import App


@method("framework_get_scheduler", state=ANY, bad_params=(INVALID_PARAMS, "'rpc_get_scheduler' requires no arguments"))
def framework_get_scheduler(app: App) -> dict[str, Any]:
    scheduler = app.framework.scheduler
    named = {"scheduler_name": scheduler.name} if scheduler.name else {}
    return {
        **named,
        "scheduler_period": scheduler.period,
        "isolated_core_mask": cores.mask(scheduler.isolated),
        "scheduling_core": app.framework.threads.main_core if scheduler.core is None else scheduler.core,
    }


@method(
    "framework_set_scheduler",
    params={"name": Param(string, required=True), "period": Param(uint64, default=0)},
    state=ANY,
    bad_params=(INVALID_PARAMS, "Invalid parameters"),
    relaxed=True,
)
def framework_set_scheduler(app: App, name: str, period: int) -> bool:
    """``period`` in microseconds; it is taken over even where there is no scheduler of that name, as in SPDK."""
    scheduler = app.framework.scheduler
    scheduler.set_period(period or scheduler.period or 1_000_000)
    if name != "static":
        raise RpcError(INTERNAL_ERROR, "Unknown error -22")
    scheduler.set_static()
    return True


@method(
    "scheduler_set_options",
    params={"isolated_core_mask": Param(string), "scheduling_core": Param(uint32)},
    state=STARTUP,
    bad_params=(INVALID_PARAMS, "Invalid parameters"),
    needs_object=True,
)
def scheduler_set_options(app: App, isolated_core_mask: str | None, scheduling_core: int | None) -> bool:
    """Kept and shown: no scheduler here moves anything. The mask is taken over even where the core is refused."""
    scheduler, threads = app.framework.scheduler, app.framework.threads
    default = threads.main_core if scheduler.core is None else scheduler.core
    core = default if scheduling_core is None else scheduling_core
    if isolated_core_mask is not None:
        try:
            isolated = cores.parse(isolated_core_mask)
        except ValueError:
            raise RpcError(INVALID_PARAMS, "Invalid isolated core mask\n") from None
        if core in isolated:
            raise RpcError(INVALID_PARAMS, "Scheduling core cannot be included in isolated core mask.\n")
        if not isolated <= threads.cpus:
            raise RpcError(INVALID_PARAMS, "Invalid isolated core mask\n")
        scheduler.isolated = isolated
    if core not in threads.cpus:
        raise RpcError(INVALID_PARAMS, "Invalid scheduling core.\n")
    scheduler.core = core
    return True


@method("framework_get_governor", bad_params=(INVALID_PARAMS, "'rpc_get_governor' requires no arguments"))
def framework_get_governor(app: App) -> dict[str, Any]:
    return {}


@method("framework_get_reactors", bad_params=(INVALID_PARAMS, "`framework_get_reactors` requires no arguments"))
def framework_get_reactors(app: App) -> dict[str, Any]:
    threads = app.framework.threads
    threads.settle()
    spent = cores.times()
    reactors = [_describe_reactor(app, core, spent.get(core, _NOTHING)) for core in threads.cores]
    return {"tick_rate": TICK_RATE, "pid": os.getpid(), "reactors": reactors}


_NOTHING = (0, 0, 0)
"""What is spent on a core that this machine does not have."""


def _describe_reactor(app: App, core: int, spent: tuple[int, int, int]) -> dict[str, Any]:
    reactor = app.framework.threads.reactors[core]
    before = app.framework.spent_before.get(core, _NOTHING)
    irq, system, user = (now - then for now, then in zip(spent, before))
    now = time.perf_counter_ns()
    return {
        "lcore": core,
        "numa_id": 0,
        "tid": os.getpid(),
        "busy": reactor.busy,
        "idle": reactor.idle,
        "in_interrupt": app.options.interrupt_mode,
        "irq": irq,
        "sys": system,
        "usr": user,
        "lw_threads": [{**_identity(app, thread), "elapsed": now - thread.scheduled} for thread in reactor.threads],
    }


def _identity(app: App, thread: Thread) -> dict[str, Any]:
    return {
        "name": thread.name,
        "id": thread.number,
        "cpumask": cores.mask(thread.cpus & app.framework.threads.cpus),
    }


@method("thread_get_stats", bad_params=(INVALID_PARAMS, "'thread_get_stats' requires no arguments"))
def thread_get_stats(app: App) -> dict[str, Any]:
    app.framework.threads.settle()
    return {"tick_rate": TICK_RATE, "threads": [_describe(app, thread) for thread in app.framework.threads]}


def _describe(app: App, thread: Thread) -> dict[str, Any]:
    pollers = [poller for _unused, poller in app.framework.threads.pollers(thread)]
    timed = sum(poller.period > 0 for poller in pollers)
    return {
        **_identity(app, thread),
        "busy": thread.busy,
        "idle": thread.idle,
        "active_pollers_count": len(pollers) - timed,
        "timed_pollers_count": timed,
        "paused_pollers_count": 0,
    }


@method("thread_get_pollers", bad_params=(INVALID_PARAMS, "'thread_get_pollers' requires no arguments"))
def thread_get_pollers(app: App) -> dict[str, Any]:
    return {"tick_rate": TICK_RATE, "threads": [_describe_pollers(app, thread) for thread in app.framework.threads]}


def _describe_pollers(app: App, thread: Thread) -> dict[str, Any]:
    """Those with a period come in the order in which they are due, as in SPDK."""
    pollers = app.framework.threads.pollers(thread)
    timed = [each for each in pollers if each[1].period]
    timed.sort(key=lambda each: each[0].due(each[1].period))
    return {
        "name": thread.name,
        "id": thread.number,
        "active_pollers": [_describe_poller(*each) for each in pollers if not each[1].period],
        "timed_pollers": [_describe_poller(*each) for each in timed],
        "paused_pollers": [],
    }


def _describe_poller(polled: Polled, poller: Poller) -> dict[str, Any]:
    answer = {
        "name": poller.name,
        "id": polled.number,
        "state": "waiting",
        "run_count": polled.run_count,
        "busy_count": polled.busy_count,
    }
    return answer | ({"period_ticks": poller.period * TICK_RATE // 1_000_000} if poller.period else {})


@method(
    "thread_set_cpumask",
    params={"id": Param(uint64, required=True), "cpumask": Param(string, required=True)},
    bad_params=(INVALID_PARAMS, "spdk_json_decode_object failed"),
)
def thread_set_cpumask(app: App, id: int, cpumask: str) -> bool:
    threads = app.framework.threads
    thread = threads.get(id)
    if thread is None:
        raise RpcError(INVALID_PARAMS, f"Thread {id} does not exist")
    try:
        cpus = cores.parse(cpumask) & threads.cpus
    except ValueError:
        raise RpcError(INTERNAL_ERROR, f"Invalid cpumask {cpumask}") from None
    if not cpus:
        raise RpcError(INTERNAL_ERROR, f"No CPU is selected from reactor mask {cores.mask(threads.cpus)}")
    threads.move(thread, cpus)
    return True
