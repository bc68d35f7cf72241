"""KVM or emulation: the probe boots a guest confined as the real one, its answer decides, and the role says what it is.

The docker program is a stand-in that writes down how it was called and says what a guest's console would.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
TASKS = ROOT / "roles" / "host" / "tasks"
DOCKER = """#!/bin/sh
for word; do printf '%s\\n' "$word"; done >>"$DIRECTORY/$1"
case $1 in
run) echo 0123456789ab ;;
logs) cat "$DIRECTORY/console" ;;
inspect) cat "$DIRECTORY/running" ;;
esac
"""
PLAY = """
- hosts: host1
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: ipdk.storage.host, tasks_from: accelerator, public: true}
    - ansible.builtin.debug: {msg: "accelerator={{ host_accelerator }}"}
"""
READY = "\x1bc\x1b[?7lSeaBIOS\r\nipdk: ready\r\n"
DENIED = "Could not access KVM kernel module: Permission denied\nfailed to initialize kvm: Permission denied\n"


class Platform:
    """A machine with a device that may be KVM, and a Docker engine."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        program = directory / "bin" / "docker"
        program.parent.mkdir()
        program.write_text(DOCKER, encoding="utf-8")
        program.chmod(0o755)
        (directory / "cache").mkdir()
        (directory / "state" / "host1" / "vm").mkdir(parents=True)
        self.device = directory / "kvm"
        self.device.touch()
        self.device.chmod(0o600)

    def guest(self, console: str, running: bool) -> None:
        """What a guest writes to its console, and whether it still runs then."""
        (self.directory / "console").write_bytes(console.encode())
        (self.directory / "running").write_text(f"{json.dumps(running)}\n", encoding="utf-8")

    def called(self, command: str) -> list[str]:
        """The words of all calls of this docker command."""
        path = self.directory / command
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def decide(self, *options: str, status: int = 0, **variables: Any) -> str:
        """Run the tasks; what they printed, on one line."""
        play = self.directory / "play.yml"
        play.write_text(PLAY, encoding="utf-8")
        given = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "ipdk_cache_dir": str(self.directory / "cache"),
            "ipdk_state_dir": str(self.directory / "state"),
            "host_ipu": "ipu1",
            "host_platform": "machine",
            "host_kvm_device": str(self.device),
            "host_qemu_image": "qemu:1",
            "host_guest_dir": "/guest",
            **variables,
        }
        path = f"{self.directory / 'bin'}:{os.environ['PATH']}"
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        done = subprocess.run(
            [program, "-i", "host1,", str(play), "-e", json.dumps(given), *options],
            cwd=ROOT,
            env={**os.environ, "PATH": path, "DIRECTORY": str(self.directory), "ANSIBLE_FORCE_COLOR": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == status, done.stdout
        return " ".join(done.stdout.split())

    def kept(self) -> str:
        return (self.directory / "state" / "host1" / "vm" / "accelerator").read_text(encoding="utf-8").strip()


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(tmp_path)


def confinement() -> list[list[str]]:
    """How the guest itself is run, in the docker program's words."""
    tasks = yaml.safe_load((TASKS / "guest_run.yml").read_text(encoding="utf-8"))
    guest = next(task for task in tasks if task["name"] == "Run the guest")["community.docker.docker_container"]
    assert guest["user"] == "{{ ipdk_uid }}:{{ ipdk_gid }}"
    assert "[host_kvm_gid] if host_accelerator == 'kvm'" in guest["groups"]
    assert "host_kvm_device" in guest["devices"]
    assert guest["read_only"] is True
    return [
        ["--read-only"],
        *(["--tmpfs", path] for path in guest["tmpfs"]),
        *(["--cap-drop", name] for name in guest["cap_drop"]),
        *(["--security-opt", name] for name in guest["security_opts"]),
    ]


def has(words: list[str], wanted: list[str]) -> bool:
    """Whether the words follow each other in there."""
    return any(words[index : index + len(wanted)] == wanted for index in range(len(words)))


def test_a_guest_that_boots_is_run_with_kvm(platform: Platform) -> None:
    platform.guest(READY, running=True)
    output = platform.decide(ipdk_uid=64020, ipdk_gid=64021)
    assert '"msg": "accelerator=kvm"' in output
    assert "is emulated" not in output
    assert platform.kept() == "kvm"
    call = platform.called("run")
    gid = str(platform.device.stat().st_gid)
    for words in [*confinement(), ["--user", "64020:64021"], ["--group-add", gid], ["--device", str(platform.device)]]:
        assert has(call, words), (words, call)
    assert platform.called("rm") == ["rm", "--force", "ipdk-host1-kvm-probe"]

    platform.decide(ipdk_uid=64020, ipdk_gid=64021)
    assert platform.called("run") == call, "the answer is kept"

    # What the answer depends on has changed.
    platform.device.chmod(0o660)
    platform.decide(ipdk_uid=64020, ipdk_gid=64021)
    assert platform.called("run") == call * 2


def test_a_guest_that_may_not_open_the_device_is_emulated(platform: Platform) -> None:
    platform.guest(DENIED, running=False)
    output = platform.decide()
    assert '"msg": "accelerator=tcg"' in output
    notice = "host1 is emulated (TCG): no guest boots with this KVM: failed to initialize kvm: Permission denied."
    assert f'"msg": "{notice}"' in output
    assert platform.kept() == "tcg"
    assert platform.called("rm") == ["rm", "--force", "ipdk-host1-kvm-probe"]


def test_a_guest_that_stays_silent_is_emulated(platform: Platform) -> None:
    platform.guest("", running=True)
    output = platform.decide(host_kvm_probe_timeout=1)
    assert "host1 is emulated (TCG): no guest boots with this KVM: it said nothing." in output
    assert platform.kept() == "tcg"
    assert platform.called("rm") == ["rm", "--force", "ipdk-host1-kvm-probe"]


def test_without_a_device_nobody_is_asked(platform: Platform) -> None:
    platform.device.unlink()
    assert f"host1 is emulated (TCG): no {platform.device}." in platform.decide()
    assert platform.called("run") == []


def test_emulation_may_be_asked_for(platform: Platform) -> None:
    assert "host1 is emulated (TCG): asked for." in platform.decide(ipdk_accelerator="tcg")
    assert platform.called("run") == []


def test_kvm_that_is_asked_for_and_does_not_boot_is_refused(platform: Platform) -> None:
    platform.guest(DENIED, running=False)
    refusal = (
        "machine: the guest shall run with KVM, and no guest came up with it within 20 s: failed to initialize kvm"
    )
    assert refusal in platform.decide(ipdk_accelerator="kvm", status=2)
    platform.device.unlink()
    refusal = f"machine: the guest shall run with KVM and there is no {platform.device}."
    assert refusal in platform.decide(ipdk_accelerator="kvm", status=2)


def test_check_mode_asks_nobody(platform: Platform) -> None:
    platform.guest(READY, running=True)
    platform.decide("--check")
    assert platform.called("run") == []
