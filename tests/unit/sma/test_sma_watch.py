"""SMA ends when the guest's monitor goes away, and only then."""

from __future__ import annotations

import importlib.util
import socket
import sys
import threading
from pathlib import Path

FILE = Path(__file__).resolve().parents[3] / "roles" / "ipu" / "files" / "sma_plugins" / "ipdk_sma" / "watch.py"
specification = importlib.util.spec_from_file_location("ipdk_sma_watch", FILE)
assert specification and specification.loader
watch = importlib.util.module_from_spec(specification)
sys.modules["ipdk_sma_watch"] = watch
specification.loader.exec_module(watch)


def test_sees_who_listens() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        assert port not in watch.listening()
        server.listen()
        assert port in watch.listening()
    assert port not in watch.listening()


def test_ends_after_the_monitor_is_gone_not_before_it_came() -> None:
    ended = threading.Event()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]

        def run() -> None:
            watch.wait_until_gone({port}, 0.2)
            ended.set()

        threading.Thread(target=run, daemon=True).start()
        assert not ended.wait(0.5), "it has ended though the monitor was never there"
        server.listen()
        assert not ended.wait(0.5), "it has ended though the monitor is there"
    assert ended.wait(5), "it goes on though the monitor is gone"


def test_watches_the_monitors_of_its_own_namespace_only() -> None:
    configuration = {
        "devices": [
            {"name": "ipdk_vhost_blk", "params": {"qmp_addr": "127.0.0.1", "qmp_port": 5555}},
            {"name": "other", "params": {"qmp_addr": "192.0.2.1", "qmp_port": 5556}},
            {"name": "nvmf_tcp"},
        ]
    }
    assert watch.monitor_ports(configuration) == {5555}
