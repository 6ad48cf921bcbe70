"""Intervals of volumes against quantiles by hand, and coverages known beforehand."""

import math

import numpy as np
import pytest

from nobrainer.calibration import fit_intervals
from nobrainer.errors import InputError
from nobrainer.posthoc import volume_spread


def test_factor_is_the_conformal_quantile_by_hand():
    # Two draws 100 ± 6 mm³: mean 100, sd 6√2, spread √(72 + 1).
    volumes = [np.array([[0, 94.0], [0, 106.0]])] * 4
    truths = [np.array([0, 100.0 + gap]) for gap in (-1, 2, -3, 4)]
    spread = math.sqrt(73)
    # Rank ⌈5 · 0.6⌉ = 3 and ⌈5 · 0.8⌉ = 4.
    assert fit_intervals(volumes, truths, 0.6).factors == (
        None,
        pytest.approx(3 / spread),
    )
    fit = fit_intervals(volumes, truths, 0.8)
    assert fit.factors[1] == pytest.approx(4 / spread)
    assert (fit.n_subjects, fit.coverage) == (4, 0.8)


def test_a_whole_has_the_factor_of_one_class_of_its_members():
    """Two classes of which one loses in a draw what the other gains."""
    volumes = [np.array([[0.0, 94, 206, 7], [0.0, 106, 194, 7]])] * 4
    truths = [np.array([0, 100.0, 200.0 + gap, 7]) for gap in (-1, 2, -3, 4)]
    alone = fit_intervals(volumes, truths, 0.8)
    fit = fit_intervals(volumes, truths, 0.8, {"both": (1, 2), "third": (3,)})
    assert fit.factors == alone.factors and alone.totals == {}
    # The sum is 300 in every draw: its spread is the floor, 3.
    assert fit.totals == {"both": pytest.approx(4 / 3), "third": fit.factors[3]}


def test_left_and_right_share_a_factor():
    # One draw of 100 mm³: the unit is the floor, 1, and the score is the gap.
    gaps = np.array([(1, 1.5), (2, 2.5), (3, 3.5), (40, 4.5)])
    volumes = [np.array([[0.0, 100, 100]])] * 4
    truths = [np.array([0, *(100 + gap)]) for gap in gaps]
    alone = fit_intervals(volumes, truths, 0.6)
    assert alone.factors[1:] == (pytest.approx(3), pytest.approx(3.5))
    # By half a subject each, the gaps add up to 0.7 · 5 at the seventh.
    for coverage, factor in ((0.6, 3.5), (0.7, 4.5), (0.75, 40)):
        fit = fit_intervals(volumes, truths, coverage, sides=(0, 1, 1))
        assert fit.factors[1:] == (pytest.approx(factor), pytest.approx(factor))
    # Who has one side alone counts for that side by a whole subject.
    truths[3], volumes[3] = np.array([0.0, 140, 0]), np.array([[0.0, 100, 0]])
    for coverage, factor in ((0.6, 3.5), (0.7, 40)):
        fit = fit_intervals(volumes, truths, coverage, sides=(0, 1, 1))
        assert fit.factors[1] == pytest.approx(factor)


def test_a_single_draw_is_measured_by_the_floor():
    volumes, truths = [np.array([[0.0, 200.0]])], [np.array([0.0, 203.0])]
    # The floor is 1 % of 200.
    assert fit_intervals(volumes, truths, 0.5).factors[1] == pytest.approx(1.5)


@pytest.mark.parametrize(("coverage", "needed"), [(0.5, 1), (0.9, 9), (0.95, 19)])
def test_how_many_subjects_a_coverage_needs(coverage, needed):
    volumes, truths = [np.array([[0.0, 100.0]])], [np.array([0.0, 101.0])]
    assert fit_intervals(volumes * needed, truths * needed, coverage).factors[
        1
    ] == pytest.approx(1)
    if needed > 1:
        with pytest.raises(InputError, match=f"at least {needed} .*, {needed - 1} are"):
            fit_intervals(volumes * (needed - 1), truths * (needed - 1), coverage)


def test_a_structure_that_is_not_there_does_not_count():
    # Class 2 is in two of three subjects: too few for a coverage of 0.75.
    volumes = [np.array([[0.0, 100.0, 10.0 * there]]) for there in (1, 1, 0)]
    truths = [np.array([0.0, 101.0, 10.0 * there]) for there in (1, 1, 0)]
    fit = fit_intervals(volumes, truths, 0.75)
    assert fit.factors == (None, pytest.approx(1.0), None)
    with pytest.raises(InputError, match=r"at least 3 .*, 2 have any one structure"):
        fit_intervals([v[:, ::2] for v in volumes], [t[::2] for t in truths], 0.75)


def test_a_structure_that_the_network_misses_has_no_factor():
    volumes = [np.array([[0.0, 100.0, 0.0]])] * 3
    truths = [np.array([0.0, 101.0, 5.0])] * 3
    assert fit_intervals(volumes, truths, 0.75).factors[2] is None
    # Missed once in four, a coverage of 0.6 still has a finite factor.
    volumes += [np.array([[0.0, 100.0, 0.0]])]
    found = [np.array([[0.0, 100.0, 10.0]])] * 3
    factors = fit_intervals(found + volumes[:1], truths + truths[:1], 0.6).factors
    assert factors[2] == pytest.approx(50.0)


def test_coverage_holds_over_many_splits():
    # Each structure is a split of its own: 19 subjects to fit on and one to test.
    # Heavy-tailed errors that have nothing to do with the draws' spread.
    rng = np.random.default_rng(0)
    n, splits, coverage = 19, 20_000, 0.8
    truth = rng.lognormal(5, 0.3, (n + 1, splits))
    centre = truth * (1 + 0.05 * rng.standard_t(3, truth.shape))
    volumes = centre[:, None] * rng.normal(1, 0.02, (n + 1, 4, splits))
    background = np.zeros((n + 1, 4, 1))
    volumes = np.concatenate([background, volumes], -1)
    truth = np.concatenate([background[:, 0], truth], -1)
    factors = fit_intervals(list(volumes[:n]), list(truth[:n]), coverage).factors
    mean, sd = volumes[n].mean(0), volumes[n].std(0, ddof=1)
    half = np.array(factors[1:]) * np.hypot(sd, 0.01 * mean)[1:]
    hits = np.abs(truth[n] - mean)[1:] <= half
    # ⌈20 · 0.8⌉ / 20 exactly; standard error 0.003.
    assert hits.mean() == pytest.approx(coverage, abs=0.01)


@pytest.mark.parametrize("coverage", [0.0, 1.0, 1.5])
def test_a_coverage_that_cannot_be(coverage):
    with pytest.raises(InputError, match="coverage must be between 0 and 1"):
        fit_intervals([], [], coverage)


def test_coverage_holds_though_a_draw_moves_all_subjects_alike():
    """What makes draws of each scan's own necessary, in numbers."""
    rng = np.random.default_rng(0)
    inside = {"own": 0, "shared": 0}
    for _ in range(1500):
        truth = rng.normal(1000, 100, 11)
        error = rng.normal(0, 3, (11, 1))
        own = truth[:, None] + error + rng.normal(0, 30, (11, 10))
        shared = (
            truth[:, None]
            + error
            + np.vstack(
                [np.tile(rng.normal(0, 30, 10), (10, 1)), rng.normal(0, 30, 10)]
            )
        )
        for name, draws in (("own", own), ("shared", shared)):
            volumes = [np.stack([0 * d, d], 1) for d in draws]
            fit = fit_intervals(
                volumes[:10], [np.array([0, t]) for t in truth[:10]], 0.9
            )
            mean, sd = draws[10].mean(), draws[10].std(ddof=1)
            width = fit.factors[1] * volume_spread(mean, sd)
            inside[name] += abs(truth[10] - mean) <= width
    # The 10th of 10 scores: 10/11 of the subjects.
    assert inside["own"] / 1500 == pytest.approx(10 / 11, abs=0.025)
    assert inside["shared"] / 1500 < 0.85
