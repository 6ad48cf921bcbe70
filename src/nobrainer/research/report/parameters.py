"""Figures: which values were tried, and which parameters mattered."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from nobrainer.glossary import OF_RUNS
from nobrainer.research.journal import Row
from nobrainer.research.judge import Standing
from nobrainer.research.ranges import Choice, Range
from nobrainer.research.report.style import (
    BASELINE,
    CHAMPION,
    RUN,
    name_with_direction,
    shorten,
    signed,
)
from nobrainer.research.space import Space

_COLOURS = {"higher": "viridis_r", "lower": "viridis"}
"""Colour map for an objective, by which way is better: the best recipes are dark."""
_MANY = 60
"""Number of recipes above which lines are thin."""
_DASHES = (0, (4, 2))


def draw_importance(importance: Mapping[str, float]) -> Figure:
    """Draw a bar for each parameter, the most important first.

    Args:
        importance: importance of each parameter by its name, as a share of 1.
    """
    ordered = sorted(importance.items(), key=lambda item: -item[1])
    figure = Figure(
        figsize=(5.4, 0.9 + 0.27 * max(len(ordered), 2)), layout="constrained"
    )
    axis = figure.subplots()
    places = np.arange(len(ordered))
    shares = [share for _, share in ordered]
    axis.barh(places, shares, height=0.62, color=RUN)
    for place, share in zip(places, shares, strict=True):
        axis.annotate(
            f"{share:.0%}",
            (share, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )
    axis.set_yticks(places, [name for name, _ in ordered], parse_math=False)
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set(xlabel="share of the importance", ylim=(len(ordered) - 0.4, -0.6))
    axis.set_xlim(0, 1.12 * max(shares))
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    return figure


def draw_parallel(
    space: Space, rows: Sequence[Row], standing: Standing, objective: str
) -> Figure:
    """Draw each recipe as a line through its values, coloured by what it reached.

    Args:
        space: the space whose parameters are the axes.
        rows: the runs, in the order of their numbers; a value outside the space leaves
            a gap.
        standing: what the judge makes of these rows.
        objective: name of `OBJECTIVES` on the last axis, which also sets the colour.

    Returns:
        A figure in which the champion is orange and the baseline dashed. Where lines
        meet in the same choice, those of better recipes lie a little higher. Recipes
        that were not trained to their end are grey and end before the last axis.
    """
    names = list(space.ranges)
    means = {
        number: mean[objective]
        for number, mean in standing.means.items()
        if math.isfinite(mean[objective])
    }
    norm = Normalize(*_ends_of(means.values()))
    colours = colormaps[_COLOURS[OF_RUNS[objective].better]]
    order = sorted(means, key=lambda number: signed(means[number], objective))
    rank = {
        number: place / max(len(order) - 1, 1) for place, number in enumerate(order)
    }
    figure = Figure(figsize=(1.5 + 1.35 * len(names), 4.2), layout="constrained")
    axis = figure.subplots()
    columns = np.arange(len(names) + 1)
    width = 1.4 if len(rows) <= _MANY else 0.7
    for row in rows:
        if row.role == "repeat" or row.state in ("running", "lost"):
            continue
        found = row.number in means
        nudge = 0.05 * (rank.get(row.number, 0.5) - 0.5)
        heights = [
            _height(space.ranges[name], row.values[name], nudge)
            if name in row.values
            else math.nan
            for name in names
        ]
        heights.append(float(norm(means[row.number])) if found else math.nan)
        style: dict[str, Any] = {"color": "0.75", "linewidth": 0.8, "zorder": 1.0}
        if found:
            colour = colours(norm(means[row.number]))
            style = {
                "color": colour,
                "linewidth": width,
                "zorder": 2 + rank[row.number],
            }
        _draw_line(axis, heights, row.number, standing, style)
    for column, name in enumerate(names):
        _draw_scale(axis, column, space.ranges[name])
    axis.set_xticks(columns[:-1], names, parse_math=False, fontsize="small")
    axis.tick_params(axis="x", length=0, pad=8)
    axis.set(xlim=(-0.35, len(names)), ylim=(-0.06, 1.06), yticks=[])
    axis.spines[:].set_visible(False)
    for column in range(len(columns)):
        axis.axvline(column, color="0.3", linewidth=0.8, zorder=0)
    bar = figure.colorbar(
        ScalarMappable(norm, colours), ax=axis, pad=0.0, aspect=30, shrink=0.89
    )
    bar.set_label(name_with_direction(objective))
    untrained = any(row.number not in means and row.role != "repeat" for row in rows)
    _name_lines(figure, standing, with_untrained=untrained)
    return figure


def _draw_line(
    axis: Axes,
    heights: Sequence[float],
    number: int,
    standing: Standing,
    style: dict[str, Any],
) -> None:
    """Draw the line of a recipe; champion and baseline have styles of their own.

    Args:
        axis: axes of the figure.
        heights: height of the line on each axis, 0 to 1, NaN for a gap.
        number: number of the recipe's run.
        standing: says who is champion and who is baseline.
        style: style of the line of any other recipe.
    """
    columns = np.arange(len(heights))
    if number in (standing.champion, standing.baseline):
        # A white edge sets them off from all other lines.
        axis.plot(columns, heights, color="white", linewidth=5.5, zorder=4.0)
        style = {"color": CHAMPION, "linewidth": 3.5, "zorder": 4.5}
    if number == standing.baseline:
        style = {"color": BASELINE, "linewidth": 1.6, "zorder": 5.0}
        style["linestyle"] = _DASHES
    axis.plot(columns, heights, marker="o", markersize=3, **style)


def _name_lines(figure: Figure, standing: Standing, *, with_untrained: bool) -> None:
    """Add a legend for the kinds of lines that are in the figure."""
    handles = []
    if standing.champion not in (None, standing.baseline):
        handles.append(Line2D([], [], color=CHAMPION, linewidth=3.5, label="champion"))
    if standing.baseline is not None:
        handles.append(
            Line2D([], [], color=BASELINE, linestyle=_DASHES, label="baseline")
        )
    if with_untrained:
        handles.append(
            Line2D([], [], color="0.75", linewidth=0.8, label="not trained to its end")
        )
    if handles:
        figure.legend(
            handles=handles,
            loc="outside upper left",
            ncols=3,
            fontsize="small",
            frameon=False,
        )


def _draw_scale(axis: Axes, column: int, span: Range) -> None:
    """Label one of the parallel axes with its choices, or with its ends and decades."""
    if isinstance(span, Choice):
        ticks: Sequence[str | int | float | bool] = span.values
    elif span.log:
        low, high = math.log10(span.low), math.log10(span.high)
        inner = range(math.ceil(low + 0.15), math.floor(high - 0.15) + 1)
        ticks = [span.low, *(10.0**power for power in inner), span.high]
    else:
        ticks = [span.low, span.high]
    for tick in ticks:
        height = _height(span, tick, 0.0)
        axis.plot([column], [height], "_", color="0.3", ms=7, zorder=0)
        text = f"{tick:g}" if type(tick) is float else str(tick)
        axis.annotate(
            shorten(text),
            (column, height),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize="x-small",
            parse_math=False,
            zorder=6,
            bbox={
                "boxstyle": "square,pad=0.1",
                "fc": "white",
                "ec": "none",
                "alpha": 0.85,
            },
        )


def _height(span: Range, value: str | int | float | bool, nudge: float) -> float:
    """Height of a value on its axis, 0 to 1; a choice is moved up by `nudge`."""
    if isinstance(span, Choice):
        n = len(span.values)
        place = span.values.index(value) / (n - 1) if n > 1 else 0.5
        return place + nudge
    low, high, at = float(span.low), float(span.high), float(value)
    if span.log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    return (at - low) / (high - low)


def _ends_of(values: Collection[float]) -> tuple[float, float]:
    """The ends of a scale that holds all values and has some length."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    return (low, high) if low < high else (low - 0.01, high + 0.01)
