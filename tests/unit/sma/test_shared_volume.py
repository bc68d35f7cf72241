# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One volume on two hosts, from `playbooks/disks.yml` to the bytes: a storage target, two IPUs with a real SMA each,
and front ends of vhost-user-blk that read and write as guests do."""

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
import yaml
from sma_fakes import FakeQemu, FakeSpdk
from support.spdk import CallFailed, Spdk
from test_virtual_disks_role import NODE, TEXT, Lab

from front_end import GET_ID, IN, OUT, FrontEnd, Ring  # isort: skip  (the path to it is made by the module above)

NQN = "nqn.2022-06.io.ipdk:st1:shared:data"
DATA = {"name": "data", "size": "1MiB", "backing": {"type": "aio"}, "shared": True}
OWN = {"name": "own", "size": "1MiB", "backing": {"type": "aio"}, "host": "host2"}
MORE = b"And the other one wrote this. ".ljust(len(TEXT), b".")


class Two(Lab):
    """A lab with a second IPU and the host behind it."""

    def __init__(self, directory: Path, qemus: list[FakeQemu], make_sma: Any, port: int) -> None:
        super().__init__(directory, qemus[0], make_sma, port)
        (directory / "second").mkdir()
        (self.state / "ipu2").mkdir()
        self.second = Spdk(directory / "second")
        self.second.start()
        server = make_sma(
            self.second.rpc_socket, qemus[1].port, self.second.directory, sock_path=str(self.second.directory)
        )
        server.start()
        self.ipus = {"host1": self.ipu, "host2": self.second}
        inventory = json.loads(self.inventory.read_text())
        groups = inventory["all"]["children"]
        groups["ipus"]["hosts"]["ipu2"] = {
            "spdk_rpc_socket": str(self.second.rpc_socket),
            "ipu_sma_address": server.address,
        }
        groups["ipu_hosts"]["hosts"]["host2"] = {"host_ipu": "ipu2", "ipdk_host_access": "none"}
        self.inventory.write_text(json.dumps(inventory))
        self.guests: dict[tuple[str, int], tuple[FrontEnd, Ring]] = {}

    def play(self, playbook: str, *disks: dict[str, Any], ends: int = 0, **more: Any) -> str:
        done = self.run_playbook(playbook, list(disks), **more)
        assert done.returncode == ends, (done.stdout + done.stderr)[-8000:]
        return done.stdout

    def has(self, *disks: dict[str, Any]) -> None:
        """They are as the list says: a further run changes nothing. A device without a QEMU would be plugged again."""
        for host, ipu in self.ipus.items():
            for controller in ipu.call("vhost_get_controllers"):
                self.guest_of(host, int(controller["ctrlr"].removeprefix("sma-")))
        recap = self.play("disks.yml", *disks).rpartition("PLAY RECAP")[2]
        assert recap.count("changed=0") == recap.count("ok="), recap

    def guest_of(self, host: str, slot: int = 0) -> Ring:
        if (host, slot) not in self.guests:
            front_end = FrontEnd(str(self.ipus[host].directory / f"sma-{slot}"))
            front_end.negotiate()
            ring = Ring(front_end.memory)
            self.guests[host, slot] = front_end, ring
            front_end.start(ring)
            assert ring.interrupted()
        return self.guests[host, slot][1]

    def leave(self, *hosts: str) -> None:
        """The guests of these hosts, or all, give up their disks."""
        for host, slot in list(self.guests):
            if host in hosts or not hosts:
                self.guests.pop((host, slot))[0].close()

    def comes_back(self, node: str, spdk: Spdk) -> None:
        """Its SPDK is killed and started, and gets what the node's declaration says."""
        spdk.kill()
        spdk.start()
        command = [sys.executable, "-m", "ipdk_node", "restore", "--timeout", "60"]
        subprocess.run(
            [*command, "--socket", spdk.rpc_socket, "--declaration", self.state / node / "declaration.json"],
            env={**os.environ, "PYTHONPATH": ":".join(map(str, NODE))},
            check=True,
            timeout=120,
        )

    def admitted(self, nqn: str = NQN) -> int:
        (subsystem,) = [each for each in self.target.call("nvmf_get_subsystems") if each["nqn"] == nqn]
        return len(subsystem["hosts"])


@pytest.fixture
def two(tmp_path: Path, make_sma: Any, spdk: FakeSpdk) -> Iterator[Two]:
    qemus = [FakeQemu(spdk), FakeQemu(spdk)]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    made = Two(tmp_path, qemus, make_sma, port)
    yield made
    made.leave()
    for qemu in qemus:
        qemu.close()
    for node in (made.second, made.ipu, made.target):
        node.stop()


def test_a_volume_on_two_hosts(two: Two) -> None:
    first, second = ({**DATA, "host": host} for host in two.ipus)
    two.play("disks.yml", first, OWN)
    assert two.admitted() == 1
    one = two.guest_of("host1")
    assert one.do(OUT, 0, TEXT).status == 0

    # The second host comes, and both have the same bytes under the same name.
    two.play("disks.yml", first, second, OWN)
    two.has(first, second, OWN)
    assert two.admitted() == 2
    other = two.guest_of("host2", slot=1)
    serials = {guest.do(GET_ID, room=20).data.strip(b" \0") for guest in (one, other)}
    assert len(serials) == 1 and serials.pop().startswith(b"shared-")
    assert other.do(IN, 0, room=len(TEXT)).data == TEXT
    assert other.do(OUT, 0, MORE).status == 0
    assert one.do(IN, 0, room=len(TEXT)).data == MORE
    assert (two.state / "st1" / "volumes" / "data.img").read_bytes()[: len(MORE)] == MORE
    with pytest.raises(CallFailed):
        two.ipu.call("bdev_nvme_attach_controller", **to_subsystem(two, "nqn.2022-06.io.ipdk:st1:ipu2"))

    # What is exported is what is declared.
    written = two.state / "exported.yml"
    two.play("export.yml", export_output=str(written))
    exported = yaml.safe_load(written.read_text())["virtual_disks"]
    assert [(item["name"], item["host"], item.get("shared", False)) for item in exported] == [
        ("data", "host1", True),
        ("data", "host2", True),
        ("own", "host2", False),
    ]
    two.has(*exported)

    # It grows under both.
    first, second = ({**item, "size": "2MiB"} for item in (first, second))
    two.play("disks.yml", first, second, OWN)
    for spdk in two.ipus.values():
        (bdev,) = [each for each in spdk.call("bdev_get_bdevs") if each["name"].startswith("shared-")]
        assert bdev["num_blocks"] * bdev["block_size"] == 2 << 20

    # All come back by themselves.
    two.leave()
    two.comes_back("st1", two.target)
    two.comes_back("ipu1", two.ipu)
    two.comes_back("ipu2", two.second)
    assert two.guest_of("host1").do(IN, 0, room=len(TEXT)).data == MORE
    assert two.guest_of("host2", slot=1).do(IN, 0, room=len(TEXT)).data == MORE
    two.has(first, second, OWN)

    # One leaves and is shut out; the other goes on.
    two.leave("host2")
    one = two.guest_of("host1")
    gone = {**second, "state": "detached"}
    two.play("disks.yml", first, gone, OWN)
    assert two.admitted() == 1
    assert [each["name"] for each in two.second.call("bdev_nvme_get_controllers")] == ["st1"]
    with pytest.raises(CallFailed):
        two.second.call("bdev_nvme_attach_controller", **to_subsystem(two, NQN, "ipu2"))
    assert one.do(OUT, 0, TEXT).status == 0 and one.do(IN, 0, room=len(TEXT)).data == TEXT
    two.has(first, gone, OWN)
    two.leave()

    # Detached everywhere, it may become a disk of one host, and one that is shared again.
    alone = {key: value for key, value in second.items() if key != "shared"}
    two.play("disks.yml", {**first, "state": "detached"}, gone, OWN)
    two.play("disks.yml", alone, OWN)
    assert two.guest_of("host2", slot=1).do(IN, 0, room=len(TEXT)).data == TEXT
    two.leave()
    two.play("disks.yml", {**first, "state": "detached"}, gone, OWN)
    two.play("disks.yml", first, second, OWN)
    two.has(first, second, OWN)

    # It is destroyed for all of them.
    two.leave()
    absent = [{**item, "state": "absent"} for item in (first, second)]
    two.play("disks.yml", *absent, OWN, ipdk_safe_mode=False)
    assert not (two.state / "st1" / "volumes" / "data.img").exists()
    assert [each["nqn"] for each in two.target.call("nvmf_get_subsystems") if "shared" in each["nqn"]] == []
    assert two.ipu.call("bdev_nvme_get_controllers") == []
    two.has(OWN)


def test_an_ipu_that_does_not_answer_is_shut_out_by_force(two: Two) -> None:
    first, second = ({**DATA, "host": host} for host in two.ipus)
    two.play("disks.yml", first, second)
    one = two.guest_of("host1")
    gone = {**second, "state": "detached"}
    two.second.pause()
    said = two.play("disks.yml", first, gone, ends=2, spdk_rpc_timeout=5, virtual_disks_force=False)
    assert "Set virtual_disks_force: true to shut it out all the same: st1 then refuses what ipu2 still writes" in said
    assert two.admitted() == 2
    said = two.play("disks.yml", first, gone, ends=2, spdk_rpc_timeout=5)
    assert "st1: shut out 1 host: ipu2" in said
    assert two.admitted() == 1
    assert one.do(OUT, 0, TEXT).status == 0 and one.do(IN, 0, room=len(TEXT)).data == TEXT

    # It answers again, and is disconnected before anything else: what it had on its way does not get through any more.
    two.second.resume()
    assert two.second.call("bdev_nvme_get_controllers") != []
    assert "ipu2: sever 1 controller: shared-" in two.play("disks.yml", first, gone)
    assert two.second.call("bdev_nvme_get_controllers") == []
    assert two.admitted() == 1
    assert one.do(IN, 0, room=len(TEXT)).data == TEXT


def to_subsystem(two: Two, nqn: str, ipu: str = "ipu1") -> dict[str, Any]:
    """Parameters of a controller by which this IPU would get at a subsystem."""
    (subsystem,) = [each for each in two.target.call("nvmf_get_subsystems") if each["nqn"] == nqn]
    (listener,) = subsystem["listen_addresses"]
    declared = json.loads((two.state / ipu / "declaration.json").read_text())
    hostnqn = {each["hostnqn"] for each in declared["controllers"]}.pop()
    path = {key: listener[key] for key in ("trtype", "adrfam", "traddr", "trsvcid")}
    return {"name": "stranger", **path, "subnqn": nqn, "hostnqn": hostnqn}
