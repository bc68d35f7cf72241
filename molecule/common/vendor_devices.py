# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Have the device managers of vendors' plugins make a device each, and print its handle.

Runs on the IPU with SMA's own packages: vendor_devices.py ADDRESS REQUEST…; a request is a CreateDeviceRequest as JSON.
"""

import json
import sys

import grpc
from spdk.sma.proto import sma_pb2, sma_pb2_grpc

with grpc.insecure_channel(sys.argv[1]) as channel:
    agent = sma_pb2_grpc.StorageManagementAgentStub(channel)
    for request in map(json.loads, sys.argv[2:]):
        print(agent.CreateDevice(sma_pb2.CreateDeviceRequest(**request), timeout=30).handle)
