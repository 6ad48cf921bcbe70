"""How much of a volume is computed at a time: what fits into memory or a cache."""

from dataclasses import dataclass

import torch

from nobrainer.bayes.transfer import is_remote
from nobrainer.inference.moments import statistics_bytes
from nobrainer.inference.stream import Stream
from nobrainer.inference.windows import Windows
from nobrainer.types import Shape3

MEMORY_BYTES = 1_100_000_000
"""Usual limit for the statistics of a tile and the network's results on it."""
SLAB_BYTES = 8_000_000
"""Size of a slab's widest result on a CPU, whose cache it fits into."""
_LEAST_SLAB_BYTES = 64_000_000
"""The same on other devices where memory is short: less would not keep a GPU busy."""


def slab_planes(
    core: Shape3,
    width: int,
    n_classes: int,
    itemsize: int,
    slab_bytes: int = SLAB_BYTES,
) -> int:
    """How many planes of a tile make a slab of some size, at least 1.

    Args:
        core: voxels of the tile along each axis.
        width: channels of the network at full resolution.
        n_classes: number of classes, the channels of its output.
        itemsize: size of one number, in bytes.
        slab_bytes: size of the slab's widest result; that for a CPU by default.
    """
    plane = core[1] * core[2] * max(width, n_classes) * itemsize
    return max(1, slab_bytes // max(1, plane))


@dataclass(frozen=True)
class Slabs:
    """How the tiles of a volume are cut into slabs.

    On a CPU a slab fits into the cache. Elsewhere it is the whole tile, or as much of
    it as the memory allows, since every step then works on as much as there is.

    stream: what computes the network.
    halo: how many voxels around an output voxel the network looks at.
    width: channels of the network at full resolution.
    n_classes: number of classes.
    n_passes: number of draws. The statistics of one leave with each slab; those of
        several stay until the tile is done.
    device: device that computes.
    itemsize: size of the network's numbers, in bytes.
    batch_size: number of slabs in one pass, on a CPU.
    memory_bytes: limit for what is held at once.
    """

    stream: Stream | Windows
    halo: int
    width: int
    n_classes: int
    n_passes: int
    device: torch.device
    itemsize: int
    batch_size: int
    memory_bytes: int

    def planes(self, core: Shape3) -> int:
        """How many planes of a tile of some shape are computed at a time."""
        if not is_remote(self.device):
            # Where the last layer is applied part by part, its result is never held.
            n_outputs = self.n_classes if self.stream.last_layer is None else 1
            how = self.width, n_outputs, self.itemsize, SLAB_BYTES
            return self.batch_size * slab_planes(core, *how)
        size = self.itemsize, _LEAST_SLAB_BYTES
        least = slab_planes(core, self.width, self.n_classes, *size)
        planes = core[0]
        while planes > least and self._bytes(core, planes) > self.memory_bytes:
            planes = -(-planes // 2)
        return planes

    def fit(self, core: Shape3) -> bool:
        """Whether a tile of some shape fits into memory, slab by slab."""
        return self._bytes(core, self.planes(core)) <= self.memory_bytes

    def _bytes(self, core: Shape3, planes: int) -> int:
        """About how much memory a tile takes, in bytes."""
        i, j, k = core
        halo = self.halo
        everywhere = ((-halo, i + halo), (-halo, j + halo), (-halo, k + halo))
        self.stream.plan(everywhere, ((0, i), (0, j), (0, k)), planes)
        kept = min(planes, i) if self.n_passes == 1 else i
        held = self.stream.n_bytes + statistics_bytes(self.n_classes) * kept * j * k
        if not is_remote(self.device):
            return held
        # What comes and goes with a slab: logits, probabilities and what they become,
        # in float32, and the results of a layer with copies that convolutions make.
        passing = 4 * (3 * self.n_classes + 4 * self.width)
        return held + passing * min(planes, i) * j * k
