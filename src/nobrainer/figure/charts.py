"""Charts of figures: volumes, metrics, calibration and scores."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nobrainer.glossary import OF_SCANS
from nobrainer.metrics.calibration import Reliability
from nobrainer.metrics.uncertainty import RiskCoverage
from nobrainer.quality import Case
from nobrainer.structures import Structure

_STYLES = (
    ("tab:blue", "o", "solid"),
    ("tab:orange", "s", "dashed"),
    ("tab:green", "^", "dotted"),
    ("tab:purple", "D", "dashdot"),
)
"""Colour, marker and line style of curves: colour alone must not tell them apart."""
_MOST_NAMED = 6
"""Flagged cases whose names a chart shows; more would cover each other."""
_MOST_DOTS = 100
"""Most subjects for which a chart shows a dot each."""
_MOST_LETTERS = 34
"""Letters for which there is room beside a panel."""
_LINEAR_UP_TO = 50
"""Largest volume over the smallest above which the axis is logarithmic, because the
smallest would vanish on a linear one."""


def draw_structures(
    structures: Sequence[Structure],
    truth_volumes_mm3: Mapping[str, float] | None = None,
) -> Figure:
    """Draw the volume of each structure with its 95 % interval, in ml.

    Args:
        structures: the structures of one scan; those without a voxel are left out.
        truth_volumes_mm3: true volume of each structure by its name, drawn as a cross.

    Returns:
        A figure with a row per structure: the mean over draws as a dot, a line for
        the interval of one further draw and, where the model is calibrated, a wide
        pale one for the interval of the true volume. The axis is logarithmic where
        the smallest would vanish beside the largest.
    """
    present = [s for s in structures if s.volume_mm3 > 0]
    figure, axis = _chart(height=1.1 + 0.24 * max(len(present), 2))
    rows = np.arange(len(present))
    mean = np.array([s.volume_mm3 for s in present]) / 1000
    intervals = (
        ("interval of the true volume", "conformal", 7.0, "tab:blue", 0.3),
        ("95 % interval of one further draw", "volume", 1.8, "tab:blue", 1.0),
    )
    for meaning, kind, width, colour, alpha in intervals:
        low, high = (
            np.array([getattr(s, f"{kind}_{end}_mm3") for s in present]) / 1000
            for end in ("low", "high")
        )
        if np.isfinite(low).any():
            # A logarithmic axis has no 0: there the line starts at the frame.
            axis.hlines(
                rows, low, high, colour, linewidth=width, alpha=alpha, label=meaning
            )
    axis.plot(mean, rows, "o", color="tab:blue", markersize=5, label="volume")
    if truth_volumes_mm3 is not None:
        true = [truth_volumes_mm3.get(s.name, np.nan) / 1000 for s in present]
        axis.plot(true, rows, "x", color="black", markersize=6, label="true volume")
    if len(mean) and mean.max() > _LINEAR_UP_TO * mean.min():
        axis.set_xscale("log")
    else:
        axis.set_xlim(left=0)
    axis.set_yticks(rows, [s.name for s in present], parse_math=False)
    axis.set(xlabel="volume (ml)", ylim=(len(present) - 0.5, -0.5))
    axis.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper left", ncols=2, fontsize="small", frameon=False)
    return figure


def draw_metric(values: Mapping[str, Sequence[float]], meaning: str) -> Figure:
    """Draw how one figure of each structure varies over subjects.

    Args:
        values: the figure of every subject, by name of the structure.
        meaning: text at the axis, with the unit.

    Returns:
        A figure with a row per structure: a line over the range of the subjects, a bar
        across it at their mean, and a dot for each subject or, of more than 100, a
        thick line from the first to the third quartile.
    """
    figure, axis = _chart(height=1.0 + 0.24 * max(len(values), 2))
    for row, found in enumerate(values.values()):
        axis.hlines(row, min(found), max(found), "tab:blue", linewidth=1)
        if len(found) > _MOST_DOTS:
            first, third = np.quantile(found, (0.25, 0.75))
            axis.hlines(row, first, third, "tab:blue", linewidth=5)
        else:
            axis.plot(found, [row] * len(found), "o", color="tab:blue", alpha=0.5, ms=4)
        axis.plot(np.mean(found), row, "|", color="black", ms=12, mew=2)
    axis.set_yticks(np.arange(len(values)), list(values), parse_math=False)
    axis.set(xlabel=meaning, ylim=(len(values) - 0.5, -0.5))
    axis.grid(axis="x", alpha=0.3)
    return figure


def draw_reliability(curves: Mapping[str, Reliability]) -> Figure:
    """Draw how often the winning class is right against how sure the network is.

    Args:
        curves: the reliability of each region, by its name.

    Returns:
        A figure with the curves and the line on which confidence is accuracy (below
        it the network is too sure), and under it the number of voxels in each bin.
    """
    figure, axis = _chart(height=4.6)
    axis.remove()
    upper, lower = figure.subplots(2, height_ratios=(3, 1), sharex=True)
    upper.plot([0, 1], [0, 1], color="black", linewidth=0.8, label="as it should be")
    for (name, curve), (colour, marker, style) in zip(
        curves.items(), cycle(_STYLES), strict=False
    ):
        upper.plot(
            curve.confidence,
            curve.accuracy,
            color=colour,
            marker=marker,
            linestyle=style,
            markersize=4,
            label=name,
        )
        lower.plot(
            curve.confidence,
            curve.count,
            color=colour,
            marker=marker,
            linestyle=style,
            markersize=3,
        )
    lowest = min((min(c.confidence, default=0.0) for c in curves.values()), default=0.0)
    upper.set(ylabel="share that is right", ylim=(-0.02, 1.02))
    lower.set(xlabel="mean probability of the winning class", ylabel="voxels")
    lower.set(yscale="log", xlim=(max(0.0, lowest - 0.05), 1.02))
    for part in (upper, lower):
        part.spines[["top", "right"]].set_visible(False)
        part.grid(alpha=0.3)
    upper.legend(fontsize="small", frameon=False)
    return figure


def draw_risk_coverage(curves: Mapping[str, RiskCoverage]) -> Figure:
    """Draw how the error falls when the most uncertain voxels are left out.

    Args:
        curves: the curve of each score of uncertainty or region, by its name.

    Returns:
        A figure with a line for each curve.
    """
    figure, axis = _chart()
    for (name, curve), (colour, _, style) in zip(
        curves.items(), cycle(_STYLES), strict=False
    ):
        axis.plot(curve.coverage, curve.risk, color=colour, linestyle=style, label=name)
    axis.set(xlabel="share of voxels kept, the most certain first", xlim=(0, 1))
    axis.set(ylabel="share of them that is wrong", ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small", frameon=False)
    return figure


def draw_quality(
    cases: Sequence[Case], pages: Mapping[str, str] | None = None
) -> Figure:
    """Draw the score of every case against the features that often explain it.

    Args:
        cases: cases of one run, at least one.
        pages: address of the page of a case, by the case's name; in an SVG its point
            is a link to it.

    Returns:
        A figure with a panel for the deviation of volumes, where a cohort to compare
        with was known, and one for entropy. Flagged cases are crosses, the others
        dots; the worst of them have their names.
    """
    panels = [
        name
        for name in ("volume_z", "entropy")
        if name == "entropy" or any(case.features[name] for case in cases)
    ]
    figure = Figure(figsize=(5.4 * len(panels), 4.4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, feature in zip(axes, panels, strict=True):
        _draw_scores(axis, cases, feature, pages)
        axis.set(
            xlabel=OF_SCANS[feature].title,
            ylabel=fill(f"{cases[0].meaning} (1 is best)", _MOST_LETTERS),
            ylim=(-0.03, 1.03),
        )
        axis.margins(x=0.12)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize="small")
    return figure


def _draw_scores(
    axis: Axes, cases: Sequence[Case], feature: str, pages: Mapping[str, str] | None
) -> None:
    """Draw a point for each case, and the names of the worst of the flagged ones."""
    for flagged, marker, colour in ((False, "o", "tab:blue"), (True, "X", "tab:red")):
        group = [case for case in cases if bool(case.flags) is flagged]
        points = axis.scatter(
            [case.features[feature] for case in group],
            [case.score for case in group],
            s=40,
            marker=marker,
            color=colour,
            label="flagged" if flagged else "not flagged",
        )
        if pages is not None:
            points.set_urls([pages.get(case.name) for case in group])
    middle = np.mean(axis.get_xlim())
    worst = sorted((c for c in cases if c.flags), key=lambda case: case.score)
    for case in worst[:_MOST_NAMED]:
        right = case.features[feature] > middle
        axis.annotate(
            case.name,
            (case.features[feature], case.score),
            xytext=(-6 if right else 6, 4),
            textcoords="offset points",
            ha="right" if right else "left",
            fontsize="x-small",
            parse_math=False,
            # Without this, long names leave no room for the panel.
            in_layout=False,
        )


def _chart(*, height: float = 3.6) -> tuple[Figure, Axes]:
    """An empty figure of this height in inches, and its axes."""
    figure = Figure(figsize=(5.4, height), layout="constrained")
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis
