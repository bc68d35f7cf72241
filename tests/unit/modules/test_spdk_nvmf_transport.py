"""spdk_nvmf_transport against an SPDK that has no transport yet (it cannot take one away again)."""

from __future__ import annotations

from spdk_nodes import Node


def test_check_mode_predicts_the_transport_and_a_second_run_changes_nothing(new_target: Node) -> None:
    wanted = [{"trtype": "TCP", "in_capsule_data_size": 8192}]
    predicted = new_target.module("spdk_nvmf_transport", check=True, transports=wanted)
    assert new_target.call("nvmf_get_transports") == []
    done = new_target.module("spdk_nvmf_transport", transports=wanted)
    assert done["rc"] == 0, done
    assert (done["changed"], done["outcome"]) == (True, predicted["outcome"])
    assert done["diff"] == predicted["diff"]
    assert [found["in_capsule_data_size"] for found in new_target.call("nvmf_get_transports")] == [8192]
    assert new_target.module("spdk_nvmf_transport", transports=wanted)["changed"] is False
