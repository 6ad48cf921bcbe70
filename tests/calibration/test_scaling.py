"""Scalings of logits against ones that are known beforehand."""

import math

import numpy as np
import pytest

from nobrainer.calibration import fit_scaling
from nobrainer.errors import InputError


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
