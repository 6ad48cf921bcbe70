"""What goes wrong with scans: named degradations of a raw scan, by severity.

A network meets them in use, not in training. On held-out labelled scans they give
segmentations of every quality, whose Dice is known.

Every function in `SHIFTS` takes the scan, its labels on the same grid, a severity in
(0, 1] and a random generator, and returns the scan and the labels.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import scipy
from scipy import ndimage

from nobrainer.data.preprocess import clip_outliers, is_head
from nobrainer.errors import InputError
from nobrainer.registry import Registry
from nobrainer.volume import Geometry, Volume

Shift = Callable[[Volume, Volume, float, np.random.Generator], tuple[Volume, Volume]]

SHIFTS: Registry[Shift] = Registry("shift")
"""Functions of (image, labels, severity, rng) that give image and labels."""

NOISE = 0.3
"""Standard deviation of the noise, in mean intensities of the foreground."""
BIAS = 3.0
"""Largest factor of the bias field; the smallest one is its inverse."""
COARSENING = 4.0
"""Factor between the voxel sizes of the blurred and of the given scan."""
ROTATION_DEG = 15.0
"""Angle of the rotation."""
CROP = 0.4
"""Share of the field of view that is not imaged."""


def shifted(
    image: Volume, label: Volume, name: str, severity: float, seed: int
) -> tuple[Volume, Volume]:
    """Degrade a raw scan, the same way for the same seed.

    Args:
        image: the scan (I, J, K), before preprocessing.
        label: integer labels (I, J, K) on the same grid, 0 is background.
        name: a name in `SHIFTS`.
        severity: strength of the change, in (0, 1]; near 0 hardly anything changes.
        seed: seed of every random choice.

    Returns:
        The degraded scan, float32, and its labels, which only "rotation" and
        "cropped" change; grids, headers and the labels' dtype are kept.

    Raises:
        InputError: an unknown name, or a severity that is not in (0, 1].
    """
    if not 0 < severity <= 1:
        raise InputError(
            f"severity must be above 0 and at most 1, got {severity!r}: 0.5 is half "
            "of the worst"
        )
    change = SHIFTS[name]
    # Intensities are relative to the scan's minimum, which must not be a fill value.
    single = replace(image, data=clip_outliers(image.data.astype(np.float32)))
    return change(single, label, severity, np.random.default_rng(seed))


@SHIFTS.register("noise")
def add_noise(
    image: Volume, label: Volume, severity: float, rng: np.random.Generator
) -> tuple[Volume, Volume]:
    """Add Rician noise, which is that of the magnitude of a complex signal.

    Its standard deviation is severity · 30 % of the mean intensity in the labelled
    foreground. Intensities are relative to the scan's minimum.

    Source: Gudbjartsson and Patz, "The Rician distribution of noisy MRI data",
    Magnetic Resonance in Medicine 34 (1995) 910, eq. 1.
    """
    floor = image.data.min()
    signal = image.data - floor
    inside = label.data > 0
    level = (signal[inside] if inside.any() else signal).mean()
    real, imaginary = rng.standard_normal((2, *signal.shape), np.float32)
    sd = np.float32(severity * NOISE * level)
    noisy = np.hypot(signal + sd * real, sd * imaginary)
    return replace(image, data=noisy + floor), label


@SHIFTS.register("bias_field")
def add_bias_field(
    image: Volume, label: Volume, severity: float, rng: np.random.Generator
) -> tuple[Volume, Volume]:
    """Multiply by a smooth field, as of an uneven coil.

    The field lies between 3^-severity and 3^severity. Its logarithm is a random
    polynomial of third degree, scaled so that it reaches one of these limits.
    Intensities are relative to the scan's minimum.
    """
    i, j, k = (np.linspace(-1, 1, size) for size in image.data.shape)
    coefficients = rng.standard_normal((4, 4, 4))
    # Terms above the third degree would vary within a structure.
    coefficients[np.indices((4, 4, 4)).sum(0) > 3] = 0
    coefficients[0, 0, 0] = 0
    field = np.polynomial.legendre.leggrid3d(i, j, k, coefficients)
    field *= severity * np.log(BIAS) / np.abs(field).max()
    floor = image.data.min()
    factor = np.exp(field).astype(np.float32)
    return replace(image, data=(image.data - floor) * factor + floor), label


@SHIFTS.register("low_resolution")
def lower_resolution(
    image: Volume, label: Volume, severity: float, rng: np.random.Generator
) -> tuple[Volume, Volume]:
    """Make voxels up to 4 times as large along every axis, and interpolate back."""
    factor = 1 + severity * (COARSENING - 1)
    sizes = image.data.shape
    # The width at half maximum grows from that of a voxel to that of a coarse one.
    sigma = np.sqrt(factor**2 - 1) / np.sqrt(8 * np.log(2))
    data = ndimage.gaussian_filter(image.data, sigma, mode="nearest")
    coarse = [max(round(size / factor), 1) for size in sizes]
    for target in (coarse, sizes):
        data = _resized(data, target)
    return replace(image, data=data), label


@SHIFTS.register("rotation")
def rotate(
    image: Volume, label: Volume, severity: float, rng: np.random.Generator
) -> tuple[Volume, Volume]:
    """Turn the head by severity · 15° about a random axis through the centre.

    It is a rotation in mm, also where voxels are no cubes or axes not at right angles.
    Voxels from outside of the field of view get the scan's minimum and background.
    """
    axis = rng.standard_normal(3)
    angle = np.deg2rad(severity * ROTATION_DEG)
    turn = scipy.spatial.transform.Rotation.from_rotvec(
        angle * axis / np.linalg.norm(axis)
    ).as_matrix()
    # From voxels to mm along the first axis, and those at right angles to it.
    steps = image.affine[:3, :3]
    to_mm = np.linalg.cholesky(steps.T @ steps).T
    matrix = np.linalg.solve(to_mm, turn @ to_mm)
    centre = (np.array(image.data.shape) - 1) / 2
    offset = centre - matrix @ centre

    def turned(data: np.ndarray, order: int, fill: float) -> np.ndarray:
        return ndimage.affine_transform(
            data, matrix, offset, order=order, mode="constant", cval=fill
        )

    data = turned(image.data, 1, float(image.data.min()))
    return replace(image, data=data), replace(label, data=turned(label.data, 0, 0))


@SHIFTS.register("cropped")
def crop_field(
    image: Volume, label: Volume, severity: float, rng: np.random.Generator
) -> tuple[Volume, Volume]:
    """Blank severity · 40 % of the field of view, at its inferior or superior end.

    The grid stays as it is. The blanked voxels get the scan's minimum and background.
    """
    from_superior = bool(rng.integers(2))
    axis, rises = _vertical(image.geometry)
    size = image.data.shape[axis]
    depth = round(severity * CROP * size)
    at_end = from_superior == rises
    gone = slice(size - depth, size) if at_end else slice(0, depth)
    changed = []
    for volume, fill in ((image, image.data.min()), (label, 0)):
        data = volume.data.copy()
        np.moveaxis(data, axis, 0)[gone] = fill
        changed.append(replace(volume, data=data))
    return changed[0], changed[1]


@SHIFTS.register("contrast")
def flip_contrast(
    image: Volume, label: Volume, severity: float, rng: np.random.Generator
) -> tuple[Volume, Volume]:
    """Turn bright tissue dark and dark tissue bright, as between T1 and T2.

    Inside the head x becomes (1 - severity) · x + severity · (max + min - x), with
    the extremes of the head. The head is the largest object that is brighter than the
    intermeans threshold, with its holes; air stays dark. At a severity of 0.5 the whole
    head has one intensity.
    """
    head = _head(image.data)
    values = image.data[head]
    flipped = values.max() + values.min() - values
    data = image.data.copy()
    data[head] = (1 - severity) * values + severity * flipped
    return replace(image, data=data), label


def _head(data: np.ndarray) -> np.ndarray:
    """Booleans (I, J, K): the largest bright object, with its holes filled."""
    pieces, _ = ndimage.label(is_head(data))
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return ndimage.binary_fill_holes(pieces == sizes.argmax())


def _vertical(geometry: Geometry) -> tuple[int, bool]:
    """The axis closest to inferior-superior, and whether it rises to superior."""
    for axis, letter in enumerate(geometry.orientation):
        if letter in "SI":
            return axis, letter == "S"
    raise AssertionError("every orientation has a vertical axis")


def _resized(data: np.ndarray, shape: tuple[int, ...] | list[int]) -> np.ndarray:
    """Linear interpolation onto a grid of another size over the same field of view."""
    factors = [new / old for new, old in zip(shape, data.shape, strict=True)]
    return ndimage.zoom(data, factors, order=1, mode="nearest", grid_mode=True)
