"""Windows of volumes, and lists of the voxels at which they may be centred."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

VOXELS_PER_CLASS = 5000
"""The most voxels of one class that are listed."""


class Centres(NamedTuple):
    """Voxels of each class that occurs, background not counted.

    voxels: for each class the flat indices of its voxels: all of them, or 5000 at
        random where there are more.
    shares: for each class its share of all these classes' voxels, float (n,).
    """

    voxels: Sequence[np.ndarray]
    shares: np.ndarray


def index_voxels(
    label: np.ndarray, rng: np.random.Generator, most: int = VOXELS_PER_CLASS
) -> Centres:
    """List voxels of each class, from which the centres of patches are drawn.

    Args:
        label: class of each voxel, (I, J, K).
        rng: generator that chooses the voxels of a class that has many.
        most: the most voxels that are listed of a class.
    """
    flat = label.ravel()
    foreground = np.flatnonzero(flat)
    order = np.argsort(flat[foreground], kind="stable")
    classes = flat[foreground][order]
    starts = np.flatnonzero(np.diff(classes)) + 1
    found = [voxels for voxels in np.split(foreground[order], starts) if len(voxels)]
    voxels = [
        rng.choice(members, most, replace=False) if len(members) > most else members
        for members in found
    ]
    return Centres(voxels, np.array([*map(len, found)]) / max(1, len(foreground)))


def crop(
    array: np.ndarray,
    origin: np.ndarray,
    shape: Sequence[int] | np.ndarray,
    fill: float,
) -> np.ndarray:
    """Copy a window out of an array.

    Args:
        array: (I, J, K).
        origin: first voxel of the window, int (3,); it may lie outside the array.
        shape: voxels of the window along each axis.
        fill: value of the voxels of the window that lie outside the array.
    """
    return np.array(view_window(array, origin, shape, fill))


def view_window(
    array: np.ndarray,
    origin: np.ndarray,
    shape: Sequence[int] | np.ndarray,
    fill: float,
) -> np.ndarray:
    """A window of an array, see `crop`; not copied where all of it lies inside."""
    start, stop = clip_window(origin, shape, array.shape)
    inside = array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    return embed(inside, start - origin, shape, fill)


def clip_window(
    origin: np.ndarray, shape: Sequence[int] | np.ndarray, whole: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The part of a window that lies inside an array.

    Args:
        origin: first voxel of the window, int (3,); it may lie outside the array.
        shape: voxels of the window along each axis.
        whole: voxels of the array along each axis.

    Returns:
        First voxel of the part, and the one after its last, int (3,) each. A window
        beside the array has an empty part.
    """
    start = np.clip(origin, 0, whole)
    return start, np.clip(origin + np.array(shape), start, whole)


def embed(
    inside: np.ndarray,
    offset: np.ndarray,
    shape: Sequence[int] | np.ndarray,
    fill: float,
) -> np.ndarray:
    """Copy a part of a window into a whole one, unless it is whole itself.

    Args:
        inside: the part, (i, j, k).
        offset: where it begins in the window, int (3,).
        shape: voxels of the window along each axis.
        fill: value of the rest of the window.
    """
    if inside.shape == tuple(shape):
        return inside
    window = np.full(shape, fill, dtype=inside.dtype)
    window[
        tuple(slice(a, a + n) for a, n in zip(offset, inside.shape, strict=True))
    ] = inside
    return window
