"""Figure: the validation Dice of each run while it was trained."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from nobrainer.research.journal import Row
from nobrainer.research.judge import Standing
from nobrainer.research.report.style import BASELINE, CHAMPION, OTHER, RUN


def draw_curves(rows: Sequence[Row], standing: Standing) -> Figure:
    """Draw the validation Dice of each run while it was trained.

    Args:
        rows: the runs, in the order of their numbers.
        standing: what the judge makes of these rows.

    Returns:
        A figure with a line for each run that was validated at least once; the line of
        the champion is thick, that of the baseline dashed. The line of a run that was
        stopped as hopeless ends with a cross, that of a run that failed with a square.
    """
    figure = Figure(figsize=(5.4, 3.6), layout="constrained")
    axis = figure.subplots()
    labels: set[str] = set()

    def draw(points: np.ndarray, label: str, **style: Any) -> None:
        # A label that begins with an underscore is not in the legend.
        known = "_" if label in labels else ""
        axis.plot(*points.T, label=known + label, **style)
        labels.add(label)

    leaders = (standing.champion, standing.baseline)
    for row in sorted(rows, key=lambda row: row.number not in leaders):
        points = np.array([p for p in row.curve if np.isfinite(p).all()])
        if not len(points):
            continue
        label, style = _line_of(row, standing)
        if len(points) == 1:
            style["marker"] = "."
        draw(points, label, **style)
        if row.state not in ("done", "running"):
            pruned = row.state == "pruned"
            draw(
                points[-1:],
                "stopped as hopeless" if pruned else "failed or lost",
                marker="x" if pruned else "s",
                color="0.25",
                markersize=6 if pruned else 4.5,
                linestyle="none",
                zorder=3.5,
            )
    axis.xaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set(xlabel="share of the training", ylabel="validation Dice", xlim=(0, 1.02))
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.3)
    if labels:
        figure.legend(
            loc="outside upper left", ncols=3, fontsize="small", frameon=False
        )
    return figure


def _line_of(row: Row, standing: Standing) -> tuple[str, dict[str, Any]]:
    """Label and style of a run's line."""
    if row.number == standing.baseline:
        style = {"color": BASELINE, "linewidth": 1.8, "zorder": 4.0}
        return f"baseline, run {row.number}", style | {"linestyle": "dashed"}
    if row.number == standing.champion:
        style = {"color": CHAMPION, "linewidth": 2.6, "zorder": 4.0}
        return f"champion, run {row.number}", style
    if row.state == "running":
        return "under way", {"color": RUN, "linewidth": 1.8, "zorder": 3.0}
    style = {"color": OTHER, "linewidth": 0.9, "alpha": 0.8, "zorder": 2.0}
    return "other runs", style
