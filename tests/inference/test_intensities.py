"""What a scan's intensities add to a network's logits, against Bayes' rule."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from nobrainer.inference.intensities import N_BINS, Histograms, Likelihood

WHOLE = (slice(None), slice(None), slice(None))
MEANS = (2.0, 5.0)
"""Intensities of classes 1 and 2; each has a standard deviation of 1."""


def two_classes(undecided: float = 0.2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A scan of two classes in halves, its classes, and what a network says of them.

    It is nearly sure of most voxels, and undecided about a random share of them.
    """
    rng = np.random.default_rng(0)
    truth = np.ones((64, 48, 40), np.int64)
    truth[32:] = 2
    image = rng.normal(np.take((0.0, *MEANS), truth)).astype(np.float32)
    logits = np.full((3, *truth.shape), -9.0, np.float32)
    np.put_along_axis(logits, truth[None], 0.0, 0)
    open_ = rng.random(truth.shape) < undecided
    logits[1:, open_] = 0.0
    return image, truth, logits


def fitted(
    image: np.ndarray,
    logits: np.ndarray,
    weight: float = 1.0,
    shared: tuple[int, ...] = (0, 1, 2),
) -> Likelihood:
    histograms = Histograms(image, shared)
    histograms.keep(0, WHOLE, torch.from_numpy(logits))
    found = histograms.fit(weight)
    assert found is not None
    return found


def test_the_odds_of_two_classes_change_as_bayes_says() -> None:
    image, _, logits = two_classes()
    table = fitted(image, logits)
    at = torch.tensor([2.5, 3.0, 3.5, 4.0, 4.5])[:, None, None]
    added = table(at)[:, :, 0, 0].numpy()
    # log N(x; 5, 1) - log N(x; 2, 1) = 3x - 10.5, with histograms a little blurred.
    wanted = norm.logpdf(at[:, 0, 0], MEANS[1]) - norm.logpdf(at[:, 0, 0], MEANS[0])
    np.testing.assert_allclose(wanted, 3 * at[:, 0, 0] - 10.5, atol=1e-5)
    np.testing.assert_allclose(added[2] - added[1], wanted, atol=0.25)
    np.testing.assert_array_equal(added[0], 0.0)
    # Over the density of both classes together, in equal parts.
    together = np.log(np.exp(norm.logpdf(3.0, MEANS)).mean())
    assert added[1, 1] == pytest.approx(norm.logpdf(3.0, 2.0) - together, abs=0.1)


def test_undecided_voxels_become_as_right_as_their_intensities_allow() -> None:
    image, truth, logits = two_classes()
    undecided = logits[1] == logits[2]
    found = logits + fitted(image, logits)(torch.from_numpy(image)).numpy()
    label = found.argmax(0)
    # The best that a threshold half way can do: 1 - Φ(-1.5).
    assert (label == truth)[undecided].mean() == pytest.approx(norm.cdf(1.5), abs=0.01)
    # Where the network is sure, it decides.
    assert (label == truth)[~undecided].mean() > 0.999


def test_a_smaller_weight_moves_the_logits_less() -> None:
    image, _, logits = two_classes(undecided=0.0)
    # Where the network is quite sure the histograms do not depend on the weight.
    logits[logits < 0] = -60.0
    full, half = fitted(image, logits), fitted(image, logits, weight=0.5)
    torch.testing.assert_close(half.table, 0.5 * full.table, rtol=1e-3, atol=1e-3)
    assert full.table.abs().max() > 2


def test_what_is_fitted_does_not_depend_on_how_the_scan_was_cut() -> None:
    image, _, logits = two_classes()
    whole = fitted(image, logits)
    rng = np.random.default_rng(1)
    parts = [
        (slice(i, i + 16), slice(None), slice(k, k + 10))
        for i in range(0, 64, 16)
        for k in range(0, 40, 10)
    ]
    histograms = Histograms(image, (0, 1, 2))
    for n in rng.permutation(len(parts)):
        histograms.keep(0, parts[n], torch.from_numpy(logits[:, *parts[n]]))
    cut = histograms.fit(1.0)
    assert cut is not None
    assert (cut.low, cut.high) == (whole.low, whole.high)
    assert cut.table.equal(whole.table)


def test_the_unit_of_the_intensities_does_not_matter() -> None:
    image, _, logits = two_classes()
    # A power of two and no shift: the bins are the same to the last digit.
    scaled = fitted(4 * image, logits)
    plain = fitted(image, logits)
    assert scaled.table.equal(plain.table)
    assert scaled.low == pytest.approx(4 * plain.low)


def test_classes_that_share_a_histogram_are_told_apart_by_the_network_alone() -> None:
    image, _, logits = two_classes()
    table = fitted(image, logits, shared=(0, 1, 1)).table
    assert table[:, 1].equal(table[:, 2])
    # All classes together against themselves.
    torch.testing.assert_close(table, torch.zeros(N_BINS, 3), atol=2e-3, rtol=0)


def test_a_class_that_is_nowhere_looks_like_all_others() -> None:
    image, _, logits = two_classes()
    logits = np.concatenate([logits, np.full_like(logits[:1], -60.0)])
    table = fitted(image, logits, shared=(0, 1, 2, 3)).table
    torch.testing.assert_close(table[:, 3], torch.zeros(N_BINS), atol=1e-3, rtol=0)
    assert table[:, 1].abs().max() > 1


def test_intensities_beyond_the_histograms_count_as_the_outermost() -> None:
    image, _, logits = two_classes()
    table = fitted(image, logits)
    far = torch.tensor([-1e6, table.low, table.high, 1e6])[:, None, None]
    added = table(far)[:, :, 0, 0]
    assert added[:, 0].equal(added[:, 1])
    assert added[:, 2].equal(added[:, 3])
    assert added.abs().max() <= -math.log(1e-5)


@pytest.mark.parametrize("what", ["only background", "one intensity"])
def test_where_nothing_can_be_learned_nothing_is_added(what: str) -> None:
    image, _, logits = two_classes()
    if what == "only background":
        logits[0] = 40.0
    else:
        image[:] = 3.0
    histograms = Histograms(image, (0, 1, 2))
    histograms.keep(0, WHOLE, torch.from_numpy(logits))
    assert histograms.fit(1.0) is None
