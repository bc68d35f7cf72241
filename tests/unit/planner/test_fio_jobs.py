"""fio jobs find their disks by the names of virtual disks."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.ipdk.storage.plugins.plugin_utils.fio_jobs import jobs_of_host

DISKS = [
    {"name": "vol00", "host": "host1", "serial": "st1n1", "visible": True},
    {"name": "vol01", "host": "host2", "serial": "st1n1", "visible": True},
    {"name": "vol02", "host": "host1", "serial": "st1n2", "visible": False},
    {"name": "vol03", "host": "host1", "serial": None, "visible": None},
    {"name": "both", "host": "host1", "serial": "shared-0n1", "visible": True},
    {"name": "both", "host": "host2", "serial": "shared-0n1", "visible": True},
]


def test_a_host_gets_its_own_jobs() -> None:
    jobs = [{"disk": "vol00", "rw": "read"}, {"disk": "vol01"}, {"disk": "vol00", "name": "again"}]
    assert jobs_of_host(jobs, "host1", DISKS) == [
        {"name": "vol00", "rw": "read", "serial": "st1n1"},
        {"name": "again", "serial": "st1n1"},
    ]
    assert jobs_of_host(jobs, "host2", DISKS) == [{"name": "vol01", "serial": "st1n1"}]


def test_one_host_runs_the_job_of_a_shared_disk() -> None:
    jobs = [{"disk": "both", "host": "host2"}, {"disk": "vol00", "host": "host1"}]
    assert jobs_of_host(jobs, "host1", DISKS) == [{"name": "vol00", "serial": "st1n1"}]
    assert jobs_of_host(jobs, "host2", DISKS) == [{"name": "both", "serial": "shared-0n1"}]


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ("vol00", "fio_jobs: wanted a list of jobs, got str."),
        (["vol00"], r"fio_jobs\[0\]: wanted a dictionary with disk, .* got 'vol00'"),
        ([{"disk": "vol00"}, {"name": "x"}], r"fio_jobs\[1\]: wanted a dictionary with disk"),
        ([{"disk": "vol9"}], r"fio_jobs\[0\]: no virtual disk is called 'vol9'; virtual_disks has: vol00, vol01,"),
        ([{"disk": "vol02"}], r"host1 does not show the disk vol02 \(serial st1n2\)"),
        ([{"disk": "both"}], r"fio_jobs\[0\]: both is shared by host1, host2: wanted host, one of them that runs it"),
        ([{"disk": "both", "host": "host3"}], r"fio_jobs\[0\]: both is a disk of host1, host2, not of 'host3'"),
        ([{"disk": "vol03"}], r"host1 does not show the disk vol03 \(serial none yet\)"),
    ],
)
def test_refusals(jobs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jobs_of_host(jobs, "host1", DISKS)
