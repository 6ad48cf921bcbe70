"""Boxes of a volume: where its content lies, and how it is cut into tiles.

The volume is treated as lying in an endless field of its background value. For a
network of local operations the output at a voxel then depends only on the voxels within
the network's halo around it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from nobrainer.types import Shape3

Interval = tuple[int, int]
"""Voxels [start, stop) along one axis."""
Box = tuple[Interval, Interval, Interval]
"""Voxels [start, stop) along each axis, in voxels of the grid that the box is on."""

NOWHERE: Box = ((0, 0), (0, 0), (0, 0))


def is_empty(box: Box) -> bool:
    """Whether a box holds no voxel."""
    return any(start >= stop for start, stop in box)


def hull(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds some boxes; `NOWHERE` where there are none."""
    if not boxes:
        return NOWHERE
    i, j, k = (
        (min(start for start, _ in edges), max(stop for _, stop in edges))
        for edges in zip(*boxes, strict=True)
    )
    return i, j, k


def intersect(one: Box, other: Box) -> Box:
    """The overlap of the boxes `one` and `other`; `NOWHERE` where there is none."""
    i, j, k = (
        (max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True)
    )
    return NOWHERE if is_empty((i, j, k)) else (i, j, k)


def cut_slabs(core: Box, planes: int) -> list[Interval]:
    """Cut a box along its first axis into slabs.

    Args:
        core: the box.
        planes: number of planes of a slab; the last slab may have fewer.

    Returns: the slabs [start, stop), in order.
    """
    start, stop = core[0]
    return [(n, min(n + planes, stop)) for n in range(start, stop, planes)]


@dataclass(frozen=True)
class Tile:
    """A part of a volume.

    start: its first voxel.
    stop: the voxel after its last one, along each axis.
    """

    start: Shape3
    stop: Shape3

    @property
    def where(self) -> tuple[slice, slice, slice]:
        """The tile as an index into the volume."""
        i, j, k = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return i, j, k

    @property
    def box(self) -> Box:
        """Start and stop along each axis."""
        i, j, k = zip(self.start, self.stop, strict=True)
        return i, j, k

    @property
    def shape(self) -> Shape3:
        """Number of voxels along each axis."""
        i, j, k = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return i, j, k


def round_up(value: int, step: int) -> int:
    """The smallest multiple of `step` that is not below `value`."""
    return -(-value // step) * step


def content_box(image: np.ndarray, background: float) -> Tile:
    """The bounding box of the voxels that differ from the background.

    Args:
        image: intensities (I, J, K).
        background: intensity that counts as empty.

    Returns: the box; it starts and stops at 0 where there are no such voxels.
    """
    content = image != background
    start, stop = [], []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        (found,) = np.nonzero(content.any(axis=others))
        start.append(int(found[0]) if found.size else 0)
        stop.append(int(found[-1]) + 1 if found.size else 0)
    return Tile((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def choose_core(extent: Shape3, fits: Callable[[Shape3], bool]) -> Shape3:
    """The largest core that fits into memory: `extent`, or an equal part of it.

    Args:
        extent: number of voxels to cover along each axis.
        fits: says whether a core of a shape fits; a single voxel is taken in any case.
    """
    parts = [1, 1, 1]
    while True:
        i, j, k = (max(1, -(-e // n)) for e, n in zip(extent, parts, strict=True))
        if max(i, j, k) == 1 or fits((i, j, k)):
            return i, j, k
        parts[(i, j, k).index(max(i, j, k))] += 1


def plan_tiles(shape: Shape3, box: Tile, core: Shape3) -> list[Tile]:
    """Cut a volume into tiles that cover it once, none across the faces of a box.

    Args:
        shape: number of voxels of the volume along each axis.
        box: box at whose faces the volume is cut in any case.
        core: largest number of voxels of a tile along each axis.
    """
    cuts = []
    for n, a, b, size in zip(shape, box.start, box.stop, core, strict=True):
        edges = [*range(0, a, size), *range(a, b, size), *range(b, n, size), n]
        cuts.append(list(pairwise(edges)))
    return [Tile((i[0], j[0], k[0]), (i[1], j[1], k[1])) for i, j, k in product(*cuts)]


def dilate(box: Tile, margin: int, grid: int, shape: Sequence[int]) -> Tile:
    """Widen a box to the pooling grid and by a margin, within the volume.

    Args:
        box: the box.
        margin: number of voxels to add on every side.
        grid: step of the pooling grid, in voxels.
        shape: number of voxels of the volume along each axis.
    """
    start = [max(0, a // grid * grid - margin) for a in box.start]
    stop = [
        min(n, round_up(b, grid) + margin) for b, n in zip(box.stop, shape, strict=True)
    ]
    return Tile((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
