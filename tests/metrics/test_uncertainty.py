"""Detection of errors and selective prediction, by hand and against brute force."""

import math
from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from nobrainer.metrics.uncertainty import (
    DetectionSums,
    RiskCoverage,
    aurc,
    excess_aurc,
)


def detection(score: np.ndarray, wrong: np.ndarray) -> DetectionSums:
    sums = DetectionSums()
    sums.update(np.asarray(score, np.float32), np.asarray(wrong, bool))
    return sums


def apart(n: int, rng: np.random.Generator) -> np.ndarray:
    """Scores over many magnitudes, in random order, no two of which share a bin."""
    exact = 2.0 ** rng.integers(-40, 1, n) * (1 + rng.integers(0, 256, n) / 256)
    return np.unique(exact)[rng.permutation(len(np.unique(exact)))].astype(np.float32)


def brute_force_aurc(score: np.ndarray, risk: np.ndarray) -> float:
    ordered = np.asarray(risk, float)[np.argsort(score, kind="stable")]
    return float(np.mean([ordered[:k].mean() for k in range(1, len(ordered) + 1)]))


# Right 0.1, wrong 0.2, right 0.3, wrong 0.4.
SCORE, WRONG = np.array([0.3, 0.1, 0.4, 0.2]), np.array([False, False, True, True])


def test_detection_by_hand() -> None:
    sums = detection(SCORE, WRONG)
    assert sums.auroc == pytest.approx(3 / 4)  # of the pairs, (0.2, 0.3) is wrong
    assert sums.aupr == pytest.approx((1 / 1 + 2 / 3) / 2)
    # Errors among the first 1, 2, 3, 4: 0, 1, 1, 2; at best 0, 0, 1, 2.
    assert sums.aurc == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    assert sums.excess_aurc == pytest.approx((1 / 2) / 4)


def test_equal_scores_count_as_in_random_order() -> None:
    sums = detection(np.full(4, 0.5), WRONG)
    assert sums.auroc == 0.5
    assert sums.aupr == 0.5
    assert sums.aurc == pytest.approx(0.5)
    # A tie of a right and a wrong voxel between two others.
    sums = detection(np.array([0.1, 0.2, 0.2, 0.4]), np.array([0, 1, 0, 1]))
    assert sums.auroc == pytest.approx((2 + 1 + 0.5) / 4)
    assert sums.aurc == pytest.approx((0 + 0.5 / 2 + 1 / 3 + 2 / 4) / 4)


@pytest.mark.parametrize("share", [0.02, 0.4])
def test_detection_agrees_with_scikit_learn_and_brute_force(share: float) -> None:
    rng = np.random.default_rng(1)
    score = apart(600, rng)
    wrong = rng.random(len(score)) < share + 0.5 * (score > 1e-4) * share
    sums = detection(score, wrong)
    assert sums.auroc == pytest.approx(roc_auc_score(wrong, score), rel=1e-12)
    assert sums.aupr == pytest.approx(average_precision_score(wrong, score), rel=1e-12)
    assert sums.aurc == pytest.approx(brute_force_aurc(score, wrong), rel=1e-9)
    best = brute_force_aurc(wrong, wrong)
    assert sums.excess_aurc == pytest.approx(sums.aurc - best, rel=1e-9)


def test_the_histogram_is_fine_enough_for_any_score() -> None:
    rng = np.random.default_rng(2)
    score = np.abs(rng.standard_normal(50_000)).astype(np.float32) ** 3 * 1e-3
    wrong = rng.random(50_000) < np.minimum(40 * score, 0.9)
    sums = detection(score, wrong)
    assert sums.auroc == pytest.approx(roc_auc_score(wrong, score), abs=1e-4)
    assert sums.aupr == pytest.approx(average_precision_score(wrong, score), abs=2e-3)
    assert sums.aurc == pytest.approx(brute_force_aurc(score, wrong), rel=2e-3)


def test_a_perfect_score_has_no_excess() -> None:
    wrong = np.arange(1000) >= 900
    sums = detection(1 + wrong, wrong)
    assert (sums.auroc, sums.aupr) == (1, 1)
    assert sums.excess_aurc == pytest.approx(0, abs=1e-15)
    # Σ (k - 900) / k over the last hundred.
    assert sums.aurc == pytest.approx(
        sum((k - 900) / k for k in range(901, 1001)) / 1e3
    )


def test_without_errors_nothing_is_detected_and_nothing_is_at_risk() -> None:
    sums = detection(SCORE, np.zeros(4))
    assert math.isnan(sums.auroc) and math.isnan(sums.aupr)
    assert sums.aurc == sums.excess_aurc == 0
    assert set(sums.risk_coverage.risk) == {0}


def test_without_right_voxels_the_risk_is_one() -> None:
    sums = detection(SCORE, np.ones(4))
    assert math.isnan(sums.auroc)
    assert (sums.aupr, sums.aurc) == (1, pytest.approx(1))
    assert sums.excess_aurc == pytest.approx(0, abs=1e-15)


def test_without_voxels_there_is_no_figure() -> None:
    sums = detection(np.zeros(0), np.zeros(0))
    found = [sums.auroc, sums.aupr, sums.aurc, sums.excess_aurc]
    assert np.isnan(found).all()
    assert sums.risk_coverage == RiskCoverage((), ())


def test_detection_adds_up_over_tiles_and_a_mask_leaves_voxels_out() -> None:
    rng = np.random.default_rng(3)
    score = rng.random((6, 5, 4), np.float32)
    wrong = rng.random((6, 5, 4)) < 0.3
    mask = rng.random((6, 5, 4)) < 0.8
    whole = detection(score[mask], wrong[mask])
    parts, merged = DetectionSums(), DetectionSums()
    for n in range(6):
        part = DetectionSums()
        for sums in (parts, part):
            sums.update(score[n].T, wrong[n].T, mask[n].T)
        merged.merge(part)
    for sums in (parts, merged):
        assert sums.auroc == whole.auroc
        assert sums.aupr == whole.aupr
        assert sums.aurc == whole.aurc
        assert sums.risk_coverage == whole.risk_coverage


def test_rounding_below_zero_counts_as_zero() -> None:
    sums = detection(np.array([-0.0, -1e-9, 0.0, 1e-30]), np.array([1, 0, 0, 0]))
    assert sums.auroc == pytest.approx((0.5 + 0.5) / 3)


def test_a_cohort_of_voxels_does_not_overflow() -> None:
    sums = detection(SCORE, WRONG)
    for _ in range(32):
        sums.merge(sums)
    # 2³² voxels at each of four scores: the integral of the curve, bin by bin.
    blocks = [
        0,
        1 - math.log(2),
        math.log(3 / 2),
        1 - 2 * math.log(4 / 3),
    ]
    expected = sum(blocks) / 4
    assert sums.aurc == pytest.approx(expected, rel=1e-6)
    assert sums.auroc == pytest.approx(3 / 4)


def test_risk_coverage_by_hand() -> None:
    # 200 voxels: one point each; the 20 most uncertain hold 15 of the 16 errors.
    score = np.repeat([1.0, 2.0, 3.0], [40, 140, 20])
    wrong = np.zeros(200, bool)
    wrong[[50, *range(180, 195)]] = True
    curve = detection(score, wrong).risk_coverage
    assert len(curve.coverage) == len(curve.risk) == 200
    assert curve.coverage[0] == 0.005 and curve.coverage[-1] == 1
    assert curve.risk[39] == 0
    assert curve.risk[109] == pytest.approx(0.5 / 110)  # half of the second block
    assert curve.risk[179] == pytest.approx(1 / 180)
    assert curve.risk[-1] == pytest.approx(16 / 200)


# --- cases


def test_area_of_cases_by_hand() -> None:
    scores, risks = [0.1, 0.5, 0.3], [0.2, 0.1, 0.6]
    area = (0.2 + 0.8 / 2 + 0.9 / 3) / 3
    best = (0.1 + 0.3 / 2 + 0.9 / 3) / 3
    assert aurc(scores, risks) == pytest.approx(area)
    assert excess_aurc(scores, risks) == pytest.approx(area - best)
    assert excess_aurc(risks, risks) == 0


def test_area_of_equal_scores_is_the_mean_over_their_orders() -> None:
    scores, risks = np.array([1, 2, 2, 2, 3]), np.array([0.3, 0.9, 0.1, 0.4, 0.2])
    areas = [
        brute_force_aurc(np.arange(5), risks[[0, *middle, 4]])
        for middle in permutations([1, 2, 3])
    ]
    assert aurc(scores, risks) == pytest.approx(np.mean(areas), rel=1e-12)
    assert aurc(np.zeros(5), risks) == pytest.approx(risks.mean())


def test_area_of_no_case_is_unknown() -> None:
    assert math.isnan(aurc([], []))
    assert math.isnan(excess_aurc([], []))
