# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A module that is at work says how far it is, in a file that whoever started it reads meanwhile.

Its path is in the environment (:data:`VARIABLE`); where there is none, nothing is said.
"""

from __future__ import annotations

import json
import os
import time

VARIABLE = "IPDK_PROGRESS_FILE"


class Progress:
    """Called with what is done, of how many, and what that was last; tells with it the rate since it was made."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._path = os.environ.get(VARIABLE)
        self._began = time.monotonic()

    def __call__(self, done: int, total: int, name: str, rate: str = "") -> None:
        """``rate``: in words; left out, it is how many are done in a second."""
        if not self._path:
            return
        seconds = time.monotonic() - self._began
        said = {
            "what": self._what,
            "done": done,
            "total": total,
            "name": name,
            "rate": rate or f"{done / seconds if seconds else 0:.1f}/s",
        }
        try:
            # As a whole: it is read at any time.
            with open(f"{self._path}.new", "w", encoding="utf-8") as file:
                json.dump(said, file)
            os.replace(f"{self._path}.new", self._path)
        except OSError:
            pass  # to be heard is no part of the work
