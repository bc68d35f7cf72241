"""Keys in files: who may read them, and how long a removed one lives."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from spdk_emulator.framework.keyring import Keyring


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(b"secret")
    path.chmod(0o600)
    return path


def test_a_key_is_read_when_it_is_used(secret: Path) -> None:
    keyring = Keyring()
    keyring.add("key0", str(secret))
    secret.write_bytes(b"newer")
    assert keyring.find(":key0").read() == b"newer"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610])
def test_a_key_that_others_may_touch_is_refused(secret: Path, mode: int) -> None:
    secret.chmod(mode)
    with pytest.raises(OSError, match="Operation not permitted"):
        Keyring().add("key0", str(secret))


def test_names_are_unique_and_of_no_other_keyring(secret: Path) -> None:
    keyring = Keyring()
    keyring.add("key0", str(secret))
    for name, number in ((":key0", errno.EEXIST), ("other:key1", errno.EINVAL)):
        with pytest.raises(OSError, match=".") as refused:
            keyring.add(name, str(secret))
        assert refused.value.errno == number


def test_a_removed_key_stays_listed_while_somebody_holds_it(secret: Path) -> None:
    keyring = Keyring()
    keyring.add("key0", str(secret))
    held = keyring.find("key0").take()
    keyring.remove("key0")
    assert keyring.describe() == [
        {"name": "key0", "module": "keyring_file", "removed": True, "probed": False, "refcnt": 1}
    ]
    with pytest.raises(OSError, match="Required key not available"):
        held.read()
    held.put()
    assert keyring.describe() == []
