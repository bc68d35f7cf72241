# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the playbooks wrote as JSON, read and checked for the report. Pure functions of text and plain data.

Each error names the variable that a file came with, the file, what was wanted and what is there.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PERCENTILES = {"p50": "p50", "p95": "p95", "p99": "p99", "p99_9": "p99.9", "p99_99": "p99.99"}
"""As the module fio calls them → as people write them."""
MAX_RUNS = 4
"""Of one comparison: more colours than that are not told apart."""
MIB = 1 << 20


class InvalidReport(ValueError):
    """A file or a variable is not what the report can show."""


@dataclass
class Job:
    """What one fio job measured in one run."""

    name: str
    disk: str
    iops: float
    bytes_per_second: float
    latency_ns: dict[str, float]
    """by percentile, those of ``PERCENTILES`` that fio gave"""
    verify_errors: int = 0
    error: str | None = None


@dataclass
class Comparison:
    """Runs of the same jobs under different circumstances, in their order; or a single run."""

    title: str
    runs: dict[str, list[Job]]

    @property
    def names(self) -> list[str]:
        """The jobs of all runs, in the order in which they come."""
        return list(dict.fromkeys(job.name for jobs in self.runs.values() for job in jobs))

    def job(self, run: str, name: str) -> Job | None:
        return next((job for job in self.runs[run] if job.name == name), None)

    def ratio(self, run: str, name: str) -> float | None:
        """IOPS of a job as a multiple of those in the first run; None where there is nothing to compare with."""
        first, this = self.job(next(iter(self.runs)), name), self.job(run, name)
        return this.iops / first.iops if first and this and first.iops else None

    def median_ratio(self, run: str) -> float | None:
        """The median of its jobs' ratios."""
        ratios = [ratio for name in self.names if (ratio := self.ratio(run, name)) is not None]
        return statistics.median(ratios) if ratios else None


@dataclass
class Demo:
    """What playbooks/demo.yml found."""

    requested: int
    visible: int
    left: int
    intact: bool
    engine: str
    accelerator: str
    seconds: dict[str, float]
    """by phase, without the total"""
    total: float
    fio: list[Job] = field(default_factory=list)


def parse(where: str, text: str) -> Any:
    """What a file says; ``where`` names it. Raises InvalidReport."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidReport(f"{where}: wanted JSON: {error}") from error


def jobs(where: str, data: Any) -> list[Job]:
    """Jobs as the module fio returns them and playbooks/fio.yml keeps them."""
    if not isinstance(data, list):
        raise InvalidReport(
            f"{where}: wanted the list of jobs that playbooks/fio.yml writes (fio_output), got {_kind(data)}"
        )
    found: dict[str, Job] = {}
    for index, row in enumerate(data):
        job = _job(f"{where}: [{index}]", row)
        # Two hosts may have jobs of one name.
        name, number = job.name, 1
        while job.name in found:
            number += 1
            job.name = f"{name} ({number})"
        found[job.name] = job
    return list(found.values())


def _job(where: str, row: Any) -> Job:
    if not isinstance(row, dict):
        raise InvalidReport(f"{where}: wanted a dictionary, a job as the module fio returns it, got {_kind(row)}")
    latency = row.get("lat_ns")
    if not isinstance(latency, dict):
        raise InvalidReport(f"{where}: lat_ns: wanted a dictionary, got {_kind(latency)}")
    return Job(
        name=_text(where, row, "name"),
        disk=_text(where, row, "disk"),
        iops=_number(where, row, "iops"),
        bytes_per_second=_number(where, row, "bw_bytes"),
        latency_ns={key: _number(f"{where}: lat_ns", latency, key) for key in PERCENTILES if key in latency},
        verify_errors=int(_number(where, row, "verify_errors")) if "verify_errors" in row else 0,
        error=str(row["error"]) if row.get("error") else None,
    )


def comparisons(where: str, given: Any, files: Mapping[str, str]) -> list[Comparison]:
    """``[{title, runs: {label: path}}]`` → the comparisons of these files; ``files``: their texts by path."""
    if not isinstance(given, list):
        raise InvalidReport(f"{where}: wanted a list of dictionaries with title and runs, got {_kind(given)}")
    found = []
    for index, item in enumerate(given):
        here = f"{where}[{index}]"
        if not isinstance(item, dict) or not isinstance(item.get("runs"), dict) or not item["runs"]:
            raise InvalidReport(
                f"{here}: wanted a dictionary with title and runs, labels with files, got {_kind(item)}"
            )
        unknown = sorted(str(key) for key in item if key not in ("title", "runs"))
        if unknown:
            raise InvalidReport(f"{here}: unknown key {unknown[0]!r}; there are: title, runs")
        if len(item["runs"]) > MAX_RUNS:
            raise InvalidReport(f"{here}: runs: wanted {MAX_RUNS} at most, got {len(item['runs'])}; make several of it")
        runs = {}
        for label, path in item["runs"].items():
            name = f"{here}.runs.{label} ({path})"
            runs[str(label)] = jobs(name, parse(name, files[path]))
        found.append(Comparison(str(item.get("title", "fio")), runs))
    return found


def demo(where: str, data: Any) -> Demo:
    """build/demo.json."""
    if not isinstance(data, dict):
        raise InvalidReport(f"{where}: wanted the dictionary that playbooks/demo.yml writes, got {_kind(data)}")
    seconds = data.get("seconds")
    if not isinstance(seconds, dict):
        raise InvalidReport(f"{where}: seconds: wanted a dictionary, got {_kind(seconds)}")
    phases = {str(name): _number(f"{where}: seconds", seconds, name) for name in seconds if name != "total"}
    return Demo(
        requested=int(_number(where, data, "disks_requested")),
        visible=int(_number(where, data, "disks_visible")),
        left=int(_number(where, data, "disks_left")),
        intact=data.get("reattach_data_intact") is True,
        engine=_text(where, data, "engine"),
        accelerator=_text(where, data, "accelerator"),
        seconds=phases,
        total=_number(f"{where}: seconds", seconds, "total") if "total" in seconds else sum(phases.values()),
        fio=jobs(f"{where}: fio", data.get("fio")),
    )


def figures(where: str, data: Any) -> list[dict[str, Any]]:
    """build/bench.json: ``{name, value, unit, how}`` of each figure."""
    rows = data.get("figures") if isinstance(data, dict) else None
    if not isinstance(rows, list):
        raise InvalidReport(f"{where}: wanted a dictionary with figures, as make bench writes it, got {_kind(data)}")
    found = []
    for index, row in enumerate(rows):
        here = f"{where}: figures[{index}]"
        if not isinstance(row, dict):
            raise InvalidReport(f"{here}: wanted a dictionary, got {_kind(row)}")
        found.append(
            {
                "name": _text(here, row, "name"),
                "value": _number(here, row, "value"),
                "unit": str(row.get("unit", "")),
                "how": str(row.get("how", "")),
            }
        )
    return found


def drift(where: str, data: Any) -> tuple[list[str], list[list[str]]]:
    """What differs from the declaration, sentences or dictionaries: the columns, and a row for each difference."""
    if not isinstance(data, list):
        raise InvalidReport(f"{where}: wanted a list of sentences or of dictionaries, got {_kind(data)}")
    if all(isinstance(row, dict) for row in data):
        columns = list(dict.fromkeys(str(key) for row in data for key in row))
        return columns, [[_plain(row.get(column)) for column in columns] for row in data]
    if all(isinstance(row, str) for row in data):
        return ["difference"], [[str(row)] for row in data]
    raise InvalidReport(f"{where}: wanted sentences or dictionaries, got both or something else")


def _plain(value: Any) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, (str, int, float)) else json.dumps(value)


def _kind(value: Any) -> str:
    names = {dict: "a dictionary", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    return next((name for kind, name in names.items() if isinstance(value, kind)), "a number")


def _text(where: str, row: Mapping[str, Any], key: str) -> str:
    if not isinstance(row.get(key), str):
        raise InvalidReport(f"{where}: {key}: wanted a text, got {_kind(row.get(key))}")
    return str(row[key])


def _number(where: str, row: Mapping[str, Any], key: str) -> float:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise InvalidReport(f"{where}: {key}: wanted a number, got {value!r}")
    return float(value)
