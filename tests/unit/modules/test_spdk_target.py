"""spdk_target against a running SPDK: a whole node's declaration at once, and the document that the node keeps."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from spdk_nodes import Node

NQN = "nqn.2022-06.io.ipdk:st1:ipu1"
HOST = "nqn.2014-08.org.nvmexpress:uuid:6f3c0a52-1b1f-5d0e-9d4e-2f0f3f6b7a10"
UUID = "00000000-0000-4000-8000-00000000000a"


def declaration(port: int) -> dict[str, Any]:
    return {
        "version": 1,
        "node": "st1",
        "transports": [{"trtype": "TCP"}],
        "bdevs": [{"name": "vol00", "type": "malloc", "size": "1MiB", "uuid": UUID}],
        "subsystems": [
            {
                "nqn": NQN,
                "hosts": [HOST],
                "namespaces": [{"bdev": "vol00", "nsid": 3}],
                "listeners": [{"traddr": "127.0.0.1", "trsvcid": str(port)}],
            }
        ],
    }


def there(node: Node) -> tuple[list[str], list[Any]]:
    """The bdevs; of each subsystem its NQN, NSIDs and ports."""
    return [bdev["name"] for bdev in node.call("bdev_get_bdevs")], [
        (
            each["nqn"],
            [namespace["nsid"] for namespace in each["namespaces"]],
            [listener["trsvcid"] for listener in each["listen_addresses"]],
        )
        for each in node.call("nvmf_get_subsystems")[1:]
    ]


def test_check_mode_predicts_the_run_and_a_second_run_changes_nothing(target: Node, port: int, tmp_path: Path) -> None:
    kept = tmp_path / "declaration.json"
    options = {"declaration": declaration(port), "remember": str(kept)}
    predicted = target.module("spdk_target", check=True, **options)
    assert predicted["rc"] == 0 and predicted["changed"] and predicted["remembered"], predicted
    assert there(target) == ([], []) and not kept.exists()

    done = target.module("spdk_target", **options)
    assert (done["rc"], done["outcome"], done["diff"]) == (0, predicted["outcome"], predicted["diff"])
    assert there(target) == (["vol00"], [(NQN, [3], [str(port)])])
    assert json.loads(kept.read_text(encoding="utf-8")) == declaration(port)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600

    again = target.module("spdk_target", **options)
    assert (again["rc"], again["changed"], again["remembered"]) == (0, False, False)


def test_what_the_document_does_not_name_is_left_alone_and_stays_remembered(
    target: Node, port: int, tmp_path: Path
) -> None:
    kept = tmp_path / "declaration.json"
    target.module("spdk_target", declaration=declaration(port), remember=str(kept))
    more = {"version": 1, "bdevs": [{"name": "vol01", "type": "null", "size": "1MiB"}]}
    done = target.module("spdk_target", declaration=more, remember=str(kept))
    assert done["rc"] == 0, done
    assert [(each["action"], each["name"]) for each in done["outcome"]["applied"]] == [("create", "vol01")]
    assert there(target) == (["vol00", "vol01"], [(NQN, [3], [str(port)])])
    names = [bdev["name"] for bdev in json.loads(kept.read_text(encoding="utf-8"))["bdevs"]]
    assert names == ["vol00", "vol01"]


def test_check_mode_predicts_what_changes_in_a_node_that_has_most_of_it(
    target: Node, port: int, tmp_path: Path
) -> None:
    """A bdev grows, another comes and becomes a namespace, a host is let in; the document that is kept gets it too."""
    kept = tmp_path / "declaration.json"
    wanted = declaration(port)
    wanted["bdevs"].append({"name": "vol01", "type": "null", "size": "1MiB"})
    target.module("spdk_target", declaration=wanted, remember=str(kept))
    wanted["bdevs"][1]["size"] = "3MiB"
    wanted["bdevs"].append({"name": "vol02", "type": "malloc", "size": "1MiB"})
    wanted["subsystems"][0]["namespaces"].append({"bdev": "vol02", "nsid": 1})
    wanted["subsystems"][0]["hosts"].append(HOST.replace("7a10", "7a11"))
    before, text = there(target), kept.read_text(encoding="utf-8")

    options = {"declaration": wanted, "remember": str(kept)}
    predicted = target.module("spdk_target", check=True, **options)
    assert (there(target), kept.read_text(encoding="utf-8")) == (before, text)
    done = target.module("spdk_target", **options)
    assert done["rc"] == 0, done
    for key in ("changed", "remembered", "outcome", "diff"):
        assert done[key] == predicted[key], key
    assert [(entry["action"], entry["kind"]) for entry in done["outcome"]["applied"]] == [
        ("update", "bdev"),
        ("create", "bdev"),
        ("create", "host"),
        ("create", "namespace"),
    ]
    assert there(target) == (["vol00", "vol01", "vol02"], [(NQN, [1, 3], [str(port)])])
    assert json.loads(kept.read_text(encoding="utf-8")) == wanted
    for check in (True, False):
        again = target.module("spdk_target", check=check, **options)
        assert (again["rc"], again["changed"], again["remembered"]) == (0, False, False)
        assert again["diff"]["before"] == again["diff"]["after"]


def test_check_mode_predicts_what_stands_on_what_the_same_document_brings(target: Node, ipu: Node, port: int) -> None:
    """The bdev of a vhost controller is not there before its NVMe controller is attached."""
    assert target.module("spdk_target", declaration=declaration(port))["rc"] == 0
    address = {"traddr": "127.0.0.1", "trsvcid": str(port)}
    wanted = {
        "controllers": [{"name": "st1", "subnqn": NQN, "hostnqn": HOST, **address}],
        "vhost_blk": [{"name": "sma-0", "bdev": "st1n3"}],
    }
    try:
        predicted = ipu.module("spdk_target", check=True, declaration=wanted)
        assert (ipu.call("bdev_nvme_get_controllers"), ipu.call("vhost_get_controllers")) == ([], [])
        done = ipu.module("spdk_target", declaration=wanted)
        assert (done["rc"], done["outcome"], done["diff"]) == (0, predicted["outcome"], predicted["diff"]), done
        assert [entry["name"] for entry in done["outcome"]["applied"]] == ["st1", "sma-0"]
        assert ipu.call("vhost_get_controllers")[0]["backend_specific"]["block"]["bdev"] == "st1n3"
        assert ipu.module("spdk_target", declaration=wanted)["changed"] is False
    finally:
        for controller in ipu.call("vhost_get_controllers"):
            ipu.call("vhost_delete_controller", {"ctrlr": controller["ctrlr"]})


def test_one_failure_is_told_and_the_rest_is_done(target: Node, port: int, tmp_path: Path) -> None:
    wanted = declaration(port)
    wanted["bdevs"].append({"name": "vol01", "type": "aio", "filename": str(tmp_path / "none"), "block_size": 512})
    done = target.module("spdk_target", declaration=wanted)
    assert done["rc"] == 1 and "vol01" in done["msg"], done
    assert there(target) == (["vol00"], [(NQN, [3], [str(port)])])


def test_what_cannot_be_right_changes_nothing(target: Node, port: int, tmp_path: Path) -> None:
    kept = tmp_path / "declaration.json"
    wanted = declaration(port)
    wanted["vhost_blk"] = [{"name": "../../x", "bdev": "vol00"}]
    wanted["subsystem"] = []
    wanted["bdevs"][0]["sise"] = 1
    done = target.module("spdk_target", declaration=wanted, remember=str(kept))
    assert done["rc"] == 1, done
    for hint in ("vhost_blk[0].name: '../../x'", "subsystem: a declaration has no such section", "no option sise"):
        assert hint in done["msg"], done["msg"]
    assert there(target) == ([], []) and not kept.exists()


def test_a_kept_document_that_is_none_is_not_overwritten(target: Node, port: int, tmp_path: Path) -> None:
    kept = tmp_path / "declaration.json"
    kept.write_text("{cut off", encoding="utf-8")
    done = target.module("spdk_target", declaration=declaration(port), remember=str(kept))
    assert done["rc"] == 1 and "cannot be read as a declaration" in done["msg"], done
    assert kept.read_text(encoding="utf-8") == "{cut off"
    assert there(target) == ([], [])
