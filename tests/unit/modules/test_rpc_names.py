"""Whatever the modules ask of SPDK is one of its methods and of the emulator's."""

from __future__ import annotations

import ast
from pathlib import Path

from conformance.coverage_list import facts, methods

ROOT = Path(__file__).resolve().parents[3]
SOURCES = [
    path
    for directory in ("plugins/module_utils", "plugins/modules", "roles/spdk/files/node")
    for path in sorted((ROOT / directory).rglob("*.py"))
]
NO_METHODS = {
    *("bdev_alias", "bdev_name", "nbd_device", "nbd_disks", "nvmf_tcp", "rpc_socket", "rpc_timeout", "sock_priority"),
    *("vhost_blk", "vhost_controllers", "virtio_blk"),
}
"""Options, parameters and keys of results that begin as a method's name does."""


def words(path: Path) -> set[str]:
    """The strings of a program that begin as one of SPDK's methods does; documentation is no such string."""
    prefixes = {name.split("_")[0] for name in facts()}
    return {
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and "_" in node.value
        and node.value.isidentifier()
        and node.value.islower()
        and node.value.split("_")[0] in prefixes
    }


def test_every_method_that_is_named_is_spdks_and_the_emulators() -> None:
    named = {path.relative_to(ROOT).as_posix(): words(path) - NO_METHODS for path in SOURCES}
    assert len(set().union(*named.values())) > 25, "fewer names than there are calls: the search is broken"
    unknown = {path: sorted(names - facts().keys()) for path, names in named.items()}
    assert {path: names for path, names in unknown.items() if names} == {}, "neither a method of SPDK nor in NO_METHODS"
    missing = {path: sorted(names - methods().keys()) for path, names in named.items()}
    assert {path: names for path, names in missing.items() if names} == {}, "not in the emulator"


def test_what_is_said_to_be_no_method_is_none_and_is_needed() -> None:
    assert NO_METHODS & facts().keys() == set()
    assert NO_METHODS - set().union(*map(words, SOURCES)) == set()
