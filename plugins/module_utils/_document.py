# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The file in which a node keeps its declaration. What is in it: ``_declaration.py``."""

from __future__ import annotations

import json

from ansible_collections.ipdk.storage.plugins.module_utils._files import write_private
from ansible_collections.ipdk.storage.plugins.module_utils._reconcile import Refused

Document = dict  # of str to anything


def load(path: str) -> Document | None:
    """The document in a file, unchecked; None where there is no file. Raises Refused for what is none."""
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise Refused([f"{path} cannot be read as a declaration: {error}"]) from None
    if not isinstance(document, dict):
        raise Refused([f"{path} is no declaration: it has no dictionary"])
    return document


def dump(document: Document) -> str:
    """The text of a document, the same for equal documents."""
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def save(path: str, document: Document) -> None:
    """Write a document for its owner only, as a whole. Raises OSError."""
    write_private(path, dump(document))
