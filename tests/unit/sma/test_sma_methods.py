# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every method of SPDK that SMA and the collection's device manager call is one of the emulator's."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

from conformance.coverage_list import methods

PLUGINS = Path(__file__).resolve().parents[3] / "roles" / "ipu" / "files" / "sma_plugins"


def called(directory: Path) -> dict[str, set[str]]:
    """Of each program below a directory the methods in its ``….call("method", …)``.

    A call of a method that is only known at run time fails: it could be any.
    """
    found: dict[str, set[str]] = {}
    for path in sorted(directory.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "call":
                where = f"{path.relative_to(directory)}:{node.lineno}"
                assert isinstance(node.args[0], ast.Constant), f"{where}: the method is no literal"
                found.setdefault(str(path.relative_to(directory)), set()).add(node.args[0].value)
    return found


def missing(calls: dict[str, set[str]]) -> dict[str, list[str]]:
    known = methods().keys()
    return {path: sorted(names - known) for path, names in calls.items() if names - known}


def test_what_sma_calls_is_in_the_emulator(sma_python: Path) -> None:
    locate = "import pathlib, spdk.sma; print(pathlib.Path(spdk.sma.__file__).parent)"
    package = Path(subprocess.check_output([sma_python, "-c", locate], text=True).strip())
    calls = called(package)
    assert {"device/vhost_blk.py", "volume/crypto_bdev.py", "volume/volume.py", "qos.py"} <= calls.keys()
    assert missing(calls) == {}


def test_what_the_device_manager_calls_is_in_the_emulator() -> None:
    calls = called(PLUGINS)
    assert calls, "no call was found: the search is broken"
    assert missing(calls) == {}
