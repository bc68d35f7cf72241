"""A node whose SPDK runs as a container gets no second one of systemd, which would never be ready."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.role_tasks import run_tasks

DOCKER = """#!/bin/sh
[ "$*" = "container inspect ipdk-st1-spdk" ] && exit {status}
exit 125
"""


@pytest.mark.parametrize("there", [True, False])
def test_a_container_that_is_there_is_named(tmp_path: Path, there: bool) -> None:
    docker = tmp_path / "docker"
    docker.write_text(DOCKER.format(status=0 if there else 1), encoding="utf-8")
    docker.chmod(0o755)
    done = run_tasks(tmp_path, "spdk", "look", programs=tmp_path, ipdk_runtime="systemd", ipdk_lab_name="ipdk")
    assert done.returncode == (2 if there else 0), done.stdout
    said = "st1: wanted SPDK with runtime systemd, and there is one with runtime container. Remove that first"
    assert (said in done.stdout) is there
