"""What Python compiles out of ZIP files is kept for the processes of a test run, and is never another source's."""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SITE = Path(__file__).resolve().parents[2] / "support" / "compiled"


@pytest.fixture
def said(tmp_path: Path):
    """What a source says that is imported out of a ZIP file, with what was compiled kept in a directory."""

    def run(source: str, directory: Path) -> str:
        archive = tmp_path / "sources.zip"
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("package/__init__.py", "")
            file.writestr("package/one.py", source)
        program = f"import sys; sys.path.insert(0, {str(archive)!r}); import package.one"
        environment = {**os.environ, "PYTHONPATH": str(SITE), "IPDK_COMPILED": str(directory)}
        return subprocess.check_output([sys.executable, "-c", program], env=environment, text=True, timeout=60).strip()

    return run


def test_a_source_is_compiled_once(said, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    assert said("print('one')", kept) == "one"
    (code,) = kept.glob("one.py-*")
    code.write_bytes(marshal.dumps(compile("print('kept')", "one.py", "exec")))
    assert said("print('one')", kept) == "kept"


def test_another_source_is_another_code(said, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    assert [said(f"print('{word}')", kept) for word in ("one", "two", "one")] == ["one", "two", "one"]
    assert len(list(kept.glob("one.py-*"))) == 2


def test_what_cannot_be_kept_or_read_is_compiled(said, tmp_path: Path) -> None:
    assert said("print('one')", tmp_path / "nowhere") == "one"
    kept = tmp_path / "kept"
    kept.mkdir()
    said("print('one')", kept)
    (code,) = kept.glob("one.py-*")
    code.write_bytes(b"")
    assert said("print('one')", kept) == "one"
