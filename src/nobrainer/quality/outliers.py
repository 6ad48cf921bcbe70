"""The cases of one run that are unlike the rest of it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from nobrainer.quality.case import Case
from nobrainer.quality.feature import FEATURES, OF_DRAWS

_FEWEST_CASES = 10
_FACTOR = 3.5 * 1.4826
"""Median absolute deviations from the median at which a value is an outlier: 3.5
standard deviations, if the values are normally distributed."""


def cohort_outliers(cases: Sequence[Mapping[str, float]]) -> list[tuple[str, ...]]:
    """Say how each case of one run is unlike the rest; needs no fitted model.

    A feature counts when it is worse than the median by more than its slack and, on its
    transformed scale, by more than 3.5 · 1.4826 times the median absolute deviation. Of
    the features about draws only the one farthest beyond its limit counts, because the
    others say the same.

    Args:
        cases: features of each case, with the same names.

    Returns:
        A tuple of sentences for each case; all are empty if there are fewer than 10
        cases.

    Source: Iglewicz and Hoaglin, "How to detect and handle outliers", 1993.
    """
    if len(cases) < _FEWEST_CASES:
        return [() for _ in cases]
    # For each case and feature: how far beyond its limit it is, and what to say of it.
    beyond: list[dict[str, tuple[float, str]]] = [{} for _ in cases]
    for name in cases[0]:
        feature = FEATURES[name]
        values = np.array([feature.transform(case[name]) for case in cases])
        gap = (values - np.median(values)) * feature.worse
        usual = float(np.median([case[name] for case in cases]))
        # Where most cases are alike, the deviation is next to nothing, and the slack
        # keeps the others from being outliers.
        least = feature.transform(usual + feature.worse * feature.slack)
        limit = max(
            _FACTOR * float(np.median(np.abs(gap))),
            abs(least - feature.transform(usual)),
            1e-6,
        )
        for number in np.flatnonzero(gap > limit).tolist():
            beyond[number][name] = (
                float(gap[number]) / limit,
                f"{feature.metric.name} is {cases[number][name]:.3g}, the median of "
                f"this run {usual:.3g}: look at what sets it apart",
            )
    for found in beyond:
        of_draws = sorted(
            (name for name in OF_DRAWS if name in found),
            key=lambda name: found[name][0],
        )
        for name in of_draws[:-1]:
            del found[name]
    return [tuple(words for _, words in found.values()) for found in beyond]


def worst_first(cases: Mapping[str, Case]) -> dict[str, Case]:
    """Cases of one run, with how each is unlike the rest among its reasons.

    Args:
        cases: the cases, by name.

    Returns:
        The flagged ones first, then by score, the lowest first.
    """
    outliers = cohort_outliers([case.features for case in cases.values()])
    compared = [
        (name, replace(case, flags=case.flags + unlike))
        for (name, case), unlike in zip(cases.items(), outliers, strict=True)
    ]
    return dict(sorted(compared, key=lambda one: (not one[1].flags, one[1].score)))
