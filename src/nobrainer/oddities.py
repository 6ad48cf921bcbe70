"""Places of a segmentation that anatomy or the scan itself speak against.

A network may be certain of an answer that cannot be right: a piece of a ventricle that
lies in the white matter by itself, or white matter as dark as fluid. Lesions, which it
has never seen, show like this. No knowledge of contrasts or of anatomy is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage

from nobrainer.volume import Geometry

Box = tuple[slice, ...]
LEAST_MISFIT = 3.0
"""Standard deviations, averaged around a place, beyond which it looks unlike the rest
of its structure. No place of 17 real heads was (`benchmarks/lesions.py`)."""

CORNERS = np.ones((3, 3, 3))
"""Voxels of one piece share at least a corner."""
_PARTS = 16
"""Number of parts in which voxels are counted."""
_SIDE, _WIDTH = 0.4, 0.04
"""In radii of a ball as large as the foreground: side of the cube around a voxel with
which it is compared, and standard deviation of the Gaussian that averages what is
found. In a head these are 30 and 3 mm."""
_LEAST_WIDTH = 1.0
"""Least standard deviation of that Gaussian, in voxels: less would average nothing."""
_STEP = 0.75
"""Distance of the voxels that are looked at, in standard deviations of that Gaussian,
where the voxels are not larger."""
_LEAST_VOXELS = 100
"""Voxels of the smallest structure that has a spread to compare with."""
_LEAST_SPREAD = 0.01
"""Least standard deviation of a structure, in that of all structures."""
_MOST_SD = 8.0
"""Larger deviations of a voxel count as this, so that no single one makes a place."""
_IQR_PER_SD = 1.349
"""Distance of the quartiles of a normal distribution, in standard deviations."""


@dataclass(frozen=True)
class Place:
    """A connected place of a segmentation, to be looked at.

    class_number: class that it was given.
    value: how much it stands out; what that is depends on the kind of place.
    volume_mm3: its size, mm³.
    place_mm: one of its voxels, in world millimetres to the right, to the front and up.
    """

    class_number: int
    value: float
    volume_mm3: float
    place_mm: tuple[float, float, float]


def list_boxes(classes: np.ndarray) -> list[tuple[int, Box]]:
    """The classes of (I, J, K) that occur, but background, and the box of each."""
    found = enumerate(ndimage.find_objects(classes), 1)
    return [(number, box) for number, box in found if box is not None]


def find_pieces(
    classes: np.ndarray, boxes: Sequence[tuple[int, Box]], geometry: Geometry
) -> tuple[float, tuple[Place, ...]]:
    """Find what lies apart from the rest: of the foreground, and of each structure.

    Voxels are neighbours where they share a corner.

    Args:
        classes: (I, J, K), 0 is background; at least one voxel is not.
        boxes: what `list_boxes` returns for them.
        geometry: their grid.

    Returns:
        The share of the foreground outside its largest piece; and for each structure in
        several pieces, where there are two structures or more, the largest one apart
        from the rest of it. The value of that place is its share of the foreground, and
        its place the voxel next to its centre.
    """
    _, sizes = _number_pieces(classes != 0)
    n_voxels = sizes.sum()
    islands = float(1 - sizes.max() / n_voxels)
    if len(boxes) == 1:
        # Those of one structure alone are the islands.
        return islands, ()
    found = []
    for number, box in boxes:
        numbered, sizes = _number_pieces(classes[box] == number)
        if len(sizes) < 3:
            continue
        second = np.argsort(sizes, kind="stable")[-2]
        at = np.argwhere(numbered == second)
        middle = at[((at - at.mean(0)) ** 2).sum(1).argmin()]
        at_mm = _world(geometry, middle, box)
        share, size_mm3 = sizes[second] / n_voxels, sizes[second] * geometry.voxel_mm3
        found.append(Place(number, float(share), float(size_mm3), at_mm))
    return islands, tuple(found)


def find_misfits(
    image: np.ndarray, classes: np.ndarray, geometry: Geometry, radius_mm: float
) -> tuple[Place, ...]:
    """Find places whose intensities are unlike those of the rest of their structure.

    A voxel is compared with the mean of its structure around it, so that a bias field
    does not count, in standard deviations of the whole structure, which quartiles tell.
    The deviations are averaged around every voxel, because single ones are noise.

    Args:
        image: intensities (I, J, K).
        classes: (I, J, K), 0 is background, which counts as no deviation.
        geometry: their grid.
        radius_mm: radius of a ball as large as the foreground, of which the distances
            are shares.

    Returns:
        The places beyond `LEAST_MISFIT`, the farthest first. Their value is the largest
        average deviation, in standard deviations, and their place the voxel that has
        it, whose class they are given.
    """
    width_mm = _WIDTH * radius_mm
    steps = [max(1, int(_STEP * width_mm / mm)) for mm in geometry.spacing_mm]
    image, classes = (
        one[tuple(slice(None, None, step) for step in steps)]
        for one in (image, classes)
    )
    geometry = Geometry(classes.shape, geometry.affine @ np.diag([*steps, 1]))
    spacing_mm = np.array(geometry.spacing_mm)
    sides = np.maximum(1, np.round(_SIDE * radius_mm / spacing_mm)).astype(int)
    # What is all alike has a spread of rounding alone.
    least_sd = _LEAST_SPREAD * float(image[classes > 0].std(dtype=np.float64)) or 1.0
    deviations = np.zeros(image.shape, np.float32)
    for number, box in list_boxes(classes):
        inside = classes[box] == number
        if np.count_nonzero(inside) < _LEAST_VOXELS:
            continue
        weight, total = (
            ndimage.uniform_filter(values, sides, mode="constant")
            for values in (
                inside.astype(np.float32),
                np.where(inside, image[box], np.float32(0)),
            )
        )
        gaps = image[box][inside] - total[inside] / weight[inside]
        low, high = np.percentile(gaps, (25, 75))
        sd = max((high - low) / _IQR_PER_SD, least_sd)
        deviations[box][inside] = np.abs(gaps / sd).clip(max=_MOST_SD)
    width = np.maximum(width_mm / spacing_mm, _LEAST_WIDTH)
    average = ndimage.gaussian_filter(deviations, width, truncate=2.5, mode="constant")
    average[classes == 0] = 0
    numbered, _ = ndimage.label(average > LEAST_MISFIT, CORNERS)
    found = []
    for number, box in enumerate(ndimage.find_objects(numbered), 1):
        inside = numbered[box] == number
        voxel, value, size_mm3, at_mm = describe_area(average, inside, box, geometry)
        of_peak = int(classes[box][voxel])
        found.append(Place(of_peak, value, size_mm3, at_mm))
    return tuple(sorted(found, key=lambda place: -place.value))


def describe_area(
    values: np.ndarray, inside: np.ndarray, box: Box, geometry: Geometry
) -> tuple[tuple[int, ...], float, float, tuple[float, float, float]]:
    """Where a connected area has its largest value, and how large both are.

    Args:
        values: (I, J, K).
        inside: which voxels of the box are the area, booleans.
        box: the box of the area.
        geometry: the grid of the values.

    Returns:
        The voxel of the box that has the largest value; the value; the size of the
        area, mm³; and the place of the voxel, in world millimetres to the right, to the
        front and up.
    """
    found = np.where(inside, values[box], -np.inf)
    voxel = np.unravel_index(found.argmax(), found.shape)
    size_mm3 = int(inside.sum()) * geometry.voxel_mm3
    at_mm = _world(geometry, np.array(voxel), box)
    return tuple(map(int, voxel)), float(found[voxel]), size_mm3, at_mm


def _number_pieces(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of the connected piece of each voxel of (I, J, K), and their sizes.

    Outside the mask the number is 0, and so is the size.
    """
    numbered, n = ndimage.label(mask, CORNERS)
    # In parts, because `bincount` copies what it counts to 64 bits.
    parts = np.array_split(numbered.ravel(), _PARTS)
    sizes = np.sum([np.bincount(part, minlength=n + 1) for part in parts], 0)
    sizes[0] = 0
    return numbered, sizes


def _world(
    geometry: Geometry, voxel: np.ndarray, box: Box
) -> tuple[float, float, float]:
    """World millimetres of a voxel of a box."""
    at = voxel + [one.start for one in box]
    x_mm, y_mm, z_mm = apply_affine(geometry.affine, at).tolist()
    return x_mm, y_mm, z_mm
