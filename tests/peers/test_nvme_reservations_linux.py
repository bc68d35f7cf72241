"""Two hosts that reserve a namespace, with Linux's NVMe/TCP and nvme-cli in a guest."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from guests import CommandFailed, Guest
from guests.guest import HOST_ADDRESS
from support.ports import free_port
from support.spdk import Spdk

NQN = "nqn.2022-06.io.ipdk:st1:ipu1"
HOST_IDS = ("11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222")
WRITE_EXCLUSIVE, EXCLUSIVE_ACCESS = 1, 2
ACQUIRE, PREEMPT = 0, 1
RELEASE, CLEAR = 0, 1
ONE_BLOCK = "io-passthru --data-len=512 --cdw10=0 --cdw12=0"


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    with Guest(tmp_path_factory.mktemp("guest")) as guest:
        guest.load("nvme-tcp")
        yield guest


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """That of a storage target with one disk of 32 MiB."""
    number = free_port()
    with Spdk(tmp_path) as node:
        node.call("nvmf_create_transport", trtype="TCP")
        node.call("bdev_malloc_create", name="vol00", num_blocks=65536, block_size=512)
        node.call("nvmf_create_subsystem", nqn=NQN, serial_number="ST1", allow_any_host=True)
        node.call("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "vol00", "nsid": 1})
        place = {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(number)}
        node.call("nvmf_subsystem_add_listener", nqn=NQN, listen_address=place)
        yield number


class Host:
    """One of the hosts: a controller of the guest's, whose commands go to its own device, whatever other paths say."""

    def __init__(self, guest: Guest, host_id: str, port: int) -> None:
        self.guest = guest
        self.id = host_id
        options = {
            "nqn": NQN,
            "transport": "tcp",
            "traddr": HOST_ADDRESS,
            "trsvcid": port,
            "hostnqn": f"nqn.2014-08.org.nvmexpress:uuid:{host_id}",
            "hostid": host_id,
            "nr_io_queues": 1,
        }
        # Not by nvme-cli: it does not look who the host is, and says that it is connected already.
        guest.sh(f"echo {','.join(f'{name}={value}' for name, value in options.items())} > /dev/nvme-fabrics")
        (self.device,) = (
            line.split("/")[4] for line in guest.sh(f"grep -l {host_id} /sys/class/nvme/nvme*/hostid").splitlines()
        )

    def nvme(self, command: str, *options: str) -> str:
        verb, *rest = command.split()
        return self.guest.sh(" ".join(["nvme", verb, f"/dev/{self.device}", "-n 1", *rest, *options, "2>&1"]))

    def refuses(self, command: str) -> bool:
        """The command conflicts with the reservation; any other failure is one of the test."""
        try:
            self.nvme(command)
        except CommandFailed as failed:
            assert "reservation conflict" in failed.output.lower(), failed
            return True
        return False

    def register(self, key: int) -> None:
        self.nvme(f"resv-register --nrkey={key}")

    def acquire(self, key: int, kind: int, action: int = ACQUIRE, preempted: int = 0) -> None:
        self.nvme(f"resv-acquire --crkey={key} --prkey={preempted} --rtype={kind} --racqa={action}")

    def release(self, key: int, kind: int = 0, action: int = RELEASE) -> None:
        self.nvme(f"resv-release --crkey={key} --rtype={kind} --rrela={action}")

    def report(self) -> tuple[int, dict[str, tuple[int, int]]]:
        """The type of the reservation, and of each registrant, by host identifier, its key and whether it holds it."""
        answer = self.nvme("resv-report --eds --numd=1023 --output-format=json")
        found = json.loads(answer[answer.index("{") :])
        registrants: list[dict[str, Any]] = found.get("regctlext", [])
        return found["rtype"], {each["hostid"].replace("-", ""): (each["rkey"], each["rcsts"]) for each in registrants}

    @property
    def can_read(self) -> bool:
        return not self.refuses(f"{ONE_BLOCK} --opcode=2 --read")

    @property
    def can_write(self) -> bool:
        return not self.refuses(f"{ONE_BLOCK} --opcode=1 --write --input-file=/tmp/block")


def test_two_hosts_reserve_a_namespace_in_turn(guest: Guest, port: int) -> None:
    guest.sh("head -c 512 /dev/urandom > /tmp/block")
    one, two = (Host(guest, host_id, port) for host_id in HOST_IDS)
    ids = [host_id.replace("-", "") for host_id in HOST_IDS]
    one.register(0x11)
    two.register(0x12)
    one.acquire(0x11, WRITE_EXCLUSIVE)
    assert two.report() == (WRITE_EXCLUSIVE, {ids[0]: (0x11, 1), ids[1]: (0x12, 0)})
    assert [one.can_write, one.can_read, two.can_write, two.can_read] == [True, True, False, True]
    assert two.refuses(f"resv-acquire --crkey={0x12} --rtype={WRITE_EXCLUSIVE} --racqa={ACQUIRE}")
    two.acquire(0x12, EXCLUSIVE_ACCESS, PREEMPT, 0x11)
    assert one.report() == (EXCLUSIVE_ACCESS, {ids[1]: (0x12, 1)})
    assert [one.can_write, one.can_read, two.can_write, two.can_read] == [False, False, True, True]
    two.release(0x12, EXCLUSIVE_ACCESS)
    assert [one.can_write, two.can_write] == [True, True]
    two.release(0x12, action=CLEAR)
    assert one.report() == (0, {})
    guest.sh(f"nvme disconnect -n {NQN}")
    end = time.monotonic() + 60
    while guest.sh("ls /sys/class/nvme"):
        assert time.monotonic() < end, "the controllers do not go"
        time.sleep(0.05)
