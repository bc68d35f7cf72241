# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The two neighbours of SMA, small enough to be told how to misbehave: SPDK's JSON-RPC and QEMU's QMP."""

from __future__ import annotations

import json
import socketserver
import threading
import uuid
from pathlib import Path
from typing import Any


class FakeSpdk:
    """The vhost and bdev calls of SPDK that SMA and the modules make, on a unix socket.

    `bdevs`: name → UUID. `controllers`: name → bdev name. `connected`: the controllers that a guest is connected to.
    `disks`: NBD disks, path → bdev name. `subsystems`: by NQN. `calls`: every method asked for, in order.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bdevs: dict[str, str] = {}
        self.controllers: dict[str, str | None] = {}
        self.connected: set[str] = set()
        self.disks: dict[str, str] = {}
        self.transports: list[str] = []
        self.subsystems: dict[str, dict[str, Any]] = {}
        self.limits: dict[str, Any] = {}
        self.calls: list[str] = []
        fake = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                decoder, text = json.JSONDecoder(), ""
                while data := self.request.recv(65536):
                    text += data.decode()
                    while text := text.lstrip():
                        try:
                            request, end = decoder.raw_decode(text)
                        except ValueError:
                            break
                        text = text[end:]
                        answer = {"jsonrpc": "2.0", "id": request["id"], **fake.answer(request)}
                        self.request.sendall(json.dumps(answer).encode())

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

        self._server = Server(str(path), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.path.unlink()

    def add_bdev(self, name: str, identity: str = "") -> str:
        """Add a bdev; its UUID, one that SMA has never heard of unless it is given."""
        self.bdevs[name] = identity or str(uuid.uuid4())
        return self.bdevs[name]

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        method, params = request["method"], request.get("params") or {}
        self.calls.append(method)
        handler = getattr(self, f"rpc_{method}", None)
        if handler is None:
            return {"error": {"code": -32601, "message": "Method not found"}}
        return handler(params)

    def rpc_rpc_get_methods(self, _params: dict[str, Any]) -> dict[str, Any]:
        return {"result": [name[4:] for name in dir(self) if name.startswith("rpc_")]}

    def rpc_bdev_get_bdevs(self, params: dict[str, Any]) -> dict[str, Any]:
        wanted = params.get("name")
        found = [
            {"name": name, "uuid": identity, "aliases": [identity], "block_size": 512, "num_blocks": 2048}
            for name, identity in self.bdevs.items()
            if wanted in (None, name, identity)
        ]
        if wanted and not found:
            return {"error": {"code": -19, "message": "No such device"}}
        return {"result": found}

    def rpc_vhost_get_controllers(self, params: dict[str, Any]) -> dict[str, Any]:
        wanted = params.get("name")
        if wanted and wanted not in self.controllers:
            return {"error": {"code": -32603, "message": "No such device"}}
        return {
            "result": [
                {
                    "ctrlr": name,
                    "socket": f"/nowhere/{name}",
                    "sessions": [{"vid": 0, "id": 0, "started": True}] if name in self.connected else [],
                    "backend_specific": {"block": {"readonly": False, "bdev": bdev, "transport": "vhost_user_blk"}},
                }
                for name, bdev in self.controllers.items()
                if wanted in (None, name)
            ]
        }

    def rpc_vhost_create_blk_controller(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["ctrlr"] in self.controllers:
            return {"error": {"code": -32602, "message": "File exists"}}
        self.controllers[params["ctrlr"]] = params["dev_name"]
        return {"result": True}

    def rpc_vhost_delete_controller(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["ctrlr"] not in self.controllers:
            return {"error": {"code": -32602, "message": "No such device"}}
        if params["ctrlr"] in self.connected:
            return {"error": {"code": -32602, "message": "Device or resource busy"}}
        del self.controllers[params["ctrlr"]]
        return {"result": True}

    def rpc_nbd_get_disks(self, _params: dict[str, Any]) -> dict[str, Any]:
        return {"result": [{"nbd_device": path, "bdev_name": bdev} for path, bdev in self.disks.items()]}

    def rpc_nbd_start_disk(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["nbd_device"] in self.disks:
            return {"error": {"code": -16, "message": "Device or resource busy"}}
        self.disks[params["nbd_device"]] = params["bdev_name"]
        return {"result": params["nbd_device"]}

    def rpc_nbd_stop_disk(self, params: dict[str, Any]) -> dict[str, Any]:
        if self.disks.pop(params["nbd_device"], None) is None:
            return {"error": {"code": -19, "message": "No such device"}}
        return {"result": True}

    def rpc_nvmf_get_transports(self, _params: dict[str, Any]) -> dict[str, Any]:
        return {"result": [{"trtype": name} for name in self.transports]}

    def rpc_nvmf_create_transport(self, params: dict[str, Any]) -> dict[str, Any]:
        self.transports.append(params["trtype"])
        return {"result": True}

    def rpc_nvmf_get_subsystems(self, _params: dict[str, Any]) -> dict[str, Any]:
        return {"result": list(self.subsystems.values())}

    def rpc_nvmf_create_subsystem(self, params: dict[str, Any]) -> dict[str, Any]:
        self.subsystems[params["nqn"]] = {**params, "listen_addresses": [], "namespaces": []}
        return {"result": True}

    def rpc_nvmf_delete_subsystem(self, params: dict[str, Any]) -> dict[str, Any]:
        del self.subsystems[params["nqn"]]
        return {"result": True}

    def rpc_nvmf_subsystem_add_listener(self, params: dict[str, Any]) -> dict[str, Any]:
        if not Path(params["listen_address"]["traddr"]).is_dir():
            return {"error": {"code": -32602, "message": "Invalid parameters"}}
        self.subsystems[params["nqn"]]["listen_addresses"].append(params["listen_address"])
        return {"result": True}

    def rpc_nvmf_subsystem_add_ns(self, params: dict[str, Any]) -> dict[str, Any]:
        namespaces = self.subsystems[params["nqn"]]["namespaces"]
        nsid = next(number for number in range(1, 99) if number not in [each["nsid"] for each in namespaces])
        namespaces.append({"nsid": nsid, **params["namespace"]})
        return {"result": nsid}

    def rpc_nvmf_subsystem_remove_ns(self, params: dict[str, Any]) -> dict[str, Any]:
        subsystem = self.subsystems[params["nqn"]]
        subsystem["namespaces"] = [each for each in subsystem["namespaces"] if each["nsid"] != params["nsid"]]
        return {"result": True}

    def rpc_bdev_set_qos_limit(self, params: dict[str, Any]) -> dict[str, Any]:
        self.limits = params
        return {"result": True}


class FakeQemu:
    """QEMU's QMP monitor on a loopback port, or a unix socket, with a guest of adjustable manners.

    `devices`, `characters`, `nodes` (of block): id → the arguments they were made with. `guest`: what it does when
    asked to release a device: `release`, `ignore` or `refuse`. `refuse_device_add`: QEMU's words, or "".
    """

    def __init__(self, spdk: FakeSpdk, place: int | Path = 0) -> None:
        self.spdk = spdk
        self.devices: dict[str, dict[str, Any]] = {}
        self.characters: dict[str, dict[str, Any]] = {}
        self.nodes: dict[str, dict[str, Any]] = {}
        self.leaving: set[str] = set()
        self.guest = "release"
        self.refuse_device_add = ""
        self.version = (7, 2)
        self.commands: list[str] = []
        fake = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                major, minor = fake.version
                self.say(
                    {"QMP": {"version": {"qemu": {"major": major, "minor": minor, "micro": 0}}, "capabilities": []}}
                )
                for line in self.rfile:
                    request = json.loads(line)
                    answer, events = fake.answer(request["execute"], request.get("arguments", {}))
                    self.say({"id": request["id"], **answer})
                    for event in events:
                        self.say(event)

            def say(self, message: dict[str, Any]) -> None:
                self.wfile.write(json.dumps(message).encode() + b"\r\n")

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        class UnixServer(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

        self.port = 0
        self._server: socketserver.BaseServer
        if isinstance(place, Path):
            place.unlink(missing_ok=True)  # as QEMU does
            self._server = UnixServer(str(place), Handler)
        else:
            server = Server(("127.0.0.1", place), Handler)
            self._server, self.port = server, server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, command: str, arguments: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        self.commands.append(command)
        if command == "qmp_capabilities":
            return {"return": {}}, []
        if command == "qom-list":
            return {"return": [{"name": "type", "type": "string"}, *self.listed()]}, []
        if command == "query-chardev":
            return {"return": [{"label": name} for name in ["serial0", *self.characters]]}, []
        if command == "blockdev-add":
            self.nodes[arguments["node-name"]] = arguments
            return {"return": {}}, []
        if command == "blockdev-del":
            return self.blockdev_del(arguments["node-name"]), []
        identity = arguments["id"]
        if command == "chardev-add":
            if identity in self.characters:
                return _refusal(f"Chardev with id '{identity}' already exists"), []
            self.characters[identity] = arguments["backend"]
            return {"return": {}}, []
        if command == "chardev-remove":
            if identity in self.devices:
                return _refusal(f"Chardev '{identity}' is busy"), []
            if self.characters.pop(identity, None) is None:
                return _refusal(f"Chardev '{identity}' not found"), []
            return {"return": {}}, []
        if command == "device_add":
            needed = {"vhost-user-blk-pci": ("chardev", self.characters), "nvme": ("drive", self.nodes)}
            option, there = needed.get(arguments["driver"], ("", {identity: {}}))
            if self.refuse_device_add or identity not in there:
                return _refusal(self.refuse_device_add or f"Property '{option}' can't find value '{identity}'"), []
            self.devices[identity] = arguments
            self.spdk.connected.add(identity)
            return {"return": {}}, []
        if command == "device_del":
            return self.device_del(identity)
        return _refusal(f"The command {command} has not been found"), []

    def listed(self) -> list[dict[str, str]]:
        return [{"name": name, "type": f"child<{made['driver']}>"} for name, made in self.devices.items()]

    def blockdev_del(self, name: str) -> dict[str, Any]:
        if name in self.devices:
            return _refusal(f"Node {name} is in use")
        if self.nodes.pop(name, None) is None:
            return _refusal(f"Failed to find node with node-name='{name}'")
        return {"return": {}}

    def device_del(self, identity: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        if identity not in self.devices:
            return _refusal(f"Device '{identity}' not found"), []
        if self.guest == "refuse":
            return {"return": {}}, [_event("DEVICE_UNPLUG_GUEST_ERROR", identity)]
        if self.guest == "ignore":
            if identity in self.leaving:
                return _refusal(f"Device {identity} is already in the process of unplug"), []
            self.leaving.add(identity)
            return {"return": {}}, []
        self.release(identity)
        return {"return": {}}, [_event("DEVICE_DELETED", identity)]

    def release(self, identity: str) -> None:
        """The guest lets go of the device."""
        self.leaving.discard(identity)
        del self.devices[identity]
        self.spdk.connected.discard(identity)


def _refusal(text: str) -> dict[str, Any]:
    return {"error": {"class": "GenericError", "desc": text}}


def _event(name: str, identity: str) -> dict[str, Any]:
    return {"event": name, "data": {"device": identity, "path": f"/machine/peripheral/{identity}"}}
