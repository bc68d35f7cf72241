"""Write keys as an operator has them: ``keys.yml`` for Ansible Vault, its ``password``, and ``secrets`` to look for."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path


def main() -> None:
    os.umask(0o077)
    directory = Path(sys.argv[1])
    keys = [secrets.token_hex(16) for _unused in range(4)]
    lines = [
        "crypto_keys:",
        *(f'  {name}: "{key}"' for name, key in zip(("key", "key2"), keys[:2])),
        "crypto_other_keys:",
        *(f'  {name}: "{key}"' for name, key in zip(("key", "key2"), keys[2:])),
    ]
    for name, text in (("keys.yml", lines), ("password", [secrets.token_hex(32)]), ("secrets", keys)):
        (directory / name).write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
