# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the module host_disk_info does, without Ansible: the options in, the result out."""

from __future__ import annotations

from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils import _pci
from ansible_collections.ipdk.storage.plugins.module_utils._sysfs import Sysfs

_STRINGS = {"type": "list", "elements": "str"}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "serials": _STRINGS,
    "handles": _STRINGS,
    "present": {**_STRINGS, "default": []},
    "absent": {**_STRINGS, "default": []},
    "sizes": {"type": "dict", "default": {}},
    "timeout": {"type": "float", "default": 30.0},
    "bridges": _STRINGS,
}


def look(wanted: dict[str, Any]) -> dict[str, Any]:
    """The module's result for its validated options; with ``failed`` and ``msg`` where it fails."""
    bridges = wanted["bridges"] or _pci.default_bridges()
    both = sorted(set(wanted["present"]) & set(wanted["absent"]))
    if both:
        return _refusal(f"{', '.join(both)}: wanted present and absent at once")
    try:
        for handle in wanted["handles"] or []:
            _pci.place_of_handle(handle, bridges)
    except ValueError as error:
        return _refusal(str(error))
    sizes = {}
    for serial, size in wanted["sizes"].items():
        sizes[serial] = int(size) if str(size).isdecimal() else 0
        if not sizes[serial]:
            return _refusal(f"sizes: wanted bytes, a whole number above 0, for {serial}, got {size!r}")

    sysfs = Sysfs()
    missing, still_there, too_small = sysfs.wait(wanted["present"], wanted["absent"], sizes, wanted["timeout"])
    disks = sysfs.disks(bridges)
    if wanted["serials"] is not None:
        disks = [disk for disk in disks if disk["serial"] in wanted["serials"]]
    if wanted["handles"] is not None:
        disks = [disk for disk in disks if disk["handle"] in wanted["handles"]]
    result = {
        "changed": False,
        "disks": disks,
        "nvme_controllers": sysfs.nvme_controllers(bridges),
        "missing": missing,
        "still_there": still_there,
        "too_small": too_small,
    }
    if missing or still_there or too_small:
        complaints = [f"not there: {', '.join(missing)}"] if missing else []
        complaints += [f"not gone: {', '.join(still_there)}"] if still_there else []
        grown = [f"{serial} (has {has} bytes, wanted {sizes[serial]})" for serial, has in too_small.items()]
        complaints += [f"not grown: {', '.join(grown)}"] if grown else []
        waited = f"no further one came, went or grew for {wanted['timeout']:g} s"
        return {**result, **_refusal(f"disks {'; '.join(complaints)} ({waited})")}
    return result


def _refusal(message: str) -> dict[str, Any]:
    return {"failed": True, "msg": message}
