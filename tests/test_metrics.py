"""Overlap and calibration against values computed by hand."""

import math

import numpy as np
import pytest

from nobrainer.metrics.calibration import CalibrationSums
from nobrainer.metrics.overlap import confusion, dice


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


def test_sums_add_up_over_tiles_and_a_mask_leaves_voxels_out() -> None:
    whole, parts, masked = (CalibrationSums() for _ in range(3))
    whole.update(PROBABILITIES[:, :3], TRUTH[:3])
    for n in range(3):
        parts.update(PROBABILITIES[:, n : n + 1], TRUTH[n : n + 1])
    mask = np.array([[True, True], [True, False]])
    masked.update(PROBABILITIES.reshape(2, 2, 2), TRUTH.reshape(2, 2), mask)
    for sums in (parts, masked):
        assert sums.n_voxels == 3
        assert sums.nll == pytest.approx(whole.nll, rel=1e-12)
        assert sums.brier == pytest.approx(whole.brier, rel=1e-12)
        assert sums.ece == pytest.approx(whole.ece, rel=1e-12)


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


def test_without_voxels_there_is_no_figure() -> None:
    sums = CalibrationSums()
    sums.update(PROBABILITIES, TRUTH, np.zeros(4, bool))
    assert math.isnan(sums.nll) and math.isnan(sums.brier) and math.isnan(sums.ece)
