"""The layers of a draw: they have no randomness left."""

import torch
from torch import Tensor, nn

from nobrainer.bayes.transfer import send


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
        return torch.ops.aten.mkldnn_convolution(x, self.weight, self.bias, *other)


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
