"""A small model of the three sides, so that a plan can be carried out and looked at again."""

from __future__ import annotations

import json
import uuid as uuid_module
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils import _crypto, _declaration, _sma_devices
from ansible_collections.ipdk.storage.plugins.plugin_utils import encryption, planner, steps, virtual_disk

HOST_NQN = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-{:012d}"


def disk(name: str = "vol00", **more: Any) -> dict[str, Any]:
    return {"name": name, "size": "64MiB", "backing": {"type": "malloc", "block_size": 512}, **more}


def lvol_disk(name: str = "vol00", **more: Any) -> dict[str, Any]:
    backing = {"type": "lvol", "store": "fast", **more.pop("backing", {})}
    return {"name": name, "size": "64MiB", "backing": backing, **more}


def with_store(inventory: dict[str, Any], clusters: int = 255, **more: Any) -> dict[str, Any]:
    """st1 has an lvol store "fast" of 1 GiB, clusters of 4 MiB."""
    inventory["targets"]["st1"]["lvol_stores"] = [{"name": "fast", "size": "1GiB", **more}]
    inventory["targets"]["st1"]["made_stores"] = [{"name": "fast", "clusters": clusters}]
    return inventory


def nodes(targets: int = 1, hosts: int = 1, slots: int = 64, access: str = "ssh") -> dict[str, Any]:
    """An inventory: st1…, and pairs of ipu1/host1…"""
    return {
        "targets": {
            f"st{n}": {"address": f"198.18.0.{n}", "port": 4420, "volumes_dir": f"/var/lib/ipdk/st{n}/volumes"}
            for n in range(1, targets + 1)
        },
        "ipus": {
            f"ipu{n}": {"host_nqn": HOST_NQN.format(n), "max_disks": slots, "keys_dir": f"/k{n}"}
            for n in range(1, hosts + 1)
        },
        "hosts": {f"host{n}": {"ipu": f"ipu{n}", "access": access} for n in range(1, hosts + 1)},
    }


LIMITS = {
    "rw_iops": "rw_ios_per_sec",
    "rw_bandwidth": "rw_mbytes_per_sec",
    "rd_bandwidth": "r_mbytes_per_sec",
    "wr_bandwidth": "w_mbytes_per_sec",
}
NO_LIMITS = dict.fromkeys(LIMITS.values(), 0)


WITHOUT_STEPS = {"came_off", "declare", "fence", "files_present", "files_absent", "present"}
"""Stages that look whether steps came true, or that this world does otherwise."""


class World:
    """Nodes that do what the modules would make them do; their answers have the shapes that SPDK's have.

    ``keeps``: the nodes keep their declarations.
    """

    def __init__(self, inventory: dict[str, Any], keeps: bool = False) -> None:
        self.inventory = inventory
        self.kept: dict[str, Any] = dict.fromkeys([*inventory["targets"], *inventory["ipus"]]) if keeps else {}
        """by node, its declaration; null of one that has none yet"""
        self.bdevs: dict[str, dict[str, dict[str, Any]]] = {target: {} for target in inventory["targets"]}
        self.subsystems: dict[str, dict[str, dict[str, Any]]] = {target: {} for target in inventory["targets"]}
        self.controllers: dict[str, dict[str, dict[str, Any]]] = {ipu: {} for ipu in inventory["ipus"]}
        self.devices: dict[str, dict[int, str]] = {ipu: {} for ipu in inventory["ipus"]}
        self.crypto: dict[str, dict[str, dict[str, Any]]] = {ipu: {} for ipu in inventory["ipus"]}
        """encrypted bdevs by name, as the module was told to make them"""
        self.keys: dict[str, str] = {}
        """encrypted bdev → fingerprint of the key that the role has added"""
        self.limits: dict[str, dict[str, dict[str, int]]] = {ipu: {} for ipu in inventory["ipus"]}
        """limits of the IPU's bdevs by name, as SPDK has them"""
        self.nvme: dict[str, dict[int, str]] = {ipu: {} for ipu in inventory["ipus"]}
        """NVMe devices among ``devices``, by slot: the manager that has made them"""
        self.empty: dict[str, dict[int, str]] = {ipu: {} for ipu in inventory["ipus"]}
        """NVMe devices without a volume, by slot: their serial numbers"""
        self.unplugged: dict[str, set[int]] = {ipu: set() for ipu in inventory["ipus"]}
        """devices that no QEMU is connected to"""
        self.gone: set[tuple[str, int]] = set()
        """devices, by IPU and slot, whose bdev is gone"""
        self.uses: dict[str, dict[str, Any]] = {}
        """serial → fields of a host's disk that is in use"""
        self.dead: set[str] = set()
        self.stores: dict[str, dict[str, dict[str, Any]]] = {
            target: {
                item["name"]: {
                    "name": item["name"],
                    "uuid": f"store-{target}-{item['name']}",
                    "base_bdev": f"Store-{item['name']}",
                    "cluster_size": 4 << 20,
                    "total_data_clusters": item["clusters"],
                    "free_clusters": item["clusters"],
                }
                for item in inventory["targets"][target].get("made_stores", [])
            }
            for target in inventory["targets"]
        }
        """lvol stores that exist"""
        self.ana: dict[tuple[str, str, str], str] = {}
        """by NQN, address and port: ANA states of the listeners"""

    def plan(self, *disks: dict[str, Any], **options: Any) -> dict[str, Any]:
        """A plan of what is there. It survives JSON, because Ansible carries it, and has no key of a disk in it."""
        text = json.dumps(planner.plan(list(disks), self.inventory, self.observed(), options))
        for item in disks:
            for half in ("key", "key2"):
                key = (item.get("encryption") or {}).get(half)
                assert not key or key.lower() not in text.lower()
        return json.loads(text)

    def run(self, *disks: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Plan, and carry that out."""
        planned = self.plan(*disks, **options)
        for work in planned["nodes"].values():
            for item in encryption.with_keys(work.get("crypto", []), planned, list(disks)):
                self.keys[item["name"]] = _crypto.fingerprint(item)
        self.carry_out(planned)
        return planned

    def converge(self, *disks: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Run, and insist that it has settled all disks."""
        planned = self.run(*disks, **options)
        self.settled(*disks, **options)
        return planned

    def settled(self, *disks: dict[str, Any], **options: Any) -> None:
        """A further run has nothing to do."""
        again = self.plan(*disks, **options)
        left = {key: again[key] for key in ("steps", "problems", "nodes", "declarations") if again[key]}
        assert not left, left

    def observed(self) -> dict[str, Any]:
        answers: dict[str, Any] = {}
        for target in self.inventory["targets"]:
            answers[target] = {
                "bdevs": list(self.bdevs[target].values()),
                "subsystems": [
                    {
                        "nqn": "nqn.2014-08.org.nvmexpress.discovery",
                        "subtype": "Discovery",
                        "listen_addresses": [],
                        "allow_any_host": True,
                        "hosts": [],
                    },
                    *self.subsystems[target].values(),
                ],
                "transports": [{"trtype": "TCP", "max_queue_depth": 128}],
                "lvol_stores": list(self.stores[target].values()),
                "listeners": {
                    nqn: [
                        {"address": address, "ana_states": [{"ana_group": 1, "ana_state": self.ana[key]}]}
                        if subsystem["ana"]
                        else {"address": address}
                        for address in subsystem["listen_addresses"]
                        for key in [(nqn, address["traddr"], address["trsvcid"])]
                    ]
                    for nqn, subsystem in self.subsystems[target].items()
                    if subsystem["ana"] or not subsystem["namespaces"]
                },
            }
        for ipu in self.inventory["ipus"]:
            answers[ipu] = {
                "nvme_controllers": list(self.controllers[ipu].values()),
                "bdevs": [
                    {
                        "name": name,
                        "uuid": uuid,
                        "product_name": "NVMe disk",
                        "assigned_rate_limits": {**NO_LIMITS, **self.limits[ipu].get(name, {})},
                    }
                    for name, uuid in self.seen_by(ipu).items()
                ]
                + [
                    {
                        "name": name,
                        "uuid": virtual_disk.encrypted_uuid(self.seen_by(ipu)[item["base_bdev"]]),
                        "product_name": "crypto",
                        "assigned_rate_limits": {**NO_LIMITS, **self.limits[ipu].get(name, {})},
                        "driver_specific": {
                            "crypto": {
                                "base_bdev_name": item["base_bdev"],
                                "name": name,
                                "key_name": f"{name}-{self.keys[name]}",
                            }
                        },
                    }
                    for name, item in self.crypto[ipu].items()
                ],
                "vhost_controllers": [
                    {
                        "ctrlr": f"sma-{slot}",
                        "backend_specific": {
                            "block": {"readonly": False, "bdev": None if (ipu, slot) in self.gone else bdev}
                        },
                        "sessions": [] if slot in self.unplugged[ipu] else [{"vid": slot}],
                    }
                    for slot, bdev in self.devices[ipu].items()
                    if slot not in self.nvme[ipu]
                ],
                "nbd_disks": [
                    {"nbd_device": f"/run/{ipu}/sma-{slot}.nbd", "bdev_name": self.devices[ipu][slot]}
                    for slot, manager in self.nvme[ipu].items()
                    if manager == "qemu_nvme"
                ],
                "subsystems": [
                    {
                        "nqn": f"nqn.2022-06.io.ipdk:device:sma-{slot}",
                        "serial_number": serial,
                        "namespaces": [{"bdev_name": serial}] if slot in self.devices[ipu] else [],
                    }
                    for slot, serial in self._subsystems_of(ipu).items()
                ],
            }
        for host, declared in self.inventory["hosts"].items():
            if declared["access"] == "ssh":
                answers[host] = {
                    "disks": [{"name": "vda", "serial": None}]
                    + [
                        {"serial": serial, **self.uses.get(serial, {})}
                        for slot, serial in self.devices[declared["ipu"]].items()
                        if slot not in self.unplugged[declared["ipu"]]
                    ],
                    "nvme_controllers": [
                        {"serial": serial}
                        for slot, serial in {
                            **self.empty[declared["ipu"]],
                            **{slot: self.devices[declared["ipu"]][slot] for slot in self.nvme[declared["ipu"]]},
                        }.items()
                        if slot not in self.unplugged[declared["ipu"]]
                    ],
                }
        for node, document in self.kept.items():
            answers[node]["declaration"] = document
        return {node: answer for node, answer in answers.items() if node not in self.dead}

    def _subsystems_of(self, ipu: str) -> dict[int, str]:
        there = {slot: self.devices[ipu][slot] for slot, manager in self.nvme[ipu].items() if manager == "vfiouser"}
        return {**self.empty[ipu], **there}

    def seen_by(self, ipu: str) -> dict[str, str]:
        """The IPU's NVMe bdevs, name → UUID."""
        found: dict[str, str] = {}
        for name, controller in self.controllers[ipu].items():
            nqn = controller["ctrlrs"][0]["trid"]["subnqn"]
            for subsystems in self.subsystems.values():
                for namespace in subsystems.get(nqn, {}).get("namespaces", []):
                    assert namespace["uuid"] not in found.values(), "SPDK has no two bdevs of one UUID"
                    found[f"{name}n{namespace['nsid']}"] = namespace["uuid"]
        return found

    def carry_out(self, planned: dict[str, Any]) -> None:
        """Does the plan in the role's order, and fails where a real node would refuse."""
        work = planned["nodes"]
        for stage in (stage for stage in steps.ORDER if stage not in WITHOUT_STEPS):
            for node, arguments in work.items():
                if stage in ("unplug", "attach"):
                    _sma_devices.normalise(arguments.get(stage, []), 1024)
                for item in arguments.get(stage, []):
                    assert node not in self.dead
                    getattr(self, f"_{stage}")(node, item)
        if self.kept:
            self.kept.update(planned["declarations"])
            for document in planned["declarations"].values():
                _declaration.check(document)  # the node can read it

    def _unplug(self, ipu: str, item: dict[str, Any]) -> None:
        if item["state"] == "present":
            assert item["volumes"] == [] and self.nvme[ipu][item["physical_id"]] == "vfiouser"
            self.empty[ipu][item["physical_id"]] = self.devices[ipu][item["physical_id"]]
        self.nvme[ipu].pop(item["physical_id"], None)
        if self.empty[ipu].get(item["physical_id"]) and item["state"] == "absent":
            assert item["physical_id"] in self.unplugged[ipu], "its QEMU would end itself"
            del self.empty[ipu][item["physical_id"]]
            return
        del self.devices[ipu][item["physical_id"]]
        self.gone.discard((ipu, item["physical_id"]))

    def _attach(self, ipu: str, item: dict[str, Any]) -> None:
        there = {bdev["uuid"]: bdev["name"] for bdev in self.observed()[ipu]["bdevs"]}
        bdev = there[item["volume"]]
        assert self.devices[ipu].setdefault(item["physical_id"], bdev) == bdev
        if item.get("interface") == "nvme":
            self.nvme[ipu][item["physical_id"]] = self.inventory["ipus"][ipu]["nvme"]
            assert self.empty[ipu].pop(item["physical_id"], bdev) == bdev
        self.unplugged[ipu].discard(item["physical_id"])

    def _crypto(self, ipu: str, item: dict[str, Any]) -> None:
        assert item["name"] not in self.crypto[ipu]
        assert item["base_bdev"] in self.seen_by(ipu)
        self.crypto[ipu][item["name"]] = item

    def _crypto_absent(self, ipu: str, item: dict[str, Any]) -> None:
        assert item["name"] not in self.devices[ipu].values()
        del self.crypto[ipu][item["name"]]
        self.limits[ipu].pop(item["name"], None)

    def _limits(self, ipu: str, item: dict[str, Any]) -> None:
        there = self.limits[ipu].setdefault(self.devices[ipu][item["physical_id"]], {})
        for name, parameter in LIMITS.items():
            if name in item:
                there[parameter] = int(str(item[name]).replace("unlimited", "0").removesuffix("MiB"))

    def _bdevs(self, target: str, item: dict[str, Any]) -> None:
        if item["state"] == "absent":
            del self.bdevs[target][item["name"]]
            return
        products = {"malloc": "Malloc disk", "aio": "AIO disk", "null": "Null disk"}
        there = self.bdevs[target].get(item["name"])
        assert there is None or item["type"] != "malloc"
        assert there is None or there["num_blocks"] * there["block_size"] < item["size"]
        self.bdevs[target][item["name"]] = {
            "name": item["name"],
            "uuid": item["uuid"],
            "product_name": products[item["type"]],
            "block_size": item["block_size"],
            "num_blocks": item["size"] // item["block_size"],
        }

    def _lvols(self, target: str, item: dict[str, Any]) -> None:
        alias = f"{item['store']}/{item['name']}"
        store = self.stores[target][item["store"]]
        there = self.bdevs[target].get(alias)
        has = there["num_blocks"] * 512 // store["cluster_size"] if there else 0
        if item["state"] == "absent":
            assert not self._namespaces(target, there["uuid"])
            store["free_clusters"] += there["driver_specific"]["lvol"]["num_allocated_clusters"]
            del self.bdevs[target][alias]
            return
        clusters = -(-item["size"] // store["cluster_size"])
        lvol = there["driver_specific"]["lvol"] if there else {}
        thicken = bool(lvol.get("thin_provision") and not item["thin"])
        assert clusters > has or thicken
        stands_on = item.get("clone_of") if there is None else lvol.get("base_snapshot")
        if stands_on:
            assert self.bdevs[target][f"{item['store']}/{stands_on}"]["driver_specific"]["lvol"]["snapshot"]
        thin = item["thin"] or stands_on is not None
        allocated = lvol.get("num_allocated_clusters", 0) if thin else clusters
        store["free_clusters"] -= allocated - lvol.get("num_allocated_clusters", 0)
        assert store["free_clusters"] >= 0
        uuid = there["uuid"] if there else str(uuid_module.uuid4())  # SPDK's choice
        self.bdevs[target][alias] = {
            "name": uuid,
            "aliases": [alias],
            "uuid": uuid,
            "product_name": "Logical Volume",
            "block_size": 512,
            "num_blocks": clusters * store["cluster_size"] // 512,
            "claimed": False,
            "driver_specific": {
                "lvol": {
                    "lvol_store_uuid": store["uuid"],
                    "thin_provision": thin,
                    "num_allocated_clusters": allocated,
                    "snapshot": False,
                    "clone": stands_on is not None,
                    **({"base_snapshot": stands_on} if stands_on else {}),
                }
            },
        }

    def snapshot(self, target: str, alias: str, name: str) -> None:
        """As spdk_lvol takes one: it has the clusters that the volume had, which is thin from then on."""
        volume = self.bdevs[target][alias]
        store = alias.partition("/")[0]
        uuid = str(uuid_module.uuid4())
        lvol = volume["driver_specific"]["lvol"]
        self.bdevs[target][f"{store}/{name}"] = {
            **volume,
            "name": uuid,
            "uuid": uuid,
            "aliases": [f"{store}/{name}"],
            "driver_specific": {"lvol": {**lvol, "snapshot": True, "clones": [alias.partition("/")[2]]}},
        }
        more = {"thin_provision": True, "num_allocated_clusters": 0, "clone": True, "base_snapshot": name}
        volume["driver_specific"] = {"lvol": {**lvol, **more}}

    def drop_snapshot(self, target: str, store: str, name: str) -> None:
        """Its only clone takes over what it holds, and is as thin as before."""
        held = self.bdevs[target].pop(f"{store}/{name}")["driver_specific"]["lvol"]
        (clone,) = held["clones"]
        lvol = self.bdevs[target][f"{store}/{clone}"]["driver_specific"]["lvol"]
        del lvol["base_snapshot"]
        lvol.update(clone=False, num_allocated_clusters=lvol["num_allocated_clusters"] + held["num_allocated_clusters"])

    def _namespaces(self, target: str, bdev: str) -> list[dict[str, Any]]:
        return [
            namespace
            for subsystem in self.subsystems[target].values()
            for namespace in subsystem["namespaces"]
            if namespace["bdev_name"] == bdev
        ]

    def _release(self, target: str, item: dict[str, Any]) -> None:
        if item.get("state") == "absent":
            gone = self.subsystems[target].pop(item["nqn"])
            alive = self.controllers.keys() - self.dead
            assert not [ipu for ipu in alive if self._is_connected(ipu, item["nqn"])], "they are cut off"
            assert not gone["namespaces"] or ":shared:" in item["nqn"]
            return
        subsystem = self.subsystems[target][item["nqn"]]
        gone = {self.bdevs[target][namespace["bdev"]]["name"] for namespace in item["namespaces"]}
        out = [host["nqn"] for host in item.get("hosts", [])]
        assert all(host["state"] == "absent" for host in item.get("hosts", []))
        subsystem["hosts"] = [host for host in subsystem["hosts"] if host["nqn"] not in out]
        for ipu, declared in self.inventory["ipus"].items():
            assert declared["host_nqn"] not in out or ipu in self.dead or not self._is_connected(ipu, item["nqn"])
        assert gone <= {namespace["bdev_name"] for namespace in subsystem["namespaces"]}
        subsystem["namespaces"] = [entry for entry in subsystem["namespaces"] if entry["bdev_name"] not in gone]

    def _subsystems(self, target: str, item: dict[str, Any]) -> None:
        subsystem = self.subsystems[target].setdefault(
            item["nqn"],
            {"nqn": item["nqn"], "subtype": "NVMe", "namespaces": [], "ana": item.get("ana_reporting", False)},
        )
        assert subsystem["ana"] == item.get("ana_reporting", subsystem["ana"])
        for listener in item["listeners"]:
            if "ana_state" in listener:
                self.ana[item["nqn"], listener["traddr"], listener["trsvcid"]] = listener["ana_state"]
        there = subsystem.setdefault("hosts", [])
        there += [{"nqn": nqn} for nqn in item.get("hosts", []) if {"nqn": nqn} not in there]
        subsystem["listen_addresses"] = item["listeners"]
        for namespace in item["namespaces"]:
            assert all(there["nsid"] != namespace["nsid"] for there in subsystem["namespaces"])
            bdev = self.bdevs[target][namespace["bdev"]]["name"]
            assert not self._namespaces(target, bdev)
            assert namespace["nguid"] == namespace["uuid"].replace("-", "")
            subsystem["namespaces"].append(
                {"nsid": namespace["nsid"], "bdev_name": bdev, "uuid": namespace["uuid"], "nguid": namespace["nguid"]}
                | ({"anagrpid": namespace["nsid"]} if subsystem["ana"] else {})
            )

    def _sever(self, ipu: str, item: dict[str, Any]) -> None:
        """The devices stay, without their bdevs."""
        for slot, bdev in self.devices[ipu].items():
            if bdev.rpartition("n")[0] == item["name"]:
                self.gone.add((ipu, slot))
        self._disconnect(ipu, item)

    def _disconnect(self, ipu: str, item: dict[str, Any]) -> None:
        assert item["state"] == "absent" and not self._served_by(ipu, item["name"])
        del self.controllers[ipu][item["name"]]

    def _is_connected(self, ipu: str, nqn: str) -> bool:
        paths = [path for controller in self.controllers[ipu].values() for path in controller["ctrlrs"]]
        return any(path["trid"]["subnqn"] == nqn for path in paths)

    def _served_by(self, ipu: str, controller: str) -> list[str]:
        alive = [bdev for slot, bdev in self.devices[ipu].items() if (ipu, slot) not in self.gone]
        return [bdev for bdev in alive if bdev.rpartition("n")[0] == controller]

    def _controllers(self, ipu: str, item: dict[str, Any]) -> None:
        there = self.controllers[ipu].setdefault(item["name"], {"name": item["name"], "ctrlrs": []})
        assert not there["ctrlrs"] or item.get("multipath") == "multipath"
        for path in (item, *item.get("paths", [])):
            trid = {"trtype": "TCP", "traddr": path["traddr"], "trsvcid": path["trsvcid"], "subnqn": item["subnqn"]}
            (subsystem,) = [each[item["subnqn"]] for each in self.subsystems.values() if item["subnqn"] in each]
            assert {"nqn": self.inventory["ipus"][ipu]["host_nqn"]} in subsystem["hosts"], "it is not admitted"
            if trid not in [each["trid"] for each in there["ctrlrs"]]:
                there["ctrlrs"].append({"state": "enabled", "trid": trid})
