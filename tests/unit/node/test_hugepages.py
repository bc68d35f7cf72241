"""Hugepages of a node: counted as what its processes hold, cleaned up after a crash, given back at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE

import pytest
import yaml
from test_node_comes_back import NODE_PATH, Node, until

from tests.support.hugepages import NUMBER, SETTINGS, of_meminfo, own_mounts

FILES = Path(__file__).resolve().parents[3] / "roles" / "spdk" / "files"
HOLDER = """
import mmap, os, signal, sys
pages, keep, path = int(sys.argv[1]), sys.argv[2] == "keep", sys.argv[4] + "/map_0"
file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
size = pages * {kib} * 1024
os.ftruncate(file, size)
memory = mmap.mmap(file, size)
for page in range(pages):
    memory[page * {kib} * 1024] = 1
if not keep:
    os.unlink(path)
print("ready", flush=True)
signal.pause()
"""


class Machine:
    """Commands in mounts of their own, with the file system of a node's hugepages; the pages are the machine's."""

    def __init__(self, enter: list[str], run_dir: Path) -> None:
        self.enter = enter
        self.run_dir = run_dir
        self.directory = run_dir / "st1" / "hugepages"

    def run(self, *command: str) -> str:
        environment = {**os.environ, "PYTHONPATH": ":".join(map(str, NODE_PATH))}
        done = subprocess.run([*self.enter, *command], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def hugepages(self, *arguments: str) -> str:
        return self.run("sh", str(FILES / "hugepages.sh"), "apply", *arguments).strip()

    def available(self) -> int:
        measured = self.run("sh", str(FILES / "measure.sh"), str(self.run_dir), str(self.directory))
        machine = yaml.safe_load(measured)
        assert machine["hugepages_there"] is True
        return int(machine["hugepages_free"])

    def hold(self, pages: int, keep: bool = False) -> subprocess.Popen[str]:
        """A process as SPDK is with hugepages: it has mapped that many, and unlinked its file unless it keeps it."""
        program = HOLDER.format(kib=of_meminfo("Hugepagesize"))
        words = [str(pages), "keep" if keep else "unlink", "--huge-dir", str(self.directory)]
        holder = subprocess.Popen(
            [*self.enter, sys.executable, "-c", program, *words], stdout=subprocess.PIPE, text=True
        )
        assert holder.stdout is not None and holder.stdout.readline() == "ready\n"
        return holder


@pytest.fixture
def machine() -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="ipdk-") as path:
        place = Path(path) / "st1" / "hugepages"
        place.mkdir(parents=True)
        with own_mounts(16, f"mount -t hugetlbfs hugetlbfs {place}") as enter:
            yield Machine(enter, Path(path))


def test_reserve_count_clean_up_and_give_back(machine: Machine) -> None:
    before = int(NUMBER.read_text())
    assert machine.hugepages("reserve", str(before + 16)) == "changed"
    assert machine.hugepages("reserve", str(before + 16)) == ""
    assert f"vm.nr_hugepages = {before + 16}" in machine.run("cat", str(SETTINGS))
    there, free = machine.available(), of_meminfo("HugePages_Free")
    assert there >= 16

    # What a node's process holds is the node's: it can be started again.
    holder = machine.hold(4)
    assert of_meminfo("HugePages_Free") == free - 4
    assert machine.available() == there
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert until(lambda: of_meminfo("HugePages_Free") == free, "a file that was unlinked is gone with its process")

    # One that kept its file and was killed leaves pages behind; they are counted, and come back before the next start.
    holder = machine.hold(4, keep=True)
    assert machine.available() == there, "a file that is mapped is not counted twice"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert of_meminfo("HugePages_Free") == free - 4
    assert machine.available() == there
    assert "removed 1 files" in machine.run(sys.executable, "-m", "ipdk_node.hugepages", str(machine.directory))
    assert of_meminfo("HugePages_Free") == free

    assert machine.hugepages("release", str(machine.run_dir)) == "", "a node has its file system still"
    machine.run("umount", str(machine.directory))
    assert machine.hugepages("release", str(machine.run_dir)) == "changed"
    assert int(NUMBER.read_text()) == before
    assert machine.run("ls", str(SETTINGS.parent)) == ""
    assert machine.hugepages("release", str(machine.run_dir)) == ""


def test_a_second_node_reserves_more_and_the_first_number_is_remembered(machine: Machine) -> None:
    before = int(NUMBER.read_text())
    for pages in (4, 8):
        assert machine.hugepages("reserve", str(before + pages)) == "changed"
    machine.run("umount", str(machine.directory))
    machine.hugepages("release", str(machine.run_dir))
    assert int(NUMBER.read_text()) == before


def test_nodes_that_come_at_once_keep_all_their_lines_in_fstab(tmp_path: Path) -> None:
    other = "/dev/sda1 / ext4 defaults 0 1\n# hugetlbfs, by hand\n"
    (tmp_path / "fstab").write_text(other)
    directories = [str(tmp_path / f"node{number}" / "hugepages") for number in range(8)]
    with own_mounts(0, f"mount --bind {tmp_path}/fstab /etc/fstab") as enter:
        machine = Machine(enter, tmp_path)

        def at_once(mode: str, command: str, *words: str) -> list[str]:
            """What each of them said."""
            script = ["sh", str(FILES / "hugepages.sh"), mode, command]
            running = [
                subprocess.Popen([*enter, *script, directory, *words], stdout=subprocess.PIPE, text=True)
                for directory in directories
            ]
            return [process.communicate()[0].strip() for process in running if process.wait() == 0]

        def there() -> list[str]:
            found = machine.run("awk", '$3 == "hugetlbfs" { print $2 }', "/proc/self/mounts").split()
            return sorted(set(found) & set(directories))

        options = f"uid={os.getuid()},mode=0700,nofail"
        assert at_once("check", "mount", options) == ["changed"] * 8
        assert machine.run("cat", "/etc/fstab") == other and there() == []
        assert at_once("apply", "mount", options) == ["changed"] * 8
        lines = {f"hugetlbfs {directory} hugetlbfs {options} 0 0\n" for directory in directories}
        written = machine.run("cat", "/etc/fstab")
        assert written.startswith(other) and set(written.removeprefix(other).splitlines(keepends=True)) == lines
        assert there() == directories
        assert at_once("apply", "mount", options) == [""] * 8

        # Other options hold at once, not from the next boot on.
        assert at_once("apply", "mount", options.replace("0700", "0750")) == ["changed"] * 8
        assert machine.run("stat", "-c", "%a", *directories).split() == ["750"] * 8

        # Where one is in use, it stays as it is, in fstab too, so that the next run does not take it for done.
        busy = subprocess.Popen(
            [*enter, "sh", "-c", f"cd {directories[0]} && echo ready && exec sleep 60"], stdout=PIPE
        )
        try:
            assert busy.stdout is not None and busy.stdout.readline() == b"ready\n"
            script = ["sh", str(FILES / "hugepages.sh"), "apply", "mount", directories[0], options]
            refused = subprocess.run([*enter, *script], capture_output=True, text=True, check=False)
            assert refused.returncode != 0 and f"umount: {directories[0]}: target is busy" in refused.stderr
            assert f"hugetlbfs {directories[0]} hugetlbfs {options} 0 0\n" not in machine.run("cat", "/etc/fstab")
        finally:
            busy.kill()
            busy.wait()
        assert machine.hugepages("mount", directories[0], options) == "changed"

        assert at_once("check", "unmount") == ["changed"] * 8
        assert there() == directories
        assert at_once("apply", "unmount") == ["changed"] * 8
        assert machine.run("cat", "/etc/fstab") == other and there() == []
        assert at_once("apply", "unmount") == [""] * 8


def test_files_of_a_killed_spdk_are_gone_before_the_next_one_starts(tmp_path: Path) -> None:
    directory = tmp_path / "hugepages"
    directory.mkdir()
    with tempfile.TemporaryDirectory(prefix="ipdk-") as short:
        node = Node(Path(short), "st1", {"node": "st1"}, hugepages=directory)
        for _start in range(2):
            (directory / "spdk_pid7map_0").write_bytes(bytes(4096))
            node.start()
            until(lambda: node.says("removed 1 files of an SPDK that was killed"), "nothing was cleaned up")
            until(lambda: node.says("all that is declared is there"), "SPDK did not come")
            assert list(directory.iterdir()) == []
            assert node.kill() == 128 + signal.SIGKILL
