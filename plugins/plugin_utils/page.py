# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report: what is known in, one HTML page out that needs nothing but a browser.

The template gets a *view*: texts, tables of texts, and pictures. It escapes whatever it shows, pictures aside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ansible_collections.ipdk.storage.plugins.plugin_utils import charts, measurements, topology
from ansible_collections.ipdk.storage.plugins.plugin_utils.measurements import MIB, PERCENTILES, Comparison, Job
from ansible_collections.ipdk.storage.plugins.plugin_utils.virtual_disk import human_size
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

NOTHING = "–"


def render(template: str, known: Mapping[str, Any]) -> str:
    """The page. Raises ``measurements.InvalidReport`` for what cannot be shown.

    ``template``: a Jinja template of :func:`view`. ``known`` has

    - ``title``, ``date`` (a text, may be empty)
    - ``nodes``, as the filter declared_nodes returns them
    - ``disks`` and ``unlisted``: virtual_disks_result and virtual_disks_unlisted, null where nobody looked; ``silent``:
      the nodes that did not answer
    - ``demo``, ``bench``: paths, or empty; ``drift``: likewise, or the list itself
    - ``fio``: ``[{title, runs: {label: path}}]``
    - ``files``: by path, the text of each file that is named
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(view(known))


def view(known: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows, by section; a section about which nothing is known is None."""
    demo = _read(known, "demo", measurements.demo)
    comparisons = measurements.comparisons("report_fio", known["fio"], known["files"])
    if demo and demo.fio:
        comparisons.insert(0, Comparison("Verified I/O of the demo", {"": demo.fio}))
    figures = _read(known, "bench", measurements.figures)
    drift = _read(known, "drift", measurements.drift)
    return {
        "title": known["title"],
        "date": known["date"],
        "facts": _facts(demo),
        "simulated": demo is not None and "emulator" in (demo.engine, demo.accelerator),
        "topology": _topology(known),
        "disks": None if known["disks"] is None else _disk_rows(known["disks"], known["unlisted"] or []),
        # They come in the order in which Ansible noticed, which is another one each time.
        "silent": sorted(known["silent"]),
        "fio": [_fio(number, comparison) for number, comparison in enumerate(comparisons, 1)],
        "phases": None
        if demo is None or not demo.seconds
        else {"picture": Markup(charts.timeline("phases", demo.seconds)), "total": f"{demo.total:.1f} s"},
        "figures": figures and [{**row, "value": f"{row['value']:g}"} for row in figures],
        "drift": drift and {"columns": drift[0], "rows": drift[1]},
        "missing": _missing(known),
        "sources": [PurePath(path).name for path in known["files"]],
    }


def _read(known: Mapping[str, Any], key: str, reader: Callable[[str, Any], Any]) -> Any:
    given = known[key]
    if given is None or given == "":
        return None
    if not isinstance(given, str):
        return reader(f"report_{key}", given)
    name = f"report_{key} ({given})"
    return reader(name, measurements.parse(name, known["files"][given]))


def _missing(known: Mapping[str, Any]) -> list[str]:
    """What the report says nothing about, and what would change that."""
    wishes = {
        "disks": "the virtual disks: nobody looked, or no node answered (report_look)",
        "fio": "further runs of fio (report_fio)",
        "demo": "the demo (report_demo)",
        "bench": "what the collection itself costs (report_bench)",
        "drift": "drift (report_drift)",
    }
    # An empty list of differences is an answer.
    return [text for key, text in wishes.items() if known[key] in (None, "") or (key == "fio" and not known[key])]


def _facts(demo: measurements.Demo | None) -> list[dict[str, Any]]:
    """Key figures: what, the figure, what belongs to it, and whether it is good (None: neither good nor bad)."""
    if demo is None:
        return []
    wrong = sum(job.verify_errors for job in demo.fio)
    return [
        {
            "what": "Disks seen by the guest",
            "value": str(demo.visible),
            "note": f"of {demo.requested} requested",
            "good": demo.visible == demo.requested,
        },
        {
            "what": "Data after re-attaching",
            "value": "the same" if demo.intact else "different",
            "note": "a whole disk, by its checksum",
            "good": demo.intact,
        },
        {
            "what": "Verify errors",
            "value": str(wrong),
            "note": f"fio on {topology.count(len(demo.fio))}",
            "good": wrong == 0 and not any(job.error for job in demo.fio),
        },
        {
            "what": "Disks left at the end",
            "value": str(demo.left),
            "note": "all detached again",
            "good": demo.left == 0,
        },
        {"what": "Engine", "value": demo.engine, "note": f"guest's processor: {demo.accelerator}", "good": None},
    ]


# the topology and the disks


def _topology(known: Mapping[str, Any]) -> dict[str, Any] | None:
    if not known["nodes"]["ipus"]:
        return None
    found = topology.network(known["nodes"], known["disks"], known["unlisted"] or [])
    return {
        "wide": Markup(topology.picture("topology-wide", found, True)),
        "narrow": Markup(topology.picture("topology-narrow", found, False)),
    }


def _disk_rows(disks: Sequence[Mapping[str, Any]], unlisted: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each disk; those that are not in the list come last."""
    rows = []
    for disk in disks:
        ipu = f"{disk['ipu']} {disk.get('handle') or ''}".strip()
        target = f"{disk['target']} namespace {disk['nsid']}" if disk.get("nsid") else disk["target"]
        seen = {True: "yes", False: "no", None: "nobody looked"}[disk.get("visible")]
        rows.append(
            {
                "name": disk["name"],
                "size": human_size(disk["size"]),
                "state": _state(disk),
                "path": [target, ipu, disk["host"]],
                "device": " ".join(part for part in (disk.get("device"), disk.get("pci_address")) if part) or NOTHING,
                "serial": disk.get("serial") or NOTHING,
                "seen": seen,
                "wrong": "" if disk["converged"] else disk.get("reason") or "no reason is known",
            }
        )
    for disk in unlisted:
        rows.append(
            {
                "name": disk["name"],
                "size": human_size(disk["size"]),
                "state": f"{disk['state']}, not in the list",
                "path": [part for part in (disk["target"], disk["host"]) if part],
                "device": NOTHING,
                "serial": NOTHING,
                "seen": NOTHING,
                "wrong": "",
            }
        )
    return rows


def _state(disk: Mapping[str, Any]) -> str:
    """What the disk is now, and what the next run would do to it."""
    attached = topology.is_attached(disk)
    if attached is None:
        return "unknown"
    now = "attached" if attached else "not attached" if disk["state"] == "attached" else disk["state"]
    return f"{now}, to {disk['action']}" if disk["action"] != "none" else now


# fio


def _fio(number: int, comparison: Comparison) -> dict[str, Any]:
    """A section: charts, what the runs are to the first one, and a table with a row for each job and run."""
    name = f"fio-{number}"
    pictures = [
        ("IOPS", charts.fio_bars(f"{name}-iops", comparison, "IOPS", lambda job: job.iops, "{:.0f}".format)),
        (
            "Bandwidth, MiB/s",
            charts.fio_bars(
                f"{name}-bandwidth",
                comparison,
                "Bandwidth in MiB/s",
                lambda job: job.bytes_per_second / MIB,
                "{:.1f}".format,
            ),
        ),
        ("Latency by percentile", charts.fio_latency(f"{name}-latency", comparison)),
    ]
    runs = list(comparison.runs)
    jobs = comparison.names
    return {
        "title": comparison.title,
        "pictures": [{"title": title, "svg": Markup(svg)} for title, svg in pictures if svg and jobs],
        "spread": len(jobs) > 1,
        "cut": [charts.MOST_JOBS, len(jobs)] if len(jobs) > charts.MOST_JOBS else None,
        "ratios": [{"run": run, "first": runs[0], "ratio": _ratio(comparison.median_ratio(run))} for run in runs[1:]],
        "compared": len(runs) > 1,
        "percentiles": list(PERCENTILES.values()),
        "rows": [_fio_row(comparison, run, job) for job in jobs for run in runs],
    }


def _fio_row(comparison: Comparison, run: str, name: str) -> dict[str, Any]:
    job = comparison.job(run, name)
    if job is None:
        return {"job": name, "disk": NOTHING, "run": run, "numbers": None, "error": "", "ratio": NOTHING}
    return {
        "job": name,
        "disk": job.disk,
        "run": run,
        "numbers": [f"{job.iops:.0f}", f"{job.bytes_per_second / MIB:.1f}", *_latencies(job), str(job.verify_errors)],
        "error": job.error or "",
        "ratio": _ratio(comparison.ratio(run, name)),
    }


def _latencies(job: Job) -> list[str]:
    return [f"{job.latency_ns[key] / 1e6:.2f}" if key in job.latency_ns else NOTHING for key in PERCENTILES]


def _ratio(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"
