# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # How a module reaches SPDK's Storage Management Agent.
    DOCUMENTATION = r"""
options:
  address:
    description:
      - Where the Storage Management Agent (SMA) listens, as seen from the machine on which the module runs.
      - C(unix:/directory/sma.sock:8080), because SMA makes its port part of the socket's name, or C(host:port).
    type: str
    required: true
  timeout:
    description:
      - How many seconds each call of SMA may take. SMA serves one call at a time.
      - It should exceed the time that the device manager gives the guest to release a disk (C(unplug_timeout)).
    type: float
    default: 60.0
requirements:
  - grpcio
  - protobuf
"""
