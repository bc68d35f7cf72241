# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""fio jobs: which disk each one means and whether it may be written, the job file, the process, the numbers."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils._progress import Progress
from ansible_collections.ipdk.storage.plugins.module_utils._sysfs import Sysfs

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
OPTION = re.compile(r"[a-z][a-z0-9_]*")
OWN_OPTIONS = (
    *("filename", "name", "rw", "readwrite", "output", "directory", "include", "exec_prerun", "exec_postrun"),
    *("opendir", "read_iolog", "replay_redirect"),
)
"""What the free options may not say: it is said elsewhere, would run something else, or would write somewhere else."""

PLAIN = ("bs", "iodepth", "ioengine", "size", "offset", "io_size", "runtime", "rwmixread", "verify")
PERCENTILES = {"50.000000": "p50", "95.000000": "p95", "99.000000": "p99", "99.900000": "p99_9", "99.990000": "p99_99"}
MESSAGES = 2000
"""How many characters of what fio said go into a failure's message, counted from its end."""
DONE = "done"
"""The file in fio's own directory to which each job that comes to its end adds its name, as a line."""
END_SECONDS = 10
"""How long fio may take to end when it is told to: it waits for what is under way and writes its numbers."""
KILL_SECONDS = 5
PROGRESS_SECONDS = 2.0
"""How often it is said how far fio is."""


class FioError(Exception):
    """fio cannot or must not be run with these jobs, or did not do them. The message names the job.

    ``jobs``: where fio ran, what is known of each job, as :func:`results` has it.
    """

    def __init__(self, message: str, jobs: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(message)
        self.jobs = list(jobs)


def writes(job: Mapping[str, Any]) -> bool:
    return job["rw"] not in ("read", "randread")


def resolve(
    jobs: Sequence[Mapping[str, Any]], allowed: Sequence[str], force: bool, sysfs: Sysfs
) -> list[dict[str, Any]]:
    """Find what each job works on and refuse what must not be written; raises FioError for the first that is wrong.

    Returns the jobs with ``path`` (what fio opens) and ``disk`` (the serial, or the path where there is none).
    """
    if not jobs:
        raise FioError("jobs is empty: name at least one job")
    names: dict[str, int] = {}
    disks = {disk["name"]: disk for disk in sysfs.disks([])}
    resolved = []
    for index, job in enumerate(jobs):
        where = f"jobs[{index}] ({job['name']!r})"
        if not NAME.fullmatch(job["name"]) or job["name"] == "global":
            raise FioError(f"{where}: wanted a name of letters, digits, '_', '.', '-', other than global")
        if names.setdefault(job["name"], index) != index:
            raise FioError(f"jobs[{names[job['name']]}] and {where} have the same name: rename one")
        for key, value in (job.get("options") or {}).items():
            if not OPTION.fullmatch(str(key)) or key in OWN_OPTIONS:
                raise FioError(f"{where}: {key!r} may not be given in options")
            _one_value(where, key, value)
        for key in PLAIN:
            _one_value(where, key, job.get(key))
        path, disk = _find(job, where, disks, sysfs)
        if writes(job):
            _may_write(job, where, path, disk, allowed, force, sysfs)
        resolved.append({**job, "path": path, "disk": (disk or {}).get("serial") or path})
    return resolved


def _one_value(where: str, key: str, value: Any) -> None:
    """In a job file a line break begins another option, and a ``#`` or ``;`` ends the value: another file, perhaps."""
    if value is not None and re.search(r"[\r\n]", str(value)):
        raise FioError(f"{where}: {key} has a line break: {value!r}")
    if value is not None and re.search("[#;]", str(value)):
        raise FioError(f"{where}: {key} has a '#' or ';', where fio's job file ends a value: {value!r}")


def _find(
    job: Mapping[str, Any], where: str, disks: Mapping[str, dict[str, Any]], sysfs: Sysfs
) -> tuple[str, dict[str, Any] | None]:
    """The path to open and the disk that it is, or lies on as a partition; no disk for an ordinary file."""
    if job.get("serial"):
        found = [disk for disk in disks.values() if disk["serial"] == job["serial"]]
        if len(found) != 1:
            have = ", ".join(sorted(disk["serial"] for disk in disks.values() if disk["serial"]))
            count = "several disks have" if found else "no disk has"
            raise FioError(f"{where}: {count} the serial {job['serial']!r}; there are: {have or 'none'}")
        path = found[0]["path"]
        if not os.path.exists(sysfs.path(path.lstrip("/"))):
            raise FioError(f"{where}: disk {job['serial']!r} has no {path}; fio would make a file of that name")
        return path, found[0]
    path = job["filename"]
    _one_value(where, "filename", path)
    if not os.path.isabs(path):
        raise FioError(f"{where}: filename: wanted an absolute path, got {path!r}")
    real = os.path.realpath(sysfs.path(path.lstrip("/")))
    name = os.path.basename(real)
    for disk in disks.values():
        if real == os.path.realpath(sysfs.path("dev", disk["name"])) or name in disk["partitions"]:
            return path, disk
    if not os.path.exists(real):
        if path.startswith("/dev/"):
            raise FioError(f"{where}: there is no {path}; fio would make an ordinary file of that name")
        if not os.path.isdir(os.path.dirname(real)):
            raise FioError(f"{where}: there is no directory for {path}")
    elif not (stat.S_ISREG(os.stat(real).st_mode) or stat.S_ISBLK(os.stat(real).st_mode)):
        raise FioError(f"{where}: {path} is neither a block device nor an ordinary file")
    return path, None


def _may_write(
    job: Mapping[str, Any],
    where: str,
    path: str,
    disk: Mapping[str, Any] | None,
    allowed: Sequence[str],
    force: bool,
    sysfs: Sysfs,
) -> None:
    def real(name: str) -> str:
        return os.path.realpath(sysfs.path(name.lstrip("/")))

    by_serial = disk is not None and disk["serial"] is not None and disk["serial"] in allowed
    by_path = real(path) in {real(entry) for entry in allowed if entry.startswith("/")}
    if not (by_serial or by_path):
        raise FioError(
            f"{where}: rw: {job['rw']} would destroy what is on {job.get('serial') or path}, "
            "which allow_write does not name"
        )
    if disk is not None and not force:
        uses = [f"mounted on {mount}" for mount in disk["mounts"]]
        uses += [f"used as swap ({swap})" for swap in disk["swaps"]]
        uses += [f"held by {holder}" for holder in disk["holders"]]
        if not uses and disk["open"]:
            uses = [f"open in {who}" for who in disk["open_by"]]
        if uses:
            raise FioError(
                f"{where}: {disk['path']} is in use ({', '.join(uses)}) and is not written; release it, or set force"
            )


def job_file(jobs: Sequence[Mapping[str, Any]], sequential: bool) -> str:
    """The jobs in fio's own words."""
    lines = ["[global]", "lat_percentiles=1", "clat_percentiles=0", "unified_rw_reporting=both", "thread=1"]
    for job in jobs:
        # A colon separates file names for fio.
        lines += ["", f"[{job['name']}]", "filename=" + job["path"].replace(":", "\\:"), f"rw={job['rw']}"]
        lines += [f"{key}={job[key]}" for key in PLAIN if job.get(key) is not None]
        lines.append(f"direct={int(job['direct'])}")
        if job.get("runtime") is not None:
            lines.append("time_based=1")
        if job.get("verify") is not None:
            # Go on after a mismatch, so that they can be counted.
            lines.append("continue_on_error=verify")
        lines += [f"{key}={_text(value)}" for key, value in (job.get("options") or {}).items()]
        if sequential:
            lines.append("stonewall=1")
        # fio redirects what stands last on the line, and cuts it at a semicolon.
        lines.append(f"exec_postrun=echo {job['name']} >> {DONE} && :")
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def run(jobs: Sequence[Mapping[str, Any]], sequential: bool, timeout: float, fio: str = "fio") -> list[dict[str, Any]]:
    """One fio process for all jobs. Returns :func:`results`; raises FioError where fio itself did not work."""
    with tempfile.TemporaryDirectory(prefix="ipdk-fio-") as directory:
        process = _start(directory, job_file(jobs, sequential), fio)
        late = ""
        done: Counter[str] = Counter()
        try:
            _wait(process, jobs, timeout, directory)
        except subprocess.TimeoutExpired:
            done.update(_read(directory, DONE).split())
            late = f"fio was not done after {timeout:g} s and {_end(process)}"
        except BaseException:
            process.kill()  # nobody waits for it any more, and it must not go on writing
            raise
        output = _output(directory)
        messages = _read(directory, "messages").strip()[-MESSAGES:]
    rows = results(jobs, output or {"jobs": []}, messages if output else "")
    if late:
        for job, row in zip(jobs, rows):
            if done[job["name"]] < _clones(job):
                row["error"] = "; ".join([*filter(None, [row["error"]]), f"it was not done after {timeout:g} s"])
        raise FioError("; ".join(filter(None, [late, messages, complaints(rows)])), rows)
    if output is None:
        raise FioError(f"fio ended with status {process.returncode} and without numbers: {messages}", rows)
    return rows


def _wait(process: subprocess.Popen[bytes], jobs: Sequence[Mapping[str, Any]], timeout: float, directory: str) -> None:
    """Until fio has ended; says meanwhile how far it is. Raises TimeoutExpired."""
    progress, deadline, moved = Progress("fio jobs"), time.monotonic() + timeout, _moved(process.pid)
    while True:
        left = deadline - time.monotonic()
        try:
            process.wait(max(0.0, min(PROGRESS_SECONDS, left)))
            return
        except subprocess.TimeoutExpired:
            if left <= PROGRESS_SECONDS:
                raise
        before, moved = moved, _moved(process.pid)
        done = Counter(_read(directory, DONE).split())
        running = [job["name"] for job in jobs if done[job["name"]] < _clones(job)]
        rate = f"{(moved - before) / PROGRESS_SECONDS / 2**20:.1f} MiB/s"
        name = f"at work: {', '.join(running[:4])}" if running else "all at their ends"
        progress(len(jobs) - len(running), len(jobs), name, rate)


def _moved(pid: int) -> int:
    """The bytes that a process has read and written so far."""
    try:
        with open(f"/proc/{pid}/io", encoding="ascii") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith(("read_bytes", "write_bytes")))
    except OSError:
        return 0  # it has ended


def complaints(rows: Sequence[Mapping[str, Any]]) -> str:
    """What went wrong, of all jobs, in one line; empty if nothing did."""
    return "; ".join(f"job {row['name']!r}: {row['error']}" for row in rows if row["error"])


def _clones(job: Mapping[str, Any]) -> int:
    """How many of a job fio runs, and so how often its name is added to the file of those that are done."""
    number = str((job.get("options") or {}).get("numjobs", 1))
    return int(number) if number.isdigit() else 1


def _start(directory: str, text: str, fio: str) -> subprocess.Popen[bytes]:
    with open(os.path.join(directory, "jobs.fio"), "w", encoding="utf-8") as file:
        file.write(text)
    # In its own directory, since fio leaves state files where it is. Its words go to a file, which needs no reader.
    with open(os.path.join(directory, "messages"), "wb") as messages:
        try:
            return subprocess.Popen(
                [fio, "--output-format=json", "--output=output.json", "jobs.fio"],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=messages,
                stderr=subprocess.STDOUT,
            )
        except FileNotFoundError:
            raise FioError(f"there is no program {fio} on this host: install fio") from None


def _end(process: subprocess.Popen[bytes]) -> str:
    """End fio, if possible so that it still writes its numbers. Returns what has become of it."""
    for stop, seconds, fate in (
        (process.terminate, END_SECONDS, "was ended"),
        (process.kill, KILL_SECONDS, f"was killed, for it did not end itself within {END_SECONDS} s"),
    ):
        stop()
        try:
            process.wait(seconds)
            return fate
        except subprocess.TimeoutExpired:
            continue
    return f"cannot be ended: process {process.pid} hangs in the kernel, usually for a disk that does not answer"


def _read(directory: str, name: str) -> str:
    """A file that fio left, or nothing where it left none."""
    try:
        with open(os.path.join(directory, name), encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _output(directory: str) -> Mapping[str, Any] | None:
    """fio's JSON, if it is whole."""
    text = _read(directory, "output.json")
    try:
        # Some warnings come before the JSON, in the same file.
        return json.loads(text[text.index("{\n") :])
    except ValueError:
        return None


def results(jobs: Sequence[Mapping[str, Any]], output: Mapping[str, Any], messages: str) -> list[dict[str, Any]]:
    """fio's JSON → one dictionary a job, in the jobs' order; ``error`` is null for a job that did what it had to.

    A job of which fio says nothing has no numbers, only its name, disk, filename and an error.
    """
    rows = {row["jobname"]: row for row in output["jobs"]}
    found = []
    for job in jobs:
        which = {"name": job["name"], "disk": job["disk"], "filename": job["path"]}
        row = rows.get(job["name"])
        if row is None:
            error = "fio returned no numbers for it" + (f": {messages}" if messages else "")
            found.append({**which, "error": error})
            continue
        total = _side(row["mixed"])
        verify_errors = row.get("total_err", 1) if row["error"] == errno.EILSEQ else 0
        error = None
        if verify_errors:
            error = f"{verify_errors} blocks of {job['disk']} were not what had been written"
        elif row["error"]:
            error = f"{os.strerror(row['error'])} on {job['disk']}"
        elif total["ios"] == 0:
            # fio calls it a success when it could not open a file.
            error = f"no I/O was done on {job['disk']}"
        found.append(
            {
                **which,
                **total,
                "read": _side(row["read"]),
                "write": _side(row["write"]),
                "runtime_ms": row["job_runtime"],
                "verify_errors": verify_errors,
                "error": error,
            }
        )
    return found


def _side(row: Mapping[str, Any]) -> dict[str, Any]:
    latency = row["lat_ns"]
    percentiles = latency.get("percentile") or {}
    return {
        "ios": row["total_ios"],
        "iops": round(row["iops"], 1),
        "bw_bytes": row["bw_bytes"],
        "lat_ns": {
            "mean": round(latency["mean"]),
            **{name: percentiles[key] for key, name in PERCENTILES.items() if key in percentiles},
        },
    }
