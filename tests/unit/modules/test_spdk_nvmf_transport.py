"""spdk_nvmf_transport against an SPDK that has no transport yet (it cannot take one away again)."""

from __future__ import annotations

from typing import Any

import pytest
from spdk_nodes import Node

TCP = {"trtype": "TCP", "in_capsule_data_size": 8192, "c2h_success": False}
RDMA = {"trtype": "RDMA"}


def transports(node: Node) -> dict[str, dict[str, Any]]:
    return {found["trtype"]: found for found in node.call("nvmf_get_transports")}


def test_check_mode_predicts_the_transport_and_a_second_run_changes_nothing(new_target: Node) -> None:
    predicted = new_target.module("spdk_nvmf_transport", check=True, transports=[TCP])
    assert transports(new_target) == {}
    done = new_target.module("spdk_nvmf_transport", transports=[TCP])
    assert done["rc"] == 0, done
    assert (done["changed"], done["outcome"]) == (True, predicted["outcome"])
    assert done["diff"] == predicted["diff"]
    assert done["diff"] == {"before": {}, "after": {"TCP": {"in_capsule_data_size": 8192, "c2h_success": False}}}
    there = transports(new_target)["TCP"]
    assert (there["in_capsule_data_size"], there["c2h_success"]) == (8192, False)
    for check in (True, False):
        again = new_target.module("spdk_nvmf_transport", check=check, transports=[TCP])
        assert (again["rc"], again["changed"], again["outcome"]["applied"]) == (0, False, [])
        assert again["diff"]["before"] == again["diff"]["after"]
        # The prediction is also what is really there, but for what SPDK chose itself.
        assert {**again["diff"]["before"]["TCP"], **done["diff"]["after"]["TCP"]} == again["diff"]["before"]["TCP"]


@pytest.mark.parametrize("wanted", [[TCP, RDMA], [RDMA, TCP]])
def test_one_that_spdk_cannot_make_does_not_stop_the_other(new_target: Node, wanted: list[dict[str, Any]]) -> None:
    """No machine that runs this has RDMA, whichever SPDK it is."""
    predicted = new_target.module("spdk_nvmf_transport", check=True, transports=wanted)
    names = [item["trtype"] for item in wanted]
    assert [entry["name"] for entry in predicted["outcome"]["applied"]] == names, (
        "check mode cannot know how it was built"
    )
    assert transports(new_target) == {}
    for changed in (True, False):
        result = new_target.module("spdk_nvmf_transport", transports=wanted)
        assert (result["rc"], result["failed"], result["changed"]) == (1, True, changed)
        assert [entry["name"] for entry in result["outcome"]["applied"]] == ["TCP"] * changed
        (failed,) = result["outcome"]["failed"]
        assert (failed["action"], failed["kind"], failed["name"]) == ("create", "transport", "RDMA")
        assert "'RDMA'" in failed["reason"] and "usually this SPDK was built without RDMA" in failed["reason"]
        assert result["outcome"]["not_tried"] == []
        assert f"{int(changed)} applied, 1 failed, 0 not tried: create transport RDMA: " in result["msg"]
        assert list(result["diff"]["before"]) == ["TCP"] * (not changed)
        assert list(result["diff"]["after"]) == list(transports(new_target)) == ["TCP"]
    assert result["diff"]["before"] == result["diff"]["after"]


def test_options_that_spdk_does_not_take_are_told_with_its_words(new_target: Node) -> None:
    result = new_target.module("spdk_nvmf_transport", transports=[{"trtype": "TCP", "max_io_size": 5000}])
    assert (result["rc"], result["changed"]) == (1, False)
    assert "Transport type 'TCP' create failed" in result["outcome"]["failed"][0]["reason"]
    assert transports(new_target) == {}
    assert new_target.module("spdk_nvmf_transport", transports=[TCP])["changed"] is True


def test_a_difference_and_an_absent_one_are_refused_in_any_mode(new_target: Node) -> None:
    new_target.module("spdk_nvmf_transport", transports=[TCP])
    for check in (True, False):
        for item, said in [
            ({**TCP, "in_capsule_data_size": 4096}, "in_capsule_data_size 8192, wanted 4096: it is set once only"),
            ({"trtype": "TCP", "state": "absent"}, "SPDK cannot delete a transport"),
        ]:
            result = new_target.module("spdk_nvmf_transport", check=check, transports=[RDMA, item])
            assert (result["rc"], result["changed"]) == (1, False)
            assert said in result["msg"], result["msg"]
    absent = new_target.module("spdk_nvmf_transport", transports=[{"trtype": "RDMA", "state": "absent"}])
    assert (absent["rc"], absent["changed"]) == (0, False), "it is not there"
    assert list(transports(new_target)) == ["TCP"]
