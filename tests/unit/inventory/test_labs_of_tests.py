"""Tests and benches have labs of their own: what an operator keeps in a lab on the same machine is none of theirs."""

from __future__ import annotations

import ipaddress
import itertools
import json
from typing import Any, NamedTuple

import yaml
from test_lab import ROOT, run

DEFAULTS = yaml.safe_load((ROOT / "roles" / "names" / "defaults" / "main.yml").read_text(encoding="utf-8"))
OPERATORS = {"demo": ["inventories/simulation"], "two of each": ["inventories/multi/lab.ipdk.yml"]}


class Lab(NamedTuple):
    """What there is once on a machine."""

    name: str
    subnet: ipaddress.IPv4Network
    directories: set[str]


def molecule_inventories() -> dict[str, list[str]]:
    """By scenario, the sources that its configuration names; those without any take the common one."""
    found = {}
    for path in [ROOT / ".config" / "molecule" / "config.yml", *sorted((ROOT / "molecule").glob("*/molecule.yml"))]:
        text = path.read_text(encoding="utf-8").replace("${IPDK_LAB_NODES:-second}", "second")
        words = [line.strip().removeprefix("- --inventory=") for line in text.splitlines() if "--inventory=" in line]
        found[path.parent.name] = [word.removeprefix("${MOLECULE_PROJECT_DIRECTORY}/") for word in words]
    return {name: sources for name, sources in found.items() if sources}


def lab_of(sources: list[str]) -> Lab | None:
    """The lab of these inventories; None where they simulate nothing."""
    done = run("ansible-inventory", *(word for source in sources for word in ("-i", source)), "--list")
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    if "lab_platforms" not in listed:
        return None
    hosts: dict[str, dict[str, Any]] = listed["_meta"]["hostvars"]
    nodes = [host for group in ("storage_targets", "ipus", "ipu_hosts") for host in listed[group]["hosts"]]
    places = ("ipdk_run_dir", "ipdk_state_dir")
    lab = {**DEFAULTS, **hosts[nodes[0]]}
    return Lab(
        lab["ipdk_lab_name"],
        ipaddress.IPv4Network(lab["ipdk_lab_subnet"]),
        {f"{ {**DEFAULTS, **hosts[node]}[place] }/{node}" for node in nodes for place in places},
    )


def test_no_lab_of_a_test_is_an_operators() -> None:
    tested = {**molecule_inventories(), "bench": ["tests/bench/two_ipus.ipdk.yml"]}
    assert {"molecule", "default", "multi_ipu", "systemd", "move", "transparent"} <= tested.keys()
    ours = {name: lab for name, sources in tested.items() if (lab := lab_of(sources))}
    theirs = {name: lab for name, sources in OPERATORS.items() if (lab := lab_of(sources))}
    assert theirs.keys() == OPERATORS.keys() and {"molecule", "multi_ipu", "bench"} <= ours.keys()
    for (name, lab), (operators, other) in itertools.product(ours.items(), theirs.items()):
        assert lab.name != other.name, (name, operators)
        assert not lab.subnet.overlaps(other.subnet), (name, operators)
        assert not lab.directories & other.directories, (name, operators)
