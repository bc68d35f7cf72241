# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A vendor's plugin for SMA that comes as a package: it makes NVMe over TCP devices that are only names."""

from __future__ import annotations

from typing import Any

from spdk.sma.device import DeviceManager
from spdk.sma.proto import sma_pb2


class AcmeDeviceManager(DeviceManager):
    """Devices of protocol nvmf_tcp: `nvmf-tcp:<parameter prefix>-<NQN of the subsystem>`."""

    def __init__(self, client: Any) -> None:
        super().__init__("acme", "nvmf_tcp", client)
        self._prefix = ""

    def init(self, config: dict[str, Any] | None) -> None:
        self._prefix = (config or {}).get("prefix", "acme")

    def owns_device(self, id: str) -> bool:
        return id.startswith(f"nvmf-tcp:{self._prefix}-")

    def create_device(self, request: Any) -> Any:
        return sma_pb2.CreateDeviceResponse(handle=f"nvmf-tcp:{self._prefix}-{request.nvmf_tcp.subnqn}")

    def delete_device(self, request: Any) -> None:
        """A name needs no deleting."""


devices = [AcmeDeviceManager]
