"""fio: the real program on ordinary files, and every refusal on a made-up host."""

from __future__ import annotations

import shutil
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
    with pytest.raises(_fio.FioError, match="job 'b': fio returned no numbers for it: said this"):
        _fio.results([{"name": "b", "disk": "st1n1", "path": "/dev/vdb"}], {"jobs": [row]}, "said this")


def test_a_job_that_takes_too_long_is_ended(disk_file: str) -> None:
    with pytest.raises(_fio.FioError, match=r"fio was not done after 0\.5 s and was ended"):
        run([job(filename=disk_file, runtime=60)], timeout=0.5)


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
    ]
    assert two.splitlines()[-3:] == ["numjobs=2", "group_reporting=1", "stonewall=1"]


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
