"""The random numbers of a batch of images."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nobrainer.data.axes import answers_at_once


class Draws:
    """Random numbers of a batch; every image has a generator of its own.

    So an image does not depend on which other images are in the batch.

    Args:
        seeds: seed of each image, 0 to 2**63 - 1.
        device: where the numbers are drawn; another kind of device gives other numbers.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self.device = device

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform numbers, (B, *shape).

        Args:
            low: the smallest number there can be.
            high: the largest number there can be.
            shape: shape of the numbers of each image.
        """
        return self._stack(
            lambda x, source: x.uniform_(low, high, generator=source), shape
        )

    def happens(self, probability: float, *shape: int) -> Tensor:
        """Whether events happen, booleans (B, *shape).

        Args:
            probability: probability of each event, in [0, 1].
            shape: shape of the events of each image.
        """
        return self.between(0, 1, *shape) < probability

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, (B, *shape)."""
        return self._stack(lambda x, source: x.normal_(generator=source), shape)

    def _stack(
        self, fill: Callable[[Tensor, torch.Generator], Tensor], shape: Sequence[int]
    ) -> Tensor:
        """Numbers (B, *shape) that each image's generator fills in."""
        parts = [
            fill(torch.empty(shape, device=self.device), generator)
            for generator in self._generators
        ]
        # Stacking a single part would copy it.
        return parts[0][None] if len(parts) == 1 else torch.stack(parts)


def surely_none(happens: Tensor) -> bool:
    """Whether it is known that a step is needed for no image of a batch.

    Args:
        happens: for which images it is needed, booleans of any shape; a GPU is not
            asked for them.
    """
    return answers_at_once(happens.device) and not bool(happens.any())


def surely_between(x: Tensor, low: float, high: float) -> bool:
    """Whether it is known that all numbers lie between two others.

    Args:
        x: the numbers; a GPU is not asked for them.
        low: what none of them may be below.
        high: what none of them may be above.
    """
    return answers_at_once(x.device) and bool(x.amin() >= low and x.amax() <= high)
