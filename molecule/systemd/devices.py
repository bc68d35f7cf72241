# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Have the device managers of the vendors' plugins make a device each, and print its handle.

Runs on the IPU with SMA's own packages: devices.py ADDRESS
"""

import sys

import grpc
from spdk.sma.proto import sma_pb2, sma_pb2_grpc

REQUESTS = ({"nvme": {"physical_id": 3}}, {"nvmf_tcp": {"subnqn": "nqn.2022-06.io.ipdk:acme", "traddr": "127.0.0.1"}})

with grpc.insecure_channel(sys.argv[1]) as channel:
    agent = sma_pb2_grpc.StorageManagementAgentStub(channel)
    for request in REQUESTS:
        print(agent.CreateDevice(sma_pb2.CreateDeviceRequest(**request), timeout=30).handle)
