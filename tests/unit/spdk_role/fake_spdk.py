"""A repository that builds like SPDK and takes no time; its spdk_tgt is a script.

Each build adds a line to the file ``builds`` beside the repository.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

CONFIGURE = """#!/bin/sh
test -f dpdk/README || { echo 'no submodule'; exit 1; }
mkdir -p lib; echo 'int one;' >lib/one.c; echo 'int two;' >lib/two.c
# What autoconf and make would take for their own must not come from whoever builds.
[ -z "${INSTALL+set}${NAME+set}${TAG+set}${PROGRAMS+set}" ] || { echo "not my environment"; exit 1; }
printf '%s\\n' "$@" >configured
"""
MAKEFILE = """all: lib/one.o lib/two.o
\techo built >>@builds@
\tmkdir -p build/bin
\tfor program in spdk_tgt nvmf_tgt; do \\
\t  { echo '#!/bin/sh'; echo '# SPDK v'$$(cat VERSION); sed 's/^/# /' configured; \\
\t    echo 'echo SPDK v'$$(cat VERSION); } \\
\t    >build/bin/$$program; chmod +x build/bin/$$program; done
"""


def git(directory: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "protocol.file.allow=always"]
    command = ["git", *identity, "-C", str(directory), *arguments]
    return subprocess.run(command, check=True, text=True, capture_output=True).stdout.strip()


def program(path: Path, version: str = "26.05", script: str = "") -> Path:
    """A script at ``path`` that says ``SPDK v<version>``, or does something else that may be told."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n# SPDK v{version}\n{script or f'echo SPDK v{version}'}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def make(directory: Path, versions: tuple[str, ...] = ("26.05",)) -> dict[str, str]:
    """Make ``directory``/spdk with a tag ``v<version>`` for each version; returns their commits."""
    commits = {}
    dpdk = directory / "dpdk"
    dpdk.mkdir(parents=True)
    git(dpdk, "init", "-q")
    (dpdk / "README").write_text("a submodule\n", encoding="utf-8")
    git(dpdk, "add", ".")
    git(dpdk, "commit", "-q", "-m", "Begin")
    tree = directory / "spdk"
    tree.mkdir()
    git(tree, "init", "-q")
    (tree / "configure").write_text(CONFIGURE, encoding="utf-8")
    os.chmod(tree / "configure", 0o755)
    makefile = MAKEFILE.replace("@builds@", str(directory / "builds"))
    (tree / "Makefile").write_text(makefile, encoding="utf-8")
    for path in ("dpdk", "ocf"):
        git(tree, "submodule", "add", "-q", str(dpdk), path)
    for version in versions:
        (tree / "VERSION").write_text(f"{version}\n", encoding="utf-8")
        git(tree, "add", ".")
        git(tree, "commit", "-q", "-m", f"Release {version}")
        git(tree, "tag", "-a", "-m", version, f"v{version}")
        commits[version] = git(tree, "rev-parse", f"v{version}^{{commit}}")
    return commits
