"""What belongs to the application as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..app import App


class Framework:
    """State of the methods that belong to no other family."""


def setup(app: App) -> Framework:
    """The family's state; see :class:`~spdk_emulator.app.App`."""
    return Framework()
