"""TCP ports for what a test lets listen on 127.0.0.1."""

from __future__ import annotations

import random
import socket

_LOW, _HIGH = 20000, 32768
"""Below the range from which the kernel gives ports to connections (ip_local_port_range): nobody who merely connects
somewhere can be given one of these before the test listens."""
_given: set[int] = set()


def free_port() -> int:
    """A port at which nobody listens; this process is not given it again."""
    while True:
        port = random.randrange(_LOW, _HIGH)
        if port in _given:
            continue
        _given.add(port)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
