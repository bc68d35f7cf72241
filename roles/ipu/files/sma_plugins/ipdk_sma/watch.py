# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""End this process when the guest's monitor is gone, so that whoever runs it starts it again.

A container that shares the network namespace of a guest's container keeps the old namespace when the guest's container
is started anew; nobody will ever listen there again. Started again, it joins the new one. What listens is read from
/proc: a connection would take the monitor, which serves one client at a time, away from a device manager.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LOG = logging.getLogger("ipdk_sma")
LOOPBACK = ("127.0.0.1", "localhost")
LISTENS = "0A"  # TCP_LISTEN, column st of /proc/net/tcp
EXIT_STATUS = 75  # EX_TEMPFAIL: try again
PAUSE_SECONDS = 1.0


def monitor_ports(configuration: dict[str, Any]) -> set[int]:
    """The ports of the monitors in this network namespace that the configuration's device managers use."""
    parameters = [device.get("params") or {} for device in configuration["devices"]]
    return {
        int(each["qmp_port"])
        for each in parameters
        if each.get("qmp_port") and each.get("qmp_addr", LOOPBACK[0]) in LOOPBACK
    }


def listening(table: Path = Path("/proc/net/tcp")) -> set[int]:
    """The TCP ports (IPv4) on which somebody listens in this process's network namespace."""
    rows = [line.split() for line in table.read_text(encoding="ascii").splitlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == LISTENS}


def wait_until_gone(ports: set[int], seconds: float, look: Callable[[], set[int]] = listening) -> None:
    """Return when one of the ports, which was there, has been away for so many seconds."""
    last_seen: dict[int, float] = {}
    while True:
        now = time.monotonic()
        there = look()
        last_seen.update(dict.fromkeys(ports & there, now))
        if any(now - since >= seconds for since in last_seen.values()):
            return
        time.sleep(min(PAUSE_SECONDS, seconds / 2))


def start(configuration: dict[str, Any], seconds: float) -> None:
    """Watch beside SMA's server; without a monitor in this namespace, do nothing."""
    ports = monitor_ports(configuration)
    if not ports:
        return

    def watch() -> None:
        wait_until_gone(ports, seconds)
        LOG.error("the guest's monitor is gone for %g s; ending, to be started again where it is now", seconds)
        os._exit(EXIT_STATUS)

    threading.Thread(target=watch, name="watch", daemon=True).start()
