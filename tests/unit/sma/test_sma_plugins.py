# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Several device managers in one SMA, of a vendor's module (dummy_vendor.py) and package (acme_sma), too; readiness."""

from __future__ import annotations

import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.ipdk.storage.plugins.module_utils import _jsonrpc, _sma
from conftest import Sma
from sma_fakes import FakeQemu, FakeSpdk


def ready(sma: Sma, timeout: float) -> subprocess.CompletedProcess[str]:
    command = [*sma.command()[:2], "ipdk_sma.ready", *sma.command()[3:], "--timeout", str(timeout)]
    return subprocess.run(command, env=sma.environment(), capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def vendor_sma(make_sma: Callable[..., Sma], tmp_path: Path, qemu: FakeQemu, spdk: FakeSpdk) -> Sma:
    dummy = {"name": "dummy_vendor", "params": {"serial": "ACME7"}}
    return make_sma(spdk.path, qemu.port, plugins=["dummy_vendor"], devices=[dummy])


def test_a_vendors_manager_works_beside_ours(vendor_sma: Sma, spdk: FakeSpdk, qemu: FakeQemu) -> None:
    vendor_sma.start()
    with _sma.Client(vendor_sma.address, timeout=20) as client:
        assert client.call("CreateDevice", {"nvme": {"physical_id": 3}}).handle == "nvme:ACME7-3"
        volume = uuid.UUID(spdk.add_bdev("st1n1")).bytes
        request = {"volume": {"volume_id": volume}, "virtio_blk": {"physical_id": 0}}
        assert client.call("CreateDevice", request).handle == "virtio_blk:sma-0"
        assert "sma-0" in qemu.devices
        client.call("DeleteDevice", {"handle": "nvme:ACME7-3"})
        client.call("DeleteDevice", {"handle": "virtio_blk:sma-0"})
        with pytest.raises(_jsonrpc.Error, match="Invalid device handle"):
            client.call("DeleteDevice", {"handle": "nvme:other-3"})


def test_a_plugin_of_a_package(make_sma: Callable[..., Sma], tmp_path: Path, qemu: FakeQemu, spdk: FakeSpdk) -> None:
    """Its wheel is all that is installed; the scenario `systemd` does it through the role."""
    sources, wheels, packages = tmp_path / "sources", tmp_path / "wheels", tmp_path / "packages"
    shutil.copytree(Path(__file__).parent / "acme_sma", sources)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(sources)]
    subprocess.run([*pip, *build], check=True, timeout=120)
    (wheel,) = wheels.iterdir()
    install = ["install", "--no-index", "--only-binary", ":all:", "--target", str(packages), str(wheel)]
    subprocess.run([*pip, *install], check=True, timeout=120)

    acme = {"name": "acme", "params": {"prefix": "A7"}}
    sma = make_sma(spdk.path, qemu.port, plugins=["acme_sma"], devices=[acme], packages=packages)
    sma.start()
    with _sma.Client(sma.address, timeout=20) as client:
        request = {"nvmf_tcp": {"subnqn": "nqn.2022-06.io.ipdk:acme", "traddr": "127.0.0.1"}}
        assert client.call("CreateDevice", request).handle == "nvmf-tcp:A7-nqn.2022-06.io.ipdk:acme"


def test_a_manager_that_no_plugin_has_ends_sma(make_sma: Callable[..., Sma], qemu: FakeQemu, spdk: FakeSpdk) -> None:
    sma = make_sma(spdk.path, qemu.port, devices=[{"name": "dummy_vendor"}])
    process = sma.start(wait=False)
    assert process.wait(timeout=30) == 1
    assert "Couldn't find device: dummy_vendor" in sma.log.read_text()


def test_ready_waits_for_sma(vendor_sma: Sma) -> None:
    late = ready(vendor_sma, 0.5)
    assert late.returncode == 1
    assert f"no SMA answers on {vendor_sma.address} within 0.5 s" in late.stderr
    vendor_sma.start(wait=False)
    assert ready(vendor_sma, 30).returncode == 0


LINGERING = """
import atexit, time

atexit.register(time.sleep, 600)
"""
INTERRUPTED = """
import signal, sys, threading


class Interrupted(threading.Event):
    def wait(self, timeout=None):
        if sys._getframe(1).f_code.co_name == "run":
            with self._cond:
                signal.raise_signal(signal.SIGTERM)
        return super().wait(timeout)


threading.Event = Interrupted
"""


@pytest.mark.parametrize(
    "plugin",
    [
        pytest.param(LINGERING, id="python's end takes long, as a server of grpcio that waits for ever"),
        pytest.param(INTERRUPTED, id="the signal comes while SMA holds the lock of the event it waits for"),
    ],
)
def test_it_ends_when_told(
    make_sma: Callable[..., Sma], tmp_path: Path, qemu: FakeQemu, spdk: FakeSpdk, plugin: str
) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "hindrance.py").write_text(plugin)
    sma = make_sma(spdk.path, qemu.port, plugins=["hindrance"], packages=packages)
    process = sma.start()
    sma.stop()  # it waits for the process, not for ever
    assert process.returncode == 0
