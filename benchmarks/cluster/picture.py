"""docs/cluster.svg: reused prompts and the time to a first token, by nodes and by load.

The only module of the simulation that needs matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from benchmarks.cluster.simulate import LOADS, SIZE, Row
from benchmarks.peer.picture import INK, MET, MISSED, TOLD

PICTURE = Path(__file__).parents[2] / "docs" / "cluster.svg"

COLOURS = {"random": TOLD, "two choices": "#c98a1b", "least loaded": MISSED, "affinity": MET}
MARKS = {"random": "s", "two choices": "D", "least loaded": "^", "affinity": "o"}


def draw(rows: Sequence[Row], path: Path) -> None:
    """A line of panels for each workload: reused, and p95, by nodes; p95 by load."""
    # The same picture from the same figures, byte for byte; and text as text, a tenth of the size.
    mpl.rcParams.update({"svg.hashsalt": "llambo", "svg.fonttype": "none"})
    workloads = list(dict.fromkeys(row.workload for row in rows))
    figure = Figure(
        figsize=(11, 0.9 + 3.1 * len(workloads)),
        layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12),
    )
    axes = figure.subplots(len(workloads), 3, squeeze=False)
    for workload, line in zip(workloads, axes, strict=True):
        own = [row for row in rows if row.workload == workload]
        sizes = [row for row in own if row.table == SIZE]
        loads = [row for row in own if row.table == LOADS]
        _lines(line[0], sizes, lambda row: row.nodes, lambda row: _percent(row.reused))
        _lines(line[1], sizes, lambda row: row.nodes, lambda row: row.p95)
        _lines(line[2], loads, lambda row: row.load, lambda row: row.p95)
        load = sizes[0].load if sizes else 0
        _label(line[0], "prompt tokens reused, %", f"nodes (load {load:g})")
        _label(line[1], "first token, p95, seconds", f"nodes (load {load:g})")
        _label(line[2], "first token, p95, seconds", "load (100 nodes)")
        for axis in line[:2]:
            nodes = sorted({row.nodes for row in sizes})
            axis.set_xscale("log")
            axis.set_xticks(nodes, [f"{count:,}" for count in nodes])
            axis.set_xticks([], minor=True)
        line[0].set_ylim(0, 100)
        line[0].set_ylabel(workload, fontsize=11, color=INK)
        _seconds(line[1], line[2])
    lines, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle("Which replica a request goes to: simulated, median and range", color=INK)
    figure.savefig(path, metadata={"Date": None})


def _percent(parts: Sequence[float]) -> list[float]:
    return [100 * part for part in parts]


def _lines(
    axis: Axes,
    rows: Sequence[Row],
    across: Callable[[Row], float],
    up: Callable[[Row], Sequence[float]],
) -> None:
    for policy, colour in COLOURS.items():
        own = sorted((row for row in rows if row.policy == policy), key=across)
        places, values = [across(row) for row in own], [up(row) for row in own]
        axis.plot(
            places, [median(each) for each in values], color=colour, marker=MARKS[policy],
            markersize=5, linewidth=2, label=policy,
        )  # fmt: skip
        for place, each in zip(places, values, strict=True):
            axis.plot([place, place], [min(each), max(each)], color=colour, linewidth=1.2)


def _label(axis: Axes, title: str, across: str) -> None:
    axis.set_title(title, loc="left", fontsize=10, color=INK)
    axis.set_xlabel(across, fontsize=9, color=INK)
    axis.tick_params(labelsize=8)
    axis.grid(color="#e5e5e5", zorder=-1)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _seconds(*axes: Axes) -> None:
    """One logarithmic scale for all of them."""
    low = min(axis.dataLim.ymin for axis in axes)
    high = max(axis.dataLim.ymax for axis in axes)
    steps = [step for step in (0.5, 1, 2, 5, 10, 20, 50, 100, 200) if low / 2 < step < high * 2]
    for axis in axes:
        axis.set_yscale("log")
        axis.set_ylim(low / 1.2, high * 1.2)
        axis.set_yticks(steps, [f"{step:g}" for step in steps])
        axis.set_yticks([], minor=True)
