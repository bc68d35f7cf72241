# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A vendor's plugin for SMA, as small as one can be: it makes NVMe devices that are only names.

Parameter `serial` is part of the handle, so that a test sees whether the parameters came through.
"""

from __future__ import annotations

from typing import Any

from spdk.sma.device import DeviceManager
from spdk.sma.proto import sma_pb2


class DummyVendorDeviceManager(DeviceManager):
    """Devices of protocol nvme: `nvme:<serial>-<physical id>`."""

    def __init__(self, client: Any) -> None:
        super().__init__("dummy_vendor", "nvme", client)
        self._serial = ""

    def init(self, config: dict[str, Any] | None) -> None:
        self._serial = (config or {}).get("serial", "dummy")

    def owns_device(self, id: str) -> bool:
        return id.startswith(f"nvme:{self._serial}-")

    def create_device(self, request: Any) -> Any:
        return sma_pb2.CreateDeviceResponse(handle=f"nvme:{self._serial}-{request.nvme.physical_id}")

    def delete_device(self, request: Any) -> None:
        """A name needs no deleting."""


devices = [DummyVendorDeviceManager]
