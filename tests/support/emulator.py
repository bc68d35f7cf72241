"""The emulator, whatever engine the other tests run on: for what only concerns the emulator itself."""

from __future__ import annotations

from .spdk import FILES, CallFailed, Spdk, program

__all__ = ["FILES", "CallFailed", "Emulator"]


class Emulator(Spdk):
    """See :class:`Spdk`."""

    def _program(self) -> tuple[list[str], dict[str, str]]:
        return program()
