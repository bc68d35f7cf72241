"""Where SPDK comes from: each source is installed by the role itself, into directories of the test."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import fake_spdk

ROOT = Path(__file__).resolve().parents[3]
PLAY = """
- hosts: localhost
  gather_facts: false
  roles: [{role: ipdk.storage.names}]
  tasks:
    - ansible.builtin.include_role: {name: ipdk.storage.spdk, tasks_from: install}
    - ansible.builtin.copy: {content: "{{ spdk_installed | to_json }}", dest: "{{ result_file }}", mode: "0644"}
"""


def install(directory: Path, **variables: Any) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run the role's installation; returns how it ended, and ``spdk_installed``."""
    (directory / "play.yml").write_text(PLAY, encoding="utf-8")
    result = directory / "result.json"
    result.unlink(missing_ok=True)
    given = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "ipdk_engine": "spdk",
        "spdk_install_dir": str(directory / "installed"),
        "spdk_build_dir": str(directory / "build"),
        "spdk_build_packages_install": False,
        "spdk_build_report_seconds": 2,
        "result_file": str(result),
        **variables,
    }
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", str(directory / "play.yml")]
    done = subprocess.run(
        [*command, "--extra-vars", json.dumps(given)],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_FORCE_COLOR": "0"},
        text=True,
        capture_output=True,
        check=False,
        timeout=120,
    )
    return done, json.loads(result.read_text(encoding="utf-8")) if result.exists() else {}


def from_git(directory: Path, version: str, commit: str, **variables: Any) -> Any:
    url = str(directory / "fake" / "spdk")
    return install(directory, spdk_git_url=url, spdk_git_tag=f"v{version}", spdk_git_commit=commit, **variables)


def test_git_builds_once_and_keeps_versions_side_by_side(tmp_path: Path) -> None:
    commits = fake_spdk.make(tmp_path / "fake", ("26.01", "26.05"))
    done, new = from_git(tmp_path, "26.05", commits["26.05"], spdk_configure_options=["--with-vhost", "--with-x=a b"])
    assert done.returncode == 0, done.stdout
    assert new["version"] == "26.05"
    assert re.search(r'"msg": "26\.05-[0-9a-f]{8}: built: 2 objects, .* s; == built"', done.stdout)
    program = (Path(new["path"]) / "bin" / "spdk_tgt").read_text(encoding="utf-8").splitlines()
    assert program[2:5] == ["# --target-arch=native", "# --with-vhost", "# --with-x=a b"]

    shutil.rmtree(tmp_path / "build")
    done, again = from_git(tmp_path, "26.05", commits["26.05"], spdk_configure_options=["--with-vhost", "--with-x=a b"])
    assert again == new
    assert not (tmp_path / "build").exists(), "a second run builds nothing"

    _unused, other = from_git(tmp_path, "26.05", commits["26.05"], spdk_configure_options=["--with-vhost"])
    _unused, old = from_git(tmp_path, "26.01", commits["26.01"])
    assert old["version"] == "26.01"
    paths = {new["path"], other["path"], old["path"]}
    assert len(paths) == 3
    assert all((Path(path) / "bin" / "spdk_tgt").exists() for path in paths)


def test_a_tree_is_built_and_not_changed(tmp_path: Path) -> None:
    fake_spdk.make(tmp_path / "fake")
    tree = tmp_path / "fake" / "spdk"
    before = sorted(path.relative_to(tree) for path in tree.rglob("*"))
    done, installed = install(tmp_path, spdk_git_tree=str(tree))
    assert done.returncode == 0, done.stdout
    assert subprocess.check_output([f"{installed['path']}/bin/nvmf_tgt"], text=True) == "SPDK v26.05\n"
    assert sorted(path.relative_to(tree) for path in tree.rglob("*")) == before


def test_a_submodule_from_elsewhere_and_one_left_out(tmp_path: Path) -> None:
    commits = fake_spdk.make(tmp_path / "fake")
    shutil.move(tmp_path / "fake" / "dpdk", tmp_path / "mirror")
    commit = fake_spdk.git(tmp_path / "mirror", "rev-parse", "HEAD")
    done, _unused = from_git(tmp_path, "26.05", commits["26.05"])
    assert done.returncode == 2 and "the build failed in fetch" in done.stdout + done.stderr
    for origin in ({"url": str(tmp_path / "mirror")}, {"url": str(tmp_path / "mirror"), "commit": commit}):
        submodules = {"dpdk": origin, "ocf": {}}
        done, installed = from_git(tmp_path, "26.05", commits["26.05"], spdk_git_submodules=submodules)
        assert done.returncode == 0, done.stdout
        assert installed["version"] == "26.05"


def test_a_package_is_unpacked_beside_others(tmp_path: Path) -> None:
    root = tmp_path / "deb"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        "Package: spdk-fake\nVersion: 26.01\nArchitecture: all\nMaintainer: Test <test@example.org>\n"
        "Description: Test\n",
        encoding="utf-8",
    )
    (root / "usr" / "sbin").mkdir(parents=True)
    (root / "usr" / "sbin" / "spdk_tgt").write_text("#!/bin/sh\necho SPDK v26.01\n", encoding="utf-8")
    (root / "usr" / "sbin" / "spdk_tgt").chmod(0o755)
    package = tmp_path / "spdk.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", str(root), str(package)], check=True, capture_output=True)
    done, installed = install(tmp_path, spdk_source="package", spdk_package=str(package), spdk_package_path="/usr/sbin")
    assert done.returncode == 0, done.stdout
    assert installed["version"] == "26.01"
    assert (Path(installed["path"]) / "bin" / "spdk_tgt").exists()


def test_prefix_takes_the_libraries_that_no_package_brings(tmp_path: Path) -> None:
    source = tmp_path / "prefix" / "build"
    (source / "bin").mkdir(parents=True)
    (source / "lib").mkdir()
    (tmp_path / "one.c").write_text('const char *version(void) { return "SPDK v26.05"; }\n', encoding="utf-8")
    (tmp_path / "main.c").write_text(
        "#include <stdio.h>\nconst char *version(void);\nint main(void) { puts(version()); return 0; }\n",
        encoding="utf-8",
    )
    library = source / "lib" / "libspdk_one.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "one.c")], check=True)
    main = ["gcc", "-o", str(source / "bin" / "spdk_tgt"), str(tmp_path / "main.c"), "-L", str(library.parent)]
    subprocess.run([*main, "-lspdk_one"], check=True)
    done, installed = install(tmp_path, spdk_prefix=str(tmp_path / "prefix"))
    assert done.returncode == 0, done.stdout
    shutil.rmtree(tmp_path / "prefix")
    assert subprocess.check_output([f"{installed['path']}/bin/spdk_tgt"], text=True) == "SPDK v26.05\n"


def test_a_commit_that_is_not_the_tags_is_refused_before_anything(tmp_path: Path) -> None:
    commits = fake_spdk.make(tmp_path / "fake", ("26.01", "26.05"))
    done, _unused = from_git(tmp_path, "26.05", commits["26.01"])
    assert done.returncode == 2
    assert f"is commit {commits['26.05']}, spdk_git_commit is {commits['26.01']}" in done.stdout + done.stderr
    assert not (tmp_path / "build").exists() and not (tmp_path / "installed").exists()
