"""CPU cores: sets of them as SPDK writes them, a hexadecimal mask (``0x3``) or a list in brackets (``[0,1,4-6]``), and
what the machine has done on each."""

from __future__ import annotations

import re

MAX_CORES = 1024
_MASK = re.compile(r"(?:0[xX])?([0-9a-fA-F]+)", re.ASCII)
_RANGE = re.compile(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", re.ASCII)


def parse(text: str) -> frozenset[int]:
    """Raises ``ValueError``."""
    text = text.strip(" \t")
    if text.startswith("[") and text.endswith("]"):
        cores: set[int] = set()
        for part in text[1:-1].split(","):
            found = _RANGE.fullmatch(part)
            low, high = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
            if not low <= high < MAX_CORES:
                raise ValueError(f"cores {part!r}: no range within 0 to {MAX_CORES - 1}")
            cores.update(range(low, high + 1))
        return frozenset(cores)
    digits = _MASK.fullmatch(text)
    mask = int(digits[1], 16) if digits else -1
    if not 0 <= mask < 1 << MAX_CORES:
        raise ValueError(f"{text!r} is no mask of at most {MAX_CORES} cores")
    return frozenset(core for core in range(mask.bit_length()) if mask >> core & 1)


def mask(cores: frozenset[int]) -> str:
    """Hexadecimal, without a prefix."""
    return f"{sum(1 << core for core in cores):x}"


def times() -> dict[int, tuple[int, int, int]]:
    """Clock ticks that each core has spent on interrupts, in the kernel and in programs, whosoever."""
    spent = {}
    with open("/proc/stat", encoding="ascii") as file:
        for line in file:
            name, *numbers = line.split()
            if name.startswith("cpu") and name != "cpu":
                user, _nice, system, _idle, _waiting, irq, softirq = map(int, numbers[:7])
                spent[int(name[3:])] = (irq + softirq, system, user)
    return spent
