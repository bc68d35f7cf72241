"""One process: its families, its life from the command line to the last socket, and the tasks it runs."""

from __future__ import annotations

import asyncio
import gc
import importlib
import inspect
import json
import logging
import os
import pkgutil
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from .bdev.models import BdevError, BdevRegistry
from .framework.models import Framework
from .jsonrpc import registry
from .jsonrpc.errors import METHOD_NOT_FOUND, RpcError
from .jsonrpc.server import AddressInUse, Server, call, find_method
from .options import Options

log = logging.getLogger(__name__)

_Calls = Callable[[], list[Any]]


def flat(entries: list[Any]) -> list[Any]:
    """The calls of a configuration one by one, those of its batches too."""
    return [call for entry in entries for call in (entry if isinstance(entry, list) else [entry])]


FAMILIES = (
    ("framework", "framework"),
    ("accel", "accel"),
    ("bdevs", "bdev"),
    ("crypto", "bdev_crypto"),
    ("vbdevs", "vbdev"),
    ("lvols", "lvol"),
    ("nvme", "bdev_nvme"),
    ("nvmf", "nvmf"),
    ("vhost", "vhost"),
    ("nbd", "nbd"),
)
"""(attribute of the App, package) of every family, in the order in which they start."""


def load_methods() -> None:
    """Import every family's methods (``rpc.py``, ``rpc_*.py``), which fills the table of methods."""
    for _unused, package in FAMILIES:
        family = importlib.import_module(f"{__package__}.{package}")
        for module in pkgutil.iter_modules(family.__path__):
            if module.name.partition("_")[0] == "rpc":
                importlib.import_module(f"{family.__name__}.{module.name}")


class ConfigError(Exception):
    """The file given with ``--json`` cannot be used."""


class App:
    """Everything a method may need. ``running`` is False until ``framework_start_init`` has done its work."""

    framework: Framework
    bdevs: BdevRegistry

    def __init__(self, options: Options) -> None:
        self.options = options
        self.running = False
        self.start_requested = asyncio.Event()
        """Set by ``framework_start_init``."""
        self.started = asyncio.Event()
        """Set when the framework runs and the calls of the ``--json`` file are made."""
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._families: list[Any] = []
        self._configs: dict[str, tuple[list[_Calls], list[_Calls]]] = {}
        load_methods()
        for attribute, package in FAMILIES:
            family = importlib.import_module(f"{__package__}.{package}.models").setup(self)
            setattr(self, attribute, family)
            self._families.append(family)

    # What families use

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine as a task that is kept alive, whose failure is logged and which ends with the process."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a task failed", exc_info=task.exception())

    def add_config(self, subsystem: str, calls: _Calls, last: bool = False) -> None:
        """``calls`` returns ``[{"method": …, "params": …}]``, what ``framework_get_config`` says of a subsystem.

        A list in it is a batch: calls that may be made at once.

        Several parts of one subsystem (``bdev``: malloc, nvme …) each add theirs, in the order of the answer; those
        with ``last`` come after all others.
        """
        self._configs.setdefault(subsystem, ([], []))[last].append(calls)

    def config(self, subsystem: str, with_batches: bool = False) -> list[Any]:
        """The calls that make this subsystem what it is now."""
        entries = [entry for part in self._configs.get(subsystem, ()) for calls in part for entry in calls()]
        return entries if with_batches else flat(entries)

    def is_allowed(self, method: str) -> bool:
        """False for a method that ``--rpcs-allowed`` leaves out."""
        return self.options.rpcs_allowed is None or method in self.options.rpcs_allowed

    # Life

    async def run(self) -> int:
        """From start to SIGTERM. Returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        server = Server(self, self.options.rpc_socket) if self.options.rpc_socket else None
        try:
            self.framework.traces.open(self.framework.threads)
            config = self._read_config()
            if server:
                await server.bind()
            await self._load_config(config, startup=True)
            if self.options.wait_for_rpc:
                if server:
                    await server.serve()
                await self._first_of(self.start_requested, self._stop)
            if not self._stop.is_set():
                await self._start_framework()
                await self._load_config(config, startup=False)
                self.framework.threads.look_soon()
                self.started.set()
                self._write_pid_file()
                if server:
                    await server.serve()
            await self._stop.wait()
            status = 0
        except (AddressInUse, ConfigError, OSError) as error:
            log.error("%s", error)
            status = 1
        if server:
            await server.close()
        await self._shut_down()
        return status

    def stop(self) -> None:
        self._stop.set()

    async def _start_framework(self) -> None:
        for family in self._families:
            if hasattr(family, "start"):
                await family.start()
        gc.collect()
        gc.freeze()  # what is there now stays: no collection has to look at it, which would hold up I/O
        self.running = True
        log.info("framework is initialized")

    @staticmethod
    async def _first_of(*events: asyncio.Event) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in events]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def _write_pid_file(self) -> None:
        if self.options.pid_file:
            with open(self.options.pid_file, "w", encoding="ascii") as file:
                file.write(f"{os.getpid()}\n")

    async def _shut_down(self) -> None:
        for family in reversed(self._families):
            if hasattr(family, "shutdown"):
                await family.shutdown()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # The file given with --json

    def _read_config(self) -> list[dict[str, Any]]:
        """Its calls, in order; those in a list are a batch of SPDK 26.05, which is made one by one here."""
        path = self.options.config
        if path is None:
            return []
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
            entries = [entry for subsystem in content["subsystems"] for entry in subsystem["config"] or []]
            return [{"method": call["method"], "params": call.get("params")} for call in flat(entries)]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"cannot read the configuration {path}: {error!r}; "
                'wanted is {"subsystems": [{"subsystem": …, "config": [{"method": …, "params": {…}}]}]}'
            ) from error

    async def _load_config(self, calls: list[dict[str, Any]], startup: bool) -> None:
        """Make those calls that belong before (``startup``) or after the start of the framework."""
        for entry in calls:
            name = entry["method"]
            try:
                method = find_method(name)
                if method is None:
                    raise RpcError(METHOD_NOT_FOUND, "Method not found")
                if startup == (method.state == registry.RUNTIME):
                    continue
                result = call(self, name, entry["params"])
                if inspect.isawaitable(result):
                    await result
            except (RpcError, BdevError) as error:
                message = f"{self.options.config}: {name} failed: {error.message} ({error.code})"
                if not self.options.ignore_config_errors:
                    raise ConfigError(message) from error
                log.error("%s", message)
