"""Fit, on held-out labelled scans, what makes probabilities and volumes honest."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, log
from typing import Literal, get_args

import numpy as np
import scipy
import torch
from torch import Tensor

from nobrainer.bayes.draws import is_stochastic, mix_seed
from nobrainer.checks import check_between, check_choice
from nobrainer.data.prepared import Prepared
from nobrainer.errors import InputError
from nobrainer.inference.predict import Scaling
from nobrainer.inference.predictor import Predictor
from nobrainer.metrics.region import foreground_band
from nobrainer.posthoc import Calibration, Intervals, volume_spread

Method = Literal["temperature", "vector"]

VOXELS_PER_SUBJECT = 20_000
"""Most voxels near the foreground that a scan gives to the fit of a scaling."""
LOGIT_BYTES = 1_000_000_000
"""Most memory for the logits of all scans; each gives fewer voxels to stay below it."""

_FEWEST_VOXELS = 1_000
_LOG_WEIGHT_LIMIT = log(20)
_BIAS_LIMIT = 10.0
_FEWEST_OF_CLASS = 100
_RIDGE = 1e-5


@dataclass(frozen=True, eq=False)
class Collected:
    """What calibration keeps of one subject.

    logits: (n_draws, n_voxels, C) float32, unscaled, at random voxels of the true
        foreground's band (see `nobrainer.metrics.region`).
    truth: (n_voxels,) true classes there.
    volumes_mm3: (n_draws, C) of each draw's classes.
    true_mm3: (C,) of the true classes.
    """

    name: str
    logits: np.ndarray
    truth: np.ndarray
    volumes_mm3: np.ndarray
    true_mm3: np.ndarray


def calibrate(
    predictors: Sequence[Predictor],
    volumes: Callable[[Sequence[int]], Iterable[Prepared]],
    subjects: Sequence[str],
    *,
    synthesised: Sequence[bool] | None = None,
    method: Method = "temperature",
    coverage: float | None = None,
    totals: Mapping[str, Sequence[int]] = {},
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
        _check_coverage(coverage, len(lone), halved)
        if n_draws < 2 and is_stochastic(predictors[0].model):
            raise InputError(
                f"intervals scale the spread of several draws, got {n_draws}: give "
                "n_samples of at least 2, as many as prediction will have"
            )
    bytes_per_voxel = 4 * n_draws * predictors[0].n_classes * len(subjects)
    n_voxels = max(
        min(VOXELS_PER_SUBJECT, LOGIT_BYTES // bytes_per_voxel), _FEWEST_VOXELS
    )
    plain = [replace(predictors[scan], scaling=None) for scan in scans]
    collected = collect(plain, volumes(scans), voxels_per_subject=n_voxels)
    whom = [subjects[scan] for scan in scans]
    kinds = [made[scan] for scan in scans]
    if coverage is None or not halved:
        return fit_collected(collected, whom, kinds, method, coverage, totals)
    fitted = fit_collected(collected, whom, kinds, method, None)
    scaling = Scaling(fitted.weight, fitted.bias)
    scaled = [replace(predictors[scan], scaling=scaling) for scan in lone]
    collected = collect(scaled, volumes(lone), voxels_per_subject=0)
    whom, kinds = [subjects[scan] for scan in lone], [made[scan] for scan in lone]
    intervals = _intervals(collected, whom, kinds, coverage, totals)
    return replace(fitted, intervals=intervals)


def fit_collected(
    collected: Sequence[Collected],
    subjects: Sequence[str],
    synthesised: Sequence[bool],
    method: Method = "temperature",
    coverage: float | None = None,
    totals: Mapping[str, Sequence[int]] = {},
) -> Calibration:
    """Fit a scaling, and intervals of the volumes, to what `collect` kept.

    Args:
        collected: what was kept of each scan.
        subjects, synthesised, method, coverage, totals: as for `calibrate`; here the
            intervals are those of the volumes as they were collected.
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
    )
    return replace(fitted, intervals=intervals)


def _intervals(
    collected: Sequence[Collected],
    subjects: Sequence[str],
    synthesised: Sequence[bool],
    coverage: float,
    totals: Mapping[str, Sequence[int]],
) -> Intervals:
    """Intervals from scans that count by themselves, and how many these are."""
    intervals = fit_intervals(
        [scan.volumes_mm3 for scan in collected],
        [scan.true_mm3 for scan in collected],
        coverage,
        totals,
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


def collect(
    predictors: Iterable[Predictor],
    volumes: Iterable[Prepared],
    *,
    voxels_per_subject: int = VOXELS_PER_SUBJECT,
) -> list[Collected]:
    """Predict labelled volumes, keeping logits at a few voxels, and volumes.

    The seed and the name of a scan decide its draws and its voxels. Every scan has
    draws of its own, because a draw moves the volumes of all scans in the same
    direction: with shared draws the scans would not be independent. One scan is held
    in memory at a time.

    Args:
        predictors: the network of each volume, and how it is applied; its scaling
            changes the volumes' sizes, not the logits.
        volumes: prepared subjects with labels.
        voxels_per_subject: most voxels of a scan whose logits are kept; 0 keeps
            volumes only.

    Returns:
        One record per subject, in order.

    Raises:
        InputError: a volume has no labels, or no foreground in them.
    """
    found = []
    for predictor, volume in zip(predictors, volumes, strict=True):
        sampling, n_classes = predictor.sampling, predictor.n_classes
        truth = _foreground_of(volume)
        rng = np.random.default_rng(mix_seed(sampling.seed, "calibration", volume.name))
        band = np.flatnonzero(foreground_band(truth))
        chosen = rng.choice(band, min(voxels_per_subject, len(band)), replace=False)
        at = np.stack(np.unravel_index(chosen, truth.shape))
        logits = np.empty((predictor.n_passes, len(chosen), n_classes), np.float32)

        def keep(
            draw: int,
            where: tuple[slice, slice, slice],
            tile: Tensor,
            at: np.ndarray = at,
            logits: np.ndarray = logits,
        ) -> None:
            start = np.array([[edge.start] for edge in where])
            stop = np.array([[edge.stop] for edge in where])
            inside = ((at >= start) & (at < stop)).all(0)
            i, j, k = at[:, inside] - start
            logits[draw, inside] = tile.numpy()[:, i, j, k].T

        own_seed = mix_seed(sampling.seed, "scan", volume.name)
        counts = replace(predictor, sampling=replace(sampling, seed=own_seed))(
            volume.image,
            volume.background,
            lambda tile: None,
            on_logits=keep if voxels_per_subject else None,
        )
        voxel_mm3 = volume.geometry.voxel_mm3
        found.append(
            Collected(
                volume.name,
                logits,
                truth.ravel()[chosen].astype(np.int64),
                counts * voxel_mm3,
                np.bincount(truth.ravel(), minlength=n_classes) * voxel_mm3,
            )
        )
    return found


def fit_scaling(
    logits: Sequence[np.ndarray], truths: Sequence[np.ndarray], method: Method
) -> Calibration:
    """The scaling with the least negative log-likelihood of the mean over draws.

    What is calibrated is what prediction gives: the mean of the draws' softmax of
    weight · logit + bias. Every subject counts the same. A weight of class c is a
    common factor times a deviation. A class with fewer than 100 of the voxels, or
    that only one of several subjects has, keeps the common factor and a bias of 0. A
    fit of its own would drive the class out of every prediction.

    Args:
        logits: logits of each subject, (n_draws, n_voxels, C).
        truths: true classes of each subject, (n_voxels,).
        method: "temperature" (the common factor 1/T alone) or "vector".

    Returns:
        Weights, of which the common factor is in [1/20, 20], biases that sum to 0, and
        the mean negative log-likelihood, nats, which is never above that without
        scaling.

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017, 4.2.
    """
    check_choice("calibration method", method, get_args(Method))
    n_classes = logits[0].shape[-1]
    pairs = zip(logits, truths, strict=True)
    subjects = [(torch.from_numpy(z), torch.from_numpy(y)) for z, y in pairs]
    common = torch.from_numpy(_common_classes(truths, n_classes))

    def scaling(values: Tensor) -> tuple[Tensor, Tensor]:
        deviation = values.new_zeros(n_classes)
        bias = values.new_zeros(n_classes)
        if method == "vector":
            deviation, bias = values[1:].split(n_classes)
            # Centred, or what the common factor gains in driving out a class that is
            # not fitted would be taken back by the deviations of the others.
            deviation, bias = (
                torch.where(common, part - part[common].mean(), 0.0)
                for part in (deviation, bias)
            )
        return torch.exp(values[0] + deviation), bias

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.tensor(values, requires_grad=True)
        penalty = _RIDGE * (point[1:] ** 2).sum()
        penalty.backward()
        total = penalty.item()
        # A graph per subject: memory does not grow with their number.
        for scores, truth in subjects:
            share = _nll(scores, truth, *scaling(point)) / len(subjects)
            share.backward()
            total += share.item()
        assert point.grad is not None
        return total, point.grad.numpy()

    limits = _limits(common.tolist() if method == "vector" else ())
    start = np.zeros(len(limits))
    best = scipy.optimize.minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(-limit, limit) for limit in limits],
        options={"ftol": 1e-12, "gtol": 1e-7},
    ).x
    with torch.no_grad():
        weight, bias = scaling(torch.from_numpy(best))
        identity = scaling(torch.from_numpy(start))
        before, after = (
            float(np.mean([float(_nll(z, y, *used)) for z, y in subjects]))
            for used in (identity, (weight, bias))
        )
    return Calibration(
        method=method,
        weight=tuple(weight.tolist()),
        bias=tuple(bias.tolist()),
        n_subjects=len(subjects),
        nll_before=before,
        nll_after=after,
    )


def _common_classes(truths: Sequence[np.ndarray], n_classes: int) -> np.ndarray:
    """Which classes have enough voxels, in enough subjects, to be fitted apart."""
    counts = np.array([np.bincount(y, minlength=n_classes) for y in truths])
    seen_by = np.count_nonzero(counts, axis=0) >= min(2, len(counts))
    return (counts.sum(0) >= _FEWEST_OF_CLASS) & seen_by


def _limits(common: Sequence[bool]) -> list[float]:
    """How far from 0 each number of the fit may go: 0 for a class that is not fitted.

    Args:
        common: whether each class is fitted; empty where there is one temperature.
    """
    limits = [_LOG_WEIGHT_LIMIT]
    for limit in (_LOG_WEIGHT_LIMIT, _BIAS_LIMIT):
        limits += [limit if enough else 0.0 for enough in common]
    return limits


def _nll(logits: Tensor, truth: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Mean over voxels of -ln(mean over draws of the true class's probability)."""
    logs = torch.log_softmax(logits.double() * weight + bias, -1)
    of_truth = logs.gather(-1, truth.expand(len(logs), -1)[..., None])[..., 0]
    return log(len(logs)) - torch.logsumexp(of_truth, 0).mean()


def fit_intervals(
    volumes_mm3: Sequence[np.ndarray],
    true_mm3: Sequence[np.ndarray],
    coverage: float,
    totals: Mapping[str, Sequence[int]] = {},
) -> Intervals:
    """Factors of `volume_spread` by which intervals hold a new subject's true volume.

    Split-conformal prediction with the score |true - mean| / spread: the interval of a
    subject that is exchangeable with these, predicted with as many draws of its own,
    holds its true volume with a probability of at least `coverage`.

    Args:
        volumes_mm3: volumes of each subject in each draw, (n_draws, C), mm³.
        true_mm3: true volumes of each subject, (C,), mm³.
        coverage: in (0, 1).
        totals: the classes of wholes that get a factor of their own, by name.

    Returns:
        The ⌈(n + 1) · coverage⌉-th smallest of a class's n scores as its factor.
        A subject in which neither truth nor any draw has the structure does not
        count. None for the background, for a class with too few subjects, and where
        the network misses the structure so often that no factor covers it.

    Raises:
        InputError: the coverage is not in (0, 1), or no structure is in as many
            subjects as the coverage needs.

    Sources: Vovk, Gammerman and Shafer, "Algorithmic learning in a random world",
    2005; Lei et al., JASA 113 (2018), 5.2, for the spread in the score.
    """
    _check_coverage(coverage, len(volumes_mm3))
    n_classes = len(true_mm3[0])
    truth = np.stack([_with_totals(volumes, totals) for volumes in true_mm3])
    drawn = [_with_totals(volumes, totals) for volumes in volumes_mm3]
    mean = np.stack([volumes.mean(0) for volumes in drawn])
    sd = np.stack([volumes.std(0, ddof=min(len(volumes) - 1, 1)) for volumes in drawn])
    spread = volume_spread(mean, sd)
    gap = np.abs(truth - mean)
    # Where no draw has the structure the spread is 0, and no factor reaches the truth.
    score = np.divide(gap, spread, out=np.full_like(gap, np.inf), where=spread > 0)
    present = (truth > 0) | (mean > 0)
    factors = [
        _quantile(score[present[:, n], n], coverage) for n in range(1, truth.shape[1])
    ]
    counts = present[:, 1:n_classes].sum(0)
    if not (counts >= _subjects_needed(coverage)).any():
        raise _too_few(coverage, int(counts.max(initial=0)), "have any one structure")
    return Intervals(
        coverage,
        len(truth),
        len(volumes_mm3[0]),
        (None, *factors[: n_classes - 1]),
        dict(zip(totals, factors[n_classes - 1 :], strict=True)),
    )


def _with_totals(
    volumes_mm3: np.ndarray, totals: Mapping[str, Sequence[int]]
) -> np.ndarray:
    """Volumes (..., C) of classes, followed by those of wholes."""
    sums = [volumes_mm3[..., list(members)].sum(-1) for members in totals.values()]
    return np.concatenate([volumes_mm3, *(one[..., None] for one in sums)], axis=-1)


def _quantile(scores: np.ndarray, coverage: float) -> float | None:
    """The conformal quantile of some scores, None where it is not finite."""
    rank = _rounded_up((len(scores) + 1) * coverage)
    if rank > len(scores):
        return None
    value = float(np.sort(scores)[rank - 1])
    return value if np.isfinite(value) else None


def _subjects_needed(coverage: float) -> int:
    return _rounded_up(coverage / (1 - coverage))


def _rounded_up(value: float) -> int:
    """The ceiling, in spite of rounding: 0.9 / (1 - 0.9) comes out just above 9."""
    return ceil(round(value, 9))


def _check_coverage(coverage: float, n_subjects: int, halved: bool = False) -> None:
    check_between("coverage", coverage)
    if n_subjects < _subjects_needed(coverage):
        where = "are left by vector scaling, which takes half" if halved else "are here"
        raise _too_few(coverage, n_subjects, where)


def _too_few(coverage: float, n_subjects: int, where: str) -> InputError:
    return InputError(
        f"intervals with a coverage of {coverage:g} need at least "
        f"{_subjects_needed(coverage)} labelled subjects, {n_subjects} {where}: give "
        "more subjects or a smaller coverage"
    )


def _foreground_of(volume: Prepared) -> np.ndarray:
    """The subject's labels, which must show something."""
    if volume.label is None:
        raise InputError(
            f"{volume.name}: has no labels: give (image, label) pairs to calibrate on"
        )
    if not volume.label.any():
        raise InputError(
            f"{volume.name}: its labels hold no foreground: leave it out, or check "
            "what becomes background"
        )
    return volume.label
