# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bring a node's SPDK back to what the node was told before.

    python3 -m ipdk_node restore --socket S --declaration F [--timeout SECONDS] [--ready-after SECONDS]
    python3 -m ipdk_node run     --socket S --declaration F [--hugepages DIRECTORY] -- <SPDK's command>

``restore`` waits until SPDK answers, applies the declaration and goes on until all of it is there: peers may come later
than this node. It ends 0 then, and 1 when the timeout is over (there is none unless it is given). As a unit of systemd
it is ready when all is there, or after ``--ready-after``: others then start without what is still missing. ``run``
starts SPDK, does the same beside it, passes signals on and ends as SPDK ends; it is made to be the first process of a
container. With ``--hugepages`` it first removes what an SPDK that was killed has left there.
"""

from __future__ import annotations

import argparse
import sys
import threading

from ipdk_node import hugepages, notify
from ipdk_node.restore import Restore
from ipdk_node.supervise import supervise


def main() -> int:
    parser = argparse.ArgumentParser(prog="ipdk_node", description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["restore", "run"])
    parser.add_argument("--socket", required=True, help="SPDK's JSON-RPC socket")
    parser.add_argument("--declaration", required=True, metavar="FILE", help="what SPDK shall have, JSON")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="give up after so long (restore only)")
    parser.add_argument("--hugepages", metavar="DIRECTORY", help="where SPDK has its hugepages (run only)")
    parser.add_argument(
        "--ready-after", type=float, metavar="SECONDS", help="call the unit ready after so long (restore only)"
    )
    arguments = sys.argv[1:]
    command: list[str] = []
    if "--" in arguments:
        command = arguments[arguments.index("--") + 1 :]
        arguments = arguments[: arguments.index("--")]
    options = parser.parse_args(arguments)
    if (options.action == "run") != bool(command):
        parser.error("run needs SPDK's command after --, restore takes none")
    restore = Restore(options.socket, options.declaration)
    if options.action == "run":
        if options.hugepages:
            hugepages.clear(options.hugepages)
        return supervise(command, restore)
    if options.ready_after is not None:
        patience = threading.Timer(options.ready_after, notify.ready)
        patience.daemon = True
        patience.start()
    if not restore.run(threading.Event(), options.timeout):
        return 1
    notify.ready()
    return 0


if __name__ == "__main__":
    sys.exit(main())
