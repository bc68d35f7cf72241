# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Wait until SMA serves calls.

    python -m ipdk_sma.ready --config FILE --timeout SECONDS

The socket is there before the server has started: only a channel that gRPC calls ready counts. Exits 0 with it, else 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import grpc

from .__main__ import read_configuration


def main() -> None:
    """Command line, see the module's text."""
    parser = argparse.ArgumentParser(prog="ipdk_sma.ready", description="Wait until SMA serves calls")
    parser.add_argument("--config", required=True, type=Path, help="SMA's configuration, YAML")
    parser.add_argument("--timeout", type=float, default=60, help="seconds")
    arguments = parser.parse_args()
    configuration = read_configuration(arguments.config)
    address = f"{configuration['address']}:{configuration['port']}"
    # gRPC waits longer after each attempt; SMA is seldom later than a second or two.
    options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
    with grpc.insecure_channel(address, options=options) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=arguments.timeout)
        except grpc.FutureTimeoutError:
            sys.exit(f"ipdk_sma.ready: no SMA answers on {address} within {arguments.timeout:g} s")


if __name__ == "__main__":
    main()
