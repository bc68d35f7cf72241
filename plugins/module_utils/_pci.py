# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From a device handle of SMA to the place on the host's PCI bus where its disk appears.

SMA's managers plug physical function ``n`` into slot ``n % 32`` of bridge ``n // 32``. Which PCI address a
bridge has is the host's matter: the simulated host puts ``pci.ipdk.<n>`` at slot 0x10 + n of its root bus.
"""

from __future__ import annotations

SLOTS = 32
"""Of a PCI bus (PCI Local Bus Specification 3.0, section 3.2.2.3.4: five bits of device number)."""

PROTOCOLS = ("virtio_blk", "nvme")
"""What SMA's managers plug into a slot, by SMA's words."""

_SHAPE = str.maketrans("0123456789abcdef", "x" * 16)
_ADDRESSES = {"x" * digits + ":xx:xx.x" for digits in range(4, 9)}
"""Domain, bus, device and function of a PCI device, with a letter x for each hexadecimal digit."""

Place = tuple[str, int]
"""Where a device sits: the address of the bridge above it, and its slot behind that bridge."""


def default_bridges(count: int = 8) -> list[str]:
    """The addresses of the simulated host's bridges."""
    return [f"0000:00:{0x10 + number:02x}.0" for number in range(count)]


def place_of_handle(handle: str, bridges: list[str]) -> Place:
    """Raises ValueError for what is no handle of a device, or where there is no such bridge."""
    protocol, _found, physical_id = handle.partition(":sma-")
    if protocol not in PROTOCOLS or not (physical_id.isascii() and physical_id.isdecimal()):
        wanted = "virtio_blk:sma-<physical id> or nvme:sma-<physical id>"
        raise ValueError(f"{handle!r} is no handle of a device: wanted {wanted}")
    number, slot = divmod(int(physical_id), SLOTS)
    if number >= len(bridges):
        raise ValueError(
            f"{handle!r} is behind bridge {number}, but bridges names {len(bridges)} of {SLOTS} devices each: name more"
        )
    return bridges[number], slot


def handle_of_place(place: Place, bridges: list[str], protocol: str = "virtio_blk") -> str | None:
    """The other way round; null for a place that is not behind one of the bridges. ``protocol``: SMA's word for what
    sits there."""
    bridge, slot = place
    return f"{protocol}:sma-{bridges.index(bridge) * SLOTS + slot}" if bridge in bridges else None


def addresses(path: str) -> list[str]:
    """The PCI addresses on a path below /sys/devices, from the root to the device."""
    return [part for part in path.split("/") if part.translate(_SHAPE) in _ADDRESSES]


def device_of_path(path: str) -> str:
    """The path of the last PCI device on a path below /sys/devices; the whole path where there is none."""
    found = addresses(path)
    return path[: path.rindex(found[-1]) + len(found[-1])] if found else path


def place_of_path(path: str) -> Place | None:
    """Where the PCI device of a sysfs path sits; null for a device that is not behind a bridge."""
    found = addresses(path)
    return (found[-2], int(found[-1].split(":")[2].split(".")[0], 16)) if len(found) > 1 else None
