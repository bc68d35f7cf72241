# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A module of the collection as one program for a node's Python, without Ansible's own library.

That library is most of what a small module costs: Ansible reads it on the controller to pack it, and the node compiles
it, each time. In an emulated guest that is 2 s of the 2.4 s of a look at its disks.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import shlex
from types import ModuleType
from typing import Any

from ansible import constants
from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

_OURS = re.compile(r"^from (ansible_collections\.ipdk\.storage\.plugins\.module_utils)(\.\w+)? import (.+)$", re.M)
_FOR_ANNOTATIONS = re.compile(r"^from typing import Any\n", re.M)
_PROGRAM = """\
import sys

def load(name, source):
    new = type(sys)
    parts = name.split(".")
    for end in range(1, len(parts)):
        parent = sys.modules.setdefault(".".join(parts[:end]), new(".".join(parts[:end])))
        parent.__path__ = []
    module = sys.modules[name] = new(name)
    setattr(parent, parts[-1], module)
    exec(compile(source, name, "exec"), module.__dict__)
    return module

task = {task!a}
for name, source in task["modules"]:
    module = load(name, source)

def result():
    return module.work(task["given"], task["check_mode"])

"""
_SAY = """\
said = result()
json = sys.modules.get("json")
print(json.dumps(said) if json else ascii(said))
"""
"""What is given is a literal of Python, and so is what is said by a module that does without json: only to import that
takes an emulated guest 0.1 s. JSON, where it is there, is many times faster to read on the controller."""

display = Display()


def program(module: ModuleType, given: dict[str, Any], check_mode: bool, end: str = _SAY) -> str:
    """A program that prints what ``work`` of the module returns, as one line: see ``answer``.

    The module, and what it imports of ``module_utils``, import at their top nothing else but the standard library.
    ``end``: what the program does with ``result()`` instead of printing it.
    """
    sources: dict[str, str] = {}
    _add(module, sources)
    task = {"modules": list(sources.items()), "given": given, "check_mode": check_mode}
    plain = json.loads(json.dumps(task))  # not Ansible's own kinds of strings
    return _PROGRAM.format(task=plain) + end


def answer(output: str) -> dict[str, Any] | None:
    """What such a program has returned, from what it wrote; null if it did not come so far."""
    lines = output.strip().splitlines()
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(lines[-1]) if lines else None
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # each that literal_eval may raise
            continue
        return value if isinstance(value, dict) else None
    return None


def _add(module: ModuleType, sources: dict[str, str]) -> None:
    """A module's name and source, after those of what it imports."""
    source = inspect.getsource(module)
    for package, name, names in _OURS.findall(source):
        for each in [name] if name else [f".{part.strip()}" for part in names.split(",")]:
            if package + each not in sources:
                _add(importlib.import_module(package + each), sources)
    sources[module.__name__] = _FOR_ANNOTATIONS.sub("", source)  # nobody asks for them, and typing imports much


class LightAction(ActionBase):
    """The action of a module that has ``ARGUMENTS`` and ``work(given, check_mode)``, which returns its result.

    Where the node's Python is known and takes a program from its standard input, that does the work. Everywhere else,
    and where the program fails, it is the module, which explains what hinders it.
    """

    module: ModuleType
    isolation = "-IS"
    """Python's options: nothing but its standard library, which is all that most of them need, and no time for more."""

    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        done = self.lightly(task_vars)
        return {**result, **(self.as_module(task_vars) if done is None else done)}

    def lightly(self, task_vars: dict[str, Any]) -> dict[str, Any] | None:
        """The result by a program; null where that way is not open, or the program failed."""
        said = self.execute(task_vars)
        return None if said is None else self.shown(said)

    def as_module(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        wrap = bool(self._task.async_val) and not self._connection.has_native_async
        return dict(self._execute_module(task_vars=task_vars, wrap_async=wrap))

    def execute(self, task_vars: dict[str, Any], end: str = _SAY) -> dict[str, Any] | None:
        """What the program says."""
        python = self._python(task_vars)
        if not python:
            return None
        try:
            _valid, given = self.validate_argument_spec(self.module.ARGUMENTS)
        except AnsibleError:
            return None  # the module refuses them in Ansible's own words
        text = program(self.module, given, bool(self._task.check_mode), end)
        command = self._low_level_execute_command(f"{shlex.quote(python)} {self.isolation} -", in_data=text.encode())
        return answer(command["stdout"])

    def shown(self, result: dict[str, Any]) -> dict[str, Any]:
        """A result as a module's own would be shown."""
        for warning in result.pop("warnings", ()):
            display.warning(warning)
        if not self._task.diff:
            result.pop("diff", None)
        return result

    def _python(self, task_vars: dict[str, Any]) -> str:
        """The path of the node's interpreter; empty where the light way is not open."""
        local = self._connection.transport == "local" and not constants.DEFAULT_KEEP_REMOTE_FILES
        if self._task.async_val or self._task.delegate_to or any(self._task.environment or ()):
            return ""
        if not local and not self._is_pipelining_enabled("new"):
            return ""
        path = str(self._templar.template(task_vars.get("ansible_python_interpreter", "")))
        return path if path.startswith("/") else ""  # else Ansible has to look for it first
