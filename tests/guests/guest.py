"""A running guest: its shell, its disks, its QEMU monitor."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from .image import build

BRIDGES = 2
SLOTS = 32
"""Devices on one bridge."""
NETWORK = "198.18.100.0/24"
HOST_ADDRESS = "198.18.100.2"


class CommandFailed(Exception):
    """A script in the guest ended with a status other than 0."""

    def __init__(self, script: str, status: int, output: str) -> None:
        super().__init__(f"status {status} from the guest's {script!r}:\n{output}")
        self.status = status
        self.output = output


class Disk(NamedTuple):
    name: str
    """In the guest: ``vda``."""
    size: int
    """Bytes."""


class Guest:
    """A context manager. Boots on entry, ends on exit; ``directory`` receives its sockets and logs."""

    def __init__(
        self,
        directory: Path,
        *,
        memory: str = "768M",
        vcpus: int = 1,
        forward: dict[int, int] | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        """``forward`` maps ports of the guest to ports of 127.0.0.1; ``arguments`` are for QEMU, behind all others."""
        self.console = directory / "console.log"
        self._shell_path = directory / "shell.sock"
        self._monitor_path = directory / "qmp.sock"
        self._log = directory / "qemu.log"
        self._memory = memory
        self._vcpus = vcpus
        self._forward = forward or {}
        self._arguments = arguments
        self._tokens = count()
        self._buffer = b""
        self._monitor_buffer = b""
        self._events: list[dict[str, Any]] = []
        self._process: subprocess.Popen[bytes] | None = None
        self.boot_seconds = 0.0

    def __enter__(self) -> Guest:
        image = build()
        begin = time.monotonic()
        forwards = "".join(f",hostfwd=tcp:127.0.0.1:{here}-:{there}" for there, here in self._forward.items())
        command = [
            *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"),
            *("-smp", str(self._vcpus), "-m", self._memory),
            *("-object", f"memory-backend-memfd,id=memory,size={self._memory},share=on"),
            *("-numa", "node,memdev=memory"),
            *("-kernel", str(image.kernel), "-initrd", str(image.initramfs)),
            *("-append", "console=ttyS0 panic=-1 mitigations=off nokaslr tsc=reliable random.trust_cpu=on"),
            *("-serial", f"file:{self.console}"),
            *("-chardev", f"socket,id=shell,path={self._shell_path},server=on,wait=off"),
            *("-device", "virtio-serial-pci", "-device", "virtserialport,chardev=shell,name=shell"),
            *("-qmp", f"unix:{self._monitor_path},server=on,wait=off"),
            *("-netdev", f"user,id=net,net={NETWORK},host={HOST_ADDRESS}{forwards}"),
            *("-device", "virtio-net-pci,netdev=net,romfile="),
        ]
        for number in range(BRIDGES):
            command += ["-device", f"pci-bridge,chassis_nr={number + 1},id=pci.ipdk.{number}"]
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen([*command, *self._arguments], stdout=log, stderr=log)
        try:
            self._monitor = self._connect(self._monitor_path)
            self._read_monitor(60)
            self.qmp("qmp_capabilities")
            self._shell = self._connect(self._shell_path)
            self._until(b"@@READY\n", 300)
        except BaseException:
            self.close()
            raise
        self.boot_seconds = time.monotonic() - begin
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _connect(self, path: Path) -> socket.socket:
        end = time.monotonic() + 60
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(path))
                return connection
            except OSError:
                connection.close()
                if self._process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"QEMU does not answer on {path}:\n{self._log.read_text()}") from None
                time.sleep(0.02)

    # The shell

    def sh(self, script: str, timeout: float = 180) -> str:
        """Run a script; what it printed, stripped. Raises :class:`CommandFailed` or ``TimeoutError``."""
        token = f"done{next(self._tokens)}"
        self._shell.sendall(f"{token} {base64.b64encode(script.encode()).decode()}\n".encode())
        output = self._until(f"@@{token} ".encode(), timeout).decode(errors="replace").strip()
        status = int(self._until(b"\n", 10))
        if status:
            raise CommandFailed(script, status, output)
        return output

    def _until(self, mark: bytes, timeout: float) -> bytes:
        end = time.monotonic() + timeout
        while mark not in self._buffer:
            self._shell.settimeout(max(0.01, end - time.monotonic()))
            try:
                data = self._shell.recv(65536)
            except TimeoutError:
                tail = self._buffer[-2000:].decode(errors="replace")
                raise TimeoutError(f"no {mark!r} from the guest within {timeout} s; it said: {tail}") from None
            if not data:
                raise RuntimeError(f"the guest is gone:\n{self._log.read_text()}\n{self.console.read_text()[-2000:]}")
            self._buffer += data
        before, _unused, self._buffer = self._buffer.partition(mark)
        return before

    def load(self, *modules: str) -> None:
        """Load kernel modules (``image.MODULES``) with what they depend on."""
        self.sh(f"load {' '.join(modules)}")

    # The monitor

    def qmp(self, command: str, **arguments: Any) -> Any:
        """One command and its answer. Raises ``RuntimeError`` with QEMU's description of what is wrong."""
        self._monitor.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            message = self._read_monitor(60)
            if "error" in message:
                raise RuntimeError(f"{command}: {message['error']['desc']}")
            if "return" in message:
                return message["return"]
            self._events.append(message)

    def _read_monitor(self, timeout: float) -> dict[str, Any]:
        end = time.monotonic() + timeout
        while b"\n" not in self._monitor_buffer:
            self._monitor.settimeout(max(0.01, end - time.monotonic()))
            data = self._monitor.recv(65536)
            if not data:
                raise RuntimeError(f"QEMU is gone:\n{self._log.read_text()}")
            self._monitor_buffer += data
        line, _unused, self._monitor_buffer = self._monitor_buffer.partition(b"\n")
        return json.loads(line)

    def wait_event(self, name: str, matches: Callable[[dict[str, Any]], bool], timeout: float = 120) -> dict[str, Any]:
        """The first event of that name whose data ``matches``, past or to come."""
        end = time.monotonic() + timeout
        while True:
            for event in self._events:
                if event["event"] == name and matches(event.get("data", {})):
                    self._events.remove(event)
                    return event
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no event {name} within {timeout} s")
            self._events.append(self._read_monitor(left))

    # Disks

    def plug(self, name: str, path: Path | str, slot: int, reconnect: int = 1, **properties: Any) -> None:
        """Hot-plug the vhost-user-blk disk behind a socket. ``slot`` counts through the bridges: 0 to 63."""
        address = {"type": "unix", "data": {"path": str(path)}}
        backend = {"type": "socket", "data": {"addr": address, "server": False, "reconnect": reconnect}}
        self.qmp("chardev-add", id=name, backend=backend)
        self.qmp(
            "device_add",
            driver="vhost-user-blk-pci",
            chardev=name,
            id=name,
            bus=f"pci.ipdk.{slot // SLOTS}",
            addr=hex(slot % SLOTS),
            **properties,
        )

    def unplug(self, *names: str, timeout: float = 120) -> None:
        """Ask the guest to let go of disks, all at once, and wait until it has."""
        for name in names:
            self.qmp("device_del", id=name)
        for name in names:
            self.wait_event("DEVICE_DELETED", lambda data, name=name: data.get("device") == name, timeout)
            self.qmp("chardev-remove", id=name)

    def disks(self) -> dict[str, Disk]:
        """The virtio disks that the guest can open, by serial.

        The kernel shows a disk in sysfs a moment before its node is in /dev; what is written there in between makes an
        ordinary file of that name.
        """
        script = (
            "cd /sys/block; for disk in vd*; do "
            '[ -b "/dev/$disk" ] && echo "$disk;$(cat $disk/size);$(cat $disk/serial)"; done; true'
        )
        rows = [line.split(";", 2) for line in self.sh(script).splitlines()]
        return {serial.strip(): Disk(name, int(sectors) * 512) for name, sectors, serial in rows}

    def wait_disks(self, matches: Callable[[dict[str, Disk]], bool], timeout: float = 120) -> dict[str, Disk]:
        """Look again until the disks are as wanted."""
        end = time.monotonic() + timeout
        while not matches(disks := self.disks()):
            if time.monotonic() > end:
                raise TimeoutError(f"the guest's disks are not as wanted after {timeout} s: {disks}")
            time.sleep(0.05)
        return disks
