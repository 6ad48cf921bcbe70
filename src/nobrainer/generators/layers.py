"""Layers of generative adversarial networks.

Source: Karras et al., "Progressive growing of GANs for improved quality, stability,
and variation", ICLR 2018, https://arxiv.org/abs/1710.10196.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.2
"""Slope of the leaky ReLU below 0."""


class EqualConv3d(nn.Module):
    """A convolution with an equalised learning rate.

    Its weights are drawn with standard deviation 1, and multiplied in every pass by
    gain / sqrt(fan-in). So the steps of Adam, which do not depend on the size of the
    gradient, change all layers at the same rate.

    Args:
        in_channels, out_channels: number of channels.
        kernel: voxels of the kernel along each axis, odd; the size of images is kept.
        gain: standard deviation of the output for an input of standard deviation 1.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, gain: float = 2**0.5
    ) -> None:
        super().__init__()
        shape = out_channels, in_channels, kernel, kernel, kernel
        self.weight = nn.Parameter(torch.randn(shape))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.scale = gain / math.sqrt(in_channels * kernel**3)
        self.padding = kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (B, C_in, I, J, K) to (B, C_out, I, J, K)."""
        return F.conv3d(x, self.weight * self.scale, self.bias, padding=self.padding)


class EqualLinear(nn.Module):
    """A linear layer with an equalised learning rate, see `EqualConv3d`.

    Args:
        n_in, n_out: number of features.
        gain: standard deviation of the output for an input of standard deviation 1.
    """

    def __init__(self, n_in: int, n_out: int, gain: float = 2**0.5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in))
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.scale = gain / math.sqrt(n_in)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, n_in) to (B, n_out)."""
        return F.linear(x, self.weight * self.scale, self.bias)


def leaky(x: Tensor) -> Tensor:
    """The leaky ReLU of all these networks."""
    return F.leaky_relu(x, SLOPE)


def pixel_norm(x: Tensor) -> Tensor:
    """Scale the channels of every voxel so that their mean square is 1.

    Args:
        x: features (B, C, ...).
    """
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


def with_deviation(x: Tensor) -> Tensor:
    """Add a channel that says how much the images of a batch differ.

    It holds one number everywhere: the standard deviation over the batch, averaged over
    channels and voxels. By it a critic sees a generator that makes the same image again
    and again.

    Args:
        x: features (B, C, I, J, K).

    Returns: (B, C + 1, I, J, K).
    """
    variance = x.var(0, unbiased=False)
    mean = (variance + 1e-8).sqrt().mean()
    return torch.cat([x, mean.expand(len(x), 1, *x.shape[2:])], 1)


def double(x: Tensor) -> Tensor:
    """Twice the resolution of x (B, C, I, J, K), by nearest neighbour."""
    return F.interpolate(x, scale_factor=2.0)


def halve(x: Tensor, times: int = 1) -> Tensor:
    """Half the resolution of x (B, C, I, J, K), by the mean of 2³ voxels.

    Args:
        x: images or features.
        times: how often.
    """
    return F.avg_pool3d(x, 2**times) if times else x


def as_images(raw: Tensor, n_classes: int) -> Tensor:
    """Channels of a last layer as an image and the shares of its classes.

    Args:
        raw: (B, 1 + n_classes, I, J, K).
        n_classes: number of classes; 0 where images have no labels.

    Returns: the same shape; the first channel as it is, the others with the sum 1.
    """
    if not n_classes:
        return raw
    return torch.cat([raw[:, :1], raw[:, 1:].softmax(1)], 1)


def widths(fmap_base: int, fmap_max: int, n_levels: int) -> Sequence[int]:
    """Number of channels at each level, from the coarsest one.

    It is `fmap_base`, half as many at each finer level, and nowhere more than
    `fmap_max` or fewer than 4.
    """
    return [max(4, min(fmap_base >> level, fmap_max)) for level in range(n_levels)]
