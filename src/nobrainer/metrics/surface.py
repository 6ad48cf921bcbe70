"""How far the surfaces of predicted structures lie from the true ones."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy.ndimage import find_objects

# Spacings come from affines in single precision: 1 mm may be 1.0000001 mm, and must
# still be within a tolerance of 1 mm.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Surfaces:
    """Distances between surfaces, of each class (C,); NaN for background.

    hd95_mm: the larger one of the 95th percentiles of the distances from either
        surface to the other, mm; NaN for a class absent in truth or prediction.
    surface_dice: share of both surfaces within the tolerance of the other, in
        [0, 1]; 0 for a class absent in one of the two, NaN for one absent in both.
    """

    hd95_mm: np.ndarray
    surface_dice: np.ndarray


def compare_surfaces(
    truth: np.ndarray,
    label: np.ndarray,
    n_classes: int,
    spacing_mm: Sequence[float],
    tolerance_mm: float = 1.0,
) -> Surfaces:
    """Compare the surfaces of each class but 0 in two label maps.

    A surface is the voxels of a structure that have one of their 6 neighbours
    outside of it; what lies outside of the volume is outside of the structure.

    Args:
        truth: true classes, integers in [0, n_classes), (I, J, K).
        label: predicted classes, same shape.
        n_classes: number of classes C.
        spacing_mm: voxel size along the three axes.
        tolerance_mm: distance up to which a part of a surface counts as found.

    Returns:
        The distances of each class.

    Source: Huttenlocher et al. 1993 for the Hausdorff distance, of which Taha and
    Hanbury 2015 take percentiles; Nikolov et al. 2021 for surface Dice, of which the
    parts are voxels here. Both by MONAI.
    """
    hd95_mm, surface_dice = np.full((2, n_classes), np.nan)
    spacing, reach_mm = list(spacing_mm), tolerance_mm * (1 + _ROUNDING)
    boxes = [find_objects(array, n_classes - 1) for array in (truth, label)]
    for index, (of_truth, of_label) in enumerate(zip(*boxes, strict=True), start=1):
        if of_truth is None or of_label is None:
            if of_truth is not None or of_label is not None:
                surface_dice[index] = 0.0
            continue
        # MONAI looks at the whole of what it is given several times.
        box = tuple(
            slice(max(min(a.start, b.start) - 1, 0), max(a.stop, b.stop) + 1)
            for a, b in zip(of_truth, of_label, strict=True)
        )
        found, true = (
            torch.from_numpy(array[box] == index)[None, None]
            for array in (label, truth)
        )
        with warnings.catch_warnings():
            # Of a call inside of MONAI.
            warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
            distance = compute_hausdorff_distance(
                found, true, include_background=True, percentile=95, spacing=spacing
            )
            share = compute_surface_dice(
                found, true, [reach_mm], include_background=True, spacing=spacing
            )
        hd95_mm[index], surface_dice[index] = float(distance), float(share)
    return Surfaces(hd95_mm, surface_dice)
