"""Run a network of local operations over a box of an endless field, slab by slab.

A volume is taken to lie in an endless field of its background value. Every operation
computes what is needed of its result (see `nobrainer.inference.plan`), a few planes at
a time along the first axis, and keeps the planes that later ones look back at. So no
voxel is computed twice or for nothing, padding never enters, and memory holds a few
slabs of each result instead of whole volumes.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from nobrainer.inference.plan import place, read_network, schedule
from nobrainer.inference.results import Result
from nobrainer.inference.tiles import Box, Interval, cut_slabs, is_empty


class Stream:
    """A plain network made ready to run over boxes.

    Args:
        network: what `nobrainer.bayes.draws.Draws` makes; its weights may be set to
            another draw between two runs.
        device, dtype: where and in which number format the network runs.

    Raises:
        NotImplementedError: an operation of the network is not known to be local.
    """

    def __init__(
        self, network: nn.Module, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._device, self._dtype = device, dtype
        self._results = read_network(network)
        self._goals: list[dict[Result, int]] = []
        # For the number of channels.
        self._set_fills(0.0)

    def plan(self, content: Box, core: Box, planes: int) -> list[Interval]:
        """Choose what each operation computes.

        Args:
            content: where the image may differ from the background; `NOWHERE` if
                nowhere.
            core: where the output is wanted.
            planes: how many planes of the output are made at a time.

        Returns:
            The slabs of `core` along the first axis, in order.
        """
        slabs = cut_slabs(core, planes)
        place(self._results, content, core)
        self._goals = schedule(self._results, slabs)
        self.release()
        return slabs

    def release(self) -> None:
        """Give back the memory of the buffers; the plan stays."""
        for result in self._results:
            result.buffer = None

    @property
    def is_constant(self) -> bool:
        """Whether the output is one constant where there is nothing but background.

        If it is not, it is a pattern that repeats with the pooling grid.
        """
        return not any(result.operation.varies for result in self._results)

    @property
    def n_bytes(self) -> int:
        """Memory of the buffers as planned."""
        stored = (result for result in self._results if result.planes)
        numbers = sum(math.prod(result.shape) for result in stored)
        return numbers * self._dtype.itemsize

    @property
    def flop(self) -> int:
        """Multiplications and additions of the convolutions as planned."""
        total = 0
        for result in self._results:
            operation, box = result.operation, result.box
            # A transposed kernel is applied to every voxel of its input.
            at = operation.needs(box) if operation.axes[0].transposed else box
            voxels = math.prod(stop - start for start, stop in at)
            total += 0 if is_empty(box) else 2 * operation.n_weights * voxels
        return total

    def run(self, image: Tensor, background: float) -> Iterator[Tensor]:
        """Compute the network's output on each slab.

        Args:
            image: (I, J, K), whose first voxel is the origin of all boxes.
            background: value of the field around it.

        Yields:
            The output on a slab, (1, C, i, j, k); it is good until the next one.
        """
        self._set_fills(background)
        for result in self._results:
            result.start(self._device, self._dtype)
        for goals in self._goals:
            for result in self._results:
                if result.planes:
                    result.make_room(goals)
                if goals[result] > result.done:
                    result.advance(goals[result], image)
            output = self._results[-1].latest
            assert output is not None
            yield output

    def _set_fills(self, background: float) -> None:
        """Compute the constants of all results."""
        image, *others = self._results
        image.fill = torch.full(
            (1, 1, 1, 1, 1), background, device=self._device, dtype=self._dtype
        )
        for result in others:
            axes = result.operation.axes
            seen = [1 if axis.transposed else axis.span + 1 for axis in axes]
            fills = [
                source.fill.expand(-1, -1, *seen).contiguous(
                    memory_format=torch.channels_last_3d
                )
                for source in result.inputs
            ]
            # A copy, because an operation may return its input.
            result.fill = result.operation.run(fills, None)[:, :, :1, :1, :1].clone()
