"""Layers of adversarial networks, against closed forms."""

import pytest
import torch
from torch.testing import assert_close

from nobrainer.generators.layers import (
    EqualConv3d,
    EqualLinear,
    as_images,
    double,
    halve,
    pixel_norm,
    widths,
    with_deviation,
)


@pytest.mark.parametrize(
    "layer",
    [lambda: EqualConv3d(24, 64, 3, gain=1.0), lambda: EqualLinear(648, 64, 1.0)],
)
def test_equalised_layers_keep_the_scale_with_weights_of_scale_one(layer):
    torch.manual_seed(0)
    made = layer()
    shape = (8, 24, 7, 7, 7) if made.weight.ndim == 5 else (400, 648)
    out = made(torch.randn(shape))
    if made.weight.ndim == 5:
        out = out[..., 1:-1, 1:-1, 1:-1]
    assert made.weight.std().item() == pytest.approx(1, abs=0.03)
    assert out.std().item() == pytest.approx(1, abs=0.05)


def test_pixel_norm_scales_every_voxel_and_turns_none():
    x = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1, 1) * torch.tensor([1.0, -7.0])
    normed = pixel_norm(x)
    root = (12.5**0.5) ** -1
    assert_close(normed[0, :, 0, 0, 0], torch.tensor([3 * root, 4 * root]))
    assert_close(normed[0, :, 0, 0, 1], -normed[0, :, 0, 0, 0])


def test_the_deviation_of_a_batch_is_one_number_for_all():
    x = torch.stack([torch.full((2, 3, 3, 3), v) for v in (-1.0, 1.0)])
    x[:, 1] = 5.0
    found = with_deviation(x)
    assert found.shape == (2, 3, 3, 3, 3)
    # One channel differs by ±1, the other not at all.
    assert_close(found[:, 2], torch.full((2, 3, 3, 3), 0.5), atol=1e-3, rtol=0)
    assert_close(found[:, :2], x)


def test_halving_takes_back_doubling():
    x = torch.rand(2, 3, 4, 4, 4)
    assert_close(halve(double(x)), x)
    assert_close(halve(x, 2), x.mean((2, 3, 4), keepdim=True))
    assert halve(x, 0) is x


def test_shares_of_classes_have_the_sum_one_and_intensities_stay():
    raw = torch.randn(2, 4, 2, 2, 2)
    made = as_images(raw, 3)
    assert_close(made[:, 1:].sum(1), torch.ones(2, 2, 2, 2))
    assert torch.equal(made[:, 0], raw[:, 0])
    assert as_images(raw, 0) is raw


def test_widths_halve_between_their_bounds():
    assert widths(64, 32, 6) == [32, 32, 16, 8, 4, 4]
