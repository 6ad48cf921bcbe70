"""Calibration against scalings and coverages that are known beforehand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nobrainer.bayes.draws import mix_seed
from nobrainer.calibration import (
    calibrate,
    collect,
    fit_intervals,
    fit_scaling,
)
from nobrainer.data.prepared import Prepared
from nobrainer.errors import InputError
from nobrainer.inference.predict import Sampling, Scaling
from nobrainer.inference.predictor import Predictor
from nobrainer.metrics.region import FOREGROUND_MARGIN, foreground_band
from nobrainer.posthoc import volume_spread


def predictor(model, sampling):
    return Predictor(model, 2, sampling, torch.device("cpu"))


def sampled(rng, n_voxels, n_classes=3, n_draws=1):
    """Logits of a calibrated network, and truths drawn from what it says."""
    logits = rng.normal(0, 1.5, (n_draws, n_voxels, n_classes))
    odds = np.exp(logits)
    mean = (odds / odds.sum(-1, keepdims=True)).mean(0)
    uniform = rng.random((n_voxels, 1))
    truth = (mean.cumsum(-1) < uniform).sum(-1)
    return logits.astype(np.float32), truth


def mean_nll(logits, truth, weight, bias):
    odds = np.exp(np.float64(logits) * weight + bias)
    mean = (odds / odds.sum(-1, keepdims=True)).mean(0)
    return -np.log(mean[np.arange(len(truth)), truth]).mean()


def test_temperature_undoes_overconfidence():
    rng = np.random.default_rng(0)
    subjects = [sampled(rng, 20_000, n_draws=2) for _ in range(3)]
    fit = fit_scaling(
        [3 * z for z, _ in subjects], [y for _, y in subjects], "temperature"
    )
    assert fit.weight[0] == pytest.approx(1 / 3, rel=0.03)
    assert set(fit.weight) == {fit.weight[0]}
    assert fit.bias == (0.0, 0.0, 0.0)
    assert fit.n_subjects == 3
    before = np.mean([mean_nll(3 * z, y, 1, 0) for z, y in subjects])
    after = np.mean([mean_nll(3 * z, y, fit.weight, 0) for z, y in subjects])
    assert fit.nll_before == pytest.approx(before, rel=1e-6)
    assert fit.nll_after == pytest.approx(after, rel=1e-6)
    assert fit.nll_after < 0.9 * fit.nll_before


def test_vector_scaling_recovers_weights_and_biases():
    rng = np.random.default_rng(1)
    weight, bias = np.array([0.5, 1.0, 2.0]), np.array([0.6, -0.2, -0.4])
    logits, truth = sampled(rng, 100_000)
    given = ((logits - bias) / weight).astype(np.float32)
    fit = fit_scaling([given], [truth], "vector")
    # Noise of the truths: about 1 % of the weights, 0.01 of the biases.
    np.testing.assert_allclose(fit.weight, weight, rtol=0.05)
    np.testing.assert_allclose(fit.bias, bias, atol=0.05)
    assert sum(fit.bias) == pytest.approx(0, abs=1e-12)


def test_the_mean_over_draws_is_calibrated_not_the_mean_logit():
    # Draw 1 gives class 1 the logit 4, draw 2 the logit 0; class 1 is true in 70 %.
    # Mean over draws: (σ(4w) + 1/2) / 2 = 0.7, so 4w = ln 9. Of the mean logit it
    # would be σ(2w) = 0.7, so w = ln(7/3) / 2 = 0.42.
    logits = np.zeros((2, 1000, 2), np.float32)
    logits[0, :, 1] = 4
    truth = (np.arange(1000) < 700).astype(np.int64)
    fit = fit_scaling([logits], [truth], "temperature")
    assert fit.weight[0] == pytest.approx(math.log(9) / 4, rel=1e-4)


def test_each_subject_weighs_the_same():
    # Logit 1 for class 1 everywhere: the best w is the logit of the mean frequency
    # of class 1 over subjects, however many voxels each gives.
    def subject(n_voxels, n_true):
        logits = np.zeros((1, n_voxels, 2), np.float32)
        logits[..., 1] = 1
        return logits, (np.arange(n_voxels) < n_true).astype(np.int64)

    few, many = subject(10, 9), subject(1000, 700)
    fit = fit_scaling([few[0], many[0]], [few[1], many[1]], "temperature")
    assert fit.weight[0] == pytest.approx(math.log(0.8 / 0.2), rel=1e-4)


@pytest.mark.parametrize("method", ["temperature", "vector"])
@pytest.mark.parametrize("seed", range(3))
def test_never_worse_than_no_scaling(method, seed):
    rng = np.random.default_rng(seed)
    # Calibrated logits, and truths that have nothing to do with them.
    for logits, truth in (
        sampled(rng, 200, 5, n_draws=3),
        (sampled(rng, 200, 5)[0] * 10, rng.integers(0, 5, 200)),
    ):
        fit = fit_scaling([logits], [truth], method)
        assert fit.nll_after <= fit.nll_before


def test_logits_that_are_always_right_give_a_bounded_weight():
    logits = np.zeros((1, 100, 2), np.float32)
    truth = np.arange(100) % 2
    logits[0, np.arange(100), truth] = 1
    fit = fit_scaling([logits], [truth], "temperature")
    assert 15 < fit.weight[0] <= 20


def test_a_class_that_never_occurs_keeps_the_common_weight():
    rng = np.random.default_rng(4)
    logits, truth = sampled(rng, 20_000, 3)
    # A fourth class, which the network believes in at times, and rightly for all
    # that these scans can say.
    fourth = np.where(rng.random((1, 20_000, 1)) < 0.03, 2.5, -30.0)
    logits = np.concatenate([logits, fourth], -1)
    fit = fit_scaling([3 * np.float32(logits)], [truth], "vector")
    common = math.exp(np.log(fit.weight[:3]).mean())
    assert fit.bias[3] == 0
    assert fit.weight[3] == pytest.approx(common)
    assert common == pytest.approx(1 / 3, rel=0.1)
    assert sum(fit.bias[:3]) == pytest.approx(0, abs=1e-9)


def test_a_method_that_is_not_there():
    with pytest.raises(InputError, match="did you mean 'temperature'"):
        fit_scaling([], [], "temprature")


# Intervals


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


# From volumes


class Known(nn.Module):
    """The logit of class 1 is the image's value, times a random channel mask."""

    stride, halo, width = 1, 0, 1

    def __init__(self, dropout=0.0):
        super().__init__()
        self.dropout = nn.Dropout3d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(x), self.dropout(x)], dim=1)


def prepared(name, seed=0, odds=3.0, overconfidence=1.0, voxel_mm=2.0):
    """Class 1 in 6³ voxels; inside, odds : 1 for a truth that has these odds."""
    rng = np.random.default_rng(seed)
    shape = (20, 20, 20)
    image = np.full(shape, -math.log(odds), np.float32)
    image[6:14, 6:14, 6:14] = math.log(odds)
    label = (rng.random(shape) < odds / (1 + odds)) == (image > 0)
    image *= overconfidence
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    return Prepared(
        name, image, label.astype(np.uint8), affine, -99.0, -99.0, 1.0, (1.0, 1.0, 1.0)
    )


@pytest.mark.parametrize("block_shape", [None, (7, 20, 9)])
def test_collect_keeps_the_logits_at_its_voxels(block_shape):
    volume = prepared("a")
    image = np.arange(8000, dtype=np.float32).reshape(20, 20, 20)
    label = np.zeros((20, 20, 20), np.uint8)
    label[4:6, 4:6, 4:6] = 1
    sheared = volume.affine.copy()
    sheared[0, 1] = 1.0
    volume = Prepared("a", image, label, sheared, -99.0, -99.0, 1.0, (1.0, 1.0, 1.0))
    sampling = Sampling(seed=3, n_draws=2, block_shape=block_shape)
    (one,) = collect([predictor(Known(), sampling)], [volume], voxels_per_subject=300)
    assert one.logits.shape == (2, 300, 2)
    # The image numbers its voxels, and the logit of class 1 is the image.
    numbers = one.logits[0, :, 1].astype(int)
    np.testing.assert_array_equal(one.logits[1, :, 1], numbers)
    np.testing.assert_array_equal(one.logits[..., 0], 0)
    assert len(set(numbers)) == 300
    np.testing.assert_array_equal(one.truth, label.ravel()[numbers])
    assert foreground_band(label).ravel()[numbers].all()
    # Every voxel but the one of value 0 is class 1; a sheared voxel is 8 mm³, too.
    np.testing.assert_allclose(one.volumes_mm3, [[8, 7999 * 8]] * 2)
    np.testing.assert_allclose(one.true_mm3, [7992 * 8, 8 * 8])
    rng = np.random.default_rng(mix_seed(3, "calibration", "a"))
    band = np.flatnonzero(foreground_band(label))
    np.testing.assert_array_equal(numbers, rng.choice(band, 300, replace=False))


def test_the_band_reaches_five_voxels():
    label = np.zeros((30, 30, 30), np.uint8)
    label[15, 15, 15] = 3
    band = foreground_band(label)
    assert FOREGROUND_MARGIN == 5
    assert band.sum() == 11**3
    assert band[10, 20, 10] and not band[9, 15, 15]


def test_draws_are_kept_apart():
    sampling = Sampling(seed=0, n_draws=8)
    (one,) = collect([predictor(Known(dropout=0.5), sampling)], [prepared("a")])
    # A draw's mask doubles the only channel or switches it off.
    size = np.abs(one.logits[..., 1])
    on = (size > 0).all(1)
    assert 0 < on.sum() < 8
    np.testing.assert_allclose(size[on], 2 * math.log(3), rtol=1e-6)
    np.testing.assert_array_equal(size[~on], 0)
    np.testing.assert_array_equal(one.volumes_mm3[~on, 1], 0)
    np.testing.assert_allclose(one.volumes_mm3[on, 1], 8**3 * 8)


def run(subjects, people=None, scaling=None, **options):
    mean_weights = Sampling(seed=0, n_draws=0)
    return calibrate(
        [replace(predictor(Known(), mean_weights), scaling=scaling)] * len(subjects),
        lambda scans: (subjects[scan] for scan in scans),
        people or [subject.name for subject in subjects],
        **options,
    )


def test_calibrate_finds_the_temperature_and_covers():
    subjects = [prepared(str(n), n, overconfidence=2.0) for n in range(6)]
    fit = run(subjects, coverage=0.8)
    assert fit.weight[0] == pytest.approx(0.5, rel=0.05)
    assert fit.n_subjects == 6
    truths = np.array([8.0 * s.label.sum() for s in subjects])
    gaps = np.abs(truths - 8.0 * 8**3) / (0.01 * 8 * 8**3)
    assert fit.intervals.factors == (None, pytest.approx(np.sort(gaps)[5]))
    assert run(subjects).intervals is None


def test_vector_scaling_and_intervals_share_no_subject():
    subjects = [prepared(str(n), n, overconfidence=2.0) for n in range(8)]
    fit = run(subjects, method="vector", coverage=0.75)
    for_intervals = np.random.default_rng(0).permutation(8)[:4]
    others = [subjects[n] for n in range(8) if n not in for_intervals]
    alone = run(others, method="vector")
    assert fit.weight == alone.weight
    assert fit.bias == alone.bias
    assert (fit.n_subjects, fit.intervals.n_subjects) == (4, 4)
    truths = np.array([8.0 * subjects[n].label.sum() for n in for_intervals])
    gaps = np.abs(truths - 8.0 * 8**3) / (0.01 * 8 * 8**3)
    assert fit.intervals.factors[1] == pytest.approx(np.sort(gaps)[3])


def test_intervals_are_of_what_vector_scaling_predicts():
    # All logits are those of class 1: only a bias for background turns labels.
    subjects = []
    for n in range(2):
        volume = prepared(str(n), n)
        image = np.where(volume.image > 0, np.float32(9), np.float32(1))
        subjects.append(
            Prepared(
                str(n),
                image,
                volume.label,
                volume.affine,
                -99.0,
                -99.0,
                1.0,
                (1.0, 1.0, 1.0),
            )
        )
    fit = run(subjects, method="vector", coverage=0.5)
    # As in truth, class 1 is inside only, so that the interval is narrow.
    truth = 8.0 * subjects[np.random.default_rng(0).permutation(2)[0]].label.sum()
    gap = abs(truth - 8.0 * 8**3) / (0.01 * 8 * 8**3)
    assert fit.intervals.factors[1] == pytest.approx(gap)


def test_scans_of_one_person_are_one_subject_of_the_intervals():
    subjects = [prepared(str(n), n) for n in range(6)]
    people = ["a", "b", "c", "d", "a", "b"]
    with pytest.raises(InputError, match="at least 9 labelled subjects, 4 are here"):
        run(subjects, people=people, coverage=0.9)
    fit = run(subjects, people=people, coverage=0.75)
    assert (fit.n_scans, fit.n_subjects, fit.intervals.n_subjects) == (6, 4, 4)
    assert fit.intervals.factors == run(subjects[:4], coverage=0.75).intervals.factors
    halves = run(subjects, people=people, method="vector", coverage=0.5)
    first = sorted(np.random.default_rng(0).permutation(4)[:2])
    rest = [
        s
        for s, who in zip(subjects, people, strict=True)
        if "abcd".index(who) not in first
    ]
    assert halves.weight == run(rest, method="vector").weight


def test_images_of_label_maps_count_by_themselves_in_intervals():
    subjects = [prepared(str(n), n, overconfidence=2.0) for n in range(6)]
    people, made = ["a", "a", "a", "b", "b", "b"], [True] * 3 + [False] * 3
    fit = run(subjects, people, synthesised=made, coverage=0.75)
    # Of the real scans of b the first one alone counts.
    truths = np.array([8.0 * s.label.sum() for s in subjects[:4]])
    gaps = np.abs(truths - 8.0 * 8**3) / (0.01 * 8 * 8**3)
    assert fit.intervals.factors == (None, pytest.approx(gaps.max()))
    intervals = fit.intervals
    assert (intervals.n_scans, intervals.n_subjects, intervals.n_images) == (4, 2, 3)
    assert (fit.n_scans, fit.n_subjects, fit.n_images) == (6, 2, 3)
    # Halves never share a person: the scaling comes from the other one.
    halves = run(
        subjects, people, synthesised=[True] * 6, method="vector", coverage=0.75
    )
    of_b = np.random.default_rng(0).permutation(2)[0] == 1
    rest = subjects[:3] if of_b else subjects[3:]
    assert halves.weight == run(rest, method="vector").weight
    assert (halves.n_subjects, halves.intervals.n_subjects) == (1, 1)
    assert halves.intervals.n_images == 3


def test_every_scan_has_draws_of_its_own():
    subjects = [prepared(str(n)) for n in range(6)]
    found = collect([predictor(Known(dropout=0.5), Sampling(0, 8))] * 6, subjects)
    # On or off is the only thing that a draw of this network changes.
    masks = {tuple(one.volumes_mm3[:, 1] > 0) for one in found}
    assert len(masks) > 3


def test_intervals_need_a_spread_of_draws():
    subjects = [prepared(str(n), n) for n in range(4)]
    volumes, people = lambda scans: (subjects[n] for n in scans), ["a", "b", "c", "d"]

    def fit_with(n_draws):
        drawn = predictor(Known(dropout=0.5), Sampling(0, n_draws))
        return calibrate([drawn] * 4, volumes, people, coverage=0.5)

    for n_draws in (0, 1):
        with pytest.raises(InputError, match="spread of several draws, got 1"):
            fit_with(n_draws)
    fit = fit_with(3)
    assert fit.intervals.n_draws == 3


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


def test_a_scaling_in_use_does_not_change_the_fit():
    subjects = [prepared("a"), prepared("b", 1)]
    plain = run(subjects, coverage=0.5)
    in_use = Scaling((0.1, 0.2), (9.0, 0.0))
    assert run(subjects, coverage=0.5, scaling=in_use) == plain


def test_what_calibration_refuses():
    subjects = [prepared(str(n), n) for n in range(3)]
    with pytest.raises(InputError, match="at least 9 labelled subjects, 3 are here"):
        run(subjects, coverage=0.9)
    with pytest.raises(InputError, match=r"at least 3 .* 1 are left by vector scaling"):
        run(subjects, method="vector", coverage=0.75)
    with pytest.raises(InputError, match="at least 1, got 0"):
        run([])
    blank = Prepared("b", subjects[0].image, None, np.eye(4), 0.0, 0.0, 1.0, (1, 1, 1))
    with pytest.raises(InputError, match="b: has no labels"):
        run([blank])
    zeros = np.zeros_like(subjects[0].label)
    empty = Prepared("c", subjects[0].image, zeros, np.eye(4), 0.0, 0.0, 1.0, (1, 1, 1))
    with pytest.raises(InputError, match="c: its labels hold no foreground"):
        run([empty])
