"""Losses of overlap, from MONAI."""

from monai.losses import DiceCELoss, DiceLoss
from torch import Tensor, nn


def dice(weight: Tensor | None = None) -> nn.Module:
    """1 - soft Dice of the softmax, mean over batch and classes (MONAI).

    Args:
        weight: (C,) weight of each class; None weighs all alike.

    Source: Milletari et al. 2016.
    """
    return _OneChannelTarget(DiceLoss(softmax=True, to_onehot_y=True, weight=weight))


def dice_ce(weight: Tensor | None = None) -> nn.Module:
    """The sum of the soft Dice loss and the cross-entropy in nats (MONAI).

    Args:
        weight: (C,) weight of each class; None weighs all alike.
    """
    return _OneChannelTarget(DiceCELoss(softmax=True, to_onehot_y=True, weight=weight))


class _OneChannelTarget(nn.Module):
    """Give MONAI's losses the channel axis that they expect of labels."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        # MONAI's soft sums overflow half precision.
        return self.loss(logits.float(), labels[:, None])
