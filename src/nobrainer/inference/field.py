"""The field beyond a volume's content, whose prediction repeats with the grid."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from nobrainer.inference.logits import LastSteps
from nobrainer.inference.moments import RunningMoments, Statistics
from nobrainer.inference.tiles import Tile


class Field:
    """The tiles of a volume that see its background only.

    Their prediction is one pattern as large as a step of the pooling grid, however many
    they are.

    Args:
        tiles: where they are.
        stride: step of the pooling grid, in voxels; 1 where every voxel is alike.
    """

    def __init__(self, tiles: Sequence[Tile], stride: int) -> None:
        self._tiles = tiles
        self.pattern = Tile((0, 0, 0), (stride, stride, stride))
        self._axes = [
            [torch.arange(a, b) % stride for a, b in tile.box] for tile in tiles
        ]
        # How often each voxel of the pattern is in the tiles.
        self._times = np.zeros(self.pattern.shape, np.int64)
        for axes in self._axes:
            i, j, k = (np.bincount(phase, minlength=stride) for phase in axes)
            self._times += i[:, None, None] * j[:, None] * k
        self._moments = RunningMoments()

    def add(self, seen: Tensor, last: LastSteps) -> np.ndarray:
        """Add one draw.

        Args:
            seen: what its last layer sees of the pattern, (F, i, j, k).
            last: makes logits of it.

        Returns:
            The number of voxels of each class in all tiles, (C,).
        """
        label = self._moments.update(seen, last).cpu().numpy()
        counts = np.zeros(last.n_classes(seen), np.int64)
        np.add.at(counts, label, self._times)
        return counts

    def spread(self, values: Tensor) -> Iterator[tuple[Tile, Tensor]]:
        """Each tile, and what it has of the values (..., i, j, k) of the pattern."""
        for tile, axes in zip(self._tiles, self._axes, strict=True):
            yield tile, _repeat(values, axes)

    def results(self) -> Iterator[tuple[Tile, Statistics]]:
        """Each tile and its statistics."""
        pattern = (values.cpu() for values in self._moments.result())
        maps = zip(*map(self.spread, pattern), strict=True)
        for parts in maps:
            yield parts[0][0], Statistics(*(values for _, values in parts))


def _repeat(pattern: Tensor, axes: Sequence[Tensor]) -> Tensor:
    """Values of a pattern (..., i, j, k) at the places that three axes span."""
    if pattern.shape[-3:].numel() == 1:
        # A view, which takes no memory.
        return pattern.expand(*pattern.shape[:-3], *(len(axis) for axis in axes))
    i, j, k = axes
    return pattern[..., i[:, None, None], j[:, None], k]
