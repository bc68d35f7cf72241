# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checking what an operator wrote, before anything is sent.

Each function looks at one value, appends a sentence to ``problems`` when it is wrong (``where`` says which option of
which item), and returns the value in the form that the rest works with.
"""

from __future__ import annotations

import ipaddress
import re
import uuid as uuids
from collections.abc import Mapping
from typing import Any

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
NAME_RULE = "1 to 63 of the characters A-Z a-z 0-9 . _ -, the first a letter or digit, no two dots in a row"
NQN = re.compile(r"nqn\.\d{4}-(0[1-9]|1[0-2])\.[A-Za-z0-9]+([.-][A-Za-z0-9]+)*(:[A-Za-z0-9._:+=@-]+)?")
NQN_RULE = "nqn.yyyy-mm.reversed.domain:identifier, 223 bytes at most, without spaces or slashes"
UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def check_name(value: Any, where: str, problems: list[str]) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value) or ".." in value:
        problems.append(f"{where}: {value!r} is no valid name ({NAME_RULE})")
    return str(value)


def check_nqn(value: Any, where: str, problems: list[str]) -> str:
    text = str(value)
    if not isinstance(value, str) or not NQN.fullmatch(text) or len(text) > 223 or ".." in text:
        problems.append(f"{where}: {value!r} is no valid NQN ({NQN_RULE})")
    return text


def check_uuid(value: Any, where: str, problems: list[str]) -> str | None:
    if value is None:
        return None
    try:
        return str(uuids.UUID(str(value)))
    except ValueError:
        problems.append(f"{where}: {value!r} is no UUID")
        return None


def check_size(value: Any, where: str, problems: list[str]) -> int | None:
    """Bytes of ``64MiB`` or a plain number of bytes."""
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]+) ?([KMGT]iB|)", str(value))
    if match and int(match[1]) > 0:
        return int(match[1]) * UNITS[match[2]]
    problems.append(f"{where}: {value!r} is no size (bytes, or a whole number with KiB, MiB, GiB or TiB)")
    return None


def check_address(value: Any, where: str, problems: list[str]) -> tuple[str, str]:
    """``(adrfam, traddr)``. SPDK resolves no names, so a name is refused here."""
    try:
        address = ipaddress.ip_address(str(value))
    except ValueError:
        problems.append(f"{where}: {value!r} is no IP address (SPDK resolves no host names)")
        return "IPv4", str(value)
    return f"IPv{address.version}", str(address)


def check_range(value: Any, low: int, high: int, where: str, problems: list[str]) -> Any:
    if value is not None and not low <= int(value) <= high:
        problems.append(f"{where}: {value} is not between {low} and {high}")
    return value


def human(size: int) -> str:
    """``64MiB`` for 67108864: the largest unit that leaves a whole number."""
    for unit, factor in reversed(UNITS.items()):
        if size and size % factor == 0:
            return f"{size // factor}{unit}" if unit else f"{size} bytes"
    return f"{size} bytes"


def check_bdev(value: Any, where: str, problems: list[str]) -> str:
    """The name of a bdev that is there already: logical volumes are called ``store/volume``."""
    parts = value.split("/") if isinstance(value, str) else [""]
    if len(parts) > 2 or any(not NAME.fullmatch(part) or ".." in part for part in parts):
        problems.append(f"{where}: {value!r} is no name of a bdev ({NAME_RULE}; or two such names with a / between)")
    return str(value)


def check_transport_address(item: Mapping[str, Any], where: str, problems: list[str]) -> dict[str, str]:
    """``trtype, adrfam, traddr, trsvcid`` as SPDK reports them; ``adrfam`` follows from the address."""
    family, address = check_address(item["traddr"], f"{where}.traddr", problems)
    given = item.get("adrfam")
    if given is not None and given.lower() != family.lower():
        problems.append(f"{where}: {address} is no {given} address")
    port = str(item.get("trsvcid") or "4420")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        problems.append(f"{where}.trsvcid: {port!r} is no port (1 to 65535)")
    return {"trtype": item.get("trtype") or "TCP", "adrfam": family, "traddr": address, "trsvcid": port}
