"""Runs modules as Ansible does, arguments on standard input and the result on standard output, but starts quicker.

One job a line, ``{"module": name, "options": {...}, "path": PATH, "root": directory}``, answered by
``{"rc": int, "out": text, "err": text}``. Each job has a process of its own, forked from this one, which has loaded
Ansible before: most of a module's time is loading it. ``root``, if given, stands for ``/`` where disks are looked for.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import traceback
from typing import Any

import ansible.module_utils.basic
from ansible_collections.ipdk.storage.plugins.module_utils import _sysfs


def run(job: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(json.dumps({"ANSIBLE_MODULE_ARGS": job["options"]}).encode())
        given.seek(0)
        pid = os.fork()
        if pid == 0:
            for number, file in enumerate((given, out, err)):
                os.dup2(file.fileno(), number)
            os.environ["PATH"] = job["path"]
            if job["root"]:
                _sysfs.Sysfs.__init__.__defaults__ = (job["root"],)
            os._exit(module(job["module"]))
        _pid, status = os.waitpid(pid, 0)
        out.seek(0)
        err.seek(0)
        return {
            "rc": os.waitstatus_to_exitcode(status),
            "out": out.read().decode(),
            "err": err.read().decode(),
        }


def module(name: str) -> int:
    sys.stdin = open(0)  # noqa: SIM115
    try:
        importlib.import_module(f"ansible_collections.ipdk.storage.plugins.modules.{name}").main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 3
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    assert ansible.module_utils.basic.AnsibleModule
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
