"""Class probabilities on the own grid of a scan, from those on a coarser working grid.

A network that works on voxels larger than those of the scan knows nothing of what lies
within one of them. The scan does: where its own intensities speak for the classes (see
`nobrainer.inference.intensities`), each of its voxels speaks for itself.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch

from nobrainer.inference.intensities import SURE, Likelihood
from nobrainer.inference.predict import Scaling, TileResult
from nobrainer.volume import Geometry, Volume, restore

_PLANES = 8


class FinerGrid:
    """Mean probabilities of the classes at each voxel of a scan.

    Those of the working grid are interpolated linearly. They hold what the intensities
    of the working grid say; what a voxel's own intensity says is put in its place.

    Args:
        likelihood: what the intensities say of the classes.
        scaling: change of the logits that calibrates them; None leaves them as they
            are.
        prepared: the scan on the working grid.
        own: the scan on its own grid, parallel to the working grid, in the same unit.
    """

    def __init__(
        self,
        likelihood: Likelihood,
        scaling: Scaling | None,
        prepared: Volume,
        own: Volume,
    ) -> None:
        self._likelihood, self._prepared, self._own = likelihood, prepared, own
        self._weight = np.ones((len(likelihood.table[0]), 1), np.float32)
        if scaling is not None:
            self._weight[:, 0] = scaling.weight
        self._places: list[np.ndarray] = []
        self._rows: list[torch.Tensor] = []

    @property
    def geometry(self) -> Geometry:
        """The own grid of the scan."""
        return self._own.geometry

    def keep(self, tile: TileResult) -> None:
        """Take the mean probabilities of a tile of the working grid."""
        p = tile.probabilities
        inside = np.flatnonzero(p[0] < SURE)
        start = [[part.start] for part in tile.where]
        self._places.append(np.array(np.unravel_index(inside, p[0].shape)) + start)
        rows = torch.from_numpy(p.reshape(len(p), -1).take(inside, 1))
        # In half precision, 3 significant digits: they are many. PyTorch was measured
        # 20 times as fast at it as NumPy.
        self._rows.append(rows.half())

    def __iter__(self) -> Iterator[tuple[tuple[slice, slice, slice], np.ndarray]]:
        """Parts of the own grid, and the probabilities (C, i, j, k) there, float32.

        Every other voxel is background. What was kept is used up.
        """
        box, coarse = self._box()
        if not len(coarse):
            return
        area = _covered(box, self._own.geometry)
        planes = area[0]
        for start in range(planes.start, planes.stop, _PLANES):
            where = (slice(start, min(start + _PLANES, planes.stop)), *area[1:])
            target = _part(self._own.geometry, where)
            near = _covered(target, box, 1)
            around = _part(box, near)
            p = np.stack(
                [
                    restore(one.float().numpy(), around, target, fill=float(n == 0))
                    for n, one in enumerate(coarse[:, *near])
                ]
            )
            # Places are numbers of voxels: masks were measured several times slower.
            inside = np.flatnonzero(p[0] < SURE)
            seen = restore(self._prepared.data, self._prepared.geometry, target)
            gain = self._added(self._own.data[where].take(inside))
            gain -= self._added(seen.take(inside))
            columns = p.reshape(len(p), -1)
            rows = columns.take(inside, 1)
            rows *= np.exp(gain * self._weight)
            rows /= rows.sum(0)
            for column, row in zip(columns, rows, strict=True):
                column[inside] = row
            yield where, p

    def _added(self, intensities: np.ndarray) -> np.ndarray:
        """Summands of the logits (C, n) of voxels of some intensities (n,)."""
        return self._likelihood(torch.from_numpy(intensities)).numpy()

    def _box(self) -> tuple[Geometry, torch.Tensor]:
        """The part of the working grid that is not all background, and what is there.

        It has a margin of background, but where the grid ends.
        """
        grid = self._prepared.geometry
        some = [places for places in self._places if places.size]
        if not some:
            return grid, torch.zeros(0)
        first = np.maximum(np.min([places.min(1) for places in some], 0) - 1, 0)
        last = np.max([places.max(1) for places in some], 0) + 2
        last = np.minimum(last, grid.shape)
        shape = tuple(last - first)
        coarse = torch.zeros((len(self._weight), math.prod(shape)), dtype=torch.half)
        coarse[0] = 1
        while self._places:
            # What has found its place gives room to the next.
            places, rows = self._places.pop(), self._rows.pop()
            at = np.ravel_multi_index(tuple(places - first[:, None]), shape)
            coarse[:, torch.from_numpy(at)] = rows
        coarse = coarse.reshape(-1, *shape)
        i, j, k = (slice(a, b) for a, b in zip(first, last, strict=True))
        return _part(grid, (i, j, k)), coarse


def _part(grid: Geometry, where: tuple[slice, slice, slice]) -> Geometry:
    """A part of a grid."""
    shift = np.eye(4)
    shift[:3, 3] = [part.start for part in where]
    i, j, k = (part.stop - part.start for part in where)
    return Geometry((i, j, k), grid.affine @ shift)


def _covered(
    box: Geometry, grid: Geometry, margin: int = 0
) -> tuple[slice, slice, slice]:
    """The part of a grid that lies in a box, and a margin of voxels around it."""
    ends = np.array(np.meshgrid(*((-0.5, n - 0.5) for n in box.shape))).reshape(3, -1)
    steps = np.linalg.inv(grid.affine) @ box.affine
    at = steps[:3, :3] @ ends + steps[:3, 3:]
    first = np.clip(np.floor(at.min(1)) - margin, 0, grid.shape).astype(int)
    last = np.clip(np.ceil(at.max(1)) + 1 + margin, 0, grid.shape).astype(int)
    i, j, k = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    return i, j, k
