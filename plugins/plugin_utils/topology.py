# Copyright: ipdk.storage contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Storage targets, IPUs and hosts as a picture, with the virtual disks on the ways between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.ipdk.storage.plugins.plugin_utils.charts import (
    BAD,
    INK,
    LINE,
    MUTED,
    SERIES,
    SMALL,
    SURFACE,
    TEXT,
    drawing,
    new_figure,
    shorten,
    to_svg,
)

# charts.MISSING says so
with suppress(ImportError):
    from matplotlib.patches import FancyBboxPatch

KINDS = ("storage target", "IPU", "host")
BOX = (132, 62)
"""Width and height of a node, in CSS pixels."""
WIDE, NARROW = 900, 340
"""Least widths of the picture: left to right, and top to bottom."""
ROW, SPACE, LAYER = 88, 28, 176
"""From one node to the next in a column; between nodes beside one another; from one layer to the next below it."""
LONGEST_LABEL = 30
LETTER, LEADING = 6.6, 14
"""The room of a letter and of a line of a label."""


@dataclass(frozen=True)
class Node:
    layer: int
    """of ``KINDS``; a machine of the inventory may be in two groups"""
    name: str


@dataclass
class Network:
    """What each node shows below its name, layer by layer, and the disks that go each way."""

    nodes: dict[Node, str] = field(default_factory=dict)
    ways: dict[tuple[Node, Node], list[Mapping[str, Any]]] = field(default_factory=dict)

    def layer(self, number: int) -> list[Node]:
        return [node for node in self.nodes if node.layer == number]

    @property
    def longest(self) -> int:
        return max(len(self.layer(number)) for number in range(len(KINDS)))


def network(
    nodes: Mapping[str, Any], disks: Sequence[Mapping[str, Any]] | None, unlisted: Sequence[Mapping[str, Any]]
) -> Network:
    """The nodes of the inventory, and a way from each IPU to its host and wherever a disk comes from.

    ``nodes``: as the filter declared_nodes returns them. ``disks`` and ``unlisted``: virtual_disks_result and
    virtual_disks_unlisted; None where nobody could look.
    """
    found = Network()
    everything = [*(disks or []), *unlisted]
    for name, target in nodes["targets"].items():
        port = f":{target['port']}" if target.get("port") else ""
        found.nodes[Node(0, name)] = f"{target.get('address') or ''}{port}"
    for name, ipu in nodes["ipus"].items():
        used = sum(disk.get("ipu") == name and is_attached(disk) is True for disk in everything)
        most = f" of {ipu['max_disks']}" if ipu.get("max_disks") else ""
        found.nodes[Node(1, name)] = "" if disks is None else f"{used}{most} disks"
    ipus = list(nodes["ipus"])
    # In the order of their IPUs, so that no ways cross here.
    hosts = [name for name, host in nodes["hosts"].items() if host["ipu"] in ipus]
    for name in sorted(hosts, key=lambda name: ipus.index(nodes["hosts"][name]["ipu"])):
        seen = sum(disk["host"] == name and disk.get("visible") is True for disk in everything)
        shown = "nobody looks" if nodes["hosts"][name].get("access") == "none" else f"sees {count(seen)}"
        found.nodes[Node(2, name)] = "" if disks is None else shown
        found.ways[Node(1, nodes["hosts"][name]["ipu"]), Node(2, name)] = []
    for disk in everything:
        target, ipu, host = Node(0, disk["target"]), Node(1, disk.get("ipu") or ""), Node(2, disk["host"])
        if label([disk]) and target in found.nodes and ipu in found.nodes:
            found.ways.setdefault((target, ipu), []).append(disk)
        if is_attached(disk) is not False and (ipu, host) in found.ways:
            found.ways[ipu, host].append(disk)
    return found


def is_attached(disk: Mapping[str, Any]) -> bool | None:
    """Whether the disk is attached now, whatever its declaration wants; None where that is unknown."""
    if disk.get("visible") is not None:
        return bool(disk["visible"])
    if disk.get("converged") is False:
        return None
    # What is still to be done says that it is not yet so.
    wanted = disk["state"] == "attached"
    return wanted != (disk.get("action") in ("attach", "detach", "destroy"))


def count(number: int, noun: str = "disk") -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def label(disks: Sequence[Mapping[str, Any]], names: bool = False) -> list[str]:
    """How many disks are attached, or their names if there is room for them; then the others."""
    attached = [str(disk["name"]) for disk in disks if is_attached(disk)]
    text = ", ".join(attached)
    lines = [text if names and len(text) <= LONGEST_LABEL else count(len(attached))] if attached else []
    right = [disk for disk in disks if disk.get("converged") is not False and not is_attached(disk)]
    others = {
        "to attach": sum(disk["state"] == "attached" for disk in right),
        "detached": sum(disk["state"] == "detached" for disk in right),
        "not converged": sum(disk.get("converged") is False for disk in disks),
    }
    return lines + [f"{number} {what}" for what, number in others.items() if number]


def in_words(found: Network) -> str:
    """What the picture shows, for those who do not see it."""
    kinds = ", ".join(count(len(found.layer(number)), kind) for number, kind in enumerate(KINDS))
    ways = [
        f"{start.name} to {end.name}: {', '.join(label(disks)) or 'no disks'}"
        for (start, end), disks in found.ways.items()
    ]
    return f"{kinds}. {'; '.join(ways)}"


def picture(name: str, found: Network, wide: bool) -> str:
    """The network as SVG, left to right or top to bottom."""
    layers = len(KINDS) - 1
    if wide:
        size, step = (WIDE, found.longest * ROW), ((WIDE - BOX[0] - 2) / layers, ROW)
    else:
        across = BOX[0] + SPACE
        size, step = (max(NARROW, found.longest * across), layers * LAYER + BOX[1] + 2), (across, LAYER)
    places = {node: _place(found, node, size, step, wide) for node in found.nodes}
    with drawing(name):
        figure = new_figure(*size)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, size[0])
        axes.set_ylim(size[1], 0)
        axes.set_axis_off()
        taken: list[Box] = []
        for (start, end), disks in found.ways.items():
            line = _ends(places[start], places[end], wide)
            _way(axes, line, disks)
            crossed = found.longest > 1 and start.layer == 0
            lines = label(disks, wide and not crossed)
            if not wide:
                lines = [part for text in lines for part in text.replace(" converged", "\nconverged").split("\n")]
            # Not in the middle where ways cross, for whose would it be?
            _label(axes, line, lines, 34 if crossed else 50, taken)
        for node, detail in found.nodes.items():
            _box(axes, node, detail, places[node])
        return to_svg(figure, name, f"Topology: {in_words(found)}")


def _place(
    found: Network, node: Node, size: tuple[float, float], step: tuple[float, float], wide: bool
) -> tuple[float, float]:
    """The middle of a node: layers one after the other, each in the middle of what is there."""
    layer = found.layer(node.layer)
    along, across = node.layer - (len(KINDS) - 1) / 2, layer.index(node) - (len(layer) - 1) / 2
    x, y = (along, across) if wide else (across, along)
    return size[0] / 2 + x * step[0], size[1] / 2 + y * step[1]


Line = tuple[tuple[float, float], tuple[float, float]]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def _ends(start: tuple[float, float], end: tuple[float, float], wide: bool) -> Line:
    """From the edge of one box to that of the next."""
    x, y = (BOX[0] / 2, 0) if wide else (0, BOX[1] / 2)
    return (start[0] + x, start[1] + y), (end[0] - x, end[1] - y)


def _way(axes: Any, line: Line, disks: Sequence[Mapping[str, Any]]) -> None:
    """Dashed where no disk is attached, in another colour where something is wrong."""
    attached = any(is_attached(disk) for disk in disks)
    wrong = any(disk.get("converged") is False for disk in disks)
    axes.plot(
        *zip(*line),
        color=BAD if wrong else SERIES[0] if attached else MUTED,
        linewidth=2 if attached else 1.2,
        linestyle="solid" if attached else "dashed",
        zorder=1,
    )


def _label(axes: Any, line: Line, lines: Sequence[str], wanted: int, taken: list[Box]) -> None:
    """Write on a line, ``wanted`` percent of it from its start or as near as there is room; not at all without room."""
    width, height = LETTER * max(map(len, lines), default=0) + 6, LEADING * len(lines)
    for step in sorted(range(10, 91, 4), key=lambda step: (abs(step - wanted), -step)):
        x, y = (begin + step / 100 * (end - begin) for begin, end in zip(*line))
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        if lines and not any(_overlap(box, other) for other in taken):
            taken.append(box)
            axes.text(
                x,
                y,
                "\n".join(lines),
                ha="center",
                va="center",
                size=SMALL,
                color=INK,
                linespacing=1.15,
                zorder=2,
                bbox={"facecolor": SURFACE, "edgecolor": "none", "boxstyle": "round,pad=0.2"},
            )
            return


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _box(axes: Any, node: Node, detail: str, middle: tuple[float, float]) -> None:
    width, height = BOX
    axes.add_patch(
        FancyBboxPatch(
            (middle[0] - width / 2, middle[1] - height / 2),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=7",
            facecolor=SURFACE,
            edgecolor=LINE,
            linewidth=1.5,
            zorder=3,
        )
    )
    for text, below, look in (
        (KINDS[node.layer], -18, {"size": SMALL, "color": MUTED}),
        (shorten(node.name), 0, {"size": TEXT + 1, "weight": "bold", "color": INK}),
        (shorten(detail, 20), 18, {"size": SMALL, "color": MUTED}),
    ):
        axes.text(middle[0], middle[1] + below, text, ha="center", va="center_baseline", zorder=4, **look)
