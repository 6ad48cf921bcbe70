"""Volumes in world space: bring them onto the network's grid, and exactly back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np
from scipy import ndimage

from nobrainer.errors import InputError

_TIE = 1e-4
"""Labels whose weights differ by less, relatively, are as good as tied."""
# Affines are stored in single precision: smaller differences are rounding.
_ROUNDING_VOXELS = 0.01
_SAME_SPACING = 0.01
_FWHM_PER_SIGMA = np.sqrt(8 * np.log(2))
_PLANES = 16
_PATTERN = 64
"""Voxels that show how a grid lies to another one."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """The grid of a volume.

    shape: number of voxels along each axis (I, J, K).
    affine: (4, 4), from voxels to RAS mm.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along each axis, in mm."""
        i, j, k = nib.affines.voxel_sizes(self.affine)
        return float(i), float(j), float(k)

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel in mm³, also where the axes are not at right angles."""
        i, j, k = self.affine[:3, :3].T
        # The triple product is exact to the last digit for a grid along RAS axes.
        return float(abs(np.dot(np.cross(i, j), k)))

    @property
    def orientation(self) -> str:
        """Closest anatomical direction of each axis, such as "LAS"."""
        return "".join(nib.aff2axcodes(self.affine))


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan or label map.

    data: values (I, J, K).
    affine: (4, 4), from voxels to RAS mm.
    source: its name in error messages.
    header: header with the units and coordinate codes that results inherit; None where
        there is none.
    """

    data: np.ndarray
    affine: np.ndarray
    source: str = "array"
    header: nib.Nifti1Header | None = None

    @property
    def geometry(self) -> Geometry:
        """The grid that the data lie on."""
        i, j, k = self.data.shape
        return Geometry((i, j, k), self.affine)


def conform(
    volume: Volume,
    orientation: str = "RAS",
    spacing_mm: Sequence[float] | None = None,
    *,
    labels: bool = False,
) -> Volume:
    """Bring a volume to an orientation and a voxel size.

    Axes are permuted and flipped to the closest orientation, never rotated: an
    oblique scan stays oblique, a sheared one stays sheared, and its values stay
    bit-equal. Spacing is the length of a step along an axis. Only axes whose spacing
    differs by more than 1 % are resampled, about the same centre, onto the smallest
    grid that covers the field of view, or one step more along an axis where voxels
    would else lie halfway between two of the scan. Images are interpolated
    linearly, after a Gaussian that matches the point spread of the coarser grid
    where it is more than 1.5 times coarser; labels go to the class with the
    largest linear weight, and ties are drawn, alike in every call. The half voxel
    between the outermost centres and the border takes the outermost values.

    Args:
        volume: data (I, J, K), an image or a label map.
        orientation: three letters out of R/L, A/P and S/I, in any order.
        spacing_mm: voxel size along the axes of the result; None keeps it.
        labels: whether the data are integer labels.

    Returns:
        The volume on the new grid, C-contiguous; its dtype is kept, except that
        resampled images are float32.

    Raises:
        InputError: the orientation or the spacing is not valid.

    Source: Cardoso et al., "Scale factor point spread function matching", MICCAI
    2015 (the width of the Gaussian).
    """
    oriented = _oriented(volume.geometry, orientation)
    target = conformed_geometry(volume.geometry, orientation, spacing_mm)
    data = _regrid(volume.data, volume.geometry, oriented, labels=labels)
    if spacing_mm is not None:
        factors = _coarsening(oriented.spacing_mm, spacing_mm)
        for axis in np.flatnonzero(factors > 1.5) if not labels else ():
            sigma = np.sqrt(factors[axis] ** 2 - 1) / _FWHM_PER_SIGMA
            data = ndimage.gaussian_filter1d(
                data.astype(np.float32, copy=False), sigma, axis, mode="nearest"
            )
        data = _regrid(data, oriented, target, labels=labels)
    return replace(volume, data=data, affine=target.affine)


def conformed_geometry(
    geometry: Geometry,
    orientation: str = "RAS",
    spacing_mm: Sequence[float] | None = None,
) -> Geometry:
    """The grid that `conform` brings a volume on another grid to.

    Args:
        geometry: the grid of the volume.
        orientation, spacing_mm: as for `conform`.

    Raises:
        InputError: the orientation or the spacing is not valid.
    """
    oriented = _oriented(geometry, orientation)
    if spacing_mm is None:
        return oriented
    return _respaced(oriented, _coarsening(oriented.spacing_mm, spacing_mm))


def restore(
    data: np.ndarray,
    conformed: Geometry,
    native: Geometry,
    *,
    labels: bool = False,
    fill: float = 0,
) -> np.ndarray:
    """Bring a result from the conformed grid back to the grid of the input.

    The inverse of `conform`: bit-equal where it only permuted and flipped, else
    linear for maps and largest linear weight for labels.

    Args:
        data: (I, J, K) on the `conformed` grid.
        conformed: the grid of `data`.
        native: the grid to return to; its axes are parallel to those of `conformed`.
        labels: whether the data are integer labels.
        fill: value of voxels whose centre lies outside the conformed grid.

    Returns:
        Array of shape `native.shape`, C-contiguous; its dtype is kept, except that
        resampled maps are float32.

    Raises:
        InputError: the data are not on the conformed grid, or the grids are not
            parallel.
    """
    if data.shape != conformed.shape:
        raise InputError(
            f"array of shape {data.shape} is not on the conformed grid of shape "
            f"{conformed.shape}: give the geometry that `conform` returned"
        )
    return _regrid(data, conformed, native, labels=labels, fill=fill)


def _oriented(geometry: Geometry, orientation: str) -> Geometry:
    """The same grid with its axes permuted and flipped."""
    if sorted("RLAPSI".find(letter) // 2 for letter in orientation) != [0, 1, 2]:
        raise InputError(
            f"orientation must be one of R/L, A/P and S/I each, such as 'RAS', "
            f"got {orientation!r}"
        )
    wanted = nib.orientations.axcodes2ornt(orientation)
    present = nib.io_orientation(geometry.affine)
    transform = nib.orientations.ornt_transform(present, wanted)
    i, j, k = (geometry.shape[a] for a in np.argsort(transform[:, 0]))
    change = nib.orientations.inv_ornt_aff(transform, geometry.shape)
    return Geometry((i, j, k), geometry.affine @ change)


def _coarsening(present_mm: Sequence[float], wanted_mm: Sequence[float]) -> np.ndarray:
    """Wanted over present spacing per axis; 1 where they are the same."""
    wanted = np.asarray(wanted_mm, dtype=float)
    if wanted.shape != (3,) or not np.isfinite(wanted).all() or wanted.min() <= 0:
        raise InputError(
            f"spacing_mm must be three positive numbers, got {wanted_mm!r}"
        )
    factors = wanted / np.asarray(present_mm)
    return np.where(np.abs(factors - 1) > _SAME_SPACING, factors, 1.0)


def _respaced(geometry: Geometry, factors: np.ndarray) -> Geometry:
    """The grid with spacing times `factors`, same centre, field of view covered.

    An axis gets one more step where that keeps voxels from lying halfway between two of
    the present ones, which would decide nothing between their labels.
    """
    present = np.array(geometry.shape)
    shape = np.maximum(np.ceil(present / factors - _ROUNDING_VOXELS), 1)
    for axis, (size, factor) in enumerate(zip(present, factors, strict=True)):
        if _halves(size, shape[axis], factor) and not _halves(
            size, shape[axis] + 1, factor
        ):
            shape[axis] += 1
    change = np.diag([*factors, 1.0])
    change[:3, 3] = ((present - 1) - factors * (shape - 1)) / 2
    # Python's integers hold any size, also what a wrong unit of length asks for.
    i, j, k = (int(size) for size in shape)
    return Geometry((i, j, k), geometry.affine @ change)


def _halves(present: int, size: float, factor: float) -> bool:
    """Whether some of `size` voxels about the same centre lie halfway between others.

    Args:
        present: number of the others, whose spacing is 1.
        size: number of the voxels.
        factor: their spacing.
    """
    # The pattern repeats, and a wrong unit of length asks for any number of voxels.
    first = np.arange(min(size, _PATTERN))
    positions = ((present - 1) - factor * (size - 1)) / 2 + factor * first
    return bool((np.abs(positions % 1 - 0.5) < _ROUNDING_VOXELS).any())


def _regrid(
    data: np.ndarray,
    source: Geometry,
    target: Geometry,
    *,
    labels: bool,
    fill: float | None = None,
) -> np.ndarray:
    """Values of `data`, which lie on `source`, at the voxel centres of `target`.

    Beyond the field of view is `fill`; None takes the outermost values.
    """
    steps = np.linalg.inv(source.affine) @ target.affine
    axes = np.abs(steps[:3, :3]).argmax(axis=0)
    stray = np.abs(steps[:3, :3])
    stray[axes, range(3)] = 0
    if len(set(axes)) < 3 or (stray @ target.shape).max() > _ROUNDING_VOXELS:
        raise InputError(
            "the two grids are not parallel: give the geometries of one volume "
            "before and after `conform`"
        )
    data = data.transpose(axes)
    positions, outside = [], []
    for column, (axis, size) in enumerate(zip(axes, target.shape, strict=True)):
        position = steps[axis, column] * np.arange(size) + steps[axis, 3]
        last = data.shape[column] - 1
        beyond = np.abs(position - last / 2) > (last + 1) / 2 + _ROUNDING_VOXELS
        outside.append(beyond)
        position = np.clip(position, 0, last)
        nearest = position.round()
        exact = np.abs(position - nearest).max() < _ROUNDING_VOXELS
        positions.append(nearest if exact else position)
    if all((position % 1 == 0).all() for position in positions):
        result = _interpolate(data, positions)
    elif labels:
        # In the order of the source, so that ties are drawn alike for every order of
        # the target's axes.
        order = np.argsort(axes)
        turns = [slice(None, None, -1 if p[-1] < p[0] else 1) for p in positions]
        rising = [positions[column][turns[column]] for column in order]
        voted = _vote(data.transpose(order), rising)
        result = voted.transpose(axes)[tuple(turns)]
    else:
        result = _interpolate(data.astype(np.float32, copy=False), positions)
    for axis, beyond in enumerate(outside):
        if fill is not None and beyond.any():
            np.moveaxis(result, axis, 0)[beyond] = fill
    return np.ascontiguousarray(result)


def _interpolate(data: np.ndarray, positions: Sequence[np.ndarray]) -> np.ndarray:
    """Linear interpolation at a grid of voxel positions inside the array.

    A few planes at a time, because what is made on the way then stays in a processor's
    cache and takes no memory anew.
    """
    if all(map(_are_all, positions, data.shape)):
        return data
    first, *others = positions
    result = np.empty([len(position) for position in positions], data.dtype)
    for start in range(0, len(first), _PLANES):
        part = slice(start, start + _PLANES)
        low = int(first[part].min())
        # What `take` takes from it copies first where its axes are permuted.
        near = np.ascontiguousarray(data[low : int(first[part].max()) + 2])
        result[part] = _interpolate_planes(near, [first[part] - low, *others])
    return result


def _are_all(position: np.ndarray, size: int) -> bool:
    """Whether voxel positions along an axis are those of all its voxels, in order."""
    return np.array_equal(position, np.arange(size))


def _interpolate_planes(
    data: np.ndarray, positions: Sequence[np.ndarray]
) -> np.ndarray:
    for axis, position in enumerate(positions):
        size = data.shape[axis]
        if _are_all(position, size):
            continue
        below = np.floor(position).astype(int)
        # Single precision hides rounding, which would decide ties between labels.
        weight = (position - below).astype(np.float32)
        lower = data.take(below, axis)
        if weight.any():
            upper = data.take(np.minimum(below + 1, size - 1), axis)
            upper -= lower
            upper *= np.expand_dims(weight, [a for a in range(3) if a != axis])
            lower += upper
        data = lower
    return data


def _vote(labels: np.ndarray, positions: Sequence[np.ndarray]) -> np.ndarray:
    """Label with the largest linear weight at a grid of voxel positions.

    Ties are common: each voxel of 2 mm may lie between eight voxels of 1 mm.
    They are drawn, so that no label grows at the cost of one with another number.

    One label at a time, each within its own bounding box: memory does not grow
    with the number of labels, and small structures cost little.
    """
    classes = np.unique(labels)
    boxes = ndimage.find_objects(np.searchsorted(classes, labels).astype(np.int32) + 1)
    shape = tuple(len(position) for position in positions)
    winner = np.full(shape, classes[0])
    highest = np.zeros(shape, dtype=np.float32)
    rng = np.random.default_rng(0)
    for label, box in zip(classes, boxes, strict=True):
        inside, local, reached = [], [], []
        for edges, position, size in zip(box, positions, labels.shape, strict=True):
            start, stop = max(edges.start - 1, 0), min(edges.stop + 1, size)
            hits = np.flatnonzero((position >= start) & (position <= stop - 1))
            inside.append(slice(start, stop))
            local.append(position[hits] - start)
            reached.append(slice(hits[0], hits[-1] + 1) if hits.size else slice(0))
        member = (labels[tuple(inside)] == label).astype(np.float32)
        weight = _interpolate(member, local)
        region = tuple(reached)
        weight *= 1 + _TIE * rng.random(weight.shape, dtype=np.float32)
        wins = weight > highest[region]
        np.copyto(highest[region], weight, where=wins)
        np.copyto(winner[region], label, where=wins)
    return winner
