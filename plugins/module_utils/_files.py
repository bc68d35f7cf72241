# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files on a node that are for their owner only."""

from __future__ import annotations

import os
import tempfile


def write_private(path: str, text: str) -> None:
    """Write a file so that whoever reads sees the old text or the new one, and only its owner does: the one of the
    file that is there, else of its directory. Raises OSError."""
    directory = os.path.dirname(os.path.abspath(path))
    owner = os.stat(path if os.path.exists(path) else directory)
    number, new = tempfile.mkstemp(prefix=f".{os.path.basename(path)}-", dir=directory)  # mkstemp makes it 0600
    try:
        with open(number, "w", encoding="utf-8") as file:
            if (owner.st_uid, owner.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(number, owner.st_uid, owner.st_gid)
            file.write(text)
            file.flush()
            os.fsync(number)
        os.replace(new, path)
    except BaseException:
        os.unlink(new)
        raise
