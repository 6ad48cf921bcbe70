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
    """The next level: the lower median of each 2 x 2 x 2 voxels.

    It is one of their values: labels stay labels, and where two of them meet, the
    majority wins. An axis with a single voxel stays as it is; beyond the last voxel of
    an odd axis the last one counts twice.

    Args:
        values: the values of a level, (I, J, K).
    """
    steps = [min(side, 2) for side in values.shape]
    odd = [(0, -side % step) for side, step in zip(values.shape, steps, strict=True)]
    padded = np.pad(values, odd, mode="edge")
    starts = product(*map(range, steps))
    parts = [padded[tuple(map(slice, start, [None] * 3, steps))] for start in starts]
    middle = (len(parts) - 1) // 2
    return np.partition(np.stack(parts), middle, axis=0)[middle]


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
