# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Limits and encryption, from `playbooks/disks.yml` to the bytes: two SPDKs, the real SMA, a fake QEMU, and a front end
of vhost-user-blk that reads and writes as a guest does. No key may be in what is said or left behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sma_fakes import FakeQemu, FakeSpdk
from support.spdk import Spdk

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "unit" / "vhost"))

from front_end import GET_ID, IN, OUT, FrontEnd, Ring  # noqa: E402  (likewise)

KEYS = {"key": "00112233445566778899aabbccddeeff", "key2": "ffeeddccbbaa99887766554433221100"}
OTHER = {"key": "0f0e0d0c0b0a09080706050403020100", "key2": "101112131415161718191a1b1c1d1e1f"}
TEXT = (b"This was written by a guest. " * 200)[:4096]
DISK = {"name": "vol00", "size": "1MiB", "backing": {"type": "aio"}}
NODE = [ROOT / "roles" / "spdk" / "files" / "node", ROOT / "build" / "collections"]


class Lab:
    """A storage target, an IPU with SMA, and nobody who may look into the host."""

    def __init__(self, directory: Path, qemu: FakeQemu, make_sma: Any, port: int) -> None:
        self.state = directory / "state"
        (self.state / "st1" / "volumes").mkdir(parents=True)
        (self.state / "ipu1").mkdir()
        for name in ("t", "i"):
            (directory / name).mkdir()
        self.target, self.ipu = Spdk(directory / "t"), Spdk(directory / "i")
        self.target.start()
        self.ipu.start()
        self.target.call("nvmf_create_transport", trtype="TCP")
        server = make_sma(self.ipu.rpc_socket, qemu.port, sock_path=str(self.ipu.directory))
        server.start()
        self.logs = [self.target.log, self.ipu.log, server.log]
        self.inventory = directory / "inventory.yml"
        self.inventory.write_text(
            json.dumps(
                {
                    "all": {
                        "vars": {
                            "ansible_connection": "local",
                            "ansible_become": False,
                            "ansible_python_interpreter": sys.executable,
                            "ipdk_state_dir": str(self.state),
                            "ipdk_uid": os.getuid(),
                            "ipdk_gid": os.getgid(),
                        },
                        "children": {
                            "storage_targets": {
                                "hosts": {
                                    "st1": {
                                        "storage_target_address": "127.0.0.1",
                                        "storage_target_port": port,
                                        "spdk_rpc_socket": str(self.target.rpc_socket),
                                    }
                                }
                            },
                            "ipus": {
                                "hosts": {
                                    "ipu1": {
                                        "spdk_rpc_socket": str(self.ipu.rpc_socket),
                                        "ipu_sma_address": server.address,
                                    }
                                }
                            },
                            "ipu_hosts": {"hosts": {"host1": {"host_ipu": "ipu1", "ipdk_host_access": "none"}}},
                        },
                    }
                }
            )
        )
        self.variables = directory / "disks.yml"
        self.front_end: FrontEnd | None = None

    def run_playbook(
        self, playbook: str, disks: list[dict[str, Any]], *options: str, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a playbook with these virtual disks, and ``more`` variables; none of them is on the command line."""
        self.variables.write_text(json.dumps({"virtual_disks": disks, "virtual_disks_force": True, **more}))
        command = [Path(sys.executable).parent / "ansible-playbook", *options, "-i", self.inventory]
        command += [ROOT / "playbooks" / playbook, "--extra-vars", f"@{self.variables}"]
        env = {**os.environ, "ANSIBLE_FORCE_COLOR": "0"}
        return subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, check=False, timeout=300)

    def converge(self, ok: bool = True, **disk: Any) -> str:
        """What disks.yml says about the disk, as talkative as can be."""
        done = self.run_playbook("disks.yml", [{**DISK, **disk}], "-vvv", "--diff")
        said = done.stdout + done.stderr
        assert (done.returncode == 0) is ok, said[-8000:]
        assert not keys_in(said)
        return said

    def guest(self) -> Ring:
        """The queue of a guest that has just found the disk."""
        self.leave()
        self.front_end = FrontEnd(str(self.ipu.directory / "sma-0"))
        self.front_end.negotiate()
        ring = Ring(self.front_end.memory)
        self.front_end.start(ring)
        assert ring.interrupted()
        return ring

    def leave(self) -> None:
        if self.front_end is not None:
            self.front_end.close()
            self.front_end = None

    def read(self) -> bytes:
        answer = self.guest().do(IN, 0, room=len(TEXT))
        assert answer.status == 0
        return answer.data

    def limits(self, bdev: str) -> dict[str, int]:
        """Those that there are."""
        assigned = self.ipu.call("bdev_get_bdevs", name=bdev)[0]["assigned_rate_limits"]
        return {name: limit for name, limit in assigned.items() if limit}

    def restore(self) -> None:
        """What a node does when its SPDK has been started."""
        paths = ":".join(map(str, NODE))
        declaration = self.state / "ipu1" / "declaration.json"
        command = [sys.executable, "-m", "ipdk_node", "restore", "--timeout", "60"]
        subprocess.run(
            [*command, "--socket", self.ipu.rpc_socket, "--declaration", declaration],
            env={**os.environ, "PYTHONPATH": paths},
            check=True,
            timeout=120,
        )

    def files_with_keys(self) -> list[str]:
        """Below the nodes' state, and in the logs of all services."""
        files = [path for path in self.state.rglob("*") if path.is_file() and path.suffix != ".img"]
        return [str(path.relative_to(self.state)) for path in files if keys_in(path.read_text())] + [
            str(log) for log in self.logs if keys_in(log.read_text())
        ]


def keys_in(text: str) -> list[str]:
    return [key for keys in (KEYS, OTHER) for key in keys.values() if key in text.lower()]


@pytest.fixture
def lab(tmp_path: Path, make_sma: Any, spdk: FakeSpdk) -> Iterator[Lab]:
    qemu = FakeQemu(spdk)  # ``spdk`` is there for it to tell, and nobody asks
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    made = Lab(tmp_path, qemu, make_sma, port)
    yield made
    made.leave()
    qemu.close()
    made.ipu.stop()
    made.target.stop()


def test_a_disk_is_encrypted_and_limited(lab: Lab) -> None:
    lab.converge(encryption={"cipher": "AES_XTS", **KEYS}, qos={"rd_bandwidth": "16MiB"})
    assert lab.limits("st1n1c") == {"r_mbytes_per_sec": 16}
    guest = lab.guest()
    assert guest.do(GET_ID, room=20).data.strip(b" \0") == b"st1n1c"
    assert guest.do(OUT, 0, TEXT).status == 0
    assert guest.do(IN, 0, room=len(TEXT)).data == TEXT
    raw = (lab.state / "st1" / "volumes" / "vol00.img").read_bytes()
    assert any(raw[: len(TEXT)]) and b"written by a guest" not in raw

    key_file = lab.state / "ipu1" / "keys" / "st1n1c.json"
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert key_file.parent.stat().st_mode & 0o777 == 0o700
    assert lab.files_with_keys() == ["ipu1/keys/st1n1c.json"]

    # In place, under a guest; what is left out stays.
    assert "ipu1: limit 1 device: vol00 (sma-0)" in lab.converge(encryption=KEYS, qos={"rw_iops": 2000})
    assert lab.limits("st1n1c") == {"r_mbytes_per_sec": 16, "rw_ios_per_sec": 2000}
    assert guest.do(IN, 0, room=len(TEXT)).data == TEXT
    assert "changed=0" in lab.converge(encryption=KEYS).rpartition("PLAY RECAP")[2]

    lab.leave()
    lab.ipu.kill()
    lab.ipu.start()
    lab.restore()
    assert lab.limits("st1n1c") == {"r_mbytes_per_sec": 16, "rw_ios_per_sec": 2000}
    # Nobody has used the disk since: this is what SPDK refuses.
    lab.converge(encryption=KEYS, qos={"rw_iops": "unlimited", "rd_bandwidth": "8MiB"})
    assert lab.limits("st1n1c") == {"r_mbytes_per_sec": 8}
    assert lab.read() == TEXT

    assert "is attached through ipu1 with another key" in lab.converge(ok=False, encryption=OTHER)
    for keys, same in ((OTHER, False), (KEYS, True)):
        lab.leave()
        lab.converge(state="detached", encryption=KEYS)
        assert (lab.files_with_keys(), lab.ipu.call("accel_crypto_keys_get")) == ([], [])
        lab.converge(encryption=keys)
        assert (lab.read() == TEXT) is same
