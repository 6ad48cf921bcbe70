"""Batch normalisation that is fast on a CPU for any number of channels."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_WIDTH = 512
"""Most channels of a widened image: enough to fill a CPU's vectors, and few enough that
it costs little to put their figures together again."""


class BatchNorm3d(nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d`, faster on a CPU; it differs by rounding only.

    PyTorch's kernels for channels_last_3d go along the channels. Where these do not
    fill a CPU's vectors, they are taken one by one: 8 channels were measured to take
    five times as long as they need. Here neighbouring voxels count as further channels,
    whose figures are put together afterwards.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, I, J, K) channel by channel to (B, C, I, J, K)."""
        n = _voxels_at_once(x) if self._is_usual(x) else 1
        mean, variance = self.running_mean, self.running_var
        if n == 1 or mean is None or variance is None or self.momentum is None:
            return super().forward(x)
        if self.training:
            n_voxels = x.numel() // x.shape[1]
            with torch.no_grad():
                batch_mean, batch_variance = _figures(x, n)
                mean.lerp_(batch_mean, self.momentum)
                unbiased = batch_variance * (n_voxels / (n_voxels - 1))
                variance.lerp_(unbiased, self.momentum)
                assert self.num_batches_tracked is not None
                self.num_batches_tracked.add_(1)
            mean, variance = batch_mean, batch_variance
        y: Tensor = _Normalise.apply(
            x, self.weight, self.bias, mean, variance, self.eps, n, self.training
        )
        return y

    def _is_usual(self, x: Tensor) -> bool:
        """Whether the fast way can be taken; if not, PyTorch's own is."""
        # From a subclass of Tensor, such as MONAI's, `_Normalise` would return what
        # PyTorch counts as a view, which may not be changed in place.
        return (
            type(x) is Tensor
            and x.device.type == "cpu"
            and x.dtype in (torch.float32, torch.bfloat16)
            and x.shape[1:2] == (self.num_features,)
            and x.numel() > 0
            and x.is_contiguous(memory_format=torch.channels_last_3d)
            and self.affine
            and self.weight.dtype == torch.float32
        )


class _Normalise(torch.autograd.Function):
    """(x - mean) / √(variance + eps) · weight + bias.

    of_batch: whether mean and variance are those of x; then the gradient goes through
        them as well.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        eps: float,
        n: int,
        of_batch: bool,
    ) -> Tensor:
        # Copies, because the running figures go on changing.
        mean, variance = mean.repeat(n), variance.repeat(n)
        y = torch.empty_like(x)
        unused = weight.new_empty(0)
        torch.native_batch_norm(
            _widen(x, n),
            weight.repeat(n),
            bias.repeat(n),
            mean,
            variance,
            False,
            0.0,
            eps,
            out=(_widen(y, n), unused, unused.clone()),
        )
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps, ctx.n, ctx.of_batch = eps, n, of_batch
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        n = ctx.n
        weight = weight.repeat(n)
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        wide = _widen(x, n)
        # First the gradient as if mean and variance were constants.
        by_x, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
            _widen(gradient, n),
            wide,
            weight,
            mean,
            variance,
            None,
            None,
            False,
            ctx.eps,
            [True, True, True],
        )
        by_weight, by_bias = by_weight.view(n, -1).sum(0), by_bias.view(n, -1).sum(0)
        if ctx.of_batch:
            # Then the part that goes through them, with z = (x - mean) / σ:
            # -(z · by_weight + by_bias) · weight / (σ · voxels). The forward kernel
            # makes z, because it centres x in float32.
            inverse = torch.rsqrt(variance + ctx.eps)
            factor = -weight * inverse * (x.shape[1] / x.numel())
            slope, offset = factor * by_weight.repeat(n), factor * by_bias.repeat(n)
            by_figures, *_ = torch.native_batch_norm(
                wide, slope, offset, mean, variance, False, 0.0, ctx.eps
            )
            by_x.add_(by_figures)
        b, c, i, j, k = x.shape
        by_x = by_x[0, :, :, 0].t().view(b, i, j, k, c).permute(0, 4, 1, 2, 3)
        return by_x, by_weight, by_bias, *(None,) * 5


def _voxels_at_once(x: Tensor) -> int:
    """How many neighbouring voxels are joined, a power of 2; 1 joins none."""
    n_channels = x.shape[1]
    if n_channels % 16 == 0:
        return 1
    n, n_voxels = 1, x.numel() // n_channels
    while 2 * n * n_channels <= _WIDTH and n_voxels % (2 * n) == 0:
        n *= 2
    return n


def _figures(x: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Means and population variances of the channels of x."""
    wide = _widen(x, n)
    # The two blank tensors only say in which precision the figures are wanted.
    blank = torch.zeros(wide.shape[1])
    means, variances = torch.batch_norm_update_stats(wide, blank, blank.clone(), 0.0)
    means, variances = means.view(n, -1), variances.view(n, -1)
    mean = means.mean(0)
    # The variance within the groups of voxels, plus that between them.
    return mean, variances.mean(0) + (means - mean).square().mean(0)


def _widen(x: Tensor, n: int) -> Tensor:
    """View x (B, C, I, J, K), whose channels are last in memory, with n · C channels.

    Returns: (1, n · C, voxels / n, 1).
    """
    rows = x.permute(0, 2, 3, 4, 1).view(-1, n * x.shape[1])
    return rows.t()[None, :, :, None]
