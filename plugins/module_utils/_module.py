# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the main() of every module has in common. The only module_utils file that knows Ansible, and not before it runs:
the small program that may take a module's place does without (``plugin_utils/light.py``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

CONNECTION = {
    "rpc_socket": {"type": "str", "default": "/var/tmp/spdk.sock"},
    "rpc_timeout": {"type": "float", "default": 30.0},
}
"""The options of the doc fragment ``ipdk.storage.spdk``."""


class MissingLibrary(Exception):
    """A Python library is not there. Attributes: ``library``, ``cause``."""

    def __init__(self, library: str, cause: ImportError) -> None:
        self.library = library
        self.cause = cause
        super().__init__(f"the Python library {library} is missing: {cause}")


def run(
    arguments: dict[str, Any],
    work: Callable[[dict[str, Any], bool], dict[str, Any]],
    hidden: Callable[[dict[str, Any]], Iterable[str]] = lambda _given: (),
    **more: Any,
) -> None:
    """An AnsibleModule that ends with what ``work`` returns for its parameters and its check mode.

    Of that, ``failed`` decides how it ends, and ``warnings`` are given. ``hidden``: what of the parameters must not be
    shown, where no option as a whole is a secret. ``more`` is for AnsibleModule.
    """
    from ansible.module_utils.basic import AnsibleModule, missing_required_lib

    module = AnsibleModule(argument_spec=arguments, supports_check_mode=True, **more)
    module.no_log_values.update(hidden(module.params))
    try:
        result = work(module.params, module.check_mode)
    except MissingLibrary as missing:
        text = missing_required_lib(missing.library)
        module.fail_json(msg=f"Nothing was changed. {text}", exception=missing.cause)
    for warning in result.pop("warnings", ()):
        module.warn(warning)
    if not module._diff:
        result.pop("diff", None)
    if result.get("failed"):
        module.fail_json(**result)
    module.exit_json(**result)
