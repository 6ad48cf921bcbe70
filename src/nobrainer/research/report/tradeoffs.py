"""Figure: recipes by several objectives, and those that no other one dominates."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nobrainer.research.judge import Standing
from nobrainer.research.report.style import (
    BASELINE,
    CHAMPION,
    OTHER,
    RUN,
    name_with_direction,
    signed,
)


def pareto_front(standing: Standing, objectives: Sequence[str]) -> set[int]:
    """Numbers of the runs that no other one dominates.

    A run dominates another one if it is at least as good in every objective, and
    better in at least one.

    Args:
        standing: what the judge makes of the study, with the means of the objectives.
        objectives: names of `OBJECTIVES`.
    """
    numbers = list(standing.means)
    gains = np.array(
        [[signed(standing.means[n][o], o) for o in objectives] for n in numbers]
    ).reshape(len(numbers), len(objectives))
    return {
        number
        for number, gain in zip(numbers, gains, strict=True)
        if not ((gains >= gain).all(1) & (gains > gain).any(1)).any()
    }


def draw_pareto(standing: Standing, objectives: Sequence[str]) -> Figure:
    """Draw the recipes in pairs of objectives, and those that no other dominates.

    Args:
        standing: what the judge makes of the study, with the objectives' means.
        objectives: at least two names of `OBJECTIVES`.

    Returns:
        A figure with a panel for each pair. Large dots are the recipes of
        `pareto_front`; where there are two objectives a line joins them.
    """
    pairs = list(combinations(objectives, 2))
    figure = Figure(figsize=(1.4 + 4.0 * len(pairs), 4.0), layout="constrained")
    front = pareto_front(standing, objectives)
    axes = figure.subplots(1, len(pairs), squeeze=False)[0]
    for axis, (x, y) in zip(axes, pairs, strict=True):
        _draw_pair(axis, standing, front, (x, y), joined=len(objectives) == 2)
        axis.set(xlabel=name_with_direction(x), ylabel=name_with_direction(y))
        axis.margins(0.08)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=2 * len(pairs),
        fontsize="small",
        frameon=False,
    )
    return figure


def _draw_pair(
    axis: Axes,
    standing: Standing,
    front: set[int],
    pair: tuple[str, str],
    *,
    joined: bool,
) -> None:
    """Draw the recipes by two objectives.

    Args:
        axis: panel to draw in.
        standing: what the judge makes of the study.
        front: numbers of the runs that no other one dominates.
        pair: the objectives of the x and of the y axis.
        joined: whether a dotted line joins the runs of the front.
    """
    points = {
        number: [mean[name] for name in pair] for number, mean in standing.means.items()
    }
    others = np.array([p for n, p in points.items() if n not in front]).reshape(-1, 2)
    axis.plot(*others.T, "o", color=OTHER, ms=4, label="dominated")
    best = np.array([p for n, p in points.items() if n in front])
    best = best[np.argsort(best[:, 0])]
    axis.plot(
        *best.T,
        "o",
        ls="dotted" if joined else "none",
        color=RUN,
        ms=6.5,
        label="not dominated",
        zorder=3,
    )
    for name, mark, colour, number in (
        ("champion", "D", CHAMPION, standing.champion),
        ("baseline", "s", BASELINE, standing.baseline),
    ):
        if number is None or (name, number) == ("champion", standing.baseline):
            continue
        axis.plot(
            *points[number],
            mark,
            color="none",
            markeredgecolor=colour,
            markeredgewidth=1.6,
            markersize=11,
            zorder=4,
            label=f"{name}, run {number}",
        )
