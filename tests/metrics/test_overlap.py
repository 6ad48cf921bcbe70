"""Overlap, volumes, calibration and coverage against values computed by hand."""

import math

import numpy as np
import pytest

from nobrainer.metrics.calibration import (
    CalibrationSums,
    Reliability,
    interval_coverage,
)
from nobrainer.metrics.overlap import confusion, dice, volume_errors


def test_confusion_counts_truth_in_rows() -> None:
    truth = np.array([0, 0, 1, 2], np.uint8)
    label = np.array([0, 1, 1, 1], np.int64)
    counts = confusion(truth, label, 4)
    assert counts.dtype == np.int64
    assert counts.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]


def test_dice_by_hand_and_nan_where_a_class_is_absent() -> None:
    counts = np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    expected = [2 / 3, 2 / 4, 0, np.nan]
    np.testing.assert_allclose(dice(counts), expected, rtol=1e-12)


def test_confusions_of_tiles_add_up() -> None:
    rng = np.random.default_rng(0)
    truth, label = rng.integers(0, 5, (2, 7, 8, 9))
    parts = confusion(truth[:3], label[:3], 5) + confusion(truth[3:], label[3:], 5)
    assert (parts == confusion(truth, label, 5)).all()


def test_many_classes_do_not_overflow_small_integers() -> None:
    truth = np.array([114, 3], np.uint8)
    counts = confusion(truth, truth, 115)
    assert counts[114, 114] == counts[3, 3] == 1
    assert counts.sum() == 2


@pytest.mark.parametrize("bad", [[0, 3], [0, -1]])
def test_a_class_out_of_range_is_refused(bad: list[int]) -> None:
    with pytest.raises(ValueError, match="outside"):
        confusion(np.array(bad), np.zeros(2, int), 3)
    with pytest.raises(ValueError, match="outside"):
        confusion(np.zeros(2, int), np.array(bad), 3)


def test_unequal_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        confusion(np.zeros((2, 1), int), np.zeros((1, 2), int), 2)


def test_volume_errors_by_hand() -> None:
    # Too large, too small, missed, invented, absent.
    volume = np.array([150.0, 20.0, 0.0, 30.0, 0.0])
    truth = np.array([100.0, 80.0, 40.0, 0.0, 0.0])
    relative, absolute_mm3 = volume_errors(volume, truth)
    np.testing.assert_allclose(relative, [0.5, -0.75, -1, np.nan, np.nan])
    np.testing.assert_allclose(absolute_mm3, [50, 60, 40, 30, np.nan])


# Two classes, four voxels: the winner is right, right, wrong, right.
PROBABILITIES = np.array([[0.9, 0.2, 0.7, 0.36], [0.1, 0.8, 0.3, 0.64]], np.float32)
TRUTH = np.array([0, 1, 1, 1], np.uint8)


def test_calibration_by_hand() -> None:
    sums = CalibrationSums(n_bins=5)
    sums.update(PROBABILITIES, TRUTH)
    nll = -(math.log(0.9) + math.log(0.8) + math.log(0.3) + math.log(0.64)) / 4
    brier = 2 * (0.1**2 + 0.2**2 + 0.7**2 + 0.36**2) / 4
    # Bin [0.6, 0.8): 0.7 (wrong) and 0.64 (right); bin [0.8, 1]: 0.9, 0.8, both right.
    ece = (abs(0.7 + 0.64 - 1) + abs(0.9 + 0.8 - 2)) / 4
    assert sums.nll == pytest.approx(nll, rel=1e-6)
    assert sums.brier == pytest.approx(brier, rel=1e-6)
    assert sums.ece == pytest.approx(ece, rel=1e-6)
    # The worse one of the same two bins, of two voxels each.
    mce = max(abs(0.7 + 0.64 - 1), abs(0.9 + 0.8 - 2)) / 2
    assert sums.mce == pytest.approx(mce, rel=1e-6)
    curve = sums.reliability
    assert curve.confidence == pytest.approx((0.67, 0.85), rel=1e-6)
    assert curve.accuracy == (0.5, 1.0)
    assert curve.count == (2, 2)


FIGURES = ("n_voxels", "nll", "brier", "ece", "mce", "ace")


def figures(sums: CalibrationSums) -> list[float]:
    return [getattr(sums, name) for name in FIGURES]


def test_sums_add_up_over_tiles_and_a_mask_leaves_voxels_out() -> None:
    whole, parts, masked, merged = (CalibrationSums() for _ in range(4))
    whole.update(PROBABILITIES[:, :3], TRUTH[:3])
    for n in range(3):
        part = CalibrationSums()
        for sums in (parts, part):
            sums.update(PROBABILITIES[:, n : n + 1], TRUTH[n : n + 1])
        merged.merge(part)
    mask = np.array([[True, True], [True, False]])
    masked.update(PROBABILITIES.reshape(2, 2, 2), TRUTH.reshape(2, 2), mask)
    for sums in (parts, masked, merged):
        assert sums.n_voxels == 3
        assert figures(sums) == pytest.approx(figures(whole), rel=1e-12)
        assert sums.reliability.count == whole.reliability.count


def test_certain_and_wrong_is_the_floor() -> None:
    sums = CalibrationSums()
    sums.update(np.array([[1.0], [0.0]]), np.array([1]))
    assert sums.nll == pytest.approx(12 * math.log(10))
    assert sums.brier == 2
    assert sums.ece == 1


def test_calibrated_probabilities_have_no_calibration_error() -> None:
    # Of ten voxels at 0.7, seven are right.
    probabilities = np.tile([[0.7], [0.2], [0.1]], (1, 10))
    sums = CalibrationSums()
    sums.update(probabilities, np.array([0] * 7 + [1] * 2 + [2]))
    assert sums.ece == pytest.approx(0, abs=1e-12)


def test_of_two_classes_with_the_same_probability_the_first_one_wins() -> None:
    two, three = CalibrationSums(), CalibrationSums()
    two.update(np.full((2, 4), 0.5), np.array([0, 1, 1, 1]))
    assert two.reliability.accuracy == (1 / 4,)
    three.update(np.tile([[0.2], [0.4], [0.4]], (1, 6)), np.array([0, 1, 1, 2, 2, 2]))
    assert three.reliability.accuracy == (2 / 6,)


def test_without_voxels_there_is_no_figure() -> None:
    sums = CalibrationSums()
    sums.update(PROBABILITIES, TRUTH, np.zeros(4, bool))
    assert sums.n_voxels == 0
    assert np.isnan(figures(sums)[1:]).all()
    assert sums.reliability == Reliability((), (), ())


# --- adaptive calibration error


def exact_ace(probabilities: np.ndarray, truth: np.ndarray, n_ranges: int) -> float:
    """The definition: sort each class, cut into equal numbers, mean of the gaps."""
    gaps = []
    for index, probability in enumerate(probabilities):
        order = np.argsort(probability, kind="stable")
        for part in np.split(order, n_ranges):
            share = (truth[part] == index).mean()
            gaps.append(abs(share - probability[part].mean()))
    return float(np.mean(gaps))


def test_adaptive_error_by_hand() -> None:
    # Two ranges of two voxels: of class 0 {.2, .36}, {.7, .9}, of class 1 the same.
    sums = CalibrationSums(n_bins=2)
    sums.update(PROBABILITIES, TRUTH)
    low, high = abs(0.2 + 0.36 - 0) / 2, abs(0.7 + 0.9 - 1) / 2
    other_low, other_high = abs(0.1 + 0.3 - 1) / 2, abs(0.64 + 0.8 - 2) / 2
    expected = (low + high + other_low + other_high) / 4
    assert sums.ace == pytest.approx(expected, rel=1e-6)
    assert exact_ace(PROBABILITIES, TRUTH, 2) == pytest.approx(expected, rel=1e-6)


def test_adaptive_error_shares_out_ties() -> None:
    # One probability for all: each of three ranges has a third of the hits.
    probabilities = np.tile([[0.7], [0.2], [0.1]], (1, 10))
    sums = CalibrationSums(n_bins=3)
    sums.update(probabilities, np.array([0] * 4 + [1] * 5 + [2]))
    assert sums.ace == pytest.approx((0.3 + 0.3 + 0) / 3, rel=1e-6)


@pytest.mark.parametrize("sharpness", [0.7, 1.0, 1.6])
@pytest.mark.parametrize("background", [0.0, 6.0])
def test_adaptive_error_is_near_the_exact_one(
    sharpness: float, background: float
) -> None:
    # Truth drawn from a softmax, the forecast from logits that are too large or small.
    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal((5, 60_000))
    logits[0] += background
    odds = np.exp(logits)
    threshold = rng.random(60_000) * odds.sum(0)
    truth = (odds.cumsum(0) < threshold).sum(0)
    forecast = np.exp(sharpness * logits)
    forecast = (forecast / forecast.sum(0)).astype(np.float32)
    sums = CalibrationSums()
    for part in np.split(np.arange(60_000), 4):
        sums.update(forecast[:, part], truth[part])
    assert sums.ace == pytest.approx(exact_ace(forecast, truth, 15), rel=0.03, abs=1e-5)


# --- coverage of intervals


def test_coverage_by_hand() -> None:
    truth = [1.0, 2.0, 3.0, 4.0, 5.0]
    low = [0.0, 2.0, 4.0, 1.0, np.nan]
    high = [2.0, 3.0, 9.0, 4.0, np.nan]
    found = interval_coverage(truth, low, high)
    assert (found.share, found.n) == (3 / 4, 4)
    z = 1.959963984540054
    centre = (0.75 + z**2 / 8) / (1 + z**2 / 4)
    half = z / (1 + z**2 / 4) * math.sqrt(0.75 * 0.25 / 4 + z**2 / 64)
    assert found.low == pytest.approx(centre - half, rel=1e-9)
    assert found.high == pytest.approx(centre + half, rel=1e-9)


def test_coverage_of_all_still_has_a_lower_end() -> None:
    found = interval_coverage(np.zeros(10), np.zeros(10), np.ones(10))
    z = 1.959963984540054
    assert (found.share, found.high) == (1, 1)
    assert found.low == pytest.approx(10 / (10 + z**2), rel=1e-9)


def test_coverage_of_nothing_is_unknown() -> None:
    found = interval_coverage([1.0], [np.nan], [np.nan])
    assert found.n == 0
    assert np.isnan([found.share, found.low, found.high]).all()
