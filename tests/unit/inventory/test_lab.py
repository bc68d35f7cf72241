"""The inventory plugin lab, asked through ansible-inventory as an operator would."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = {
    **os.environ,
    "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
    "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build" / "collections"),
    "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true",
    "ANSIBLE_FORCE_COLOR": "0",
}


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    tool = [sys.executable, str(Path(sys.executable).parent / command[0]), *command[1:]]
    env = {**ENVIRONMENT, **environment}
    return subprocess.run(tool, cwd=ROOT, env=env, text=True, capture_output=True, check=False, timeout=120)


def listing(source: str | Path) -> dict[str, Any]:
    done = run("ansible-inventory", "-i", str(source), "--list")
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return json.loads(done.stdout)


def write(directory: Path, **options: Any) -> Path:
    path = directory / "lab.ipdk.yml"
    path.write_text(yaml.safe_dump({"plugin": "ipdk.storage.lab", **options}), encoding="utf-8")
    return path


def groups_of(found: dict[str, Any]) -> dict[str, Any]:
    return {name: sorted(group.get("hosts", [])) for name, group in found.items() if name not in ("_meta", "all")}


def test_one_of_each_is_the_simulation_inventory(tmp_path: Path) -> None:
    simulation = listing("inventories/simulation")
    lab = listing(write(tmp_path, storage_target_malloc_mib=2048))
    assert groups_of(lab) == groups_of(simulation)
    assert lab["_meta"]["hostvars"] == simulation["_meta"]["hostvars"]


def test_what_is_a_template_in_the_simulation_is_one_here(tmp_path: Path) -> None:
    """ansible-inventory shows templates as they are written; a playbook's variables must come out the same, too."""
    names = ["ipdk_lab_network", "ansible_python_interpreter", "ansible_host", "ansible_ssh_private_key_file"]
    names += ["ansible_ssh_common_args"]
    playbook = tmp_path / "show.yml"
    playbook.write_text(
        yaml.safe_dump(
            [
                {
                    "hosts": "host1",
                    "gather_facts": False,
                    "tasks": [
                        {"ansible.builtin.debug": {"msg": "{{ [" + ", ".join(names) + "] | to_json }}"}},
                    ],
                }
            ]
        ),
        encoding="utf-8",
    )

    before = tmp_path / "before.yml"
    before.write_text("all: {vars: {something: else}}\n", encoding="utf-8")

    def shown(*sources: str | Path) -> str:
        named = [word for source in sources for word in ("-i", str(source))]
        done = run("ansible-playbook", *named, str(playbook), "-e", "ipdk_lab_name=other")
        assert done.returncode == 0, done.stdout + done.stderr
        return next(line for line in done.stdout.splitlines() if '"msg"' in line)

    lab = shown(write(tmp_path))
    assert "{{" not in lab
    assert "/var/lib/ipdk/lab-other/id_ed25519" in lab
    assert lab == shown("inventories/simulation")
    assert lab == shown(before, write(tmp_path, storage_target_malloc_mib=2048)), "behind another source, too"


def test_nodes_keep_their_addresses_when_the_counts_grow(tmp_path: Path) -> None:
    few = listing(write(tmp_path, storage_targets=1, ipus=2))["_meta"]["hostvars"]
    many = listing(write(tmp_path, storage_targets=10, ipus=10, hosts=10))["_meta"]["hostvars"]
    assert {name: many[name] for name in few} == few
    assert len(many) == 31
    keys = ("storage_target_address", "ipu_address", "host_address")
    addresses = [variables[key] for variables in many.values() for key in keys if key in variables]
    assert len(set(addresses)) == 30
    assert many["st10"]["storage_target_address"] == "198.18.0.19"
    assert many["ipu10"]["ipu_address"] == "198.18.0.29"
    assert (many["host10"]["host_address"], many["host10"]["host_ipu"]) == ("198.18.0.39", "ipu10")


def test_options_become_variables(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        name="other",
        subnet="198.19.0.0/22",
        ipus=3,
        engine="spdk",
        host_guest="minimal",
        host_access="none",
        host_memory_mib=256,
        host_vcpus=2,
    )
    found = listing(path)["_meta"]["hostvars"]
    host = found["host3"]
    assert host["host_address"] == "198.19.0.122"
    assert (host["host_guest"], host["ipdk_host_access"]) == ("minimal", "none")
    assert (host["host_memory_mib"], host["host_vcpus"]) == (256, 2)
    # Nobody logs in: what concerns such a host is done on the platform.
    assert host["ansible_connection"] == "local"
    assert not [key for key in host if key.startswith("ansible_ssh")]
    assert (found["st1"]["ipdk_lab_name"], found["st1"]["ipdk_engine"]) == ("other", "spdk")
    assert "storage_target_malloc_mib" not in found["st1"]


def test_two_labs_of_one_machine_have_nodes_of_other_names(tmp_path: Path) -> None:
    found = listing(write(tmp_path, name="other", node_prefix="b", ipus=2))
    assert groups_of(found) == {
        "storage_targets": ["bst1"],
        "ipus": ["bipu1", "bipu2"],
        "ipu_hosts": ["bhost1", "bhost2"],
        "lab_platforms": ["localhost"],
    }
    assert found["_meta"]["hostvars"]["bhost2"]["host_ipu"] == "bipu2"


def test_the_example_has_two_of_each() -> None:
    found = groups_of(listing("inventories/multi"))
    assert found == {
        "storage_targets": ["st1", "st2"],
        "ipus": ["ipu1", "ipu2"],
        "ipu_hosts": ["host1", "host2"],
        "lab_platforms": ["localhost"],
    }


def test_group_vars_beside_the_file_win(tmp_path: Path) -> None:
    path = write(tmp_path, ipus=2)
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "host_vars" / "host2.yml").write_text("---\nhost_memory_mib: 256\n", encoding="utf-8")
    found = listing(path)["_meta"]["hostvars"]
    assert (found["host1"]["host_memory_mib"], found["host2"]["host_memory_mib"]) == (1024, 256)


BAD = [
    ({"storage_targets": 0}, "storage_targets: wanted a number from 1 on, got 0."),
    ({"ipus": -1}, "ipus: wanted a number from 1 on, got -1."),
    ({"ipus": True}, "ipus: wanted a number from 1 on, got True."),
    ({"ipus": "two"}, "'ipus'.*'two'"),
    ({"ipus": 2.5}, "'ipus'.*2.5"),
    ({"ipus": 2, "hosts": 3}, "hosts: 3, and ipus: 2. Each IPU has one host"),
    (
        {"storage_targets": 11},
        r"storage_targets: 11 are beyond the room of subnet 198\.18\.0\.0/24, which has 10 addresses",
    ),
    ({"ipus": 3, "subnet": "198.18.0.0/26"}, r"ipus: 3 are beyond the room of subnet 198\.18\.0\.0/26"),
    ({"subnet": "198.18.0.0/27"}, "subnet: 198.18.0.0/27 has no room for a lab; wanted a /26 or larger"),
    ({"subnet": "10.0.0.0/24"}, r"subnet: 10\.0\.0\.0/24 is not inside 198\.18\.0\.0/15"),
    ({"subnet": "198.0.0.0/8"}, r"subnet: 198\.0\.0\.0/8 is not inside 198\.18\.0\.0/15"),
    ({"subnet": "198.18.0.1/24"}, "'198.18.0.1/24' is no IPv4 subnet .*host bits set"),
    ({"subnet": "lab"}, "'lab' is no IPv4 subnet"),
    ({"subnet": "2001:db8::/64"}, "'2001:db8::/64' is no IPv4 subnet"),
    ({"name": "../x"}, "name: '../x' is no name of a lab"),
    ({"name": "a..b"}, "name: 'a..b' is no name of a lab"),
    ({"name": "{{ lookup('pipe', 'id') }}"}, "is no name of a lab"),
    ({"name": "x" * 32}, "is no name of a lab: wanted 1 to 31"),
    ({"node_prefix": "a.b"}, "node_prefix: 'a.b' is no beginning of a node's name"),
    ({"node_prefix": "abcdefghi"}, "node_prefix: 'abcdefghi' is no beginning of a node's name: wanted up to 8"),
    ({"engine": "qemu"}, "'qemu' for config 'engine'"),
    ({"host_guest": "minimal"}, "host_access: nobody can log in to a minimal guest"),
    ({"host_memory_mib": 64}, "host_memory_mib: wanted a number from 128 on, got 64"),
    ({"host_vcpus": 0}, "host_vcpus: wanted a number from 1 on, got 0"),
    ({"storage_target": 2}, "unknown key 'storage_target'. Did you mean 'storage_targets'"),
    ({"compose": {}}, "unknown key 'compose'. There are: engine, "),
    ({"plugin": "ipdk.storage.labs"}, "ipdk.storage.labs"),
]


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What Ansible says first about each file of ``BAD``, in one run of all of them."""
    paths = [write(tmp_path_factory.mktemp("bad"), **options) for options, _message in BAD]
    sources = [word for path in paths for word in ("-i", str(path))]
    done = run("ansible-inventory", *sources, "--list", ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED="false")
    assert "Traceback" not in done.stderr, done.stderr
    assert json.loads(done.stdout)["_meta"]["hostvars"] == {}
    # Of Ansible's plugins, "auto" finds ours; what the others say, which then try the file, comes after it.
    said = done.stderr.split("[WARNING]: Failed to parse inventory with 'auto' plugin: ")[1:]
    assert len(said) == len(BAD), done.stderr
    return [text.split("\n\n", maxsplit=1)[0] for text in said]


@pytest.mark.parametrize("index", range(len(BAD)), ids=[str(options) for options, _message in BAD])
def test_bad_input_is_refused(index: int, refusals: list[str]) -> None:
    assert re.search(BAD[index][1], refusals[index])


def test_all_mistakes_are_told_at_once_and_end_the_run(tmp_path: Path) -> None:
    path = write(tmp_path, storage_targets=0, name="A", subnet="10.0.0.0/8")
    done = run("ansible-inventory", "-i", str(path), "--list")
    assert done.returncode != 0
    assert all(f"{key}:" in done.stderr for key in ("storage_targets", "name", "subnet"))


def test_a_file_of_another_name_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "lab.yml"
    path.write_text("plugin: ipdk.storage.lab\n", encoding="utf-8")
    done = run("ansible-inventory", "-i", str(path), "--list")
    assert done.returncode != 0


def test_the_plugin_is_documented() -> None:
    done = run("ansible-doc", "-t", "inventory", "--json", "ipdk.storage.lab")
    assert done.returncode == 0, done.stderr
    options = json.loads(done.stdout)["ipdk.storage.lab"]["doc"]["options"]
    assert {"storage_targets", "ipus", "hosts", "subnet", "engine", "name"} <= set(options)


def test_the_playbooks_take_the_example() -> None:
    playbooks = sorted(f"playbooks/{path.name}" for path in (ROOT / "playbooks").glob("*.yml"))
    done = run("ansible-playbook", "--syntax-check", "-i", "inventories/multi", *playbooks)
    assert done.returncode == 0, done.stderr
