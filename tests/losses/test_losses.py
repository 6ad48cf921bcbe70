"""The data terms of the loss, by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from nobrainer.losses import LOSSES, inverse_frequency

LOGITS = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]))


TARGET = torch.tensor([0, 1, 1])


def _voxels(rows: Tensor) -> Tensor:
    """Rows (voxel, class) as logits (1, C, voxels, 1, 1)."""
    return rows.T[None, :, :, None, None]


def test_cross_entropy_by_hand():
    loss = LOSSES["cross_entropy"]()(_voxels(LOGITS), TARGET[None, :, None, None])
    expected = -(math.log(0.5) + math.log(0.8) + math.log(0.2)) / 3
    assert loss.item() == pytest.approx(expected)


def test_weighted_cross_entropy_by_hand():
    weighted = LOSSES["cross_entropy"](torch.tensor([3.0, 1.0, 7.0]))
    loss = weighted(_voxels(LOGITS), TARGET[None, :, None, None])
    expected = -(3 * math.log(0.5) + math.log(0.8) + math.log(0.2)) / 5
    assert loss.item() == pytest.approx(expected)


# Soft Dice 2 Σ p t / (Σ p + Σ t) of each class of LOGITS and TARGET.
SOFT_DICE = [2 * 0.5 / (0.8 + 1), 2 * (0.8 + 0.2) / (1.25 + 2), 0.0]


def test_dice_by_hand():
    loss = LOSSES["dice"]()(_voxels(LOGITS), TARGET[None, :, None, None])
    assert loss.item() == pytest.approx(1 - sum(SOFT_DICE) / 3, abs=1e-4)


def test_weighted_dice_by_hand():
    weight = torch.tensor([1.0, 0.5, 0.0])
    loss = LOSSES["dice"](weight)(_voxels(LOGITS), TARGET[None, :, None, None])
    expected = ((1 - SOFT_DICE[0]) + 0.5 * (1 - SOFT_DICE[1])) / 3
    assert loss.item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("weight", [None, torch.tensor([3.0, 1.0, 0.5])])
def test_dice_ce_is_the_sum_of_both(weight):
    args = _voxels(LOGITS), TARGET[None, :, None, None]
    parts = LOSSES["dice"](weight)(*args) + LOSSES["cross_entropy"](weight)(*args)
    torch.testing.assert_close(LOSSES["dice_ce"](weight)(*args), parts)


@pytest.mark.parametrize("name", LOSSES)
def test_a_perfect_answer_costs_nothing_and_its_logits_get_gradients(name):
    target = torch.randint(
        0, 3, (2, 4, 4, 4), generator=torch.Generator().manual_seed(0)
    )
    perfect = 100 * nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    assert LOSSES[name]()(perfect, target).item() == pytest.approx(0, abs=1e-4)
    logits = torch.zeros(2, 3, 4, 4, 4, requires_grad=True)
    LOSSES[name]()(logits, target).backward()
    assert (logits.grad.abs() > 0).all()


def test_inverse_frequency_by_hand():
    # Frequencies 3/4, 0, 1/4: inverses 4/3 and 4, scaled to mean 1.
    weights = inverse_frequency(torch.tensor([300, 0, 100]))
    assert weights.tolist() == pytest.approx([0.5, 0.0, 1.5])
    assert weights.dtype == torch.float32
    equal = inverse_frequency(torch.full((4,), 10**12))
    assert equal.tolist() == pytest.approx([1.0] * 4)
