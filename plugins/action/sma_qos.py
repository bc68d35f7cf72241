# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Does without Ansible's library on the node where it can; see LightAction."""

from __future__ import annotations

from ansible_collections.ipdk.storage.plugins.modules import sma_qos
from ansible_collections.ipdk.storage.plugins.plugin_utils.light import LightAction


class ActionModule(LightAction):
    module = sma_qos
    isolation = "-I"  # it needs grpcio
