"""Sets of CPU cores as SPDK writes them: a hexadecimal mask (``0x3``) or a list in brackets (``[0,1,4-6]``).

The emulator has one thread whatever the mask says; a mask is checked, kept and shown.
"""

from __future__ import annotations

MAX_CORES = 1024


def parse(text: str) -> frozenset[int]:
    """Raises ``ValueError``."""
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        cores: set[int] = set()
        for part in text[1:-1].split(","):
            first, _unused, last = part.partition("-")
            low, high = int(first), int(last or first)
            if not 0 <= low <= high < MAX_CORES:
                raise ValueError(f"cores {part!r}: no range within 0 to {MAX_CORES - 1}")
            cores.update(range(low, high + 1))
        return frozenset(cores)
    mask = int(text, 16)
    if not 0 <= mask < 1 << MAX_CORES:
        raise ValueError(f"a mask of more than {MAX_CORES} cores")
    return frozenset(core for core in range(mask.bit_length()) if mask >> core & 1)


def mask(cores: frozenset[int]) -> str:
    """Hexadecimal, without a prefix."""
    return f"{sum(1 << core for core in cores):x}"
