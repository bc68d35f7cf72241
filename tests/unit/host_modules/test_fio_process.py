"""What is behind fio: the real program on ordinary files, and every refusal on a made-up host."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.module_utils import _fio, _sysfs
from fake_root import FakeRoot

HERE = _sysfs.Sysfs()
MIB = 1 << 20


def job(name: str = "job", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "rw": "randread",
        "bs": "4k",
        "iodepth": 4,
        "ioengine": "psync",
        "direct": False,
        **more,
    }


@pytest.fixture
def disk_file(tmp_path: Path) -> str:
    path = tmp_path / "disk:1.img"
    path.write_bytes(bytes(MIB))
    return str(path)


def run(jobs: list[dict[str, Any]], allowed: list[str] | None = None, **more: Any) -> list[dict[str, Any]]:
    resolved = _fio.resolve(jobs, allowed or [], False, HERE)
    return _fio.run(resolved, more.pop("sequential", False), more.pop("timeout", 60), **more)


def test_numbers_of_a_verified_job(disk_file: str) -> None:
    (result,) = run([job("check", filename=disk_file, rw="randwrite", verify="crc32c")], [disk_file])
    assert (result["name"], result["disk"], result["error"], result["verify_errors"]) == ("check", disk_file, None, 0)
    assert result["write"]["ios"] == 256 and result["read"]["ios"] == 256, "each block was written and read back"
    assert result["iops"] > 0 and result["bw_bytes"] > 0
    assert result["lat_ns"]["mean"] > 0
    assert 0 < result["lat_ns"]["p50"] <= result["lat_ns"]["p99"] <= result["lat_ns"]["p99_99"]
    assert any(Path(disk_file).read_bytes()), "it really wrote"


def test_corrupted_blocks_are_counted_and_the_job_is_named(disk_file: str) -> None:
    write = job("write", filename=disk_file, rw="write", verify="crc32c", options={"do_verify": False})
    assert run([write], [disk_file])[0]["error"] is None
    with open(disk_file, "r+b") as file:
        for block in (3, 77):
            file.seek(block * 4096 + 1000)
            file.write(b"X" * 8)
    (result,) = run([job("read", filename=disk_file, rw="read", verify="crc32c")])
    assert result["verify_errors"] == 2
    assert result["error"] == f"2 blocks of {disk_file} were not what had been written"


def test_two_jobs_keep_their_order_and_a_failing_one_does_not_hide_the_other(disk_file: str, tmp_path: Path) -> None:
    gone = tmp_path / "soon" / "gone.img"
    gone.parent.mkdir()
    gone.write_bytes(bytes(MIB))
    jobs = _fio.resolve([job("b", filename=str(gone)), job("a", filename=disk_file)], [], False, HERE)
    shutil.rmtree(gone.parent)
    first, second = _fio.run(jobs, True, 60)
    assert (first["name"], first["error"]) == ("b", f"Invalid argument on {gone}")
    assert (second["name"], second["error"]) == ("a", None)


def test_a_job_without_any_io_is_no_success() -> None:
    """fio has been seen to end with status 0 and error 0 where it could not open its file."""
    nothing = {"total_ios": 0, "iops": 0.0, "bw_bytes": 0, "lat_ns": {"mean": 0.0}}
    row = {"jobname": "a", "error": 0, "job_runtime": 1, "mixed": nothing, "read": nothing, "write": nothing}
    (result,) = _fio.results([{"name": "a", "disk": "st1n1", "path": "/dev/vdb"}], {"jobs": [row]}, "")
    assert result["error"] == "no I/O was done on st1n1"


def test_a_job_without_numbers_does_not_hide_the_others(disk_file: str) -> None:
    side = {"total_ios": 1, "iops": 1.0, "bw_bytes": 4096, "lat_ns": {"mean": 1.0}}
    row = {"jobname": "a", "error": 0, "job_runtime": 1, "mixed": side, "read": side, "write": side}
    jobs = [{"name": name, "disk": disk_file, "path": disk_file} for name in ("a", "b")]
    first, second = _fio.results(jobs, {"jobs": [row]}, "said this")
    assert (first["ios"], first["error"]) == (1, None)
    assert second == {
        "name": "b",
        "disk": disk_file,
        "filename": disk_file,
        "error": "fio returned no numbers for it: said this",
    }


class Impatient(subprocess.Popen):
    """Its time is over as soon as job ``a`` is done, however fast this machine is."""

    asked = False

    def wait(self, timeout: float | None = None) -> int:
        if not self.asked:
            self.asked = True
            deadline = time.monotonic() + 60
            while "a\n" not in _fio._read(self.directory, _fio.DONE):
                assert time.monotonic() < deadline and self.poll() is None
                time.sleep(0.01)
            raise subprocess.TimeoutExpired("fio", timeout or 0)
        return super().wait(timeout)

    def __init__(self, *args: Any, cwd: str, **more: Any) -> None:
        self.directory = cwd
        super().__init__(*args, cwd=cwd, **more)


@pytest.mark.parametrize("sequential", [True, False])
def test_what_is_known_of_each_job_when_the_time_is_over(
    disk_file: str, monkeypatch: pytest.MonkeyPatch, sequential: bool
) -> None:
    """The first job is done, of the second one clone is not, the third is under way or was not started."""
    jobs = [
        job("a", filename=disk_file, rw="write", verify="crc32c"),
        job("b", filename=disk_file, runtime=120, options={"numjobs": 2}),
        job("c", filename=disk_file, runtime=120),
    ]
    monkeypatch.setattr(_fio.subprocess, "Popen", Impatient)
    with pytest.raises(_fio.FioError) as caught:
        run(jobs, [disk_file], sequential=sequential, timeout=7)
    first, second, third = caught.value.jobs
    assert (first["name"], first["error"], first["write"]["ios"], first["read"]["ios"]) == ("a", None, 256, 256)
    assert second["error"].endswith("it was not done after 7 s") and "iops" in second
    assert third["error"].endswith("it was not done after 7 s")
    if sequential:
        assert third["error"].startswith("no I/O was done on") and third["ios"] == 0
    message = str(caught.value)
    assert message.startswith("fio was not done after 7 s and was ended; job 'b': ")
    assert "job 'a'" not in message and "job 'c': " in message


def stubborn(directory: Path) -> str:
    """A fio that says that its first job is done, and neither ends when it is told to nor writes numbers."""
    program = directory / "fio"
    program.write_text(
        f"#!{sys.executable}\n"
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('I go on', flush=True)\n"
        "open('done', 'w').write('a\\n')\n"
        "time.sleep(120)\n"
    )
    program.chmod(0o755)
    return str(program)


def test_a_fio_that_does_not_end_is_killed(disk_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fio, "END_SECONDS", 0.1)
    monkeypatch.setattr(_fio.subprocess, "Popen", Impatient)
    with pytest.raises(_fio.FioError) as caught:
        run([job("a", filename=disk_file), job("b", filename=disk_file)], timeout=7, fio=stubborn(tmp_path))
    assert str(caught.value) == (
        "fio was not done after 7 s and was killed, for it did not end itself within 0.1 s; I go on; "
        "job 'a': fio returned no numbers for it; job 'b': fio returned no numbers for it; it was not done after 7 s"
    )
    assert [sorted(known) for known in caught.value.jobs] == [["disk", "error", "filename", "name"]] * 2


def test_a_fio_that_cannot_be_killed_is_left(disk_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that waits in the kernel for a disk that is gone."""
    processes: list[subprocess.Popen[bytes]] = []

    class Unkillable(Impatient):
        def kill(self) -> None:
            processes.append(self)

    monkeypatch.setattr(_fio, "END_SECONDS", 0.1)
    monkeypatch.setattr(_fio, "KILL_SECONDS", 0.1)
    monkeypatch.setattr(_fio.subprocess, "Popen", Unkillable)
    try:
        with pytest.raises(_fio.FioError) as caught:
            run([job("a", filename=disk_file)], timeout=7, fio=stubborn(tmp_path))
    finally:
        (process,) = processes
        subprocess.Popen.send_signal(process, 9)
        process.wait(20)
    assert f"cannot be ended: process {process.pid} hangs in the kernel" in str(caught.value)


def test_what_fio_does_not_understand_is_reported_in_its_words(disk_file: str) -> None:
    with pytest.raises(_fio.FioError, match="fio ended with status 1 and without numbers: .*nonsense"):
        run([job(filename=disk_file, options={"nonsense": 1})])


def test_without_fio(disk_file: str) -> None:
    with pytest.raises(_fio.FioError, match="there is no program /no/fio on this host: install fio"):
        run([job(filename=disk_file)], fio="/no/fio")


def test_the_job_file() -> None:
    jobs = [
        {**job("one", size="1M", runtime=5, verify="md5", direct=True), "path": "/dev/disk:1", "disk": "s"},
        {**job("two", options={"numjobs": 2, "group_reporting": True}), "path": "/dev/vdc", "disk": "t"},
    ]
    text = _fio.job_file(jobs, sequential=True)
    one, two = text.split("\n\n")[1:]
    assert one.splitlines() == [
        "[one]",
        "filename=/dev/disk\\:1",
        "rw=randread",
        "bs=4k",
        "iodepth=4",
        "ioengine=psync",
        "size=1M",
        "runtime=5",
        "verify=md5",
        "direct=1",
        "time_based=1",
        "continue_on_error=verify",
        "stonewall=1",
        "exec_postrun=echo one >> done && :",
    ]
    assert two.splitlines()[-4:-1] == ["numjobs=2", "group_reporting=1", "stonewall=1"]


# Refusals


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRoot:
    monkeypatch.setattr(_sysfs.os, "geteuid", lambda: 0)
    root = FakeRoot(tmp_path)
    root.add_disk("vda", "root", "0000:00:03.0", partitions=("vda1",))
    root.mount("vda1", "/")
    root.add_disk("vdb", "st1n1", "0000:00:10.0/0000:01:00.0")
    root.write("srv/file", "x")
    return root


def resolve(
    host: FakeRoot, jobs: list[dict[str, Any]], allowed: list[str], force: bool = False
) -> list[dict[str, Any]]:
    return _fio.resolve(jobs, allowed, force, _sysfs.Sysfs(str(host.path)))


@pytest.mark.parametrize("where", [{"serial": "st1n1"}, {"filename": "/dev/vdb"}])
@pytest.mark.parametrize("allowed", ["st1n1", "/dev/vdb", "/dev/disk/by-id/virtio-st1n1"])
def test_writing_to_a_disk_that_is_named(host: FakeRoot, where: dict[str, str], allowed: str) -> None:
    (found,) = resolve(host, [job(rw="write", **where)], [allowed])
    assert (found["path"], found["disk"]) == ("/dev/vdb", "st1n1")


@pytest.mark.parametrize(
    ("one", "allowed", "message"),
    [
        (
            job(rw="write", serial="st1n1"),
            [],
            "rw: write would destroy what is on st1n1, which allow_write does not name",
        ),
        (job(rw="randrw", filename="/dev/vdb"), ["root"], "rw: randrw would destroy what is on /dev/vdb"),
        (job(rw="rw", filename="/srv/file"), ["/srv"], "rw: rw would destroy what is on /srv/file"),
        (job(rw="write", serial="root"), ["root"], r"/dev/vda is in use \(mounted on /\) and is not written"),
        (job(rw="write", filename="/dev/vda1"), ["/dev/vda1"], r"/dev/vda is in use \(mounted on /\)"),
        (job(serial="st1n9"), [], "no disk has the serial 'st1n9'; there are: root, st1n1"),
        (job(filename="/dev/vdq"), [], "there is no /dev/vdq; fio would make an ordinary file of that name"),
        (job(filename="/nowhere/file"), [], "there is no directory for /nowhere/file"),
        (job(filename="/srv"), [], "/srv is neither a block device nor an ordinary file"),
        (job(filename="srv/file"), [], "filename: wanted an absolute path, got 'srv/file'"),
        (job(filename="/srv/a\nexec_prerun=x"), [], "filename has a line break"),
        (job(filename="/srv/file", bs="4k\nexec_prerun=x"), [], "bs has a line break"),
        (job(filename="/srv/file", options={"a": "1\nexec_prerun=x"}), [], "a has a line break"),
        (job(filename="/srv/file#1"), [], "filename has a '#' or ';', where fio's job file ends a value"),
        (job(filename="/srv/file", options={"log": "a;b"}), [], "log has a '#' or ';'"),
        (job(filename="/srv/file", options={"opendir": "/srv"}), [], "'opendir' may not be given in options"),
        (job(filename="/srv/file", options={"exec_prerun": "x"}), [], "'exec_prerun' may not be given in options"),
        (job(filename="/srv/file", options={"a b": "x"}), [], "'a b' may not be given in options"),
        (job("global", filename="/srv/file"), [], "wanted a name of letters"),
        (job("a]b", filename="/srv/file"), [], "wanted a name of letters"),
    ],
)
def test_a_job_is_refused(host: FakeRoot, one: dict[str, Any], allowed: list[str], message: str) -> None:
    with pytest.raises(_fio.FioError, match=message) as caught:
        resolve(host, [job("fine", serial="st1n1"), one], allowed)
    assert str(caught.value).startswith(f"jobs[1] ({one['name']!r})")


def test_a_disk_whose_node_is_not_there_yet(host: FakeRoot) -> None:
    host.add_disk("vdc", "st1n2", "0000:00:10.0/0000:01:01.0", node=False)
    with pytest.raises(_fio.FioError, match="disk 'st1n2' has no /dev/vdc; fio would make a file of that name"):
        resolve(host, [job(rw="write", serial="st1n2")], ["st1n2"])


def test_two_jobs_of_one_name(host: FakeRoot) -> None:
    with pytest.raises(_fio.FioError, match=r"jobs\[0\] and jobs\[1\] \('a'\) have the same name"):
        resolve(host, [job("a", serial="st1n1"), job("a", serial="st1n1")], [])
    with pytest.raises(_fio.FioError, match="jobs is empty"):
        resolve(host, [], [])


def test_reading_a_mounted_disk_is_fine_and_force_writes_to_it(host: FakeRoot) -> None:
    assert resolve(host, [job(serial="root")], [])[0]["path"] == "/dev/vda"
    assert resolve(host, [job(rw="write", serial="root")], ["root"], force=True)[0]["path"] == "/dev/vda"


def test_an_open_disk_is_not_written(host: FakeRoot) -> None:
    host.open(42, "postgres", "/dev/vdb")
    with pytest.raises(_fio.FioError, match=r"/dev/vdb is in use \(open in postgres \(42\)\)"):
        resolve(host, [job(rw="write", serial="st1n1")], ["st1n1"])
