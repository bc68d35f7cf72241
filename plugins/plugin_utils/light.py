# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A function of ``module_utils`` as one program for a node's Python, without Ansible's own library.

That library is most of what a small module costs: 2 s of its 2.4 s in an emulated guest.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Sequence
from typing import Any

MODULE_UTILS = "ansible_collections.ipdk.storage.plugins.module_utils"

_PROGRAM = """\
import json, sys, types

def load(name, source):
    parts = name.split(".")
    for end in range(1, len(parts)):
        parent = sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
        parent.__path__ = []
    module = sys.modules[name] = types.ModuleType(name)
    setattr(parent, parts[-1], module)
    exec(compile(source, name, "exec"), module.__dict__)
    return module

work = json.loads({work!r})
for name, source in work["modules"]:
    module = load(name, source)
print(json.dumps(getattr(module, work["function"])(work["argument"])))
"""


def program(modules: Sequence[str], function: str, argument: Any) -> str:
    """A program that prints what ``function`` of the last module returns for ``argument``, as one line of JSON.

    ``modules`` are names in ``module_utils``; each imports nothing but the standard library and those before it.
    """
    names = [f"{MODULE_UTILS}.{name}" for name in modules]
    sources = [(name, inspect.getsource(importlib.import_module(name))) for name in names]
    return _PROGRAM.format(work=json.dumps({"modules": sources, "function": function, "argument": argument}))


def answer(output: str) -> dict[str, Any] | None:
    """What such a program has returned, from what it wrote; null if it did not come so far."""
    lines = output.strip().splitlines()
    try:
        value = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
