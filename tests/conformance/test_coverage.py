"""The emulator's methods are SPDK's, callable when SPDK's are, and the coverage list says which there are."""

from __future__ import annotations

from coverage_list import TARGET, documented, facts, is_in, methods, render
from spdk_emulator.jsonrpc.registry import ANY, RUNTIME, STARTUP


def test_the_list_is_up_to_date() -> None:
    assert TARGET.read_text(encoding="utf-8") == render(), "run: python tests/conformance/coverage_list.py"


def test_every_method_is_one_of_the_emulated_release() -> None:
    known = facts()
    strange = [name for name in methods() if name not in known or not is_in(known[name]["releases"])]
    assert not strange


def test_methods_may_be_called_when_spdk_allows_it() -> None:
    known = facts()
    spdks_word = {STARTUP: "startup", RUNTIME: "runtime", ANY: "both"}
    states = {name: (spdks_word[method.state], known[name]["state"]) for name, method in methods().items()}
    assert {name: pair for name, pair in states.items() if pair[0] != pair[1]} == {}


def test_parameters_are_spdks_and_required_where_spdk_requires_them() -> None:
    known, wrong = facts(), []
    for name, method in methods().items():
        for parameter, param in (method.params or {}).items():
            fact = known[name].get("params", {}).get(parameter)
            if fact is None or parameter not in documented(known[name]):
                wrong.append(f"{name}: SPDK has no parameter {parameter}")
            elif param.required != fact.get("required", False):
                wrong.append(f"{name}: {parameter} required: {param.required}, in SPDK {fact.get('required', False)}")
    assert not wrong, "\n".join(wrong)
