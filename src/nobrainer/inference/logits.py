"""The last steps to the logits, some voxels at a time.

The logits of many classes are the largest numbers of a prediction. They are made of
what the last layer sees where they are used, so that they stay in a processor's cache.
"""

from collections.abc import Callable
from dataclasses import dataclass

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
        logits = self._unscaled(seen.flatten(1), slice(None))
        return logits.unflatten(1, seen.shape[1:])

    def _unscaled(self, columns: Tensor, part: slice) -> Tensor:
        columns = columns.float()
        if self.layer is None:
            logits = columns.clone(memory_format=torch.contiguous_format)
        else:
            weight, bias = self.layer.weight.flatten(1).float(), self.layer.bias
            if bias is None:
                logits = weight @ columns
            else:
                logits = torch.addmm(bias.float()[:, None], weight, columns)
        if self.likelihood is not None and self.intensities is not None:
            logits += self.likelihood(self.intensities.flatten()[part])
        return logits


LOGITS = LastSteps()
"""Takes logits as they are."""
