"""The role platform on a machine within this one: where the base image comes from, and the way back.

The machine has its own mounts, network and processes, so its Docker engine is another one than that of the labs, with
the usual paths, and nothing of it is left when its first process ends. It reaches no network but its own loopback.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from support.registry import IMAGE_ID

ROOT = Path(__file__).resolve().parents[2]

OWN_DIRECTORIES = ("/run", "/opt", "/etc/docker", "/var/lib/docker", "/var/log")
"""Of the machine within: empty at its start, gone at its end. So is its /etc, which begins as a copy."""
FIRST_PROCESS = """
import fcntl, signal, socket, struct, subprocess, sys, tempfile
with tempfile.TemporaryDirectory() as place:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    subprocess.run(["cp", "-a", "/etc/.", place], check=True)
    subprocess.run(["mount", "--move", place, "/etc"], check=True)
for path in sys.argv[1:]:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path], check=True)
with socket.socket() as lo:  # up: IFF_UP | IFF_RUNNING
    fcntl.ioctl(lo, 0x8914, struct.pack("16sh14x", b"lo", 0x41))
print("ready", flush=True)
signal.pause()
"""
USERS_SETTINGS = {"log-level": "warn"}
BASE = "ipdk-storage/base:bookworm"


class Machine:
    """Commands in the namespaces of process ``pid``."""

    def __init__(self, pid: int, directory: Path) -> None:
        self.enter = ["nsenter", f"--target={pid}", "--mount", "--net", "--pid"]
        self.directory = directory
        self.variables = {
            "ansible_python_interpreter": sys.executable,
            "ipdk_state_dir": f"{directory}/state",
            "ipdk_cache_dir": f"{directory}/cache",
            "spdk_install_dir": f"{directory}/opt",
            "platform_disk_mib": 64,
            "platform_memory_mib": 64,
        }

    def run(self, *command: str) -> str:
        done = subprocess.run([*self.enter, *command], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout.strip()

    def images(self) -> set[str]:
        return set(self.run("docker", "image", "ls", "--all", "--format", "{{.Repository}}:{{.Tag}}").split())

    def image_id(self, name: str) -> str:
        return self.run("docker", "image", "inspect", "--format", "{{.Id}}", name)

    def platform(self, **variables: object) -> tuple[int, str]:
        """Run the role; exit status and output."""
        (self.directory / "site.yml").write_text(
            yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "roles": ["ipdk.storage.platform"]}])
        )
        environment = {
            **os.environ,
            "PATH": f"{self.directory}/bin:{os.environ['PATH']}",
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build" / "collections"),
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        }
        done = subprocess.run(
            [
                *self.enter, str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "-c", "local",
                str(self.directory / "site.yml"), "-e", json.dumps({**self.variables, **variables}),
            ],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
            check=False,
        )  # fmt: skip
        return done.returncode, " ".join(done.stdout.split())

    def refused(self, message: str, **variables: object) -> None:
        """Run the role, which fails with a message that has this in it."""
        status, output = self.platform(**variables)
        assert status != 0
        assert message in output, output[-4000:]

    def change(self, **variables: object) -> str:
        """Run the role; what it printed. Fails if the role does."""
        status, output = self.platform(**variables)
        assert status == 0, output[-4000:]
        return output

    @contextmanager
    def registry(self, port: int, *options: str) -> Iterator[str]:
        """Where a registry listens while it is needed."""
        program = str(ROOT / "tests" / "support" / "registry.py")
        with subprocess.Popen(
            [*self.enter, sys.executable, program, str(port), *options], stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                yield f"127.0.0.1:{port}"
            finally:
                process.terminate()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    if (
        shutil.which("dockerd") is None
    ):  # the machine within shares the programs, and has no network to install them from
        ansible = Path(sys.executable).with_name("ansible")
        subprocess.run(
            [
                ansible,
                "localhost",
                "-m",
                "ansible.builtin.apt",
                "-a",
                "name=docker.io,iptables install_recommends=false",
            ],
            check=True,
        )
    for path in OWN_DIRECTORIES:
        Path(path).mkdir(exist_ok=True)
    with subprocess.Popen(
        ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c",
         FIRST_PROCESS, *OWN_DIRECTORIES],
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            yield Machine(int(child), tmp_path)
        finally:
            process.kill()


def test_where_the_base_image_comes_from_and_the_way_back(machine: Machine) -> None:
    settings = json.dumps(USERS_SETTINGS)
    machine.run("sh", "-c", f"echo '{settings}' >/etc/docker/daemon.json")
    # Engines were killed here once, and another process has their number now.
    machine.run(
        "sh",
        "-c",
        "mkdir -p /run/docker/containerd; echo 1 | tee /run/docker.pid >/run/docker/containerd/containerd.pid",
    )

    # Nobody answers: registry says so, in time; auto makes an image of its own.
    with machine.registry(5001, "--silent") as silent:
        registry_only = {"ipdk_image_source": "registry"}
        wanted = {"ipdk_image_registry_base": f"{silent}/debian:12-slim", "ipdk_image_registry_timeout": 2}
        machine.refused(f"{silent}/debian:12-slim could not be pulled: no answer within 2 s", **wanted, **registry_only)
        assert machine.images() == set()

        (machine.directory / "bin").mkdir()
        mmdebstrap = machine.directory / "bin" / "mmdebstrap"
        mmdebstrap.write_text(
            '#!/bin/sh\nfor tar; do case $tar in */base.tar) tar -cf "$tar" /etc/debian_version; esac; done\n'
        )
        mmdebstrap.chmod(0o755)
        machine.change(ipdk_image_source="auto", **wanted)
        assert machine.images() == {BASE}
        assert machine.image_id(BASE) != IMAGE_ID
    machine.run("docker", "image", "rm", BASE)

    # A port at which nobody listens is refused at once.
    nobody = "127.0.0.1:5003/debian:12-slim"
    machine.refused(f"{nobody} could not be pulled: ", ipdk_image_registry_base=nobody, **registry_only)

    with machine.registry(5002) as registry:
        there = {"ipdk_image_registry_base": f"{registry}/debian:12-slim", **registry_only}
        machine.change(**there)
        assert machine.images() == {BASE}
        assert machine.image_id(BASE) == IMAGE_ID
    assert "changed=0" in machine.change(**there), "what is there is not pulled again"

    # The way back: not while a lab is there.
    machine.run("docker", "tag", BASE, "users/image:1")
    machine.run("docker", "create", "--name", "lab-st1", "--label", "io.ipdk.lab=lab", BASE)
    machine.run("docker", "create", "--name", "users", "users/image:1")
    machine.refused("the platform is still in use: lab-st1. Remove the labs", platform_state="absent")
    assert machine.images() == {BASE, "users/image:1"}
    machine.run("docker", "rm", "lab-st1")

    # With a container of somebody else's the engine stays, and so does what is the user's.
    state = machine.directory / "state"
    (state / "st1").mkdir()
    machine.change(platform_state="absent")
    assert machine.images() == {"users/image:1"}
    assert machine.run("docker", "ps", "--all", "--format", "{{.Names}}") == "users"
    assert machine.run("sh", "-c", "ls -d /run/ipdk 2>/dev/null || echo gone") == "gone"
    assert not (machine.directory / "cache").exists()
    assert (state / "st1").is_dir(), "data of a storage target stay"

    # Without it the engine goes that the role has started, and its settings are the user's again.
    machine.run("docker", "rm", "users")
    (state / "st1").rmdir()
    machine.change(platform_state="absent")
    assert json.loads(machine.run("cat", "/etc/docker/daemon.json")) == USERS_SETTINGS
    assert machine.run("sh", "-c", "ls /run/docker.sock /run/docker.pid 2>/dev/null || echo gone") == "gone"
    assert not state.exists()
    machine.change(platform_state="absent")


def test_the_way_back_takes_the_account_that_it_made_and_no_other(machine: Machine) -> None:
    account = ("sh", "-c", "getent passwd ipdk; getent group ipdk; true")
    for path in ("/opt/ipdk/venv/bin", "/opt/ipdk/sma/26.5-0", "/opt/ipdk/node", "/opt/users"):
        machine.run("mkdir", "-p", path)
    machine.change(ipdk_runtime="systemd")
    assert "changed=0" in machine.change(ipdk_runtime="systemd")
    passwd, group = machine.run(*account).splitlines()
    assert passwd.split(":")[2:4] == ["64020", "64020"] and group.split(":")[2] == "64020"

    # Another inventory's service, with directories of its own, has no socket that would tell.
    service = "echo $$; exec setpriv --reuid=64020 --regid=64020 --clear-groups sleep 600"
    with subprocess.Popen([*machine.enter, "sh", "-c", service], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        number = other.stdout.readline().strip()
        said = machine.change(platform_state="absent")
        assert "the account ipdk and the programs in /opt/ipdk/venv and /opt/ipdk/sma stay, for they are in use" in said
        assert "(sleep). Run this again when that is gone." in said
        machine.run("kill", number)
    assert machine.run(*account) == f"{passwd}\n{group}"
    assert set(machine.run("ls", "/opt/ipdk").split()) == {"venv", "sma"}

    machine.change(platform_state="absent")
    assert machine.run(*account) == ""
    assert machine.run("ls", "/opt") == "users"
    assert not (machine.directory / "state").exists()
    assert "changed=0" in machine.change(platform_state="absent")

    # One that was there before is somebody else's.
    machine.run("groupadd", "--gid", "64020", "ipdk")
    machine.run("useradd", "--uid", "64020", "--gid", "64020", "--no-create-home", "ipdk")
    machine.change(ipdk_runtime="systemd")
    before = machine.run(*account)
    assert "the account ipdk was there before this role, and stays." in machine.change(platform_state="absent")
    assert machine.run(*account) == before
