"""Data terms of the training loss, by name.

Every entry takes class weights, a tensor (C,) or None, and returns a module that
maps logits (B, C, I, J, K) and labels (B, I, J, K) to a scalar.
"""

import torch
from monai.losses import DiceCELoss, DiceLoss
from torch import Tensor, nn

from nobrainer.registry import Registry

LOSSES: Registry = Registry("loss")


@LOSSES.register("cross_entropy")
def cross_entropy(weight: Tensor | None = None) -> nn.Module:
    """Mean voxel cross-entropy in nats; with weights, their weighted mean."""
    return nn.CrossEntropyLoss(weight=weight)


@LOSSES.register("dice")
def dice(weight: Tensor | None = None) -> nn.Module:
    """1 - soft Dice of the softmax, mean over batch and classes (MONAI).

    Source: Milletari et al. 2016.
    """
    return _OneChannelTarget(DiceLoss(softmax=True, to_onehot_y=True, weight=weight))


@LOSSES.register("dice_ce")
def dice_ce(weight: Tensor | None = None) -> nn.Module:
    """Soft Dice loss plus cross-entropy, equal parts (MONAI)."""
    return _OneChannelTarget(DiceCELoss(softmax=True, to_onehot_y=True, weight=weight))


class _OneChannelTarget(nn.Module):
    """Give MONAI's losses the channel axis that they expect of labels."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        # MONAI's soft sums overflow half precision.
        return self.loss(logits.float(), labels[:, None])


def inverse_frequency(counts: Tensor) -> Tensor:
    """Class weights ∝ 1 / frequency with mean 1 over the classes that occur.

    Args:
        counts: (C,) voxels of each class in the training labels.

    Returns: (C,) float32; 0 for a class that does not occur.
    """
    weights = torch.where(counts > 0, counts.sum() / counts.clamp_min(1), 0.0)
    return (weights * (counts > 0).sum() / weights.sum()).float()
