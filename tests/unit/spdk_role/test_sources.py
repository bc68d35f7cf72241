"""Where SPDK comes from: each source is installed by the role itself, into directories of the test."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fake_spdk
import yaml

ROOT = Path(__file__).resolve().parents[3]
FILES = ROOT / "roles" / "spdk" / "files"
PLAY = """
- hosts: all
  gather_facts: false
  strategy: free
  roles: [{role: ipdk.storage.names}]
  tasks:
    - ansible.builtin.include_role: {name: ipdk.storage.spdk, tasks_from: "{{ item }}"}
      loop: "{{ steps }}"
    - ansible.builtin.copy:
        content: "{{ spdk_installed | to_json }}"
        dest: "{{ result_directory }}/{{ inventory_hostname }}.json"
        mode: "0644"
"""
Run = subprocess.CompletedProcess[str]


def play(
    directory: Path, steps: list[str], nodes: list[str], text: str = PLAY, **variables: Any
) -> tuple[Run, list[dict[str, Any]]]:
    """Run steps of the role on nodes, all of them this machine, at once: how it ended, ``spdk_installed`` of each."""
    (directory / "play.yml").write_text(text, encoding="utf-8")
    results = directory / "results"
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir()
    given = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "ipdk_engine": "spdk",
        "ipdk_run_dir": str(directory / "run"),
        "ipdk_state_dir": str(directory / "state"),
        "ipdk_controller_cache_dir": str(directory / "cache"),
        "spdk_install_dir": str(directory / "installed"),
        "spdk_build_dir": str(directory / "build"),
        "spdk_build_packages_install": False,
        "spdk_build_report_seconds": 2,
        "steps": steps,
        "result_directory": str(results),
        **variables,
    }
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", f"{','.join(nodes)},"]
    done = subprocess.run(
        [*command, str(directory / "play.yml"), "--extra-vars", json.dumps(given)],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_FORCE_COLOR": "0"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=300,
    )
    done.stdout = " ".join(done.stdout.split())
    return done, [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.iterdir())]


def install(directory: Path, *further: str, **variables: Any) -> tuple[Run, dict[str, Any]]:
    """Find and install on one node, and further steps."""
    done, installed = play(directory, ["find", "install", *further], ["localhost"], **variables)
    return done, installed[0] if installed else {}


def builds(directory: Path) -> int:
    return len((directory / "fake" / "builds").read_text(encoding="utf-8").splitlines())


def from_git(directory: Path, version: str, commit: str, **variables: Any) -> Any:
    url = str(directory / "fake" / "spdk")
    return install(directory, spdk_git_url=url, spdk_git_tag=f"v{version}", spdk_git_commit=commit, **variables)


def test_git_builds_once_and_keeps_versions_side_by_side(tmp_path: Path) -> None:
    commits = fake_spdk.make(tmp_path / "fake", ("26.01", "26.05"))
    done, new = from_git(tmp_path, "26.05", commits["26.05"], spdk_configure_options=["--with-vhost", "--with-x=a b"])
    assert done.returncode == 0, done.stdout
    assert new["version"] == "26.05"
    assert re.search(r'"msg": "26\.05-[0-9a-f]{8}: [a-z]+(: \d+ files compiled|; == built)', done.stdout)
    program = (Path(new["path"]) / "bin" / "spdk_tgt").read_text(encoding="utf-8").splitlines()
    assert program[2:5] == ["# --target-arch=native", "# --with-vhost", "# --with-x=a b"]

    assert not list((tmp_path / "build").glob("26.05-????????")), "the tree is removed"
    done, again = from_git(tmp_path, "26.05", commits["26.05"], spdk_configure_options=["--with-vhost", "--with-x=a b"])
    assert again == new
    assert builds(tmp_path) == 1, "a second run builds nothing"

    _unused, other = from_git(tmp_path, "26.05", commits["26.05"], spdk_configure_options=["--with-vhost"])
    _unused, old = from_git(tmp_path, "26.01", commits["26.01"])
    assert old["version"] == "26.01"
    paths = {new["path"], other["path"], old["path"]}
    assert len(paths) == 3
    assert all((Path(path) / "bin" / "spdk_tgt").exists() for path in paths)


def test_a_tree_is_built_and_not_changed(tmp_path: Path) -> None:
    fake_spdk.make(tmp_path / "fake")
    tree = tmp_path / "fake" / "spdk"
    before = sorted(path.relative_to(tree) for path in tree.rglob("*"))
    done, installed = install(tmp_path, spdk_git_tree=str(tree))
    assert done.returncode == 0, done.stdout
    assert subprocess.check_output([f"{installed['path']}/bin/nvmf_tgt"], text=True) == "SPDK v26.05\n"
    assert sorted(path.relative_to(tree) for path in tree.rglob("*")) == before


def test_a_submodule_from_elsewhere_and_one_left_out(tmp_path: Path) -> None:
    commits = fake_spdk.make(tmp_path / "fake")
    shutil.move(tmp_path / "fake" / "dpdk", tmp_path / "mirror")
    commit = fake_spdk.git(tmp_path / "mirror", "rev-parse", "HEAD")
    done, _unused = from_git(tmp_path, "26.05", commits["26.05"])
    assert done.returncode == 2 and "the build failed in fetch" in done.stdout
    for origin in ({"url": str(tmp_path / "mirror")}, {"url": str(tmp_path / "mirror"), "commit": commit}):
        submodules = {"dpdk": origin, "ocf": {}}
        done, installed = from_git(tmp_path, "26.05", commits["26.05"], spdk_git_submodules=submodules)
        assert done.returncode == 0, done.stdout
        assert installed["version"] == "26.05"


def test_a_package_is_unpacked_beside_others(tmp_path: Path) -> None:
    root = tmp_path / "deb"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        "Package: spdk-fake\nVersion: 26.01\nArchitecture: all\nMaintainer: Test <test@example.org>\n"
        "Description: Test\n",
        encoding="utf-8",
    )
    fake_spdk.program(root / "usr" / "sbin" / "spdk_tgt", "26.01")
    package = tmp_path / "spdk.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", str(root), str(package)], check=True, capture_output=True)
    done, installed = install(tmp_path, spdk_source="package", spdk_package=str(package), spdk_package_path="/usr/sbin")
    assert done.returncode == 0, done.stdout
    assert installed["version"] == "26.01"
    assert (Path(installed["path"]) / "bin" / "spdk_tgt").exists()


def test_prefix_takes_the_libraries_that_no_package_brings(tmp_path: Path) -> None:
    source = tmp_path / "prefix" / "build"
    (source / "bin").mkdir(parents=True)
    (source / "lib").mkdir()
    (tmp_path / "one.c").write_text('const char *version(void) { return "SPDK v26.05"; }\n', encoding="utf-8")
    (tmp_path / "main.c").write_text(
        "#include <stdio.h>\nconst char *version(void);\nint main(void) { puts(version()); return 0; }\n",
        encoding="utf-8",
    )
    library = source / "lib" / "libspdk_one.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "one.c")], check=True)
    main = ["gcc", "-o", str(source / "bin" / "spdk_tgt"), str(tmp_path / "main.c"), "-L", str(library.parent)]
    subprocess.run([*main, "-lspdk_one"], check=True)
    done, installed = install(tmp_path, spdk_prefix=str(tmp_path / "prefix"))
    assert done.returncode == 0, done.stdout
    shutil.rmtree(tmp_path / "prefix")
    assert subprocess.check_output([f"{installed['path']}/bin/spdk_tgt"], text=True) == "SPDK v26.05\n"


def test_a_commit_that_is_not_the_tags_is_refused_before_anything(tmp_path: Path) -> None:
    commits = fake_spdk.make(tmp_path / "fake", ("26.01", "26.05"))
    done, _unused = from_git(tmp_path, "26.05", commits["26.01"])
    assert done.returncode == 2
    assert f"is commit {commits['26.05']}, spdk_git_commit is {commits['26.01']}" in done.stdout
    assert not (tmp_path / "build").exists() and not (tmp_path / "installed").exists()


def test_two_nodes_of_a_machine_build_once(tmp_path: Path) -> None:
    commits = fake_spdk.make(tmp_path / "fake")
    git = {
        "spdk_git_url": str(tmp_path / "fake" / "spdk"),
        "spdk_git_tag": "v26.05",
        "spdk_git_commit": commits["26.05"],
    }
    done, installed = play(tmp_path, ["find", "install"], ["a", "b"], **git)
    assert done.returncode == 0, done.stdout
    assert [item["version"] for item in installed] == ["26.05", "26.05"]
    assert installed[0]["path"] == installed[1]["path"]
    assert builds(tmp_path) == 1


def test_each_of_two_nodes_that_fail_to_build_tells_its_own_log(tmp_path: Path) -> None:
    """The second one builds, in the same place, while the first one is asked what went wrong."""
    fake_spdk.make(tmp_path / "fake")
    tree = tmp_path / "fake" / "spdk"
    tries = tmp_path / "tries"
    text = f"all:\n\t@echo try >>{tries}; echo attempt $$(wc -l <{tries}) fails; false\n"
    (tree / "Makefile").write_text(text, encoding="utf-8")
    done, _unused = play(tmp_path, ["find", "install"], ["a", "b"], spdk_git_tree=str(tree))
    assert done.returncode == 2
    line = r'"msg": "([ab]): the build failed in compile; it ends with: [^"]*?attempt (\d) fails'
    told = re.findall(line, done.stdout)
    assert sorted(node for node, _unused in told) == ["a", "b"], done.stdout
    assert sorted(attempt for _unused, attempt in told) == ["1", "2"], done.stdout


def test_a_build_that_takes_too_long_is_told_as_such(tmp_path: Path) -> None:
    fake_spdk.make(tmp_path / "fake")
    tree = tmp_path / "fake" / "spdk"
    (tree / "Makefile").write_text("all:\n\t@sleep 300\n", encoding="utf-8")
    done, _unused = install(tmp_path, spdk_git_tree=str(tree), spdk_build_timeout=3)
    assert done.returncode == 2
    assert "localhost: the build was ended; it ends with: Timeout exceeded. The log of the last " in done.stdout
    assert "It may last spdk_build_timeout, 3 s." in done.stdout


def build_environment(directory: Path) -> dict[str, str]:
    """What build.sh is told: to build the repository of fake_spdk in ``directory``/work."""
    return {
        **os.environ,
        "WORK": str(directory / "work"),
        "DIRECTORY": str(directory / "installed"),
        "NAME": "26.05-given",
        "INSTALL": (FILES / "install.sh").read_text(encoding="utf-8"),
        "PROGRAMS": "spdk_tgt nvmf_tgt",
        "TREE": str(directory / "fake" / "spdk"),
        "OPTIONS": "--with-vhost",
        "ARCH": "native",
        "JOBS": "1",
        "CC": "gcc",
        "KEEP": "",
    }


def test_a_build_says_what_it_has_compiled_and_no_share_of_what_it_will_not(tmp_path: Path) -> None:
    """Most of the sources, DPDK's drivers above all, are of what is not built."""
    fake_spdk.make(tmp_path / "fake")
    tree = tmp_path / "fake" / "spdk"
    drivers = tree / "dpdk" / "drivers"
    drivers.mkdir()
    for number in range(50):
        (drivers / f"driver{number}.c").write_text("int driver;\n", encoding="utf-8")
    makefile = (tree / "Makefile").read_text(encoding="utf-8")
    wait = f"\t@echo half; until [ -e {tmp_path}/go ]; do sleep 0.1; done\n"
    (tree / "Makefile").write_text(makefile.replace("two.o\n", "two.o\n" + wait, 1), encoding="utf-8")
    with subprocess.Popen(["sh", str(FILES / "build.sh")], env=build_environment(tmp_path)) as build:
        try:
            while not (log := tmp_path / "work.log").exists() or "half" not in log.read_text(encoding="utf-8").split():
                assert build.poll() is None
                time.sleep(0.1)
            said = subprocess.check_output(["sh", str(FILES / "status.sh"), str(tmp_path / "work"), "1"], text=True)
        finally:
            (tmp_path / "go").touch()
    assert re.fullmatch(r"compile: 2 files compiled, \d+ s; half\n", said)
    assert build.returncode == 0


def test_who_waited_for_a_build_finds_it_installed(tmp_path: Path) -> None:
    """The one that is second in the queue, with the tree of the first one gone."""
    fake_spdk.make(tmp_path / "fake")
    environment = build_environment(tmp_path)
    with subprocess.Popen(["flock", str(tmp_path / "work.lock"), "sh", "-c", "echo held; read line"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:  # fmt: skip
        assert holder.stdout is not None and holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        queue = [subprocess.Popen(["sh", str(FILES / "build.sh")], env=environment) for _unused in range(2)]
        holder.stdin.write("\n")
    assert [process.wait(60) for process in queue] == [0, 0], (tmp_path / "work.log").read_text(encoding="utf-8")
    assert builds(tmp_path) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "fake",
        "installed",
        "work.lock",
        "work.log",
        "work.phase",
    ]
    assert (tmp_path / "work.phase").read_text(encoding="utf-8") == "built\n"
    assert (tmp_path / "installed" / "26.05-given" / "VERSION").read_text(encoding="utf-8") == "26.05\n"


def test_two_nodes_of_a_machine_install_the_emulator_at_once(tmp_path: Path) -> None:
    done, installed = play(tmp_path, ["find", "install", "find"], ["a", "b"], ipdk_engine="emulator")
    assert done.returncode == 0, done.stdout
    assert installed[0] == installed[1]
    assert installed[0]["there"] is True
    path = Path(installed[0]["path"])
    assert [entry.name for entry in path.parent.iterdir()] == [path.name], "nothing half done is left"
    for program in ("spdk_tgt", "nvmf_tgt"):
        said = subprocess.check_output([path / "bin" / program, "--version"], text=True)
        assert said.startswith(f"SPDK v{installed[0]['version']}")


def test_a_prefix_with_spdk_tgt_alone_is_enough_for_the_simulation(tmp_path: Path) -> None:
    group = ROOT / "inventories" / "simulation" / "group_vars" / "storage_targets.yml"
    wanted = yaml.safe_load(group.read_text(encoding="utf-8"))["spdk_program"]
    fake_spdk.program(tmp_path / "prefix" / "build" / "bin" / "spdk_tgt")
    given = {"spdk_prefix": str(tmp_path / "prefix"), "spdk_program": wanted, "spdk_interrupt_mode": True}
    done, installed = install(tmp_path, **given)
    assert done.returncode == 0, done.stdout
    assert installed["program"] == "spdk_tgt"
    assert (
        "spdk_source prefix has no nvmf_tgt: spdk_tgt takes its place, and its iSCSI poller keeps a core" in done.stdout
    )

    fake_spdk.program(tmp_path / "prefix" / "build" / "bin" / "nvmf_tgt")
    done, installed = install(tmp_path, **given)
    assert installed["program"] == "nvmf_tgt"
    assert "takes its place" not in done.stdout
    assert (Path(installed["path"]) / "bin" / "nvmf_tgt").exists()


def test_one_program_that_is_named_has_no_substitute(tmp_path: Path) -> None:
    fake_spdk.program(tmp_path / "prefix" / "bin" / "spdk_tgt")
    done, _unused = install(tmp_path, spdk_prefix=str(tmp_path / "prefix"), spdk_program="nvmf_tgt")
    assert done.returncode == 2
    assert f"no program nvmf_tgt in {tmp_path}/prefix/build/bin {tmp_path}/prefix/bin" in done.stdout
    done, _unused = install(tmp_path, spdk_git_tree=str(tmp_path / "prefix"), spdk_program="vhost")
    assert "spdk_program is vhost, spdk_build_programs has only spdk_tgt, nvmf_tgt. Add it there." in done.stdout


def test_an_old_release_is_refused_before_anything(tmp_path: Path) -> None:
    commits = fake_spdk.make(tmp_path / "fake", ("22.05",))
    fake_spdk.program(tmp_path / "prefix" / "bin" / "spdk_tgt", "22.05")
    git = {
        "spdk_git_url": str(tmp_path / "fake" / "spdk"),
        "spdk_git_tag": "v22.05",
        "spdk_git_commit": commits["22.05"],
    }
    for source in (git, {"spdk_prefix": str(tmp_path / "prefix")}):
        done, _unused = play(tmp_path, ["main"], ["st1"], **source)
        assert done.returncode == 2
        assert "--no-huge came with SPDK 24.01; this one is 22.05" in done.stdout
    assert [name for name in ("installed", "build", "run", "state") if (tmp_path / name).exists()] == []


def test_a_program_without_its_libraries_is_refused_before_it_is_in_use(tmp_path: Path) -> None:
    libraries = []
    for name in ("one", "two"):
        (tmp_path / f"{name}.c").write_text(f"void {name}(void) {{}}\n", encoding="utf-8")
        libraries.append(f"lib{name}_of_test.so")
        subprocess.run(["gcc", "-shared", "-o", tmp_path / libraries[-1], tmp_path / f"{name}.c"], check=True)
    source = (
        'const char *version = "SPDK v26.05";\nvoid one(void);\nvoid two(void);\nint main(void) { one(); two(); }\n'
    )
    (tmp_path / "main.c").write_text(source, encoding="utf-8")
    (tmp_path / "prefix" / "bin").mkdir(parents=True)
    program = ["gcc", "-o", tmp_path / "prefix" / "bin" / "spdk_tgt", tmp_path / "main.c"]
    subprocess.run([*program, *(tmp_path / name for name in libraries)], check=True, cwd=tmp_path)
    for name in libraries:
        (tmp_path / name).unlink()
    done, _unused = install(tmp_path, "try", spdk_prefix=str(tmp_path / "prefix"), spdk_runtime="systemd")
    assert done.returncode == 2
    assert "libone_of_test.so" in done.stdout and "libtwo_of_test.so" in done.stdout
    assert "cannot run on the platform: these shared libraries are missing: " in done.stdout
    assert "Let spdk_packages name the Debian packages" in done.stdout


def test_a_program_that_cannot_start_is_refused_with_its_last_words(tmp_path: Path) -> None:
    fake_spdk.program(tmp_path / "prefix" / "bin" / "spdk_tgt", script="echo Wrong processor >&2; exit 4")
    done, _unused = install(tmp_path, "try", spdk_prefix=str(tmp_path / "prefix"), spdk_runtime="systemd")
    assert done.returncode == 2
    assert "cannot run on the platform: it does not say its version: Wrong processor. Let spdk_packages" in done.stdout


RESTART_PLAY = """
- hosts: localhost
  gather_facts: false
  roles: [{role: ipdk.storage.names}]
  vars:
    link: "{{ ipdk_node_state_dir }}/spdk"
  tasks:
    - ansible.builtin.file: {path: "{{ ipdk_node_state_dir }}", state: directory, mode: "0755"}
    - ansible.builtin.file: {path: "{{ link }}", src: /nowhere, state: link, force: true}
      register: spdk_linked
      changed_when: false
    - ansible.builtin.include_tasks: restart_case.yml
      loop: "{{ cases }}"
"""
RESTART_CASE = """
- ansible.builtin.include_role: {name: ipdk.storage.spdk, tasks_from: outdated}
  vars: {spdk_asks_start: "{{ item.since }}", spdk_config: {changed: false}}
- ansible.builtin.assert: {that: spdk_outdated | bool == item.outdated, fail_msg: "{{ item | to_json }}"}
"""


def test_what_runs_since_before_its_link_was_switched_is_outdated(tmp_path: Path) -> None:
    """Times as Docker tells them, as systemd does, and of what does not run."""
    (tmp_path / "restart_case.yml").write_text(RESTART_CASE, encoding="utf-8")
    docker, systemd = "+%Y-%m-%dT%H:%M:%S.%NZ", "+%a %Y-%m-%d %H:%M:%S.%6N UTC"
    cases = [
        {"since": ["date", "-u", "-d", when, form], "outdated": outdated}
        for form in (docker, systemd)
        for when, outdated in (("1 hour ago", True), ("1 hour", False))
    ]
    cases += [{"since": command, "outdated": False} for command in (["false"], ["true"], ["no-such-program"])]
    done, _unused = play(tmp_path, [], ["localhost"], text=RESTART_PLAY, cases=cases)
    assert done.returncode == 0, done.stdout


WAIT_PLAY = """
- hosts: localhost
  gather_facts: false
  vars_files: ["{{ role }}/defaults/main.yml", "{{ role }}/vars/main.yml"]
  tasks:
    - ansible.builtin.assert:
        that: spdk_build_wait == item.wait
        fail_msg: "{{ item | to_json }}: {{ spdk_build_wait }}"
      vars: {spdk_build_began: "{{ now().timestamp() - item.age }}"}
      loop: [{age: 0, wait: 15}, {age: 200, wait: 15}, {age: 3600, wait: 240}, {age: 7200, wait: 480}]
"""


def test_a_build_that_lasts_is_asked_less_often(tmp_path: Path) -> None:
    """Each question is one level deeper of included tasks, of which Ansible bears some 200."""
    role = str(ROOT / "roles" / "spdk")
    done, _unused = play(tmp_path, [], ["localhost"], text=WAIT_PLAY, role=role, spdk_build_report_seconds=15)
    assert done.returncode == 0, done.stdout
