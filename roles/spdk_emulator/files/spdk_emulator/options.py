"""The command line of ``spdk_tgt``: every option that it takes is taken, most only concern hugepages, PCI and cores."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field

from .framework.models import matching_flags
from .framework.threads import Threads
from .framework.trace import DEFAULT_ENTRIES, Traces


@dataclass
class Options:
    """What the command line says, as far as the emulator acts upon it."""

    rpc_socket: str | None = "/var/tmp/spdk.sock"
    """None: ``--no-rpc-server``."""
    vhost_directory: str = "."
    cpumask: str = "0x1"
    main_core: int | None = None
    """None: the first one."""
    config: str | None = None
    ignore_config_errors: bool = False
    wait_for_rpc: bool = False
    interrupt_mode: bool = False
    pid_file: str | None = None
    tpoints: str | None = None
    """Of the groups that are traced from the beginning."""
    shm_id: int = -1
    """In the name of the file of traces; below 0: the process's number stands there."""
    trace_entries: int = DEFAULT_ENTRIES
    """Of that file, for each core; 0: there is no file."""
    log_flags: list[str] = field(default_factory=list)
    quiet: bool = False
    rpcs_allowed: frozenset[str] | None = None


VERSION = "SPDK v26.05 git sha1 d519b163cb"

_WITHOUT_VALUE = (
    ("-d", "--limit-coredump"),
    ("-g", "--single-file-segments"),
    ("-u", "--no-pci"),
    ("-R", "--huge-unlink"),
    ("--disable-cpumask-locks",),
    ("--no-huge",),
    ("--enforce-numa",),
)
_WITH_VALUE = (
    ("-n", "--mem-channels"),
    ("-s", "--mem-size"),
    ("-B", "--pci-blocked"),
    ("-A", "--pci-allowed"),
    ("--huge-dir",),
    ("--iova-mode",),
    ("--base-virtaddr",),
    ("--env-context",),
    ("--vfio-vf-token",),
    ("--msg-mempool-size",),
)


_MOST_ENTRIES = 1 << 32


def _entries(text: str) -> int:
    number = int(text, 0)
    if not 0 <= number <= _MOST_ENTRIES or number & (number - 1):
        raise argparse.ArgumentTypeError(f"{text} is no power of 2, or too many")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="spdk_emulator", description=__doc__, allow_abbrev=False)
    acted = parser.add_argument_group("options that change what it does")
    acted.add_argument("-r", "--rpc-socket", default=Options.rpc_socket, help="unix socket for JSON-RPC")
    acted.add_argument("--no-rpc-server", action="store_true", help="do not listen for JSON-RPC")
    acted.add_argument("--rpcs-allowed", help="the only methods that may be called, separated by commas")
    acted.add_argument("-S", dest="vhost_directory", default=Options.vhost_directory, help="directory of vhost sockets")
    acted.add_argument("-c", "--config", "--json", help="JSON file with the calls to make at the start")
    acted.add_argument("--json-ignore-init-errors", action="store_true", help="go on when a call of that file fails")
    acted.add_argument("--wait-for-rpc", action="store_true", help="wait for framework_start_init")
    acted.add_argument("--interrupt-mode", action="store_true", help="sleep instead of polling")
    cores = acted.add_mutually_exclusive_group()
    cores.add_argument("-m", "--cpumask", default=Options.cpumask, help="cores as a mask or a list in brackets")
    cores.add_argument("--lcores", help="cores as a map")
    acted.add_argument("-p", "--main-core", type=int, help="core of the first thread")
    acted.add_argument("-L", "--logflag", action="append", default=[], help="a log flag to switch on")
    acted.add_argument("-e", "--tpoint-group", help="tracepoints to switch on: group, group:mask, group:name+name")
    acted.add_argument("-i", "--shm-id", type=int, default=Options.shm_id, help="number of the file of traces")
    acted.add_argument("--num-trace-entries", default=DEFAULT_ENTRIES, type=_entries, help="its entries for each core")
    acted.add_argument("--silence-noticelog", action="store_true", help="log warnings and errors only")
    acted.add_argument("-f", dest="pid_file", help="file to write the process id to")
    parser.add_argument("-v", "--version", action="version", version=VERSION)
    ignored = parser.add_argument_group("options that spdk_tgt takes and that have no meaning here")
    for names in _WITHOUT_VALUE:
        ignored.add_argument(*names, action="store_true")
    for names in _WITH_VALUE:
        ignored.add_argument(*names)
    return parser


def parse(arguments: list[str]) -> Options:
    """Exits with status 2 and a message on stderr for an option that ``spdk_tgt`` would not take."""
    parser = _parser()
    given = parser.parse_args(arguments)
    for flag in given.logflag:
        try:
            matching_flags(flag)
        except KeyError:
            parser.error(f"unknown log flag: {flag}")
    try:
        Threads(given.cpumask, given.main_core)
        Traces(given.tpoint_group)
    except ValueError as error:
        parser.error(str(error))
    return Options(
        rpc_socket=None if given.no_rpc_server else given.rpc_socket,
        vhost_directory=given.vhost_directory,
        cpumask=given.cpumask,
        main_core=given.main_core,
        config=given.config,
        ignore_config_errors=given.json_ignore_init_errors,
        wait_for_rpc=given.wait_for_rpc,
        interrupt_mode=given.interrupt_mode,
        pid_file=given.pid_file,
        tpoints=given.tpoint_group,
        shm_id=given.shm_id,
        trace_entries=given.num_trace_entries,
        log_flags=given.logflag,
        quiet=given.silence_noticelog,
        rpcs_allowed=frozenset(given.rpcs_allowed.split(",")) if given.rpcs_allowed else None,
    )
