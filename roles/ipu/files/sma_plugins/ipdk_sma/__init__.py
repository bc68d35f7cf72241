# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Device managers of ipdk.storage for SPDK's Storage Management Agent, and a launcher for it.

As a plugin (`plugins: [ipdk_sma]` in SMA's configuration) the package offers the device managers `ipdk_vhost_blk`
(virtio-blk), `ipdk_vfiouser` and `ipdk_qemu_nvme` (NVMe; SMA takes one manager of a kind). As a program
(`python -m ipdk_sma --config FILE`) it starts SPDK's own server with that configuration.
"""

from __future__ import annotations

from .qemu_nvme import IpdkQemuNvmeDeviceManager
from .vfiouser import IpdkVfiouserDeviceManager
from .vhost_blk import IpdkVhostBlkDeviceManager

devices = [IpdkVhostBlkDeviceManager, IpdkVfiouserDeviceManager, IpdkQemuNvmeDeviceManager]

__all__ = ["IpdkQemuNvmeDeviceManager", "IpdkVfiouserDeviceManager", "IpdkVhostBlkDeviceManager", "devices"]
