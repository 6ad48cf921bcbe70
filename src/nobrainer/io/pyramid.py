"""Levels of a scan, each with half the voxels of the one before along each axis."""

from itertools import product
from typing import Any

import nibabel as nib
import numpy as np

from nobrainer.io.headers import move
from nobrainer.io.nifti_zarr import ome_dataset, ome_metadata
from nobrainer.types import Shape3
from nobrainer.volume import Geometry

AXES = ("x", "y", "z")
"""Names of the axes, in the order of a NIfTI file."""
_FEW_VALUES = 4
"""Most different values of eight voxels that are taken for labels."""


def most_levels(shape: Shape3) -> int:
    """How many levels a scan can have: the last one is a single voxel."""
    return max(map(_halvings, shape)) + 1


def shape_at(shape: Shape3, level: int) -> Shape3:
    """Voxels of a level along each axis.

    Args:
        shape: voxels of the scan.
        level: number of the level; 0 is the scan itself.
    """
    pairs = zip(shape, _factors(shape, level), strict=True)
    i, j, k = (-(-side // factor) for side, factor in pairs)
    return i, j, k


def halve(values: np.ndarray) -> np.ndarray:
    """The next level: each 2 x 2 x 2 voxels become one, which has one of their values.

    It is the most frequent one where there are four different ones or fewer, as in
    label maps, else one of the two in the middle. Ties are drawn, alike in every call,
    so that no label grows at the cost of one with another number. An axis with a single
    voxel stays as it is; beyond the last voxel of an odd axis the last one counts
    twice.

    Args:
        values: the values of a level, (I, J, K).
    """
    steps = [min(side, 2) for side in values.shape]
    odd = [(0, -side % step) for side, step in zip(values.shape, steps, strict=True)]
    padded = np.pad(values, odd, mode="edge")
    starts = product(*map(range, steps))
    parts = [padded[tuple(map(slice, start, [None] * 3, steps))] for start in starts]
    ordered = np.sort(np.stack(parts), axis=0)
    draw = np.random.default_rng(0).random(ordered.shape[1:], dtype=np.float32)
    n = len(ordered)
    halved = np.where(draw < 0.5, ordered[(n - 1) // 2], ordered[n // 2])
    n_different = 1 + np.count_nonzero(ordered[1:] != ordered[:-1], axis=0)
    few = np.nonzero((n_different > 1) & (n_different <= _FEW_VALUES))
    i, j, k = few
    halved[few] = _most_frequent(ordered[:, i, j, k], draw[few])
    return halved


def _most_frequent(values: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """The most frequent value of each column of values (n, m).

    Args:
        values: the values.
        draw: numbers from 0 to 1, (m,), which choose where several are as frequent.
    """
    times = (values[:, None] == values).sum(0)
    is_frequent = times == times.max(0)
    chosen = np.floor(draw * is_frequent.sum(0))
    row = (is_frequent.cumsum(0) > chosen).argmax(0)
    return values[row, np.arange(len(draw))]


def coarsen(header: nib.Nifti1Header, shape: Shape3, level: int) -> None:
    """Turn the header of a scan into that of one of its levels.

    Args:
        header: the header, which is changed: its shape, and both forms of coordinates.
        shape: voxels of the scan.
        level: number of the level.
    """
    factors = np.array(_factors(shape, level), float)
    change = nib.affines.from_matvec(np.diag(factors), (factors - 1) / 2)
    move(header, change, header.get_best_affine() @ change)
    header.set_data_shape(shape_at(shape, level))


def describe(name: str, geometry: Geometry, levels: int) -> dict[str, Any]:
    """The attributes that make a group of levels an OME-Zarr image.

    Args:
        name: name of the image.
        geometry: grid of the scan, in mm.
        levels: number of levels, whose arrays are called "0", "1", and so on.
    """
    spacing = np.array(geometry.spacing_mm)
    datasets = []
    for level in range(levels):
        factors = np.array(_factors(geometry.shape, level))
        place = spacing * (factors - 1) / 2
        datasets.append(ome_dataset(str(level), spacing * factors, place))
    return ome_metadata(name, AXES, datasets)


def _halvings(side: int) -> int:
    """How often a side of so many voxels can be halved, until one is left."""
    return (side - 1).bit_length()


def _factors(shape: Shape3, level: int) -> list[int]:
    """How many voxels of the scan one of a level covers along each axis."""
    return [2 ** min(level, _halvings(side)) for side in shape]
