"""Matrices that act along one axis of a volume: means, interpolation, smooth fields."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def along_axes(x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Multiply each of the last three axes by its matrix.

    Args:
        x: values on a grid, (..., I, J, K).
        matrices: one for each axis, (i, I), (j, J) and (k, K); each may have leading
            axes, such as one for the images of a batch.

    Returns:
        (..., i, j, k).

    >>> half = torch.full((1, 2), 0.5)
    >>> along_axes(torch.arange(8.0).view(2, 2, 2), (half, half, half))
    tensor([[[3.5000]]])
    """
    first, second, third = matrices
    x = x @ third.unsqueeze(-3).mT
    x = second.unsqueeze(-3) @ x
    return (first @ x.flatten(-2)).unflatten(-1, x.shape[-2:])


def gaussian_means(places: Tensor, n: int, width: Tensor) -> Tensor:
    """The matrix that takes Gaussian means of the voxels along an axis.

    Args:
        places: where the means are centred, in voxels, (..., m).
        n: number of voxels along the axis; a mean near an end is over fewer of them.
        width: standard deviations in voxels, (...); 0 takes the nearest voxel.

    Returns:
        (..., m, n); each row sums to 1.
    """
    away = places[..., None] - torch.arange(n, device=places.device)
    away = away / width.clamp_min(1e-3)[..., None, None]
    # Denormal numbers are many times slower to multiply than zeros.
    kernel = F.threshold(torch.softmax(-(away**2) / 2, -1), 1e-6, 0.0)
    return kernel / kernel.sum(-1, keepdim=True)


def linear_weights(places: Tensor, n: int) -> Tensor:
    """The matrix that interpolates linearly between the voxels along an axis.

    Args:
        places: where to interpolate, in voxels, (..., m).
        n: number of voxels along the axis; beyond its ends values fall off to 0.

    Returns:
        (..., m, n).

    >>> linear_weights(torch.tensor([0.0, 1.25]), 3)
    tensor([[1.0000, 0.0000, 0.0000],
            [0.0000, 0.7500, 0.2500]])
    """
    number = torch.arange(n, device=places.device)
    return (1 - (places[..., None] - number).abs()).clamp_min(0)


def spline_weights(places_mm: Tensor, n: int, length_mm: float) -> Tensor:
    """The matrix from control points along an axis to a smooth function.

    The function is a cubic B-spline, scaled so that independent points of variance 1
    give values of variance 1.

    Args:
        places_mm: where the function is wanted, in mm, (m,).
        n: number of control points, which lie around 0; see `count_spline_points`.
        length_mm: distance between neighbouring control points.

    Returns:
        (m, n); each row has the norm 1.
    """
    points = centred_places(n, length_mm, places_mm.device)
    away = ((places_mm[:, None] - points) / length_mm).abs()
    near = 2 / 3 - away**2 + away**3 / 2
    weights = torch.where(away < 1, near, (2 - away).clamp_min(0) ** 3 / 6)
    return weights / weights.norm(dim=1, keepdim=True)


def count_spline_points(extent_mm: float, length_mm: float) -> int:
    """How many control points a spline needs to reach over an extent around 0.

    Args:
        extent_mm: length of the extent, which reaches equally far to both sides.
        length_mm: distance between neighbouring control points.
    """
    return 2 * (math.ceil(extent_mm / 2 / length_mm) + 2) + 1


def centred_places(n: int, step: float, device: torch.device) -> Tensor:
    """Places in a row at equal distances, with their centre at 0.

    Args:
        n: number of places.
        step: distance between neighbours, in the unit of the places.
        device: where the numbers are computed.

    >>> centred_places(4, 0.5, torch.device("cpu"))
    tensor([-0.7500, -0.2500,  0.2500,  0.7500])
    """
    return (torch.arange(n, device=device) - (n - 1) / 2) * step
