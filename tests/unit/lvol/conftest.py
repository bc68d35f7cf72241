"""Lvol stores on bdevs in memory whose power can be cut, and in emulators that are processes."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "roles" / "spdk_emulator" / "files"))
sys.path.insert(0, str(Path(__file__).parents[1] / "emulator_core"))
