"""The real images that a pair of networks learns from, in memory."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nobrainer.generators.layers import double, halve
from nobrainer.generators.registry import Stage


@dataclass(frozen=True, eq=False)
class RealImages:
    """Images of one size, and their labels if they have some.

    image: intensities, float32 (N, 1, R, R, R); -1 to 1 is their usual range.
    label: class of each voxel, uint8 or int16 (N, R, R, R); None without labels.
    n_classes: number of classes; 0 without labels.
    """

    image: Tensor
    label: Tensor | None
    n_classes: int

    def __len__(self) -> int:
        return len(self.image)

    def at(self, which: Tensor, stage: Stage) -> Tensor:
        """Some of the images as they are at a stage of the training.

        Args:
            which: numbers of the images, integers (B,).
            stage: their resolution. Details that are not yet faded in are faded out
                here, too.

        Returns: float32 (B, 1 + n_classes, r, r, r), see `Gan`.
        """
        images = self.image[which]
        if self.label is not None:
            shares = F.one_hot(self.label[which].long(), self.n_classes)
            images = torch.cat([images, shares.movedim(-1, 1).to(images)], 1)
        times = (images.shape[-1] // stage.resolution).bit_length() - 1
        images = halve(images, times)
        if stage.fade < 1:
            images = torch.lerp(double(halve(images)), images, stage.fade)
        return images
