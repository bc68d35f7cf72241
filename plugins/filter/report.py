# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report for Jinja. The filter is documented in the YAML file of its name beside this one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError


def report_page(known: dict[str, Any], template: str) -> str:
    # Not above: Ansible reads every filter file of a collection to find one filter, in each task's process anew, and
    # Matplotlib takes as long as all else there.
    from ansible_collections.ipdk.storage.plugins.plugin_utils import charts, measurements, page

    if charts.MISSING:
        raise AnsibleFilterError(
            f"report_page needs Matplotlib in the Python that runs the playbook: {charts.MISSING}. "
            "Install the packages of requirements.txt there."
        )
    try:
        return page.render(template, known)
    except measurements.InvalidReport as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"report_page": report_page}
