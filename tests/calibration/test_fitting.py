"""Calibration on volumes whose temperature and errors are known beforehand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nobrainer.bayes.draws import mix_seed
from nobrainer.calibration import calibrate, collect
from nobrainer.data.prepared import Prepared
from nobrainer.errors import InputError
from nobrainer.inference.predict import Sampling, Scaling
from nobrainer.inference.predictor import Predictor
from nobrainer.metrics.region import FOREGROUND_MARGIN, foreground_band


def predictor(model, sampling):
    return Predictor(model, 2, sampling, torch.device("cpu"))


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
