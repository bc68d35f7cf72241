"""Make the collection importable by its full name, as Ansible does, and what several suites share."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "build" / "collections"), str(ROOT / "tests")]
