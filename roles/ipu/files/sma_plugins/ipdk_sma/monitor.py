# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring QEMU's monitor, a unix socket, to where device managers look for it: their qmp_port on 127.0.0.1.

SPDK's managers speak TCP only, and a TCP port that nobody else reaches would need QEMU's own network namespace. A
container that has joined another one's namespace cannot start without it and has to be started anew after it. With a
directory between them, SMA and QEMU start, die and come back without each other.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import socketserver
import threading
from typing import Any

LOG = logging.getLogger("ipdk_sma")
LOOPBACK = ("127.0.0.1", "localhost")


def ports(configuration: dict[str, Any]) -> set[int]:
    """Where the configuration's device managers look for monitors on this machine."""
    parameters = [device.get("params") or {} for device in configuration["devices"]]
    return {
        int(each["qmp_port"])
        for each in parameters
        if each.get("qmp_port") and each.get("qmp_addr", LOOPBACK[0]) in LOOPBACK
    }


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    monitor = ""


class _Connection(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        """Pass everything on, both ways, until one side closes. Without a QEMU, close without a word."""
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with socket.socket(socket.AF_UNIX) as monitor:
            try:
                monitor.connect(self.server.monitor)
            except OSError as error:
                LOG.info("no QEMU listens on %s: %s", self.server.monitor, error.strerror)
                return
            back = threading.Thread(target=_pass_on, args=(monitor, self.request), daemon=True)
            back.start()
            _pass_on(self.request, monitor)
            back.join()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for each in (source, sink):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def bring(path: str, configuration: dict[str, Any]) -> None:
    """Listen, beside SMA's server, at the ports of the configuration. SystemExit names a port that is taken."""
    for port in sorted(ports(configuration)):
        try:
            server = _Server((LOOPBACK[0], port), _Connection)
        except OSError as error:
            raise SystemExit(f"ipdk_sma: cannot bring {path} to {LOOPBACK[0]}:{port}: {error.strerror}") from None
        server.monitor = path
        threading.Thread(target=server.serve_forever, name="monitor", daemon=True).start()
