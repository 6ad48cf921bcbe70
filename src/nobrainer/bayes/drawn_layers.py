"""The layers of a draw: they have no randomness left."""

import torch
from torch import Tensor, nn

from nobrainer.bayes.transfer import send

_LANES = 16
"""Channels that oneDNN's convolutions compute at least, with AVX-512."""


class DrawnConv3d(nn.Conv3d):
    """A convolution for inference that takes oneDNN's path at batch size 1 too.

    For float32 and a batch of one with few channels PyTorch picks a path that was
    measured 5 to 10 times slower.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (B, C_in, I, J, K) to (B, C_out, I', J', K')."""
        if isinstance(self.padding, str) or self.padding_mode != "zeros":
            return super().forward(x)
        return self.convolve(x, self.padding)

    def convolve(self, x: Tensor, padding: tuple[int, ...]) -> Tensor:
        """Convolve with another padding than the layer's own.

        Args:
            x: images (B, C_in, I, J, K).
            padding: zeros that are added on both sides of each axis, in voxels.

        Returns: (B, C_out, I', J', K').
        """
        other = padding, self.stride, self.dilation, self.groups
        if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():
            stride, dilation, groups = other[1:]
            return nn.functional.conv3d(
                x,
                self.weight,
                self.bias,
                stride,
                padding,
                dilation,
                groups,
            )
        if self._makes_pairs(x, padding):
            return self._convolve_pairs(x, padding)
        return torch.ops.aten.mkldnn_convolution(x, self.weight, self.bias, *other)

    def _makes_pairs(self, x: Tensor, padding: tuple[int, ...]) -> bool:
        """Whether `_convolve_pairs` can be applied, and is faster."""
        size = self.kernel_size[2]
        voxels = x.shape[-1] + 2 * padding[2] - size + 1
        return (
            # Fewer channels take another of oneDNN's kernels, whose sums have other
            # last digits: windows of even and of odd sides would disagree.
            2 * self.out_channels == _LANES
            # With one channel, writing the result takes most of the time.
            and self.in_channels > 1
            and self.groups == 1
            and size > 1
            and self.stride[2] == self.dilation[2] == 1
            and voxels % 2 == 0
            and torch.backends.cpu.get_cpu_capability() == "AVX512"
        )

    def _convolve_pairs(self, x: Tensor, padding: tuple[int, ...]) -> Tensor:
        """Convolve to pairs of neighbours along the last axis, twice as many channels.

        With few channels half of what is multiplied would be padding. A pair is a step
        of two voxels with a kernel that is one voxel wider, whose first half of the
        channels leaves out the last voxel, and the second half the first. In memory,
        where channels come last, the channels of a pair are those of its two voxels.
        """
        weight = self.weight
        channels, others = len(weight), weight.shape[1:-1]
        wide = weight.new_zeros(2, channels, *others, self.kernel_size[2] + 1)
        wide[0, ..., :-1] = weight
        wide[1, ..., 1:] = weight
        made = torch.ops.aten.mkldnn_convolution(
            x,
            wide.flatten(0, 1).contiguous(memory_format=torch.channels_last_3d),
            None if self.bias is None else self.bias.repeat(2),
            padding,
            (*self.stride[:2], 2),
            self.dilation,
            self.groups,
        )
        pairs = made.movedim(1, -1)
        voxels = pairs.reshape(*pairs.shape[:3], 2 * pairs.shape[3], channels)
        return voxels.movedim(-1, 1)


class ChannelMask(nn.Module):
    """Dropout of one draw: the same channels are off in the whole volume."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.draw(None)

    def draw(self, seed: int | None) -> None:
        """Choose the mask that follows from a seed; None stands for no mask."""
        self._seed = seed
        self._mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Multiply the channels of x (B, C, I, J, K) by the draw's mask.

        Without one x is returned as it is.
        """
        if self._seed is None:
            return x
        if self._mask is None:
            generator = torch.Generator().manual_seed(self._seed)
            keep = torch.rand(x.shape[1], generator=generator) >= self.rate
            self._mask = x.new_empty(len(keep))
            send(keep.to(x.dtype) / (1 - self.rate), self._mask)
        return x * self._mask[:, None, None, None]


class ChannelGate(nn.Module):
    """Gates of one draw: the same factor for a channel in the whole volume."""

    gate: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("gate", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply the channels of x (B, C, I, J, K) by the draw's gates."""
        return x * self.gate[:, None, None, None]
