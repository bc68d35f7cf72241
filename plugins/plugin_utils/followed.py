# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A module that runs in the background of its node and says how far it is, on the terminal and in the log."""

from __future__ import annotations

import json
import posixpath
import shlex
import time
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.ipdk.storage.plugins.module_utils._progress import VARIABLE

LONGEST = 24 * 3600
"""Seconds after which Ansible ends the module; those with timeouts of their own are done long before."""
ASK_SECONDS = 0.5
SAY_SECONDS = 5.0
OF_THE_JOB = ("ansible_job_id", "started", "finished", "results_file")
"""What async_status adds to a module's result."""

display = Display()


class FollowedAction(ActionBase):
    """The action of a module with the option ``progress``; without it, or in check mode, it is like that of any other.

    What is asked meanwhile is the shell of the node; a second module fetches the result.
    """

    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        if self._task.async_val or self._task.check_mode or not boolean(self._task.args.get("progress"), strict=False):
            wrap = bool(self._task.async_val) and not self._connection.has_native_async
            return {**result, **self._execute_module(task_vars=task_vars, wrap_async=wrap)}
        return {**result, **self._follow(task_vars or {})}

    def _follow(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        if self._connection._shell.tmpdir is None:
            self._make_tmp_path()
        file = self._connection._shell.join_path(self._connection._shell.tmpdir, "progress")
        own = self._task.environment
        self._task.environment = [*(own or []), {VARIABLE: file}]
        self._task.async_val = LONGEST
        try:
            started = self._execute_module(task_vars=task_vars, wrap_async=True)
        finally:
            self._task.async_val = 0
            self._task.environment = own
        if "ansible_job_id" not in started:
            self._remove_tmp_path(self._connection._shell.tmpdir, force=True)
            return dict(started)  # it did not even begin
        self._watch(started["results_file"], file, task_vars.get("inventory_hostname", ""))
        job = {
            "jid": started["ansible_job_id"],
            "_async_dir": posixpath.dirname(started["results_file"]),
            "mode": "status",
        }
        done = self._execute_module("ansible.legacy.async_status", job, task_vars=task_vars)
        self._low_level_execute_command(f"rm -f {shlex.quote(started['results_file'])}")
        return {key: value for key, value in done.items() if key not in OF_THE_JOB}

    def _watch(self, results: str, file: str, node: str) -> None:
        """Until the module has left its results."""
        ask = f"cat {shlex.quote(results)}; echo; cat {shlex.quote(file)} 2>/dev/null; :"
        said, at = "", time.monotonic()
        while True:
            lines = str(self._low_level_execute_command(ask)["stdout"]).split("\n")
            state, told = _read(lines[0]), _read(lines[1] if len(lines) > 1 else "")
            if "started" not in state or state.get("finished"):
                return
            if told and time.monotonic() - at >= SAY_SECONDS:
                line = sentence(node, told)
                if line != said:
                    display.display(line)
                said, at = line, time.monotonic()
            time.sleep(ASK_SECONDS)


def sentence(node: str, told: dict[str, Any]) -> str:
    """What a module has told of itself, as a line of the log."""
    count = f" {told['done']} of {told['total']}" if told["total"] else ""
    return f"{node}: {told['what']}{count}, {told['name']}, {told['rate']}"


def _read(line: str) -> dict[str, Any]:
    """A line of JSON; ``{"started": 1}``, which is no end, where there is none (yet)."""
    try:
        value = json.loads(line)
    except ValueError:
        return {"started": 1} if line else {}
    return value if isinstance(value, dict) else {}
