# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # How a module reaches SPDK.
    DOCUMENTATION = r"""
options:
  rpc_socket:
    description:
      - Where SPDK's JSON-RPC server listens, as seen from the machine on which the module runs.
      - The path of a unix socket, or C(host:port).
    type: str
    default: /var/tmp/spdk.sock
  rpc_timeout:
    description:
      - How many seconds to wait for the connection, and then for each next answer.
    type: float
    default: 30.0
"""

    # Of modules that bring a list of objects to a state.
    CONVERGES = r"""
attributes:
  check_mode:
    support: full
    description: Can run in C(check_mode) and predict exactly what a run then does, without changing anything.
  diff_mode:
    support: full
    description: Returns the declared objects before and after.
  idempotent:
    support: full
    description: A second run with the same options changes nothing.
"""

    # Of modules that only look.
    LOOKS = r"""
attributes:
  check_mode:
    support: full
    description: Changes nothing in any mode.
  diff_mode:
    support: N/A
    description: Has nothing to compare.
  idempotent:
    support: full
    description: Changes nothing in any mode.
"""
