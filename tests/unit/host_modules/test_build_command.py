"""build_command: what it reads from a build's output, and what it says of the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.ipdk.storage.plugins.module_utils._builds import BuildLog, run
from ansible_collections.ipdk.storage.plugins.module_utils._progress import VARIABLE, Progress
from ansible_collections.ipdk.storage.plugins.plugin_utils.followed import sentence
from support.modules import run_module

DOCKER = """\
Sending build context to Docker daemon  2.048kB
Step 1/3 : FROM base
 ---> ead4e1e18aba
Step 2/3 : RUN apt-get update && apt-get install -y qemu-system-x86
0 upgraded, 3 newly installed, 0 to remove and 0 not upgraded.
Unpacking libaio1:amd64 (0.3.113-4) ...
Setting up libaio1:amd64 (0.3.113-4) ...
Setting up qemu-system-data (1:7.2) ...
Setting up qemu-system-x86 (1:7.2) ...
Step 3/3 : ENTRYPOINT ["qemu-system-x86_64"]
"""


def states(output: str) -> list[tuple[int, int, str]]:
    log = BuildLog()
    seen: list[tuple[int, int, str]] = []
    for line in output.splitlines():
        state = log.feed(line)[:3]
        if state not in seen[-1:]:
            seen.append(state)
    return seen


def test_steps_and_packages_of_a_docker_build_are_counted() -> None:
    run = "RUN apt-get update && apt-get install -y qemu-system-x86"
    assert states(DOCKER) == [
        (0, 0, ""),
        (1, 3, "FROM base"),
        (2, 3, run),
        (0, 3, run),
        (1, 3, "libaio1:amd64"),
        (2, 3, "qemu-system-data"),
        (2, 3, run),
        (3, 3, 'ENTRYPOINT ["qemu-system-x86_64"]'),
    ]


def test_stages_without_a_number_have_their_name() -> None:
    assert states("I: chroot architecture amd64 is equal\nI: running apt-get update...\n")[-1] == (
        0, 0, "running apt-get update...",
    )  # fmt: skip
    told = {"what": "guest", "done": 0, "total": 0, "name": "running apt-get update...", "rate": "3 s so far"}
    assert sentence("host1", told) == "host1: guest, running apt-get update..., 3 s so far"


def test_it_leaves_word_of_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = tmp_path / "progress"
    monkeypatch.setenv(VARIABLE, str(said))
    log = tmp_path / "log"
    log.write_text(DOCKER)
    progress = Progress("image qemu")
    status, lines = run(["cat", str(log)], BuildLog(), lambda state: progress(*state))
    assert (status, lines[-1]) == (0, 'Step 3/3 : ENTRYPOINT ["qemu-system-x86_64"]')
    told = json.loads(said.read_text())
    assert (told["what"], told["done"], told["total"]) == ("image qemu", 3, 3)


def test_what_is_there_is_not_built(tmp_path: Path) -> None:
    never = {"what": "a", "argv": ["touch", str(tmp_path / "built")]}
    assert not run_module("build_command", {**never, "creates": str(tmp_path)})["changed"]
    assert run_module("build_command", never, check=True)["changed"]
    assert list(tmp_path.iterdir()) == []
    assert not run_module("build_command", {"what": "a", "argv": ["echo", "there"]})["changed"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "image qemu: argv is empty: name a program"),
        (["/nowhere/docker"], "image qemu: /nowhere/docker cannot be run: No such file or directory"),
        (["sh", "-c", "echo no space left; exit 3"], "image qemu: sh ended with status 3: no space left"),
    ],
)
def test_what_went_wrong_is_said(argv: list[str], said: str) -> None:
    result = run_module("build_command", {"what": "image qemu", "argv": argv})
    assert (result["rc"] != 0, result["msg"]) == (True, said)
