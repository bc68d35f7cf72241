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
from ansible_collections.ipdk.storage.plugins.module_utils._progress import VARIABLE
from ansible_collections.ipdk.storage.plugins.plugin_utils.light import LightAction, display

LONGEST = 24 * 3600
"""Seconds after which Ansible ends the module; those with timeouts of their own are done long before."""
ASK_SECONDS = 0.5
SAY_SECONDS = 5.0
OF_THE_JOB = ("ansible_job_id", "started", "finished", "results_file")
"""What async_status adds to a module's result."""
_IN_THE_BACKGROUND = f"""\
import json, os, tempfile
directory = tempfile.mkdtemp(prefix="ipdk-")
bell = directory + "/bell"
os.mkfifo(bell)
os.environ[{VARIABLE!r}] = directory + "/progress"

def leave(told):
    with open(directory + "/new", "w") as file:
        json.dump(told, file)
    os.rename(directory + "/new", directory + "/result")

leave({{"started": 1}})
pid = os.fork()
if pid:
    print({{"directory": directory, "pid": pid}})
else:
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    leave(result())
    try:
        os.close(os.open(bell, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        pass  # nobody listens just now
    os.unlink(bell)
"""
"""What such a program ends with: its result goes to a file, the way to that file to whoever started it, and whoever
waits at the pipe ``bell`` is woken."""


class FollowedAction(LightAction):
    """The action of a module with the option ``progress``; without it, or in check mode, it is like that of any other.

    What is asked meanwhile is the shell of the node.
    """

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        if self._task.async_val or self._task.check_mode or not boolean(self._task.args.get("progress"), strict=False):
            return super().run(tmp, task_vars)
        result = super(LightAction, self).run(tmp, task_vars)
        task_vars = task_vars or {}
        done = self._follow_program(task_vars)
        return {**result, **(self._follow_module(task_vars) if done is None else done)}

    def _follow_program(self, task_vars: dict[str, Any]) -> dict[str, Any] | None:
        started = self.execute(task_vars, _IN_THE_BACKGROUND)
        if started is None:
            return None
        directory = shlex.quote(started["directory"])
        bell = f"{directory}/bell"
        ask = f"[ ! -p {bell} ] || timeout {ASK_SECONDS} cat {bell} || [ $? = 124 ] || sleep {ASK_SECONDS}; "
        ask += f"kill -0 {started['pid']} 2>/dev/null || echo over; cat {directory}/result 2>/dev/null; echo; "
        ask += f"cat {directory}/progress 2>/dev/null; :"
        done = self._watch(ask, task_vars.get("inventory_hostname", ""), 0.0)
        self._low_level_execute_command(f"rm -rf {directory}")
        return None if done is None else self.shown(done)

    def _follow_module(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """Ansible's own way into the background; a second module fetches the result."""
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
        results = shlex.quote(started["results_file"])
        ask = f"cat {results} 2>/dev/null; echo; cat {shlex.quote(file)} 2>/dev/null; :"
        self._watch(ask, task_vars.get("inventory_hostname", ""), ASK_SECONDS)
        job = {
            "jid": started["ansible_job_id"],
            "_async_dir": posixpath.dirname(started["results_file"]),
            "mode": "status",
        }
        done = self._execute_module("ansible.legacy.async_status", job, task_vars=task_vars)
        self._low_level_execute_command(f"rm -f {results}")
        return {key: value for key, value in done.items() if key not in OF_THE_JOB}

    def _watch(self, ask: str, node: str, pause: float) -> dict[str, Any] | None:
        """The result that is left at the end; null where there is none, for what should leave it is no more.

        ``ask``: a command that prints a line of the result, and one of the progress; before them ``over`` where nothing
        is at work any more. ``pause``: seconds between two of them.
        """
        said, at = "", time.monotonic()
        while True:
            # By ssh there is a terminal in between, which ends lines otherwise.
            lines = [line.strip() for line in str(self._low_level_execute_command(ask)["stdout"]).split("\n")]
            over = lines[0] == "over"
            state, told = (_read(line) for line in [*lines[over:], "", ""][:2])
            if "started" not in state or state.get("finished"):
                return state
            if over:
                return None
            if "total" in told and time.monotonic() - at >= SAY_SECONDS:
                line = sentence(node, told)
                if line != said:
                    display.display(line)
                said, at = line, time.monotonic()
            time.sleep(pause)


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
