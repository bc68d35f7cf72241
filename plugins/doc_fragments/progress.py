# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # Of modules that may take long.
    DOCUMENTATION = r"""
options:
  progress:
    description: >-
      Say every few seconds in the output of the play how far it is. It then runs in the background of its node,
      and takes about a second longer.
    type: bool
    default: false
"""
