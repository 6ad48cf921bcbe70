"""Matrices along one axis, by hand."""

import math

import pytest
import torch

from nobrainer.data.axes import (
    along_axes,
    centred_places,
    count_spline_points,
    gaussian_means,
    linear_weights,
    spline_weights,
)

CPU = torch.device("cpu")


def test_each_axis_is_multiplied_by_its_own_matrix() -> None:
    x = torch.arange(24.0).view(2, 3, 4)
    first, second = torch.tensor([[1.0, 10.0]]), torch.tensor([[0.0, 1.0, 2.0]])
    third = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    # Rows 1 and 2 of the second axis begin at 4 and 8, and at 16 and 20.
    begins, ends = 20.0 + 10 * 56, 29.0 + 10 * 65
    assert along_axes(x, (first, second, third)).tolist() == [[[begins, ends]]]


def test_images_of_a_batch_have_matrices_of_their_own() -> None:
    x, eye = torch.ones(2, 2, 2, 2), torch.eye(2)
    times = torch.tensor([3.0, 5.0]).view(2, 1, 1) * eye
    found = along_axes(x, (times, eye, eye))
    assert found[0].unique().tolist() == [3] and found[1].unique().tolist() == [5]


@pytest.mark.parametrize("n", [64, 100])
def test_zeros_beside_a_band_are_left_out_of_products_alone(n: int) -> None:
    x = torch.rand(2, n, 3, 4, generator=torch.Generator().manual_seed(0))
    width = torch.tensor([0.7, 2.0])
    blur = gaussian_means(torch.arange(float(n)).expand(2, n), n, width)
    whole = torch.einsum("bij,bjkl->bikl", blur.double(), x.double())
    found = along_axes(x, (blur, None, None))
    assert torch.allclose(found.double(), whole, atol=1e-6)
    turned = along_axes(x.movedim(1, 3), (None, None, blur))
    assert torch.allclose(turned.movedim(3, 1), found, atol=1e-6)


def test_an_identity_copies_nothing() -> None:
    x = torch.rand(2, 3, 4, 5)
    assert along_axes(x, (torch.eye(3).expand(2, 3, 3), None, torch.eye(5))) is x
    found = along_axes(x, (None, 2 * torch.eye(4), None))
    assert torch.equal(found, 2 * x)


def test_gaussian_means_have_the_weights_of_a_gaussian() -> None:
    (row,) = gaussian_means(torch.tensor([2.0]), 5, torch.tensor(1.0))
    bell = [math.exp(-away * away / 2) for away in (-2, -1, 0, 1, 2)]
    assert row.tolist() == pytest.approx([b / sum(bell) for b in bell], rel=1e-5)
    # Without a width it is the nearest voxel; at an end, a mean over fewer.
    (row,) = gaussian_means(torch.tensor([1.2]), 4, torch.tensor(0.0))
    assert row.tolist() == [0, 1, 0, 0]
    (row,) = gaussian_means(torch.tensor([0.0]), 2, torch.tensor(1.0))
    assert row.tolist() == pytest.approx([0.62246, 0.37754], abs=1e-5)


def test_linear_weights_fall_off_beyond_the_ends() -> None:
    rows = linear_weights(torch.tensor([0.25, 1.0, 2.5, -1.5]), 3)
    expected = [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 0.5], [0, 0, 0]]
    assert rows.tolist() == expected


def test_a_spline_at_a_control_point_has_weights_of_one_four_and_one() -> None:
    (row,) = spline_weights(torch.tensor([0.0]), 5, 3.0)
    expected = [weight / math.sqrt(18) for weight in (0, 1, 4, 1, 0)]
    assert row.tolist() == pytest.approx(expected, abs=1e-6)


def test_spline_points_reach_two_beyond_the_extent() -> None:
    # Half of 30 mm is 3 steps of 5 mm; half of 31 mm needs a fourth.
    assert [count_spline_points(mm, 5.0) for mm in (30, 31)] == [11, 13]


def test_places_lie_around_zero() -> None:
    assert centred_places(3, 2.0, CPU).tolist() == [-2, 0, 2]
