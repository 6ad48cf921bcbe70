"""Losses of overlap: soft Dice, alone or with the cross-entropy.

The gradient is written out, because it needs the softmax alone. With many classes, what
autograd keeps of every step takes several times the memory and the time.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_SMOOTH = 1e-5
"""What is added to both sides of the fraction: a class that nobody has, and that nobody
finds, has Dice 1."""
_MANY_CLASSES = 16
"""Classes from which on logits in channels_last_3d are read as they lie in memory. With
fewer of them, a softmax over neighbours in memory was measured to be slower."""


def dice(weight: Tensor | None = None) -> nn.Module:
    """1 - soft Dice of the softmax, mean over batch and classes.

    Args:
        weight: (C,) weight of each class; None weighs all alike.

    Source: Milletari et al. 2016.
    """
    return _Overlap(weight, entropy=False)


def dice_ce(weight: Tensor | None = None) -> nn.Module:
    """The sum of the soft Dice loss and the cross-entropy in nats.

    Args:
        weight: (C,) weight of each class in both; None weighs all alike.
    """
    return _Overlap(weight, entropy=True)


class _Overlap(nn.Module):
    """Soft Dice loss, to which the cross-entropy may be added."""

    weight: Tensor | None

    def __init__(self, weight: Tensor | None, *, entropy: bool) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.entropy = entropy

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        # Sums over voxels overflow half precision.
        exact = logits.float() if logits.dtype.itemsize < 4 else logits
        with torch.autocast(logits.device.type, enabled=False):
            value: Tensor = _OverlapFunction.apply(
                exact, labels, self.weight, self.entropy
            )
        return value


class _OverlapFunction(torch.autograd.Function):
    """The loss, and with it its gradient, which takes the place of the softmax.

    For each image and class, let P be the sum of its probabilities over the voxels, H
    that over the voxels where it is true, N their number, and w its weight. It adds
    w (1 - D) / (B C), where D = (2 H + s) / (P + N + s). So its probabilities have the
    derivative b = w D / (B C (P + N + s)), to which a = -2 w / (B C (P + N + s)) is
    added where it is true.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, weight: Tensor | None, entropy: bool
    ) -> Tensor:
        x, truth = logits.flatten(2), labels.flatten(1)
        is_last = logits.shape[1] >= _MANY_CLASSES and logits.is_contiguous(
            memory_format=torch.channels_last_3d
        )
        if is_last:
            x = x.mT
        # Axis of the classes, and that of the voxels.
        of_class, of_voxel = (2, 1) if is_last else (1, 2)
        where = truth.unsqueeze(of_class)
        p = torch.log_softmax(x, of_class)
        log_true = p.gather(of_class, where)
        p = p.exp_()
        true = log_true.exp()

        sums = p.sum(of_voxel).double()
        zeros = torch.zeros_like(sums)
        hits = zeros.scatter_add(1, truth, true.squeeze(of_class).double())
        sizes = zeros.scatter_add(1, truth, zeros.new_ones(1).expand_as(truth))
        bottom = sums + sizes + _SMOOTH
        score = (2 * hits + _SMOOTH) / bottom
        w = torch.ones_like(score[0]) if weight is None else weight.double()
        value = (w * (1 - score)).mean()
        share: Tensor | float = 0.0  # weight of each voxel in the cross-entropy
        if entropy:
            if weight is None:
                share = 1 / truth.numel()
                value = value - log_true.mean()
            else:
                of_true = weight.to(p)[where]
                share = of_true / of_true.sum().clamp_min(weight.max() * 1e-6)
                value = value - (share * log_true).sum()
        if ctx.needs_input_grad[0]:
            b = (w * score / bottom / score.numel()).to(p)
            a = (-2 * w / bottom / score.numel()).to(p)
            at_true = a.gather(1, truth).unsqueeze(of_class) * true
            b = b.unsqueeze(of_voxel)
            mean = (p @ b.mT if is_last else b.mT @ p) + at_true
            p = p.mul_(b - (mean - share))
            p = p.scatter_add_(of_class, where, at_true - share)
            gradient = p.mT if is_last else p
            ctx.save_for_backward(gradient.unflatten(2, logits.shape[2:]))
        return value.to(p)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * given, None, None, None
