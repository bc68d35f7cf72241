# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run SPDK as a child: the first process of a container passes signals on, reaps, and ends as SPDK ends."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import traceback
from collections.abc import Sequence
from typing import Any

from ipdk_node.restore import Restore, say

END_SECONDS = 5
"""What restoring gets to notice that SPDK is gone."""
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def supervise(command: Sequence[str], restore: Restore) -> int:
    """SPDK's exit status; 128 and the signal's number where a signal ended it."""
    child: subprocess.Popen[bytes] | None = None
    waiting: list[int] = []

    def pass_on(number: int, _frame: Any) -> None:
        if child is None:
            waiting.append(number)
        else:
            child.send_signal(number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    try:
        child = subprocess.Popen(list(command))
    except OSError as error:
        say(f"cannot start {command[0]}: {error.strerror}")
        return 127
    for number in waiting:
        child.send_signal(number)
    stop = threading.Event()
    restoring = threading.Thread(target=_restore, args=(restore, stop), daemon=True)
    restoring.start()
    status = _wait(child.pid)
    child.returncode = status
    stop.set()
    status = status if status >= 0 else 128 - status
    restoring.join(END_SECONDS)
    if restoring.is_alive():
        # An interpreter that ends beside a thread at work may abort, and its status would not be SPDK's.
        say("restoring did not end with SPDK; it is left behind")
        os._exit(status)
    return status


def _restore(restore: Restore, stop: threading.Event) -> None:
    try:
        restore.run(stop)
    except Exception:
        # SPDK goes on with what it has; whoever looks into the log finds why it is not more.
        say(f"restoring ended with an error of its own:\n{traceback.format_exc()}")


def _wait(pid: int) -> int:
    """The exit status of this child; others, which a container's first process inherits, are only reaped."""
    while True:
        ended, status = os.wait()
        if ended == pid:
            return os.waitstatus_to_exitcode(status)
