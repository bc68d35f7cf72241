# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Charts, drawn by Matplotlib as SVG that stands in an HTML page.

Its text is text, its colours are variables of the page's style sheet, and it says what it shows (``aria-label``). A
chart is as wide as a telephone, so that its letters have a readable size everywhere; a wide page shows several beside
one another.
"""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from xml.etree import ElementTree

from ansible_collections.ipdk.storage.plugins.plugin_utils.measurements import PERCENTILES, Comparison, Job

try:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
except ImportError as error:
    MISSING: ImportError | None = error
else:
    MISSING = None

WIDTH = 380
"""Of a chart, in CSS pixels, as all lengths here."""
THIN, THICK, GAP, LEGEND = 16, 26, 10, 28
"""A bar among many and one of few; the space to the next job's bars; the room of a legend."""
FEW = 150
"""That high are the bars of few jobs together, unless they would be thicker than is good."""
TEXT, SMALL = 12, 11
LETTER = 7.2
"""A wide letter of ``TEXT``."""
LONGEST_NAME, LEGEND_LETTERS = 18, 42
"""In letters: of a job, and of all runs in a legend together."""
MOST_JOBS = 16
"""That a chart shows; a table has all of them."""
DODGE = 0.08
"""From a run's points to the next run's, where 1 is from one percentile to the next."""

# Colours of light pages, as they stand in the SVG until each becomes the variable of its name.
INK, MUTED, LINE, SURFACE, BAD = "#0b0b0b", "#52514e", "#d9d8d1", "#fcfcfb", "#c92f2f"
SERIES = ("#2a78d6", "#eb6834", "#1baf7a", "#eda100")
VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    LINE: "line",
    SURFACE: "surface",
    BAD: "bad",
    **{colour: f"series-{number}" for number, colour in enumerate(SERIES, 1)},
}

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    # By this letters are measured. The page has its own, which are hardly wider.
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": TEXT,
    "text.color": INK,
    "axes.facecolor": "none",
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": SMALL,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
}


@contextmanager
def drawing(name: str) -> Iterator[None]:
    """Draw in the report's style. ``name``, unique on a page, makes identifiers that are the same each time."""
    with rc_context({**STYLE, "svg.hashsalt": name}):
        yield


def new_figure(width: float, height: float) -> Figure:
    """A figure in CSS pixels, without background."""
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    figure.patch.set_visible(False)
    FigureCanvasSVG(figure)
    return figure


def to_svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as an ``svg`` element for an HTML page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            # A style sheet in here would be one of the whole page.
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        for key, value in element.attrib.items():
            element.set(key, _in_page(key, value, name))
    # As wide as it was drawn, unless a style sheet says otherwise.
    for key, size in zip(("width", "height"), figure.get_size_inches() * 72):
        root.set(key, f"{size:g}")
    root.attrib.pop("version", None)
    root.set("role", "img")
    root.set("aria-label", alt)
    return ElementTree.tostring(root, encoding="unicode")


def _in_page(key: str, value: str, name: str) -> str:
    """An attribute as it may stand beside other charts: identifiers of its own, colours by their names."""
    if key == "id":
        return f"{name}-{value}"
    if key.endswith("href") and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    value = value.replace("url(#", f"url(#{name}-")
    return re.sub("#[0-9a-f]{6}", lambda hit: f"var(--{VARIABLES[hit[0]]})" if hit[0] in VARIABLES else hit[0], value)


def shorten(text: str, length: int = LONGEST_NAME) -> str:
    """A text of at most that many characters, its middle left out; characters that XML has not are replaced."""
    text = NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def fio_bars(
    name: str, comparison: Comparison, what: str, value: Callable[[Job], float], form: Callable[[float], str]
) -> str:
    """A bar for each job and run. ``what`` is measured, with its unit; ``form`` writes a value."""
    names, runs = comparison.names[:MOST_JOBS], list(comparison.runs)
    found = {(run, job): value(row) for run in runs for job in names if (row := comparison.job(run, job)) is not None}
    most = max(found.values(), default=0) or 1
    thickness = min(THICK, max(THIN, FEW / (len(names) * len(runs) or 1)))
    step = len(runs) * thickness + GAP
    legend = LEGEND if len(runs) > 1 else 4
    height = len(names) * step + legend + 4
    with drawing(name):
        figure = new_figure(WIDTH, height)
        left = 12 + LETTER * max((len(shorten(job)) for job in names), default=0)
        axes = figure.add_axes((left / WIDTH, 4 / height, 1 - (left + 6) / WIDTH, len(names) * step / height))
        for series, run in enumerate(runs):
            for row, job in enumerate(names):
                if (run, job) not in found:
                    continue
                middle = row * step + GAP / 2 + (series + 0.5) * thickness
                axes.barh(
                    middle,
                    found[run, job],
                    height=thickness - 3,
                    color=SERIES[series],
                    label=run if row == 0 else None,
                )
                axes.annotate(
                    form(found[run, job]),
                    (found[run, job], middle),
                    xytext=(4, 0),
                    textcoords="offset points",
                    va="center_baseline",
                    size=SMALL,
                )
        axes.set_xlim(0, most * 1.28)
        axes.set_ylim(len(names) * step, 0)
        axes.set_yticks([(row + 0.5) * step for row in range(len(names))], [shorten(job) for job in names])
        axes.tick_params(length=0, labelcolor=INK)
        axes.set_xticks([])
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        if len(runs) > 1:
            _legend(figure, axes)
        return to_svg(figure, name, f"{what}. {_bars_in_words(names, runs, found, form)}")


def _bars_in_words(
    names: Sequence[str], runs: Sequence[str], found: Mapping[tuple[str, str], float], form: Callable[[float], str]
) -> str:
    rows = []
    for job in names:
        values = [f"{run} {form(found[run, job])}".strip() for run in runs if (run, job) in found]
        rows.append(f"{job}: {', '.join(values)}")
    return "; ".join(rows)


def _legend(figure: Figure, axes: object) -> None:
    handles, labels = axes.get_legend_handles_labels()  # type: ignore[attr-defined]
    figure.legend(
        handles,
        [shorten(label, max(8, LEGEND_LETTERS // len(labels))) for label in labels],
        loc="upper left",
        ncols=len(labels),
        frameon=False,
        borderaxespad=0,
        borderpad=0.2,
        handlelength=1,
        handleheight=1,
        columnspacing=1.4,
    )


def latency_points(comparison: Comparison) -> dict[str, dict[str, tuple[float, float, float]]]:
    """By run and percentile: lowest, median and highest of the jobs, in milliseconds."""
    points: dict[str, dict[str, tuple[float, float, float]]] = {}
    for run, jobs in comparison.runs.items():
        points[run] = {}
        for key in PERCENTILES:
            values = [job.latency_ns[key] / 1e6 for job in jobs if job.latency_ns.get(key)]
            if values:
                points[run][key] = (min(values), statistics.median(values), max(values))
    return points


def fio_latency(name: str, comparison: Comparison) -> str | None:
    """Latency percentiles: a line for each run, the median of its jobs, and the range of the jobs as a band."""
    points = {run: found for run, found in latency_points(comparison).items() if found}
    if not points:
        return None
    keys = list(PERCENTILES)
    height = 220
    legend = LEGEND if len(comparison.runs) > 1 else 4
    words = []
    with drawing(name):
        figure = new_figure(WIDTH, height)
        axes = figure.add_axes((54 / WIDTH, 24 / height, 1 - 76 / WIDTH, 1 - (24 + 14 + legend) / height))
        axes.set_yscale("log")
        for series, run in enumerate(comparison.runs):
            if run not in points:
                continue
            there = [key for key in keys if key in points[run]]
            # Beside one another, or one line would hide another that has the same values.
            at = [keys.index(key) + DODGE * (series - (len(comparison.runs) - 1) / 2) for key in there]
            low, middle, high = zip(*(points[run][key] for key in there))
            if high != low:
                axes.fill_between(at, low, high, color=SERIES[series], alpha=0.18, linewidth=0)
            axes.plot(at, middle, color=SERIES[series], linewidth=2, marker="o", markersize=5, label=run)
            if len(points) == 1:
                for place, number in zip(at, middle):
                    axes.annotate(
                        milliseconds(number),
                        (place, number),
                        xytext=(-5, 7),
                        textcoords="offset points",
                        ha="center",
                        size=SMALL,
                    )
            numbers = ", ".join(f"{PERCENTILES[key]} {milliseconds(points[run][key][1])}" for key in there)
            words.append(f"{run}: {numbers}" if run else numbers)
        lowest = min(found[key][0] for found in points.values() for key in found)
        highest = max(found[key][2] for found in points.values() for key in found)
        axes.set_ylim(lowest / 1.6, highest * 2)
        axes.set_xlim(-0.35, len(keys) - 0.65)
        axes.set_xticks(range(len(keys)), list(PERCENTILES.values()))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _position: f"{number:g} ms"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(which="both", length=0)
        axes.grid(axis="y", color=LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
        if len(comparison.runs) > 1:
            _legend(figure, axes)
        return to_svg(figure, name, f"Latency percentiles, median of the jobs. {'; '.join(words)}")


def milliseconds(number: float) -> str:
    """A duration in milliseconds with three digits or so."""
    return f"{number:.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def timeline(name: str, seconds: Mapping[str, float]) -> str:
    """One phase after the other, each as long as it took."""
    height = len(seconds) * THICK + 4
    with drawing(name):
        figure = new_figure(WIDTH, height)
        left = 12 + LETTER * max((len(shorten(phase)) for phase in seconds), default=0)
        right = 64
        axes = figure.add_axes((left / WIDTH, 0, 1 - (left + right) / WIDTH, 1))
        begin = 0.0
        total = sum(seconds.values()) or 1
        for row, taken in enumerate(seconds.values()):
            axes.barh(row, taken, left=begin, height=0.6, color=SERIES[0])
            axes.annotate(
                f"{taken:.1f} s",
                (1, row),
                xycoords=("axes fraction", "data"),
                xytext=(right - 6, 0),
                textcoords="offset points",
                ha="right",
                va="center_baseline",
                size=SMALL,
            )
            begin += taken
        axes.set_xlim(0, total)
        axes.set_ylim(len(seconds) - 0.5, -0.5)
        axes.set_yticks(range(len(seconds)), [shorten(phase) for phase in seconds])
        axes.tick_params(length=0, labelcolor=INK)
        axes.set_xticks([])
        axes.grid(axis="y", color=LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
        words = ", ".join(f"{phase} {taken:.1f} s" for phase, taken in seconds.items())
        return to_svg(figure, name, f"Time of each phase: {words}")
