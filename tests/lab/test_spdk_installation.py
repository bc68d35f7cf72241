"""What a container runs: the installation that its node's link names, or the program of an image that has one already.

A storage target is deployed with the collection's playbook, and later with its role alone, which finds the platform as
the playbook has made it; the lab is its own and has no network. The emulator stands in for builds of SPDK: programs
that start it, each with a mark of its own in the environment of the process.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.ipdk.storage.plugins.module_utils._jsonrpc import Client
from support.small_lab import docker, removed

ROOT = Path(__file__).resolve().parents[2]
LAB = "ipdk-installed"
NODE = "ist"
CONTAINER = f"{LAB}-{NODE}-spdk"
STAND_IN = "ipdk-installed/spdk:1"
ROLE = [{"hosts": "storage_targets", "gather_facts": False, "roles": ["ipdk.storage.storage_target"]}]
PACKAGES = {"spdk_packages": ["python3-cryptography", "python3-crc32c"]}
"""What the emulator needs where it stands in for an SPDK."""


def images() -> set[str]:
    """Those that carry an SPDK; others come and go beside this."""
    return set(docker("image", "ls", "--filter", "reference=*/spdk", "--format", "{{.Repository}}:{{.Tag}}").split())


class Target:
    """A storage target below ``directory``, deployed with the emulator."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.link = directory / "state" / NODE / "spdk"
        self.inventory = directory / "hosts.yml"
        variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            "ipdk_lab_name": LAB,
            "ipdk_run_dir": f"{directory}/run",
            "ipdk_state_dir": f"{directory}/state",
            "spdk_install_dir": f"{directory}/opt",
        }
        groups = {"storage_targets": {"hosts": {NODE: {"storage_target_address": "127.0.0.1"}}}}
        groups |= {"ipus": {"hosts": {}}, "ipu_hosts": {"hosts": {}}}
        self.inventory.write_text(yaml.safe_dump({"all": {"vars": variables, "children": groups}}), encoding="utf-8")
        self.role = directory / "role.yml"
        self.role.write_text(yaml.safe_dump(ROLE), encoding="utf-8")
        self.playbook = Path("playbooks/deploy.yml")

    def run(self, **variables: Any) -> tuple[int, str]:
        """Deploy; exit status and output, in one line."""
        done = subprocess.run(
            [Path(sys.executable).with_name("ansible-playbook"), "-i", self.inventory, self.playbook,
             "--extra-vars", json.dumps(variables)],
            cwd=ROOT,
            env={
                **os.environ,
                "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build" / "collections"),
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_FORCE_COLOR": "0",
            },
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, check=False,
        )  # fmt: skip
        return done.returncode, " ".join(done.stdout.split())

    def deploy(self, **variables: Any) -> int:
        """How many things a deployment changed; fails if it does."""
        status, output = self.run(**variables)
        assert status == 0, output[-4000:]
        return int(re.search(rf"{NODE} : ok=\d+ changed=(\d+)", output)[1])

    def refused(self, **variables: Any) -> str:
        """What a deployment that fails says."""
        status, output = self.run(**variables)
        assert status != 0, output[-4000:]
        return output

    def call(self, method: str, **params: Any) -> Any:
        """The answer of its SPDK to a method."""
        with Client(str(self.directory / "run" / NODE / "spdk" / "spdk.sock")) as client:
            return client.call(method, params)

    def answer(self) -> str:
        """The version that SPDK tells, as soon as it does."""
        command = [sys.executable, "-m", "ipdk_node.wait", "--timeout", "60", "--socket"]
        return subprocess.check_output(
            [*command, str(self.directory / "run" / NODE / "spdk" / "spdk.sock")],
            env={**os.environ, "PYTHONPATH": str(ROOT / "roles" / "spdk" / "files" / "node")},
            text=True,
        ).strip()

    def environment(self) -> dict[str, str]:
        """Of SPDK's process, the child of the container's first one."""
        self.answer()
        first = docker("inspect", "--format", "{{.State.Pid}}", CONTAINER)
        child = Path(f"/proc/{first}/task/{first}/children").read_text(encoding="ascii").split()[0]
        pairs = Path(f"/proc/{child}/environ").read_bytes().decode().split("\0")
        return dict(pair.split("=", 1) for pair in pairs if pair)

    def switch(self, installation: Path) -> None:
        """What an operator does: no playbook."""
        subprocess.run(["ln", "-sfn", str(installation), str(self.link)], check=True)
        docker("restart", CONTAINER)

    def build(self, mark: str, emulator: Path) -> str:
        """A prefix whose program starts the emulator with ``MARK`` in its environment."""
        program = self.directory / f"prefix-{mark}" / "build" / "bin" / "spdk_tgt"
        program.parent.mkdir(parents=True)
        program.write_text(starts(emulator / "lib", mark), encoding="utf-8")
        program.chmod(0o755)
        return str(program.parents[2])


def starts(library: Path | str, mark: str) -> str:
    return f'#!/bin/sh\n# SPDK v26.05\nMARK={mark} PYTHONPATH={library} exec python3 -m spdk_emulator "$@"\n'


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    before = images()
    directory = Path(tempfile.mkdtemp(prefix="ipdk-"))  # short: the names of unix sockets are limited
    directory.chmod(0o755)
    try:
        with removed(LAB, NODE):
            made = Target(directory)
            made.deploy()
            made.playbook = made.role
            yield made
    finally:
        for image in images() - before:
            subprocess.run(["docker", "image", "rm", image], check=False, capture_output=True)
        shutil.rmtree(directory)


def test_a_link_says_what_a_container_runs(target: Target) -> None:
    # The emulator is an installation like others.
    emulator = target.link.readlink()
    assert target.environment()["PYTHONPATH"] == f"{emulator}/lib"
    assert list(emulator.glob("lib/spdk_emulator/__pycache__/app.*.pyc")), "it starts from bytecode"
    other = emulator.with_name("emulator-other")
    shutil.copytree(emulator, other)
    for program in (other / "bin").iterdir():
        program.write_text(program.read_text(encoding="utf-8").replace(str(emulator), str(other)), encoding="utf-8")
    target.switch(other)
    assert target.environment()["PYTHONPATH"] == f"{other}/lib"
    assert target.deploy() > 0, "the playbook says again which one is in use"
    assert target.environment()["PYTHONPATH"] == f"{emulator}/lib"
    assert target.deploy() == 0

    prefixes = [{"ipdk_engine": "spdk", "spdk_prefix": target.build(mark, emulator), **PACKAGES} for mark in ("A", "B")]
    target.deploy(**prefixes[0])
    assert target.environment()["MARK"] == "A"
    first = target.link.readlink()
    built = images()
    target.deploy(**prefixes[1])
    assert target.environment()["MARK"] == "B"
    assert images() == built, "another version needs no other image"

    target.switch(first)
    assert target.environment()["MARK"] == "A"
    assert target.answer().startswith("SPDK v26.05")
    target.deploy(**prefixes[1])
    assert target.environment()["MARK"] == "B"
    assert target.deploy(**prefixes[1]) == 0

    mounts = {mount["Destination"]: mount for mount in json.loads(docker("inspect", CONTAINER))[0]["Mounts"]}
    assert mounts[str(target.directory / "opt")]["RW"] is False


def test_a_program_without_its_libraries_leaves_alone_what_runs(target: Target) -> None:
    before = docker("inspect", "--format", "{{.State.StartedAt}}", CONTAINER), target.link.readlink()
    directory = target.directory / "missing"
    (directory / "bin").mkdir(parents=True)
    (directory / "one.c").write_text("void one(void) {}\n", encoding="utf-8")
    (directory / "main.c").write_text(
        'const char *version = "SPDK v26.05";\nvoid one(void);\nint main(void) { one(); return 0; }\n', encoding="utf-8"
    )
    library = directory / "libspdk_gone.so.1"
    subprocess.run(["gcc", "-shared", "-o", library, directory / "one.c"], check=True)
    program = directory / "bin" / "spdk_tgt"
    subprocess.run(["gcc", "-o", program, directory / "main.c", library.name], check=True, cwd=directory)
    library.unlink()
    said = target.refused(ipdk_engine="spdk", spdk_prefix=str(directory), **PACKAGES)
    assert "cannot run in a container of ipdk-storage/spdk:" in said
    assert "these shared libraries are missing: libspdk_gone.so.1. Let spdk_packages name the Debian packages" in said
    assert (docker("inspect", "--format", "{{.State.StartedAt}}", CONTAINER), target.link.readlink()) == before
    assert target.answer().startswith("SPDK v")


def test_a_run_empties_no_volume_in_memory_without_leave(target: Target) -> None:
    target.deploy()
    target.call("bdev_malloc_create", name="held", num_blocks=2048, block_size=512)
    declaration = target.directory / "state" / NODE / "declaration.json"

    def all_that_runs() -> tuple[Any, ...]:
        started = docker("inspect", "--format", "{{.Id}} {{.State.StartedAt}}", CONTAINER)
        return started, target.link.readlink(), declaration.read_text(encoding="utf-8"), target.call("bdev_get_bdevs")

    before = all_that_runs()
    assert target.deploy() == 0, "what starts nothing anew needs no leave"
    upgrade = {"ipdk_engine": "spdk", "spdk_prefix": target.build("E", target.link.readlink()), **PACKAGES}
    for changed in ({"storage_target_queue_depth": 64}, {"storage_target_malloc_mib": 512}, upgrade):
        said = target.refused(**changed)
        assert f"{NODE}: this run has to start SPDK anew, and these malloc volumes would come back empty: held" in said
        assert all_that_runs() == before

    target.deploy(storage_target_queue_depth=64, ipdk_safe_mode=False)
    assert docker("inspect", "--format", "{{.Id}} {{.State.StartedAt}}", CONTAINER) != before[0]
    assert '"max_queue_depth": 64' in declaration.read_text(encoding="utf-8")
    target.call("bdev_malloc_create", name="held", num_blocks=2048, block_size=512)
    docker("stop", CONTAINER)
    target.deploy()
    assert target.call("bdev_get_bdevs") == [], "what does not run has nothing to lose"


def test_an_image_that_has_the_program_needs_no_installation(target: Target) -> None:
    context = target.directory / "image"
    context.mkdir()
    shutil.copytree(ROOT / "roles" / "spdk_emulator" / "files" / "spdk_emulator", context / "spdk_emulator")
    (context / "Dockerfile").write_text(
        f"FROM {docker('inspect', '--format', '{{.Config.Image}}', CONTAINER)}\n"
        "COPY spdk_emulator /usr/local/lib/spdk/spdk_emulator\nCOPY spdk_tgt /usr/local/bin/spdk_tgt\n",
        encoding="utf-8",
    )
    image = {"ipdk_engine": "spdk", "spdk_source": "image", "spdk_image_name": STAND_IN}
    for mark in ("C", "D"):
        (context / "spdk_tgt").write_text(starts("/usr/local/lib/spdk", mark), encoding="utf-8")
        (context / "spdk_tgt").chmod(0o755)
        docker("build", "--quiet", "--tag", STAND_IN, str(context))
        target.deploy(**image)
        assert target.environment()["MARK"] == mark
    assert target.deploy(**image) == 0
    assert not os.path.lexists(target.link), "no link says what is not true"
    mounts = {mount["Destination"] for mount in json.loads(docker("inspect", CONTAINER))[0]["Mounts"]}
    assert str(target.directory / "opt") not in mounts

    said = target.refused(**image, spdk_image_path="/nowhere")
    assert f"the image {STAND_IN} has no /nowhere/spdk_tgt that tells its version" in said
    assert target.answer().startswith("SPDK v26.05")
