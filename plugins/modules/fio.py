#!/usr/bin/python

# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fio
short_description: Run fio jobs and return their numbers
version_added: 0.1.0
author:
  - ipdk.storage contributors (@ipdk-io)
description:
  - Runs one fio process with all jobs on the host and returns what it measured, job by job.
  - Fails when a job could not do its work or read something else than it had written, and names the job.
  - Writes to nothing that O(allow_write) does not name, and to no disk that is in use.
extends_documentation_fragment:
  - ipdk.storage.progress
attributes:
  check_mode:
    support: full
    description: Finds the disks and checks the jobs, but runs nothing.
  diff_mode:
    support: none
    description: What is on a disk is not compared.
  idempotent:
    support: none
    description: Each run does the I/O again.
options:
  jobs:
    description: The jobs. They run at the same time unless O(sequential).
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: A unique name.
        type: str
        required: true
      serial:
        description: Serial of the disk to work on.
        type: str
      filename:
        description: Path to work on, instead of O(jobs[].serial). An ordinary file is made if it is not there.
        type: path
      rw:
        description: What to do.
        type: str
        choices: [read, write, randread, randwrite, rw, randrw]
        default: randread
      bs:
        description: Size of a request.
        type: str
        default: 4k
      iodepth:
        description: How many requests are under way at a time.
        type: int
        default: 16
      ioengine:
        description: How requests are made.
        type: str
        default: libaio
      direct:
        description: Whether to go past the host's page cache.
        type: bool
        default: true
      size:
        description: How much of the disk or file is used, from O(jobs[].offset) on. All of a disk when left out.
        type: str
      offset:
        description: Where to begin.
        type: str
      io_size:
        description: How much is read and written in sum. As much as O(jobs[].size) when left out.
        type: str
      runtime:
        description: Run for that many seconds, over again if needed.
        type: int
      rwmixread:
        description: Percentage of reads when O(jobs[].rw) has both.
        type: int
      verify:
        description: Write blocks with this checksum, and read all of them back and compare.
        type: str
        choices: [crc32c, crc64, md5, sha256, xxhash]
      options:
        description: Other options of fio, by name.
        type: dict
  allow_write:
    description: Serials and absolute paths of what jobs may write to. It loses what is on it.
    type: list
    elements: str
    default: []
  force:
    description: Write to a disk although it is mounted, held, used as swap or open.
    type: bool
    default: false
  sequential:
    description: Run one job after the other.
    type: bool
    default: false
  timeout:
    description:
      - How many seconds fio may take. Then it is ended and the module fails, with what each job has done so far.
    type: float
    default: 600.0
"""

EXAMPLES = r"""
- name: Write to a disk at random places and read everything back
  ipdk.storage.fio:
    jobs:
      - {name: check, serial: st1n1, rw: randwrite, size: 16M, verify: crc32c}
    allow_write: [st1n1]
  register: measured

- name: Measure random reads on two disks at once
  ipdk.storage.fio:
    jobs:
      - {name: first, serial: st1n1, runtime: 10}
      - {name: second, serial: st1n2, runtime: 10}
"""

RETURN = r"""
jobs:
  description:
    - What was measured, job by job. In check mode only C(name), C(disk) and C(filename).
    - Of a job of which fio, when it failed or was ended, returned no numbers, only these and C(error).
  returned: when fio ran, or in check mode
  type: list
  elements: dict
  contains:
    name:
      description: Name of the job.
      type: str
    disk:
      description: Serial of the disk, or the path where there is no serial.
      type: str
    filename:
      description: What fio opened.
      type: str
    ios:
      description: Number of requests.
      type: int
    iops:
      description: Requests a second, reads and writes together.
      type: float
    bw_bytes:
      description: Bytes a second, read and written together.
      type: int
    lat_ns:
      description: Latency in nanoseconds, C(mean) and the percentiles C(p50), C(p95), C(p99), C(p99_9), C(p99_99).
      type: dict
    read:
      description: C(ios), C(iops), C(bw_bytes), C(lat_ns) of the reads.
      type: dict
    write:
      description: The same of the writes.
      type: dict
    runtime_ms:
      description: How long the job ran.
      type: int
    verify_errors:
      description: Number of blocks that were not what had been written.
      type: int
    error:
      description: What went wrong, or null.
      type: str
job_file:
  description: What fio was told.
  returned: when fio ran, or in check mode
  type: str
"""

from typing import Any

from ansible_collections.ipdk.storage.plugins.module_utils import _fio
from ansible_collections.ipdk.storage.plugins.module_utils._module import run
from ansible_collections.ipdk.storage.plugins.module_utils._sysfs import Sysfs

JOB = {
    "name": {"type": "str", "required": True},
    "serial": {"type": "str"},
    "filename": {"type": "path"},
    "rw": {
        "type": "str",
        "choices": ["read", "write", "randread", "randwrite", "rw", "randrw"],
        "default": "randread",
    },
    "bs": {"type": "str", "default": "4k"},
    "iodepth": {"type": "int", "default": 16},
    "ioengine": {"type": "str", "default": "libaio"},
    "direct": {"type": "bool", "default": True},
    "size": {"type": "str"},
    "offset": {"type": "str"},
    "io_size": {"type": "str"},
    "runtime": {"type": "int"},
    "rwmixread": {"type": "int"},
    "verify": {"type": "str", "choices": ["crc32c", "crc64", "md5", "sha256", "xxhash"]},
    "options": {"type": "dict"},
}
ARGUMENTS = {
    "jobs": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": JOB,
        "required_one_of": [("serial", "filename")],
        "mutually_exclusive": [("serial", "filename")],
    },
    "allow_write": {"type": "list", "elements": "str", "default": []},
    "force": {"type": "bool", "default": False},
    "sequential": {"type": "bool", "default": False},
    "timeout": {"type": "float", "default": 600.0},
    "progress": {"type": "bool", "default": False},
}


def work(given: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    result: dict[str, Any] = {}
    try:
        jobs = _fio.resolve(given["jobs"], given["allow_write"], given["force"], Sysfs())
        result = {
            "changed": any(_fio.writes(job) for job in jobs),
            "job_file": _fio.job_file(jobs, given["sequential"]),
        }
        if check_mode:
            found = [{"name": job["name"], "disk": job["disk"], "filename": job["path"]} for job in jobs]
            return {"jobs": found, **result}
        measured = _fio.run(jobs, given["sequential"], given["timeout"])
    except _fio.FioError as error:
        known = {**result, "jobs": error.jobs} if error.jobs else {}
        return {"failed": True, "msg": str(error), **known}
    wrong = _fio.complaints(measured)
    failure = {"failed": True, "msg": wrong} if wrong else {}
    return {"jobs": measured, **result, **failure}


def main() -> None:
    run(ARGUMENTS, work)


if __name__ == "__main__":
    main()
