"""Make the emulator and what the tests share importable."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "roles" / "spdk_emulator" / "files"))
sys.path.insert(0, str(Path(__file__).parents[2]))
