# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tell systemd that a service is ready: what sd_notify(3) does, for a platform that has no more than Python."""

from __future__ import annotations

import os
import socket


def ready() -> None:
    """Say so to the socket that systemd names in the environment; without one, nothing. Raises OSError."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto(b"READY=1", "\0" + address[1:] if address.startswith("@") else address)
