"""Figure: each test subject by the champion and by the baseline."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nobrainer.research.records import FinalResult
from nobrainer.research.report.style import BASELINE, CHAMPION, RUN, shorten

_NAMED_SUBJECTS = 40
"""Most subjects that are named; more names would cover each other."""


def draw_paired(test: FinalResult) -> Figure:
    """Draw the test Dice of each subject by the baseline and by the champion.

    Args:
        test: the scores of two different runs on the test split.

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
    left.plot(old, places, "s", color=BASELINE, mfc="white", ms=size, label="baseline")
    left.plot(new, places, "o", color=CHAMPION, ms=size, label="champion")
    left.set(xlabel="test Dice")
    mean = len(names) + (0.3 if named else 0.04 * len(names))
    right.axvline(0, color="black", linewidth=0.8)
    right.plot([gains[name] for name in names], places, "o", color=RUN, ms=size)
    _draw_mean(right, test, mean)
    labels = [shorten(name) for name in names] if named else []
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


def _draw_mean(axis: Axes, test: FinalResult, height: float) -> None:
    """Draw the mean difference and its interval at a height of the panel."""
    found = test.difference
    axis.hlines(height, found.low, found.high, color=RUN, linewidth=2.5)
    axis.plot(found.mean, height, "D", color=RUN, ms=6.5)
    axis.set(xlabel="champion minus baseline")
    axis.margins(x=0.1)
    axis.tick_params(axis="y", length=0)
    axis.locator_params(axis="x", nbins=5)
