"""Charts of a study: how the search went, what mattered, who won."""

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
from matplotlib.ticker import MaxNLocator, PercentFormatter

from nobrainer.glossary import OF_RUNS
from nobrainer.research.journal import STATES, Row
from nobrainer.research.judge import Standing
from nobrainer.research.records import FinalResult
from nobrainer.research.space import Choice, Range, Space

_RUN, _CHAMPION, _BASELINE, _OTHER = "tab:blue", "#c44e00", "black", "0.6"
_COLOURS = {"higher": "viridis_r", "lower": "viridis"}
"""Of what recipes reach: the best are dark, for they must be seen."""
_NAMED_SUBJECTS = 40
"""Subjects up to which each has its name; more would cover each other."""
_LONGEST = 22
"""Letters of a name that a chart has room for."""
_MANY = 60
"""Recipes above which lines are thin."""
_DASHES = (0, (4, 2))
_FAR = 3.0
"""Runs this many times farther from the best than the worst quarter begins are drawn at
the edge: one that learned nothing would press the others into a line."""


def name_with_direction(objective: str) -> str:
    """An objective's title, with its unit and which way is better."""
    metric = OF_RUNS[objective]
    return f"{metric.heading}, {metric.better} is better"


def draw_history(rows: Sequence[Row], standing: Standing, objective: str) -> Figure:
    """Draw what each run reached, and who was the champion when.

    Args:
        rows: by number.
        standing: of these rows.
        objective: a name of `OBJECTIVES`.

    Returns:
        A figure with a dot for each run that was trained to its end (hollow for
        repeats), the champion's mean as a step line with one spread between seeds
        above and below, and the baseline's as a dashed line. Runs that are far worse
        than the others are arrows at the edge. Under it a row for each way in which
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
        axis = axes[-1]
        for place, state in enumerate(states):
            numbers = [row.number for row in rows if row.state == state]
            mark, colour = (">", _RUN) if state == "running" else ("x", "0.25")
            axis.plot(numbers, [place] * len(numbers), mark, color=colour, ms=4.5)
        axis.set_yticks(np.arange(len(states)), states)
        axis.tick_params(axis="y", length=0)
        axis.set(ylim=(len(states) - 0.4, -0.6))
        axis.grid(axis="y", alpha=0.3)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlim(-0.8, right + 0.8)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for axis in axes[:-1]:
        axis.tick_params(axis="x", labelbottom=False)
    axes[-1].set_xlabel("run")
    return figure


def draw_importance(importance: Mapping[str, float]) -> Figure:
    """Draw a bar for each parameter, the most important first.

    Args:
        importance: of each parameter, shares of 1.
    """
    ordered = sorted(importance.items(), key=lambda item: -item[1])
    figure = Figure(
        figsize=(5.4, 0.9 + 0.27 * max(len(ordered), 2)), layout="constrained"
    )
    axis = figure.subplots()
    places = np.arange(len(ordered))
    shares = [share for _, share in ordered]
    axis.barh(places, shares, height=0.62, color=_RUN)
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
        space: whose parameters are the axes.
        rows: by number; values that the space cannot say leave a gap.
        standing: of these rows.
        objective: a name of `OBJECTIVES`, the last axis.

    Returns:
        A figure in which the champion is orange and the baseline dashed. Of lines
        that meet in a choice, the better ones lie higher there. Recipes that cannot
        be trained here are grey and end before the last axis.
    """
    names = list(space.ranges)
    means = {
        number: mean[objective]
        for number, mean in standing.means.items()
        if math.isfinite(mean[objective])
    }
    low, high = _padded(means.values())
    norm = Normalize(low, high)
    colours = colormaps[_COLOURS[OF_RUNS[objective].better]]
    order = sorted(means, key=lambda number: _gain(means[number], objective))
    rank = {
        number: place / max(len(order) - 1, 1) for place, number in enumerate(order)
    }
    figure = Figure(figsize=(1.5 + 1.35 * len(names), 4.2), layout="constrained")
    axis = figure.subplots()
    columns = np.arange(len(names) + 1)
    leaders = (standing.champion, standing.baseline)
    width = 1.4 if len(rows) <= _MANY else 0.7
    for row in rows:
        if row.role == "repeat" or row.state in ("running", "lost"):
            continue
        found = row.number in means
        nudge = 0.05 * (rank.get(row.number, 0.5) - 0.5)
        heights = [
            _place(space.ranges[name], row.values[name], nudge)
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
        if row.number in leaders:
            # With a white edge they are seen on all others.
            axis.plot(columns, heights, color="white", linewidth=5.5, zorder=4.0)
            style = {"color": _CHAMPION, "linewidth": 3.5, "zorder": 4.5}
        if row.number == standing.baseline:
            style = {"color": _BASELINE, "linewidth": 1.6, "zorder": 5.0}
            style["linestyle"] = _DASHES
        axis.plot(columns, heights, marker="o", markersize=3, **style)
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
    handles = []
    if standing.champion not in (None, standing.baseline):
        handles.append(Line2D([], [], color=_CHAMPION, linewidth=3.5, label="champion"))
    if standing.baseline is not None:
        handles.append(
            Line2D([], [], color=_BASELINE, linestyle=_DASHES, label="baseline")
        )
    if any(row.number not in means and row.role != "repeat" for row in rows):
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
    return figure


def draw_curves(rows: Sequence[Row], standing: Standing) -> Figure:
    """Draw the validation Dice of each run while it was trained.

    Args:
        rows: by number.
        standing: of these rows.

    Returns:
        A figure with a line for each run that was validated at least once, that of
        the champion thick and that of the baseline dashed. A cross ends the line of a
        run that was stopped as hopeless, a square that of one that failed.
    """
    figure = Figure(figsize=(5.4, 3.6), layout="constrained")
    axis = figure.subplots()
    labels = set()
    leaders = (standing.champion, standing.baseline)
    for row in sorted(rows, key=lambda row: row.number not in leaders):
        points = np.array([p for p in row.curve if np.isfinite(p).all()])
        if not len(points):
            continue
        ended = row.state in ("done", "running")
        style: dict[str, Any] = {
            "color": _OTHER,
            "linewidth": 0.9,
            "alpha": 0.8,
            "zorder": 2.0,
        }
        label = "other runs"
        if row.number == standing.baseline:
            style = {"color": _BASELINE, "linewidth": 1.8, "zorder": 4.0}
            style |= {"linestyle": "dashed"}
            label = f"baseline, run {row.number}"
        elif row.number == standing.champion:
            style = {"color": _CHAMPION, "linewidth": 2.6, "zorder": 4.0}
            label = f"champion, run {row.number}"
        elif row.state == "running":
            style = {"color": _RUN, "linewidth": 1.8, "zorder": 3.0}
            label = "under way"
        if len(points) == 1:
            style["marker"] = "."
        known = "_" if label in labels else ""
        axis.plot(points[:, 0], points[:, 1], label=known + label, **style)
        labels.add(label)
        if not ended:
            pruned = row.state == "pruned"
            label = "stopped as hopeless" if pruned else "failed or lost"
            known = "_" if label in labels else ""
            axis.plot(
                *points[-1],
                "x" if pruned else "s",
                color="0.25",
                markersize=6 if pruned else 4.5,
                linestyle="none",
                zorder=3.5,
                label=known + label,
            )
            labels.add(label)
    axis.xaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set(xlabel="share of the training", ylabel="validation Dice", xlim=(0, 1.02))
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.3)
    if labels:
        figure.legend(
            loc="outside upper left", ncols=3, fontsize="small", frameon=False
        )
    return figure


def draw_pareto(standing: Standing, objectives: Sequence[str]) -> Figure:
    """Draw the recipes in pairs of objectives, and those that no other dominates.

    Args:
        standing: with the objectives' means.
        objectives: at least two names of `OBJECTIVES`.

    Returns:
        A figure with a panel for each pair. Large dots are recipes than which none is
        better in one objective and not worse in another; in a panel of all the
        objectives a line joins them.
    """
    numbers = list(standing.means)
    values = np.array([[standing.means[n][o] for o in objectives] for n in numbers])
    front = np.array(
        [number in pareto_front(standing, objectives) for number in numbers]
    )
    pairs = [
        (first, second)
        for first in range(len(objectives))
        for second in range(first + 1, len(objectives))
    ]
    figure = Figure(figsize=(1.4 + 4.0 * len(pairs), 4.0), layout="constrained")
    for axis, (x, y) in zip(
        figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True
    ):
        axis.plot(
            *values[~front][:, [x, y]].T, "o", color=_OTHER, ms=4, label="dominated"
        )
        best = values[front][:, [x, y]]
        best = best[np.argsort(best[:, 0])]
        joined = "dotted" if len(objectives) == 2 else "none"
        axis.plot(
            *best.T, "o", ls=joined, color=_RUN, ms=6.5, label="not dominated", zorder=3
        )
        for name, mark, colour, number in (
            ("champion", "D", _CHAMPION, standing.champion),
            ("baseline", "s", _BASELINE, standing.baseline),
        ):
            if number is None or (name, number) == ("champion", standing.baseline):
                continue
            axis.plot(
                *values[numbers.index(number)][[x, y]],
                mark,
                color="none",
                markeredgecolor=colour,
                markeredgewidth=1.6,
                markersize=11,
                zorder=4,
                label=f"{name}, run {number}",
            )
        axis.set(
            xlabel=name_with_direction(objectives[x]),
            ylabel=name_with_direction(objectives[y]),
        )
        axis.margins(0.08)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=2 * len(pairs),
        fontsize="small",
        frameon=False,
    )
    return figure


def pareto_front(standing: Standing, objectives: Sequence[str]) -> set[int]:
    """Runs than which none is better in one objective and not worse in another."""
    numbers = list(standing.means)
    gains = np.array(
        [[_gain(standing.means[n][o], o) for o in objectives] for n in numbers]
    ).reshape(len(numbers), len(objectives))
    return {
        number
        for number, gain in zip(numbers, gains, strict=True)
        if not ((gains >= gain).all(1) & (gains > gain).any(1)).any()
    }


def draw_paired(test: FinalResult) -> Figure:
    """Draw the test Dice of each subject by the baseline and by the champion.

    Args:
        test: of two different runs.

    Returns:
        A figure with a row per subject, the most improved first: on the left its two
        scores, on the right their difference, and under them the mean difference with
        its 95 % interval.
    """
    champion, baseline = test.subjects["champion"], test.subjects["baseline"]
    shared = champion.keys() & baseline.keys()
    gains = {name: champion[name] - baseline[name] for name in sorted(shared)}
    names = sorted(gains, key=lambda name: -gains[name])
    named = len(names) <= _NAMED_SUBJECTS
    height = 1.5 + (0.2 * max(len(names), 3) if named else 4.5)
    figure = Figure(figsize=(5.4, height), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.25, 1))
    places = np.arange(len(names))
    old, new = ([of[name] for name in names] for of in (baseline, champion))
    size = 5 if named else 2.5
    left.hlines(places, old, new, color="0.75", linewidth=1.5 if named else 0.6)
    left.plot(old, places, "s", color=_BASELINE, mfc="white", ms=size, label="baseline")
    left.plot(new, places, "o", color=_CHAMPION, ms=size, label="champion")
    left.set(xlabel="test Dice")
    mean = len(names) + (0.3 if named else 0.04 * len(names))
    found = test.difference
    right.axvline(0, color="black", linewidth=0.8)
    right.plot([gains[name] for name in names], places, "o", color=_RUN, ms=size)
    right.hlines(mean, found.low, found.high, color=_RUN, linewidth=2.5)
    right.plot(found.mean, mean, "D", color=_RUN, ms=6.5)
    right.set(xlabel="champion minus baseline")
    right.margins(x=0.1)
    right.tick_params(axis="y", length=0)
    right.locator_params(axis="x", nbins=5)
    labels = [_cut(name) for name in names] if named else []
    left.set_yticks(
        [*(places if named else ()), mean], [*labels, "mean"], parse_math=False
    )
    bottom = mean + (0.7 if named else 0.04 * len(names))
    left.set(ylim=(bottom, -0.7 if named else -0.02 * len(names)))
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper left", ncols=2, fontsize="small", frameon=False)
    return figure


def _draw_scores(
    axis: Axes, done: Sequence[Row], standing: Standing, objective: str, right: int
) -> None:
    """The upper panel of the history."""
    scores = {row.number: _score(row, objective) for row in done}
    edge = _far(scores.values(), objective)
    for role, colour, face, label in (
        ("baseline", _BASELINE, _BASELINE, "_baseline"),
        ("proposal", _RUN, _RUN, "recipe"),
        ("repeat", _RUN, "white", "repeat with another seed"),
    ):
        near = [
            row.number
            for row in done
            if row.role == role
            and _gain(scores[row.number], objective) >= _gain(edge, objective)
        ]
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
    far = [n for n in scores if _gain(scores[n], objective) < _gain(edge, objective)]
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
    if standing.baseline is not None:
        level = standing.means[standing.baseline][objective]
        axis.axhline(
            level, color=_BASELINE, linestyle="dashed", linewidth=1, label="baseline"
        )
    reigns = find_reigns(done, standing)
    if reigns:
        # The last one reigns to this day.
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
                color=_CHAMPION,
                alpha=0.18,
                linewidth=0,
                label="± spread between seeds",
            )
        axis.step(starts, levels, where="post", color=_CHAMPION, lw=2, label="champion")
    axis.set_ylabel(f"validation {name_with_direction(objective)}")
    axis.grid(alpha=0.3)
    axis.figure.legend(
        loc="outside upper left", ncols=2, fontsize="small", frameon=False
    )


def find_reigns(rows: Sequence[Row], standing: Standing) -> list[tuple[int, int]]:
    """Who held the crown from which run on, as (number of that run, champion).

    A crown is won by the repeat that confirms it.
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


def _draw_scale(axis: Axes, column: int, span: Range) -> None:
    """Label an axis of the parallel coordinates."""
    if isinstance(span, Choice):
        ticks: Sequence[str | int | float | bool] = span.values
    elif span.log:
        low, high = math.log10(span.low), math.log10(span.high)
        inner = range(math.ceil(low + 0.15), math.floor(high - 0.15) + 1)
        ticks = [span.low, *(10.0**power for power in inner), span.high]
    else:
        ticks = [span.low, span.high]
    for tick in ticks:
        height = _place(span, tick, 0.0)
        axis.plot([column], [height], "_", color="0.3", ms=7, zorder=0)
        text = f"{tick:g}" if type(tick) is float else str(tick)
        axis.annotate(
            _cut(text),
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


def _place(span: Range, value: str | int | float | bool, nudge: float) -> float:
    """Height of a value on its axis, 0 to 1."""
    if isinstance(span, Choice):
        n = len(span.values)
        place = span.values.index(value) / (n - 1) if n > 1 else 0.5
        return place + nudge
    low, high, at = float(span.low), float(span.high), float(value)
    if span.log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    return (at - low) / (high - low)


def _score(row: Row, objective: str) -> float:
    done = row.state == "done"
    return row.figures.get(objective, math.nan) if done else math.nan


def _gain(value: float, objective: str) -> float:
    return OF_RUNS[objective].sign * value


def _far(values: Collection[float], objective: str) -> float:
    """The worst value that is drawn at its place."""
    gains = np.array([_gain(value, objective) for value in values])
    usual = gains.max() - np.quantile(gains, 0.25)
    # Where most are equal nothing says what is far.
    return abs(max(gains.min(), gains.max() - (_FAR * usual or np.inf)))


def _padded(values: Collection[float]) -> tuple[float, float]:
    """Ends of a scale that holds the values and is not empty."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    return (low, high) if low < high else (low - 0.01, high + 0.01)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
