"""Exact tiling: cut a volume into cores, and read each core with its halo.

The volume is taken to lie in an endless field of its background value. For a
network of local operations a core's output then depends only on the core and a
halo as wide as the receptive field, so it does not depend on how the volume was
cut, as long as every core starts on the network's pooling grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from nobrainer.types import Shape3

SLOW = 3.0
"""How much slower a voxel was measured in windows that leave the cache (CPU)."""


@dataclass(frozen=True)
class Tile:
    """A core [start, stop) in voxels of the volume."""

    start: Shape3
    stop: Shape3

    @property
    def where(self) -> tuple[slice, slice, slice]:
        """The core as an index into the volume."""
        i, j, k = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return i, j, k

    @property
    def shape(self) -> Shape3:
        """Voxels of the core per axis."""
        i, j, k = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return i, j, k


def round_up(value: int, step: int) -> int:
    """The least multiple of `step` that is not below `value`."""
    return -(-value // step) * step


def content_box(image: np.ndarray, background: float) -> Tile:
    """The bounding box of the voxels that differ from `background`."""
    content = image != background
    start, stop = [], []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        (found,) = np.nonzero(content.any(axis=others))
        start.append(int(found[0]) if found.size else 0)
        stop.append(int(found[-1]) + 1 if found.size else 0)
    return Tile((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def choose_core(
    extent: Shape3, stride: int, halo: int, fast_voxels: int, max_voxels: int
) -> Shape3:
    """The core whose windows cover `extent` with the least work.

    A window is the core with `halo` voxels on every side. Small windows stay in
    the processor's cache, large ones compute less halo: work is counted in window
    voxels, `SLOW` times as much for windows of more than `fast_voxels`. No window
    holds more than `max_voxels`, unless even the smallest core does.
    """
    parts = [1, 1, 1]
    best: tuple[float, Shape3] | None = None
    while True:
        i, j, k = (
            max(stride, round_up(-(-e // n), stride))
            for e, n in zip(extent, parts, strict=True)
        )
        window = (i + 2 * halo) * (j + 2 * halo) * (k + 2 * halo)
        work = float(np.prod(parts)) * window * (SLOW if window > fast_voxels else 1)
        if window <= max_voxels and (best is None or work < best[0]):
            best = work, (i, j, k)
        if max(i, j, k) == stride or (window <= fast_voxels and best is not None):
            return best[1] if best is not None else (i, j, k)
        parts[(i, j, k).index(max(i, j, k))] += 1


def plan_tiles(shape: Shape3, box: Tile, core: Shape3, stride: int) -> list[Tile]:
    """Tiles that cover the volume once, with cuts at the sides of `box`.

    Every start is a multiple of `stride`; no tile is larger than `core`.
    """
    cuts = []
    for n, a, b, size in zip(shape, box.start, box.stop, core, strict=True):
        a, b = a // stride * stride, min(round_up(b, stride), n)
        edges = [*range(0, a, size), *range(a, b, size), *range(b, n, size), n]
        cuts.append(list(pairwise(edges)))
    return [Tile((i[0], j[0], k[0]), (i[1], j[1], k[1])) for i, j, k in product(*cuts)]


def read_window(
    image: np.ndarray, tile: Tile, core: Shape3, halo: int, background: float
) -> np.ndarray:
    """The window of shape core + 2 halo around a tile, background where outside."""
    start = [s - halo for s in tile.start]
    stop = [s + c + halo for s, c in zip(tile.start, core, strict=True)]
    window = np.full([b - a for a, b in zip(start, stop, strict=True)], background)
    window = window.astype(image.dtype)
    inside = [
        (max(a, 0), min(b, n)) for a, b, n in zip(start, stop, image.shape, strict=True)
    ]
    source = tuple(slice(a, b) for a, b in inside)
    target = tuple(slice(a - s, b - s) for (a, b), s in zip(inside, start, strict=True))
    window[target] = image[source]
    return window


def dilate(box: Tile, margin: int, shape: Sequence[int]) -> Tile:
    """The box widened by `margin` voxels on every side, within the volume."""
    start = [max(0, a - margin) for a in box.start]
    stop = [min(n, b + margin) for b, n in zip(box.stop, shape, strict=True)]
    return Tile((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
