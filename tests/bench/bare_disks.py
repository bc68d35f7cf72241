"""The least that brings disks to the guest's kernel, or takes them away: SPDK's calls, SMA's calls, the kernel's word.

What `disks_64_up_ratio` and `disks_64_down_ratio` hold a whole run of disks.yml against. Usage: bare_disks.py FILE;
the file is a JSON object: `action` (create or delete), `sma` (address), `volumes` (UUIDs), `guest` (a command that ends
when the guest's kernel shows what is wanted), `before` and `after` (a list of {socket, calls}, for before and after the
calls of SMA).
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from bare_calls import Connection
from bare_devices import act


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        work = json.load(file)
    ask(work["before"])
    act(work["sma"], work["action"], work["volumes"])
    subprocess.run(work["guest"], check=True, stdout=subprocess.DEVNULL)
    ask(work["after"])


def ask(nodes: list[dict[str, Any]]) -> None:
    for node in nodes:
        spdk = Connection(node["socket"])
        for call in node["calls"]:
            spdk.call(call["method"], call["params"])


if __name__ == "__main__":
    main()
