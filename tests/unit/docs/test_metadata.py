"""What the collection says that it needs: one release of Ansible everywhere, and every collection that is used."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ("roles", "playbooks", "plugins", "inventories", "molecule", "tests")
# As in ``community.docker.docker_image:``, ``map('community.general.dict_kv', …)`` or ``ansible.posix.json``.
USED = re.compile(r"\b((?:ansible|community|containers)\.(?!builtin\b|module_utils\b|errors\b)[a-z_]+)\.[a-z_]+")


def load(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_one_release_of_ansible_is_required_everywhere() -> None:
    required = load(ROOT / "meta" / "runtime.yml")["requires_ansible"]
    (release,) = re.findall(r"^>=(\d+\.\d+)\.0$", required)
    roles = {path.parent.parent.name: load(path) for path in sorted(ROOT.glob("roles/*/meta/main.yml"))}
    assert roles.keys() == {path.name for path in (ROOT / "roles").iterdir()}
    assert {name: meta["galaxy_info"]["min_ansible_version"] for name, meta in roles.items()} == dict.fromkeys(
        roles, release
    )
    (pinned,) = re.findall(r"^ansible-core==(\d+)\.(\d+)\.", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert tuple(map(int, pinned)) >= tuple(map(int, release.split("."))), "what is tested is at least what is required"


def test_every_collection_that_is_used_is_a_dependency() -> None:
    used = {}
    for directory in SOURCES:
        for path in sorted((ROOT / directory).rglob("*")):
            if path.suffix in (".yml", ".j2"):
                for name in USED.findall(path.read_text(encoding="utf-8")):
                    used.setdefault(name, path.relative_to(ROOT).as_posix())
    assert used.keys() == load(ROOT / "galaxy.yml")["dependencies"].keys(), used


def test_the_controller_is_used_as_who_runs_ansible() -> None:
    """The variable: inventories of real machines set ``ansible_become``, which beats the keyword, on localhost too."""
    tasks = [path for where in ("roles", "playbooks") for path in sorted((ROOT / where).rglob("*.yml"))]
    assert [path.relative_to(ROOT).as_posix() for path in tasks if "become: false" in keywords(path)] == []


def keywords(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
