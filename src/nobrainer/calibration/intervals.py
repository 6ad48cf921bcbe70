"""Conformal intervals that hold the true volumes of structures."""

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np

from nobrainer.checks import check_between
from nobrainer.errors import InputError
from nobrainer.posthoc import Intervals, volume_spread


def fit_intervals(
    volumes_mm3: Sequence[np.ndarray],
    true_mm3: Sequence[np.ndarray],
    coverage: float,
    totals: Mapping[str, Sequence[int]] = {},
    sides: Sequence[int] | None = None,
) -> Intervals:
    """Factors of `volume_spread` by which intervals hold a new subject's true volume.

    Split-conformal prediction with the score |true - mean| / spread: the interval of a
    subject that is exchangeable with these, predicted with as many draws of its own,
    holds its true volume with a probability of at least `coverage`. Left and right of a
    structure share their scores and a factor, which then holds for either side, drawn
    at random: each subject counts once, by half on each side.

    Args:
        volumes_mm3: volumes of each subject in each draw, (n_draws, C), mm³.
        true_mm3: true volumes of each subject, (C,), mm³.
        coverage: in (0, 1).
        totals: the classes of wholes that get a factor of their own, by name.
        sides: a number for each class; classes of the same number share a factor. None
            gives each its own.

    Returns:
        The ⌈(n + 1) · coverage⌉-th smallest of a class's n scores as its factor.
        A subject in which neither truth nor any draw has the structure does not
        count. None for the background, for a class with too few subjects, and where
        the network misses the structure so often that no factor covers it.

    Raises:
        InputError: the coverage is not in (0, 1), or no structure is in as many
            subjects as the coverage needs.

    Sources: Vovk, Gammerman and Shafer, "Algorithmic learning in a random world",
    2005; Lei et al., JASA 113 (2018), 5.2, for the spread in the score; Lee, Barber and
    Willett, "Distribution-free inference with hierarchical data", 2023, for several
    scores of a subject.
    """
    check_coverage(coverage, len(volumes_mm3))
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
    numbers = np.arange(n_classes) if sides is None else np.array(sides)
    # Each whole has a number of its own.
    numbers = np.append(numbers, numbers.max() + 1 + np.arange(len(totals)))
    alike = [numbers == number for number in numbers[1:]]
    factors = [_quantile(score[:, of], present[:, of], coverage) for of in alike]
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


def _quantile(scores: np.ndarray, present: np.ndarray, coverage: float) -> float | None:
    """The conformal quantile of scores, None where it is not finite.

    Args:
        scores: those of each subject and side, (n, sides).
        present: which of them count.
        coverage: in (0, 1).
    """
    n_sides = present.sum(1, keepdims=True)
    weight = (present / np.maximum(n_sides, 1))[present]
    order = np.argsort(scores[present], kind="stable")
    needed = ((n_sides > 0).sum() + 1) * coverage
    # Rounding must not ask for one score more: 0.9 · 10 may come out just above 9.
    rank = np.searchsorted(weight[order].cumsum(), needed - 1e-9)
    if rank == len(order):
        return None
    value = float(scores[present][order[rank]])
    return value if np.isfinite(value) else None


def _subjects_needed(coverage: float) -> int:
    return _rounded_up(coverage / (1 - coverage))


def _rounded_up(value: float) -> int:
    """The ceiling, in spite of rounding: 0.9 / (1 - 0.9) comes out just above 9."""
    return ceil(round(value, 9))


def check_coverage(coverage: float, n_subjects: int, halved: bool = False) -> None:
    """Refuse a coverage that cannot be, or that needs more subjects than there are.

    Args:
        coverage: share of subjects whose true volume shall lie in its interval.
        n_subjects: how many subjects the intervals come from.
        halved: whether these are half of the subjects.
    """
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
