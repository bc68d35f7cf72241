# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the main() of every spdk_* module has in common. The only module_utils file that knows Ansible."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule

CONNECTION = {
    "rpc_socket": {"type": "str", "default": "/var/tmp/spdk.sock"},
    "rpc_timeout": {"type": "float", "default": 30.0},
}


def spdk_module(options: dict[str, Any], **more: Any) -> AnsibleModule:
    """An AnsibleModule with the connection's options (doc fragment ``ipdk.storage.spdk``) beside its own."""
    return AnsibleModule(argument_spec={**CONNECTION, **options}, supports_check_mode=True, **more)


def leave(module: AnsibleModule, result: dict[str, Any]) -> None:
    """End the module with this result; ``failed`` in it decides how, and its ``warnings`` are given."""
    for warning in result.pop("warnings", ()):
        module.warn(warning)
    if not module._diff:
        result.pop("diff", None)
    if result.get("failed"):
        module.fail_json(**result)
    module.exit_json(**result)
