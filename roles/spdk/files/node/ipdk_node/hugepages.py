# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Before SPDK starts: remove what a killed one has left in the node's hugepages.

    python3 -m ipdk_node.hugepages DIRECTORY

SPDK unlinks its files as soon as it has mapped them (``--huge-unlink``); one that is killed in between, or that was
told to keep them, leaves files that nobody maps and whose pages are lost to everybody.
"""

from __future__ import annotations

import os
import sys

from ipdk_node.restore import say


def clear(directory: str) -> None:
    """Remove all files of a node's directory. Raises OSError where that is refused, or there is no such directory."""
    with os.scandir(directory) as entries:
        left = [entry for entry in entries if entry.is_file(follow_symlinks=False)]
    if left:
        mib = sum(entry.stat().st_size for entry in left) / (1 << 20)
        for entry in left:
            os.unlink(entry.path)
        say(f"removed {len(left)} files of an SPDK that was killed, {mib:.0f} MiB of hugepages in {directory}")


if __name__ == "__main__":
    clear(sys.argv[1])
