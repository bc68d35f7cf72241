# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The real SMA server in an environment of its own, built as roles/ipu/files/sma/README.md says."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.ipdk.storage.plugins.module_utils import _jsonrpc, _sma
from sma_fakes import FakeQemu, FakeSpdk
from support.ports import free_port

ROOT = Path(__file__).resolve().parents[3]
FILES = ROOT / "roles" / "ipu" / "files"
ENVIRONMENT = ROOT / "build" / "sma-venv"
SMA_VERSION = yaml.safe_load((ROOT / "roles" / "ipu" / "defaults" / "main.yml").read_text())["ipu_sma_version"]


@pytest.fixture(scope="session")
def sma_python() -> Path:
    """The interpreter of an environment with SMA and its stubs; made once, made again when what goes in changes."""
    sources = [
        FILES / "sma" / "requirements.txt",
        FILES / "sma" / "build-requirements.txt",
        FILES / "sma" / "generate_stubs.py",
        *sorted((FILES / "proto").glob("*.proto")),
    ]
    digest = hashlib.sha256(SMA_VERSION.encode() + b"".join(source.read_bytes() for source in sources)).hexdigest()
    stamp = ENVIRONMENT / "made-from"
    python = ENVIRONMENT / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != digest:
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        requirements = FILES / "sma" / "build-requirements.txt"
        for command in (
            [
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "-r",
                str(requirements),
                f"spdk[sma]=={SMA_VERSION}",
            ],
            [str(FILES / "sma" / "generate_stubs.py"), str(FILES / "proto")],
        ):
            subprocess.run([str(python), *command], check=True, timeout=300)
        stamp.write_text(digest)
    return python


def environment(packages: Path = Path(__file__).parent) -> dict[str, str]:
    """What SMA is started with; `packages` has the vendors' plugins."""
    paths = f"{FILES / 'sma_plugins'}:{packages}"
    return {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}


class Sma:
    """An SMA process that can be killed and started again."""

    def __init__(
        self,
        python: Path,
        directory: Path,
        rpc_socket: Path,
        qmp_port: int,
        crypto: str = "nop",
        plugins: Sequence[str] = (),
        devices: Sequence[dict[str, Any]] = (),
        monitor: Path | None = None,
        packages: Path = Path(__file__).parent,
        manager: str = "ipdk_vhost_blk",
        **params: Any,
    ) -> None:
        self.address = f"unix:{directory}/sma.sock:8080"
        self.socket = directory / "sma.sock:8080"
        self.log = directory / "sma.log"
        self._python = python
        self._monitor = monitor
        self._packages = packages
        self._configuration = directory / "sma.yaml"
        self._process: subprocess.Popen[bytes] | None = None
        buses = [{"name": "pci.ipdk.0", "count": 32}, {"name": "pci.ipdk.1", "count": 32}]
        params = {"buses": buses, "qmp_port": qmp_port, "sock_path": str(directory), **params}
        configuration = {
            "address": f"unix:{directory}/sma.sock",
            "port": 8080,
            "volume_cleanup_period": 3600.0,  # it looks at all bdevs, at a moment that no test expects
            "socket": str(rpc_socket),
            "crypto": {"name": crypto},
            "plugins": ["ipdk_sma", *plugins],
            "devices": [{"name": manager, "params": params}, *devices],
        }
        self._configuration.write_text(yaml.safe_dump(configuration))

    def command(self) -> list[str]:
        monitor = ["--monitor", str(self._monitor)] if self._monitor else []
        return [str(self._python), "-m", "ipdk_sma", "--config", str(self._configuration), *monitor]

    def environment(self) -> dict[str, str]:
        return environment(self._packages)

    def start(self, wait: bool = True) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self.command(), env=self.environment(), stdout=log, stderr=log)
        if wait:
            with _sma.Client(self.address, timeout=20) as client:
                client.wait_ready(20)
        return self._process

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=20)
            self._process = None


@pytest.fixture
def sma_environment() -> dict[str, str]:
    return environment()


@pytest.fixture
def make_sma(sma_python: Path, tmp_path: Path) -> Iterator[Callable[..., Sma]]:
    """Makes SMA processes, not started yet: make_sma(rpc_socket, qmp_port, crypto=engine, **params of the manager).
    Each of several has a ``directory`` of its own."""
    made: list[Sma] = []

    def make(rpc_socket: Path, qmp_port: int, directory: Path = tmp_path, **params: Any) -> Sma:
        made.append(Sma(sma_python, directory, rpc_socket, qmp_port, **params))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@dataclass(frozen=True)
class Place:
    """Where the neighbours of SMA listen: the same for all tests, because one SMA serves most of them."""

    directory: Path
    qmp_port: int

    @property
    def rpc_socket(self) -> Path:
        return self.directory / "spdk.sock"


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("sma"), free_port())


@pytest.fixture
def spdk(place: Place) -> Iterator[FakeSpdk]:
    fake = FakeSpdk(place.rpc_socket)
    yield fake
    fake.close()


@pytest.fixture
def qemu(place: Place, spdk: FakeSpdk) -> Iterator[FakeQemu]:
    fake = FakeQemu(spdk, place.qmp_port)
    yield fake
    fake.close()


@pytest.fixture(scope="session")
def running_sma(sma_python: Path, place: Place) -> Iterator[Sma]:
    server = Sma(sma_python, place.directory, place.rpc_socket, place.qmp_port, qmp_timeout=1, unplug_timeout=0.5)
    spdk = FakeSpdk(place.rpc_socket)
    server.start()
    deadline = time.monotonic() + 10
    while "bdev_get_bdevs" not in spdk.calls and time.monotonic() < deadline:
        time.sleep(0.01)
    spdk.close()
    yield server
    server.stop()


@pytest.fixture
def sma(running_sma: Sma, spdk: FakeSpdk, qemu: FakeQemu) -> Sma:
    """A running SMA between the two fakes. It outlives the test: one that ends it makes its own."""
    return running_sma


@pytest.fixture
def client(sma: Sma) -> Iterator[_sma.Client]:
    with _sma.Client(sma.address, timeout=20) as opened:
        yield opened


@pytest.fixture
def rpc(spdk: FakeSpdk) -> Iterator[_jsonrpc.Client]:
    with _jsonrpc.Client(str(spdk.path), timeout=10) as opened:
        yield opened
