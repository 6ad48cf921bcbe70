"""The constants of the field that buffers begin with, for all of them at once.

To fill each by itself would be a launch each on a GPU, and a network has many.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nobrainer.bayes.transfer import send
from nobrainer.inference.results import Result

_ROW = 1024
"""Least size of a row of memory, in numbers."""


def patterns_of(results: Sequence[Result]) -> Tensor:
    """The constant of each result, over and over: (results, numbers of a row).

    A row holds each constant of a result that is stored a whole number of times.

    Args:
        results: the results inside a network, with their `fill`.
    """
    channels = [result.fill.shape[1] for result in results]
    stored = (result.fill.shape[1] for result in results if result.stored)
    row = math.lcm(*stored)
    row *= -(-max(_ROW, *channels) // row)
    return torch.stack(
        [
            result.fill.flatten().repeat(-(-row // n))[:row]
            for result, n in zip(results, channels, strict=True)
        ]
    )


class Constants:
    """Gives the results their buffers in one piece of memory, and fills all of it.

    Only those that hold some of the field around what is computed are meant, and not
    the image, which stays from draw to draw.

    Args:
        results: the results inside a network after `nobrainer.inference.plan.schedule`,
            the image first. They get their `buffer`.
        patterns: what `patterns_of` makes of them, (results, numbers of a row).
    """

    def __init__(self, results: Sequence[Result], patterns: Tensor) -> None:
        which = [n for n, r in enumerate(results) if n and r.is_partly_constant]
        row = patterns.shape[1]
        sizes = [-(-math.prod(results[n].shape) // row) for n in which]
        self._memory = patterns.new_empty(sum(sizes), row)
        for n, part in zip(which, self._memory.split(sizes), strict=True):
            _, channels, *planes = results[n].shape
            numbers = part.flatten()[: math.prod(results[n].shape)]
            # Channels last, as convolutions want them.
            results[n].buffer = numbers.view(1, *planes, channels).movedim(-1, 1)
        rows = torch.tensor(np.repeat(which, sizes), dtype=torch.int64)
        self._rows = torch.empty_like(rows, device=patterns.device)
        send(rows, self._rows)

    def fill(self, patterns: Tensor) -> None:
        """Fill all buffers with the constants of a draw.

        Args:
            patterns: what `patterns_of` makes of the results.
        """
        torch.index_select(patterns, 0, self._rows, out=self._memory)
