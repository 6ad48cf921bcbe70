"""Figure: what each run of a study reached, and who was the champion when."""

import math
from collections.abc import Collection, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nobrainer.glossary import OF_RUNS
from nobrainer.research.journal import STATES, Row
from nobrainer.research.judge import Standing
from nobrainer.research.report.style import (
    BASELINE,
    CHAMPION,
    RUN,
    name_with_direction,
    signed,
)

_FAR = 3.0
"""How far below the best run the lower edge of the figure lies, in multiples of the
distance between the best run and the lower quartile. Runs below are drawn at the edge:
otherwise a single run that learned nothing would press all others into a line."""


def draw_history(rows: Sequence[Row], standing: Standing, objective: str) -> Figure:
    """Draw what each run reached, and who was the champion when.

    Args:
        rows: the runs, in the order of their numbers.
        standing: what the judge makes of these rows.
        objective: a name of `OBJECTIVES`.

    Returns:
        A figure with a dot for each run that was trained to its end (hollow for
        repeats), the champion's mean as a step line with one spread between seeds
        above and below, and the baseline's as a dashed line. Runs that are far worse
        than the others are arrows at the edge. Under it is a row for each way in which
        the other runs ended.
    """
    done = [row for row in rows if math.isfinite(_score(row, objective))]
    states = [s for s in STATES if s != "done" and any(r.state == s for r in rows)]
    upper, lower = 3.2 * bool(done), 0.24 * len(states) + 0.1 * bool(states)
    heights = [height for height in (upper, lower) if height]
    figure = Figure(figsize=(5.4, 0.7 + sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0]
    right = max((row.number for row in rows), default=0)
    if done:
        _draw_scores(axes[0], done, standing, objective, right)
    if states:
        _draw_states(axes[-1], rows, states)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlim(-0.8, right + 0.8)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for axis in axes[:-1]:
        axis.tick_params(axis="x", labelbottom=False)
    axes[-1].set_xlabel("run")
    return figure


def find_reigns(rows: Sequence[Row], standing: Standing) -> list[tuple[int, int]]:
    """Find which run was champion from when on; a repeat must have confirmed it first.

    Args:
        rows: the runs, in the order of their numbers.
        standing: what the judge makes of these rows.

    Returns: for each champion, the first of them first, (number of the run from which
        on it was champion, its own number).
    """
    reigns = []
    holder = standing.baseline
    start = holder
    while holder is not None and start is not None:
        reigns.append((start, holder))
        _, beaten, winner = standing.verdicts[holder].partition("beaten by ")
        holder = int(winner) if beaten else None
        start = max((row.number for row in rows if row.of == holder), default=None)
    return reigns


def _draw_states(axis: Axes, rows: Sequence[Row], states: Sequence[str]) -> None:
    """Draw the lower panel: a row of marks for each way in which runs ended."""
    for place, state in enumerate(states):
        numbers = [row.number for row in rows if row.state == state]
        mark, colour = (">", RUN) if state == "running" else ("x", "0.25")
        axis.plot(numbers, [place] * len(numbers), mark, color=colour, ms=4.5)
    axis.set_yticks(np.arange(len(states)), states)
    axis.tick_params(axis="y", length=0)
    axis.set(ylim=(len(states) - 0.4, -0.6))
    axis.grid(axis="y", alpha=0.3)


def _draw_scores(
    axis: Axes, done: Sequence[Row], standing: Standing, objective: str, right: int
) -> None:
    """Draw the upper panel: dots for the runs, steps for the champions.

    Args:
        axis: panel to draw in.
        done: the runs that have a value of the objective.
        standing: what the judge makes of all rows.
        objective: a name of `OBJECTIVES`.
        right: number of the last run.
    """
    _draw_dots(axis, done, objective)
    if standing.baseline is not None:
        level = standing.means[standing.baseline][objective]
        axis.axhline(
            level, color=BASELINE, linestyle="dashed", linewidth=1, label="baseline"
        )
    _draw_reigns(axis, done, standing, objective, right)
    axis.set_ylabel(f"validation {name_with_direction(objective)}")
    axis.grid(alpha=0.3)
    axis.figure.legend(
        loc="outside upper left", ncols=2, fontsize="small", frameon=False
    )


def _draw_dots(axis: Axes, done: Sequence[Row], objective: str) -> None:
    """Draw a dot for each run, or an arrow at the edge if it lies far beyond."""
    scores = {row.number: _score(row, objective) for row in done}
    edge = _find_edge(scores.values(), objective)
    far = [
        number
        for number, score in scores.items()
        if signed(score, objective) < signed(edge, objective)
    ]
    for role, colour, face, label in (
        ("baseline", BASELINE, BASELINE, "_baseline"),
        ("proposal", RUN, RUN, "recipe"),
        ("repeat", RUN, "white", "repeat with another seed"),
    ):
        near = [r.number for r in done if r.role == role and r.number not in far]
        if near:
            axis.plot(
                near,
                [scores[number] for number in near],
                "s" if role == "baseline" else "o",
                color=colour,
                mfc=face,
                ms=4.5,
                ls="none",
                label=label,
                zorder=3,
            )
    if far:
        down = OF_RUNS[objective].better == "higher"
        axis.plot(
            far,
            [edge] * len(far),
            "v" if down else "^",
            color="tab:blue",
            ms=6,
            ls="none",
            label=f"{'below' if down else 'above'} {edge:.3g}",
            zorder=3,
        )


def _draw_reigns(
    axis: Axes, done: Sequence[Row], standing: Standing, objective: str, right: int
) -> None:
    """Draw the champion's mean as steps, with the spread between seeds around it."""
    reigns = find_reigns(done, standing)
    if not reigns:
        return
    # The last champion's step goes on to the right edge.
    starts = [*(float(start) for start, _ in reigns), right + 0.8]
    runs = [*(run for _, run in reigns), reigns[-1][1]]
    levels = np.array([standing.means[run][objective] for run in runs])
    if standing.spread is not None:
        around = standing.spread[objective]
        axis.fill_between(
            starts,
            levels - around,
            levels + around,
            step="post",
            color=CHAMPION,
            alpha=0.18,
            linewidth=0,
            label="± spread between seeds",
        )
    axis.step(starts, levels, where="post", color=CHAMPION, lw=2, label="champion")


def _score(row: Row, objective: str) -> float:
    """The objective of a run that was trained to its end; NaN for any other run."""
    done = row.state == "done"
    return row.figures.get(objective, math.nan) if done else math.nan


def _find_edge(values: Collection[float], objective: str) -> float:
    """The worst value that is drawn at its own height; see `_FAR`."""
    gains = np.array([signed(value, objective) for value in values])
    usual = gains.max() - np.quantile(gains, 0.25)
    # If most runs are equal there is no scale of what is far: all are drawn in place.
    return abs(max(gains.min(), gains.max() - (_FAR * usual or np.inf)))
