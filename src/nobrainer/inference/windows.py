"""Run a network of which only the halo is known on one window as a whole."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from nobrainer.inference.stream import Stream
from nobrainer.inference.tiles import NOWHERE, Box, Interval, cut_slabs


class Windows:
    """A network of which only the halo is known, run on one window as a whole.

    It has the methods of `nobrainer.inference.stream.Stream`.

    Args:
        network, device, dtype: as for `Stream`.
        halo: how many voxels around an output voxel the network looks at.
        stride: step of its pooling grid, in voxels.
        width: number of its channels at full resolution.
    """

    is_constant = False
    last_layer = None

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
        *,
        halo: int,
        stride: int,
        width: int,
    ) -> None:
        self._network, self._device, self._dtype = network, device, dtype
        self._halo, self._stride, self._width = halo, stride, width
        self._core: Box = NOWHERE
        self._slabs: list[Interval] = []

    def plan(
        self, content: Box, core: Box, planes: int, rows: np.ndarray | None = None
    ) -> list[Interval]:
        """Choose the core and cut it into slabs.

        Args: as for `Stream.plan`; where the content is does not matter here.
        Returns: the slabs of `core` along the first axis, in order.
        """
        self._core, self._slabs = core, cut_slabs(core, planes)
        return self._slabs

    @property
    def n_bytes(self) -> int:
        """Estimated memory in bytes: that of six results of the network's width."""
        voxels = math.prod(b - a for a, b in self._window())
        return 6 * self._width * voxels * self._dtype.itemsize

    def release(self) -> None:
        """Do nothing, because nothing is kept."""

    def run(self, image: Tensor, background: float) -> Iterator[Tensor]:
        """Compute the network's output on each slab.

        Args: as for `Stream.run`.
        Yields: the output on each slab, (1, C, i, j, k).
        """
        window = self._window()
        x = torch.full(
            (1, 1, *(b - a for a, b in window)),
            background,
            device=self._device,
            dtype=self._dtype,
        )
        seen = [
            (max(a, 0), min(b, n))
            for (a, b), n in zip(window, image.shape, strict=True)
        ]
        if all(a < b for a, b in seen):
            target = [
                slice(a - origin, b - origin)
                for (a, b), (origin, _) in zip(seen, window, strict=True)
            ]
            x[:, :, *target] = image[tuple(slice(*edge) for edge in seen)]
        inner = [
            slice(a - origin, b - origin)
            for (a, b), (origin, _) in zip(self._core, window, strict=True)
        ]
        made = self._network(x.to(memory_format=torch.channels_last_3d))[:, :, *inner]
        for a, b in self._slabs:
            yield made[:, :, a - self._core[0][0] : b - self._core[0][0]]

    def _window(self) -> Box:
        """The core on the pooling grid, and the halo around it."""
        i, j, k = (
            (
                a // self._stride * self._stride - self._halo,
                -(-b // self._stride) * self._stride + self._halo,
            )
            for a, b in self._core
        )
        return i, j, k


def is_local(network: nn.Module) -> bool:
    """Whether every operation of a network is one that `Stream` knows."""
    return bool(getattr(network, "streams", False))


def make_stream(
    network: nn.Module, device: torch.device, dtype: torch.dtype, on_cpu: nn.Module
) -> Stream | Windows:
    """What runs a network over boxes.

    Args: as for `Stream`.
    """
    if is_local(network):
        return Stream(network, device, dtype, on_cpu)
    carried = {name: getattr(network, name) for name in ("halo", "stride", "width")}
    return Windows(network, device, dtype, **carried)
