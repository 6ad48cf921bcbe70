"""Data terms of the training loss, by name.

Every entry takes class weights, a tensor (C,) or None, and returns a module that
maps logits (B, C, I, J, K) and labels (B, I, J, K) to a scalar.
"""

import torch
from torch import Tensor, nn

from nobrainer.losses.dice import dice, dice_ce
from nobrainer.registry import Registry

LOSSES: Registry = Registry("loss")


@LOSSES.register("cross_entropy")
def cross_entropy(weight: Tensor | None = None) -> nn.Module:
    """Cross-entropy in nats, mean over voxels.

    Args:
        weight: (C,) weight of each class in that mean; None weighs all alike.
    """
    return nn.CrossEntropyLoss() if weight is None else _WeightedMean(weight)


class _WeightedMean(nn.Module):
    """The weighted mean over the voxels; 0 where no voxel has a weight."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        total = nn.functional.cross_entropy(
            logits, labels, self.weight, reduction="sum"
        )
        return total / self.weight[labels].sum().clamp_min(self.weight.max() * 1e-6)


LOSSES.register("dice")(dice)
LOSSES.register("dice_ce")(dice_ce)


def inverse_frequency(counts: Tensor) -> Tensor:
    """Class weights ∝ 1 / frequency with mean 1 over the classes that occur.

    Args:
        counts: (C,) voxels of each class in the training labels.

    Returns: (C,) float32; 0 for a class that does not occur.
    """
    weights = torch.where(counts > 0, counts.sum() / counts.clamp_min(1), 0.0)
    return (weights * (counts > 0).sum() / weights.sum()).float()
