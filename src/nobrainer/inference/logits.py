"""The last steps to the logits, some voxels at a time.

The logits of many classes are the largest numbers of a prediction. They are made of
what the last layer sees where they are used, so that they stay in a processor's cache.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from nobrainer.inference.intensities import Likelihood


@dataclass(frozen=True)
class LastSteps:
    """What makes logits of what the last layer of a network sees.

    layer: the last layer, a 1³ convolution; None where what is seen are logits.
    likelihood: what the scan's own intensities add to the logits; None adds nothing.
    intensities: those of the voxels in question, (I, J, K), for the likelihood.
    scaling: change of logits (C, ...) that calibrates them; None leaves them.
    """

    layer: nn.Conv3d | None = None
    likelihood: Likelihood | None = None
    intensities: Tensor | None = None
    scaling: Callable[[Tensor], Tensor] | None = None

    def n_classes(self, seen: Tensor) -> int:
        """Number of the logits of a voxel."""
        return len(seen) if self.layer is None else self.layer.out_channels

    def __call__(self, columns: Tensor, part: slice) -> Tensor:
        """Logits (C, n) of some voxels, float32, calibrated, in memory of their own.

        Args:
            columns: what the last layer sees of them, (F, n).
            part: which of the I · J · K voxels they are.
        """
        logits = self._unscaled(columns, part)
        return logits if self.scaling is None else self.scaling(logits)

    def unscaled(self, seen: Tensor) -> Tensor:
        """Logits (C, I, J, K) of all voxels before the scaling, float32."""
        logits = self._unscaled(columns_of(seen), slice(None))
        return logits.unflatten(1, seen.shape[1:])

    @cached_property
    def _weights(self) -> tuple[Tensor, Tensor | None]:
        """Those of the layer, (C, F), and its bias (C, 1), float32."""
        assert self.layer is not None
        bias = self.layer.bias
        return (
            self.layer.weight.flatten(1).float(),
            None if bias is None else bias.float()[:, None],
        )

    def _unscaled(self, columns: Tensor, part: slice) -> Tensor:
        columns = columns.float()
        if self.layer is None:
            logits = columns.clone(memory_format=torch.contiguous_format)
        else:
            weight, bias = self._weights
            if bias is None:
                logits = weight @ columns
            else:
                logits = torch.addmm(bias, weight, columns)
        if self.likelihood is not None and self.intensities is not None:
            logits += self.likelihood(self.intensities.flatten()[part])
        return logits


def columns_of(seen: Tensor) -> Tensor:
    """Numbers (F, I, J, K) as columns (F, I · J · K), in the order that they lie in.

    Where a voxel's numbers lie side by side, as convolutions leave them, what is cut
    out of a larger volume is then copied row by row, six times as fast.
    """
    if seen.stride(0) != 1:
        return seen.flatten(1)
    return seen.movedim(0, -1).flatten(0, 2).t()


LOGITS = LastSteps()
"""Takes logits as they are."""
