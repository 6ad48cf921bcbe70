"""How far the surfaces of predicted structures lie from the true ones."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import binary_erosion, find_objects
from scipy.spatial import KDTree

# Spacings come from affines in single precision: 1 mm may be 1.0000001 mm, and must
# still be within a tolerance of 1 mm.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Surfaces:
    """How well two surfaces agree, one number per class (C,); NaN for background.

    hd95_mm: 95th percentile of the distances from one surface to the other, in mm, the
        larger of both directions; NaN for a class absent in truth or prediction.
    surface_dice: share of both surfaces within the tolerance of the other, in
        [0, 1]; 0 for a class absent in one of the two, NaN for one absent in both.
    """

    hd95_mm: np.ndarray
    surface_dice: np.ndarray


def compare_surfaces(
    truth: np.ndarray,
    label: np.ndarray,
    n_classes: int,
    voxel_mm: ArrayLike,
    tolerance_mm: float = 1.0,
) -> Surfaces:
    """Compare the surfaces of each class but 0 in two label maps.

    A surface is the centres of a structure's voxels that have one of their 6
    neighbours outside of it; what lies outside of the volume is outside of the
    structure. Distances are between these points, in mm.

    Args:
        truth: true classes, integers in [0, n_classes), (I, J, K).
        label: predicted classes, same shape.
        n_classes: number of classes C.
        voxel_mm: voxel size along the three axes, or, for axes that may not be at
            right angles, the (3, 3) part of the affine, of which each column is the
            step along an axis.
        tolerance_mm: distance up to which a part of a surface counts as found.

    Returns:
        The figures of each class.

    Source: Huttenlocher et al. 1993 for the Hausdorff distance, of which Taha and
    Hanbury 2015 take percentiles; Nikolov et al. 2021 for surface Dice, of which the
    parts are voxels here.
    """
    hd95_mm, surface_dice = np.full((2, n_classes), np.nan)
    size = np.asarray(voxel_mm, dtype=float)
    steps_mm = np.diag(size) if size.ndim == 1 else size
    reach_mm = tolerance_mm * (1 + _ROUNDING)
    boxes = [find_objects(array, n_classes - 1) for array in (truth, label)]
    for index, found in enumerate(zip(*boxes, strict=True), start=1):
        if None in found:
            if found != (None, None):
                surface_dice[index] = 0.0
            continue
        true, predicted = (
            _surface(array, index, box, steps_mm)
            for array, box in zip((truth, label), found, strict=True)
        )
        from_true = KDTree(predicted).query(true)[0]
        from_predicted = KDTree(true).query(predicted)[0]
        hd95_mm[index] = max(
            np.percentile(from_true, 95), np.percentile(from_predicted, 95)
        )
        both = np.concatenate([from_true, from_predicted])
        surface_dice[index] = (both <= reach_mm).mean()
    return Surfaces(hd95_mm, surface_dice)


def _surface(
    labels: np.ndarray,
    index: int,
    box: tuple[slice, slice, slice],
    steps_mm: np.ndarray,
) -> np.ndarray:
    """Positions (N, 3) in mm of the surface voxels of a class, which lies in `box`."""
    member = labels[box] == index
    # What is beyond the box counts as outside of the structure, as it should.
    at = np.argwhere(member & ~binary_erosion(member))
    return (at + [edge.start for edge in box]) @ steps_mm.T
