"""Running statistics against numpy on the stored draws."""

import math

import numpy as np
import pytest
import torch

import nobrainer.inference.moments
from nobrainer.inference.logits import LastSteps
from nobrainer.inference.moments import RunningMoments, Statistics


def _draws(n: int, n_classes: int, sharpness: float = 3.0) -> np.ndarray:
    """Probabilities (draw, C, I, J, K)."""
    logits = np.random.default_rng(n).normal(size=(n, n_classes, 8, 5, 6))
    p = np.exp(sharpness * logits)
    return (p / p.sum(1, keepdims=True)).astype(np.float32)


def _logits(p: np.ndarray) -> torch.Tensor:
    with np.errstate(divide="ignore"):
        return torch.from_numpy(np.log(p)).clamp_min(-200)


def _statistics(draws: np.ndarray) -> Statistics:
    moments = RunningMoments()
    for p in draws:
        moments.update(_logits(p))
    return moments.result()


def _entropy(p: np.ndarray, axis: int) -> np.ndarray:
    return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(axis)


def _mode(draws: np.ndarray) -> np.ndarray:
    """The most frequent label of each voxel; among ties, of higher mean probability."""
    label, mean = draws.argmax(1), draws.mean(0)
    mode = np.empty(label.shape[1:], int)
    for i, j, k in np.ndindex(mode.shape):
        votes = np.bincount(label[:, i, j, k], minlength=draws.shape[1])
        tied = np.flatnonzero(votes == votes.max())
        mode[i, j, k] = tied[mean[tied, i, j, k].argmax()]
    return mode


@pytest.mark.parametrize("n_classes", [2, 7, 33, 50])
@pytest.mark.parametrize("n", [1, 2, 4, 5, 20])
def test_statistics_equal_numpy_on_stored_draws(n, n_classes):
    draws = _draws(n, n_classes)
    found = _statistics(draws)
    exact = draws.astype(np.float64)
    mean = exact.mean(0)
    entropy = _entropy(mean, 0)
    close = {"rtol": 0, "atol": 2e-6}
    np.testing.assert_allclose(found.probabilities, mean, **close)
    np.testing.assert_allclose(found.variance, exact.var(0).mean(0), **close)
    np.testing.assert_allclose(found.entropy, entropy, **close)
    information = entropy - _entropy(exact, 1).mean(0)
    np.testing.assert_allclose(found.mutual_information, information, **close)
    np.testing.assert_array_equal(found.label, _mode(draws))


def test_ties_are_frequent_in_the_test_above():
    label = _draws(4, 7).argmax(1)
    votes = np.stack([(label == c).sum(0) for c in range(7)])
    tied = (votes == votes.max(0)).sum(0) > 1
    assert tied.mean() > 0.2
    assert (_mode(_draws(4, 7)) != _draws(4, 7).mean(0).argmax(0)).mean() > 0.02


def _voxel(*rows: tuple[float, ...]) -> Statistics:
    """The statistics of one voxel whose draws are `rows`."""
    return _statistics(np.array(rows, np.float32)[:, :, None, None, None])


def test_the_mode_is_not_the_class_of_higher_mean():
    # Two weak votes for class 0 against one strong one for class 1.
    found = _voxel((0.51, 0.49), (0.51, 0.49), (0.01, 0.99))
    assert found.label.item() == 0
    assert found.probabilities.flatten().argmax().item() == 1


def test_a_tie_goes_to_the_higher_mean_even_against_the_class_order():
    assert _voxel((0.6, 0.4), (0.1, 0.9)).label.item() == 1
    assert _voxel((0.9, 0.1), (0.4, 0.6)).label.item() == 0
    # Class 2 has the highest mean but no vote.
    third = _voxel((0.51, 0.0, 0.49), (0.0, 0.505, 0.495))
    assert third.label.item() == 0


def test_the_extremes_by_hand():
    certain = _voxel((1.0, 0.0), (1.0, 0.0), (1.0, 0.0))
    assert [s.max().item() for s in certain[1:4]] == [0.0, 0.0, 0.0]
    # Draws that are sure of opposite answers: all uncertainty is between draws.
    opposed = _voxel((1.0, 0.0), (0.0, 1.0))
    assert opposed.variance.item() == pytest.approx(0.25)
    assert opposed.entropy.item() == pytest.approx(math.log(2))
    assert opposed.mutual_information.item() == pytest.approx(math.log(2))
    # Draws that agree that they do not know: none of it is.
    ignorant = _voxel((0.5, 0.5), (0.5, 0.5))
    assert ignorant.variance.item() == 0
    assert ignorant.entropy.item() == pytest.approx(math.log(2))
    assert ignorant.mutual_information.item() == pytest.approx(0, abs=1e-6)


def test_the_variance_is_the_population_variance_over_classes():
    found = _voxel((0.2, 0.3, 0.5), (0.4, 0.3, 0.3))
    # Deviations ±0.1, 0, ±0.1: (0.01 + 0 + 0.01) / 3.
    assert found.variance.item() == pytest.approx(0.02 / 3, rel=1e-5)


def test_many_draws_lose_no_vote_and_no_digit():
    n = 700
    rows = [(0.9, 0.1)] * 301 + [(0.1, 0.9)] * (n - 301)
    found = _voxel(*rows)
    assert found.label.item() == 1
    p = np.array([r[0] for r in rows])
    assert found.variance.item() == pytest.approx(p.var(), rel=1e-4)
    tiny = np.random.default_rng(0).normal(0.9, 1e-4, n)
    found = _voxel(*zip(tiny, 1 - tiny, strict=True))
    assert found.variance.item() == pytest.approx(tiny.var(), rel=0.01)


def test_the_order_of_the_draws_does_not_matter():
    draws = _draws(9, 7)
    one, other = _statistics(draws), _statistics(draws[::-1].copy())
    assert one.label.equal(other.label)
    for a, b in zip(one[1:], other[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=1e-6)


def test_update_returns_the_labels_of_the_draw_and_keeps_it_unchanged():
    draws = _draws(3, 7)
    moments = RunningMoments()
    for p in draws:
        logits = _logits(p)
        kept = logits.clone()
        np.testing.assert_array_equal(moments.update(logits), p.argmax(0))
        assert logits.equal(kept)


def test_statistics_stay_within_their_ranges():
    for sharpness in (0.0, 1.0, 30.0):
        found = _statistics(_draws(6, 7, sharpness))
        assert found.variance.min() >= 0 and found.variance.max() <= 0.25
        assert found.entropy.min() >= 0 and found.entropy.max() <= math.log(7) + 1e-6
        assert found.mutual_information.min() >= 0
        assert (found.mutual_information <= found.entropy + 1e-6).all()
        torch.testing.assert_close(
            found.probabilities.sum(0), torch.ones(8, 5, 6), rtol=0.0, atol=1e-5
        )


def test_one_draw_that_is_nearly_sure_has_no_entropy_below_0():
    moments = RunningMoments()
    sure = torch.arange(-20, 0, 0.01)
    moments.update(torch.stack([sure, -sure]).reshape(2, 10, 10, 20))
    entropy = moments.result().entropy
    assert entropy.min() == 0 and entropy.max() == pytest.approx(math.log(2), 1e-3)


@pytest.mark.parametrize("n_classes", [2, 7])
def test_neither_the_order_in_memory_nor_the_chunks_matter(n_classes, monkeypatch):
    draws = [_logits(p) for p in _draws(3, n_classes)]
    one, other = RunningMoments(), RunningMoments()
    for logits in draws:
        one.update(logits)
    monkeypatch.setattr(nobrainer.inference.moments, "_CHUNK", 11)
    for logits in draws:
        other.update(logits.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2))
    for a, b in zip(one.result(), other.result(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_a_last_layer_and_a_scaling_are_applied_part_by_part(monkeypatch):
    monkeypatch.setattr(nobrainer.inference.moments, "_CHUNK", 100)
    rng = np.random.default_rng(0)
    seen = torch.from_numpy(rng.normal(size=(3, 4, 5, 6)).astype(np.float32))
    layer = torch.nn.Conv3d(3, 7, 1).requires_grad_(False)
    last = LastSteps(layer, scaling=lambda logits: 2 * logits)
    one, other = RunningMoments(), RunningMoments()
    for factor in (1, -2):
        labels = one.update(factor * seen, last)
        assert labels.equal(other.update(2 * layer(factor * seen[None])[0]))
    for a, b in zip(one.result(), other.result(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_of_equal_logits_the_first_is_chosen():
    logits = torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 2.0], [3.0, 0.0, 1.0]])
    moments = RunningMoments()
    labels = moments.update(logits[:, :, None, None])
    assert labels.flatten().tolist() == [1, 0, 0]
    votes = moments.result().votes[:, :, 0, 0]
    assert votes.T.tolist() == [[0, 1, 0], [1, 0, 0], [1, 0, 0]]


def test_more_votes_than_a_byte_holds_are_counted():
    moments = RunningMoments()
    for _ in range(300):
        moments.update(torch.tensor([0.0, 1.0])[:, None, None, None])
    assert moments.result().votes.flatten().tolist() == [0, 300]


def test_draws_that_agree_to_the_last_bit_have_no_variance():
    moments = RunningMoments()
    logits = _logits(_draws(1, 7)[0])
    for _ in range(7):
        moments.update(logits)
    assert moments.result().variance.max() == 0
