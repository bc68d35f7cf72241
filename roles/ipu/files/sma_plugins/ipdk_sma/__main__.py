# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Start SPDK's Storage Management Agent as a service.

    python -m ipdk_sma --config FILE

What this adds to `spdk-sma`: a stale unix socket of a killed predecessor is removed (grpcio refuses to bind over it),
a live one is never stolen; new files are for the service's user only; the log goes to stderr at SMA_LOGLEVEL, INFO
when it is not set (at DEBUG SMA prints whole requests, keys included); it ends whenever it is told to. With
`--monitor PATH` the device managers reach a QEMU whose monitor is a unix socket (`monitor`). Everything else, the
configuration's meaning included, is SPDK's.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import yaml
from spdk import spdk_sma

from . import monitor

LOG = logging.getLogger("ipdk_sma")


def read_configuration(path: Path) -> dict[str, Any]:
    """The configuration as a mapping; SystemExit names the file and what is wrong with it."""
    try:
        configuration = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SystemExit(f"ipdk_sma: cannot read the configuration {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise SystemExit(f"ipdk_sma: the configuration {path} is no YAML: {error}") from None
    if not isinstance(configuration, dict):
        raise SystemExit(f"ipdk_sma: the configuration {path} has to be a mapping")
    missing = [key for key in ("address", "port", "socket", "devices") if not configuration.get(key)]
    if missing:
        raise SystemExit(f"ipdk_sma: the configuration {path} lacks {', '.join(missing)}")
    return configuration


def socket_path(configuration: dict[str, Any]) -> Path | None:
    """The file that grpcio will bind, None where the address is no unix socket.

    SPDK joins address and port with a colon, so the port becomes part of the file's name.
    """
    address = str(configuration["address"])
    if not address.startswith("unix:"):
        return None
    return Path(f"{address[len('unix:') :]}:{configuration['port']}")


def free_socket(path: Path) -> None:
    """Remove the socket of a server that is gone; SystemExit where one still listens or something else is there."""
    if not path.exists():
        return
    if not path.is_socket():
        raise SystemExit(f"ipdk_sma: {path} is there and is no socket; it is not ours to remove")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            LOG.info("removed the stale socket %s", path)
        except OSError as error:
            raise SystemExit(f"ipdk_sma: cannot tell whether somebody listens on {path}: {error}") from None
        else:
            raise SystemExit(f"ipdk_sma: another server listens on {path}; stop it first")


def quieten_rpc_client(rpc_socket: str) -> None:
    """Keep SPDK's JSON-RPC client from growing its logger.

    It adds one more handler to a logger of the socket's name with every connection it makes, for as long as the process
    lives. What the logger has to say reaches the root logger anyway.
    """
    logger = logging.getLogger(f"JSONRPCClient({rpc_socket})")
    logger.setLevel(logging.ERROR)
    logger.addHandler = lambda handler: None  # type: ignore[method-assign]


def run(agent: Any) -> None:
    """Serve until SIGTERM or SIGINT; in place of SPDK's `run`.

    SPDK's sets a threading.Event in a signal handler. A signal that comes while the main thread enters the event's wait
    finds its lock held by that very thread, and SMA never ends. Here the C part of the handler writes to a pipe: no
    lock, and no moment at which a signal is missed, whichever thread it interrupts.
    """
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda signum, frame: None)
    agent.start()
    os.read(told, 1)
    agent.stop()


def leave() -> None:
    """End at once, without Python's own end.

    SPDK's SMA does not wait for its gRPC server to stop. When Python's end comes first, it stops the thread that would
    see that, and the server's destructor waits for it for ever.
    """
    logging.shutdown()
    os._exit(0)


def main() -> None:
    """Command line, see the module's text."""
    parser = argparse.ArgumentParser(prog="ipdk_sma", description="Start SPDK's Storage Management Agent")
    parser.add_argument("--config", required=True, type=Path, help="SMA's configuration, YAML")
    parser.add_argument("--monitor", metavar="PATH", help="QEMU's monitor, brought to qmp_port on 127.0.0.1")
    arguments = parser.parse_args()
    path = arguments.config
    os.umask(0o077)
    level = os.environ.setdefault("SMA_LOGLEVEL", "INFO").upper()
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    configuration = read_configuration(path)
    bound = socket_path(configuration)
    if bound is not None:
        free_socket(bound)
    quieten_rpc_client(configuration["socket"])
    if arguments.monitor:
        monitor.bring(arguments.monitor, configuration)
    spdk_sma.run = run
    sys.argv = ["spdk-sma", "--config", str(path)]
    spdk_sma.main()
    leave()


if __name__ == "__main__":
    main()
