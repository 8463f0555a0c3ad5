"""docs/performance.svg: each ratio with its spread, and the bar it has to reach.

    python -m benchmarks.peer.picture

draws it again from `peer.json`, without measuring anything. The only module that needs matplotlib
(`pip install -e .[bench]`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from benchmarks.peer.figures import RESULTS, Row, kept, rounded

PICTURE = Path(__file__).parents[2] / "docs" / "performance.svg"

MET, MISSED, TOLD, INK = "#2a7f62", "#c0392b", "#7f8c8d", "#222222"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Two panels, for what should be more and what should be less; a line for each row."""
    # The same picture from the same figures, byte for byte; and text as text, a tenth of the size.
    mpl.rcParams.update({"svg.hashsalt": "llambo", "svg.fonttype": "none"})
    panels = [
        [row for row in rows if row.metric.more],
        [row for row in rows if not row.metric.more],
    ]
    panels = [panel for panel in panels if panel]
    figure = Figure(
        figsize=(11, 1.7 + 0.42 * len(rows)), layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.1)
    )
    axes = figure.subplots(
        len(panels), 1, squeeze=False, height_ratios=[len(panel) + 1.2 for panel in panels]
    )
    for panel, axis in zip(panels, axes[:, 0], strict=True):
        _panel(axis, panel)
    figure.suptitle(
        "Llambo against llama-server: same machine, build, model and threads", color=INK
    )
    axes[-1, 0].set_xlabel(
        "bridge / llama-server, median and range over the rounds (logarithmic); right: the medians",
        color=INK,
    )
    figure.savefig(path, metadata={"Date": None})


def _panel(axis: Axes, rows: Sequence[Row]) -> None:
    more = rows[0].metric.more
    axis.set_title(
        "more is better; black: the least ratio that will do" if more else
        "less is better; black: the largest ratio that will do",
        loc="left", fontsize=10, color=INK,
    )  # fmt: skip
    axis.axvline(1, color=TOLD, linewidth=1, zorder=0)
    for place, row in enumerate(rows):
        colour = TOLD if row.metric.bar is None else MET if row.met else MISSED
        axis.plot([min(row.ratios), max(row.ratios)], [place, place], color=colour, linewidth=3)
        axis.plot(row.ratio, place, "o", color=colour, markersize=8)
        if row.metric.bar is not None:
            axis.plot(row.metric.bar, place, "|", color=INK, markersize=20, markeredgewidth=2)
        axis.annotate(
            _said(row), (1.01, place), xycoords=("axes fraction", "data"), va="center",
            fontsize=9, color=colour,
        )  # fmt: skip
    axis.set_yticks(
        range(len(rows)), [f"{row.case.title}\n{row.metric.name}" for row in rows], fontsize=8
    )
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xscale("log")
    low, high = _reach(rows)
    axis.set_xlim(low, high)
    steps = [step for step in (FINE if high < 2 * low else COARSE) if low <= step <= high]
    axis.set_xticks(steps, [f"{step:g}" for step in steps])
    axis.set_xticks([], minor=True)
    axis.grid(axis="x", color="#e5e5e5", zorder=-1)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)


FINE = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.5, 1.7, 2)
COARSE = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20)


def _reach(rows: Sequence[Row]) -> tuple[float, float]:
    """What the axis has to show: every ratio, every bar, and 1."""
    shown = [1.0, *(ratio for row in rows for ratio in row.ratios)]
    shown += [row.metric.bar for row in rows if row.metric.bar is not None]
    return min(shown) / 1.08, max(shown) * 1.08


def _said(row: Row) -> str:
    figures = f"{rounded(median(row.ours))} : {rounded(median(row.peer))} {row.metric.unit}"
    verdict = "" if row.metric.bar is None else f", bar {row.bar}: {'yes' if row.met else 'NO'}"
    return f"{row.ratio:.2f}  ({figures}{verdict})"


if __name__ == "__main__":
    draw(kept(RESULTS.read_text()), PICTURE)
