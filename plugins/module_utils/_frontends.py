# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What SPDK serves one bdev by to a virtual machine, whatever the protocol: a name, and the bdev behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._checks import check_bdev
from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import Error
from ansible_collections.ipdk.storage.plugins.module_utils._reconcile import Refused, refuse_duplicates
from ansible_collections.ipdk.storage.plugins.module_utils._resources import Item, read_release


class Frontends:
    """Frontends of one kind, by name. A subclass says what a name may be and plans the changes."""

    option: str
    """The declaration's key."""
    lister: str
    """SPDK's method that lists them."""

    @staticmethod
    def check_name(name: str, where: str, problems: list[str]) -> str:
        raise NotImplementedError

    @classmethod
    def normalise(cls, items: Sequence[Mapping[str, Any]]) -> list[Item]:
        """``name``, ``state`` and ``bdev`` of each item; None as bdev where an absent one names none."""
        problems: list[str] = []
        wanted = []
        for index, item in enumerate(items):
            where = f"{cls.option}[{index}]"
            frontend: Item = {
                "name": cls.check_name(item["name"], f"{where}.name", problems),
                "state": item["state"],
                "bdev": None,
            }
            if item.get("bdev") is not None:
                frontend["bdev"] = check_bdev(item["bdev"], f"{where}.bdev ({item['name']})", problems)
            elif item["state"] == "present":
                problems.append(f"{where} ({item['name']}): bdev is missing")
            wanted.append(frontend)
        if problems:
            raise Refused(problems)
        refuse_duplicates(wanted, lambda item: item["name"], cls.option, "name")
        return wanted

    def read(self, executor: Any) -> tuple[list[Any], list[Any]]:
        """The frontends, and all bdevs."""
        answers = executor.pipeline([(self.lister, None), ("bdev_get_bdevs", None)])
        for answer in answers:
            if isinstance(answer, Error):
                raise answer
        return tuple(answers)

    def release(self, executor: Any) -> tuple[int, int]:
        return read_release(executor)
