"""Run a network of local operations over a box of an endless field, slab by slab.

A volume is treated as lying in an endless field of its background value. Every
operation computes the needed part of its result (see `nobrainer.inference.plan`), a few
planes at a time along the first axis, and keeps the planes that later ones look back
at. So no voxel is computed twice or in vain, there is no padding, and memory holds a
few slabs of each result instead of whole volumes.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from nobrainer.bayes.transfer import send
from nobrainer.inference.constants import Constants, patterns_of
from nobrainer.inference.plan import narrow, place, read_network, schedule
from nobrainer.inference.results import Result
from nobrainer.inference.tiles import Box, Interval, cut_slabs, is_empty


class Stream:
    """A plain network that is ready to run over boxes.

    A last layer that is a 1³ convolution is left to the user, as `last_layer`: what it
    makes of many classes is the largest result of all.

    Args:
        network: a network that `nobrainer.bayes.draws.Draws` made; its weights may be
            set to another draw between two runs.
        device: device that the network runs on.
        dtype: number format that the network runs in.
        on_cpu: where the device is not the CPU, the network's twin there. The constants
            of the field are computed with it: they are so few numbers that starting to
            compute them would take the device longer than computing them.

    Raises:
        NotImplementedError: an operation of the network is not known to be local.
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
        on_cpu: nn.Module | None = None,
    ) -> None:
        self._device, self._dtype = device, dtype
        self._results = read_network(network)
        self._twins = self._results
        if on_cpu is not None and on_cpu is not network:
            self._twins = read_network(on_cpu)
        self._goals: list[dict[Result, int]] = []
        self._constants: Constants | None = None
        self._image: Tensor | None = None
        self._background = 0.0
        self.last_layer = self._results[-1].operation.layer
        # The fills tell the number of channels of each result.
        self._set_fills(0.0)

    def plan(
        self, content: Box, core: Box, planes: int, rows: np.ndarray | None = None
    ) -> list[Interval]:
        """Choose what each operation computes.

        Args:
            content: box in which the image may differ from the background, or
                `NOWHERE`.
            core: box in which the output is wanted.
            planes: number of planes of the output that are made at a time.
            rows: where the content is in each of its planes, see
                `nobrainer.inference.tiles.outline`; None where that is not known.

        Returns:
            The slabs of `core` along the first axis, in order.
        """
        slabs = cut_slabs(core, planes)
        place(self._results, content, core)
        narrow(self._results, rows)
        self._goals = schedule(self._results, slabs)
        self.release()
        return slabs

    def release(self) -> None:
        """Give back the memory of the buffers; the plan stays."""
        for result in self._results:
            result.buffer = None
        self._image = self._constants = None

    @property
    def is_constant(self) -> bool:
        """Whether the output on background alone is one constant for each channel.

        If not, it is a pattern that repeats with the pooling grid.
        """
        return not any(result.operation.varies for result in self._results)

    @property
    def n_bytes(self) -> int:
        """Memory that the planned buffers take, in bytes."""
        stored = (result for result in self._results if result.planes)
        numbers = sum(math.prod(result.shape) for result in stored)
        return numbers * self._dtype.itemsize

    @property
    def flop(self) -> int:
        """Number of multiplications and additions of the planned convolutions."""
        total = 0
        for result in self._results:
            operation, box = result.operation, result.box
            # A transposed kernel is applied to every voxel of its input.
            at = operation.needs(box) if operation.axes[0].transposed else box
            voxels = math.prod(stop - start for start, stop in at)
            total += 0 if is_empty(box) else 2 * operation.n_weights * voxels
        return total

    def run(self, image: Tensor, background: float) -> Iterator[Tensor]:
        """Compute what the last layer sees on each slab, or else the output.

        Args:
            image: intensities (I, J, K); the first voxel is the origin of all boxes.
            background: value of the field around it.

        Yields:
            What `last_layer` sees on each slab, (1, F, i, j, k), or the output (1, C,
            i, j, k) where there is none; valid until the next is asked for.
        """
        self._set_fills(background)
        first, *others = self._results
        last = others[-1]
        # Where one slab is all, the image is still there from the draw before.
        is_there = image is self._image and background == self._background
        if not is_there or len(self._goals) > 1:
            first.start()
            first.clear()
        for result in others:
            result.start()
        if self._constants is None:
            self._constants = Constants(self._results, self._patterns)
        self._constants.fill(self._patterns)
        self._image, self._background = image, background
        made = self._results if self.last_layer is None else self._results[:-1]
        for goals in self._goals:
            is_slab = goals[last] > last.done
            for result in made:
                if result.planes:
                    result.make_room(goals)
                if goals[result] > result.done:
                    result.advance(goals[result], image)
            if not is_slab:
                continue
            output = last.latest if last in made else last.look(goals[last])
            assert output is not None
            yield output

    def _set_fills(self, background: float) -> None:
        """Compute the constants of all results."""
        if self._twins is self._results:
            _compute_fills(self._results, background, self._device, self._dtype)
            self._patterns = patterns_of(self._results)
            return
        _compute_fills(self._twins, background, torch.device("cpu"), torch.float32)
        patterns = patterns_of(self._twins)
        there = torch.empty_like(patterns, device=self._device, dtype=self._dtype)
        send(patterns, there)
        for twin, result, pattern in zip(
            self._twins, self._results, there, strict=True
        ):
            result.fill = pattern[: twin.fill.numel()].reshape(1, -1, 1, 1, 1)
        self._patterns = there


def _compute_fills(
    results: Sequence[Result],
    background: float,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Set the constants of results from the first, the image, to the last."""
    image, *others = results
    image.fill = torch.full((1, 1, 1, 1, 1), background, device=device, dtype=dtype)
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
