"""Matrices that act along one axis of a volume: means, interpolation, smooth fields."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_BLOCK = 16
"""Rows of a matrix that are multiplied at once on a CPU."""
_LEAST_COLUMNS = 64
"""Columns below which leaving out zeros was measured to cost more than it saves."""


def answers_at_once(device: torch.device) -> bool:
    """Whether a number that a device computes can be looked at without a wait.

    A GPU answers when it has done all work that was given to it before.
    """
    return device.type == "cpu"


def along_axes(x: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
    """Multiply each of the last three axes by its matrix.

    Matrices of means and of interpolation hold few numbers in a row, side by side. A
    CPU leaves out the zeros beside them, which changes no bit of the sums.

    Args:
        x: values on a grid, (..., I, J, K).
        matrices: one for each axis, (i, I), (j, J) and (k, K); each may have leading
            axes, such as one for the images of a batch. None leaves an axis as it is.

    Returns:
        (..., i, j, k); `x` itself where nothing changes.

    >>> half = torch.full((1, 2), 0.5)
    >>> along_axes(torch.arange(8.0).view(2, 2, 2), (half, half, half))
    tensor([[[3.5000]]])
    """
    for axis in (-1, -2, -3):
        matrix = matrices[axis]
        if matrix is None or (matrix.ndim < x.ndim and _is_known_identity(matrix)):
            continue
        if not answers_at_once(x.device) or matrix.shape[-1] < _LEAST_COLUMNS:
            x = _multiply(matrix, x, axis)
            continue
        parts = []
        for rows in blocks(matrix.shape[-2], x.device):
            used = columns(matrix[..., rows, :])
            inside = x.narrow(axis, used.start, used.stop - used.start)
            parts.append(_multiply(matrix[..., rows, used], inside, axis))
        x = torch.cat(parts, axis)
    return x


def blocks(n: int, device: torch.device) -> list[slice]:
    """Divide rows, or planes, into parts that stay in a processor's cache.

    The last part takes the rest: sums over parts of a few rows have other bits.

    Args:
        n: number of rows.
        device: where they are; on a GPU all are one part.

    >>> blocks(40, torch.device("cpu"))
    [slice(0, 16, None), slice(16, 40, None)]
    """
    if not answers_at_once(device):
        return [slice(0, n)]
    begins = range(0, max(1, n - _BLOCK + 1), _BLOCK)
    return list(map(slice, begins, (*begins[1:], n)))


def columns(matrix: Tensor) -> slice:
    """The columns of a matrix beside which it has nothing but zeros.

    Args:
        matrix: (..., m, n); leading axes are taken together.

    Returns:
        All columns of a matrix of zeros, and where a GPU would have to be asked.

    >>> columns(torch.tensor([[0.0, 2.0, 0.0, 1.0, 0.0], [0.0, 0.0, 3.0, 0.0, 0.0]]))
    slice(1, 4, None)
    """
    n = matrix.shape[-1]
    if not answers_at_once(matrix.device):
        return slice(0, n)
    used = np.flatnonzero(matrix.numpy().reshape(-1, n).any(0))
    return slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, n)


def _multiply(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    """Multiply the last axis but none (-1), one (-2) or two (-3) by a matrix."""
    if axis == -1:
        return x @ matrix.unsqueeze(-3).mT
    if axis == -2:
        return matrix.unsqueeze(-3) @ x
    return (matrix @ x.flatten(-2)).unflatten(-1, x.shape[-2:])


def _is_known_identity(matrix: Tensor) -> bool:
    """Whether a matrix changes nothing, which a CPU can be asked at no cost."""
    if matrix.shape[-1] != matrix.shape[-2] or not answers_at_once(matrix.device):
        return False
    # Of most others the first number says so.
    if matrix.numel() and float(matrix.flatten()[0]) != 1:
        return False
    return torch.equal(matrix, torch.eye(matrix.shape[-1]).expand_as(matrix))


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
    scale = math.sqrt(2) * width.clamp_min(1e-3)
    exponent = (away / scale[..., None, None]).square_().neg_()
    # Denormal numbers are many times slower to multiply than zeros.
    kernel = F.threshold(torch.softmax(exponent, -1), 1e-6, 0.0, True)
    return kernel.div_(kernel.sum(-1, keepdim=True))


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
