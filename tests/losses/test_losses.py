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


def plain_dice_ce(logits, labels, weight):
    """Dice and cross-entropy as they are defined, for autograd."""
    n_classes = logits.shape[1]
    weight = torch.ones(n_classes) if weight is None else weight
    p = logits.softmax(1)
    truth = nn.functional.one_hot(labels, n_classes).movedim(-1, 1).to(p)
    voxels = (2, 3, 4)
    bottom = p.sum(voxels) + truth.sum(voxels) + 1e-5
    scores = (2 * (p * truth).sum(voxels) + 1e-5) / bottom
    overlap = ((1 - scores) * weight).mean()
    return overlap + nn.functional.cross_entropy(logits, labels, weight.to(p))


@pytest.mark.parametrize(
    ("n_classes", "memory_format"),
    [
        (2, torch.contiguous_format),
        (3, torch.channels_last_3d),
        (33, torch.contiguous_format),
        (33, torch.channels_last_3d),
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_of_dice_ce_is_that_of_its_formula(
    n_classes, memory_format, weighted
):
    generator = torch.Generator().manual_seed(n_classes)
    # The last class is empty, and with 33 of them many others are.
    labels = torch.randint(0, n_classes - 1, (2, 3, 2, 2), generator=generator)
    logits = 3 * torch.randn(2, n_classes, 3, 2, 2, generator=generator)
    logits = logits.double().to(memory_format=memory_format).requires_grad_()
    weight = None
    if weighted:
        weight = torch.rand(n_classes, generator=generator, dtype=torch.float64)
        weight[-1] = 0
    loss = LOSSES["dice_ce"](weight)
    assert torch.autograd.gradcheck(loss, (logits, labels))
    value, expected = loss(logits, labels), plain_dice_ce(logits, labels, weight)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    (found,) = torch.autograd.grad(2 * value, logits)
    (right,) = torch.autograd.grad(2 * expected, logits)
    torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-14)
    assert found.is_contiguous(memory_format=memory_format) or n_classes < 16
    with torch.no_grad():
        torch.testing.assert_close(loss(logits, labels), value)


def test_dice_ce_is_computed_in_single_precision():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 20, (2, 40, 40, 40), generator=generator)
    logits = 5 * torch.randn(2, 20, 40, 40, 40, generator=generator)
    half = logits.bfloat16().requires_grad_()
    exact = half.detach().double()
    with torch.autocast("cpu", torch.bfloat16):
        value = LOSSES["dice_ce"]()(half, labels)
    assert value.dtype == torch.float32
    right = float(plain_dice_ce(exact, labels, None))
    assert float(value.detach()) == pytest.approx(right, abs=1e-6 * right)
    value.backward()
    assert half.grad.dtype == torch.bfloat16


def test_inverse_frequency_by_hand():
    # Frequencies 3/4, 0, 1/4: inverses 4/3 and 4, scaled to mean 1.
    weights = inverse_frequency(torch.tensor([300, 0, 100]))
    assert weights.tolist() == pytest.approx([0.5, 0.0, 1.5])
    assert weights.dtype == torch.float32
    equal = inverse_frequency(torch.full((4,), 10**12))
    assert equal.tolist() == pytest.approx([1.0] * 4)
