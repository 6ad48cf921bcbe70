"""The figures of an epoch by hand."""

import pytest
import torch

from nobrainer.training.objective import Loss
from nobrainer.training.tally import Tally


def batch(label, predicted, data, kl):
    """A batch's loss and labels, with logits that predict these classes."""
    logits = torch.nn.functional.one_hot(torch.tensor(predicted), 3).movedim(-1, 1)
    data, kl = torch.tensor(data), torch.tensor(kl)
    return Loss(data + 0.5 * kl, data, kl, logits.float()), torch.tensor(label)


def tallied():
    tally = Tally()
    tally.add(*batch([[[[0, 1, 1, 2]]]], [[[[0, 1, 0, 2]]]], data=1.0, kl=4.0))
    tally.add(*batch([[[[1, 1, 0, 0]]]] * 2, [[[[1, 2, 0, 1]]]] * 2, data=2.0, kl=2.0))
    tally.seconds = 7.5
    return tally


def test_means_and_dice_are_pooled_over_the_batches():
    tally = tallied()
    assert (tally.steps, tally.patches) == (2, 3)
    assert [tally.mean(name) for name in ("total", "data", "kl")] == [3.0, 1.5, 3.0]
    # Class 1: 6 labelled, 5 predicted, 3 in both; class 2: 1, 3 and 1.
    assert tally.dice() == pytest.approx((2 * 3 / 11 + 2 * 1 / 4) / 2)


def test_a_class_that_does_not_occur_has_no_part():
    tally = Tally()
    tally.add(*batch([[[[0, 1]]]], [[[[0, 1]]]], data=0.0, kl=0.0))
    assert tally.dice() == 1.0
    assert Tally().dice() == 0.0


def test_kept_tally_goes_on():
    kept = Tally.from_json(tallied().to_json())
    straight = tallied()
    assert kept.seconds == 7.5
    for tally in (kept, straight):
        tally.add(*batch([[[[2, 2]]]], [[[[2, 0]]]], data=0.1, kl=0.3))
    assert kept.to_json() == straight.to_json()
    assert kept.dice() == straight.dice()
    assert kept.mean("data") == straight.mean("data") == pytest.approx(3.1 / 3)
    empty = Tally.from_json(Tally().to_json())
    assert (empty.steps, empty.dice(), empty.mean("kl")) == (0, 0.0, 0.0)
