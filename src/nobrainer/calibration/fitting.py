"""Fit, on held-out labelled scans, what makes probabilities and volumes honest."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import get_args

import numpy as np

from nobrainer.bayes.draws import is_stochastic
from nobrainer.calibration.collected import VOXELS_PER_SUBJECT, Collected, collect
from nobrainer.calibration.intervals import check_coverage, fit_intervals
from nobrainer.calibration.scaling import Method, fit_scaling
from nobrainer.checks import check_choice
from nobrainer.data.prepared import Prepared
from nobrainer.errors import InputError
from nobrainer.inference.predict import Scaling
from nobrainer.inference.predictor import Predictor
from nobrainer.posthoc import Calibration, Intervals

LOGIT_BYTES = 1_000_000_000
"""Most memory for the logits of all scans; each gives fewer voxels to stay below it."""
_FEWEST_VOXELS = 1_000


def calibrate(
    predictors: Sequence[Predictor],
    volumes: Callable[[Sequence[int]], Iterable[Prepared]],
    subjects: Sequence[str],
    *,
    synthesised: Sequence[bool] | None = None,
    method: Method = "temperature",
    coverage: float | None = None,
    totals: Mapping[str, Sequence[int]] = {},
    sides: Sequence[int] | None = None,
) -> Calibration:
    """Fit a scaling of the logits and, if asked, intervals of the volumes.

    One temperature changes no draw's labels, so the scaling and the intervals are both
    fitted on all subjects. Vector scaling can change labels. Then the scaling is fitted
    on a random half of the subjects, and the intervals on the other half, predicted
    with that scaling. Intervals use only the first scan of each subject, because
    several scans of one person are not independent. But each image of a label map
    counts by itself: its shape, contrast and quality were drawn for it alone.

    Args:
        predictors: the network of each scan, which has not seen it, applied as for
            prediction but for a scaling that it holds. Every scan has its own draws.
        volumes: a function that prepares labelled scans of given numbers, in order.
        subjects: whom each scan shows.
        synthesised: whether each scan is an image of a label map; None is none of them.
        method: "temperature" or "vector".
        coverage: share of subjects whose true volume shall lie in its interval, in
            (0, 1); None fits no intervals.
        totals: the classes of wholes that get intervals, too, by name.
        sides: a number for each class; classes of the same number, left and right of a
            structure, share what the intervals come from. None lets none share it.

    Returns:
        The scaling, with `intervals` where `coverage` is given.

    Raises:
        InputError: the method is unknown, a scan has no labels or no foreground, or
            the coverage needs more subjects, or more than one draw.

    Sources: Guo et al., "On calibration of modern neural networks", ICML 2017; Lei et
    al., "Distribution-free predictive inference for regression", JASA 113 (2018).
    """
    check_choice("calibration method", method, get_args(Method))
    if not subjects:
        raise InputError("scans to calibrate on must be at least 1, got 0")
    made = synthesised or [False] * len(subjects)
    halved = method == "vector" and coverage is not None
    scans, lone = _divide(subjects, made, predictors[0].sampling.seed, halved=halved)
    n_draws = predictors[0].n_passes
    if coverage is not None:
        check_coverage(coverage, len(lone), halved)
        if n_draws < 2 and is_stochastic(predictors[0].model):
            raise InputError(
                f"intervals scale the spread of several draws, got {n_draws}: give "
                "n_samples of at least 2, as many as prediction will have"
            )
    n_voxels = _voxels_of_each(predictors)
    plain = [replace(predictors[scan], scaling=None) for scan in scans]
    collected = collect(plain, volumes(scans), voxels_per_subject=n_voxels)
    whom = [subjects[scan] for scan in scans]
    kinds = [made[scan] for scan in scans]
    if coverage is None or not halved:
        return fit_collected(collected, whom, kinds, method, coverage, totals, sides)
    fitted = fit_collected(collected, whom, kinds, method, None)
    scaling = Scaling(fitted.weight, fitted.bias)
    scaled = [replace(predictors[scan], scaling=scaling) for scan in lone]
    collected = collect(scaled, volumes(lone), voxels_per_subject=0)
    whom, kinds = [subjects[scan] for scan in lone], [made[scan] for scan in lone]
    intervals = _intervals(collected, whom, kinds, coverage, totals, sides)
    return replace(fitted, intervals=intervals)


def _voxels_of_each(predictors: Sequence[Predictor]) -> int:
    """How many voxels each scan gives, so that the logits of all stay in memory."""
    first = predictors[0]
    bytes_per_voxel = 4 * first.n_passes * first.n_classes * len(predictors)
    most = min(VOXELS_PER_SUBJECT, LOGIT_BYTES // bytes_per_voxel)
    return max(most, _FEWEST_VOXELS)


def fit_collected(
    collected: Sequence[Collected],
    subjects: Sequence[str],
    synthesised: Sequence[bool],
    method: Method = "temperature",
    coverage: float | None = None,
    totals: Mapping[str, Sequence[int]] = {},
    sides: Sequence[int] | None = None,
) -> Calibration:
    """Fit a scaling, and intervals of the volumes, to what `collect` kept.

    Args:
        collected: what was kept of each scan.
        subjects, synthesised, method, coverage, totals, sides: as for `calibrate`; here
            the intervals are those of the volumes as they were collected.
    """
    fitted = fit_scaling(
        [scan.logits for scan in collected], [scan.truth for scan in collected], method
    )
    fitted = replace(
        fitted,
        n_subjects=len(set(subjects)),
        n_scans=len(collected),
        n_images=sum(synthesised),
    )
    if coverage is None:
        return fitted
    _, lone = _divide(subjects, synthesised, 0, halved=False)
    intervals = _intervals(
        [collected[scan] for scan in lone],
        [subjects[scan] for scan in lone],
        [synthesised[scan] for scan in lone],
        coverage,
        totals,
        sides,
    )
    return replace(fitted, intervals=intervals)


def _intervals(
    collected: Sequence[Collected],
    subjects: Sequence[str],
    synthesised: Sequence[bool],
    coverage: float,
    totals: Mapping[str, Sequence[int]],
    sides: Sequence[int] | None,
) -> Intervals:
    """Intervals from scans that count by themselves, and how many these are."""
    intervals = fit_intervals(
        [scan.volumes_mm3 for scan in collected],
        [scan.true_mm3 for scan in collected],
        coverage,
        totals,
        sides,
    )
    return replace(
        intervals,
        n_subjects=len(set(subjects)),
        n_scans=len(collected),
        n_images=sum(synthesised),
    )


def _divide(
    subjects: Sequence[str], synthesised: Sequence[bool], seed: int, *, halved: bool
) -> tuple[list[int], list[int]]:
    """Numbers of the scans that the scaling comes from, and of those for intervals.

    Intervals come from one scan of each subject and from all images of label maps. With
    `halved` these are of a random half of the subjects, whose scans then do not serve
    the scaling.
    """
    people = sorted(set(subjects))
    scans = list(range(len(subjects)))
    taken = set(people)
    if halved:
        order = np.random.default_rng(seed).permutation(len(people))
        taken = {people[place] for place in order[: len(people) // 2]}
    lone = [
        scan
        for one in people
        if one in taken
        for scan in scans
        if subjects[scan] == one and (synthesised[scan] or scan == subjects.index(one))
    ]
    if halved:
        scans = [scan for scan in scans if subjects[scan] not in taken]
    return scans, lone
