# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Says how far the module is; see FollowedAction."""

from __future__ import annotations

from ansible_collections.ipdk.storage.plugins.modules import sma_device
from ansible_collections.ipdk.storage.plugins.plugin_utils.followed import FollowedAction


class ActionModule(FollowedAction):
    module = sma_device
    isolation = "-I"  # it needs grpcio
