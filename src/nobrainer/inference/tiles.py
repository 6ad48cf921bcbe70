"""Boxes of a volume: where its content lies, and how it is cut into tiles.

The volume is treated as lying in an endless field of its background value. For a
network of local operations the output at a voxel then depends only on the voxels within
the network's halo around it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Self

import numpy as np

from nobrainer.types import Shape3

Interval = tuple[int, int]
"""Voxels [start, stop) along one axis."""
Box = tuple[Interval, Interval, Interval]
"""Voxels [start, stop) along each axis, in voxels of the grid that the box is on."""

NOWHERE: Box = ((0, 0), (0, 0), (0, 0))
_WORTH = 0.9
"""Most voxels of a part, relative to the slab, for which it is cut out."""


def is_empty(box: Box) -> bool:
    """Whether a box holds no voxel."""
    return any(start >= stop for start, stop in box)


def count_voxels(box: Box) -> int:
    """Number of voxels of a box that is not empty."""
    return math.prod(stop - start for start, stop in box)


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

    @classmethod
    def of(cls, box: Box) -> Self:
        """The tile that a box is."""
        start, stop = zip(*box, strict=True)
        return cls(start, stop)

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


def outline(image: np.ndarray, background: float, box: Box) -> np.ndarray:
    """Where in each plane of a box the voxels lie that differ from the background.

    Args:
        image: intensities (I, J, K).
        background: intensity that counts as empty.
        box: the box, within the image.

    Returns:
        (planes, 4) for each plane along the first axis: start and stop along the second
        and the third axis, in voxels of the image; start is not below stop where there
        are no such voxels.
    """
    content = image[tuple(slice(*edge) for edge in box)] != background
    found = np.empty((len(content), 4), np.int64)
    for axis, (origin, stop) in enumerate(box[1:]):
        seen = content.any(axis=2 - axis)
        found[:, 2 * axis] = np.where(seen.any(1), origin + seen.argmax(1), stop)
        last = np.where(seen.any(1), stop - seen[:, ::-1].argmax(1), origin)
        found[:, 2 * axis + 1] = last
    return found


def in_reach(slab: Box, rows: np.ndarray, content: Box, reach: int) -> Box:
    """The part of a slab that may depend on the content of a volume.

    Args:
        slab: the slab.
        rows: where the content is in each of its planes, see `outline`.
        content: box that holds it.
        reach: how many voxels around itself a voxel depends on, at most.

    Returns: the part; the slab itself where hardly anything of it is out of reach, and
    `NOWHERE` where all of it is.
    """
    first, stop = (n - content[0][0] for n in slab[0])
    near = rows[max(0, first - reach) : max(0, stop + reach)]
    near = near[near[:, 0] < near[:, 1]]
    if not len(near):
        return NOWHERE
    low, high = (near.min(0) - reach).tolist(), (near.max(0) + reach).tolist()
    part = intersect(slab, (slab[0], (low[0], high[1]), (low[2], high[3])))
    return part if count_voxels(part) < _WORTH * count_voxels(slab) else slab


def around(part: Box, box: Box) -> list[Box]:
    """Boxes that cover once what a box has around a part of it, of all its planes."""
    if is_empty(part):
        return [box]
    planes, j, k = part
    (first_j, stop_j), (first_k, stop_k) = box[1:]
    sides: list[Box] = [
        (planes, (first_j, j[0]), (first_k, stop_k)),
        (planes, (j[1], stop_j), (first_k, stop_k)),
        (planes, j, (first_k, k[0])),
        (planes, j, (k[1], stop_k)),
    ]
    return [side for side in sides if not is_empty(side)]


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
