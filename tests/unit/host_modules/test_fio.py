"""fio as Ansible runs it: on ordinary files with the real program, on a made-up host with a made-up one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_root import FakeRoot
from support.modules import run_module

MIB = 1 << 20
# It does all of each job in no time, but for one called "broken", "eio" or "late", and says which file it was given.
FAKE = """
import configparser, json, signal, sys, time
jobs = configparser.ConfigParser(interpolation=None, delimiters="=")
jobs.read(sys.argv[-1])
names = [name for name in jobs.sections() if name != "global"]
if "broken" in names:
    sys.exit("fio: this is not for me")
side = {"total_ios": 4, "iops": 4.0, "bw_bytes": 16384, "lat_ns": {"mean": 1.0, "percentile": {"50.000000": 1}}}
nothing = {"total_ios": 0, "iops": 0.0, "bw_bytes": 0, "lat_ns": {"mean": 0.0}}
rows = [{"jobname": name, "error": 5 * (name == "eio"), "job_runtime": 1, "mixed": side, "read": side, "write": nothing}
        for name in names]
def end(*_unused):
    with open("output.json", "w") as output:
        output.write("a warning\\n" + json.dumps({"jobs": rows}, indent=1))
    sys.exit(128)
signal.signal(signal.SIGTERM, end)
with open("done", "w") as done:
    done.writelines(f"{name}\\n" for name in names if name != "late")
if "late" in names:
    time.sleep(120)
end()
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH with the made-up fio; one that it started leaves a trace."""
    program = tmp_path / "bin" / "fio"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nopen({str(tmp_path / 'started')!r}, 'w')\n{FAKE}", encoding="utf-8")
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"


@pytest.fixture
def root(tmp_path: Path) -> FakeRoot:
    made = FakeRoot(tmp_path / "root")
    made.add_disk("vda", "root", "0000:00:03.0", partitions=("vda1",))
    made.mount("vda1", "/")
    made.add_disk("vdb", "st1n1", "0000:00:10.0/0000:01:00.0")
    made.add_disk("vdc", "st1n2", "0000:00:10.0/0000:01:01.0")
    return made


def job(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "ioengine": "psync", "direct": False, **more}


def test_check_mode_finds_the_disks_and_tells_fio_what_the_run_does(tmp_path: Path, root: FakeRoot, path: str) -> None:
    options = {
        "jobs": [job("one", serial="st1n1", rw="randwrite", size="1M"), job("two", filename="/dev/vdc")],
        "allow_write": ["st1n1"],
        "sequential": True,
    }
    predicted = run_module("fio", options, check=True, path=path, root=root.path)
    assert predicted["rc"] == 0, predicted
    assert predicted["jobs"] == [
        {"name": "one", "disk": "st1n1", "filename": "/dev/vdb"},
        {"name": "two", "disk": "st1n2", "filename": "/dev/vdc"},
    ]
    assert not (tmp_path / "started").exists()

    done = run_module("fio", options, path=path, root=root.path)
    assert (done["rc"], done["changed"], done["job_file"]) == (0, predicted["changed"], predicted["job_file"])
    assert done["changed"] is True and "[one]\nfilename=/dev/vdb\nrw=randwrite\n" in done["job_file"]
    assert [{key: row[key] for key in ("name", "disk", "filename")} for row in done["jobs"]] == predicted["jobs"]
    assert [(row["iops"], row["lat_ns"], row["error"]) for row in done["jobs"]] == [
        (4.0, {"mean": 1, "p50": 1}, None)
    ] * 2
    assert (tmp_path / "started").exists()


def test_reading_changes_nothing(root: FakeRoot, path: str) -> None:
    for check in (True, False):
        done = run_module("fio", {"jobs": [job("one", serial="root")]}, check, path, root.path)
        assert (done["rc"], done["changed"]) == (0, False), done


@pytest.mark.parametrize("check", [True, False])
def test_what_is_refused_runs_nothing(tmp_path: Path, root: FakeRoot, path: str, check: bool) -> None:
    for options, said in [
        ({"jobs": [job("one", serial="st1n1", rw="write")]}, "which allow_write does not name"),
        ({"jobs": [job("one", serial="root", rw="write")], "allow_write": ["root"]}, "is in use (mounted on /)"),
        ({"jobs": [job("one", serial="st1n9")]}, "no disk has the serial 'st1n9'; there are: root, st1n1, st1n2"),
        ({"jobs": [job("one")]}, "one of the following is required: serial, filename"),
        ({"jobs": [job("one", serial="root", filename="/dev/vda")]}, "mutually exclusive: serial|filename"),
        ({"jobs": [job("one", serial="root", rw="erase")]}, "erase"),
    ]:
        refused = run_module("fio", options, check, path, root.path)
        assert (refused["rc"], refused["failed"]) == (1, True)
        assert said in refused["msg"] and "jobs" not in refused, refused
    assert not (tmp_path / "started").exists()


def test_one_failing_job_is_named_and_the_numbers_of_all_are_there(root: FakeRoot, path: str) -> None:
    jobs = [job("eio", serial="st1n1"), job("fine", serial="st1n2")]
    done = run_module("fio", {"jobs": jobs}, path=path, root=root.path)
    assert (done["rc"], done["changed"]) == (1, False)
    assert done["msg"] == "job 'eio': Input/output error on st1n1"
    assert [(row["ios"], row["error"]) for row in done["jobs"]] == [(4, "Input/output error on st1n1"), (4, None)]


def test_when_the_time_is_over_what_was_measured_is_there(root: FakeRoot, path: str) -> None:
    jobs = [job("early", serial="st1n1", rw="write"), job("late", serial="st1n2")]
    done = run_module("fio", {"jobs": jobs, "allow_write": ["st1n1"], "timeout": 5}, path=path, root=root.path)
    assert (done["rc"], done["changed"]) == (1, True), "early has written"
    assert done["msg"] == "fio was not done after 5 s and was ended; job 'late': it was not done after 5 s"
    assert [(row["name"], row["ios"], row["error"]) for row in done["jobs"]] == [
        ("early", 4, None),
        ("late", 4, "it was not done after 5 s"),
    ]
    assert done["job_file"].startswith("[global]\n")


def test_a_fio_without_numbers_still_says_which_jobs_it_was_given(root: FakeRoot, path: str) -> None:
    done = run_module("fio", {"jobs": [job("broken", serial="st1n1")]}, path=path, root=root.path)
    assert done["rc"] == 1
    assert done["msg"] == "fio ended with status 1 and without numbers: fio: this is not for me"
    assert done["jobs"] == [
        {"name": "broken", "disk": "st1n1", "filename": "/dev/vdb", "error": "fio returned no numbers for it"}
    ]


def test_without_fio_nothing_is_changed(tmp_path: Path, root: FakeRoot) -> None:
    options = {"jobs": [job("one", serial="st1n1", rw="write")], "allow_write": ["st1n1"]}
    done = run_module("fio", options, path=str(tmp_path), root=root.path)
    assert (done["rc"], done.get("changed", False)) == (1, False)
    assert done["msg"] == "there is no program fio on this host: install fio"
    assert "jobs" not in done


def test_the_real_fio_writes_and_reads_back(tmp_path: Path) -> None:
    file = tmp_path / "disk.img"
    file.write_bytes(bytes(MIB))
    jobs = [job("check", filename=str(file), rw="randwrite", verify="crc32c")]
    options = {"jobs": jobs, "allow_write": [str(file)]}
    predicted = run_module("fio", options, check=True)
    assert (predicted["changed"], any(file.read_bytes())) == (True, False)
    done = run_module("fio", options)
    assert (done["rc"], done["changed"], done["job_file"]) == (0, True, predicted["job_file"])
    (row,) = done["jobs"]
    assert (row["read"]["ios"], row["write"]["ios"], row["verify_errors"], row["error"]) == (256, 256, 0, None)
    assert any(file.read_bytes())


def test_the_real_fio_finds_what_is_not_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "disk.img"
    file.write_bytes(bytes(MIB))
    write = job("write", filename=str(file), rw="write", verify="crc32c", options={"do_verify": False})
    assert run_module("fio", {"jobs": [write], "allow_write": [str(file)]})["rc"] == 0
    with file.open("r+b") as opened:
        opened.seek(3 * 4096 + 1000)
        opened.write(b"X" * 8)
    done = run_module("fio", {"jobs": [job("read", filename=str(file), rw="read", verify="crc32c")]})
    assert (done["rc"], done["changed"], done["jobs"][0]["verify_errors"]) == (1, False, 1)
    assert done["msg"] == f"job 'read': 1 blocks of {file} were not what had been written"
