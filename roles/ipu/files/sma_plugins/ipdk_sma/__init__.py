# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Device managers of ipdk.storage for SPDK's Storage Management Agent, and a launcher for it.

As a plugin (`plugins: [ipdk_sma]` in SMA's configuration) the package offers the device manager `ipdk_vhost_blk`. As a
program (`python -m ipdk_sma --config FILE`) it starts SPDK's own server with that configuration.
"""

from __future__ import annotations

from .vhost_blk import IpdkVhostBlkDeviceManager

devices = [IpdkVhostBlkDeviceManager]

__all__ = ["IpdkVhostBlkDeviceManager", "devices"]
